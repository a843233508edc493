//! Pods.

mod template;
pub(crate) mod view;

use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use template::{PodTemplate, STATIC_POD, TemplateKey};
use view::PodView;

use super::metadata::{address, excerpt, identify, is_dns_subdomain};
use super::namespace::{DATAPLANE_MODE, DataplaneMode};
use super::waypoint::WaypointChoice;
use super::{Interner, Kind};
use crate::problem::Notes;

/// Where a pod stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PodPhase {
    /// Not all of its containers have started.
    Pending,
    /// It runs.
    Running,
    /// `Succeeded` or `Failed`: its address may belong to another pod by now.
    Over,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// `metadata.uid`, or empty.
    pub uid: Arc<str>,
    pub template: Arc<PodTemplate>,
    /// Empty when it is not scheduled.
    pub node: Arc<str>,
    pub addresses: Box<[IpAddr]>,
    /// The annotation `weft.dev/netns`.
    pub netns: Option<Arc<str>>,
    /// It has that annotation. Whose agent has no use for the path remembers this alone.
    pub has_netns: bool,
    /// Its agent says that it captures the pod: the annotation `ambient.istio.io/redirection`.
    pub is_redirected: bool,
    pub phase: PodPhase,
    /// The condition `Ready`; `None` when the status does not have it.
    pub ready: Option<bool>,
    /// It has a deletion timestamp.
    pub is_terminating: bool,
    /// Connections may pass by its waypoint: the annotation `weft.dev/waypoint-bypass`.
    pub may_bypass_waypoint: bool,
}

impl Pod {
    pub fn read(manifest: &PodView<'_>, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let metadata = &manifest.metadata;
        let id = identify(Kind::Pod, metadata.namespace.as_deref(), metadata.name.as_deref(), interner, notes)?;
        let key = TemplateKey::read(manifest);
        if !is_dns_subdomain(key.service_account()) {
            let message = format!("'{}' is not the name of a service account", excerpt(key.service_account()));
            notes.error("spec.serviceAccountName", message, "write the name of a ServiceAccount");
            return None;
        }
        let status = &manifest.status;
        let mut addresses = Vec::with_capacity(status.pod_ips.len().max(1));
        for (i, found) in status.pod_ips.iter().enumerate() {
            let found = address(&found.ip, || format!("status.podIPs[{i}].ip"), notes);
            addresses.extend(found.filter(|address| !addresses.contains(address)));
        }
        if let Some(found) = status.pod_ip.as_deref().filter(|text| status.pod_ips.is_empty() && !text.is_empty()) {
            addresses.extend(address(found, || "status.podIP".to_owned(), notes));
        }
        let netns = metadata.annotations.netns.as_deref();
        if let Some(relative) = netns.filter(|path| !path.starts_with('/')) {
            notes.error(
                format!("metadata.annotations[{}]", view::NETNS),
                format!("'{}' is not an absolute path", excerpt(relative)),
                "write the path of the network namespace, as in /run/netns/NAME",
            );
        }
        let template = interner.template(&key);
        DataplaneMode::check(template.labels.get(DATAPLANE_MODE).map(|mode| &**mode), notes);
        WaypointChoice::check(|key| template.labels.get(key).map(|value| &**value), notes);
        let ready = status.conditions.iter().find(|condition| &*condition.kind == "Ready");
        Some(Self {
            name: id.name,
            namespace: id.namespace,
            uid: metadata.uid.as_deref().map(Arc::from).unwrap_or_default(),
            template,
            node: manifest.spec.node_name.as_deref().map(|node| interner.text(node)).unwrap_or_default(),
            addresses: addresses.into_boxed_slice(),
            netns: netns.filter(|path| path.starts_with('/')).map(Arc::from),
            has_netns: netns.is_some(),
            is_redirected: metadata.annotations.is_redirected,
            phase: match status.phase.as_deref() {
                Some("Succeeded" | "Failed") => PodPhase::Over,
                Some("Pending") => PodPhase::Pending,
                _ => PodPhase::Running,
            },
            ready: ready.map(|condition| &*condition.status == "True"),
            is_terminating: metadata.deletion_timestamp.is_some(),
            may_bypass_waypoint: metadata.annotations.may_bypass_waypoint,
        })
    }

    /// Whether it has addresses that are its own to use.
    pub fn is_live(&self) -> bool {
        self.phase != PodPhase::Over && !self.addresses.is_empty()
    }

    pub fn is_ready(&self) -> bool {
        self.ready == Some(true)
    }
}

#[cfg(test)]
mod tests;
