//! What the pods of one workload have in common.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use weft_model::Locality;

use super::view::{PodView, SIDECAR_STATUS};
use crate::object::namespace::{DATAPLANE_MODE, DataplaneMode};
use crate::object::node::locality;
use crate::object::waypoint::{GATEWAY_CLASS, WAYPOINT_CLASS, WaypointChoice};
use crate::object::{Interner, Labels};

/// What the pods of one workload have in common. Selectors are evaluated once per template, not once per pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodTemplate {
    pub labels: Labels,
    /// Of [`Self::labels`].
    pub signature: u64,
    pub service_account: Arc<str>,
    /// It names one. Every pod that an API server has admitted does, but for mirrors of static pods.
    pub names_account: bool,
    /// `deployment`, `daemonset`, …; `pod` without an owner; [`STATIC_POD`].
    pub workload_type: Arc<str>,
    /// The owner's name; `None` is the pod's own.
    pub workload_name: Option<Arc<str>>,
    /// Named TCP ports of its containers.
    pub ports: Box<[(Arc<str>, u16)]>,
    pub is_host_network: bool,
    pub has_sidecar: bool,
    /// What its own label says.
    pub mode: Option<DataplaneMode>,
    /// What its own labels say.
    pub locality: Locality,
    /// What its own labels say.
    pub waypoint: WaypointChoice,
    /// It is a waypoint itself: it takes tunnels by its own means, and nothing captures it.
    pub is_waypoint: bool,
}

/// The type of a pod that a kubelet has from a file of its node. The API server has a mirror of it, which the kubelet wrote: what
/// it says is the node's word alone. No kind of owner is called so.
pub(crate) const STATIC_POD: &str = "static-pod";

/// A template as it stands in a manifest, to look for one that is there already.
#[derive(Debug)]
pub(crate) struct TemplateKey<'a> {
    /// Sorted, each key once.
    labels: Vec<(&'a str, &'a str)>,
    service_account: &'a str,
    names_account: bool,
    workload_type: &'a str,
    workload_name: Option<&'a str>,
    ports: Vec<(&'a str, u16)>,
    is_host_network: bool,
    has_sidecar: bool,
}

impl<'a> TemplateKey<'a> {
    pub fn read(pod: &'a PodView<'_>) -> Self {
        let mut labels: Vec<(&str, &str)> = pod.metadata.labels.0.iter().map(|(k, v)| (&**k, &**v)).collect();
        labels.sort_unstable();
        labels.dedup_by(|a, b| a.0 == b.0);
        let (workload_type, workload_name) = owner(pod);
        let spec = &pod.spec;
        // A native sidecar is an init container that restarts.
        let native = spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let running = spec.containers.iter().chain(native);
        let ports = running
            .flat_map(|container| &container.ports)
            .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
            .filter_map(|port| Some((&**port.name.as_ref()?, port.container_port)))
            .collect();
        let mut containers = spec.containers.iter().chain(&spec.init_containers);
        let has_sidecar = pod.metadata.annotations.has_sidecar_status
            || labels.iter().any(|(key, _)| *key == SIDECAR_STATUS)
            || containers.any(|container| container.name.as_deref() == Some("istio-proxy"));
        let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
        Self {
            labels,
            service_account: account.unwrap_or("default"),
            names_account: account.is_some(),
            workload_type,
            workload_name,
            ports,
            is_host_network: spec.host_network,
            has_sidecar,
        }
    }

    pub fn service_account(&self) -> &'a str {
        self.service_account
    }

    pub fn is_host_network(&self) -> bool {
        self.is_host_network
    }

    pub fn has_sidecar(&self) -> bool {
        self.has_sidecar
    }

    pub fn is_static(&self) -> bool {
        self.workload_type == STATIC_POD
    }

    /// Whether it is a waypoint itself.
    pub fn is_waypoint(&self) -> bool {
        self.labels.iter().any(|(key, value)| *key == GATEWAY_CLASS && *value == WAYPOINT_CLASS)
            && !self.is_host_network
    }

    /// What its own label says.
    pub fn mode(&self) -> Option<DataplaneMode> {
        let label = self.labels.iter().find(|(key, _)| *key == DATAPLANE_MODE);
        DataplaneMode::read(label.map(|(_, mode)| *mode))
    }

    pub fn hash(&self, hasher: &impl BuildHasher) -> u64 {
        let mut state = hasher.build_hasher();
        self.labels.hash(&mut state);
        self.service_account.hash(&mut state);
        self.workload_name.hash(&mut state);
        self.ports.hash(&mut state);
        state.finish()
    }

    pub fn is_of(&self, template: &PodTemplate) -> bool {
        self.labels.len() == template.labels.len()
            && self.labels.iter().zip(template.labels.iter()).all(|(a, b)| a.0 == &*b.0 && a.1 == &*b.1)
            && self.service_account == &*template.service_account
            && self.names_account == template.names_account
            && self.workload_type.eq_ignore_ascii_case(&template.workload_type)
            && self.workload_name == template.workload_name.as_deref()
            && self.ports.len() == template.ports.len()
            && self.ports.iter().zip(&template.ports).all(|(a, b)| a.0 == &*b.0 && a.1 == b.1)
            && self.is_host_network == template.is_host_network
            && self.has_sidecar == template.has_sidecar
    }
}

