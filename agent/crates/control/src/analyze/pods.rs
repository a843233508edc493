//! Mistakes about pods and their namespaces.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::Analysis;
use crate::object::{DataplaneMode, Kind, Pod, PodPhase};
use crate::problem::Note;
use crate::translate::enrolment::missing_netns;
use crate::translate::pods::PodState;

/// Namespaces that every cluster has.
const BUILT_IN: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

impl Analysis<'_> {
    pub(super) fn pods(&mut self) {
        let translator = self.translator;
        let mut pods: Vec<&PodState> = translator.pods.iter().map(|(_, state)| state).collect();
        pods.sort_unstable_by(|a, b| (&a.pod.namespace, &a.pod.name).cmp(&(&b.pod.namespace, &b.pod.name)));
        let mut holders: HashMap<IpAddr, &Pod> = HashMap::new();
        let mut accounts: HashSet<(&str, &str)> = HashSet::new();
        for state in pods {
            let pod = &state.pod;
            let namespace = &translator.namespaces[state.namespace];
            let account = &pod.template.service_account;
            if **account != *"default"
                && !namespace.accounts.contains(account)
                && accounts.insert((&pod.namespace, account))
            {
                self.about(Kind::Pod, &pod.namespace, &pod.name, |notes| {
                    notes.warning(
                        "spec.serviceAccountName",
                        format!("there is no ServiceAccount {}/{account}", pod.namespace),
                        "correct the name, or add the ServiceAccount",
                    );
                });
            }
            if pod.phase == PodPhase::Running && pod.addresses.is_empty() {
                self.about(Kind::Pod, &pod.namespace, &pod.name, |notes| {
                    notes.warning("status.podIPs", "is empty: nobody can reach the pod", "write the pod's addresses");
                });
            }
            if pod.is_live() {
                self.enrolment(state, namespace.object.as_ref().and_then(|namespace| namespace.mode));
                if !pod.template.is_host_network {
                    for address in &pod.addresses {
                        if let Some(other) = holders.insert(*address, pod) {
                            self.about(Kind::Pod, &pod.namespace, &pod.name, |notes| {
                                notes.error(
                                    "status.podIPs",
                                    format!(
                                        "{address} is the address of pod {}/{} as well",
                                        other.namespace, other.name
                                    ),
                                    "give each pod its own address, or set the phase of the one that has ended",
                                );
                            });
                        }
                    }
                }
            }
        }
        self.addresses_of_services(&holders);
        self.namespaces();
    }

    /// What keeps a pod out of the mesh that somebody wants in it.
    fn enrolment(&mut self, state: &PodState, of_namespace: Option<DataplaneMode>) {
        let translator = self.translator;
        let pod = &state.pod;
        let template = &pod.template;
        let own = template.mode == Some(DataplaneMode::Ambient);
        let is_wanted = template.mode.or(of_namespace) == Some(DataplaneMode::Ambient);
        let label = "metadata.labels[istio.io/dataplane-mode]";
        let options = translator.options();
        let is_local = options.node.is_empty() || *options.node == *pod.node;
        self.about(Kind::Pod, &pod.namespace, &pod.name, |notes| {
            if translator.is_enrolled(state) {
                if pod.node.is_empty() {
                    notes.warning(
                        "spec.nodeName",
                        "is missing: the pod is enrolled, but no node's agent will look after it",
                        "write the name that the node's agent was started with",
                    );
                } else if options.on_kubernetes {
                    if pod.phase == PodPhase::Running && !pod.is_terminating && !pod.is_redirected {
                        notes.warning(
                            "metadata.annotations[ambient.istio.io/redirection]",
                            "is missing: the pod is enrolled, and its node's agent has not captured it",
                            format!("see weft pods --kubernetes --node {}", pod.node),
                        );
                    }
                } else if is_local && !pod.has_netns {
                    for Note { severity, field, message, suggestion } in missing_netns() {
                        notes.add(severity, field, message, suggestion);
                    }
                }
            } else if own && template.is_host_network {
                notes.warning(
                    label,
                    "has no effect: a pod on the host's network is never enrolled, since that would capture the node",
                    "remove the label, or hostNetwork",
                );
            } else if is_wanted && template.has_sidecar {
                notes.warning(
                    label,
                    "has no effect: the pod has a sidecar, and is never enrolled while it has",
                    "recreate the pod without the sidecar",
                );
            } else if own && template.is_static() {
                notes.warning(
                    label,
                    "has no effect: a static pod has no service account, and is never enrolled",
                    "remove the label, or run the pod from a Deployment or DaemonSet",
                );
            } else if own && translator.is_excluded(&pod.namespace) {
                notes.warning(
                    label,
                    format!("has no effect: pods of the namespace {} are never enrolled", pod.namespace),
                    "remove the label, or allow the namespace by the agent's options",
                );
            }
        });
    }

    /// Namespaces that nobody declares, each with one of its objects.
    fn namespaces(&mut self) {
        let translator = self.translator;
        for (_, namespace) in translator.namespaces.iter() {
            let is_excluded = translator.is_excluded(&namespace.name);
            if namespace
                .object
                .as_ref()
                .is_some_and(|object| is_excluded && object.mode == Some(DataplaneMode::Ambient))
            {
                self.about(Kind::Namespace, &Arc::default(), &namespace.name, |notes| {
                    notes.warning(
                        "metadata.labels[istio.io/dataplane-mode]",
                        "has no effect: pods of this namespace are never enrolled",
                        "remove the label, or allow the namespace by the agent's options",
                    );
                });
            }
            let is_known = namespace.object.is_some()
                || BUILT_IN.contains(&&*namespace.name)
                || *namespace.name == *translator.options().root_namespace;
            if is_known {
                continue;
            }
            let templates = namespace.templates.values().map(|id| &translator.namespaces.templates[*id]);
            let pod = templates.flat_map(|template| &template.pods).map(|id| &translator.pods.get(*id).pod.name).min();
            let example = pod
                .map(|name| (Kind::Pod, name))
                .or_else(|| namespace.services.keys().min().map(|name| (Kind::Service, name)))
                .or_else(|| namespace.authorization.keys().next().map(|name| (Kind::AuthorizationPolicy, name)))
                .or_else(|| namespace.peer_authentication.keys().next().map(|name| (Kind::PeerAuthentication, name)))
                .or_else(|| namespace.accounts.iter().min().map(|name| (Kind::ServiceAccount, name)));
            if let Some((kind, name)) = example {
                self.about(kind, &namespace.name, name, |notes| {
                    notes.warning(
                        "metadata.namespace",
                        format!(
                            "there is no Namespace {}, so that nothing can say whether its pods are enrolled",
                            namespace.name
                        ),
                        "correct the name, or add the Namespace",
                    );
                });
            }
        }
    }
}
