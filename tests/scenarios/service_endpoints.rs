//! What kube-proxy promises for a Service stays true in the mesh.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::server::Behaviour;
use weft_tests::{PodSpec, ServiceSpec, eventually};

use crate::client::{assert_refused, greet};
use crate::pair::{NAMESPACE, Pair, serve};
use crate::resolution::{replicas, spread};

fn spec() -> ServiceSpec {
    ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080)
}

#[test]
fn session_affinity_keeps_a_client_at_its_pod() -> Result<()> {
    let pair = Pair::start()?;
    let _first = serve(&pair.server, 8080, Behaviour::Greet)?;
    let _others = replicas(&pair, 3)?;
    let spec = spec()
        .field("sessionAffinity", json!("ClientIP"))
        .field("sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 3 } }));
    let service = SocketAddr::new(pair.world.service(&spec)?[0], 80);
    pair.agent_a.wait_for_endpoints("server", &["ready"; 4])?;
    let answered = spread(&pair.client, service, 20)?;
    ensure!(answered.len() == 1, "one client was sent to {answered:?}");
    // Another client may go elsewhere, and stays there.
    let other = pair.a.pod(PodSpec::new("other").namespace(NAMESPACE))?;
    pair.agent_a.wait_enrolled(&other)?;
    ensure!(spread(&other, service, 20)?.len() == 1);
    Ok(())
}

#[test]
fn local_internal_traffic_stays_on_the_node_or_fails() -> Result<()> {
    let pair = Pair::start()?;
    let _remote = serve(&pair.server, 8080, Behaviour::Greet)?;
    let service = SocketAddr::new(pair.world.service(&spec().field("internalTrafficPolicy", json!("Local")))?[0], 80);
    pair.agent_a.wait_for_endpoints("server", &["ready"])?;
    assert_refused(&pair.client, service)?;
    let local = pair.a.pod(PodSpec::new("local").namespace(NAMESPACE).label("app", "server"))?;
    let _local = serve(&local, 8080, Behaviour::Greet)?;
    pair.agent_a.wait_enrolled(&local)?;
    pair.agent_a.wait_for_endpoints("server", &["ready", "ready"])?;
    let answered = spread(&pair.client, service, 10)?;
    assert_eq!(answered.into_keys().collect::<Vec<_>>(), [local.ip()]);
    Ok(())
}

#[test]
fn traffic_distribution_prefers_the_node_and_goes_elsewhere_if_it_must() -> Result<()> {
    let pair = Pair::start()?;
    let _remote = serve(&pair.server, 8080, Behaviour::Greet)?;
    let local = pair.a.pod(PodSpec::new("local").namespace(NAMESPACE).label("app", "server"))?;
    let _local = serve(&local, 8080, Behaviour::Greet)?;
    pair.agent_a.wait_enrolled(&local)?;
    let service = pair.world.service(&spec().field("trafficDistribution", json!("PreferSameNode")))?;
    let service = SocketAddr::new(service[0], 80);
    pair.agent_a.wait_for_endpoints("server", &["ready", "ready"])?;
    assert_eq!(spread(&pair.client, service, 10)?.into_keys().collect::<Vec<_>>(), [local.ip()]);
    local.set_ready(false)?;
    pair.agent_a.wait_for_endpoints("server", &["not_ready", "ready"])?;
    assert_eq!(spread(&pair.client, service, 4)?.into_keys().collect::<Vec<_>>(), [pair.server.ip()]);
    Ok(())
}

#[test]
fn unready_pods_are_reached_where_their_service_publishes_them() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Greet)?;
    let published = spec().field("publishNotReadyAddresses", json!(true));
    let service = SocketAddr::new(pair.world.service(&published)?[0], 80);
    pair.server.set_ready(false)?;
    eventually("the unready pod answers", || Ok(greet(&pair.client, service).ok()))?;
    Ok(())
}

#[test]
fn terminating_pods_serve_only_when_no_other_is_ready() -> Result<()> {
    let pair = Pair::start()?;
    let _first = serve(&pair.server, 8080, Behaviour::Greet)?;
    let others = replicas(&pair, 1)?;
    let (other, _) = &others[0];
    let service = SocketAddr::new(pair.world.service(&spec())?[0], 80);
    pair.agent_a.wait_for_endpoints("server", &["ready", "ready"])?;
    pair.server.set_terminating()?;
    pair.agent_a.wait_for_endpoints("server", &["ready", "terminating"])?;
    assert_eq!(spread(&pair.client, service, 6)?.into_keys().collect::<Vec<_>>(), [other.ip()]);
    other.set_ready(false)?;
    pair.agent_a.wait_for_endpoints("server", &["not_ready", "terminating"])?;
    assert_eq!(spread(&pair.client, service, 4)?.into_keys().collect::<Vec<_>>(), [pair.server.ip()]);
    Ok(())
}
