//! Discovery on demand, as the workers see it: what was answered, and how to ask.
//!
//! An address that no workload and no service has may be outside the mesh, or not known yet. It is outside only once it
//! was asked for and answered, and for as long as the control plane would tell when that changes.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

/// Addresses that workers may ask for before the owner has looked at them.
const ASKS: usize = 16_384;
/// A change copies one of so many sets.
const SHARDS: usize = 64;

/// What is asked for only when somebody connects there. Workers read it without locks.
pub struct Demand {
    hasher: RandomState,
    answered: Box<[ArcSwap<HashSet<IpAddr>>]>,
    generation: AtomicU64,
    held: AtomicUsize,
    asks: mpsc::Sender<IpAddr>,
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demand").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Demand {
    /// Nothing is answered yet. What workers ask for comes out of the receiver.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::Receiver<IpAddr>) {
        let (asks, receiver) = mpsc::channel(ASKS);
        let demand = Self {
            hasher: RandomState::new(),
            answered: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            generation: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            asks,
        };
        (Arc::new(demand), receiver)
    }

    /// These were answered: what the snapshot in force does not have of them is outside the mesh. Workers are to be
    /// woken afterwards. Only the state's owner may call it, after the publication of all that belongs to the answers.
    pub fn answer(&self, addresses: &[IpAddr]) {
        for address in addresses {
            self.edit(*address, |answered| answered.insert(*address));
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Nothing is known of an address any more. Only the state's owner may call it, before the publication of a snapshot
    /// that lacks what it had, and before it is released.
    pub fn withdraw(&self, address: IpAddr) {
        self.edit(address, |answered| answered.remove(&address));
    }

    /// The addresses that were answered.
    #[must_use]
    pub fn answered(&self) -> Vec<IpAddr> {
        self.answered.iter().flat_map(|shard| shard.load().iter().copied().collect::<Vec<_>>()).collect()
    }

    /// How many connections wait for an answer.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether an address that a snapshot does not have is outside the mesh: if the snapshot was in force at that moment.
    pub(super) fn is_answered(&self, address: IpAddr) -> bool {
        self.shard(address).load().contains(&address)
    }

    /// Has an address asked for. Never waits. `false`: too much is asked for already.
    pub(super) fn ask(&self, address: IpAddr) -> bool {
        self.asks.try_send(address).is_ok()
    }

    /// Moves with every answer.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn began_to_hold(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended_to_hold(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    fn shard(&self, address: IpAddr) -> &ArcSwap<HashSet<IpAddr>> {
        &self.answered[self.hasher.hash_one(address) as usize % SHARDS]
    }

    fn edit(&self, address: IpAddr, change: impl FnOnce(&mut HashSet<IpAddr>) -> bool) {
        let shard = self.shard(address);
        let mut set = HashSet::clone(&shard.load());
        if change(&mut set) {
            shard.store(Arc::new(set));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_answered_until_that_is_withdrawn() {
        let (demand, mut asks) = Demand::new();
        let addresses: Vec<IpAddr> = (0..=255).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let before = demand.generation();
        demand.answer(&addresses);
        assert_ne!(demand.generation(), before);
        demand.withdraw(addresses[7]);
        demand.withdraw([10, 9, 9, 9].into());
        for address in &addresses {
            assert_eq!(demand.is_answered(*address), *address != addresses[7], "{address}");
        }
        assert!(demand.ask(addresses[7]));
        assert_eq!(asks.try_recv(), Ok(addresses[7]));
    }

    #[test]
    fn asking_never_waits() {
        let (demand, _asks) = Demand::new();
        let address = IpAddr::from([10, 0, 0, 1]);
        assert!((0..ASKS).all(|_| demand.ask(address)));
        assert!(!demand.ask(address));
    }
}
