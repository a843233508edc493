use fastrand::Rng;
use prost::Message;
use weft_model::{Action, Change, InternalTrafficPolicy, Policy, Service, TrafficDistribution, Workload};
use weft_proto::workload::load_balancing::{HealthPolicy, Mode, Scope};
use weft_proto::workload::{Address, address::Type};
use weft_proto::{security, workload as proto};

use super::*;

const CASES: usize = 3000;

fn decode_workload(bytes: &[u8], name: &str) -> Result<Workload, ConversionError> {
    match decode(ADDRESS, name, bytes, "net")?.change {
        Change::PutWorkload(workload) => Ok(workload),
        other => panic!("{other:?} is no workload"),
    }
}

fn decode_service(bytes: &[u8], name: &str) -> Result<Service, ConversionError> {
    match decode(ADDRESS, name, bytes, "net")?.change {
        Change::PutService(service) => Ok(service),
        other => panic!("{other:?} is no service"),
    }
}

fn decode_policy(bytes: &[u8], name: &str) -> Result<Policy, ConversionError> {
    match decode(AUTHORIZATION, name, bytes, "net")?.change {
        Change::PutPolicy(policy) => Ok(policy),
        other => panic!("{other:?} is no policy"),
    }
}

#[test]
fn what_the_model_says_survives_the_way_over_the_wire() {
    let mut rng = Rng::with_seed(7);
    for _ in 0..CASES {
        let workload = arbitrary::workload(&mut rng);
        assert_eq!(decode_workload(&encode_workload(&workload), &workload.uid).as_ref(), Ok(&workload));
        let service = arbitrary::service(&mut rng);
        assert_eq!(decode_service(&encode_service(&service, "net"), &service.key).as_ref(), Ok(&service));
        let policy = arbitrary::policy(&mut rng);
        assert_eq!(decode_policy(&encode_policy(&policy), &policy.key).as_ref(), Ok(&policy));
    }
}

#[test]
fn equal_objects_have_equal_bytes() {
    let mut rng = Rng::with_seed(8);
    for _ in 0..100 {
        let workload = arbitrary::workload(&mut rng);
        let mut turned = workload.clone();
        turned.services.reverse();
        assert_eq!(encode_workload(&workload), encode_workload(&turned));
    }
}

#[test]
fn bytes_of_any_kind_are_converted_or_refused_and_never_end_the_process() {
    let mut rng = Rng::with_seed(9);
    let mut refused = 0;
    for _ in 0..CASES {
        let (type_url, name, mut bytes) = match rng.u8(..3) {
            0 => {
                let workload = arbitrary::workload(&mut rng);
                (ADDRESS, workload.uid.to_string(), encode_workload(&workload))
            }
            1 => {
                let service = arbitrary::service(&mut rng);
                (ADDRESS, service.key.to_string(), encode_service(&service, "net"))
            }
            _ => {
                let policy = arbitrary::policy(&mut rng);
                (AUTHORIZATION, policy.key.to_string(), encode_policy(&policy))
            }
        };
        for _ in 0..rng.usize(1..4) {
            match rng.u8(..3) {
                0 => bytes.truncate(rng.usize(..=bytes.len())),
                1 => bytes.insert(rng.usize(..=bytes.len()), rng.u8(..)),
                _ if bytes.is_empty() => bytes.push(rng.u8(..)),
                _ => {
                    let index = rng.usize(..bytes.len());
                    bytes[index] = rng.u8(..);
                }
            }
        }
        refused += usize::from(decode(type_url, &name, &bytes, "net").is_err());
    }
    assert!(refused > CASES / 4, "only {refused} of {CASES} broken resources were refused");
}

