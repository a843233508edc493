//! Pods come into the mesh and leave it while they run.

use anyhow::{Result, ensure};
use weft_tests::server::Behaviour;
use weft_tests::{Families, PodSpec};

use crate::client::{Conversation, assert_answered, eventually_answered, greet};
use crate::pair::{NAMESPACE, Pair, Setup, serve};

#[test]
fn a_label_puts_the_next_connection_into_a_tunnel_and_leaves_the_open_ones_alone() -> Result<()> {
    let pair = Pair::with(Setup { is_enrolled: false, ..Setup::default() })?;
    let _echo = pair.echo(8080)?;
    let greeter = serve(&pair.server, 8081, Behaviour::Greet)?;
    let before = greet(&pair.client, pair.server.at(8081))?;
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    pair.enrol()?;
    open.exchange()?;
    // It goes on in clear, and the operator is told so.
    pair.agent_a.wait_for("pods", "the connection from before", |pod| {
        pod["name"] == "client" && pod["older_connections"] == 1
    })?;
    let tap = pair.b.tap()?;
    let after = greet(&pair.client, pair.server.at(8081))?;
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)?;
    assert_eq!(after.peer.ip(), before.peer.ip(), "the server sees the same client as before");
    assert_eq!(after.local, before.local);
    assert_eq!(greeter.count(), 2);
    open.exchange()?;
    open.finish()
}

#[test]
fn taking_the_label_off_ends_capture_and_leaves_the_open_connections_alone() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    pair.world.unenrol(NAMESPACE)?;
    for agent in [&pair.agent_a, &pair.agent_b] {
        agent.wait_for_protocol(&pair.client, "tcp")?;
        agent.wait_for_protocol(&pair.server, "tcp")?;
    }
    pair.agent_a.wait_unenrolled(&pair.client)?;
    pair.agent_b.wait_unenrolled(&pair.server)?;
    open.exchange()?;
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    let recording = tap.stop()?;
    ensure!(recording.contains(b"ping"), "a pod outside the mesh talks in clear");
    open.exchange()?;
    open.finish()?;
    pair.enrol()?;
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

#[test]
fn a_pods_own_label_beats_its_namespaces() -> Result<()> {
    let pair = Pair::start()?;
    let out = PodSpec::new("out").namespace(NAMESPACE).label("istio.io/dataplane-mode", "none");
    let out = pair.a.pod(out)?;
    pair.world.namespace("other", &[])?;
    let inside = PodSpec::new("inside").namespace("other").label("istio.io/dataplane-mode", "ambient");
    let inside = pair.a.pod(inside)?;
    pair.agent_a.wait_enrolled(&inside)?;
    pair.agent_b.wait_for_protocol(&inside, "hbone")?;
    pair.agent_b.wait_for_protocol(&out, "tcp")?;
    ensure!(!out.listens_on(15008)?, "a pod that opted out is captured");
    let _echo = pair.echo(8080)?;
    let tap = pair.b.tap()?;
    assert_answered(&inside, pair.server.at(8080))?;
    assert_answered(&out, pair.server.at(8080))?;
    let recording = tap.stop()?;
    recording.is_only_tls(inside.ip(), pair.server.ip(), 15008)?;
    ensure!(recording.between(out.ip(), pair.server.ip()).any(|stream| stream.contains(b"ping")), "clear text");
    // The pod changes its mind, while it runs.
    out.set_label("istio.io/dataplane-mode", None)?;
    pair.agent_a.wait_enrolled(&out)
}

#[test]
fn a_pod_with_an_injected_sidecar_is_never_captured() -> Result<()> {
    let pair = Pair::start()?;
    let spec = PodSpec::new("sidecar").namespace(NAMESPACE).annotation("sidecar.istio.io/status", "{}");
    let sidecar = pair.a.pod(spec)?;
    pair.agent_a.wait_for_protocol(&sidecar, "tcp")?;
    pair.agent_a.wait_for("pods", "the pod with a sidecar, outside", |pod| {
        pod["name"] == "sidecar" && pod["state"] == "outside"
    })?;
    ensure!(!sidecar.listens_on(15008)?, "a pod with a sidecar is captured");
    Ok(())
}

#[test]
fn a_pod_that_goes_away_leaves_nothing_in_the_agent() -> Result<()> {
    let pair = Pair::start()?;
    let brief = pair.a.pod(PodSpec::new("brief").namespace(NAMESPACE).families(Families::V4))?;
    pair.agent_a.wait_enrolled(&brief)?;
    let echo = pair.echo(8080)?;
    assert_answered(&brief, pair.server.at(8080))?;
    // First the namespace goes, as when a container runtime tears a pod down; its manifest goes with it a moment later.
    let name = brief.name().to_owned();
    drop(brief);
    weft_tests::eventually("the agent has dropped the pod", || {
        let is_gone = !pair.agent_a.list("pods")?.iter().any(|pod| pod["name"] == *name);
        Ok(is_gone.then_some(()))
    })?;
    weft_tests::eventually("its tunnel is closed at the other end", || {
        let of_brief = |item: &serde_json::Value| item["source"]["workload"] == *name;
        Ok((!pair.agent_b.list("connections")?.iter().any(of_brief)).then_some(()))
    })?;
    // Other pods are none the worse.
    assert_answered(&pair.client, pair.server.at(8080))?;
    ensure!(echo.count() == 2);
    Ok(())
}

#[test]
fn a_namespace_that_is_deleted_under_its_manifest_is_cleaned_up_and_found_again() -> Result<()> {
    let pair = Pair::start()?;
    let pod = pair.a.pod(PodSpec::new("brief").namespace(NAMESPACE))?;
    pair.agent_a.wait_enrolled(&pod)?;
    pod.netns().unpin();
    pair.agent_a.wait_for("pods", "the pod without its namespace, not captured", |item| {
        item["name"] == "brief" && item["state"] != "captured"
    })?;
    pair.agent_a.wait_enrolled(&pair.client)
}

#[test]
fn many_pods_are_enrolled_at_once() -> Result<()> {
    let pair = Pair::with(Setup { is_enrolled: false, ..Setup::default() })?;
    let pods = (0..20)
        .map(|n| pair.a.pod(PodSpec::new(&format!("pod-{n}")).namespace(NAMESPACE).service_account(&format!("sa-{n}"))))
        .collect::<Result<Vec<_>>>()?;
    let _echo = pair.echo(8080)?;
    pair.enrol()?;
    for pod in &pods {
        pair.agent_a.wait_enrolled(pod)?;
        pair.agent_b.wait_for_protocol(pod, "hbone")?;
    }
    let tap = pair.b.tap()?;
    for pod in &pods {
        eventually_answered(pod, pair.server.at(8080))?;
    }
    let recording = tap.stop()?;
    for pod in &pods {
        recording.is_only_tls(pod.ip(), pair.server.ip(), 15008)?;
    }
    Ok(())
}

#[test]
fn a_source_that_is_ahead_of_the_destinations_agent_waits_for_it() -> Result<()> {
    let pair = Pair::with(Setup { is_enrolled: false, ..Setup::default() })?;
    let _echo = pair.echo(8080)?;
    // Nothing is waited for here: the two agents learn of the label at different moments.
    pair.world.enrol(NAMESPACE)?;
    for _ in 0..200 {
        assert_answered(&pair.client, pair.server.at(8080))?;
    }
    Ok(())
}
