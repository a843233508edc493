//! Services.
//!
//! Istio says `internalTrafficPolicy` and `trafficDistribution` as routing preferences: `Local` as a strict preference
//! for the node, `PreferSameZone` and `PreferSameNode` as scopes to fail over through; `publishNotReadyAddresses` as a
//! health policy.

use std::time::Duration;

use weft_model::{
    AppProtocol, ClientIpAffinity, Identity, InternalTrafficPolicy, Service, ServicePort, TrafficDistribution,
};
use weft_proto::extension::{self, Distribution};
use weft_proto::workload as proto;
use weft_proto::workload::load_balancing::{HealthPolicy, Mode, Scope};

use super::{ConversionError, Reading, octets, shared, waypoint};

const EXTENSION: &str = "weft.dev/Service";

pub(super) fn encode(service: &Service, network: &str) -> proto::Service {
    let affinity = service.session_affinity;
    let named = service.ports.iter().filter(|port| !port.name.is_empty());
    let mut own = extension::Service {
        session_affinity: affinity.and_then(|affinity| prost_types::Duration::try_from(affinity.timeout).ok()),
        waypoint_is_optional: service.waypoint.as_ref().is_some_and(|waypoint| waypoint.is_optional),
        port_names: named.map(|port| (port.port.into(), port.name.to_string())).collect(),
        ..Default::default()
    };
    if service.internal_traffic_policy == InternalTrafficPolicy::Local {
        own.distribution = match service.traffic_distribution {
            TrafficDistribution::Any => Distribution::Implied,
            TrafficDistribution::PreferSameZone => Distribution::PreferSameZone,
            TrafficDistribution::PreferSameNode => Distribution::PreferSameNode,
        }
        .into();
    }
    let addresses = service.addresses.iter();
    proto::Service {
        name: service.name.to_string(),
        namespace: service.namespace.to_string(),
        hostname: service.hostname.to_string(),
        addresses: addresses
            .map(|address| proto::NetworkAddress { network: network.to_owned(), address: octets(*address) })
            .collect(),
        // Where a port leads is said by each endpoint: 0 stands for that.
        ports: service
            .ports
            .iter()
            .map(|port| proto::Port {
                service_port: port.port.into(),
                target_port: 0,
                app_protocol: match port.app_protocol {
                    AppProtocol::Tcp => proto::AppProtocol::Unknown,
                    AppProtocol::Http => proto::AppProtocol::Http11,
                    AppProtocol::Http2 => proto::AppProtocol::Http2,
                    AppProtocol::Grpc => proto::AppProtocol::Grpc,
                    AppProtocol::Tls => proto::AppProtocol::Tls,
                }
                .into(),
            })
            .collect(),
        subject_alt_names: service.subject_alt_names.iter().map(|identity| identity.uri().to_string()).collect(),
        waypoint: service.waypoint.as_ref().map(|waypoint| waypoint::encode(waypoint, network)),
        load_balancing: load_balancing(service),
        extensions: super::extension(&own, EXTENSION),
        ..Default::default()
    }
}

fn load_balancing(service: &Service) -> Option<proto::LoadBalancing> {
    let (mode, preference) = match (service.internal_traffic_policy, service.traffic_distribution) {
        (InternalTrafficPolicy::Local, _) => (Mode::Strict, &[Scope::Node][..]),
        (_, TrafficDistribution::Any) => (Mode::UnspecifiedMode, &[][..]),
        (_, TrafficDistribution::PreferSameZone) => (Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone][..]),
        (_, TrafficDistribution::PreferSameNode) => {
            (Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node][..])
        }
    };
    let health_policy = match service.publish_not_ready_addresses {
        false => HealthPolicy::OnlyHealthy,
        true => HealthPolicy::AllowAll,
    };
    let balancing = proto::LoadBalancing {
        routing_preference: preference.iter().map(|scope| (*scope).into()).collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    };
    (balancing != proto::LoadBalancing::default()).then_some(balancing)
}

