//! The file source: a folder of manifests, watched. The other one, [`kubernetes`], watches an API server.
//!
//! The folder's own `*.yaml`, `*.yml` and `*.json` files are read, those of folders inside it are not: a mounted
//! ConfigMap keeps its versions in such folders. What is wrong is reported, and what was right before stays in force:
//! a file that cannot be parsed keeps all of its objects, and an object that is invalid keeps its last valid version.

mod folder;
pub mod kubernetes;
mod ownership;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

pub(crate) use folder::Folder;
pub(crate) use ownership::Origin;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use watch::{Watch, Watcher};
use weft_model::{Change, Identity, IdentityError};
use weft_route::RouteChange;

use crate::manifest::Scrutiny;
use crate::problem::Problem;
use crate::translate::{LocalPod, ObjectCounts, StatusChange, TranslationOptions, Translator};

/// From this many changes on a batch is so large that the memory it took is worth giving back.
pub(crate) const LARGE_BATCH: usize = 1000;

/// How to read a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOptions {
    /// The folder.
    pub dir: PathBuf,
    /// How its objects become the model's.
    pub translation: TranslationOptions,
    /// After a change, how long nothing else must change before the folder is read. Default: 50 ms.
    pub debounce: Duration,
    /// How often the folder is looked at although nothing was reported, for what inotify does not see: a folder that
    /// was replaced, files that are links to elsewhere. Default: 5 s. Where inotify does not work at all, at most
    /// 500 ms.
    pub poll: Duration,
}

impl SourceOptions {
    /// The defaults for a folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, translation: TranslationOptions) -> Self {
        Self { dir: dir.into(), translation, debounce: Duration::from_millis(50), poll: Duration::from_secs(5) }
    }
}

/// What the source says now.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// What is other than in the last update. To be applied as one batch.
    pub changes: Vec<Change>,
    /// What is other of the routes. To be applied behind the changes.
    pub routes: Vec<RouteChange>,
    /// Statuses of routes, Gateways and their classes that should be other ones.
    pub statuses: Vec<StatusChange>,
    /// All pods of this node, in the order of their names.
    pub local_pods: Vec<LocalPod>,
    /// Of a cluster's node: all namespaces, sorted, and whether their label takes pods into the mesh.
    pub namespaces: Vec<(Arc<str>, bool)>,
    /// All that is wrong with what was read.
    pub problems: Vec<Problem>,
    /// How many objects are in force.
    pub objects: ObjectCounts,
}

/// Why a folder cannot be a source.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The folder cannot be read.
    #[error("reading the folder {dir} of the configuration failed: {error}: is the path right, and may this user read it?", dir = .dir.display())]
    Unreadable {
        /// The folder.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The trust domain is none.
    #[error("the trust domain '{trust_domain}' cannot be used: {error}")]
    TrustDomain {
        /// The trust domain.
        trust_domain: String,
        /// Why.
        error: IdentityError,
    },
    /// No thread could be started.
    #[error("starting the thread that reads the configuration failed: {0}")]
    Thread(io::Error),
}

/// A folder that is being watched by a thread of its own. The thread ends when this is dropped, or when the receiver
/// of its updates is.
#[derive(Debug)]
pub struct FileSource {
    watch: Watch,
    thread: Option<JoinHandle<()>>,
}

