//! Pods, and how they are found.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use weft_model::Change;

use super::Translator;
use super::namespaces::{NamespaceId, TemplateId, TemplateState};
use super::slab::{Id, Slab};
use crate::object::{Pod, PodTemplate};

pub(crate) type PodId = Id<Box<PodState>>;

/// All pods, found by name and by address.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    slab: Slab<Box<PodState>>,
    /// Four bytes a pod: the names are those of the pods themselves.
    by_name: HashTable<PodId>,
    /// One entry for each address of each pod.
    by_address: HashTable<AddressOf>,
    hasher: DefaultHashBuilder,
    /// Those of this node.
    pub local: BTreeSet<PodId>,
}

/// One pod.
#[derive(Debug)]
pub(crate) struct PodState {
    pub pod: Pod,
    pub namespace: NamespaceId,
    pub template: TemplateId,
    /// The next flush looks at it.
    pub is_touched: bool,
    /// The model has a workload of it.
    pub is_published: bool,
}

/// One address of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressOf {
    pod: PodId,
    index: u32,
}

impl AddressOf {
    fn address(self, pods: &Slab<Box<PodState>>) -> IpAddr {
        pods[self.pod].pod.addresses[self.index as usize]
    }

    fn hash(self, pods: &Slab<Box<PodState>>, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one(self.address(pods))
    }
}

impl Pods {
    pub fn find(&self, namespace: NamespaceId, name: &str) -> Option<PodId> {
        let found = self.by_name.find(self.hasher.hash_one((namespace, name)), |id| {
            let state = &self.slab[*id];
            state.namespace == namespace && &*state.pod.name == name
        });
        found.copied()
    }

    /// The pods that have this address.
    pub fn with_address(&self, address: IpAddr) -> impl Iterator<Item = PodId> {
        let candidates = self.by_address.iter_hash(self.hasher.hash_one(address));
        candidates.filter(move |entry| entry.address(&self.slab) == address).map(|entry| entry.pod)
    }

    pub fn get(&self, id: PodId) -> &PodState {
        &self.slab[id]
    }

    pub fn get_mut(&mut self, id: PodId) -> &mut PodState {
        &mut self.slab[id]
    }

    pub fn iter(&self) -> impl Iterator<Item = (PodId, &PodState)> {
        self.slab.iter().map(|(id, state)| (id, &**state))
    }

    fn insert(&mut self, state: PodState) -> PodId {
        let hash = self.hasher.hash_one((state.namespace, &*state.pod.name));
        let id = self.slab.insert(Box::new(state));
        let (slab, hasher) = (&self.slab, &self.hasher);
        self.by_name.insert_unique(hash, id, |id| {
            let state = &slab[*id];
            hasher.hash_one((state.namespace, &*state.pod.name))
        });
        self.insert_addresses(id);
        id
    }

    fn remove(&mut self, id: PodId) -> PodState {
        self.remove_addresses(id);
        self.local.remove(&id);
        let state = self.slab.remove(id);
        let hash = self.hasher.hash_one((state.namespace, &*state.pod.name));
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        *state
    }

    fn insert_addresses(&mut self, id: PodId) {
        let (slab, hasher) = (&self.slab, &self.hasher);
        for index in 0..slab[id].pod.addresses.len() {
            let entry = AddressOf { pod: id, index: index as u32 };
            self.by_address.insert_unique(entry.hash(slab, hasher), entry, |entry| entry.hash(slab, hasher));
        }
    }

    fn remove_addresses(&mut self, id: PodId) {
        for index in 0..self.slab[id].pod.addresses.len() {
            let entry = AddressOf { pod: id, index: index as u32 };
            let hash = entry.hash(&self.slab, &self.hasher);
            if let Ok(found) = self.by_address.find_entry(hash, |other| *other == entry) {
                found.remove();
            }
        }
    }

    pub fn shrink(&mut self) {
        self.slab.shrink();
    }
}

