//! Workloads, services and policies of every shape, for tests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ipnet::IpNet;
use weft_model::{
    Action, AppProtocol, Clause, ClientIpAffinity, EndpointCondition, Health, Identity, InternalTrafficPolicy,
    Locality, Match, Membership, Policy, PolicyScope, PortMapping, Rule, Service, ServiceAccountMatch, ServicePort,
    StringMatch, TrafficDistribution, TunnelProtocol, Waypoint, WaypointTarget, Workload,
};

fn one_of<T: Copy, const N: usize>(rng: &mut Rng, values: [T; N]) -> T {
    values[rng.usize(..N)]
}

fn name(rng: &mut Rng) -> Arc<str> {
    one_of(rng, ["a", "cart", "front-end", "default", "x.y"]).into()
}

fn text(rng: &mut Rng) -> Arc<str> {
    one_of(rng, ["", "v1", "cart", "deployment", "statefulset", "\u{fc}ber", "pod"]).into()
}

fn address(rng: &mut Rng) -> IpAddr {
    if rng.bool() { IpAddr::from(rng.u32(..).to_be_bytes()) } else { IpAddr::from(rng.u128(..).to_be_bytes()) }
}

fn range(rng: &mut Rng) -> IpNet {
    let address = address(rng);
    IpNet::new(address, rng.u8(..=if address.is_ipv4() { 32 } else { 128 })).expect("a length of the family")
}

fn list<T>(rng: &mut Rng, mut make: impl FnMut(&mut Rng) -> T) -> Vec<T> {
    (0..rng.usize(..3)).map(|_| make(rng)).collect()
}

fn identity(rng: &mut Rng, namespace: &str) -> Identity {
    let trust_domain = one_of(rng, ["cluster.local", "example.org"]);
    Identity::new(trust_domain, namespace, &name(rng)).expect("valid parts")
}

pub(crate) fn workload(rng: &mut Rng) -> Workload {
    let (namespace, pod) = (name(rng), name(rng));
    let own = if rng.u8(..8) == 0 { name(rng) } else { Arc::clone(&namespace) };
    let mut services: Vec<Membership> = Vec::new();
    for number in 0..rng.u8(..4) {
        services.push(Membership {
            service: format!("{namespace}/svc-{number}.{namespace}.svc.cluster.local").into(),
            ports: list(rng, |rng| PortMapping { service_port: rng.u16(1..), target_port: rng.u16(1..) }),
            condition: one_of(
                rng,
                [EndpointCondition::Ready, EndpointCondition::Terminating, EndpointCondition::NotReady],
            ),
            waypoint: waypoint(rng),
        });
    }
    Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{pod}").into(),
        instance: text(rng),
        name: pod,
        identity: identity(rng, &own),
        namespace,
        cluster: text(rng),
        network: text(rng),
        node: text(rng),
        addresses: list(rng, address),
        protocol: one_of(rng, [TunnelProtocol::None, TunnelProtocol::Hbone]),
        is_host_network: rng.bool(),
        workload_name: text(rng),
        workload_type: one_of(rng, ["deployment", "daemonset", "pod", "job", "cronjob", "endpoint"]).into(),
        canonical_service: text(rng),
        canonical_revision: text(rng),
        app: text(rng),
        version: text(rng),
        locality: Locality { region: text(rng), zone: text(rng), subzone: text(rng) },
        health: one_of(rng, [Health::Healthy, Health::Unhealthy]),
        policies: list(rng, |rng| format!("{}/{}", name(rng), name(rng)).into()),
        services,
        waypoint: waypoint(rng),
    }
}

pub(crate) fn service(rng: &mut Rng) -> Service {
    let (namespace, name) = (name(rng), name(rng));
    let hostname = format!("{name}.{namespace}.svc.cluster.local");
    let protocols = [AppProtocol::Tcp, AppProtocol::Http, AppProtocol::Http2, AppProtocol::Grpc, AppProtocol::Tls];
    let first = rng.u16(1..60_000);
    Service {
        key: format!("{namespace}/{hostname}").into(),
        addresses: list(rng, address),
        ports: (0..rng.u16(..4))
            .map(|index| ServicePort { port: first + index, name: text(rng), app_protocol: one_of(rng, protocols) })
            .collect(),
        session_affinity: rng
            .bool()
            .then(|| ClientIpAffinity { timeout: Duration::new(rng.u64(..100_000), rng.u32(..1_000_000_000)) }),
        internal_traffic_policy: one_of(rng, [InternalTrafficPolicy::Cluster, InternalTrafficPolicy::Local]),
        traffic_distribution: one_of(
            rng,
            [TrafficDistribution::Any, TrafficDistribution::PreferSameZone, TrafficDistribution::PreferSameNode],
        ),
        publish_not_ready_addresses: rng.bool(),
        subject_alt_names: list(rng, |rng| identity(rng, "a")),
        waypoint: waypoint(rng),
        hostname: hostname.into(),
        name,
        namespace,
    }
}

fn waypoint(rng: &mut Rng) -> Option<Arc<Waypoint>> {
    let target = match rng.bool() {
        false => WaypointTarget::Service(format!("{}/{}.svc.cluster.local", name(rng), name(rng)).into()),
        true => WaypointTarget::Address(address(rng).to_canonical()),
    };
    rng.bool().then(|| Arc::new(Waypoint { target, port: rng.u16(1..), is_optional: rng.bool() }))
}

fn string(rng: &mut Rng) -> StringMatch {
    let text = text(rng);
    match rng.u8(..4) {
        0 => StringMatch::Exact(text),
        1 => StringMatch::Prefix(text),
        2 => StringMatch::Suffix(text),
        _ => StringMatch::Presence,
    }
}

fn account(rng: &mut Rng) -> ServiceAccountMatch {
    ServiceAccountMatch { namespace: name(rng), service_account: name(rng) }
}

fn conditions(rng: &mut Rng) -> Match {
    Match {
        principals: list(rng, string),
        not_principals: list(rng, string),
        namespaces: list(rng, string),
        not_namespaces: list(rng, string),
        service_accounts: list(rng, account),
        not_service_accounts: list(rng, account),
        source_ips: list(rng, range),
        not_source_ips: list(rng, range),
        destination_ips: list(rng, range),
        not_destination_ips: list(rng, range),
        destination_ports: list(rng, |rng| rng.u16(1..)),
        not_destination_ports: list(rng, |rng| rng.u16(1..)),
    }
}

pub(crate) fn policy(rng: &mut Rng) -> Policy {
    let namespace = name(rng);
    Policy {
        key: format!("{namespace}/{}", name(rng)).into(),
        namespace,
        scope: one_of(rng, [PolicyScope::Mesh, PolicyScope::Namespace, PolicyScope::Workload]),
        action: one_of(rng, [Action::Allow, Action::Deny]),
        dry_run: rng.bool(),
        rules: list(rng, |rng| Rule { clauses: list(rng, |rng| Clause { matches: list(rng, conditions) }) }),
    }
}
