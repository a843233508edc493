//! All that there is to tell, of both types, and who follows it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use weft_model::{Change, Identity};
use weft_runtime::Shutdown;

use super::authenticate::Caller;
use super::catalog::{Catalog, Encoded};
use super::residents::{Grants, Residents};
use crate::source::{LARGE_BATCH, Update};

/// While changes come, streams are told of them at most this often; the first after a pause is told at once.
const GATHER: Duration = Duration::from_millis(20);
/// Changes that are encoded before others get their turn.
const BATCH: usize = 512;

/// What there is to tell agents. One source feeds it; any number of servers tell it.
pub struct World {
    network: Arc<str>,
    state: RwLock<State>,
    /// Moves when streams should look again.
    news: watch::Sender<u64>,
    large_changes: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct State {
    pub addresses: Catalog,
    pub policies: Catalog,
    /// The source has spoken: before that, "there is nothing" would be wrong.
    pub is_ready: bool,
    residents: Residents,
}

/// A change as it will be stored. It is made without holding up readers.
enum Prepared {
    Put(Encoded),
    Workload { encoded: Option<Encoded>, uid: Arc<str>, resident: Option<(Arc<str>, Identity)> },
    Policy(Encoded),
    Remove(Arc<str>),
    RemovePolicy(Arc<str>),
}

impl World {
    /// A world of which nothing is known yet. `network` is the one that its addresses belong to.
    #[must_use]
    pub fn new(network: &str) -> Arc<Self> {
        Arc::new(Self {
            network: network.into(),
            state: RwLock::default(),
            news: watch::Sender::new(0),
            large_changes: Arc::default(),
        })
    }

    /// Is notified when so much was taken in at once that the memory it took is worth giving back.
    #[must_use]
    pub fn large_changes(&self) -> Arc<Notify> {
        Arc::clone(&self.large_changes)
    }

    /// Follows a source until it ends or `shutdown` says so.
    pub async fn follow(self: Arc<Self>, mut updates: mpsc::Receiver<Update>, mut shutdown: Shutdown) {
        let mut told = Instant::now() - GATHER;
        let mut has_news = false;
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = tokio::time::sleep_until(told + GATHER), if has_news => {
                    (told, has_news) = (Instant::now(), false);
                    self.tell();
                }
                update = updates.recv() => {
                    let Some(update) = update else { break };
                    self.take_in(update.changes).await;
                    has_news = true;
                }
            }
        }
        if has_news {
            self.tell();
        }
        shutdown.requested().await;
    }

    /// Takes changes in, and tells streams at once.
    pub async fn apply(&self, changes: Vec<Change>) {
        self.take_in(changes).await;
        self.tell();
    }

    async fn take_in(&self, changes: Vec<Change>) {
        let is_large = changes.len() >= LARGE_BATCH;
        let mut prepared = Vec::with_capacity(changes.len());
        for (index, change) in changes.into_iter().enumerate() {
            prepared.push(self.prepare(change));
            if index % BATCH == BATCH - 1 {
                tokio::task::yield_now().await;
            }
        }
        let mut state = self.write();
        for change in prepared {
            state.apply(change);
        }
        state.is_ready = true;
        drop(state);
        if is_large {
            self.large_changes.notify_one();
        }
    }

    fn prepare(&self, change: Change) -> Prepared {
        match change {
            Change::PutWorkload(workload) => Prepared::Workload {
                // Nobody can reach what has no address yet. Its node may have its certificate.
                encoded: (!workload.addresses.is_empty()).then(|| Encoded::workload(&workload, &self.network)),
                resident: Residents::resident(&workload),
                uid: workload.uid,
            },
            Change::PutService(service) => Prepared::Put(Encoded::service(&service, &self.network)),
            Change::PutPolicy(policy) => Prepared::Policy(Encoded::policy(&policy)),
            Change::RemoveWorkload(name) | Change::RemoveService(name) => Prepared::Remove(name),
            Change::RemovePolicy(name) => Prepared::RemovePolicy(name),
        }
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    /// Says when there is something new.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, change: Prepared) {
        match change {
            Prepared::Put(encoded) => self.addresses.put(encoded),
            Prepared::Workload { encoded, uid, resident } => {
                match encoded {
                    Some(encoded) => self.addresses.put(encoded),
                    None => self.addresses.remove(&uid),
                }
                self.residents.set(&uid, resident);
            }
            Prepared::Policy(encoded) => self.policies.put(encoded),
            Prepared::Remove(name) => {
                self.addresses.remove(&name);
                self.residents.set(&name, None);
            }
            Prepared::RemovePolicy(name) => self.policies.remove(&name),
        }
    }
}

impl Grants for World {
    fn may_have(&self, caller: &Caller, identity: &Identity) -> Result<(), String> {
        let state = self.read();
        if !state.is_ready {
            return Err("it is not known yet which pods run where".to_owned());
        }
        state.residents.may_have(caller, identity)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.read();
        f.debug_struct("World")
            .field("addresses", &state.addresses.head())
            .field("policies", &state.policies.head())
            .field("is_ready", &state.is_ready)
            .finish_non_exhaustive()
    }
}
