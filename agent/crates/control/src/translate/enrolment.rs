//! Which pods are enrolled.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use weft_model::{Identity, Workload};

use super::Translator;
use super::membership::Membership;
use super::pods::PodState;
use crate::object::{DataplaneMode, Kind, NETNS, ObjectId, PodPhase, STATIC_POD};
use crate::problem::{Note, Notes};

/// A pod of this node, with addresses and a network namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The workload's name in the model: [`weft_model::Workload::uid`].
    pub uid: Arc<str>,
    /// `metadata.uid`, or empty: a pod created anew under the same name differs.
    pub instance: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its identity.
    pub identity: Identity,
    /// Its network namespace; `None`: a manifest does not say it, and whoever runs pods has to be asked.
    pub netns: Option<PathBuf>,
    /// Its addresses, the primary one first. None yet, on Kubernetes, where it has only just been scheduled.
    pub addresses: Vec<IpAddr>,
    /// Whether its connections are to be carried by the mesh.
    pub enrolled: bool,
    /// The mesh was told that it is captured, by the annotation for that.
    pub is_announced: bool,
    /// What this node itself knows of it: who the client is where the mesh's own word of it has not come. The services
    /// and policies in it are those of this source alone.
    pub workload: Arc<Workload>,
}

impl LocalPod {
    /// Whether the object is the mirror of a pod that the kubelet has from a file. Runtimes know that pod by another uid. It is
    /// never in the mesh.
    #[must_use]
    pub fn is_static(&self) -> bool {
        *self.workload.workload_type == *STATIC_POD
    }
}

impl Translator {
    /// Whether a pod is enrolled: its own label beats its namespace's. Pods on the host's network (it would capture the
    /// node), those that have a sidecar, and those of excluded namespaces never are.
    pub(crate) fn is_enrolled(&self, state: &PodState) -> bool {
        let namespace = self.namespaces[state.namespace].object.as_ref();
        let namespace = Membership::said(namespace.and_then(|namespace| namespace.mode));
        !self.is_excluded(&state.pod.namespace) && Membership::of_template(&state.pod.template).is_member(namespace)
    }

    /// Whether others may reach a pod by tunnels: it is enrolled, and captured where that can be known; or it is a
    /// waypoint, which takes them itself.
    pub(crate) fn is_announced(&self, state: &PodState) -> bool {
        state.pod.template.is_waypoint
            || self.is_enrolled(state) && (state.pod.is_redirected || !self.options.on_kubernetes)
    }

    /// For a node of a cluster: all namespaces, sorted, and whether their label takes pods into the mesh.
    pub(crate) fn namespaces_of_a_node(&self) -> Vec<(Arc<str>, bool)> {
        if self.options.node.is_empty() {
            return Vec::new();
        }
        let known = self.namespaces.iter().filter_map(|(_, state)| {
            let mode = state.object.as_ref()?.mode;
            Some((Arc::clone(&state.name), mode == Some(DataplaneMode::Ambient)))
        });
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        known
    }

    pub(crate) fn is_excluded(&self, namespace: &str) -> bool {
        self.options.excluded_namespaces.iter().any(|excluded| excluded == namespace)
    }

    /// The pods of this node in the order of their names, and what keeps others of them from being enrolled.
    pub fn local_pods(&self) -> (Vec<LocalPod>, Vec<(ObjectId, Note)>) {
        let mut found = Vec::new();
        let mut notes = Vec::new();
        for id in &self.pods.local {
            let state = self.pods.get(*id);
            let pod = &state.pod;
            let is_of_interest = match self.options.on_kubernetes {
                // The runtime knows a pod's addresses before the API server does.
                true => pod.phase != PodPhase::Over,
                false => pod.is_live(),
            };
            if !is_of_interest || pod.template.is_host_network {
                continue;
            }
            let enrolled = self.is_enrolled(state);
            match (&pod.netns, self.identity(state)) {
                (netns, Some(identity)) if netns.is_some() || self.options.on_kubernetes => found.push(LocalPod {
                    uid: self.pod_uid(pod),
                    instance: Arc::clone(&pod.uid),
                    name: Arc::clone(&pod.name),
                    namespace: Arc::clone(&pod.namespace),
                    workload: Arc::new(self.workload(*id, identity.clone())),
                    identity,
                    netns: netns.as_deref().map(PathBuf::from),
                    addresses: pod.addresses.to_vec(),
                    enrolled,
                    is_announced: pod.is_redirected,
                }),
                (None, _) if enrolled && !self.options.on_kubernetes => {
                    let object = ObjectId {
                        kind: Kind::Pod,
                        namespace: Arc::clone(&pod.namespace),
                        name: Arc::clone(&pod.name),
                    };
                    notes.extend(missing_netns().into_iter().map(|note| (object.clone(), note)));
                }
                _ => {}
            }
        }
        found.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        notes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        (found, notes)
    }
}

/// What is said of an enrolled pod of this node without a network namespace.
pub(crate) fn missing_netns() -> Vec<Note> {
    let mut notes = Notes::default();
    notes.error(
        format!("metadata.annotations[{NETNS}]"),
        "is missing: the pod is enrolled and runs on this node, but nobody knows its network namespace",
        "write its path, as in /run/netns/NAME",
    );
    notes.into_vec()
}