pub(super) fn decode(
    message: &proto::Service,
    network: &str,
    reading: Reading<'_>,
) -> Result<(Service, Vec<&'static str>), ConversionError> {
    if message.hostname.is_empty() {
        return Err(reading.fail("hostname", "is empty"));
    }
    let own: extension::Service = reading.extension(&message.extensions, EXTENSION)?;
    let mut ignored = Vec::new();
    let waypoint = waypoint::decode(message.waypoint.as_ref(), own.waypoint_is_optional, network, reading)?;
    let mut addresses = Vec::with_capacity(message.addresses.len());
    for (index, entry) in message.addresses.iter().enumerate() {
        let address = reading.address(format_args!("addresses[{index}]"), &entry.address)?;
        // On another network the same address may be something else.
        addresses.extend((entry.network == network).then_some(address));
    }
    let mut ports = Vec::with_capacity(message.ports.len());
    for (index, port) in message.ports.iter().enumerate() {
        let number = reading.port(format_args!("ports[{index}].service_port"), port.service_port)?;
        let protocol = reading.value(format_args!("ports[{index}].app_protocol"), port.app_protocol)?;
        ports.push(ServicePort {
            port: number,
            name: own.port_names.get(&port.service_port).map(|name| shared(name)).unwrap_or_default(),
            app_protocol: match protocol {
                proto::AppProtocol::Unknown | proto::AppProtocol::Tcp => AppProtocol::Tcp,
                proto::AppProtocol::Http11 => AppProtocol::Http,
                proto::AppProtocol::Http2 => AppProtocol::Http2,
                proto::AppProtocol::Grpc => AppProtocol::Grpc,
                proto::AppProtocol::Tls => AppProtocol::Tls,
            },
        });
    }
    let mut subject_alt_names = Vec::new();
    for (index, name) in message.subject_alt_names.iter().enumerate() {
        // A name that is no SPIFFE identity is on no certificate of the mesh.
        if !name.starts_with("spiffe://") {
            ignored.push("subject_alt_names");
            continue;
        }
        let identity: Identity =
            name.parse().map_err(|error| reading.fail(format_args!("subject_alt_names[{index}]"), error))?;
        subject_alt_names.push(identity);
    }
    let preference = preference(message.load_balancing.as_ref(), reading)?;
    ignored.extend(preference.is_approximate.then_some("load_balancing"));
    let distribution: Distribution =
        reading.value(format_args!("extensions[{EXTENSION}].distribution"), own.distribution)?;
    let service = Service {
        key: shared(&format!("{}/{}", message.namespace, message.hostname)),
        name: message.name.as_str().into(),
        namespace: shared(&message.namespace),
        hostname: message.hostname.as_str().into(),
        addresses,
        ports,
        session_affinity: own
            .session_affinity
            .map(|timeout| {
                let timeout = Duration::try_from(timeout);
                timeout.map_err(|error| reading.fail(format_args!("extensions[{EXTENSION}].session_affinity"), error))
            })
            .transpose()?
            .map(|timeout| ClientIpAffinity { timeout }),
        internal_traffic_policy: preference.internal_traffic_policy,
        traffic_distribution: match distribution {
            Distribution::Implied => preference.traffic_distribution,
            Distribution::PreferSameZone => TrafficDistribution::PreferSameZone,
            Distribution::PreferSameNode => TrafficDistribution::PreferSameNode,
        },
        publish_not_ready_addresses: preference.publish_not_ready_addresses,
        subject_alt_names,
        waypoint,
    };
    Ok((service, ignored))
}

/// What a [`proto::LoadBalancing`] means to the model.
#[derive(Default)]
struct Preference {
    internal_traffic_policy: InternalTrafficPolicy,
    traffic_distribution: TrafficDistribution,
    publish_not_ready_addresses: bool,
    /// Something was asked for that the model cannot express.
    is_approximate: bool,
}

fn preference(balancing: Option<&proto::LoadBalancing>, reading: Reading<'_>) -> Result<Preference, ConversionError> {
    let Some(balancing) = balancing else {
        return Ok(Preference::default());
    };
    let mode: Mode = reading.value("load_balancing.mode", balancing.mode)?;
    let health: HealthPolicy = reading.value("load_balancing.health_policy", balancing.health_policy)?;
    let mut scopes = Vec::with_capacity(balancing.routing_preference.len());
    for (index, scope) in balancing.routing_preference.iter().enumerate() {
        let scope: Scope = reading.value(format_args!("load_balancing.routing_preference[{index}]"), *scope)?;
        scopes.push(scope);
    }
    let has = |scope| scopes.contains(&scope);
    let is_local = mode == Mode::Strict && has(Scope::Node);
    let traffic_distribution = match mode {
        Mode::Failover if has(Scope::Node) => TrafficDistribution::PreferSameNode,
        Mode::Failover if has(Scope::Zone) || has(Scope::Subzone) => TrafficDistribution::PreferSameZone,
        Mode::Failover | Mode::Strict | Mode::Passthrough | Mode::UnspecifiedMode => TrafficDistribution::Any,
    };
    let is_approximate = match mode {
        Mode::UnspecifiedMode => false,
        // Without endpoints the address that was dialled is all there is.
        Mode::Passthrough => true,
        Mode::Strict => !is_local && scopes.iter().any(|scope| *scope != Scope::Network),
        Mode::Failover => {
            traffic_distribution == TrafficDistribution::Any && scopes.iter().any(|scope| *scope != Scope::Network)
        }
    };
    Ok(Preference {
        internal_traffic_policy: match is_local {
            false => InternalTrafficPolicy::Cluster,
            true => InternalTrafficPolicy::Local,
        },
        traffic_distribution,
        publish_not_ready_addresses: health == HealthPolicy::AllowAll,
        is_approximate,
    })
}