impl FileSource {
    /// Starts to read and watch a folder. The first update comes as soon as the folder has been read, and says all;
    /// each later one says what changed. A receiver that falls behind holds the source up, and misses nothing.
    ///
    /// # Errors
    /// When the folder cannot be read now. Later it may come and go.
    pub fn start(options: SourceOptions) -> Result<(Self, mpsc::Receiver<Update>), SourceError> {
        check(&options.dir, &options.translation)?;
        let (watch, watcher) = watch::new(&options.dir);
        let (sender, receiver) = mpsc::channel(4);
        let thread = thread::Builder::new().name("weft-files".to_owned()).spawn(move || {
            Reader {
                folder: Folder::new(&options.dir, Scrutiny::Normal),
                translator: Translator::new(options.translation.clone()),
                watcher,
                options,
                sent: Sent::default(),
            }
            .run(&sender);
        });
        let thread = Some(thread.map_err(SourceError::Thread)?);
        Ok((Self { watch, thread }, receiver))
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.watch.stop();
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Whether there is any hope.
pub(crate) fn check(dir: &Path, translation: &TranslationOptions) -> Result<(), SourceError> {
    std::fs::read_dir(dir).map_err(|error| SourceError::Unreadable { dir: dir.to_owned(), error })?;
    let trust_domain = &translation.trust_domain;
    Identity::new(trust_domain, "namespace", "account")
        .map_err(|error| SourceError::TrustDomain { trust_domain: trust_domain.clone(), error })?;
    Ok(())
}

/// What the thread owns.
struct Reader {
    options: SourceOptions,
    folder: Folder,
    translator: Translator,
    watcher: Watcher,
    sent: Sent,
}

/// What a source has changed since its last update.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub changes: Vec<Change>,
    routes: Vec<RouteChange>,
    statuses: Vec<StatusChange>,
}

impl Changes {
    /// What the translation has changed.
    pub fn of(translator: &mut Translator) -> Self {
        let changes = translator.flush();
        let routes = translator.flush_routes();
        Self { changes, routes, statuses: translator.flush_statuses() }
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.routes.is_empty() && self.statuses.is_empty()
    }

    /// So many that the memory they took is worth giving back.
    pub fn are_many(&self) -> bool {
        self.changes.len() >= LARGE_BATCH
    }
}

/// The last update of a source, without its changes.
#[derive(Debug, Default)]
struct Sent(Option<Update>);

impl Sent {
    /// The next update, if it has anything to say.
    fn news(&mut self, changes: Changes, state: Update) -> Option<Update> {
        let is_news = self.0.as_ref().is_none_or(|sent| {
            !changes.is_empty()
                || sent.local_pods != state.local_pods
                || sent.namespaces != state.namespaces
                || sent.problems != state.problems
                || sent.objects != state.objects
        });
        is_news.then(|| {
            self.0 = Some(state.clone());
            let Changes { changes, routes, statuses } = changes;
            Update { changes, routes, statuses, ..state }
        })
    }
}

impl Reader {
    fn run(mut self, sender: &mpsc::Sender<Update>) {
        loop {
            // Watching first: what changes while the folder is read is reported.
            let blindness = self.watcher.renew();
            self.folder.read(&mut self.translator);
            if let Some(update) = self.update(blindness)
                && !self.send(sender, update)
            {
                return;
            }
            let poll = if self.folder.is_unsettled() { watch::SETTLING } else { self.options.poll };
            if !self.watcher.wait(poll, self.options.debounce) {
                return;
            }
        }
    }

    /// What there is to say, if anything.
    fn update(&mut self, blindness: Option<Problem>) -> Option<Update> {
        let changes = Changes::of(&mut self.translator);
        if changes.are_many() {
            self.translator.trim();
        }
        let (local_pods, notes) = self.translator.local_pods();
        let mut problems = self.folder.problems();
        problems.extend(notes.into_iter().map(|(object, note)| {
            let Origin { file, line } = self.folder.origin(&object).unwrap_or_default();
            note.at(file, line, Some(object))
        }));
        problems.extend(blindness);
        let state = Update { local_pods, problems, objects: self.translator.counts(), ..Update::default() };
        self.sent.news(changes, state)
    }

    /// Hands an update over. `false`: there is nobody to hand it to, or no time.
    fn send(&mut self, sender: &mpsc::Sender<Update>, mut update: Update) -> bool {
        loop {
            match sender.try_send(mem::take(&mut update)) {
                Ok(()) => return true,
                Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(back)) => update = back,
            }
            if !self.watcher.pause() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