impl Translator {
    pub(crate) fn put_pod(&mut self, mut pod: Pod) {
        pod.template = self.interner.adopt(&pod.template);
        pod.namespace = self.interner.text(&pod.namespace);
        pod.node = self.interner.text(&pod.node);
        let is_local = !self.options.node.is_empty() && *pod.node == *self.options.node;
        if !is_local {
            // Only the pod's own agent has a use for it.
            pod.netns = None;
        }
        let namespace = self.namespace(&pod.namespace);
        let id = match self.pods.find(namespace, &pod.name) {
            Some(id) if self.pods.get(id).pod == pod => return,
            Some(id) => {
                self.replace_pod(id, pod);
                id
            }
            None => {
                let template = self.enter_template(namespace, &pod.template);
                let id =
                    self.pods.insert(PodState { pod, namespace, template, is_touched: false, is_published: false });
                self.namespaces.templates[template].pods.push(id);
                self.counts.pods += 1;
                self.touch_endpoints_of(id);
                id
            }
        };
        if is_local {
            self.pods.local.insert(id);
        } else {
            self.pods.local.remove(&id);
        }
        self.touch_pod(id);
    }

    fn replace_pod(&mut self, id: PodId, pod: Pod) {
        // Endpoints lead to it by its addresses, those that it had and those that it gets.
        self.touch_endpoints_of(id);
        let state = self.pods.get(id);
        if !Arc::ptr_eq(&state.pod.template, &pod.template) {
            let (namespace, old) = (state.namespace, state.template);
            self.leave_template(old, id);
            let template = self.enter_template(namespace, &pod.template);
            self.namespaces.templates[template].pods.push(id);
            self.pods.get_mut(id).template = template;
        }
        self.pods.remove_addresses(id);
        self.pods.get_mut(id).pod = pod;
        self.pods.insert_addresses(id);
        self.touch_endpoints_of(id);
    }

    pub(crate) fn remove_pod(&mut self, namespace: NamespaceId, name: &str) {
        let Some(id) = self.pods.find(namespace, name) else {
            return;
        };
        self.touch_endpoints_of(id);
        self.leave_template(self.pods.get(id).template, id);
        let state = self.pods.remove(id);
        self.gateways_are_stale |= state.pod.template.is_waypoint;
        if state.is_published {
            self.pending.removals.push(Change::RemoveWorkload(self.pod_uid(&state.pod)));
        }
        if state.is_touched {
            self.pending.pods.retain(|other| *other != id);
        }
        self.counts.pods -= 1;
    }

    /// The next flush looks at this pod.
    pub(crate) fn touch_pod(&mut self, id: PodId) {
        let state = self.pods.get_mut(id);
        self.gateways_are_stale |= state.pod.template.is_waypoint;
        if !state.is_touched {
            state.is_touched = true;
            self.pending.pods.push(id);
        }
    }

    /// Where pods of this template stand; a new one is matched with every selector of its namespace.
    fn enter_template(&mut self, namespace: NamespaceId, template: &Arc<PodTemplate>) -> TemplateId {
        if let Some(id) = self.namespaces.template(namespace, template) {
            return id;
        }
        let services = self.namespaces[namespace].services.values().copied();
        let matching = services.filter(|service| self.services[*service].selects(template)).collect();
        let id = self.namespaces.add_template(TemplateState {
            template: Arc::clone(template),
            namespace,
            pods: Vec::new(),
            services: matching,
            policies: Vec::new(),
            is_stale: false,
        });
        self.stale_template(id);
        id
    }

    fn leave_template(&mut self, id: TemplateId, pod: PodId) {
        let state = &mut self.namespaces.templates[id];
        if let Some(position) = state.pods.iter().position(|other| *other == pod) {
            state.pods.swap_remove(position);
        }
        if state.pods.is_empty() {
            self.namespaces.remove_template(id);
            self.pending.templates.retain(|other| *other != id);
        }
    }
}
