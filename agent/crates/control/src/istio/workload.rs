//! Workloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{EndpointCondition, Health, Identity, Locality, Membership, PortMapping, TunnelProtocol, Workload};
use weft_proto::extension::{self, Condition};
use weft_proto::workload as proto;

use super::{ConversionError, DEFAULT_ACCOUNT, DEFAULT_TRUST_DOMAIN, Reading, octets, shared, waypoint};

const EXTENSION: &str = "weft.dev/Workload";

pub(super) fn encode(workload: &Workload) -> proto::Workload {
    let identity = &workload.identity;
    let elide = |value: &str, default: &str| if value == default { String::new() } else { value.to_owned() };
    let kind = kind(&workload.workload_type);
    let status = status(workload);
    let implied = implied(status);
    let mut own = extension::Workload { instance: workload.instance.to_string(), ..Default::default() };
    if kind.is_none() {
        own.workload_type = workload.workload_type.to_string();
    }
    if workload.app != workload.canonical_service {
        own.app = Some(workload.app.to_string());
    }
    if workload.version != workload.canonical_revision {
        own.version = Some(workload.version.to_string());
    }
    if identity.namespace() != &*workload.namespace {
        own.identity = identity.uri().to_string();
    }
    if workload.health == Health::Healthy && status == proto::WorkloadStatus::Unhealthy {
        own.healthy = Some(true);
    }
    own.waypoint_is_optional = workload.waypoint.as_ref().is_some_and(|waypoint| waypoint.is_optional);
    let mut services: BTreeMap<String, proto::PortList> = BTreeMap::new();
    for membership in &workload.services {
        let ports = membership.ports.iter().map(|port| proto::Port {
            service_port: port.service_port.into(),
            target_port: port.target_port.into(),
            app_protocol: 0,
        });
        let is_first = !services.contains_key(&*membership.service);
        services.entry(membership.service.to_string()).or_default().ports.extend(ports);
        // A service that is listed twice is one membership, and its first condition counts.
        if is_first && membership.condition != implied {
            own.conditions.insert(membership.service.to_string(), condition(membership.condition).into());
        }
        if let Some(waypoint) = &membership.waypoint
            && is_first
        {
            own.waypoints.insert(membership.service.to_string(), waypoint::encode_own(waypoint));
        }
    }
    let locality = &workload.locality;
    proto::Workload {
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        addresses: workload.addresses.iter().copied().map(octets).collect(),
        network: workload.network.to_string(),
        tunnel_protocol: match workload.protocol {
            TunnelProtocol::None => proto::TunnelProtocol::None,
            TunnelProtocol::Hbone => proto::TunnelProtocol::Hbone,
        }
        .into(),
        trust_domain: elide(identity.trust_domain(), DEFAULT_TRUST_DOMAIN),
        service_account: elide(identity.service_account(), DEFAULT_ACCOUNT),
        waypoint: workload.waypoint.as_ref().map(|waypoint| waypoint::encode(waypoint, &workload.network)),
        node: workload.node.to_string(),
        canonical_name: workload.canonical_service.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        // A kind that Istio has no name for is a pod to others.
        workload_type: kind.unwrap_or(proto::WorkloadType::Pod).into(),
        workload_name: workload.workload_name.to_string(),
        authorization_policies: workload.policies.iter().map(|key| key.to_string()).collect(),
        status: status.into(),
        cluster_id: workload.cluster.to_string(),
        uid: workload.uid.to_string(),
        services,
        locality: (*locality != Locality::default()).then(|| proto::Locality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            subzone: locality.subzone.to_string(),
        }),
        network_mode: match workload.is_host_network {
            false => proto::NetworkMode::Standard,
            true => proto::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: super::extension(&own, EXTENSION),
        ..Default::default()
    }
}

