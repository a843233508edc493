//! All that there is to tell, of all types, and who follows it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use hashbrown::HashSet;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use weft_model::{Change, Identity};
use weft_route::RouteChange;
use weft_runtime::Shutdown;

use super::authenticate::{Caller, Waypoints};
use super::catalog::{Catalog, Encoded};
use super::residents::{Grants, Residents};
use crate::object::{Kind, ObjectId};
use crate::source::{LARGE_BATCH, Update};
use crate::translate::StatusChange;

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
    pub routes: Catalog,
    /// Gateways that are waypoints.
    waypoints: HashSet<ObjectId>,
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
    Route(Encoded),
    RemoveRoute(Arc<str>),
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
                    self.note_waypoints(update.statuses);
                    self.take_in(update.changes, update.routes).await;
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
        self.take_in(changes, Vec::new()).await;
        self.tell();
    }

    /// Takes changes of routes in, and tells streams at once.
    pub async fn apply_routes(&self, routes: Vec<RouteChange>) {
        self.take_in(Vec::new(), routes).await;
        self.tell();
    }

    /// Of what Gateways are judged, those are waypoints.
    fn note_waypoints(&self, statuses: Vec<StatusChange>) {
        let gateways = statuses.into_iter().filter(|status| status.object.kind == Kind::Gateway);
        let gateways: Vec<StatusChange> = gateways.collect();
        if gateways.is_empty() {
            return;
        }
        let mut state = self.write();
        for StatusChange { object, verdict } in gateways {
            match verdict {
                Some(_) => state.waypoints.insert(object),
                None => state.waypoints.remove(&object),
            };
        }
    }

    async fn take_in(&self, changes: Vec<Change>, routes: Vec<RouteChange>) {
        let is_large = changes.len() >= LARGE_BATCH;
        let mut prepared = Vec::with_capacity(changes.len() + routes.len());
        let prepare_route = |change: RouteChange| match change {
            RouteChange::Put(route) => Prepared::Route(Encoded::route(&route)),
            RouteChange::Remove(key) => Prepared::RemoveRoute(key),
        };
        let changes = changes.into_iter().map(|change| self.prepare(change));
        for (index, change) in changes.chain(routes.into_iter().map(prepare_route)).enumerate() {
            prepared.push(change);
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
    fn is_waypoint(&self, namespace: &str, name: &str) -> bool {
        let id = ObjectId { kind: Kind::Gateway, namespace: namespace.into(), name: name.into() };
        self.waypoints.contains(&id)
    }

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
            Prepared::Route(encoded) => self.routes.put(encoded),
            Prepared::RemoveRoute(key) => self.routes.remove(&key),
        }
    }
}

impl Grants for World {
    fn may_have(&self, caller: &Caller, identity: &Identity) -> Result<(), String> {
        let state = self.read();
        if !state.is_ready {
            return Err("it is not known yet which pods run where".to_owned());
        }
        if !caller.is_waypoint {
            return state.residents.may_have(caller, identity);
        }
        // Its token says whose account it is, and its Gateway may have been deleted since it was reviewed.
        let is_its_own =
            *caller.namespace == *identity.namespace() && *caller.service_account == *identity.service_account();
        if is_its_own && state.is_waypoint(&caller.namespace, &caller.service_account) {
            return Ok(());
        }
        Err(format!("a waypoint may have a certificate of its own alone, and not of {identity}"))
    }
}

impl Waypoints for World {
    fn is_waypoint(&self, namespace: &str, name: &str) -> bool {
        self.read().is_waypoint(namespace, name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::routes::{Said, Verdict};

    #[tokio::test]
    async fn a_waypoint_may_have_its_own_certificate_for_as_long_as_its_gateway_is_there() {
        let world = World::new("net");
        let object = ObjectId { kind: Kind::Gateway, namespace: "shop".into(), name: "edge".into() };
        let edge = |verdict| vec![StatusChange { object: object.clone(), verdict }];
        let identity =
            |namespace: &str, account: &str| Identity::new("cluster.local", namespace, account).expect("valid parts");
        let caller =
            Caller { namespace: "shop".into(), service_account: "edge".into(), is_waypoint: true, ..Caller::default() };
        assert!(world.may_have(&caller, &identity("shop", "edge")).is_err(), "nothing is known yet");
        world.apply(Vec::new()).await;
        assert!(world.may_have(&caller, &identity("shop", "edge")).is_err(), "there is no such Gateway");
        world.note_waypoints(edge(Some(Arc::new(Verdict { generation: None, said: Said::Class(Vec::new()) }))));
        assert_eq!(world.may_have(&caller, &identity("shop", "edge")), Ok(()));
        for other in [identity("shop", "web"), identity("lab", "edge")] {
            assert!(world.may_have(&caller, &other).is_err(), "{other}");
        }
        let agent = Caller { is_waypoint: false, node: "n1".into(), ..caller.clone() };
        assert!(world.may_have(&agent, &identity("shop", "edge")).is_err(), "none runs there");
        world.note_waypoints(edge(None));
        assert!(world.may_have(&caller, &identity("shop", "edge")).is_err(), "it is gone");
    }
}
