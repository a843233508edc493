//! Noticing that somebody wrote to a folder.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A folder that is watched, where the kernel can. Where it cannot, looking now and then must do.
pub(super) struct Watch {
    folder: PathBuf,
    changed: Arc<Notify>,
    /// What inotify watches: a folder by device and inode, since a path may lead to another one later.
    watched: Option<(RecommendedWatcher, (u64, u64))>,
}

impl Watch {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), changed: Arc::default(), watched: None }
    }

    /// Watches the folder that the path leads to now.
    pub(super) fn renew(&mut self) {
        let Ok(metadata) = std::fs::metadata(&self.folder) else {
            self.watched = None;
            return;
        };
        let inode = (metadata.dev(), metadata.ino());
        if self.watched.as_ref().is_some_and(|(_, watched)| *watched == inode) {
            return;
        }
        let changed = Arc::clone(&self.changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| says_something(event.kind)) {
                changed.notify_one();
            }
        });
        let started = watcher.and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &started {
            tracing::debug!(folder = %self.folder.display(), %error, "the folder cannot be watched");
        }
        self.watched = started.ok().map(|watcher| (watcher, inode));
    }

    /// Completes when something was written, and then nothing for the time of `quiet`, or after `longest`.
    pub(super) async fn settled(&self, quiet: Duration, longest: Duration) {
        self.changed.notified().await;
        let deadline = Instant::now() + longest;
        while Instant::now() < deadline && timeout(quiet, self.changed.notified()).await.is_ok() {}
    }
}

/// Whether an event can mean that a file is another than before. That somebody, this process too, reads files does not.
fn says_something(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
