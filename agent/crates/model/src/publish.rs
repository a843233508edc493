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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{pod, store};

    #[test]
    fn every_handle_and_reader_sees_what_was_published_last() {
        let mut store = store();
        let cell = SnapshotCell::new(Arc::clone(store.snapshot()));
        let (mut reader, mut other) = (cell.reader(), cell.clone().reader());
        assert_eq!((reader.load().generation(), cell.load().generation()), (0, 0));
        for generation in 1..4 {
            cell.publish(store.put([pod(&format!("pod-{generation}"), &[])]).snapshot);
            assert_eq!(reader.load().generation(), generation);
        }
        assert_eq!((other.load().generation(), reader.clone().load().generation()), (3, 3));
    }

    #[test]
    fn readers_on_other_threads_see_whole_batches_in_order() {
        let mut store = store();
        let cell = SnapshotCell::new(Arc::clone(store.snapshot()));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let mut reader = cell.reader();
                scope.spawn(move || {
                    let mut last = 0;
                    while last < 300 {
                        let snapshot = reader.load();
                        assert!(snapshot.generation() >= last);
                        last = snapshot.generation();
                        assert_eq!(snapshot.workload_count() as u64, 2 * last);
                        assert_eq!(snapshot.workloads().count() as u64, 2 * last);
                    }
                });
            }
            for n in 0..300 {
                cell.publish(store.put([pod(&format!("a-{n}"), &[]), pod(&format!("b-{n}"), &[])]).snapshot);
            }
        });
    }
}
