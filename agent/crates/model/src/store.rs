//! The one mutable place: applies changes, makes snapshots.
//!
//! # Who answers for an address
//! - Workloads on another network than the mesh's own answer for none: their addresses may mean something else here.
//! - Host-network workloads answer for none: they share the node's addresses with each other and with the node itself.
//!   They are reached as endpoints of services.
//! - Of several others that claim an address, the newest claim holds it: an address is used again while the pod that
//!   had it lingers. A claim dates from when the workload first had the address, so that an update of the older one
//!   does not win it back; a pod created anew (another `instance`) claims anew. When the holder goes, the newest of
//!   the rest follows.
//! - The same holds among services for virtual addresses. A virtual address precedes a workload's.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::address::AddressKey;
use crate::endpoints::{Placement, ServiceEntry};
use crate::identity::Identity;
use crate::interner;
use crate::policy::Policy;
use crate::service::Service;
use crate::snapshot::{PlaceName, Snapshot};
use crate::workload::Workload;

pub(crate) mod claims;

use claims::{Claimant, Claims};

/// What holds for the whole mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshOptions {
    /// Network of this agent. Workloads of another one are kept, but not reached.
    pub network: Arc<str>,
    /// Namespace whose policies are mesh-wide.
    pub root_namespace: Arc<str>,
    /// Trust domain of the mesh.
    pub trust_domain: Arc<str>,
}

/// One change to the mesh, as a source reports it. Putting what is there already, unchanged, changes nothing.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds a workload, or replaces the one of the same uid.
    PutWorkload(Workload),
    /// Removes the workload of this uid, if there is one.
    RemoveWorkload(Arc<str>),
    /// Adds a service, or replaces the one of the same key.
    PutService(Service),
    /// Removes the service of this key, if there is one.
    RemoveService(Arc<str>),
    /// Adds a policy, or replaces the one of the same key.
    PutPolicy(Policy),
    /// Removes the policy of this key, if there is one.
    RemovePolicy(Arc<str>),
}

/// What applying a batch led to.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The state after the batch. It is the previous one itself (same generation) when nothing changed.
    pub snapshot: Arc<Snapshot>,
    /// Addresses, of workloads and of services, whose resolution may have changed. Each once, in no order.
    pub touched: Vec<IpAddr>,
}

/// Owns the state of the mesh. It has one owner, who publishes what [`Store::apply`] returns.
#[derive(Debug)]
pub struct Store {
    published: Arc<Snapshot>,
    /// Shares everything with `published` except what the batch at hand has changed.
    next: Snapshot,
    workload_claims: Claims<Workload>,
    service_claims: Claims<Service>,
    batch: Batch,
}

/// What is known of the batch at hand.
#[derive(Debug, Default)]
struct Batch {
    number: u64,
    has_changed: bool,
    has_changed_policy: bool,
    touched: Vec<AddressKey>,
    /// Services whose entries have changed, each once.
    services: Vec<Arc<str>>,
}

impl Claimant for Workload {
    fn id(&self) -> &str {
        &self.uid
    }
}

impl Claimant for Service {
    fn id(&self) -> &str {
        &self.key
    }
}

impl Store {
    /// An empty mesh.
    #[must_use]
    pub fn new(mesh: MeshOptions) -> Self {
        let next = Snapshot::empty(mesh);
        Self {
            published: Arc::new(next.clone()),
            next,
            workload_claims: Claims::new(),
            service_claims: Claims::new(),
            batch: Batch::default(),
        }
    }

