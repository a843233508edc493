//! What a waypoint knows of the mesh, and how it is told.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_model::Snapshot;
use weft_route::Routes;

/// The mesh and its routes at one moment. A request reads one, once.
#[derive(Debug)]
pub struct State {
    /// Workloads, services, policies.
    pub snapshot: Arc<Snapshot>,
    /// Routes.
    pub routes: Arc<Routes>,
}

/// Holds the state in force.
#[derive(Debug)]
pub struct StateCell {
    current: ArcSwap<State>,
    moved: watch::Sender<()>,
}

impl StateCell {
    /// A cell that holds `state`.
    #[must_use]
    pub fn new(state: State) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(state), moved: watch::Sender::new(()) })
    }

    /// Puts `state` in force: for requests that begin from now on, and for connections at layer 4 at once, which are
    /// judged again.
    pub fn publish(&self, state: State) {
        self.current.store(Arc::new(state));
        self.moved.send_replace(());
    }

    /// The state in force.
    #[must_use]
    pub fn load(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Moves with every publication.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }
}
