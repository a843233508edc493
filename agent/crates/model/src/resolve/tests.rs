use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use EndpointCondition::{NotReady, Ready, Terminating};

use super::*;
use crate::fixture::{ip, key, pod, service, store, uid};
use crate::{
    Change, ClientIpAffinity, EndpointCondition, InternalTrafficPolicy, PortMapping, Service, Store,
    TrafficDistribution,
};

mod oracle;
mod waypoint;

const VIP: &str = "10.1.0.1:80";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a valid address")
}

/// Who answers `count` connections to `destination`, in words: a sorted list of names with ports, or the error.
fn spread(store: &Store, source: &Workload, destination: &str, count: usize) -> String {
    let balancer = Balancer::new();
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..count {
        let result = store.snapshot().resolve(source, ip("10.0.9.9"), address(destination), &balancer);
        let answer = match result {
            Ok(upstream) => format!("{}:{}", upstream.workload.name, upstream.address.port()),
            Err(error) => return error.to_string(),
        };
        *seen.entry(answer).or_default() += 1;
    }
    let most = seen.values().max().expect("at least one connection");
    let least = seen.values().min().expect("at least one connection");
    assert!(most - least <= 1, "the turns are not even: {seen:?}");
    seen.into_keys().collect::<Vec<_>>().join(" ")
}

static CLIENT: LazyLock<Workload> = LazyLock::new(|| pod("client", &["10.0.9.9"]));

