//! The threads of a waypoint: each takes tunnels, and owns all that comes of them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use weft_model::{Balancer, Health, Locality, TunnelProtocol, Workload};
use weft_route::Budget;
use weft_transport::Certificates;

use crate::forward::Place;
use crate::group::Group;
use crate::options::WaypointOptions;
use crate::record::Observe;
use crate::state::StateCell;
use crate::tunnel;
use crate::upstream::Upstreams;

/// Connections that the kernel holds until they are taken.
const BACKLOG: i32 = 4096;
/// After the kernel had no descriptor or memory for a connection, it is asked again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What a waypoint works with.
pub struct WaypointParts {
    /// What it knows.
    pub state: Arc<StateCell>,
    /// Where its certificate comes from. Its identity must be wanted there.
    pub certificates: Arc<Certificates>,
    /// Who is told.
    pub observer: Arc<dyn Observe>,
}

/// How far a waypoint's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// No new tunnels; what is under way may end.
    Draining,
    /// At once.
    Stopped,
}

/// Waits for the end to come.
#[derive(Clone, Debug)]
pub(crate) struct Ending(watch::Receiver<Stage>);

impl Ending {
    /// Completes when work is to be brought to an end. Cancel-safe.
    pub(crate) async fn draining(&mut self) {
        // An error means that the owner is gone, which asks for the same.
        let _ = self.0.wait_for(|stage| *stage >= Stage::Draining).await;
    }

    /// Completes when work is to be dropped. Cancel-safe.
    pub(crate) async fn stopped(&mut self) {
        let _ = self.0.wait_for(|stage| *stage >= Stage::Stopped).await;
    }
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) options: WaypointOptions,
    pub(crate) gateway: String,
    pub(crate) parts: WaypointParts,
    pub(crate) balancer: Balancer,
    /// Stands for a client that the snapshot does not know (yet): it is near to nothing.
    pub(crate) nowhere: Workload,
    stage: watch::Sender<Stage>,
}

/// What belongs to one worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstreams: Upstreams,
    /// Copies of requests on their way to mirrors.
    pub(crate) mirrors: Group,
    pub(crate) mirror_permits: Arc<Semaphore>,
    /// What further attempts there may be, by service and port.
    budgets: Mutex<Budgets>,
}

type Budgets = HashMap<(Arc<str>, u16), Arc<Budget>>;

/// Budgets that are kept; beyond it, those of services without requests are forgotten.
const BUDGETS: usize = 1024;

impl Worker {
    /// The budget of further attempts at a place.
    pub(crate) fn budget(&self, place: &Place) -> Arc<Budget> {
        let key = match place {
            Place::Service(service, port) => (Arc::clone(&service.key), *port),
            Place::Workload(workload, address) => (Arc::clone(&workload.uid), address.port()),
        };
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= BUDGETS && !budgets.contains_key(&key) {
            budgets.retain(|_, budget| budget.active() > 0);
        }
        Arc::clone(budgets.entry(key).or_insert_with(|| Budget::new(Instant::now())))
    }

    pub(crate) fn ending(&self) -> Ending {
        Ending(self.shared.stage.subscribe())
    }
}

/// A running waypoint. Its threads end when it is dropped.
pub struct Waypoint {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
    /// Each thread holds the other end until it has ended.
    ended: watch::Receiver<()>,
}

impl Waypoint {
    /// Starts to take tunnels.
    ///
    /// # Errors
    /// When the address cannot be had, or a thread not be started.
    pub fn start(options: WaypointOptions, parts: WaypointParts) -> io::Result<Self> {
        let mut options = options;
        let mut listeners = Vec::with_capacity(options.workers);
        for _ in 0..options.workers.max(1) {
            let listener = listen(options.address)?;
            // With port 0 all others share the one that the first was given.
            options.address = listener.local_addr()?;
            listeners.push(listener);
        }
        let address = options.address;
        let stage = watch::Sender::new(Stage::Serving);
        let gateway = options.gateway();
        let nowhere = nowhere(&options);
        let shared = Arc::new(Shared { options, gateway, parts, balancer: Balancer::new(), nowhere, stage });
        let (alive, ended) = watch::channel(());
        let mut waypoint = Self { shared, address, threads: Vec::new(), ended };
        let alive = Arc::new(alive);
        for (index, listener) in listeners.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, alive) = (Arc::clone(&waypoint.shared), Arc::clone(&alive));
            let thread = thread::Builder::new().name(format!("weft-worker-{index}")).spawn(move || {
                runtime.block_on(run(shared, listener));
                drop((runtime, alive));
            })?;
            waypoint.threads.push(thread);
        }
        Ok(waypoint)
    }

    /// Where it takes tunnels.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing new, tells clients to go elsewhere, and waits until all that is under way has ended. `false`: the
    /// deadline came first, and what is left will be reset when this is dropped.
    pub async fn drain(&mut self, deadline: Duration) -> bool {
        self.shared.stage.send_if_modified(|stage| std::mem::replace(stage, Stage::Draining) != Stage::Draining);
        // The other ends are dropped with the last thread.
        let ended = async { while self.ended.changed().await.is_ok() {} };
        tokio::time::timeout(deadline, ended).await.is_ok()
    }
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        self.shared.stage.send_replace(Stage::Stopped);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

fn nowhere(options: &WaypointOptions) -> Workload {
    let none = || Arc::<str>::from("");
    Workload {
        uid: none(),
        instance: none(),
        name: none(),
        namespace: none(),
        identity: options.identity.clone(),
        cluster: none(),
        network: none(),
        node: none(),
        addresses: Vec::new(),
        protocol: TunnelProtocol::None,
        is_host_network: false,
        workload_name: none(),
        workload_type: none(),
        canonical_service: none(),
        canonical_revision: none(),
        app: none(),
        version: none(),
        locality: Locality::default(),
        health: Health::Healthy,
        policies: Vec::new(),
        services: Vec::new(),
        waypoint: None,
    }
}

/// One of several listeners on one address; the kernel spreads connections over them.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn run(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a worker cannot wait for connections");
            return;
        }
    };
    let limits = shared.options.limits.clone();
    let worker = Arc::new(Worker {
        upstreams: Upstreams::new(Arc::clone(&shared)),
        mirrors: Group::default(),
        mirror_permits: Arc::new(Semaphore::new(limits.mirrors)),
        budgets: Mutex::default(),
        shared,
    });
    let mut ending = worker.ending();
    let mut tunnels = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ending.draining() => break,
            Some(_) = tunnels.join_next() => {}
            accepted = listener.accept(), if tunnels.len() < limits.tunnels => match accepted {
                Ok((socket, peer)) => {
                    tunnels.spawn(tunnel::serve(Arc::clone(&worker), socket, peer));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    // What the kernel has taken for this listener and nobody has seen is taken, too: closing would reset it.
    while let Ok(Ok((socket, peer))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        tunnels.spawn(tunnel::serve(Arc::clone(&worker), socket, peer));
    }
    drop(listener);
    tokio::select! {
        biased;
        () = ending.stopped() => {}
        () = async { while tunnels.join_next().await.is_some() {} } => {}
    }
}
