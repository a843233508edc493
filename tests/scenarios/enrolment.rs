//! Pods come into the mesh and leave it while they run.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use weft_tests::server::{Behaviour, End};
use weft_tests::{Agent, Families, Pod, PodSpec, Process};

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
    for (agent, pod, direction) in [(&pair.agent_a, &pair.client, "outbound"), (&pair.agent_b, &pair.server, "inbound")]
    {
        wait_older(agent, pod, 1)?;
        let older = agent.list("older_connections")?;
        ensure!(older.len() == 1, "{older:?}");
        assert_eq!(older[0]["direction"], direction);
        assert_eq!(older[0]["source"]["workload"], "client");
        assert_eq!(older[0]["destination"]["workload"], "server");
        assert_eq!(older[0]["destination"]["address"], pair.server.at(8080).to_string());
        let status = agent.cli(&["status"])?.success()?;
        ensure!(status.contains("1 connection from before enrolment"), "{status}");
        let listed = agent.cli(&["older-connections"])?.success()?;
        ensure!(listed.contains(&format!("shop/server@{}", pair.server.at(8080))), "{listed}");
    }
    let tap = pair.b.tap()?;
    let after = greet(&pair.client, pair.server.at(8081))?;
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)?;
    assert_eq!(after.peer.ip(), before.peer.ip(), "the server sees the same client as before");
    assert_eq!(after.local, before.local);
    assert_eq!(greeter.count(), 2);
    open.exchange()?;
    open.finish()?;
    wait_older(&pair.agent_a, &pair.client, 0)?;
    wait_older(&pair.agent_b, &pair.server, 0)
}

/// Waits until a pod has so many connections from before its enrolment.
fn wait_older(agent: &Agent, pod: &Pod, count: u64) -> Result<()> {
    agent.wait_for("pods", &format!("{count} connections from before"), |item| {
        item["name"] == pod.name() && item["older_connections"].as_u64().unwrap_or(0) == count
    })?;
    Ok(())
}

#[test]
fn connections_from_before_are_ended_at_both_ends_where_the_operator_wants_that() -> Result<()> {
    let pair = Pair::with(Setup { is_enrolled: false, ..Setup::arguments(&["--older-connections", "end"]) })?;
    let echo = pair.echo(8080)?;
    let mut open = Vec::new();
    for to in [pair.server.at(8080), pair.server.at6(8080)] {
        for _ in 0..10 {
            open.push(Conversation::open(&pair.client, to)?);
        }
    }
    pair.enrol()?;
    for (index, conversation) in open.iter_mut().enumerate() {
        conversation.wait_for_failure()?;
        let end = echo.wait_for_end(index)?;
        let is_failure = matches!(end, End::Error(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted));
        ensure!(is_failure, "the server saw {end:?}");
    }
    wait_older(&pair.agent_a, &pair.client, 0)?;
    wait_older(&pair.agent_b, &pair.server, 0)?;
    // What takes their place is in the mesh.
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    tap.stop()?.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)
}

/// A pod outside the mesh, on a node of its own: capture leaves connections to it alone. With a server on this port.
fn outside(pair: &Pair, port: u16) -> Result<(weft_tests::Node, Pod, weft_tests::server::Server)> {
    pair.world.namespace("outside", &[])?;
    let node = pair.world.node("c")?;
    let pod = node.pod(PodSpec::new("outside").namespace("outside"))?;
    let server = serve(&pod, port, Behaviour::Echo)?;
    for agent in [&pair.agent_a, &pair.agent_b] {
        agent.wait_for_protocol(&pod, "tcp")?;
    }
    Ok((node, pod, server))
}

/// Listens as Istio's agent does in its pods: on ports that it shares with whoever asks for that.
const ANOTHER_MESH: &str = "
import socket, time
kept = []
for port in (15001, 15006, 15008):
    s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('::', port))
    s.listen()
    kept.append(s)
print('listening', flush=True)
time.sleep(600)
";

