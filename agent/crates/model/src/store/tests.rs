use super::*;
use crate::endpoints::Endpoint;
use crate::fixture::{from_namespace, ip, key, pod, policy, service, store, uid};
use crate::policy::{Action, PolicyScope};
use crate::workload::{EndpointCondition, Membership, PortMapping};

mod model;

fn owner(snapshot: &Snapshot, address: &str) -> Option<String> {
    snapshot.workload_by_address(ip(address)).map(|workload| workload.name.to_string())
}

fn endpoint_names(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let mut names: Vec<_> = snapshot.endpoints(&key(service)).map(|e| e.workload().name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_is_not_changed_by_later_batches() {
    let mut store = store();
    let before = store.put([pod("a", &["10.0.0.1"]).of("web", EndpointCondition::Ready)]).snapshot;
    let after = store.put([pod("a", &["10.0.0.2"]), pod("b", &["10.0.0.3"])]).snapshot;
    assert_eq!(owner(&before, "10.0.0.1").as_deref(), Some("a"));
    assert_eq!((owner(&before, "10.0.0.2"), owner(&before, "10.0.0.3")), (None, None));
    assert_eq!(endpoint_names(&before, "web"), ["a"]);
    assert_eq!(owner(&after, "10.0.0.1"), None);
    assert_eq!(owner(&after, "10.0.0.2").as_deref(), Some("a"));
    assert_eq!(after.endpoint_count(&key("web")), 0);
    assert_eq!((before.generation(), after.generation()), (1, 2));
}

#[test]
fn a_batch_that_changes_nothing_gives_the_same_snapshot() {
    let mut store = store();
    let everything = || {
        vec![
            Change::PutWorkload(pod("a", &["10.0.0.1", "::ffff:10.0.0.1"]).of("web", EndpointCondition::Ready)),
            Change::PutService(service("web", &["::ffff:10.1.0.1"])),
            Change::PutPolicy(policy("default/p", PolicyScope::Namespace, Action::Deny, from_namespace("x"))),
        ]
    };
    let first = store.apply(everything());
    for changes in [
        everything(),
        Vec::new(),
        vec![
            Change::RemoveWorkload("none".into()),
            Change::RemoveService("none".into()),
            Change::RemovePolicy("none".into()),
        ],
    ] {
        let again = store.apply(changes);
        assert!(Arc::ptr_eq(&first.snapshot, &again.snapshot));
        assert_eq!(again.touched, Vec::<IpAddr>::new());
    }
}

#[test]
fn everything_is_found_by_each_of_its_keys() {
    let mut store = store();
    store.put_services([service("web", &["10.1.0.1", "fd01::1"])]);
    let snapshot = store.put([pod("a", &["10.0.0.1", "fd00::1"])]).snapshot;
    for address in ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1"] {
        assert_eq!(owner(&snapshot, address).as_deref(), Some("a"), "{address}");
    }
    assert_eq!(&*snapshot.workload(&uid("a")).expect("it was put").name, "a");
    for address in ["10.1.0.1", "fd01::1", "::ffff:10.1.0.1"] {
        let service = snapshot.service_by_address(ip(address)).expect("it was put");
        assert_eq!(service.key, key("web"), "{address}");
    }
    assert_eq!(&*snapshot.service(&key("web")).expect("it was put").name, "web");
    assert_eq!((snapshot.workloads().count(), snapshot.services().count(), snapshot.workload_count()), (1, 1, 1));
}

#[test]
fn the_newest_claim_holds_an_address_and_its_end_restores_the_other() {
    let mut store = store();
    store.put([pod("old", &["10.0.0.1"])]);
    let snapshot = store.put([pod("new", &["10.0.0.1"])]).snapshot;
    assert_eq!(owner(&snapshot, "10.0.0.1").as_deref(), Some("new"));
    let snapshot = store.put([pod("old", &["10.0.0.1"]).at("node-9", "zone-9")]).snapshot;
    assert_eq!(owner(&snapshot, "10.0.0.1").as_deref(), Some("new"), "an update does not win the address back");
    let snapshot = store.remove("new").snapshot;
    let restored = snapshot.workload_by_address(ip("10.0.0.1")).expect("the older one claims it");
    assert_eq!((&*restored.name, &*restored.node), ("old", "node-9"), "it is restored as it is now");
    let snapshot = store.remove("old").snapshot;
    assert_eq!(owner(&snapshot, "10.0.0.1"), None);
}

#[test]
fn an_older_claim_ends_without_anyone_noticing() {
    let mut store = store();
    store.put([pod("a", &["10.0.0.1"]), pod("b", &["10.0.0.1"]), pod("c", &["10.0.0.1"])]);
    assert_eq!(owner(&store.remove("b").snapshot, "10.0.0.1").as_deref(), Some("c"));
    assert_eq!(owner(&store.put([pod("c", &["10.0.0.2"])]).snapshot, "10.0.0.1").as_deref(), Some("a"));
}

#[test]
fn a_pod_created_anew_claims_anew() {
    let mut store = store();
    store.put([pod("a", &["10.0.0.1"]).instance("1"), pod("b", &["10.0.0.1"])]);
    let snapshot = store.put([pod("a", &["10.0.0.1"]).instance("2")]).snapshot;
    assert_eq!(owner(&snapshot, "10.0.0.1").as_deref(), Some("a"));
    assert_eq!(owner(&store.remove("a").snapshot, "10.0.0.1").as_deref(), Some("b"));
}

#[test]
fn host_network_and_foreign_workloads_answer_for_no_address() {
    let mut store = store();
    let host = |name| Workload { is_host_network: true, ..pod(name, &["192.168.0.1"]) };
    let foreign = Workload { network: "elsewhere".into(), ..pod("foreign", &["10.0.0.1"]) };
    let snapshot = store.put([pod("real", &["10.0.0.1"]), host("proxy"), host("agent"), foreign]).snapshot;
    assert_eq!(owner(&snapshot, "192.168.0.1"), None);
    assert_eq!(owner(&snapshot, "10.0.0.1").as_deref(), Some("real"));
    assert!(!snapshot.is_mesh(ip("192.168.0.1")));
    // A pod that claims the node's address is not shadowed either.
    let snapshot = store.put([pod("odd", &["192.168.0.1"]), host("later")]).snapshot;
    assert_eq!(owner(&snapshot, "192.168.0.1").as_deref(), Some("odd"));
}

#[test]
fn virtual_addresses_clash_by_the_same_rules() {
    let mut store = store();
    let owner = |snapshot: &Snapshot| snapshot.service_by_address(ip("10.1.0.1")).map(|s| s.name.to_string());
    store.put_services([service("old", &["10.1.0.1"])]);
    store.put_services([service("new", &["10.1.0.1"])]);
    let update = Service { publish_not_ready_addresses: true, ..service("old", &["10.1.0.1"]) };
    assert_eq!(owner(&store.put_services([update]).snapshot).as_deref(), Some("new"));
    let snapshot = store.apply(vec![Change::RemoveService(key("new"))]).snapshot;
    assert_eq!(owner(&snapshot).as_deref(), Some("old"));
    assert!(snapshot.service_by_address(ip("10.1.0.1")).is_some_and(|service| service.publish_not_ready_addresses));
}

#[test]
fn touched_names_each_address_that_may_resolve_differently() {
    use EndpointCondition::{NotReady, Ready};
    let mut store = store();
    let touched = |applied: Applied| {
        let mut addresses: Vec<_> = applied.touched.iter().map(ToString::to_string).collect();
        addresses.sort();
        addresses.join(" ")
    };
    assert_eq!(touched(store.put_services([service("web", &["10.1.0.1"])])), "10.1.0.1");
    assert_eq!(touched(store.put([pod("a", &["10.0.0.1"]).of("web", Ready)])), "10.0.0.1 10.1.0.1");
    assert_eq!(touched(store.put([pod("a", &["10.0.0.1"]).of("web", NotReady)])), "10.0.0.1 10.1.0.1");
    assert_eq!(touched(store.put([pod("a", &["10.0.0.2"])])), "10.0.0.1 10.0.0.2 10.1.0.1");
    assert_eq!(touched(store.put([pod("b", &["10.0.0.9"]).of("web", Ready)])), "10.0.0.9 10.1.0.1");
    assert_eq!(touched(store.remove("b")), "10.0.0.9 10.1.0.1");
    assert_eq!(touched(store.put_services([service("web", &["10.1.0.2"])])), "10.1.0.1 10.1.0.2");
    assert_eq!(touched(store.apply(vec![Change::RemoveService(key("web"))])), "10.1.0.2");
    let deny = policy("default/p", PolicyScope::Namespace, Action::Deny, from_namespace("x"));
    assert_eq!(touched(store.put_policies([deny])), "");
}

#[test]
fn mesh_addresses_are_those_of_hbone_workloads_and_of_services_with_one() {
    use EndpointCondition::{NotReady, Ready};
    let mut store = store();
    store.put_services([service("web", &["10.1.0.1"]), service("bare", &["10.1.0.2"])]);
    let plain = pod("plain", &["10.0.0.2"]).plain().of("web", Ready).of("bare", Ready);
    let snapshot = store.put([pod("hbone", &["10.0.0.1"]).of("web", NotReady), plain.clone()]).snapshot;
    for (address, wanted) in
        [("10.0.0.1", true), ("10.0.0.2", false), ("10.1.0.1", true), ("10.1.0.2", false), ("10.9.9.9", false)]
    {
        assert_eq!(snapshot.is_mesh(ip(address)), wanted, "{address}");
    }
    assert!(snapshot.is_mesh(ip("::ffff:10.1.0.1")));
    let snapshot = store.put([pod("hbone", &["10.0.0.1"]).plain().of("web", NotReady)]).snapshot;
    assert!(!snapshot.is_mesh(ip("10.0.0.1")) && !snapshot.is_mesh(ip("10.1.0.1")));
    let enrolled = Workload { protocol: crate::TunnelProtocol::Hbone, ..plain };
    assert!(store.put([enrolled]).snapshot.is_mesh(ip("10.1.0.2")));
    assert!(!store.remove("plain").snapshot.is_mesh(ip("10.1.0.2")));
}

#[test]
fn endpoints_may_come_before_their_service_and_outlive_it() {
    let mut store = store();
    let snapshot = store.put([pod("a", &["10.0.0.1"]).of("web", EndpointCondition::Ready)]).snapshot;
    assert_eq!((snapshot.service(&key("web")), snapshot.services().count()), (None, 0));
    let snapshot = store.put_services([service("web", &["10.1.0.1"])]).snapshot;
    assert_eq!(endpoint_names(&snapshot, "web"), ["a"]);
    store.apply(vec![Change::RemoveService(key("web"))]);
    let snapshot = store.put_services([service("web", &["10.1.0.1"])]).snapshot;
    assert_eq!(endpoint_names(&snapshot, "web"), ["a"]);
    store.apply(vec![Change::RemoveService(key("web"))]);
    assert_eq!(store.remove("a").snapshot.services.len(), 0, "an entry that nobody uses is dropped");
}

#[test]
fn a_service_listed_twice_is_one_membership_with_both_ports() {
    let mut workload = pod("a", &["10.0.0.1"]).of("web", EndpointCondition::Ready);
    let ports = [(81, 8081), (80, 9999)].map(|(service_port, target_port)| PortMapping { service_port, target_port });
    let condition = EndpointCondition::Ready;
    workload.services.push(Membership { service: key("web"), ports: ports.to_vec(), condition, waypoint: None });
    let mut store = store();
    let snapshot = store.put([workload]).snapshot;
    let endpoint: Vec<&Endpoint> = snapshot.endpoints(&key("web")).collect();
    assert_eq!(endpoint.len(), 1);
    assert_eq!([80, 81, 82].map(|port| endpoint[0].target_port(port)), [Some(8080), Some(8081), None]);
    assert_eq!(store.remove("a").snapshot.endpoint_count(&key("web")), 0);
}

#[test]
fn the_policy_generation_moves_when_a_verdict_may_have_changed_and_only_then() {
    let mut store = store();
    let mut expect = |change: Change, moves: bool, what: &str| {
        let before = store.snapshot().policy_generation();
        let after = store.apply(vec![change]).snapshot.policy_generation();
        assert_eq!(after, before + u64::from(moves), "{what}");
    };
    let deny = || policy("default/p", PolicyScope::Namespace, Action::Deny, from_namespace("x"));
    let dry = |namespace| Policy {
        dry_run: true,
        ..policy("default/dry", PolicyScope::Workload, Action::Deny, from_namespace(namespace))
    };
    use Change::{PutPolicy, PutService, PutWorkload, RemovePolicy, RemoveWorkload};
    expect(PutPolicy(deny()), true, "a new policy");
    expect(PutPolicy(deny()), false, "the same policy");
    expect(PutPolicy(Policy { scope: PolicyScope::Mesh, ..deny() }), true, "a changed policy");
    expect(PutPolicy(Policy { dry_run: true, ..deny() }), true, "a policy that is no longer enforced");
    expect(PutPolicy(Policy { dry_run: false, ..deny() }), true, "a policy that is enforced again");
    expect(PutPolicy(dry("x")), true, "a policy in dry run that was referred to in vain");
    expect(PutPolicy(dry("y")), false, "a changed policy in dry run");
    expect(RemovePolicy("default/dry".into()), true, "a policy in dry run that may be referred to");
    expect(RemovePolicy("default/dry".into()), false, "an unknown policy");
    expect(PutWorkload(pod("a", &["10.0.0.1"])), false, "a workload without policies of its own");
    expect(PutWorkload(pod("a", &["10.0.0.2"])), false, "another address");
    expect(PutWorkload(pod("a", &["10.0.0.2"]).under(&["default/q"])), true, "a new reference");
    expect(PutWorkload(pod("a", &["10.0.0.3"]).under(&["default/q"])), false, "the same reference");
    expect(RemoveWorkload(uid("a")), false, "a workload that goes");
    expect(PutWorkload(pod("a", &["10.0.0.3"]).under(&["default/q"])), true, "a workload that comes with policies");
    expect(PutService(service("web", &["10.1.0.1"])), false, "a service");
}