    /// The state after the last batch.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.published
    }

    /// Applies the changes in order, as one step: readers see all of them or none.
    pub fn apply(&mut self, changes: Vec<Change>) -> Applied {
        self.batch = Batch { number: self.batch.number + 1, ..Batch::default() };
        self.reserve(&changes);
        for change in changes {
            match change {
                Change::PutWorkload(workload) => self.put_workload(workload),
                Change::RemoveWorkload(uid) => self.remove_workload(&uid),
                Change::PutService(service) => self.put_service(service),
                Change::RemoveService(key) => self.remove_service(&key),
                Change::PutPolicy(policy) => self.put_policy(policy),
                Change::RemovePolicy(key) => self.remove_policy(&key),
            }
        }
        self.finish()
    }

    /// Makes room for the first load, so that no map grows step by step.
    fn reserve(&mut self, changes: &[Change]) {
        let (mut workloads, mut services, mut policies) = (0, 0, 0);
        for change in changes {
            match change {
                Change::PutWorkload(_) => workloads += 1,
                Change::PutService(_) => services += 1,
                Change::PutPolicy(_) => policies += 1,
                Change::RemoveWorkload(_) | Change::RemoveService(_) | Change::RemovePolicy(_) => {}
            }
        }
        self.next.workloads.reserve(workloads);
        self.next.workload_addresses.reserve(workloads);
        self.next.services.reserve(services);
        self.next.service_addresses.reserve(services);
        self.next.policies.reserve(policies);
    }

    fn finish(&mut self) -> Applied {
        let batch = std::mem::take(&mut self.batch);
        self.batch.number = batch.number;
        if !batch.has_changed {
            return Applied { snapshot: Arc::clone(&self.published), touched: Vec::new() };
        }
        let mut touched = batch.touched;
        for key in &batch.services {
            let Some(entry) = self.next.services.get_mut(key) else {
                continue;
            };
            let entry = Arc::make_mut(entry);
            entry.seal();
            let addresses = entry.service().into_iter().flat_map(|service| &service.addresses);
            touched.extend(addresses.copied().map(AddressKey::from));
            if entry.is_vacant() {
                self.next.services.remove(key);
            }
        }
        let mut seen = HashSet::with_capacity(touched.len());
        touched.retain(|address| seen.insert(*address));
        self.next.generation += 1;
        self.next.policy_generation += u64::from(batch.has_changed_policy);
        self.published = Arc::new(self.next.clone());
        let touched = touched.into_iter().map(IpAddr::from).collect();
        Applied { snapshot: Arc::clone(&self.published), touched }
    }

    fn put_workload(&mut self, mut workload: Workload) {
        normalize(&mut workload);
        interner::intern_workload(&mut workload);
        let old = self.next.workloads.get(&workload.uid).cloned();
        if old.as_deref() == Some(&workload) {
            return;
        }
        // What is denied or allowed hangs on the namespace and on the policies referred to. A workload that appears
        // with policies may be one that was gone for a while and whose connections were judged by others.
        self.batch.has_changed_policy |= match &old {
            Some(old) => old.policies != workload.policies || old.namespace != workload.namespace,
            None => !workload.policies.is_empty(),
        };
        self.replace_workload(old, Some(Arc::new(workload)));
    }

    fn remove_workload(&mut self, uid: &str) {
        if let Some(old) = self.next.workloads.get(uid).cloned() {
            self.replace_workload(Some(old), None);
        }
    }

    fn replace_workload(&mut self, old: Option<Arc<Workload>>, new: Option<Arc<Workload>>) {
        self.batch.has_changed = true;
        if let Some(old) = &old {
            let placement = self.placement(old);
            for (index, membership) in (0..).zip(&old.services) {
                self.edit_service(&membership.service, |entry| entry.remove(old, index, placement));
            }
        }
        if let Some(new) = &new {
            let placement = self.placement(new);
            for (index, membership) in (0..).zip(&new.services) {
                self.edit_service(&membership.service, |entry| entry.add(new, index, placement));
            }
        }
        let is_anew = old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old.instance != new.instance);
        let (old_addresses, new_addresses) =
            (old.as_ref().map_or(&[][..], |w| self.claimed(w)), new.as_ref().map_or(&[][..], |w| self.claimed(w)));
        self.batch.touched.extend(old_addresses.iter().chain(new_addresses).copied().map(AddressKey::from));
        self.workload_claims.replace(
            &mut self.next.workload_addresses,
            (old.as_ref(), old_addresses),
            (new.as_ref(), new_addresses),
            is_anew,
        );
        match (old, new) {
            (_, Some(new)) => {
                self.next.workloads.insert(new);
            }
            (Some(old), None) => {
                self.next.workloads.remove(&old.uid);
            }
            (None, None) => {}
        }
    }

    fn put_service(&mut self, mut service: Service) {
        canonicalize(&mut service.addresses);
        let identities = service.subject_alt_names.iter_mut().map(Identity::uri_mut);
        interner::share([&mut service.key, &mut service.namespace].into_iter().chain(identities));
        let old = self.next.service(&service.key).cloned();
        if old.as_deref() == Some(&service) {
            return;
        }
        self.replace_service(&service.key.clone(), old, Some(Arc::new(service)));
    }

    fn remove_service(&mut self, key: &Arc<str>) {
        if let Some(old) = self.next.service(key).cloned() {
            self.replace_service(key, Some(old), None);
        }
    }

    fn replace_service(&mut self, key: &Arc<str>, old: Option<Arc<Service>>, new: Option<Arc<Service>>) {
        self.batch.has_changed = true;
        let old_addresses = old.as_ref().map_or(&[][..], |service| &service.addresses);
        let new_addresses = new.as_ref().map_or(&[][..], |service| &service.addresses);
        self.batch.touched.extend(old_addresses.iter().chain(new_addresses).copied().map(AddressKey::from));
        self.service_claims.replace(
            &mut self.next.service_addresses,
            (old.as_ref(), old_addresses),
            (new.as_ref(), new_addresses),
            false,
        );
        self.edit_service(key, |entry| entry.set_service(new));
    }

    fn put_policy(&mut self, policy: Policy) {
        let before = self.next.policies.get(&policy.key).cloned();
        let policy = policy.canonical();
        if before.as_deref() == Some(&policy) {
            return;
        }
        self.batch.has_changed = true;
        self.batch.has_changed_policy |= self.next.policies.put(policy, &self.next.mesh.root_namespace);
    }

    fn remove_policy(&mut self, key: &str) {
        if self.next.policies.remove(key, &self.next.mesh.root_namespace) {
            self.batch.has_changed = true;
            self.batch.has_changed_policy = true;
        }
    }

    /// Changes a service's entry, which is made if there is none.
    fn edit_service(&mut self, key: &Arc<str>, change: impl FnOnce(&mut ServiceEntry)) {
        if self.next.services.get(key).is_none() {
            self.next.services.insert(Arc::new(ServiceEntry::new(Arc::clone(key))));
        }
        let entry = self.next.services.get_mut(key).expect("it was inserted above");
        let entry = Arc::make_mut(entry);
        if entry.batch != self.batch.number {
            entry.batch = self.batch.number;
            self.batch.services.push(Arc::clone(key));
        }
        change(entry);
    }

    fn placement(&mut self, workload: &Workload) -> Placement {
        Placement {
            node: self.place(&workload.node),
            zone: self.place(&workload.locality.zone),
            scatter: self.next.workloads.fingerprint(&workload.uid),
            is_reachable: self.is_reachable(workload),
        }
    }

    fn place(&mut self, name: &Arc<str>) -> u32 {
        let known = self.next.place(name);
        if known != crate::endpoints::UNKNOWN_PLACE || name.is_empty() {
            return known;
        }
        let number = u32::try_from(self.next.places.len()).expect("fewer nodes than addresses") + 1;
        self.next.places.insert(PlaceName { name: Arc::clone(name), number });
        number
    }

    fn is_reachable(&self, workload: &Workload) -> bool {
        workload.network == self.next.mesh.network
    }

    /// The addresses that a workload may answer for.
    fn claimed<'w>(&self, workload: &'w Workload) -> &'w [IpAddr] {
        let answers = self.is_reachable(workload) && !workload.is_host_network;
        if answers { &workload.addresses } else { &[] }
    }
}

