//! EndpointSlices, and which pods or addresses they lead to.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashSet, HashTable};

use super::Translator;
use super::namespaces::NamespaceId;
use super::pods::PodId;
use super::slab::{Id, Slab};
use crate::object::{Endpoint, EndpointSlice};

pub(crate) type SliceId = Id<SliceState>;

/// All EndpointSlices.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    slab: Slab<SliceState>,
    by_name: HashMap<(NamespaceId, Arc<str>), SliceId>,
    by_service: HashMap<(NamespaceId, Arc<str>), Vec<SliceId>>,
    /// One entry for each address of each endpoint.
    by_address: HashTable<AddressOf>,
    /// The endpoints that name a pod.
    by_pod: HashTable<EndpointId>,
    hasher: DefaultHashBuilder,
}

/// One slice.
#[derive(Debug)]
pub(crate) struct SliceState {
    pub slice: EndpointSlice,
    pub namespace: NamespaceId,
}

/// One endpoint of one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndpointId {
    pub slice: SliceId,
    index: u32,
}

/// One address of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressOf {
    endpoint: EndpointId,
    index: u32,
}

impl Slices {
    pub fn get(&self, id: SliceId) -> &SliceState {
        &self.slab[id]
    }

    pub fn iter(&self) -> impl Iterator<Item = &SliceState> {
        self.slab.iter().map(|(_, state)| state)
    }

    pub fn endpoint(&self, id: EndpointId) -> &Endpoint {
        &self.slab[id.slice].slice.endpoints[id.index as usize]
    }

    /// The slices of a service.
    pub fn of_service(&self, namespace: NamespaceId, service: &Arc<str>) -> &[SliceId] {
        self.by_service.get(&(namespace, Arc::clone(service))).map_or(&[], Vec::as_slice)
    }

    /// The endpoints with this address, of any namespace.
    pub fn with_address(&self, address: IpAddr) -> impl Iterator<Item = EndpointId> {
        let candidates = self.by_address.iter_hash(self.hasher.hash_one(address));
        candidates.filter(move |entry| self.address(**entry) == address).map(|entry| entry.endpoint)
    }

    /// The endpoints that name this pod.
    pub fn naming(&self, namespace: NamespaceId, pod: &str) -> impl Iterator<Item = EndpointId> {
        let candidates = self.by_pod.iter_hash(self.hasher.hash_one((namespace, pod))).copied();
        candidates.filter(move |id| {
            self.slab[id.slice].namespace == namespace && self.endpoint(*id).pod.as_deref() == Some(pod)
        })
    }

    /// Addresses of the endpoints on these nodes.
    pub fn addresses_on(&self, nodes: &HashSet<Arc<str>>) -> Vec<(NamespaceId, IpAddr)> {
        let endpoints =
            self.slab.iter().flat_map(|(_, state)| state.slice.endpoints.iter().map(|e| (state.namespace, e)));
        let there = endpoints.filter(|(_, endpoint)| nodes.contains(&endpoint.node));
        there.flat_map(|(namespace, endpoint)| endpoint.addresses.iter().map(move |a| (namespace, *a))).collect()
    }

    /// Puts endpoints into an order that does not depend on that in which their slices came, each once.
    pub fn sort(&self, endpoints: &mut Vec<EndpointId>) {
        endpoints.sort_unstable_by(|a, b| {
            let key = |id: &EndpointId| {
                let slice = &self.slab[id.slice].slice;
                (&slice.namespace, &slice.name, id.index)
            };
            key(a).cmp(&key(b))
        });
        endpoints.dedup();
    }

    fn endpoints_of(&self, slice: SliceId) -> impl Iterator<Item = EndpointId> + use<> {
        let count = self.slab[slice].slice.endpoints.len();
        (0..count).map(move |index| EndpointId { slice, index: index as u32 })
    }

    fn address(&self, entry: AddressOf) -> IpAddr {
        self.endpoint(entry.endpoint).addresses[entry.index as usize]
    }

    fn insert(&mut self, state: SliceState) -> SliceId {
        let key = (state.namespace, Arc::clone(&state.slice.name));
        let service = state.slice.service.clone().map(|service| (state.namespace, service));
        let id = self.slab.insert(state);
        self.by_name.insert(key, id);
        if let Some(service) = service {
            self.by_service.entry(service).or_default().push(id);
        }
        for endpoint in self.endpoints_of(id) {
            let (slab, hasher) = (&self.slab, &self.hasher);
            let at = |id: EndpointId| &slab[id.slice].slice.endpoints[id.index as usize];
            let hash_address = |entry: &AddressOf| hasher.hash_one(at(entry.endpoint).addresses[entry.index as usize]);
            for index in 0..at(endpoint).addresses.len() {
                let entry = AddressOf { endpoint, index: index as u32 };
                self.by_address.insert_unique(hash_address(&entry), entry, hash_address);
            }
            let hash_pod = |id: &EndpointId| {
                hasher.hash_one((slab[id.slice].namespace, at(*id).pod.as_deref().unwrap_or_default()))
            };
            if at(endpoint).pod.is_some() {
                self.by_pod.insert_unique(hash_pod(&endpoint), endpoint, hash_pod);
            }
        }
        id
    }

