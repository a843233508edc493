//! A service: a name, perhaps virtual addresses, and how connections are spread over its endpoints.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::Identity;
use crate::waypoint::Waypoint;

/// A service. Its endpoints are the workloads that list it: see [`crate::workload::Membership`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `<namespace>/<hostname>`.
    pub key: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
    /// Namespace of the object.
    pub namespace: Arc<str>,
    /// Fully qualified name.
    pub hostname: Arc<str>,
    /// Virtual addresses; empty when headless. IPv4-mapped ones are stored as IPv4.
    pub addresses: Vec<IpAddr>,
    /// Its ports. A connection to a virtual address on any other port is refused.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP`, when set.
    pub session_affinity: Option<ClientIpAffinity>,
    /// Which endpoints connections from inside the cluster may use.
    pub internal_traffic_policy: InternalTrafficPolicy,
    /// Which endpoints are preferred.
    pub traffic_distribution: TrafficDistribution,
    /// Every endpoint counts as ready, whatever its condition.
    pub publish_not_ready_addresses: bool,
    /// Identities that are accepted from an endpoint beside the endpoint's own.
    pub subject_alt_names: Vec<Identity>,
    /// What connections to it must pass.
    pub waypoint: Option<Arc<Waypoint>>,
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Number.
    pub port: u16,
    /// Name; empty when it has none.
    pub name: Arc<str>,
    /// What is spoken on it.
    pub app_protocol: AppProtocol,
}

/// What is spoken on a service's port, as far as it was declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Not declared, or opaque bytes.
    #[default]
    Tcp,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 in clear.
    Http2,
    /// gRPC.
    Grpc,
    /// TLS from end to end.
    Tls,
}

/// `sessionAffinity: ClientIP`: a client address stays with its endpoint until it has opened no connection for
/// [`timeout`](Self::timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIpAffinity {
    /// Kubernetes' default is three hours.
    pub timeout: Duration,
}

impl Default for ClientIpAffinity {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3 * 60 * 60) }
    }
}

/// `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InternalTrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Only those on the client's node. With none there, connections are refused.
    Local,
}

/// `trafficDistribution`, as Kubernetes 1.36 defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficDistribution {
    /// No preference.
    #[default]
    Any,
    /// `PreferSameZone`, and its older name `PreferClose`: ready endpoints in the client's zone. All ready endpoints
    /// when there are none, when the client's zone is unknown, or when the zone of any ready endpoint is.
    PreferSameZone,
    /// `PreferSameNode`: ready endpoints on the client's node, else as for [`Self::PreferSameZone`].
    PreferSameNode,
}
