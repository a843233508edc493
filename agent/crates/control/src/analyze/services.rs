//! Mistakes about services and their endpoints.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};

use super::{Analysis, counted};
use crate::object::{Kind, Pod, ServiceKind, TargetPort};
use crate::translate::pods::PodState;
use crate::translate::services::ServiceState;

impl Analysis<'_> {
    pub(super) fn services(&mut self) {
        let translator = self.translator;
        let mut services: Vec<&ServiceState> = translator.services.iter().map(|(_, state)| state).collect();
        services.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        for state in services {
            let service = &state.service;
            if service.kind == ServiceKind::External {
                continue;
            }
            if service.kind == ServiceKind::Virtual && service.addresses.is_empty() {
                self.about(Kind::Service, &service.namespace, &service.name, |notes| {
                    notes.warning(
                        "spec.clusterIP",
                        "is missing: the service has no address to connect to",
                        "write its addresses into spec.clusterIPs, or 'None' for a headless service",
                    );
                });
            }
            let slices = translator.slices.of_service(state.namespace, &service.name);
            if slices.is_empty() {
                self.selected(state);
            } else if slices.iter().all(|slice| translator.slices.get(*slice).slice.endpoints.is_empty()) {
                self.about(Kind::Service, &service.namespace, &service.name, |notes| {
                    notes.warning("", "its EndpointSlices have no endpoints: connections are refused", "add endpoints");
                });
            }
        }
        self.slices();
    }

    /// A service whose endpoints are the pods that it selects.
    fn selected(&mut self, state: &ServiceState) {
        let translator = self.translator;
        let service = &state.service;
        let templates = translator.namespaces[state.namespace].templates.values();
        let templates =
            templates.map(|id| &translator.namespaces.templates[*id]).filter(|t| state.selects(&t.template));
        let pods: Vec<&PodState> =
            templates.flat_map(|t| &t.pods).map(|id| translator.pods.get(*id)).filter(|p| p.pod.is_live()).collect();
        self.about(Kind::Service, &service.namespace, &service.name, |notes| {
            if service.selector.is_none() {
                notes.warning(
                    "spec.selector",
                    "is missing, and no EndpointSlice gives endpoints: connections are refused",
                    "add a selector or an EndpointSlice",
                );
            } else if pods.is_empty() {
                notes.warning(
                    "spec.selector",
                    "matches no pod of the namespace: connections are refused",
                    "compare it with the labels of the pods",
                );
            } else if !service.publish_not_ready_addresses && !pods.iter().any(|state| state.pod.is_ready()) {
                let unsaid = pods.iter().all(|state| state.pod.ready.is_none());
                notes.warning(
                    "",
                    format!("none of its {} is ready: connections are refused", counted(pods.len(), "pod")),
                    if unsaid {
                        "write the condition Ready with the status \"True\" into status.conditions of the pods"
                    } else {
                        "look why the pods are not ready"
                    },
                );
            }
            for (i, port) in service.ports.iter().enumerate() {
                let TargetPort::Name(name) = &port.target else {
                    continue;
                };
                let without = pods.iter().filter(|state| state.pod.template.port_named(name).is_none()).count();
                if without > 0 {
                    let all = if without == pods.len() { "none" } else { "not every one" };
                    notes.warning(
                        format!("spec.ports[{i}].targetPort"),
                        format!("{all} of its {} has a container port named '{name}'", counted(pods.len(), "pod")),
                        "name the container's port so, or write the number",
                    );
                }
            }
        });
    }

    fn slices(&mut self) {
        let translator = self.translator;
        for state in translator.slices.iter() {
            let slice = &state.slice;
            let Some(name) = &slice.service else {
                continue;
            };
            let service = translator.namespaces[state.namespace].services.get(name);
            let service = service.map(|id| &translator.services[*id].service);
            self.about(Kind::EndpointSlice, &slice.namespace, &slice.name, |notes| match service {
                None => notes.warning(
                    "metadata.labels[kubernetes.io/service-name]",
                    format!("there is no Service {}/{name}", slice.namespace),
                    "correct the name, or add the Service",
                ),
                Some(service) => {
                    let is_used = |name| service.ports.iter().any(|port| port.name == name);
                    for (i, port) in slice.ports.iter().enumerate().filter(|(_, port)| !is_used(port.name.clone())) {
                        notes.warning(
                            format!("ports[{i}].name"),
                            format!("the service has no port named '{}'", port.name),
                            "use the name that the port has in the service",
                        );
                    }
                }
            });
        }
    }

    /// Virtual addresses that are somebody else's as well.
    pub(super) fn addresses_of_services(&mut self, pods: &HashMap<IpAddr, &Pod>) {
        let translator = self.translator;
        let mut services: Vec<&ServiceState> = translator.services.iter().map(|(_, state)| state).collect();
        services.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut seen: HashMap<IpAddr, &ServiceState> = HashMap::new();
        let mut said: HashSet<&str> = HashSet::new();
        for state in services {
            let service = &state.service;
            for address in &service.addresses {
                let other = match (seen.insert(*address, state), pods.get(address)) {
                    (Some(other), _) => format!("service {}/{}", other.service.namespace, other.service.name),
                    (None, Some(pod)) => format!("pod {}/{}", pod.namespace, pod.name),
                    (None, None) => continue,
                };
                if said.insert(&state.key) {
                    self.about(Kind::Service, &service.namespace, &service.name, |notes| {
                        notes.error(
                            "spec.clusterIPs",
                            format!("{address} is the address of {other} as well"),
                            "give each service its own address",
                        );
                    });
                }
            }
        }
    }
}