impl PodTemplate {
    pub fn new(key: &TemplateKey<'_>, interner: &mut Interner) -> Self {
        let labels: Vec<_> = key.labels.iter().map(|(k, v)| (interner.text(k), interner.text(v))).collect();
        let labels = Labels::from_sorted(labels.into_boxed_slice());
        Self {
            signature: labels.signature(),
            service_account: interner.text(key.service_account),
            names_account: key.names_account,
            workload_type: interner.text(&key.workload_type.to_ascii_lowercase()),
            workload_name: key.workload_name.map(|name| interner.text(name)),
            ports: key.ports.iter().map(|(name, port)| (interner.text(name), *port)).collect(),
            is_host_network: key.is_host_network,
            has_sidecar: key.has_sidecar,
            mode: key.mode(),
            locality: locality(&labels),
            waypoint: WaypointChoice::read(|key| labels.get(key).map(|value| &**value), interner),
            is_waypoint: key.is_waypoint(),
            labels,
        }
    }

    pub fn key(&self) -> TemplateKey<'_> {
        TemplateKey {
            labels: self.labels.iter().map(|(k, v)| (&**k, &**v)).collect(),
            service_account: &self.service_account,
            names_account: self.names_account,
            workload_type: &self.workload_type,
            workload_name: self.workload_name.as_deref(),
            ports: self.ports.iter().map(|(name, port)| (&**name, *port)).collect(),
            is_host_network: self.is_host_network,
            has_sidecar: self.has_sidecar,
        }
    }

    pub fn is_static(&self) -> bool {
        &*self.workload_type == STATIC_POD
    }

    /// The number of the first port of this name.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(candidate, _)| &**candidate == name).map(|(_, port)| *port)
    }

    /// The first of these labels that is there.
    pub fn first_label(&self, keys: &[&str]) -> Option<&Arc<str>> {
        keys.iter().find_map(|key| self.labels.get(key))
    }
}

/// Type and name of the workload that a pod belongs to, by Istio's rules: the name is `None` for a pod on its own. A mirror pod is
/// known by its annotation, and by its node as an owner.
fn owner<'a>(pod: &'a PodView<'_>) -> (&'a str, Option<&'a str>) {
    let label = |key: &str| pod.metadata.labels.0.iter().find(|(k, _)| &**k == key).map(|(_, value)| &**value);
    // A ReplicaSet that a Deployment made is called <deployment>-<hash>.
    let parent = |name: &'a str, hash: Option<&str>| {
        name.strip_suffix(hash.filter(|hash| !hash.is_empty())?)?.strip_suffix('-').filter(|name| !name.is_empty())
    };
    let owners = &pod.metadata.owner_references;
    if pod.metadata.annotations.is_mirror || owners.iter().any(|owner| &*owner.kind == "Node") {
        return (STATIC_POD, None);
    }
    let Some(owner) = owners.iter().find(|owner| owner.controller) else {
        return ("pod", None);
    };
    let name = &*owner.name;
    match &*owner.kind {
        "ReplicaSet" => {
            if let Some(rollout) = parent(name, label("rollouts-pod-template-hash")) {
                ("rollout", Some(rollout))
            } else if let Some(deployment) = parent(name, label("pod-template-hash")) {
                ("deployment", Some(deployment))
            } else {
                ("replicaset", Some(name))
            }
        }
        "ReplicationController" => match label("deploymentconfig") {
            Some(config) => ("deploymentconfig", Some(config)),
            None => ("replicationcontroller", Some(name)),
        },
        // A CronJob calls its jobs <cronjob>-<minutes since 1970>.
        "Job" => match name.rsplit_once('-') {
            Some((cronjob, minutes))
                if !cronjob.is_empty()
                    && matches!(minutes.len(), 8..=10)
                    && minutes.bytes().all(|b| b.is_ascii_digit()) =>
            {
                ("cronjob", Some(cronjob))
            }
            _ => ("job", Some(name)),
        },
        "StatefulSet" => ("statefulset", Some(name)),
        "DaemonSet" => ("daemonset", Some(name)),
        "" => ("pod", None),
        other => (other, Some(name)),
    }
}
