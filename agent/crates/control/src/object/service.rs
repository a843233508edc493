//! Services.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_model::{AppProtocol, ClientIpAffinity, InternalTrafficPolicy, TrafficDistribution};

use super::metadata::{address, excerpt, identify_by, port};
use super::waypoint::{WAYPOINT_BYPASS, WaypointChoice};
use super::{Interner, Kind, Labels, Selector};
use crate::problem::Notes;

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub kind: ServiceKind,
    pub addresses: Box<[IpAddr]>,
    /// Its TCP ports.
    pub ports: Box<[ServicePort]>,
    /// `None`: its endpoints are given by EndpointSlices alone.
    pub selector: Option<Selector>,
    pub session_affinity: Option<ClientIpAffinity>,
    pub internal_traffic_policy: InternalTrafficPolicy,
    pub traffic_distribution: TrafficDistribution,
    pub publish_not_ready_addresses: bool,
    /// What its own labels say.
    pub waypoint: WaypointChoice,
    /// Connections may pass by its waypoint: the annotation `weft.dev/waypoint-bypass`.
    pub may_bypass_waypoint: bool,
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ServiceKind {
    /// By virtual addresses.
    Virtual,
    /// By its endpoints' own addresses.
    Headless,
    /// By the DNS name of something else: nothing for a mesh to do.
    External,
}

/// One TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub port: u16,
    /// Empty when it has none.
    pub name: Arc<str>,
    pub target: TargetPort,
    pub app_protocol: AppProtocol,
}

/// Where a service's port leads on an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    /// Of a container's port.
    Name(Arc<str>),
}

impl Service {
    pub fn read(manifest: &core::Service, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::Service, &manifest.metadata, interner, notes)?;
        let default = core::ServiceSpec::default();
        let spec = manifest.spec.as_ref().unwrap_or(&default);
        let kind = kind(spec, notes);
        let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty());
        let label = |key: &str| manifest.metadata.labels.as_ref()?.get(key).map(String::as_str);
        WaypointChoice::check(label, notes);
        let annotations = manifest.metadata.annotations.as_ref();
        let bypass = annotations.and_then(|annotations| annotations.get(WAYPOINT_BYPASS.0)).map(String::as_str);
        Some(Self {
            name: id.name,
            namespace: id.namespace,
            kind,
            addresses: if kind == ServiceKind::Virtual { addresses(spec, notes) } else { Box::default() },
            ports: ports(spec, interner, notes),
            selector: selector
                .filter(|_| kind != ServiceKind::External)
                .map(|labels| Selector::new(Labels::new(labels, interner))),
            session_affinity: session_affinity(spec, notes),
            internal_traffic_policy: match spec.internal_traffic_policy.as_deref() {
                None | Some("Cluster") => InternalTrafficPolicy::Cluster,
                Some("Local") => InternalTrafficPolicy::Local,
                Some(other) => {
                    notes.error(
                        "spec.internalTrafficPolicy",
                        format!("'{}' is not a policy", excerpt(other)),
                        "write Cluster or Local",
                    );
                    InternalTrafficPolicy::Cluster
                }
            },
            traffic_distribution: match spec.traffic_distribution.as_deref() {
                None => TrafficDistribution::Any,
                Some("PreferClose" | "PreferSameZone") => TrafficDistribution::PreferSameZone,
                Some("PreferSameNode") => TrafficDistribution::PreferSameNode,
                Some(other) => {
                    notes.warning(
                        "spec.trafficDistribution",
                        format!("'{}' is not known and has no effect", excerpt(other)),
                        "write PreferSameZone or PreferSameNode",
                    );
                    TrafficDistribution::Any
                }
            },
            publish_not_ready_addresses: spec.publish_not_ready_addresses.unwrap_or(false),
            waypoint: WaypointChoice::read(label, interner),
            may_bypass_waypoint: bypass == Some(WAYPOINT_BYPASS.1),
        })
    }
}