    fn remove(&mut self, id: SliceId) -> SliceState {
        for endpoint in self.endpoints_of(id) {
            let found = self.endpoint(endpoint);
            let entries: Vec<_> =
                (0..).zip(&found.addresses).map(|(index, a)| (index, self.hasher.hash_one(a))).collect();
            let pod = found.pod.as_deref().map(|pod| self.hasher.hash_one((self.slab[id].namespace, pod)));
            for (index, hash) in entries {
                if let Ok(entry) = self.by_address.find_entry(hash, |other| *other == AddressOf { endpoint, index }) {
                    entry.remove();
                }
            }
            if let Some(Ok(entry)) = pod.map(|hash| self.by_pod.find_entry(hash, |other| *other == endpoint)) {
                entry.remove();
            }
        }
        let state = self.slab.remove(id);
        self.by_name.remove(&(state.namespace, Arc::clone(&state.slice.name)));
        if let Some(service) = &state.slice.service {
            let key = (state.namespace, Arc::clone(service));
            if let Some(slices) = self.by_service.get_mut(&key) {
                slices.retain(|other| *other != id);
                if slices.is_empty() {
                    self.by_service.remove(&key);
                }
            }
        }
        state
    }
}

impl Translator {
    pub(crate) fn put_slice(&mut self, slice: EndpointSlice) {
        let namespace = self.namespace(&slice.namespace);
        let known = self.slices.by_name.get(&(namespace, Arc::clone(&slice.name))).copied();
        if let Some(id) = known {
            if self.slices.get(id).slice == slice {
                return;
            }
            self.touch_slice(id);
            self.slices.remove(id);
        } else {
            self.counts.endpoint_slices += 1;
            self.namespaces[namespace].slices += 1;
        }
        let id = self.slices.insert(SliceState { slice, namespace });
        self.touch_slice(id);
    }

    pub(crate) fn remove_slice(&mut self, namespace: NamespaceId, name: &Arc<str>) {
        if let Some(id) = self.slices.by_name.get(&(namespace, Arc::clone(name))).copied() {
            self.touch_slice(id);
            self.slices.remove(id);
            self.counts.endpoint_slices -= 1;
            self.namespaces[namespace].slices -= 1;
        }
    }

    /// What a slice leads to is looked at again. The first slice of a service, and the loss of its last, also decide
    /// whether the service's selector counts.
    fn touch_slice(&mut self, id: SliceId) {
        let state = self.slices.get(id);
        let (namespace, service) = (state.namespace, state.slice.service.clone());
        if let Some(service) = service
            && self.slices.of_service(namespace, &service).len() == 1
            && let Some(service) = self.namespaces[namespace].services.get(&service).copied()
        {
            self.touch_service(service);
        }
        self.touch_endpoints(id);
    }

    pub(crate) fn touch_slices_of(&mut self, namespace: NamespaceId, service: &Arc<str>) {
        for id in self.slices.of_service(namespace, service).to_vec() {
            self.touch_endpoints(id);
        }
    }

    fn touch_endpoints(&mut self, id: SliceId) {
        for endpoint in self.slices.endpoints_of(id) {
            self.touch_endpoint(endpoint);
        }
    }

    /// Whatever an endpoint leads to, or would lead to if the pod that it leads to went.
    fn touch_endpoint(&mut self, id: EndpointId) {
        let namespace = self.slices.get(id.slice).namespace;
        let endpoint = self.slices.endpoint(id);
        let named = endpoint.pod.as_ref().and_then(|name| self.pods.find(namespace, name));
        let holders = endpoint.addresses.iter().flat_map(|address| self.pods.with_address(*address));
        let pods: Vec<PodId> = holders.chain(named).collect();
        self.pending.bare.extend(endpoint.addresses.iter().map(|address| (namespace, *address)));
        pods.into_iter().for_each(|pod| self.touch_pod(pod));
    }

    /// The endpoints that lead to a pod, or would without it, are looked at again.
    pub(crate) fn touch_endpoints_of(&mut self, pod: PodId) {
        if self.slices.by_name.is_empty() {
            return;
        }
        let state = self.pods.get(pod);
        let mut affected: Vec<EndpointId> = self.slices.naming(state.namespace, &state.pod.name).collect();
        affected.extend(state.pod.addresses.iter().flat_map(|address| self.slices.with_address(*address)));
        affected.into_iter().for_each(|endpoint| self.touch_endpoint(endpoint));
    }

    /// The pod that an endpoint leads to: the one that it names, else the one that has its address. Pods on the host's
    /// network share theirs with others, and are only found by name.
    pub(crate) fn pod_behind(&self, id: EndpointId) -> Option<PodId> {
        let endpoint = self.slices.endpoint(id);
        let namespace = self.slices.get(id.slice).namespace;
        let named = endpoint.pod.as_ref().and_then(|name| self.pods.find(namespace, name));
        named.or_else(|| {
            let candidates = endpoint.addresses.iter().flat_map(|address| self.pods.with_address(*address));
            let owners = candidates.filter(|id| {
                let pod = &self.pods.get(*id).pod;
                pod.is_live() && !pod.template.is_host_network
            });
            // Of several, always the same one.
            owners.min_by_key(|id| {
                let pod = &self.pods.get(*id).pod;
                (&pod.namespace, &pod.name)
            })
        })
    }

    /// The endpoints that lead to a pod.
    pub(crate) fn endpoints_behind(&self, pod: PodId) -> Vec<EndpointId> {
        if self.slices.by_name.is_empty() {
            return Vec::new();
        }
        let state = self.pods.get(pod);
        let mut found: Vec<EndpointId> = self.slices.naming(state.namespace, &state.pod.name).collect();
        let by_address = state.pod.addresses.iter().flat_map(|address| self.slices.with_address(*address));
        found.extend(by_address.filter(|endpoint| self.pod_behind(*endpoint) == Some(pod)));
        self.slices.sort(&mut found);
        found
    }
}
