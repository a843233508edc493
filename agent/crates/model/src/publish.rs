//! How a snapshot gets from the store's owner to the workers.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::snapshot::Snapshot;

/// Holds the current snapshot. Cloning gives another handle to the same cell.
#[derive(Clone, Debug)]
pub struct SnapshotCell {
    current: Arc<ArcSwap<Snapshot>>,
}

impl SnapshotCell {
    /// A cell that holds `snapshot`.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { current: Arc::new(ArcSwap::new(snapshot)) }
    }

    /// Makes `snapshot` the current one.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
    }

    /// The current snapshot, for occasional readers.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A reader with a cache of its own, for one thread that reads often.
    #[must_use]
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader { cache: Cache::new(Arc::clone(&self.current)) }
    }
}

/// Reads a [`SnapshotCell`] at the price of one atomic load while nothing was published.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
}

impl SnapshotReader {
    /// The current snapshot. Compare [`Snapshot::generation`] to learn whether it moved.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.cache.load()
    }
}
