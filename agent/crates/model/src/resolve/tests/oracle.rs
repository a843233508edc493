//! Resolution against kube-proxy's rules written out over a plain list of endpoints.

use std::collections::BTreeSet;

use super::*;

/// The names that may be chosen, or a word for why there are none.
fn oracle(
    pods: &BTreeMap<String, Workload>,
    service: &Service,
    (node, zone): (&str, &str),
    ipv6: bool,
) -> Result<BTreeSet<String>, &'static str> {
    let of_family = |ipv6: bool| -> Result<BTreeSet<String>, &'static str> {
        let endpoints: Vec<(&Workload, EndpointCondition)> = pods
            .values()
            .filter(|pod| pod.addresses.iter().any(|address| address.is_ipv6() == ipv6))
            .filter_map(|pod| {
                let membership = pod.services.iter().find(|membership| membership.service == service.key)?;
                membership.ports.iter().any(|mapping| mapping.service_port == 80).then_some(())?;
                let condition = if service.publish_not_ready_addresses { Ready } else { membership.condition };
                Some((pod, condition))
            })
            .collect();
        let names = |condition: EndpointCondition, accepts: &dyn Fn(&Workload) -> bool| {
            let chosen = endpoints.iter().filter(|(pod, c)| *c == condition && accepts(pod));
            chosen.map(|(pod, _)| pod.name.to_string()).collect::<BTreeSet<_>>()
        };
        let any = |_: &Workload| true;
        let same_node = |pod: &Workload| *pod.node == *node && !node.is_empty();
        let same_zone = |pod: &Workload| *pod.locality.zone == *zone && !zone.is_empty();
        let mut steps: Vec<BTreeSet<String>> = Vec::new();
        if service.internal_traffic_policy == InternalTrafficPolicy::Local {
            steps.extend([names(Ready, &same_node), names(Terminating, &same_node)]);
        } else {
            let all_have_node = names(Ready, &|pod| pod.node.is_empty()).is_empty();
            let all_have_zone = names(Ready, &|pod| pod.locality.zone.is_empty()).is_empty();
            if service.traffic_distribution == TrafficDistribution::PreferSameNode && all_have_node {
                steps.push(names(Ready, &same_node));
            }
            if service.traffic_distribution != TrafficDistribution::Any && all_have_zone {
                steps.push(names(Ready, &same_zone));
            }
            steps.extend([names(Ready, &any), names(Terminating, &any)]);
        }
        if let Some(step) = steps.into_iter().find(|step| !step.is_empty()) {
            return Ok(step);
        }
        let is_any_usable = !names(Ready, &any).is_empty() || !names(Terminating, &any).is_empty();
        Err(if is_any_usable { "not local" } else { "nobody" })
    };
    of_family(ipv6).map_err(|reason| match of_family(!ipv6) {
        Ok(_) => "other family",
        Err(other) => {
            if other == "not local" {
                other
            } else {
                reason
            }
        }
    })
}

fn random_pod(random: &mut fastrand::Rng, name: &str) -> Workload {
    let number = name.len() + random.usize(..200);
    let (v4, v6) = (format!("10.0.0.{number}"), format!("fd00::{number}"));
    let addresses: &[&str] = match random.u8(..6) {
        0 => &[&v4],
        1 => &[&v6],
        2 => &[],
        _ => &[&v4, &v6],
    };
    let node = ["node-1", "node-2", "node-3", "node-1", "node-2", "node-3", ""][random.usize(..7)];
    let zone = ["zone-1", "zone-2", "zone-1", "zone-2", ""][random.usize(..5)];
    let condition = [Ready, Terminating, NotReady][random.usize(..3)];
    let mut pod = pod(name, addresses).at(node, zone);
    if random.u8(..5) > 0 {
        pod = pod.of("web", condition);
        if random.u8(..6) == 0 {
            pod.services[0].ports[0].service_port = 81;
        }
    }
    pod
}

fn random_service(random: &mut fastrand::Rng) -> Service {
    use InternalTrafficPolicy::{Cluster, Local};
    use TrafficDistribution::{Any, PreferSameNode, PreferSameZone};
    Service {
        internal_traffic_policy: [Cluster, Cluster, Local][random.usize(..3)],
        traffic_distribution: [Any, PreferSameZone, PreferSameNode][random.usize(..3)],
        publish_not_ready_addresses: random.u8(..6) == 0,
        ..service("web", &["10.1.0.1", "fd01::1"])
    }
}

#[test]
fn resolution_is_what_kube_proxys_rules_say_after_any_changes() {
    let mut random = fastrand::Rng::with_seed(11);
    let balancer = Balancer::new();
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for _ in 0..60 {
        let mut store = store();
        let mut pods = BTreeMap::new();
        let mut service = random_service(&mut random);
        store.put_services([service.clone()]);
        // Some worlds stay below what is few, others cross it in both directions.
        let (limit, steps) = [(3, 30), (12, 40), (80, 300)][random.usize(..3)];
        for step in 0..steps {
            let name = format!("pod-{}", random.usize(..limit));
            // The last third of the steps mostly removes.
            let puts = if step * 3 > steps * 2 { 1 } else { 6 };
            match random.u8(..10) {
                0 => {
                    service = random_service(&mut random);
                    store.put_services([service.clone()]);
                }
                roll if roll <= puts => {
                    let pod = random_pod(&mut random, &name);
                    store.put([pod.clone()]);
                    pods.insert(name, pod);
                }
                _ => {
                    store.remove(&name);
                    pods.remove(&name);
                }
            }
            let node = ["node-1", "node-2", "node-9", ""][random.usize(..4)];
            let zone = ["zone-1", "zone-2", "zone-9", ""][random.usize(..4)];
            let source = CLIENT.clone().at(node, zone);
            for (ipv6, destination) in [(false, "10.1.0.1:80"), (true, "[fd01::1]:80")] {
                let wanted = oracle(&pods, &service, (node, zone), ipv6);
                let count = wanted.as_ref().map_or(1, BTreeSet::len);
                let resolve = || store.snapshot().resolve(&source, ip("10.0.9.9"), address(destination), &balancer);
                let found: Result<BTreeSet<String>, &str> = (0..count)
                    .map(|_| match resolve() {
                        Ok(upstream) => {
                            assert_eq!(upstream.address.is_ipv6(), ipv6);
                            assert!(upstream.workload.addresses.contains(&upstream.address.ip()));
                            Ok(upstream.workload.name.to_string())
                        }
                        Err(ResolveError::NoReadyEndpoint { .. }) => Err("nobody"),
                        Err(ResolveError::NoLocalEndpoint { .. }) => Err("not local"),
                        Err(ResolveError::WrongFamily { .. }) => Err("other family"),
                        Err(error) => panic!("{error}"),
                    })
                    .collect();
                assert_eq!(found, wanted, "{service:?} {node} {zone} {pods:#?}");
                *outcomes.entry(wanted.as_ref().map_or_else(|reason| *reason, |_| "chosen")).or_default() += 1;
            }
        }
    }
    assert_eq!(outcomes.len(), 4, "an outcome never came up: {outcomes:?}");
}
