//! From a service's address to a pod.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weft_tests::server::{Behaviour, Server};
use weft_tests::{Families, Pod, PodSpec, ServiceSpec};

use crate::client::{assert_answered, assert_refused, greet};
use crate::pair::{NAMESPACE, Pair, serve};

/// More pods of the service `server` on node b, each with a greeting server on port 8080.
pub(crate) fn replicas(pair: &Pair, count: usize) -> Result<Vec<(Pod, Server)>> {
    (0..count)
        .map(|n| {
            let pod = pair.b.pod(PodSpec::new(&format!("server-{n}")).namespace(NAMESPACE).label("app", "server"))?;
            pair.agent_b.wait_enrolled(&pod)?;
            pair.agent_a.wait_for_protocol(&pod, "hbone")?;
            let server = serve(&pod, 8080, Behaviour::Greet)?;
            Ok((pod, server))
        })
        .collect()
}

/// Connects `times` to a service and counts who answers.
pub(crate) fn spread(from: &Pod, service: SocketAddr, times: usize) -> Result<BTreeMap<IpAddr, usize>> {
    let mut answered = BTreeMap::new();
    for _ in 0..times {
        *answered.entry(greet(from, service)?.local.ip()).or_default() += 1;
    }
    Ok(answered)
}

#[test]
fn a_services_address_leads_to_its_pods_in_turn_through_tunnels() -> Result<()> {
    let pair = Pair::start()?;
    let _first = serve(&pair.server, 8080, Behaviour::Greet)?;
    let others = replicas(&pair, 2)?;
    let addresses = pair.world.service(&ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080))?;
    pair.agent_a.wait_for_endpoints("server", &["ready"; 3])?;
    let tap = pair.b.tap()?;
    for address in addresses {
        let service = SocketAddr::new(address, 80);
        let connection = pair.client.connect(service)?;
        assert_eq!(connection.peer_addr()?, service, "getpeername shows what was dialled");
        drop(connection);
        let answered = spread(&pair.client, service, 30)?;
        ensure!(answered.len() == 3, "{answered:?}");
        ensure!(answered.values().all(|times| (5..=15).contains(times)), "far from even: {answered:?}");
    }
    let recording = tap.stop()?;
    for (pod, _) in &others {
        recording.is_only_tls(pair.client.ip(), pod.ip(), 15008)?;
    }
    Ok(())
}

#[test]
fn target_ports_are_found_by_number_and_by_name() -> Result<()> {
    let pair = Pair::start()?;
    // The same name stands for another port in each pod.
    let one = pair.b.pod(PodSpec::new("one").namespace(NAMESPACE).label("app", "named").port("http", 8081))?;
    let two = pair.b.pod(PodSpec::new("two").namespace(NAMESPACE).label("app", "named").port("http", 8082))?;
    let _servers = [serve(&one, 8081, Behaviour::Greet)?, serve(&two, 8082, Behaviour::Greet)?];
    for pod in [&one, &two] {
        pair.agent_b.wait_enrolled(pod)?;
        pair.agent_a.wait_for_protocol(pod, "hbone")?;
    }
    let spec = ServiceSpec::new("named").namespace(NAMESPACE).named_port(80, "http").port(81, 8081);
    let addresses = pair.world.service(&spec)?;
    pair.agent_a.wait_for_endpoints("named", &["ready", "ready"])?;
    let mut seen = HashSet::new();
    for _ in 0..8 {
        seen.insert(greet(&pair.client, SocketAddr::new(addresses[0], 80))?.local);
    }
    assert_eq!(seen, HashSet::from([one.at(8081), two.at(8082)]));
    Ok(())
}

#[test]
fn the_pods_of_a_headless_service_are_reached_by_their_own_addresses() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let none = pair.world.service(&ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080).headless())?;
    assert!(none.is_empty());
    pair.agent_a.wait_for_endpoints("server", &["ready"])?;
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

#[test]
fn without_a_ready_endpoint_a_connection_is_refused_at_once_and_counted() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let addresses = pair.world.service(&ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080))?;
    let service = SocketAddr::new(addresses[0], 80);
    pair.agent_a.wait_for_endpoints("server", &["ready"])?;
    assert_answered(&pair.client, service)?;
    pair.server.set_ready(false)?;
    pair.agent_a.wait_for_endpoints("server", &["not_ready"])?;
    let start = Instant::now();
    assert_refused(&pair.client, service)?;
    ensure!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
    pair.agent_a.wait_for_metric(
        "istio_tcp_connections_failed_total",
        &[("reporter", "source"), ("destination_service_name", "server"), ("response_flags", "CONNECT")],
        1.0,
    )?;
    pair.agent_a.wait_for_log(&["server", "ready"])?;
    pair.server.set_ready(true)?;
    pair.agent_a.wait_for_endpoints("server", &["ready"])?;
    assert_answered(&pair.client, service)
}

