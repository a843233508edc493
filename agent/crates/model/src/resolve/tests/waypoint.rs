use super::*;
use crate::policy::{Action, Match, PolicyScope, StringMatch};
use crate::{Denial, Identity, Peer, Verdict, Waypoint, WaypointTarget};

fn waypoint(is_optional: bool) -> Option<Arc<Waypoint>> {
    Some(Arc::new(Waypoint { target: WaypointTarget::Service(key("way")), port: 15008, is_optional }))
}

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account).expect("a valid identity")
}

/// `web` is a service of the pod a; `way` is the waypoint's service of the pod w.
fn mesh(waypoint: Option<Arc<Waypoint>>, ready: EndpointCondition) -> Store {
    let mut store = store();
    let mut way = pod("w", &["10.0.0.9"]).of("way", ready);
    way.identity = identity("way");
    way.services[0].ports = vec![PortMapping { service_port: 15008, target_port: 15008 }];
    store.put([pod("a", &["10.0.0.1"]).of("web", Ready).of("also", Ready), way]);
    let mut gateway = service("way", &["10.1.0.9"]);
    gateway.ports[0].port = 15008;
    let web = Service { waypoint, ..service("web", &["10.1.0.1"]) };
    store.put_services([web, service("also", &["10.1.0.2"]), gateway]);
    store
}

fn route(store: &Store, source: &Workload, destination: &str) -> String {
    let upstream = store.snapshot().resolve(source, ip("10.0.9.9"), address(destination), &Balancer::new());
    upstream.map_or_else(
        |error| error.to_string(),
        |upstream| {
            let tunnel = upstream.waypoint.map(|tunnel| format!(" at {tunnel}")).unwrap_or_default();
            format!("{}{tunnel} for {}", upstream.workload.name, upstream.address)
        },
    )
}

#[test]
fn whatever_leads_to_a_port_behind_a_waypoint_goes_through_it() {
    let store = mesh(waypoint(false), Ready);
    for (destination, expected) in [
        ("10.1.0.1:80", "w at 10.0.0.9:15008 for 10.1.0.1:80"),
        // By another service, and by the pod's own address: what the pod's agent would not let in otherwise.
        ("10.1.0.2:80", "w at 10.0.0.9:15008 for 10.0.0.1:8080"),
        ("10.0.0.1:8080", "w at 10.0.0.9:15008 for 10.0.0.1:8080"),
        // No service with a waypoint leads to this port.
        ("10.0.0.1:9090", "a for 10.0.0.1:9090"),
        ("10.1.0.1:81", "service default/web.default.svc.cluster.local has no port 81"),
    ] {
        assert_eq!(route(&store, &CLIENT, destination), expected, "{destination}");
    }
    let itself = store.snapshot().workload(&uid("w")).expect("the waypoint").clone();
    assert_eq!(route(&store, &itself, "10.1.0.1:80"), "a for 10.0.0.1:8080");
}

#[test]
fn a_waypoint_that_is_away_is_waited_for_by_nobody_and_replaced_by_none_unless_it_is_optional() {
    let away = mesh(waypoint(false), NotReady);
    assert_eq!(
        route(&away, &CLIENT, "10.1.0.1:80"),
        "connections must pass the waypoint default/way.default.svc.cluster.local, and service \
         default/way.default.svc.cluster.local has no ready endpoint for port 15008"
    );
    assert!(!away.snapshot().awaits_waypoint(address("10.1.0.1:80")), "it is known");
    let optional = mesh(waypoint(true), NotReady);
    assert_eq!(route(&optional, &CLIENT, "10.1.0.1:80"), "a for 10.0.0.1:8080");
    let mut unknown = mesh(waypoint(false), Ready);
    unknown.apply(vec![Change::RemoveService(key("way"))]);
    assert!(route(&unknown, &CLIENT, "10.1.0.1:80").ends_with("and there is no such service"));
    assert!(unknown.snapshot().awaits_waypoint(address("10.1.0.1:80")));
    assert!(unknown.snapshot().awaits_waypoint(address("10.0.0.1:8080")));
}

#[test]
fn a_waypoint_in_clear_is_never_gone_through() {
    let mut store = mesh(waypoint(false), Ready);
    let mut way = (**store.snapshot().workload(&uid("w")).expect("the waypoint")).clone();
    way.protocol = crate::TunnelProtocol::None;
    store.put([way]);
    assert!(route(&store, &CLIENT, "10.1.0.1:80").ends_with("and its workload w takes no tunnels"));
}

#[test]
fn only_the_waypoint_gets_in_where_one_is_and_brings_its_judgement_of_the_source_along() {
    let mut store = mesh(waypoint(false), Ready);
    let judge = |store: &Store, account: &str, port: u16| {
        let identity = identity(account);
        let snapshot = store.snapshot();
        let destination = SocketAddr::new(ip("10.0.0.1"), port);
        let peer = Peer { identity: Some(&identity), source: ip("10.0.0.7"), destination };
        snapshot.admit(snapshot.workload(&uid("a")).expect("the pod"), &peer)
    };
    assert!(matches!(judge(&store, "client", 8080), Verdict::Denied(Denial::PastWaypoint { .. })));
    assert!(judge(&store, "client", 9090).is_allowed(), "another port");
    assert!(judge(&store, "way", 8080).is_allowed());
    let from = |account: &str| vec![StringMatch::Exact(format!("cluster.local/ns/default/sa/{account}").into())];
    let allow = Match { principals: from("client"), ..Match::default() };
    store.put_policies([crate::fixture::policy("default/clients", PolicyScope::Namespace, Action::Allow, allow)]);
    assert!(judge(&store, "way", 8080).is_allowed(), "the waypoint has judged the client");
    assert!(!judge(&store, "way", 9090).is_allowed(), "elsewhere it is a client as others are");
    let deny = Match { principals: from("way"), ..Match::default() };
    store.put_policies([crate::fixture::policy("default/source", PolicyScope::Namespace, Action::Deny, deny)]);
    assert!(judge(&store, "way", 8080).is_allowed());
    let deny = Match { destination_ports: vec![8080], ..Match::default() };
    store.put_policies([crate::fixture::policy("default/port", PolicyScope::Namespace, Action::Deny, deny)]);
    assert!(!judge(&store, "way", 8080).is_allowed(), "what is said of the destination holds for everybody");
}

#[test]
fn a_connection_from_before_the_waypoint_goes_on() {
    let store = mesh(waypoint(false), Ready);
    let (snapshot, identity) = (store.snapshot(), identity("client"));
    let peer = Peer { identity: Some(&identity), source: ip("10.0.0.7"), destination: address("10.0.0.1:8080") };
    assert!(snapshot.judge_again(snapshot.workload(&uid("a")).expect("the pod"), &peer).is_allowed());
}

#[test]
fn a_service_behind_a_waypoint_is_of_the_mesh_though_its_endpoints_are_not() {
    let mut store = mesh(waypoint(false), Ready);
    store.put([pod("a", &["10.0.0.1"]).of("web", Ready).of("also", Ready).plain()]);
    assert!(store.snapshot().is_mesh(ip("10.1.0.1")) && !store.snapshot().is_mesh(ip("10.1.0.2")));
}
