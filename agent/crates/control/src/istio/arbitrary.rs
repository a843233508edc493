//! Workloads, services, policies and routes of every shape, for tests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use ipnet::IpNet;
use weft_model::{
    Action, AppProtocol, Clause, ClientIpAffinity, EndpointCondition, Health, Identity, InternalTrafficPolicy,
    Locality, Match, Membership, Policy, PolicyScope, PortMapping, Rule, Service, ServiceAccountMatch, ServicePort,
    StringMatch, TrafficDistribution, TunnelProtocol, Waypoint, WaypointTarget, Workload,
};
use weft_route::{
    Backend, BackendTarget, Cors, Filter, HeaderEdits, HeaderMatch, Hostname, Mirror, Parent, ParentTarget, PathMatch,
    PathRewrite, Pattern, QueryMatch, Redirect, RequestMatch, Retry, Rewrite, Route, RouteKind, Rule as RouteRule,
    SessionCarrier, SessionPersistence, Timeouts, ValueMatch,
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

fn pattern(rng: &mut Rng) -> Pattern {
    Pattern::new(one_of(rng, ["/a/.*", "[0-9]+", "", "v(1|2)"])).expect("right patterns")
}

fn value_match(rng: &mut Rng) -> ValueMatch {
    if rng.bool() { ValueMatch::Exact(text(rng)) } else { ValueMatch::Regex(pattern(rng)) }
}

fn header_name(rng: &mut Rng) -> HeaderName {
    HeaderName::from_static(one_of(rng, ["x-a", "accept", "cookie"]))
}

fn header_edits(rng: &mut Rng) -> HeaderEdits {
    let pairs = |rng: &mut Rng| {
        list(rng, |rng| {
            let value = HeaderValue::from_bytes(one_of(rng, [&b""[..], b"1", b"\xfc\xff"])).expect("right values");
            (header_name(rng), value)
        })
    };
    HeaderEdits { set: pairs(rng), add: pairs(rng), remove: list(rng, header_name) }
}

fn target(rng: &mut Rng) -> BackendTarget {
    match rng.bool() {
        true => BackendTarget::Service { key: format!("{}/s", name(rng)).into(), port: rng.u16(1..) },
        false => BackendTarget::Invalid { reason: text(rng) },
    }
}

fn path_rewrite(rng: &mut Rng) -> Option<PathRewrite> {
    match rng.u8(..3) {
        0 => None,
        1 => Some(PathRewrite::Full(text(rng))),
        _ => Some(PathRewrite::Prefix(text(rng))),
    }
}

fn time(rng: &mut Rng) -> Option<Duration> {
    rng.bool().then(|| Duration::new(rng.u64(..100_000), rng.u32(..1_000_000_000)))
}

fn maybe(rng: &mut Rng) -> Option<Arc<str>> {
    rng.bool().then(|| text(rng))
}

fn filter(rng: &mut Rng) -> Filter {
    match rng.u8(..6) {
        0 => Filter::RequestHeaders(header_edits(rng)),
        1 => Filter::ResponseHeaders(header_edits(rng)),
        2 => Filter::Redirect(Redirect {
            scheme: maybe(rng),
            hostname: maybe(rng),
            path: path_rewrite(rng),
            port: rng.bool().then(|| rng.u16(1..)),
            status: one_of(rng, [StatusCode::FOUND, StatusCode::PERMANENT_REDIRECT]),
        }),
        3 => Filter::Rewrite(Rewrite { hostname: maybe(rng), path: path_rewrite(rng) }),
        4 => Filter::Mirror(Mirror { backend: target(rng), share: (rng.u32(..), rng.u32(1..)) }),
        _ => Filter::Cors(Cors {
            allow_origins: list(rng, text),
            allow_credentials: rng.bool(),
            allow_methods: list(rng, text),
            allow_headers: list(rng, text),
            expose_headers: list(rng, text),
            max_age: Duration::from_secs(rng.u64(..100_000)),
        }),
    }
}

fn hostname(rng: &mut Rng) -> Hostname {
    if rng.bool() { Hostname::Exact(name(rng)) } else { Hostname::Below(name(rng)) }
}

fn route_rule(rng: &mut Rng) -> RouteRule {
    RouteRule {
        name: maybe(rng),
        matches: list(rng, |rng| RequestMatch {
            path: match rng.u8(..4) {
                0 => None,
                1 => Some(PathMatch::Exact(text(rng))),
                2 => Some(PathMatch::Prefix(text(rng))),
                _ => Some(PathMatch::Regex(pattern(rng))),
            },
            method: one_of(rng, [None, Some("GET"), Some("PURGE")])
                .map(|method| Method::from_bytes(method.as_bytes()).expect("right methods")),
            headers: list(rng, |rng| HeaderMatch { name: header_name(rng), value: value_match(rng) }),
            query: list(rng, |rng| QueryMatch { name: text(rng), value: value_match(rng) }),
        }),
        server_names: list(rng, hostname),
        filters: list(rng, filter),
        backends: list(rng, |rng| Backend { target: target(rng), weight: rng.u32(..), filters: list(rng, filter) }),
        timeouts: Timeouts { request: time(rng), backend: time(rng) },
        retry: rng.bool().then(|| Retry {
            codes: list(rng, |rng| one_of(rng, [StatusCode::BAD_GATEWAY, StatusCode::NOT_FOUND])),
            attempts: rng.u32(..),
            backoff: time(rng),
        }),
        session: rng.bool().then(|| SessionPersistence {
            name: one_of(rng, ["basket", "weft-session-1"]).into(),
            carrier: one_of(
                rng,
                [SessionCarrier::SessionCookie, SessionCarrier::PermanentCookie, SessionCarrier::Header],
            ),
            absolute_timeout: time(rng),
            idle_timeout: time(rng),
        }),
    }
}

pub(crate) fn route(rng: &mut Rng) -> Route {
    let kinds = [
        (RouteKind::Http, "HTTPRoute"),
        (RouteKind::Grpc, "GRPCRoute"),
        (RouteKind::Tls, "TLSRoute"),
        (RouteKind::Tcp, "TCPRoute"),
    ];
    let (kind, prefix) = one_of(rng, kinds);
    let (namespace, name) = (name(rng), name(rng));
    Route {
        key: format!("{prefix}/{namespace}/{name}").into(),
        kind,
        created: rng.i64(..),
        parents: list(rng, |rng| Parent {
            target: match rng.bool() {
                true => ParentTarget::Service(format!("{}/s", self::name(rng)).into()),
                false => ParentTarget::Gateway(format!("{}/g", self::name(rng)).into()),
            },
            port: rng.bool().then(|| rng.u16(1..)),
            consumer: rng.bool().then(|| self::name(rng)),
        }),
        hostnames: list(rng, hostname),
        rules: list(rng, route_rule),
        namespace,
        name,
    }
}