/// Gives what sources may write in several ways its one form.
fn normalize(workload: &mut Workload) {
    canonicalize(&mut workload.addresses);
    let mut index = 0;
    while index < workload.services.len() {
        let (before, rest) = workload.services.split_at_mut(index);
        let Some(first) = before.iter_mut().find(|membership| membership.service == rest[0].service) else {
            index += 1;
            continue;
        };
        first.ports.append(&mut rest[0].ports);
        workload.services.remove(index);
    }
    for membership in &mut workload.services {
        let mut index = 0;
        while index < membership.ports.len() {
            let port = membership.ports[index].service_port;
            if membership.ports[..index].iter().any(|mapping| mapping.service_port == port) {
                membership.ports.remove(index);
            } else {
                index += 1;
            }
        }
        membership.ports.shrink_to_fit();
    }
    workload.services.shrink_to_fit();
    workload.policies.shrink_to_fit();
}

fn canonicalize(addresses: &mut Vec<IpAddr>) {
    let mut index = 0;
    while index < addresses.len() {
        addresses[index] = addresses[index].to_canonical();
        if addresses[..index].contains(&addresses[index]) {
            addresses.remove(index);
        } else {
            index += 1;
        }
    }
    addresses.shrink_to_fit();
}

#[cfg(test)]
mod tests;