#[test]
fn a_pod_address_leads_to_the_pod_on_any_port_whatever_its_condition() {
    let mut store = store();
    store.put([pod("a", &["10.0.0.1", "fd00::1"]).of("web", NotReady)]);
    for (destination, wanted) in
        [("10.0.0.1:4242", "10.0.0.1:4242"), ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"), ("[fd00::1]:80", "[fd00::1]:80")]
    {
        let upstream = store.snapshot().resolve(&CLIENT, ip("10.0.9.9"), address(destination), &Balancer::new());
        let upstream = upstream.expect("the pod is known");
        assert_eq!((&*upstream.workload.name, upstream.address), ("a", address(wanted)));
        assert_eq!(upstream.service, None);
    }
}

#[test]
fn a_service_without_addresses_leads_to_its_endpoints_by_name_in_either_family() {
    let mut store = store();
    store.put_services([service("web", &[])]);
    store.put([pod("a", &["fd00::1"]).of("web", Ready), pod("b", &["fd00::2"]).of("web", NotReady)]);
    let snapshot = store.snapshot();
    let web = snapshot.service(&key("web")).expect("it was put");
    let balancer = Balancer::new();
    let upstream = snapshot.resolve_service(&CLIENT, ip("10.0.9.9"), web, 80, &balancer).expect("a is ready");
    assert_eq!((&*upstream.workload.name, upstream.address), ("a", address("[fd00::1]:8080")));
    assert_eq!(upstream.service.as_ref().map(|service| &service.key), Some(&key("web")));
    let error = snapshot.resolve_service(&CLIENT, ip("10.0.9.9"), web, 81, &balancer).expect_err("no such port");
    assert_eq!(error, ResolveError::NoSuchPort { service: key("web"), port: 81 });
}

#[test]
fn a_virtual_address_leads_to_the_endpoints_target_port() {
    let mut store = store();
    let target = |name, address, target_port| {
        let mut pod = pod(name, &[address]).of("web", Ready);
        pod.services[0].ports = vec![PortMapping { service_port: 80, target_port }];
        pod
    };
    store.put([target("a", "10.0.0.1", 8080), target("b", "10.0.0.2", 9090)]);
    store.put_services([service("web", &["10.1.0.1"])]);
    assert_eq!(spread(&store, &CLIENT, VIP, 10), "a:8080 b:9090");
    assert_eq!(spread(&store, &CLIENT, "[::ffff:10.1.0.1]:80", 10), "a:8080 b:9090");
    let upstream = store.snapshot().resolve(&CLIENT, ip("10.0.9.9"), address(VIP), &Balancer::new());
    assert_eq!(upstream.expect("there are endpoints").service.expect("it was a service").key, key("web"));
}

#[test]
fn what_leads_nowhere_is_said_in_words() {
    let mut store = store();
    let local = InternalTrafficPolicy::Local;
    store.put_services([
        Service { key: "ns/web".into(), ..service("web", &["10.1.0.1"]) },
        Service { key: "ns/v4".into(), ..service("v4", &["fd01::1"]) },
        Service { key: "ns/local".into(), internal_traffic_policy: local, ..service("local", &["10.1.0.2"]) },
    ]);
    let mut pod = pod("a", &["10.0.0.1"]).at("node-2", "").of("web", NotReady).of("v4", Ready).of("local", Ready);
    for (membership, key) in pod.services.iter_mut().zip(["ns/web", "ns/v4", "ns/local"]) {
        membership.service = key.into();
    }
    store.put([pod]);
    for (destination, wanted) in [
        ("10.9.9.9:80", "10.9.9.9:80 belongs to no known workload or service"),
        ("10.1.0.1:81", "service ns/web has no port 81"),
        ("10.1.0.1:80", "service ns/web has no ready endpoint for port 80"),
        ("[fd01::1]:80", "service ns/v4 was dialled over IPv6, but none of its ready endpoints has an IPv6 address"),
        (
            "10.1.0.2:80",
            "service ns/local has no ready endpoint for port 80 on the client's node 'node-1', \
             and its internalTrafficPolicy is Local",
        ),
    ] {
        assert_eq!(spread(&store, &CLIENT, destination, 1), wanted);
    }
}

#[test]
fn endpoints_are_used_by_their_condition() {
    for (conditions, publish, wanted) in [
        (vec![Ready, Terminating, NotReady], false, "pod-0:8080"),
        (vec![Terminating, Terminating, NotReady], false, "pod-0:8080 pod-1:8080"),
        (vec![NotReady], false, "no ready endpoint"),
        (vec![], false, "no ready endpoint"),
        (vec![Ready, Terminating, NotReady], true, "pod-0:8080 pod-1:8080 pod-2:8080"),
    ] {
        let mut store = store();
        store.put_services([Service { publish_not_ready_addresses: publish, ..service("web", &["10.1.0.1"]) }]);
        for (number, condition) in conditions.iter().enumerate() {
            store.put([pod(&format!("pod-{number}"), &[&format!("10.0.0.{number}")]).of("web", *condition)]);
        }
        let found = spread(&store, &CLIENT, VIP, 30);
        assert!(found == wanted || found.contains("no ready endpoint") && wanted == "no ready endpoint", "{found}");
    }
}

#[test]
fn a_changed_service_is_balanced_by_its_new_rules() {
    let mut store = store();
    store.put_services([service("web", &["10.1.0.1"])]);
    let near = pod("near", &["10.0.0.1"]).of("web", Ready);
    let far = pod("far", &["10.0.0.2"]).at("node-2", "zone-2").of("web", Ready);
    store.put([near, far, pod("late", &["10.0.0.3"]).of("web", NotReady)]);
    assert_eq!(spread(&store, &CLIENT, VIP, 30), "far:8080 near:8080");
    let local = InternalTrafficPolicy::Local;
    store.put_services([Service { internal_traffic_policy: local, ..service("web", &["10.1.0.1"]) }]);
    assert_eq!(spread(&store, &CLIENT, VIP, 30), "near:8080");
    store.put_services([Service { publish_not_ready_addresses: true, ..service("web", &["10.1.0.1"]) }]);
    assert_eq!(spread(&store, &CLIENT, VIP, 30), "far:8080 late:8080 near:8080");
}

#[test]
fn host_network_endpoints_are_reached_through_services() {
    let mut store = store();
    store.put_services([service("web", &["10.1.0.1"])]);
    let host = |name: &str| Workload { is_host_network: true, ..pod(name, &["192.168.0.1"]).plain().of("web", Ready) };
    store.put([host("a"), host("b")]);
    assert_eq!(spread(&store, &CLIENT, VIP, 10), "a:8080 b:8080");
}

#[test]
fn endpoints_of_another_network_are_not_chosen() {
    let mut store = store();
    store.put_services([service("web", &["10.1.0.1"])]);
    let foreign = Workload { network: "elsewhere".into(), ..pod("foreign", &["10.0.0.2"]).of("web", Ready) };
    store.put([pod("a", &["10.0.0.1"]).of("web", Ready), foreign]);
    assert_eq!(spread(&store, &CLIENT, VIP, 10), "a:8080");
}

#[test]
fn turns_are_even_across_threads_and_snapshots() {
    let mut store = store();
    store.put_services([service("web", &["10.1.0.1"])]);
    let put = |n| Change::PutWorkload(pod(&format!("pod-{n}"), &[&format!("10.0.0.{n}")]).of("web", Ready));
    store.apply((0..7).map(put).collect());
    let first = Arc::clone(store.snapshot());
    let second = store.put([pod("other", &["10.0.1.1"])]).snapshot;
    let seen = Mutex::new(BTreeMap::<Arc<str>, usize>::new());
    std::thread::scope(|scope| {
        for snapshot in [&first, &second, &first, &second] {
            let seen = &seen;
            scope.spawn(move || {
                let balancer = Balancer::new();
                for _ in 0..7000 / 4 {
                    let upstream = snapshot.resolve(&CLIENT, ip("10.0.9.9"), address(VIP), &balancer);
                    let uid = Arc::clone(&upstream.expect("there are endpoints").workload.uid);
                    *seen.lock().expect("no thread panics").entry(uid).or_default() += 1;
                }
            });
        }
    });
    assert_eq!(seen.into_inner().expect("no thread panicked").into_values().collect::<Vec<_>>(), [1000; 7]);
}

/// A balancer whose clock stands still until the test moves it.
fn paused() -> (Balancer, impl Fn(Duration)) {
    let start = Instant::now();
    let elapsed = Arc::new(Mutex::new(Duration::ZERO));
    let read = Arc::clone(&elapsed);
    let balancer = Balancer::with_clock(move || start + *read.lock().expect("nobody panics"));
    (balancer, move |duration| *elapsed.lock().expect("nobody panics") += duration)
}

fn sticky(timeout: u64) -> Service {
    let session_affinity = Some(ClientIpAffinity { timeout: Duration::from_secs(timeout) });
    Service { session_affinity, ..service("web", &["10.1.0.1"]) }
}

fn sticky_store() -> Store {
    let mut store = store();
    store.put_services([sticky(100)]);
    for number in 0..5 {
        store.put([pod(&format!("pod-{number}"), &[&format!("10.0.0.{number}")]).of("web", Ready)]);
    }
    store
}

fn chosen(store: &Store, balancer: &Balancer, client_address: &str) -> String {
    let upstream = store.snapshot().resolve(&CLIENT, ip(client_address), address(VIP), balancer);
    upstream.expect("there are endpoints").workload.name.to_string()
}

#[test]
fn a_client_address_stays_with_its_endpoint_until_it_was_idle_for_the_time_out() {
    let (store, (balancer, advance)) = (sticky_store(), paused());
    let first = chosen(&store, &balancer, "10.0.9.1");
    for _ in 0..20 {
        advance(Duration::from_secs(99));
        assert_eq!(chosen(&store, &balancer, "10.0.9.1"), first);
        assert_eq!(chosen(&store, &balancer, "::ffff:10.0.9.1"), first);
    }
    assert_ne!(chosen(&store, &balancer, "10.0.9.2"), first, "other clients take the next turn");
    advance(Duration::from_secs(100));
    let changes = (0..5).any(|_| {
        advance(Duration::from_secs(100));
        chosen(&store, &balancer, "10.0.9.1") != first
    });
    assert!(changes);
    assert_eq!(balancer.bonds(), 2);
}

#[test]
fn a_client_leaves_an_endpoint_that_is_ready_no_more_or_was_created_anew() {
    let unready = |name: &str| pod(name, &["10.0.0.100"]).of("web", NotReady);
    let anew = |name: &str| pod(name, &["10.0.0.100"]).instance("2").of("web", Ready);
    let gone = |name: &str| pod(name, &["10.0.0.100"]);
    for replace in [unready, anew, gone] {
        let (mut store, (balancer, _)) = (sticky_store(), paused());
        let first = chosen(&store, &balancer, "10.0.9.1");
        store.put([replace(&first)]);
        let second = chosen(&store, &balancer, "10.0.9.1");
        assert_ne!(first, second);
        store.put([pod(&first, &["10.0.0.100"]).of("web", Ready)]);
        assert_eq!(chosen(&store, &balancer, "10.0.9.1"), second, "the new bond holds");
    }
}

#[test]
fn an_update_of_the_endpoint_keeps_the_bond() {
    let (mut store, (balancer, _)) = (sticky_store(), paused());
    let first = chosen(&store, &balancer, "10.0.9.1");
    store.put([pod(&first, &["10.0.0.200"]).at("node-7", "zone-7").of("web", Ready)]);
    for _ in 0..10 {
        assert_eq!(chosen(&store, &balancer, "10.0.9.1"), first);
    }
}

#[test]
fn a_bond_does_not_reach_past_the_clients_node() {
    let (mut store, (balancer, _)) = (sticky_store(), paused());
    let first = chosen(&store, &balancer, "10.0.9.1");
    store.put([pod(&first, &["10.0.0.200"]).at("node-2", "").of("web", Ready)]);
    store.put_services([Service { internal_traffic_policy: InternalTrafficPolicy::Local, ..sticky(100) }]);
    assert_ne!(chosen(&store, &balancer, "10.0.9.1"), first);
}

#[test]
fn bonds_are_bounded_and_those_that_ran_out_make_room() {
    let (store, (balancer, advance)) = (sticky_store(), paused());
    let nth = |n: u32| std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
    let count = u32::try_from(Balancer::CAPACITY / 2 * 3).expect("it is small");
    for n in 0..count {
        chosen(&store, &balancer, &nth(n));
    }
    let (least, most) = (Balancer::CAPACITY / 4 * 3, Balancer::CAPACITY);
    assert!((least..=most).contains(&balancer.bonds()), "{}", balancer.bonds());
    let last = chosen(&store, &balancer, &nth(count));
    assert_eq!(chosen(&store, &balancer, &nth(count)), last, "a full table still binds newcomers");
    advance(Duration::from_secs(100));
    for n in 0..count / 6 {
        chosen(&store, &balancer, &nth(2 * count + n));
    }
    assert!(balancer.bonds() < Balancer::CAPACITY / 2, "{}", balancer.bonds());
}

#[test]
fn the_clients_that_were_idle_longest_are_forgotten_first() {
    let (store, (balancer, advance)) = (sticky_store(), paused());
    let nth = |n: u32| std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
    let regular = chosen(&store, &balancer, "10.0.9.1");
    for n in 0..u32::try_from(Balancer::CAPACITY / 2 * 3).expect("it is small") {
        advance(Duration::from_micros(1));
        chosen(&store, &balancer, &nth(n));
        if n % 1000 == 0 {
            assert_eq!(chosen(&store, &balancer, "10.0.9.1"), regular, "after {n} other clients");
        }
    }
}

#[test]
fn a_service_with_many_endpoints_is_balanced_over_all_of_them() {
    let mut store = store();
    store.put_services([service("web", &["10.1.0.1"])]);
    let nth = |n: u32| std::net::Ipv4Addr::from(0x0a02_0000 + n).to_string();
    let put = |n| Change::PutWorkload(pod(&format!("pod-{n}"), &[&nth(n)]).of("web", Ready));
    store.apply((0..3000).map(put).collect());
    for n in 0..1000 {
        store.apply(vec![Change::RemoveWorkload(uid(&format!("pod-{n}")))]);
    }
    let balancer = Balancer::new();
    let seen: std::collections::BTreeSet<String> = (0..2000).map(|_| chosen(&store, &balancer, "10.0.9.1")).collect();
    assert_eq!(seen.len(), 2000);
}

#[test]
fn preferences_fall_back_as_kubernetes_does() {
    use TrafficDistribution::{Any, PreferSameNode, PreferSameZone};
    let (near, zonal, far) = (("node-1", "zone-1"), ("node-2", "zone-1"), ("node-3", "zone-2"));
    let nowhere = ("", "");
    for (distribution, places, wanted) in [
        (Any, vec![near, zonal, far], "0 1 2"),
        (PreferSameZone, vec![near, zonal, far], "0 1"),
        (PreferSameZone, vec![far, far], "0 1"),
        (PreferSameZone, vec![near, far, nowhere], "0 1 2"),
        (PreferSameNode, vec![near, zonal, far], "0"),
        (PreferSameNode, vec![zonal, zonal, far], "0 1"),
        (PreferSameNode, vec![far, far], "0 1"),
        (PreferSameNode, vec![near, far, nowhere], "0 1 2"),
        (PreferSameNode, vec![near, ("node-4", "")], "0"),
        (PreferSameNode, vec![zonal, ("node-4", "")], "0 1"),
    ] {
        let mut store = store();
        store.put_services([Service { traffic_distribution: distribution, ..service("web", &["10.1.0.1"]) }]);
        for (number, (node, zone)) in places.iter().enumerate() {
            store.put([pod(&number.to_string(), &[&format!("10.0.0.{number}")]).at(node, zone).of("web", Ready)]);
        }
        let found = spread(&store, &CLIENT, VIP, 30).replace(":8080", "");
        assert_eq!(found, wanted, "{distribution:?} {places:?}");
        let homeless = CLIENT.clone().at("", "");
        let all: Vec<String> = (0..places.len()).map(|number| number.to_string()).collect();
        assert_eq!(spread(&store, &homeless, VIP, 30).replace(":8080", ""), all.join(" "), "{distribution:?}");
    }
}