fn kind(spec: &core::ServiceSpec, notes: &mut Notes) -> ServiceKind {
    let is_headless = spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.as_ref().is_some_and(|ips| ips.iter().any(|ip| ip == "None"));
    match spec.type_.as_deref() {
        Some("ExternalName") => {
            notes.info(
                "spec.type",
                "an ExternalName service is an alias in DNS: connections go to what it names",
                "nothing is to be done",
            );
            ServiceKind::External
        }
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") if is_headless => ServiceKind::Headless,
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => ServiceKind::Virtual,
        Some(other) => {
            notes.error(
                "spec.type",
                format!("'{}' is not a type of service", excerpt(other)),
                "write ClusterIP, NodePort, LoadBalancer or ExternalName",
            );
            ServiceKind::Virtual
        }
    }
}

fn addresses(spec: &core::ServiceSpec, notes: &mut Notes) -> Box<[IpAddr]> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut add = |text: &str, field: String| {
        if let Some(address) = address(text, || field, notes).filter(|address| !found.contains(address)) {
            found.push(address);
        }
    };
    match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => {
            for (i, ip) in ips.iter().enumerate() {
                add(ip, format!("spec.clusterIPs[{i}]"));
            }
        }
        _ => {
            if let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty()) {
                add(ip, "spec.clusterIP".to_owned());
            }
        }
    }
    found.into_boxed_slice()
}

fn ports(spec: &core::ServiceSpec, interner: &mut Interner, notes: &mut Notes) -> Box<[ServicePort]> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (i, found) in spec.ports.iter().flatten().enumerate() {
        if found.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let Some(number) = port(found.port, || format!("spec.ports[{i}].port"), notes) else {
            continue;
        };
        if ports.iter().any(|other| other.port == number) {
            notes.error(
                format!("spec.ports[{i}].port"),
                format!("port {number} is there twice"),
                "give each port its own number",
            );
            continue;
        }
        let target = match &found.target_port {
            None => TargetPort::Number(number),
            // Kubernetes treats 0 as not set.
            Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => match port(*target, || format!("spec.ports[{i}].targetPort"), notes) {
                Some(target) => TargetPort::Number(target),
                None => continue,
            },
            Some(IntOrString::String(name)) => TargetPort::Name(interner.text(name)),
        };
        let name = found.name.as_deref().unwrap_or_default();
        ports.push(ServicePort {
            port: number,
            name: interner.text(name),
            target,
            app_protocol: app_protocol(found.app_protocol.as_deref(), name),
        });
    }
    ports.into_boxed_slice()
}

/// What `appProtocol` declares, else the first part of the port's name, as Istio has it.
fn app_protocol(declared: Option<&str>, port_name: &str) -> AppProtocol {
    let name = match declared {
        Some(declared) => declared,
        None => port_name.split('-').next().unwrap_or_default(),
    };
    match name.to_ascii_lowercase().as_str() {
        "http" | "http1" | "grpc-web" | "kubernetes.io/ws" => AppProtocol::Http,
        "http2" | "h2c" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => AppProtocol::Tls,
        _ => AppProtocol::Tcp,
    }
}

fn session_affinity(spec: &core::ServiceSpec, notes: &mut Notes) -> Option<ClientIpAffinity> {
    match spec.session_affinity.as_deref() {
        None | Some("None") => None,
        Some("ClientIP") => {
            let configured = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let Some(seconds) = configured.and_then(|client| client.timeout_seconds) else {
                return Some(ClientIpAffinity::default());
            };
            // Kubernetes allows up to one day.
            let Some(seconds) = u64::try_from(seconds).ok().filter(|seconds| matches!(seconds, 1..=86_400)) else {
                notes.error(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                    format!("{seconds} is out of range"),
                    "write a number of seconds from 1 to 86400",
                );
                return Some(ClientIpAffinity::default());
            };
            Some(ClientIpAffinity { timeout: Duration::from_secs(seconds) })
        }
        Some(other) => {
            notes.error(
                "spec.sessionAffinity",
                format!("'{}' is not an affinity", excerpt(other)),
                "write ClientIP or None",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
