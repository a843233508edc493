//! What is known of the pods of a node: of the API server, of the container runtime, and from `/proc`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_control::{LocalPod, Update};

use super::processes::Found;
use crate::sandbox::Sandbox;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// What the API server says, once it has.
    pub(super) said: Option<Update>,
    /// What the container runtime says, by its own ids.
    pub(super) sandboxes: HashMap<String, Sandbox>,
    /// What was found in `/proc`, by the pod's uid.
    pub(super) found: HashMap<String, Found>,
    /// Pods whose sandbox the runtime has removed: they end, and nothing of them is missing.
    pub(super) ended: HashSet<String>,
    /// Pods of the mesh as they were handed on last, by uid. An object may be gone before what runs in its sandbox is.
    pub(super) members: HashMap<Arc<str>, LocalPod>,
    pub(super) known: Known,
    /// No pod of this node is to be in the mesh any more, whatever the API server says.
    pub(super) is_leaving: bool,
    /// The pods of this node are another agent's.
    pub(super) stands_aside: bool,
}

/// What the CNI plug-in is told of namespaces: the name, whether its label takes pods into the mesh, and whether pods of the
/// mesh are in it here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known(pub(super) Vec<(Arc<str>, bool, bool)>);

impl Known {
    pub(super) fn of(update: &Update) -> Self {
        let members: HashSet<&str> =
            update.local_pods.iter().filter(|pod| pod.enrolled).map(|pod| &*pod.namespace).collect();
        let known =
            update.namespaces.iter().map(|(name, is_ambient)| (name.clone(), *is_ambient, members.contains(&**name)));
        Self(known.collect())
    }
}

impl Census {
    /// Whether no pod of this node is to be in the mesh.
    pub(super) fn lets_go(&self) -> bool {
        self.is_leaving || self.stands_aside
    }

    /// What the API server says of all pods of this node, as long as they may be in the mesh.
    pub(super) fn pods(&self) -> Vec<LocalPod> {
        let said = self.said.iter().flat_map(|update| &update.local_pods);
        said.map(|pod| LocalPod { enrolled: pod.enrolled && !self.lets_go(), ..pod.clone() }).collect()
    }

    pub(super) fn pod(&self, sandbox: &Sandbox) -> Option<&LocalPod> {
        self.said.as_ref()?.local_pods.iter().find(|pod| is_of(sandbox, pod))
    }

    /// Whether a sandbox is of a static pod: the API server knows it by its name alone.
    pub(super) fn is_static(&self, sandbox: &Sandbox) -> bool {
        let mut pods = self.said.iter().flat_map(|update| &update.local_pods);
        pods.any(|pod| pod.is_static() && !pod.enrolled && has_name(sandbox, pod))
    }

    /// Whether a sandbox is nothing of Weft's, whatever its namespace says.
    pub(super) fn is_others(&self, sandbox: &Sandbox) -> bool {
        self.stands_aside || self.is_static(sandbox)
    }

    pub(super) fn sandbox(&self, pod: &LocalPod) -> Option<&Sandbox> {
        self.sandboxes.values().find(|sandbox| is_of(sandbox, pod))
    }

    /// The pods of the mesh that have an address, and so a network namespace, which nobody has told of.
    pub(super) fn missing(&self) -> HashSet<String> {
        let pods = self.said.iter().flat_map(|update| &update.local_pods);
        let is_missing = |pod: &&LocalPod| {
            let is_known = self.found.contains_key(&*pod.instance) || self.sandbox(pod).is_some();
            pod.enrolled && !pod.addresses.is_empty() && !is_known && !self.ended.contains(&*pod.instance)
        };
        pods.filter(is_missing).map(|pod| pod.instance.to_string()).collect()
    }

    /// Pods of the mesh whose object is gone, or says that they have ended, while their sandbox is there: whoever deletes an
    /// object takes nothing out of the mesh that may still run.
    pub(super) fn left_behind(&self) -> Vec<LocalPod> {
        let said = self.said.iter().flat_map(|update| &update.local_pods);
        let said: HashSet<&str> = said.map(|pod| &*pod.instance).collect();
        let has_sandbox = |pod: &LocalPod| {
            let uid = &*pod.instance;
            !self.ended.contains(uid) && (self.sandbox(pod).is_some() || self.found.contains_key(uid))
        };
        let left = self.members.values().filter(|pod| !said.contains(&*pod.instance) && has_sandbox(pod));
        left.map(|pod| LocalPod { enrolled: !self.lets_go(), ..pod.clone() }).collect()
    }

    /// Whether the namespace of a pod has been heard of: before that nobody knows whether it takes pods into the mesh.
    pub(super) fn knows_namespace(&self, namespace: &str) -> bool {
        let namespaces = self.said.as_ref().map_or(&[][..], |said| &said.namespaces);
        namespaces.binary_search_by(|(known, _)| (**known).cmp(namespace)).is_ok()
    }

    /// A pod with its network namespace, and with its addresses even before the API server knows them. `None` for one
    /// that has no sandbox yet: there is nothing to capture.
    pub(super) fn fill_in(&self, pod: &LocalPod) -> Option<LocalPod> {
        let (sandbox, found) = (self.sandbox(pod), self.found.get(&*pod.instance));
        if sandbox.is_none() && self.ended.contains(&*pod.instance) {
            return None;
        }
        let netns = sandbox.map(|sandbox| &sandbox.netns).or(found.map(|found| &found.path)).cloned();
        let mut addresses = pod.addresses.clone();
        // What it was captured with is kept for as long as the API server says the same in another order.
        if let Some(sandbox) = sandbox
            && is_same_set(&addresses, &sandbox.addresses)
        {
            addresses.clone_from(&sandbox.addresses);
        }
        let enrolled = pod.enrolled && !self.lets_go();
        (!addresses.is_empty()).then(|| LocalPod { netns, addresses, enrolled, ..pod.clone() })
    }
}

fn is_of(sandbox: &Sandbox, pod: &LocalPod) -> bool {
    match sandbox.uid.is_empty() {
        true => has_name(sandbox, pod),
        false => *sandbox.uid == *pod.instance,
    }
}

fn has_name(sandbox: &Sandbox, pod: &LocalPod) -> bool {
    *sandbox.namespace == *pod.namespace && *sandbox.name == *pod.name
}

/// Whether the API server says nothing yet, or the same as the runtime.
fn is_same_set(said: &[IpAddr], of_runtime: &[IpAddr]) -> bool {
    said.is_empty() || said.len() == of_runtime.len() && said.iter().all(|address| of_runtime.contains(address))
}
