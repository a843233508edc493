//! Workloads: pods, and endpoints that are no pods.

use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    Change, EndpointCondition, Health, Identity, Locality, Membership, PortMapping, TunnelProtocol, Workload,
};

use super::Translator;
use super::endpoints::EndpointId;
use super::namespaces::NamespaceId;
use super::pods::{PodId, PodState};
use super::services::ServiceId;
use crate::object::{Pod, PodPhase, STATIC_POD, ServiceKind, TargetPort, is_known};

impl Translator {
    /// A pod's name in the model.
    pub(crate) fn pod_uid(&self, pod: &Pod) -> Arc<str> {
        [&*self.cluster, "//Pod/", &*pod.namespace, "/", &*pod.name].concat().into()
    }

    fn bare_uid(&self, namespace: NamespaceId, address: IpAddr) -> Arc<str> {
        format!("{}//EndpointSlice/{}/{address}", self.cluster, self.namespaces[namespace].name).into()
    }

    pub(crate) fn publish_pods(&mut self, changes: &mut Vec<Change>) {
        let pending = std::mem::take(&mut self.pending.pods);
        changes.reserve_exact(pending.len());
        for id in pending {
            self.pods.get_mut(id).is_touched = false;
            let state = self.pods.get(id);
            let (namespace, account) = (state.namespace, &state.pod.template.service_account);
            if !self.namespaces[namespace].identities.contains_key(account) {
                // Names that make no identity are refused when the pod is read; the trust domain may make none.
                let account = Arc::clone(account);
                if let Ok(identity) = Identity::new(&self.options.trust_domain, &state.pod.namespace, &account) {
                    self.namespaces[namespace].identities.insert(account, identity);
                }
            }
            let state = self.pods.get(id);
            let pod = &state.pod;
            let is_scheduled = self.options.on_kubernetes && pod.phase != PodPhase::Over && !pod.node.is_empty();
            let is_workload = pod.is_live() || is_scheduled;
            let workload = self.identity(state).filter(|_| is_workload).map(|identity| self.workload(id, identity));
            let is_published = workload.is_some();
            match workload {
                Some(workload) => changes.push(Change::PutWorkload(workload)),
                None if state.is_published => changes.push(Change::RemoveWorkload(self.pod_uid(&state.pod))),
                None => {}
            }
            self.pods.get_mut(id).is_published = is_published;
        }
    }

    /// A pod's identity, once it was published.
    pub(crate) fn identity(&self, state: &PodState) -> Option<Identity> {
        self.namespaces[state.namespace].identities.get(&state.pod.template.service_account).cloned()
    }

    /// What a pod is in the model.
    pub(crate) fn workload(&self, id: PodId, identity: Identity) -> Workload {
        let state = self.pods.get(id);
        let (pod, template) = (&state.pod, &state.pod.template);
        let services = self.memberships(id);
        let mut policies = self.namespaces.templates[state.template].policies.clone();
        let by_service = &self.namespaces[state.namespace].policies_of_service;
        if !by_service.is_empty() {
            // Those that name one of its services as their target. A service of another namespace, which needs only list
            // the pod's address, must not impose its own on it.
            let services = self.services_of(id).into_iter();
            for service in services.filter(|service| self.services[*service].namespace == state.namespace) {
                policies.extend(by_service.get(&self.services[service].service.name).into_iter().flatten().cloned());
            }
            policies.sort_unstable();
            policies.dedup();
        }
        let workload_name = template.workload_name.as_ref().unwrap_or(&pod.name);
        let label = |keys: &[&str]| template.first_label(keys).cloned();
        let canonical = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
        let revision = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
        Workload {
            uid: self.pod_uid(pod),
            instance: Arc::clone(&pod.uid),
            name: Arc::clone(&pod.name),
            namespace: Arc::clone(&pod.namespace),
            identity,
            cluster: Arc::clone(&self.cluster),
            network: label(&["topology.istio.io/network"]).unwrap_or_else(|| Arc::clone(&self.network)),
            node: Arc::clone(&pod.node),
            addresses: pod.addresses.to_vec(),
            protocol: if self.is_announced(state) { TunnelProtocol::Hbone } else { TunnelProtocol::None },
            is_host_network: template.is_host_network,
            workload_name: Arc::clone(workload_name),
            workload_type: match template.names_account || !self.options.on_kubernetes {
                true => Arc::clone(&template.workload_type),
                // No API server admits a pod without an account but as a mirror, and nobody has the identity of none.
                false => STATIC_POD.into(),
            },
            canonical_service: label(&canonical).unwrap_or_else(|| Arc::clone(workload_name)),
            canonical_revision: label(&revision).unwrap_or_else(|| Arc::clone(&self.latest)),
            app: label(&["app"]).unwrap_or_default(),
            version: label(&["version"]).unwrap_or_default(),
            locality: self.locality(state),
            health: if pod.is_ready() { Health::Healthy } else { Health::Unhealthy },
            policies,
            services,
            waypoint: self.waypoint_of_pod(state).map(Arc::new),
        }
    }

