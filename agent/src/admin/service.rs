//! Services.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_model::{AppProtocol, InternalTrafficPolicy, Service, Snapshot, TrafficDistribution};

use super::workload::condition;

/// A service and its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Fully qualified name.
    pub hostname: Arc<str>,
    /// Virtual addresses; empty when it is headless.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePortInfo>,
    /// Its endpoints, by namespace and name.
    pub endpoints: Vec<EndpointInfo>,
    /// For `sessionAffinity: ClientIP`: how long a client stays with its endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_seconds: Option<u64>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// `PreferSameZone` or `PreferSameNode`, if there is a preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// The waypoint that connections to it must pass: the key of its service, or its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<String>,
    /// Every endpoint counts as ready.
    pub publish_not_ready_addresses: bool,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePortInfo {
    /// Number.
    pub port: u16,
    /// Name; empty when it has none.
    pub name: Arc<str>,
    /// `tcp`, `http`, `http2`, `grpc` or `tls`, as declared.
    pub protocol: String,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Namespace of the workload.
    pub namespace: Arc<str>,
    /// Name of the workload.
    pub workload: Arc<str>,
    /// Addresses of the workload.
    pub addresses: Vec<IpAddr>,
    /// `ready`, `terminating` or `not_ready`.
    pub condition: String,
}

impl ServiceInfo {
    /// The services of a namespace, or all, by namespace and name.
    pub fn list(snapshot: &Snapshot, namespace: Option<&str>) -> Vec<Self> {
        let mut services: Vec<_> = snapshot
            .services()
            .filter(|service| namespace.is_none_or(|namespace| *service.namespace == *namespace))
            .collect();
        services.sort_by(|a, b| (&a.namespace, &a.name, &a.key).cmp(&(&b.namespace, &b.name, &b.key)));
        services.into_iter().map(|service| Self::new(snapshot, service)).collect()
    }

    /// Endpoints that new connections may be given to.
    pub fn ready_endpoints(&self) -> usize {
        let is_ready = |endpoint: &&EndpointInfo| self.publish_not_ready_addresses || endpoint.condition == "ready";
        self.endpoints.iter().filter(is_ready).count()
    }

    fn new(snapshot: &Snapshot, service: &Service) -> Self {
        let mut endpoints: Vec<_> = snapshot
            .endpoints(&service.key)
            .map(|endpoint| EndpointInfo {
                namespace: Arc::clone(&endpoint.workload().namespace),
                workload: Arc::clone(&endpoint.workload().name),
                addresses: endpoint.workload().addresses.clone(),
                condition: condition(endpoint.condition()).to_owned(),
            })
            .collect();
        endpoints.sort_by(|a, b| (&a.namespace, &a.workload).cmp(&(&b.namespace, &b.workload)));
        Self {
            namespace: Arc::clone(&service.namespace),
            name: Arc::clone(&service.name),
            hostname: Arc::clone(&service.hostname),
            addresses: service.addresses.clone(),
            ports: service
                .ports
                .iter()
                .map(|port| ServicePortInfo {
                    port: port.port,
                    name: Arc::clone(&port.name),
                    protocol: match port.app_protocol {
                        AppProtocol::Tcp => "tcp",
                        AppProtocol::Http => "http",
                        AppProtocol::Http2 => "http2",
                        AppProtocol::Grpc => "grpc",
                        AppProtocol::Tls => "tls",
                    }
                    .to_owned(),
                })
                .collect(),
            endpoints,
            session_affinity_seconds: service.session_affinity.map(|affinity| affinity.timeout.as_secs()),
            internal_traffic_policy: match service.internal_traffic_policy {
                InternalTrafficPolicy::Cluster => "Cluster".to_owned(),
                InternalTrafficPolicy::Local => "Local".to_owned(),
            },
            traffic_distribution: match service.traffic_distribution {
                TrafficDistribution::Any => None,
                TrafficDistribution::PreferSameZone => Some("PreferSameZone".to_owned()),
                TrafficDistribution::PreferSameNode => Some("PreferSameNode".to_owned()),
            },
            waypoint: service.waypoint.as_ref().map(ToString::to_string),
            publish_not_ready_addresses: service.publish_not_ready_addresses,
        }
    }
}
