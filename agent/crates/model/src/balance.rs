//! What balancing remembers between connections.

use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::address::AddressKey;
use crate::endpoints::Endpoint;

/// Locks are taken per shard, so that workers rarely meet.
const SHARDS: usize = 64;

/// Clients remembered per shard.
const SHARD_CAPACITY: usize = 1024;

/// Clients forgotten at once when a shard is full.
const EVICTED: usize = SHARD_CAPACITY / 8;

/// What balancing remembers between connections: which endpoint a client address is bound to
/// (`sessionAffinity: ClientIP`). Shared by all workers, and by all snapshots.
///
/// It remembers at most [`Balancer::CAPACITY`] pairs of client and service port. Beyond that some of those that have
/// been idle longest are forgotten, and their clients are given endpoints anew.
///
/// The turns of the round robin are not here but with the endpoints, where they need no look-up.
pub struct Balancer {
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    hasher: DefaultHashBuilder,
    shards: Box<[Mutex<HashTable<Bond>>]>,
}

/// A client that is bound to an endpoint.
#[derive(Debug)]
struct Bond {
    service: Arc<str>,
    port: u16,
    client: AddressKey,
    uid: Arc<str>,
    instance: Arc<str>,
    last_used: Instant,
    timeout: Duration,
}

/// Who is to be bound, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affinity<'a> {
    pub(crate) service: &'a Arc<str>,
    pub(crate) port: u16,
    pub(crate) client: IpAddr,
    pub(crate) timeout: Duration,
}

impl Balancer {
    /// How many bonds are remembered.
    pub const CAPACITY: usize = SHARDS * SHARD_CAPACITY;

    /// A balancer that uses the system's monotonic clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Instant::now)
    }

    /// A balancer that asks `clock` for the time. It is asked only for services with session affinity.
    pub fn with_clock(clock: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self {
            clock: Box::new(clock),
            hasher: DefaultHashBuilder::default(),
            shards: (0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect(),
        }
    }

    /// How many bonds are remembered now, those that have run out included.
    #[must_use]
    pub fn bonds(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// The endpoint that the client is bound to, if the bond has not run out and `find` still knows the endpoint of
    /// that uid and instance; else what `choose` returns, to which the client is bound from then on. Each call begins
    /// the time-out anew.
    pub(crate) fn stick<'e>(
        &self,
        affinity: Affinity<'_>,
        find: impl FnOnce(&str, &str) -> Option<&'e Endpoint>,
        choose: impl FnOnce() -> &'e Endpoint,
    ) -> &'e Endpoint {
        let Affinity { service, port, client, timeout } = affinity;
        let client = AddressKey::from(client);
        let now = (self.clock)();
        let hash = self.hasher.hash_one((&**service, port, client));
        // The table takes its positions from the low bits, which must therefore not choose the shard as well.
        let shard = (hash >> 32) as usize % SHARDS;
        // The choice is made under the lock: two connections that a client opens at once must not be told apart.
        let mut bonds = lock(&self.shards[shard]);
        let is_it = |bond: &Bond| bond.client == client && bond.port == port && bond.service == *service;
        if let Some(bond) = bonds.find_mut(hash, is_it) {
            let is_live = now.saturating_duration_since(bond.last_used) < timeout;
            let endpoint = is_live.then(|| find(&bond.uid, &bond.instance)).flatten().unwrap_or_else(choose);
            let workload = endpoint.workload();
            bond.uid = Arc::clone(&workload.uid);
            bond.instance = Arc::clone(&workload.instance);
            bond.last_used = now;
            bond.timeout = timeout;
            return endpoint;
        }
        let endpoint = choose();
        let workload = endpoint.workload();
        make_room(&mut bonds, now);
        let bond = Bond {
            service: Arc::clone(service),
            port,
            client,
            uid: Arc::clone(&workload.uid),
            instance: Arc::clone(&workload.instance),
            last_used: now,
            timeout,
        };
        bonds.insert_unique(hash, bond, |bond| self.hasher.hash_one((&*bond.service, bond.port, bond.client)));
        endpoint
    }
}

/// Once the shard is full, drops bonds that have run out, and if there is none those used longest ago: several at
/// once, since looking for them means looking at all.
fn make_room(bonds: &mut HashTable<Bond>, now: Instant) {
    if bonds.len() < SHARD_CAPACITY {
        return;
    }
    bonds.retain(|bond| now.saturating_duration_since(bond.last_used) < bond.timeout);
    if bonds.len() < SHARD_CAPACITY {
        return;
    }
    let mut times: Vec<Instant> = bonds.iter().map(|bond| bond.last_used).collect();
    let (_, newest, _) = times.select_nth_unstable(EVICTED - 1);
    let mut left = EVICTED;
    bonds.retain(|bond| {
        let goes = left > 0 && bond.last_used <= *newest;
        left -= usize::from(goes);
        !goes
    });
}

/// Nothing is left half done by a panic under the lock: a bond is written after its endpoint was chosen.
fn lock(shard: &Mutex<HashTable<Bond>>) -> MutexGuard<'_, HashTable<Bond>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Balancer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer").field("bonds", &self.bonds()).finish_non_exhaustive()
    }
}
