//! Workloads.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_model::{EndpointCondition, Health, Snapshot, TunnelProtocol, Workload};

/// A workload of the mesh, or one that the mesh talks to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadInfo {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// What it is known by: `<cluster>//Pod/<namespace>/<name>`.
    pub uid: Arc<str>,
    /// Which incarnation of the pod it is; empty when that is not known.
    pub instance: Arc<str>,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// How it is reached: `hbone` in a tunnel, `tcp` in clear.
    pub protocol: String,
    /// `spiffe://…`
    pub identity: Arc<str>,
    /// Node that it runs on; empty when unknown.
    pub node: Arc<str>,
    /// Cluster that it runs in.
    pub cluster: Arc<str>,
    /// Network that its addresses belong to.
    pub network: Arc<str>,
    /// It shares its node's addresses.
    pub is_host_network: bool,
    /// Name of its owner, else its own.
    pub workload_name: Arc<str>,
    /// Kind of its owner: `deployment`, `pod`, …
    pub workload_type: Arc<str>,
    /// Istio's canonical service name.
    pub canonical_service: Arc<str>,
    /// Istio's canonical revision.
    pub canonical_revision: Arc<str>,
    /// Region; empty when unknown.
    pub region: Arc<str>,
    /// Zone; empty when unknown.
    pub zone: Arc<str>,
    /// `healthy` or `unhealthy`, as it reports itself.
    pub health: String,
    /// Keys of the policies that select it. Those of its namespace and of the mesh apply as well.
    pub policies: Vec<Arc<str>>,
    /// The waypoint that connections to its own addresses must pass: the key of its service, or its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<String>,
    /// The services that it is an endpoint of.
    pub services: Vec<MembershipInfo>,
}

/// A service that a workload is an endpoint of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipInfo {
    /// Key of the service.
    pub service: Arc<str>,
    /// `ready`, `terminating` or `not_ready`.
    pub condition: String,
    /// Ports of the service, and where each leads.
    pub ports: Vec<(u16, u16)>,
}

impl WorkloadInfo {
    /// The workloads of a namespace, or all, by namespace and name.
    pub fn list(snapshot: &Snapshot, namespace: Option<&str>) -> Vec<Self> {
        let mut workloads: Vec<_> = snapshot
            .workloads()
            .filter(|workload| namespace.is_none_or(|namespace| *workload.namespace == *namespace))
            .collect();
        workloads.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        workloads.into_iter().map(|workload| Self::new(workload)).collect()
    }

    fn new(workload: &Workload) -> Self {
        Self {
            namespace: Arc::clone(&workload.namespace),
            name: Arc::clone(&workload.name),
            uid: Arc::clone(&workload.uid),
            instance: Arc::clone(&workload.instance),
            addresses: workload.addresses.clone(),
            protocol: match workload.protocol {
                TunnelProtocol::Hbone => "hbone".to_owned(),
                TunnelProtocol::None => "tcp".to_owned(),
            },
            identity: Arc::clone(workload.identity.uri()),
            node: Arc::clone(&workload.node),
            cluster: Arc::clone(&workload.cluster),
            network: Arc::clone(&workload.network),
            is_host_network: workload.is_host_network,
            workload_name: Arc::clone(&workload.workload_name),
            workload_type: Arc::clone(&workload.workload_type),
            canonical_service: Arc::clone(&workload.canonical_service),
            canonical_revision: Arc::clone(&workload.canonical_revision),
            region: Arc::clone(&workload.locality.region),
            zone: Arc::clone(&workload.locality.zone),
            health: match workload.health {
                Health::Healthy => "healthy".to_owned(),
                Health::Unhealthy => "unhealthy".to_owned(),
            },
            policies: workload.policies.clone(),
            waypoint: workload.waypoint.as_ref().map(ToString::to_string),
            services: workload
                .services
                .iter()
                .map(|membership| MembershipInfo {
                    service: Arc::clone(&membership.service),
                    condition: condition(membership.condition).to_owned(),
                    ports: membership.ports.iter().map(|port| (port.service_port, port.target_port)).collect(),
                })
                .collect(),
        }
    }
}

/// The word for the condition of an endpoint.
pub(super) fn condition(condition: EndpointCondition) -> &'static str {
    match condition {
        EndpointCondition::Ready => "ready",
        EndpointCondition::Terminating => "terminating",
        EndpointCondition::NotReady => "not_ready",
    }
}
