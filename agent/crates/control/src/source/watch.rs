//! Noticing that a folder changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::problem::{Problem, Severity};

/// A file that changed so short a time ago may change again without its time stamps showing it.
pub(super) const SETTLING: Duration = Duration::from_millis(100);
/// How often a folder is looked at that cannot be watched.
const BLIND_POLL: Duration = Duration::from_millis(500);
/// How long to wait for a receiver that has fallen behind before looking again.
const PAUSE: Duration = Duration::from_millis(10);

/// The owner's end: it ends the watching.
#[derive(Debug)]
pub(super) struct Watch {
    is_stopped: Arc<AtomicBool>,
    wake: SyncSender<()>,
}

/// The watching end.
pub(super) struct Watcher {
    dir: PathBuf,
    is_stopped: Arc<AtomicBool>,
    wake: SyncSender<()>,
    woken: Receiver<()>,
    /// What inotify watches: a folder by device and inode, since a path may lead to another one later.
    watched: Option<(RecommendedWatcher, (u64, u64))>,
}

pub(super) fn new(dir: &Path) -> (Watch, Watcher) {
    // One wake-up that waits is enough: it says that there is something to look at.
    let (wake, woken) = sync_channel(1);
    let is_stopped = Arc::new(AtomicBool::new(false));
    let watch = Watch { is_stopped: Arc::clone(&is_stopped), wake: wake.clone() };
    let watcher = Watcher { dir: dir.to_owned(), is_stopped, wake, woken, watched: None };
    (watch, watcher)
}

impl Watch {
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        // It fails when a wake-up waits already.
        let _ = self.wake.try_send(());
    }
}

impl Watcher {
    /// Watches the folder that the path leads to now, and says so if it cannot be watched.
    pub fn renew(&mut self) -> Option<Problem> {
        let Ok(metadata) = std::fs::metadata(&self.dir) else {
            // That the folder is gone is said by whoever reads it.
            self.watched = None;
            return None;
        };
        let inode = (metadata.dev(), metadata.ino());
        if self.watched.as_ref().is_some_and(|(_, watched)| *watched == inode) {
            return None;
        }
        let wake = self.wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| !says_something(event.kind)) {
                return;
            }
            let _ = wake.try_send(());
        });
        let started = watcher.and_then(|mut watcher| {
            watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match started {
            Ok(watcher) => {
                self.watched = Some((watcher, inode));
                None
            }
            Err(error) => {
                self.watched = None;
                Some(Problem {
                    severity: Severity::Warning,
                    file: Some(self.dir.as_path().into()),
                    line: None,
                    object: None,
                    field: None,
                    message: format!("cannot be watched ({error}): changes are found by looking twice a second"),
                    suggestion: Some("raise the limits fs.inotify.max_user_watches and max_user_instances".to_owned()),
                })
            }
        }
    }

    /// Waits until something changed and then nothing for the time of `debounce`, or until `poll` is over. `false`: it
    /// is time to end.
    pub fn wait(&self, poll: Duration, debounce: Duration) -> bool {
        let poll = if self.watched.is_some() { poll } else { poll.min(BLIND_POLL) };
        if self.woken.recv_timeout(poll) != Err(RecvTimeoutError::Timeout) {
            // A folder that never rests is read nevertheless.
            let deadline = Instant::now() + debounce * 10;
            while !self.is_stopped() && Instant::now() < deadline && self.woken.recv_timeout(debounce).is_ok() {}
        }
        !self.is_stopped()
    }

    /// A short wait. `false`: it is time to end.
    pub fn pause(&self) -> bool {
        let woken = self.woken.recv_timeout(PAUSE);
        if woken.is_ok() && !self.is_stopped() {
            // What changed must not be forgotten. The channel is empty unless it changed again.
            let _ = self.wake.try_send(());
            std::thread::sleep(PAUSE);
        }
        !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }
}

/// Whether an event can mean that a file is another than before. That somebody, this process too, opens and reads
/// files does not.
fn says_something(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
