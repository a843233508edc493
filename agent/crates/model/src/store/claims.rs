//! Who answers for an address that several claim.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::address::AddressKey;
use crate::sharded::{Keyed, ShardedMap};

/// Something that has addresses.
pub(crate) trait Claimant {
    /// What tells it from others; an updated one has the same.
    fn id(&self) -> &str;
}

/// An address and who answers for it.
#[derive(Debug)]
pub(crate) struct Holder<T> {
    address: AddressKey,
    pub(crate) owner: Arc<T>,
}

impl<T> Clone for Holder<T> {
    fn clone(&self) -> Self {
        Self { address: self.address, owner: Arc::clone(&self.owner) }
    }
}

impl<T> Keyed for Holder<T> {
    type Key = AddressKey;

    fn key(&self) -> &AddressKey {
        &self.address
    }
}

/// Those who claim an address that a newer claimant holds. The holders themselves are in the snapshot.
#[derive(Debug)]
pub(super) struct Claims<T> {
    /// Oldest first.
    outdone: HashMap<AddressKey, Vec<Arc<T>>>,
}

impl<T: Claimant> Claims<T> {
    pub(super) fn new() -> Self {
        Self { outdone: HashMap::new() }
    }

    /// Brings the claims of one claimant from `old` to `new`. Addresses that it had stay claimed as of then, unless
    /// `is_anew`; others are claimed as of now.
    pub(super) fn replace(
        &mut self,
        holders: &mut ShardedMap<Holder<T>>,
        (old, old_addresses): (Option<&Arc<T>>, &[IpAddr]),
        (new, new_addresses): (Option<&Arc<T>>, &[IpAddr]),
        is_anew: bool,
    ) {
        if let Some(old) = old {
            for address in old_addresses.iter().filter(|address| is_anew || !new_addresses.contains(address)) {
                self.release(holders, (*address).into(), old.id());
            }
        }
        let Some(new) = new else { return };
        for address in new_addresses {
            let is_known = old_addresses.contains(address) && !is_anew;
            if is_known {
                self.renew(holders, (*address).into(), new);
            } else {
                self.claim(holders, (*address).into(), new);
            }
        }
    }

    fn claim(&mut self, holders: &mut ShardedMap<Holder<T>>, address: AddressKey, owner: &Arc<T>) {
        if let Some(before) = holders.insert(Holder { address, owner: Arc::clone(owner) }) {
            self.outdone.entry(address).or_default().push(before.owner);
        }
    }

    fn renew(&mut self, holders: &mut ShardedMap<Holder<T>>, address: AddressKey, owner: &Arc<T>) {
        if holders.get(&address).is_some_and(|holder| holder.owner.id() == owner.id()) {
            holders.insert(Holder { address, owner: Arc::clone(owner) });
            return;
        }
        let others = self.outdone.get_mut(&address).into_iter().flatten();
        for other in others.filter(|other| other.id() == owner.id()) {
            *other = Arc::clone(owner);
        }
    }

    fn release(&mut self, holders: &mut ShardedMap<Holder<T>>, address: AddressKey, id: &str) {
        let is_holder = holders.get(&address).is_some_and(|holder| holder.owner.id() == id);
        let outdone = self.outdone.get_mut(&address);
        match (is_holder, outdone) {
            (true, None) => {
                holders.remove(&address);
            }
            (true, Some(outdone)) => {
                let owner = outdone.pop().expect("an empty list is removed");
                holders.insert(Holder { address, owner });
            }
            (false, None) => {}
            (false, Some(outdone)) => outdone.retain(|other| other.id() != id),
        }
        if self.outdone.get(&address).is_some_and(Vec::is_empty) {
            self.outdone.remove(&address);
        }
    }
}
