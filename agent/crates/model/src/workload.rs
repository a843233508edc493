//! A workload: one pod, or one host, that has addresses and an identity.

use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::Identity;
use crate::waypoint::Waypoint;

/// One pod or host. Immutable once it is in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Name of the object in the mesh, `<cluster>//Pod/<namespace>/<name>`. It is what the store knows it by.
    pub uid: Arc<str>,
    /// `metadata.uid`, or empty. A pod of the same name that was created anew differs here and nowhere else.
    pub instance: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// The identity that its certificate carries.
    pub identity: Identity,
    /// Cluster that it runs in.
    pub cluster: Arc<str>,
    /// Network that its addresses belong to. Those of another network than the mesh's own are not reachable directly.
    pub network: Arc<str>,
    /// Node that it runs on; empty when unknown.
    pub node: Arc<str>,
    /// Its addresses, the primary one first. IPv4-mapped ones are stored as IPv4.
    pub addresses: Vec<IpAddr>,
    /// How it is reached.
    pub protocol: TunnelProtocol,
    /// It shares its node's addresses, and therefore never answers for them: see [`crate::store`].
    pub is_host_network: bool,
    /// Name of its owner (deployment, …), else the pod's own.
    pub workload_name: Arc<str>,
    /// Kind of its owner in lower case: `deployment`, `daemonset`, `pod`, …
    pub workload_type: Arc<str>,
    /// Istio's canonical service name.
    pub canonical_service: Arc<str>,
    /// Istio's canonical revision.
    pub canonical_revision: Arc<str>,
    /// Value of the `app` label (telemetry).
    pub app: Arc<str>,
    /// Value of the `version` label (telemetry).
    pub version: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether it reports itself healthy. For display: as a service's endpoint, [`Membership::condition`] counts.
    pub health: Health,
    /// Keys, `<namespace>/<name>`, of the policies that select this workload. Policies of its namespace and of the
    /// mesh apply without being listed. A key that no policy has denies everything until it has.
    pub policies: Vec<Arc<str>>,
    /// The services that it is an endpoint of. A service listed twice is one membership with both lists of ports.
    pub services: Vec<Membership>,
    /// What connections to its own addresses must pass; those to a service pass the service's.
    pub waypoint: Option<Arc<Waypoint>>,
}

impl Workload {
    /// Whether peers reach it through an HBONE tunnel.
    #[must_use]
    pub fn is_hbone(&self) -> bool {
        self.protocol == TunnelProtocol::Hbone
    }

    /// Its first address of the given family.
    #[must_use]
    pub fn address_of_family(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == ipv6)
    }

    /// Whether this is the same incarnation of the same object: neither another pod nor one created anew.
    #[must_use]
    pub fn is_same_instance(&self, other: &Self) -> bool {
        self.uid == other.uid && self.instance == other.instance
    }
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    None,
    /// A mutual TLS 1.3 tunnel to port 15008.
    Hbone,
}

/// Whether a workload reports itself healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Ready to serve.
    #[default]
    Healthy,
    /// Not ready.
    Unhealthy,
}

/// Where a workload runs. Parts that are unknown are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// `topology.kubernetes.io/region` of its node.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone` of its node.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone` of its node.
    pub subzone: Arc<str>,
}

/// One service that a workload is an endpoint of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Key of the service, `<namespace>/<hostname>`. The service itself may be unknown, or become known later.
    pub service: Arc<str>,
    /// Where each port of the service leads on this endpoint. A service port that is missing here does not lead
    /// to this endpoint.
    pub ports: Vec<PortMapping>,
    /// Whether the endpoint may get new connections.
    pub condition: EndpointCondition,
    /// The service's waypoint, for those that know the workload and not the service.
    pub waypoint: Option<Arc<Waypoint>>,
}

/// One port of a service on one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// Port of the service.
    pub service_port: u16,
    /// Port of the endpoint that it leads to.
    pub target_port: u16,
}

/// Conditions of an endpoint, as in an EndpointSlice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EndpointCondition {
    /// `ready`.
    #[default]
    Ready,
    /// `serving` and `terminating`: used only when no endpoint is ready.
    Terminating,
    /// Neither: never used, unless the service publishes addresses that are not ready.
    NotReady,
}