pub(super) fn decode(
    message: proto::Workload,
    reading: Reading<'_>,
) -> Result<(Workload, Vec<&'static str>), ConversionError> {
    if message.uid.is_empty() {
        return Err(reading.fail("uid", "is empty"));
    }
    let own: extension::Workload = reading.extension(&message.extensions, EXTENSION)?;
    let default = |value: String, default: &str| if value.is_empty() { default.to_owned() } else { value };
    let identity = if own.identity.is_empty() {
        let trust_domain = default(message.trust_domain, DEFAULT_TRUST_DOMAIN);
        let account = default(message.service_account, DEFAULT_ACCOUNT);
        Identity::new(&trust_domain, &message.namespace, &account)
    } else {
        own.identity.parse()
    };
    let identity = identity.map_err(|error| reading.fail("service_account", error))?;
    let status: proto::WorkloadStatus = reading.value("status", message.status)?;
    let kind: proto::WorkloadType = reading.value("workload_type", message.workload_type)?;
    let tunnel: proto::TunnelProtocol = reading.value("tunnel_protocol", message.tunnel_protocol)?;
    let mode: proto::NetworkMode = reading.value("network_mode", message.network_mode)?;
    let mut ignored = Vec::new();
    let mut ignore = |field, is_set: bool| ignored.extend(is_set.then_some(field));
    ignore("network_gateway", message.network_gateway.is_some());
    ignore("application_tunnel", message.application_tunnel.is_some());
    ignore("hostname", message.addresses.is_empty() && !message.hostname.is_empty());
    ignore("capacity", message.capacity.is_some_and(|capacity| capacity != 1));
    ignore("tunnel_protocol", tunnel == proto::TunnelProtocol::LegacyIstioMtls);
    let mut addresses = Vec::with_capacity(message.addresses.len());
    for (index, bytes) in message.addresses.iter().enumerate() {
        addresses.push(reading.address(format_args!("addresses[{index}]"), bytes)?);
    }
    let mut services = Vec::with_capacity(message.services.len());
    for (service, ports) in &message.services {
        services.push(membership(service, ports, &own, status, reading)?);
    }
    let waypoint = waypoint::decode(message.waypoint.as_ref(), own.waypoint_is_optional, &message.network, reading)?;
    let locality = message.locality.unwrap_or_default();
    let canonical_service = shared(&message.canonical_name);
    let canonical_revision = shared(&message.canonical_revision);
    let workload = Workload {
        uid: message.uid.into(),
        instance: own.instance.into(),
        name: message.name.into(),
        namespace: shared(&message.namespace),
        identity,
        cluster: shared(&message.cluster_id),
        network: shared(&message.network),
        node: shared(&message.node),
        addresses,
        protocol: match tunnel {
            proto::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
            // Nobody speaks the sidecars' mutual TLS here; such a workload takes plain text as well.
            proto::TunnelProtocol::None | proto::TunnelProtocol::LegacyIstioMtls => TunnelProtocol::None,
        },
        is_host_network: mode == proto::NetworkMode::HostNetwork,
        workload_name: shared(&message.workload_name),
        workload_type: if own.workload_type.is_empty() { shared(kind_name(kind)) } else { shared(&own.workload_type) },
        app: own.app.map_or_else(|| Arc::clone(&canonical_service), |app| shared(&app)),
        version: own.version.map_or_else(|| Arc::clone(&canonical_revision), |version| shared(&version)),
        canonical_service,
        canonical_revision,
        locality: Locality {
            region: shared(&locality.region),
            zone: shared(&locality.zone),
            subzone: shared(&locality.subzone),
        },
        health: match (own.healthy, status) {
            (Some(true), _) | (None, proto::WorkloadStatus::Healthy) => Health::Healthy,
            (Some(false), _) | (None, proto::WorkloadStatus::Unhealthy) => Health::Unhealthy,
        },
        policies: message.authorization_policies.iter().map(|key| shared(key)).collect(),
        services,
        waypoint,
    };
    Ok((workload, ignored))
}

fn membership(
    service: &str,
    list: &proto::PortList,
    own: &extension::Workload,
    status: proto::WorkloadStatus,
    reading: Reading<'_>,
) -> Result<Membership, ConversionError> {
    let mut ports = Vec::with_capacity(list.ports.len());
    for (index, port) in list.ports.iter().enumerate() {
        let at = |field: &str| format!("services[{service}].ports[{index}].{field}");
        let service_port = reading.port(at("service_port"), port.service_port)?;
        // An endpoint without the port that the service leads to: the service port does not lead to it.
        if port.target_port != 0 {
            let target_port = reading.port(at("target_port"), port.target_port)?;
            ports.push(PortMapping { service_port, target_port });
        }
    }
    let condition = match own.conditions.get(service) {
        None => implied(status),
        Some(number) => match reading.value(format_args!("extensions[{EXTENSION}].conditions[{service}]"), *number)? {
            Condition::Ready => EndpointCondition::Ready,
            Condition::Terminating => EndpointCondition::Terminating,
            Condition::NotReady => EndpointCondition::NotReady,
        },
    };
    let waypoint = own.waypoints.get(service).map(|waypoint| waypoint::decode_own(waypoint, service, reading));
    Ok(Membership { service: shared(service), ports, condition, waypoint: waypoint.transpose()? })
}

/// What agents that know one status only are told: who is an endpoint of services and ready for none of them must not
/// get connections from them.
fn status(workload: &Workload) -> proto::WorkloadStatus {
    let is_used = workload.services.is_empty()
        || workload.services.iter().any(|membership| membership.condition == EndpointCondition::Ready);
    match workload.health {
        Health::Healthy if is_used => proto::WorkloadStatus::Healthy,
        Health::Healthy | Health::Unhealthy => proto::WorkloadStatus::Unhealthy,
    }
}

/// The condition, for each of its services, of a workload with this status.
fn implied(status: proto::WorkloadStatus) -> EndpointCondition {
    match status {
        proto::WorkloadStatus::Healthy => EndpointCondition::Ready,
        proto::WorkloadStatus::Unhealthy => EndpointCondition::NotReady,
    }
}

fn condition(condition: EndpointCondition) -> Condition {
    match condition {
        EndpointCondition::Ready => Condition::Ready,
        EndpointCondition::Terminating => Condition::Terminating,
        EndpointCondition::NotReady => Condition::NotReady,
    }
}

/// Istio's name for a kind of owner, where it has one.
fn kind(name: &str) -> Option<proto::WorkloadType> {
    use proto::WorkloadType::{Cronjob, Deployment, Job, Pod};
    [Deployment, Cronjob, Pod, Job].into_iter().find(|kind| kind_name(*kind) == name)
}

fn kind_name(kind: proto::WorkloadType) -> &'static str {
    match kind {
        proto::WorkloadType::Deployment => "deployment",
        proto::WorkloadType::Cronjob => "cronjob",
        proto::WorkloadType::Pod => "pod",
        proto::WorkloadType::Job => "job",
    }
}
