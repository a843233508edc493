//! Mistakes about PeerAuthentications.

use super::{Analysis, counted};
use crate::object::{Kind, MtlsMode, PeerAuthentication};
use crate::translate::mtls::wide;
use crate::translate::namespaces::{NamespaceId, NamespaceState};

impl Analysis<'_> {
    pub(super) fn mtls(&mut self) {
        let translator = self.translator;
        let outside = self.outside();
        for (id, namespace) in translator.namespaces.iter() {
            for policy in namespace.peer_authentication.values() {
                self.precedence(id, namespace, policy);
                let is_strict =
                    policy.mode == MtlsMode::Strict || policy.ports.iter().any(|(_, mode)| *mode == MtlsMode::Strict);
                let reach = self.reach(id, policy.selector.as_ref());
                self.about(Kind::PeerAuthentication, &policy.namespace, &policy.name, |notes| {
                    if policy.selector.is_some() && !translator.is_root(id) {
                        reach.note("spec.selector.matchLabels", notes);
                    }
                    if let Some((count, example)) = outside.as_ref().filter(|_| is_strict && reach.enrolled > 0) {
                        notes.warning(
                            "spec.mtls.mode",
                            format!(
                                "STRICT refuses connections from what is not in the mesh, which {} not, {example} among \
                                 them",
                                if *count == 1 { "1 pod is".to_owned() } else { counted(*count, "pod") + " are" }
                            ),
                            "enrol the clients first, or use PERMISSIVE until they are",
                        );
                    }
                });
            }
        }
    }

    /// How many pods are not enrolled, and one of them.
    fn outside(&self) -> Option<(usize, String)> {
        let translator = self.translator;
        let outside = translator.pods.iter().map(|(_, state)| state).filter(|state| {
            let is_system = translator.is_excluded(&state.pod.namespace);
            state.pod.is_live() && !is_system && !state.pod.template.is_host_network && !translator.is_enrolled(state)
        });
        let names: Vec<String> = outside.map(|state| format!("{}/{}", state.pod.namespace, state.pod.name)).collect();
        let count = names.len();
        names.into_iter().min().map(|example| (count, example))
    }

    /// A policy that another one overrides.
    fn precedence(&mut self, id: NamespaceId, namespace: &NamespaceState, policy: &PeerAuthentication) {
        let translator = self.translator;
        let senior = match &policy.selector {
            None => wide(namespace).filter(|senior| senior.name != policy.name),
            Some(_) if translator.is_root(id) => {
                self.about(Kind::PeerAuthentication, &policy.namespace, &policy.name, |notes| {
                    notes.warning(
                        "spec.selector",
                        "has no effect: in the root namespace only policies for the whole mesh count",
                        "put the policy into the namespace of the pods",
                    );
                });
                return;
            }
            Some(selector) => {
                let templates = namespace.templates.values().copied();
                let mut selected = templates.filter(|template| {
                    let template = &translator.namespaces.templates[*template].template;
                    selector.matches(&template.labels, template.signature)
                });
                selected.find_map(|template| translator.narrow(template).filter(|senior| senior.name != policy.name))
            }
        };
        if let Some(senior) = senior {
            self.about(Kind::PeerAuthentication, &policy.namespace, &policy.name, |notes| {
                notes.warning(
                    "metadata.creationTimestamp",
                    format!(
                        "{}/{} is about the same pods and is older, so that it counts",
                        senior.namespace, senior.name
                    ),
                    "keep one of the two",
                );
            });
        }
    }
}