#[test]
fn a_port_that_a_service_does_not_have_is_refused() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let addresses = pair.world.service(&ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080))?;
    pair.agent_a.wait_for_endpoints("server", &["ready"])?;
    assert_refused(&pair.client, SocketAddr::new(addresses[0], 8080))?;
    pair.agent_a.wait_for_log(&["8080", "port"])?;
    Ok(())
}

#[test]
fn a_service_of_pods_outside_the_mesh_is_reached_in_clear() -> Result<()> {
    let pair = Pair::start()?;
    pair.world.namespace("plain", &[])?;
    let pod = pair.b.pod(PodSpec::new("plain").namespace("plain"))?;
    let _server = serve(&pod, 8080, Behaviour::Greet)?;
    let addresses = pair.world.service(&ServiceSpec::new("plain").namespace("plain").port(80, 8080))?;
    pair.agent_a.wait_for_endpoints("plain", &["ready"])?;
    let tap = pair.b.tap()?;
    // Without kube-proxy only the agent can know what this address stands for, mesh or not.
    let outcome = greet(&pair.client, SocketAddr::new(addresses[0], 80));
    let recording = tap.stop()?;
    if let Ok(greeting) = outcome {
        assert_eq!(greeting.local.ip(), pod.ip());
        ensure!(recording.on_port(8080).any(|stream| !stream.is_empty()), "it did not go in clear");
    } else {
        // Left alone in the kernel: then the address itself went out, untouched.
        ensure!(recording.on_port(8080).next().is_none(), "something else went out");
    }
    Ok(())
}

#[test]
fn a_service_with_some_pods_in_the_mesh_reaches_each_as_it_can() -> Result<()> {
    let pair = Pair::start()?;
    let out = PodSpec::new("out").namespace(NAMESPACE).label("app", "server").label("istio.io/dataplane-mode", "none");
    let out = pair.b.pod(out)?;
    pair.agent_a.wait_for_protocol(&out, "tcp")?;
    let _servers = [serve(&pair.server, 8080, Behaviour::Greet)?, serve(&out, 8080, Behaviour::Greet)?];
    let addresses = pair.world.service(&ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080))?;
    pair.agent_a.wait_for_endpoints("server", &["ready", "ready"])?;
    let tap = pair.b.tap()?;
    let answered = spread(&pair.client, SocketAddr::new(addresses[0], 80), 10)?;
    let recording = tap.stop()?;
    ensure!(answered.len() == 2, "{answered:?}");
    recording.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)?;
    ensure!(recording.between(pair.client.ip(), out.ip()).all(|s| s.from.port() == 8080 || s.to.port() == 8080));
    Ok(())
}

#[test]
fn an_endpoint_of_the_other_family_is_not_chosen() -> Result<()> {
    let pair = Pair::start()?;
    let v4 = pair.b.pod(PodSpec::new("v4").namespace(NAMESPACE).label("app", "mixed").families(Families::V4))?;
    let v6 = pair.b.pod(PodSpec::new("v6").namespace(NAMESPACE).label("app", "mixed").families(Families::V6))?;
    let _servers = [serve(&v4, 8080, Behaviour::Greet)?, serve(&v6, 8080, Behaviour::Greet)?];
    for pod in [&v4, &v6] {
        pair.agent_b.wait_enrolled(pod)?;
        pair.agent_a.wait_for_protocol(pod, "hbone")?;
    }
    let addresses = pair.world.service(&ServiceSpec::new("mixed").namespace(NAMESPACE).port(80, 8080))?;
    pair.agent_a.wait_for_endpoints("mixed", &["ready", "ready"])?;
    // What the server's accept shows must be an address of the client, so the families have to agree.
    for (address, pod) in addresses.into_iter().zip([&v4, &v6]) {
        let answered = spread(&pair.client, SocketAddr::new(address, 80), 6)?;
        assert_eq!(answered.keys().collect::<Vec<_>>(), [&pod.ip()]);
    }
    Ok(())
}

#[test]
fn endpoint_slices_are_taken_where_they_are_given() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let spec = ServiceSpec::new("sliced").namespace(NAMESPACE).port(80, 8080).field("selector", json!(null));
    let addresses = pair.world.service(&spec)?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "sliced-1",
            "namespace": NAMESPACE,
            "labels": { "kubernetes.io/service-name": "sliced" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "tcp-80", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{
            "addresses": [pair.server.ip().to_string()],
            "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "name": "server", "namespace": NAMESPACE },
        }],
    });
    // JSON is read as well as YAML.
    pair.world.config().put_file("slice.json", &slice.to_string())?;
    pair.agent_a.wait_for_endpoints("sliced", &["ready"])?;
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, SocketAddr::new(addresses[0], 80)).context("through the slice")?;
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}