fn workload_with(change: impl FnOnce(&mut proto::Workload)) -> Vec<u8> {
    let mut message = proto::Workload {
        uid: "c//Pod/shop/cart".to_owned(),
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        addresses: vec![vec![10, 0, 0, 1]],
        ..Default::default()
    };
    change(&mut message);
    Address { r#type: Some(Type::Workload(Box::new(message))) }.encode_to_vec()
}

fn service_with(change: impl FnOnce(&mut proto::Service)) -> Vec<u8> {
    let mut message = proto::Service {
        name: "cart".to_owned(),
        namespace: "shop".to_owned(),
        hostname: "cart.svc".to_owned(),
        ..Default::default()
    };
    change(&mut message);
    Address { r#type: Some(Type::Service(Box::new(message))) }.encode_to_vec()
}

fn policy_with(conditions: security::Match) -> Vec<u8> {
    security::Authorization {
        name: "p".to_owned(),
        namespace: "shop".to_owned(),
        rules: vec![security::Rule { clauses: vec![security::Clause { matches: vec![conditions] }] }],
        ..Default::default()
    }
    .encode_to_vec()
}

fn port(service_port: u32, target_port: u32) -> proto::Port {
    proto::Port { service_port, target_port, app_protocol: 0 }
}

#[test]
fn an_error_names_resource_and_field() {
    let uid = "c//Pod/shop/cart";
    let services = |port| [("shop/a.svc".to_owned(), proto::PortList { ports: vec![port] })].into();
    for (bytes, expected) in [
        (workload_with(|w| w.uid.clear()), "uid: is empty"),
        (workload_with(|w| w.uid = "other".to_owned()), "uid: makes it other, which is not its name"),
        (
            workload_with(|w| w.addresses.push(vec![1, 2, 3])),
            "addresses[1]: an address has 4 or 16 bytes, and this one 3",
        ),
        (workload_with(|w| w.tunnel_protocol = 9), "tunnel_protocol: the value 9 is not known"),
        (workload_with(|w| w.status = -1), "status: the value -1 is not known"),
        (
            workload_with(|w| w.services = services(port(70_000, 80))),
            "services[shop/a.svc].ports[0].service_port: 70000 is no port",
        ),
        (
            workload_with(|w| w.services = services(port(80, 65_536))),
            "services[shop/a.svc].ports[0].target_port: 65536 is no port",
        ),
    ] {
        let error = decode_workload(&bytes, uid).expect_err(expected);
        assert_eq!(error.to_string(), format!("{uid}: {expected}"));
    }
    let error = decode_workload(&workload_with(|w| w.service_account = "a/b".to_owned()), uid).expect_err("a bad name");
    assert!(error.to_string().starts_with("c//Pod/shop/cart: service_account: 'spiffe://cluster.local/"), "{error}");
    let error = decode_service(&service_with(|s| s.ports = vec![port(0, 0)]), "shop/cart.svc").expect_err("no port");
    assert_eq!(error.to_string(), "shop/cart.svc: ports[0].service_port: 0 is no port");
    let range = security::Address { address: vec![10, 0, 0, 0], length: 33 };
    let bytes = policy_with(security::Match { source_ips: vec![range], ..Default::default() });
    let error = decode_policy(&bytes, "shop/p").expect_err("a bad prefix");
    let place = "rules[0].clauses[0].matches[0].source_ips[0]";
    assert_eq!(error.to_string(), format!("shop/p: {place}: 10.0.0.0 cannot have a prefix of 33 bits"));
    let strings = vec![security::StringMatch::default()];
    let bytes = policy_with(security::Match { principals: strings, ..Default::default() });
    let error = decode_policy(&bytes, "shop/p").expect_err("a condition of no kind");
    assert!(error.to_string().contains("principals[0]: is of no kind that is known"), "{error}");
}

#[test]
fn a_foreign_control_planes_workload_gets_the_defaults_of_its_protocol() {
    let bytes = workload_with(|w| {
        w.canonical_name = "cart".to_owned();
        w.canonical_revision = "v2".to_owned();
        w.status = proto::WorkloadStatus::Unhealthy.into();
        w.services = [("shop/a.svc".to_owned(), proto::PortList { ports: vec![port(80, 8080), port(81, 0)] })].into();
    });
    let workload = decode_workload(&bytes, "c//Pod/shop/cart").expect("a valid workload");
    assert_eq!(workload.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/default");
    assert_eq!((&*workload.app, &*workload.version, &*workload.workload_type), ("cart", "v2", "deployment"));
    let membership = &workload.services[0];
    assert_eq!(membership.condition, weft_model::EndpointCondition::NotReady);
    assert_eq!(membership.ports, [weft_model::PortMapping { service_port: 80, target_port: 8080 }]);
}

#[test]
fn what_is_asked_for_and_not_done_is_listed() {
    let bytes = service_with(|s| s.subject_alt_names = vec!["db.example.org".to_owned()]);
    let decoded = decode(ADDRESS, "shop/cart.svc", &bytes, "").expect("a valid service");
    assert_eq!(decoded.ignored, ["subject_alt_names"]);
}

#[test]
fn a_waypoint_that_cannot_be_followed_is_an_error_and_never_left_out() {
    use proto::gateway_address::Destination;
    let with = |destination| {
        let bytes = workload_with(|w| {
            w.network = "net".to_owned();
            w.waypoint = Some(proto::GatewayAddress { destination, hbone_mtls_port: 0 });
        });
        decode(ADDRESS, "c//Pod/shop/cart", &bytes, "net").map_err(|error| error.field)
    };
    let address = |network: &str| {
        Some(Destination::Address(proto::NetworkAddress { network: network.to_owned(), address: vec![10, 0, 0, 9] }))
    };
    assert_eq!(with(None).unwrap_err(), "waypoint");
    assert_eq!(with(address("other")).unwrap_err(), "waypoint.address");
    let weft_model::Change::PutWorkload(workload) = with(address("net")).expect("a valid workload").change else {
        panic!("a workload was sent");
    };
    let waypoint = workload.waypoint.expect("it has a waypoint");
    assert_eq!(waypoint.target, weft_model::WaypointTarget::Address([10, 0, 0, 9].into()));
    assert_eq!((waypoint.port, waypoint.is_optional), (15008, false));
}

#[test]
fn services_keep_to_the_addresses_of_the_own_network() {
    let address =
        |network: &str, last| proto::NetworkAddress { network: network.to_owned(), address: vec![10, 0, 0, last] };
    let bytes = service_with(|s| s.addresses = vec![address("net", 1), address("other", 2)]);
    let service = decode_service(&bytes, "shop/cart.svc").expect("a valid service");
    assert_eq!(service.addresses, ["10.0.0.1".parse::<IpAddr>().expect("an address")]);
}

#[test]
fn routing_preferences_are_read_as_istio_writes_them() {
    use {InternalTrafficPolicy as Policy, TrafficDistribution as Distribution};
    let cases = [
        (Mode::Strict, vec![Scope::Node], Policy::Local, Distribution::Any, false),
        (Mode::Strict, vec![Scope::Region], Policy::Cluster, Distribution::Any, true),
        (
            Mode::Failover,
            vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone],
            Policy::Cluster,
            Distribution::PreferSameZone,
            false,
        ),
        (
            Mode::Failover,
            vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node],
            Policy::Cluster,
            Distribution::PreferSameNode,
            false,
        ),
        (Mode::Failover, vec![Scope::Network], Policy::Cluster, Distribution::Any, false),
        (Mode::Passthrough, vec![], Policy::Cluster, Distribution::Any, true),
    ];
    for (mode, scopes, policy, distribution, is_approximate) in cases {
        let bytes = service_with(|s| {
            s.load_balancing = Some(proto::LoadBalancing {
                routing_preference: scopes.iter().map(|scope| (*scope).into()).collect(),
                mode: mode.into(),
                health_policy: HealthPolicy::AllowAll.into(),
            });
        });
        let decoded = decode(ADDRESS, "shop/cart.svc", &bytes, "").expect("a valid service");
        assert_eq!(!decoded.ignored.is_empty(), is_approximate, "{mode:?} {scopes:?}");
        let Change::PutService(service) = decoded.change else { panic!("no service") };
        assert_eq!((service.internal_traffic_policy, service.traffic_distribution), (policy, distribution), "{mode:?}");
        assert!(service.publish_not_ready_addresses);
    }
}

#[test]
fn a_condition_that_is_not_known_allows_nothing_and_weakens_no_denial() {
    let conditions = security::Match {
        destination_ports: vec![80],
        extensions: vec![Extension { name: "someone.else/Condition".to_owned(), config: None }],
        ..Default::default()
    };
    let allow = decode_policy(&policy_with(conditions.clone()), "shop/p").expect("a valid policy");
    assert_eq!(allow.action, Action::Allow);
    assert!(allow.rules[0].clauses[0].matches[0].is_empty(), "it never holds");
    let mut message = security::Authorization::decode(&*policy_with(conditions)).expect("a valid message");
    message.action = security::Action::Deny.into();
    let deny = decode_policy(&message.encode_to_vec(), "shop/p").expect("a valid policy");
    assert_eq!(deny.rules[0].clauses[0].matches[0].destination_ports, [80]);
}