    /// Where a pod runs: what its node says, else its own labels, else its namespace's.
    fn locality(&self, state: &PodState) -> Locality {
        let node = self.nodes.get(&state.pod.node).map(|node| &node.locality);
        let namespace = self.namespaces[state.namespace].object.as_ref().map(|namespace| &namespace.locality);
        let candidates = [node, Some(&state.pod.template.locality), namespace];
        candidates.into_iter().flatten().find(|locality| is_known(locality)).cloned().unwrap_or_default()
    }

    /// The services that a pod is an endpoint of.
    pub(crate) fn services_of(&self, id: PodId) -> Vec<ServiceId> {
        let state = self.pods.get(id);
        let mut found: Vec<ServiceId> = self.selecting(state).collect();
        found.extend(self.endpoints_behind(id).into_iter().filter_map(|endpoint| self.service_of(endpoint)));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The services that a pod is an endpoint of by their selectors, which count where no slice is given.
    fn selecting(&self, state: &PodState) -> impl Iterator<Item = ServiceId> {
        let services = self.namespaces.templates[state.template].services.iter().copied();
        services.filter(move |id| {
            let name = &self.services[*id].service.name;
            self.slices.of_service(state.namespace, name).is_empty()
        })
    }

    fn service_of(&self, endpoint: EndpointId) -> Option<ServiceId> {
        let state = self.slices.get(endpoint.slice);
        let id = *self.namespaces[state.namespace].services.get(state.slice.service.as_ref()?)?;
        (self.services[id].service.kind != ServiceKind::External).then_some(id)
    }

    fn memberships(&self, id: PodId) -> Vec<Membership> {
        let state = self.pods.get(id);
        let pod = &state.pod;
        let condition = match (pod.is_ready(), pod.is_terminating) {
            (true, false) => EndpointCondition::Ready,
            (true, true) => EndpointCondition::Terminating,
            (false, _) => EndpointCondition::NotReady,
        };
        let endpoints = self.endpoints_behind(id);
        // Exactly as many as there will be: room that is given back later leaves a hole for each pod.
        let mut memberships: Vec<Membership> = Vec::with_capacity(self.selecting(state).count() + endpoints.len());
        for service in self.selecting(state) {
            let service = &self.services[service];
            let ports = service.service.ports.iter().filter_map(|port| {
                let target_port = match &port.target {
                    TargetPort::Number(number) => *number,
                    TargetPort::Name(name) => pod.template.port_named(name)?,
                };
                Some(PortMapping { service_port: port.port, target_port })
            });
            memberships.push(Membership {
                service: Arc::clone(&service.key),
                ports: ports.collect(),
                condition,
                waypoint: service.waypoint.clone(),
            });
        }
        for endpoint in endpoints {
            self.join(&mut memberships, endpoint);
        }
        memberships
    }

    /// Adds what a slice says of an endpoint. Slices of two families, or with different ports, say it in parts.
    fn join(&self, memberships: &mut Vec<Membership>, endpoint: EndpointId) {
        let Some(service) = self.service_of(endpoint).map(|service| &self.services[service]) else {
            return;
        };
        let slice = &self.slices.get(endpoint.slice).slice;
        let condition = self.slices.endpoint(endpoint).condition;
        let position = memberships.iter().position(|membership| membership.service == service.key);
        let position = position.unwrap_or_else(|| {
            memberships.push(Membership {
                service: Arc::clone(&service.key),
                ports: Vec::new(),
                condition,
                waypoint: service.waypoint.clone(),
            });
            memberships.len() - 1
        });
        let membership = &mut memberships[position];
        for port in &service.service.ports {
            let target = slice.ports.iter().find(|candidate| candidate.name == port.name);
            let mapping = target.map(|target| PortMapping { service_port: port.port, target_port: target.port });
            membership.ports.extend(mapping.filter(|mapping| !membership.ports.contains(mapping)));
        }
        membership.condition = better(membership.condition, condition);
    }

    /// Publishes addresses that are endpoints and belong to no pod.
    pub(crate) fn publish_bare(&mut self, changes: &mut Vec<Change>) {
        let mut pending = std::mem::take(&mut self.pending.bare);
        pending.sort_unstable();
        pending.dedup();
        for (namespace, address) in pending {
            match self.bare_workload(namespace, address) {
                Some(workload) => {
                    self.bare.insert((namespace, address));
                    changes.push(Change::PutWorkload(workload));
                }
                None => {
                    if self.bare.remove(&(namespace, address)) {
                        changes.push(Change::RemoveWorkload(self.bare_uid(namespace, address)));
                    }
                }
            }
        }
    }

    fn bare_workload(&self, namespace: NamespaceId, address: IpAddr) -> Option<Workload> {
        let mut memberships = Vec::new();
        let mut first = None;
        let mut endpoints: Vec<EndpointId> = self.slices.with_address(address).collect();
        endpoints.retain(|id| self.slices.get(id.slice).namespace == namespace && self.pod_behind(*id).is_none());
        self.slices.sort(&mut endpoints);
        for id in endpoints {
            self.join(&mut memberships, id);
            first.get_or_insert(id);
        }
        let first = first?;
        let state = self.slices.get(first.slice);
        let endpoint = self.slices.endpoint(first);
        let name: Arc<str> = address.to_string().into();
        let service = state.slice.service.clone().unwrap_or_else(|| Arc::clone(&name));
        let mut locality = self.nodes.get(&endpoint.node).map(|node| node.locality.clone()).unwrap_or_default();
        if !endpoint.zone.is_empty() {
            locality.zone = Arc::clone(&endpoint.zone);
        }
        let is_ready = memberships.iter().any(|membership| membership.condition == EndpointCondition::Ready);
        Some(Workload {
            uid: self.bare_uid(namespace, address),
            instance: Arc::default(),
            namespace: Arc::clone(&self.namespaces[namespace].name),
            // It never proves an identity: it is reached in plain text, and comes in plain text.
            identity: Identity::new(&self.options.trust_domain, &self.namespaces[namespace].name, "default").ok()?,
            cluster: Arc::clone(&self.cluster),
            network: Arc::clone(&self.network),
            node: Arc::clone(&endpoint.node),
            addresses: vec![address],
            protocol: TunnelProtocol::None,
            is_host_network: false,
            workload_name: Arc::clone(&service),
            workload_type: Arc::clone(&self.endpoint),
            canonical_service: service,
            canonical_revision: Arc::clone(&self.latest),
            app: Arc::default(),
            version: Arc::default(),
            locality,
            health: if is_ready { Health::Healthy } else { Health::Unhealthy },
            policies: Vec::new(),
            services: memberships,
            waypoint: None,
            name,
        })
    }
}

/// The better of what two slices say of one endpoint.
fn better(a: EndpointCondition, b: EndpointCondition) -> EndpointCondition {
    use EndpointCondition::{NotReady, Ready, Terminating};
    match (a, b) {
        (Ready, _) | (_, Ready) => Ready,
        (Terminating, _) | (_, Terminating) => Terminating,
        (NotReady, NotReady) => NotReady,
    }
}