#[test]
fn a_pod_in_which_another_mesh_listens_is_left_alone_until_it_no_longer_does() -> Result<()> {
    let pair = Pair::with(Setup { is_enrolled: false, ..Setup::default() })?;
    let _echo = pair.echo(8080)?;
    let mut python = pair.server.command("python3")?;
    python.args(["-c", ANOTHER_MESH]);
    let mut other = Process::spawn(python)?;
    other.wait_for_output("listening")?;
    pair.server.set_label("istio.io/dataplane-mode", Some("ambient"))?;
    pair.agent_b.wait_for("pods", "a pod that cannot be taken", |pod| {
        let detail = pod["detail"].as_str().unwrap_or_default();
        pod["name"] == "server" && pod["state"] == "failed" && detail.contains("another mesh")
    })?;
    // What it does there goes on.
    assert_answered(&pair.client, pair.server.at(8080))?;
    other.kill()?;
    pair.agent_b.wait_enrolled(&pair.server)?;
    assert_answered(&pair.client, pair.server.at(8080))
}

#[test]
fn a_restarted_agent_still_knows_which_connections_are_from_before() -> Result<()> {
    let mut pair = Pair::with(Setup { is_enrolled: false, ..Setup::default() })?;
    let _echo = pair.echo(8080)?;
    let mut older = Conversation::open(&pair.client, pair.server.at(8080))?;
    pair.enrol()?;
    wait_older(&pair.agent_a, &pair.client, 1)?;
    let (_node, pod, _server) = outside(&pair, 8080)?;
    let mut left_alone = Conversation::open(&pair.client, pod.at(8080))?;
    pair.agent_a.kill()?;
    pair.agent_a.restart()?;
    pair.agent_a.wait_enrolled(&pair.client)?;
    wait_older(&pair.agent_a, &pair.client, 1)?;
    let listed = pair.agent_a.list("older_connections")?;
    assert_eq!(listed[0]["destination"]["address"], pair.server.at(8080).to_string());
    older.exchange()?;
    left_alone.exchange()?;
    older.finish()?;
    wait_older(&pair.agent_a, &pair.client, 0)?;
    left_alone.finish()
}

#[test]
fn what_the_agent_carries_or_has_let_pass_is_not_ended_as_from_before() -> Result<()> {
    let mut pair = Pair::with(Setup::arguments(&["--older-connections", "end"]))?;
    let _echo = pair.echo(8080)?;
    let (_node, pod, _server) = outside(&pair, 8080)?;
    // Unknown, among addresses of the mesh: the agent has to look, and makes the first connection itself.
    let unknown = pair.b.pod(PodSpec::new("unknown").unlisted())?;
    let _unknown_echo = serve(&unknown, 8080, Behaviour::Echo)?;
    let tunnelled: [SocketAddr; 2] = [pair.server.at(8080), pair.server.at6(8080)];
    let mut carried = Vec::new();
    for to in tunnelled.into_iter().chain([unknown.at(8080), unknown.at6(8080)]) {
        carried.push(Conversation::open(&pair.client, to)?);
    }
    // In clear from outside: the agent accepts them in the server's pod.
    carried.push(Conversation::open(&pod, pair.server.at(8080))?);
    carried.push(Conversation::open(&pod, pair.server.at6(8080))?);
    let mut left_alone = Conversation::open(&pair.client, pod.at(8080))?;

    // A restart ends what the agent carried, and nothing else.
    pair.agent_a.kill()?;
    pair.agent_a.restart()?;
    pair.agent_a.wait_enrolled(&pair.client)?;
    left_alone.exchange()?;
    left_alone.finish()?;

    // The pods leave and come again, while the agents go on carrying.
    let mut carried: Vec<_> = carried.split_off(4);
    for to in tunnelled.into_iter().chain([unknown.at(8080), unknown.at6(8080)]) {
        carried.push(Conversation::open(&pair.client, to)?);
    }
    pair.world.unenrol(NAMESPACE)?;
    pair.agent_a.wait_unenrolled(&pair.client)?;
    pair.agent_b.wait_unenrolled(&pair.server)?;
    let mut in_clear = Conversation::open(&pair.client, pair.server.at(8080))?;
    pair.enrol()?;
    in_clear.wait_for_failure()?;
    for conversation in &mut carried {
        conversation.exchange()?;
    }
    wait_older(&pair.agent_a, &pair.client, 0)?;
    carried.into_iter().try_for_each(Conversation::finish)
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
