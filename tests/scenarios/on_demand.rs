//! Agents that ask a controller only for what their pods talk to.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_tests::server::{Behaviour, Server};
use weft_tests::{Agent, Pod, PodSpec, ServiceSpec, eventually};

use crate::client::{Conversation, Outcome, assert_answered, assert_refused, eventually_answered, ping};
use crate::control_plane::{Mesh, Mode, start_controller};
use crate::pair::{NAMESPACE, authorization, serve};

/// How long a connection waits for an answer.
const HOLD_TIME: Duration = Duration::from_secs(5);

/// The names of the workloads that an agent knows.
fn known(agent: &Agent) -> Result<BTreeSet<String>> {
    let workloads = agent.list("workloads")?;
    Ok(workloads.iter().filter_map(|workload| workload["name"].as_str().map(str::to_owned)).collect())
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A number in what `weft status` says of the control plane.
fn number(agent: &Agent, field: &str) -> Result<u64> {
    let status = agent.json("status")?;
    status["discovery"][field].as_u64().with_context(|| format!("no {field} in {}", status["discovery"]))
}

fn wait_for_held(agent: &Agent, count: u64) -> Result<()> {
    let waited =
        eventually(&format!("{count} connections wait"), || Ok((number(agent, "held")? == count).then_some(())));
    waited.with_context(|| format!("{} wait", number(agent, "held").unwrap_or_default()))
}

/// Waits until a pod of the second node can be reached by tunnel, and the first node's agent has heard that it is to be.
fn wait_in_mesh(mesh: &Mesh, pod: &Pod) -> Result<()> {
    mesh.agents[1].wait_enrolled(pod)?;
    // A pod that its agent has read of before the controller did gets its certificate at the second attempt.
    mesh.agents[1].wait_for("certificates", &pod.identity(), |item| {
        item["identity"] == pod.identity() && item["state"] == "valid"
    })?;
    mesh.agents[0].wait_for_protocol(pod, "hbone")
}

#[test]
fn an_agent_knows_what_its_pods_talk_to_and_the_first_connection_is_carried_like_any() -> Result<()> {
    let mesh = Mesh::start(Mode::OnDemand)?;
    let [a, b] = &mesh.nodes;
    let spec = |name: &str| PodSpec::new(name).namespace(NAMESPACE);
    let backends = [b.pod(spec("one").label("app", "web"))?, a.pod(spec("two").label("app", "web"))?];
    let _others = [a.pod(spec("three"))?, b.pod(spec("four"))?];
    let _servers = [serve(&backends[0], 8080, Behaviour::Echo)?, serve(&backends[1], 8080, Behaviour::Echo)?];
    let web = mesh.world.service(&ServiceSpec::new("web").namespace(NAMESPACE).port(80, 8080))?;
    mesh.agents[1].wait_enrolled(&backends[0])?;
    mesh.agents[0].wait_enrolled(&backends[1])?;
    mesh.agents[0].wait_for("workloads", "its own pods", |item| item["name"] == "three")?;
    ensure!(known(&mesh.agents[0])? == names(&["client", "two", "three"]), "{:?}", known(&mesh.agents[0])?);

    let _echo = serve(&mesh.server, 8080, Behaviour::Echo)?;
    let tap = b.tap()?;
    assert_answered(&mesh.client, mesh.server.at(8080)).context("the first connection")?;
    tap.stop()?.is_only_tls(mesh.client.ip(), mesh.server.ip(), 15008)?;
    ensure!(known(&mesh.agents[0])? == names(&["client", "server", "two", "three"]), "{:?}", known(&mesh.agents[0])?);
    // For the other side's metrics it matters who the client is.
    mesh.agents[1].wait_for("workloads", "the client", |item| item["name"] == "client")?;
    ensure!(known(&mesh.agents[1])? == names(&["client", "four", "one", "server"]), "{:?}", known(&mesh.agents[1])?);

    // A service comes with all its endpoints: none of the first connections is refused for want of one.
    let tap = b.tap()?;
    for _ in 0..8 {
        assert_answered(&mesh.client, (web[0], 80).into()).context("a service")?;
    }
    tap.stop()?.is_only_tls(mesh.client.ip(), backends[0].ip(), 15008)?;
    ensure!(known(&mesh.agents[0])?.contains("one") && !known(&mesh.agents[0])?.contains("four"));
    let status = mesh.agents[0].json("status")?["discovery"].clone();
    ensure!(status["mode"] == "on_demand" && status["is_connected"] == true && status["is_synced"] == true, "{status}");
    // The server, the service, and three pods of its own.
    ensure!(status["wanted"] == 5 && status["held"] == 0, "{status}");
    let shown = mesh.agents[0].cli(&["status"])?.stdout;
    ensure!(shown.contains("connected, on demand, 5 asked for, 0 connections held"), "{shown}");
    Ok(())
}

#[test]
fn an_address_is_in_clear_only_for_as_long_as_it_is_outside_the_mesh() -> Result<()> {
    let mesh = Mesh::start(Mode::OnDemand)?;
    let late = mesh.nodes[1].pod(PodSpec::new("late").namespace(NAMESPACE).service_account("late").unlisted())?;
    let _echo = serve(&late, 8080, Behaviour::Echo)?;
    let (internet, addresses) = mesh.world.outside("internet")?;
    let _outside = Server::start(&internet, "[::]:80".parse()?, Behaviour::Echo)?;
    for round in 0..3 {
        assert_answered(&mesh.client, late.at(8080)).with_context(|| format!("in clear, round {round}"))?;
        assert_answered(&mesh.client, (addresses[0], 80).into()).context("the outside")?;
        late.list()?;
        wait_in_mesh(&mesh, &late)?;
        let tap = mesh.nodes[1].tap()?;
        for _ in 0..5 {
            assert_answered(&mesh.client, late.at(8080)).with_context(|| format!("in the mesh, round {round}"))?;
        }
        tap.stop()?.is_only_tls(mesh.client.ip(), late.ip(), 15008)?;
        assert_answered(&mesh.client, (addresses[0], 80).into()).context("the outside")?;
        late.unlist()?;
        eventually("it is known no more", || Ok((!known(&mesh.agents[0])?.contains("late")).then_some(())))?;
        eventually("its agent has let go of it", || Ok((!late.listens_on(15008)?).then_some(())))?;
    }
    Ok(())
}

#[test]
fn a_pod_that_is_known_and_outside_is_carried_once_it_joins() -> Result<()> {
    let mesh = Mesh::start(Mode::OnDemand)?;
    mesh.world.namespace("other", &[])?;
    let plain = mesh.nodes[1].pod(PodSpec::new("plain").namespace("other").service_account("plain"))?;
    let _echo = serve(&plain, 8080, Behaviour::Echo)?;
    let tap = mesh.nodes[1].tap()?;
    for _ in 0..3 {
        assert_answered(&mesh.client, plain.at(8080))?;
    }
    ensure!(
        tap.stop()?.between(mesh.client.ip(), plain.ip()).any(|stream| stream.contains(b"ping")),
        "it was in clear"
    );
    mesh.agents[0].wait_for_protocol(&plain, "tcp")?;
    mesh.world.enrol("other")?;
    wait_in_mesh(&mesh, &plain)?;
    let tap = mesh.nodes[1].tap()?;
    for _ in 0..3 {
        assert_answered(&mesh.client, plain.at(8080))?;
    }
    tap.stop()?.is_only_tls(mesh.client.ip(), plain.ip(), 15008)
}

#[test]
fn without_the_controller_what_is_known_goes_on_and_what_is_not_waits_and_is_refused() -> Result<()> {
    let mut mesh = Mesh::start(Mode::OnDemand)?;
    let unknown = mesh.nodes[1].pod(PodSpec::new("unknown").namespace(NAMESPACE))?;
    let _servers = [serve(&mesh.server, 8080, Behaviour::Echo)?, serve(&unknown, 8080, Behaviour::Echo)?];
    let (internet, addresses) = mesh.world.outside("internet")?;
    let _outside = Server::start(&internet, "[::]:80".parse()?, Behaviour::Echo)?;
    mesh.agents[1].wait_enrolled(&unknown)?;
    assert_answered(&mesh.client, mesh.server.at(8080))?;
    assert_answered(&mesh.client, (addresses[0], 80).into())?;
    let mut live = Conversation::open(&mesh.client, mesh.server.at(8080))?;
    mesh.controller.kill()?;
    let tap = mesh.nodes[0].tap()?;
    let start = Instant::now();
    let outcome = thread::scope(|scope| -> Result<Outcome> {
        let dialling = scope.spawn(|| ping(&mesh.client, unknown.at(8080)));
        wait_for_held(&mesh.agents[0], 1)?;
        let held = mesh.agents[0].list("connections")?;
        ensure!(held.iter().any(|connection| connection["state"] == "connecting"), "{held:?}");
        live.exchange()?;
        assert_answered(&mesh.client, mesh.server.at(8080)).context("a known destination")?;
        assert_answered(&mesh.client, (addresses[0], 80).into()).context("a known destination outside")?;
        dialling.join().expect("it does not panic")
    })?;
    let took = start.elapsed();
    ensure!(outcome == Outcome::Reset, "a reset, and no orderly end: {outcome:?}");
    ensure!(took >= HOLD_TIME && took < HOLD_TIME * 2, "after {took:?}");
    for stream in tap.stop()?.between(mesh.client.ip(), unknown.ip()) {
        ensure!(stream.is_empty(), "{} bytes went to an unknown destination", stream.len());
    }
    mesh.agents[0].wait_for_log(&["did not say within 5 s what", &unknown.ip().to_string()])?;
    let shown = mesh.agents[0].cli(&["status"])?.stdout;
    ensure!(shown.contains("not connected, on demand") && shown.contains("Needs attention"), "{shown}");
    mesh.restart_controller()?;
    let tap = mesh.nodes[1].tap()?;
    eventually_answered(&mesh.client, unknown.at(8080))?;
    tap.stop()?.is_only_tls(mesh.client.ip(), unknown.ip(), 15008)?;
    live.exchange()
}

#[test]
fn policies_of_the_own_workload_are_in_force_and_without_them_nothing_comes_in() -> Result<()> {
    let mut mesh = Mesh::start(Mode::OnDemand)?;
    let server = serve(&mesh.server, 8080, Behaviour::Echo)?;
    assert_answered(&mesh.client, mesh.server.at(8080))?;
    mesh.server.set_label("tier", Some("private"))?;
    let deny = "  selector:\n    matchLabels:\n      tier: private\n  action: DENY\n  rules:\n    - from:\n        - source:\n            principals: [\"cluster.local/ns/shop/sa/client\"]";
    let mut live = Conversation::open(&mesh.client, mesh.server.at(8080))?;
    mesh.world.config().put("policy", &authorization("private", deny))?;
    live.wait_for_reset()?;
    let before = server.count();
    assert_refused(&mesh.client, mesh.server.at(8080))?;
    ensure!(server.count() == before, "it reached the application");
    // One that the controller has not spoken of is captured, and takes nothing in.
    mesh.controller.kill()?;
    let late = mesh.nodes[1].pod(PodSpec::new("late").namespace(NAMESPACE))?;
    let echo = serve(&late, 8080, Behaviour::Echo)?;
    mesh.agents[1].wait_enrolled(&late)?;
    let (stranger, _) = mesh.world.outside("stranger")?;
    assert_refused(&stranger, late.at(8080))?;
    ensure!(echo.count() == 0, "it reached an application whose policies nobody knows");
    mesh.agents[1].wait_for_log(&["which policies hold for", "shop/late"])?;
    mesh.restart_controller()?;
    eventually_answered(&stranger, late.at(8080))
}

#[test]
fn many_connections_to_one_unknown_address_ask_once_and_all_are_carried() -> Result<()> {
    const CONNECTIONS: usize = 500;
    let mesh = Mesh::start(Mode::OnDemand)?;
    let echo = serve(&mesh.server, 8080, Behaviour::Echo)?;
    let before = number(&mesh.agents[0], "wanted")?;
    mesh.controller.pause()?;
    let dial = || -> Result<TcpStream> { Ok(mesh.client.connect(mesh.server.at(8080))?) };
    let mut connections = (0..CONNECTIONS).map(|_| dial()).collect::<Result<Vec<_>>>()?;
    for connection in &mut connections {
        connection.write_all(b"early")?;
    }
    wait_for_held(&mesh.agents[0], CONNECTIONS as u64)?;
    ensure!(number(&mesh.agents[0], "wanted")? == before + 1, "it is asked for more than once");
    let gone = connections.pop().context("there are many")?;
    socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO))?;
    drop(gone);
    wait_for_held(&mesh.agents[0], CONNECTIONS as u64 - 1).context("a client that has gone")?;
    let tap = mesh.nodes[1].tap()?;
    mesh.controller.resume()?;
    for (index, connection) in connections.iter_mut().enumerate() {
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = [0; 5];
        connection.read_exact(&mut answer).with_context(|| format!("connection {index}"))?;
        ensure!(&answer == b"early");
    }
    tap.stop()?.is_only_tls(mesh.client.ip(), mesh.server.ip(), 15008)?;
    ensure!(echo.count() == CONNECTIONS - 1, "{} came", echo.count());
    ensure!(number(&mesh.agents[0], "held")? == 0);
    Ok(())
}

#[test]
fn the_connections_of_a_pod_that_wait_are_bounded() -> Result<()> {
    /// Of one pod on one worker.
    const BOUND: usize = 1024;
    let mesh = Mesh::with(Mode::OnDemand, &["--workers", "1"])?;
    let _echo = serve(&mesh.server, 8080, Behaviour::Echo)?;
    mesh.controller.pause()?;
    // One too many may be reset before its `connect` has returned.
    let dialled = (0..BOUND + 50).map(|_| mesh.client.connect(mesh.server.at(8080)));
    let mut connections: Vec<TcpStream> = dialled.filter_map(Result::ok).collect();
    wait_for_held(&mesh.agents[0], BOUND as u64)?;
    mesh.agents[0].wait_for_log(&["too many connections wait for the control plane"])?;
    mesh.controller.resume()?;
    let mut carried = 0;
    for connection in &mut connections {
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        carried += usize::from(connection.write_all(b"x").is_ok() && connection.read_exact(&mut [0]).is_ok());
    }
    ensure!(carried == BOUND, "{carried} of {} were carried", connections.len());
    Ok(())
}

#[test]
fn a_change_while_the_controller_was_away_is_learnt_of_what_was_outside_as_well() -> Result<()> {
    let mut mesh = Mesh::start(Mode::OnDemand)?;
    let late = mesh.nodes[1].pod(PodSpec::new("late").namespace(NAMESPACE).service_account("late").unlisted())?;
    let _echo = serve(&late, 8080, Behaviour::Echo)?;
    assert_answered(&mesh.client, late.at(8080)).context("in clear")?;
    mesh.controller.kill()?;
    late.list()?;
    mesh.restart_controller()?;
    wait_in_mesh(&mesh, &late)?;
    let tap = mesh.nodes[1].tap()?;
    eventually_answered(&mesh.client, late.at(8080))?;
    tap.stop()?.is_only_tls(mesh.client.ip(), late.ip(), 15008)
}

#[test]
fn whatever_restarts_no_byte_to_a_pod_of_the_mesh_is_in_clear() -> Result<()> {
    let mut mesh = Mesh::start(Mode::OnDemand)?;
    let _echo = serve(&mesh.server, 8080, Behaviour::Echo)?;
    let web = mesh.world.service(&ServiceSpec::new("web").namespace(NAMESPACE).port(80, 8080))?;
    mesh.server.set_label("app", Some("web"))?;
    let tap = mesh.nodes[1].tap()?;
    let is_over = AtomicBool::new(false);
    let (client, to) = (&mesh.client, [mesh.server.at(8080), (web[0], 80).into(), mesh.server.at6(8080)]);
    let (answered, failed) = thread::scope(|scope| -> Result<(u64, u64)> {
        let dialling = scope.spawn(|| {
            let (mut answered, mut failed) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                for to in to {
                    match ping(client, to) {
                        Ok(Outcome::Answered(_)) => answered += 1,
                        _ => failed += 1,
                    }
                }
            }
            (answered, failed)
        });
        let mut disturb = || -> Result<()> {
            for round in 0..3 {
                mesh.controller.kill()?;
                mesh.server.set_label("round", Some(&round.to_string()))?;
                mesh.controller = start_controller(&mesh.world, &mesh.nodes[0], mesh.address)?;
                mesh.agents[0].kill()?;
                mesh.agents[0].restart()?;
                mesh.agents[0].wait_enrolled(client)?;
                mesh.agents[0].wait_for_protocol(&mesh.server, "hbone")?;
            }
            Ok(())
        };
        let disturbed = disturb();
        is_over.store(true, Ordering::Relaxed);
        let counts = dialling.join().expect("it does not panic");
        disturbed.map(|()| counts)
    })?;
    let recording = tap.stop()?;
    recording.is_only_tls(mesh.client.ip(), mesh.server.ip(), 15008)?;
    recording.is_only_tls(mesh.client.ip6(), mesh.server.ip6(), 15008)?;
    ensure!(answered > 0, "{failed} connections failed, and none was answered");
    println!("{answered} connections were answered, {failed} failed while their agent was away");
    Ok(())
}
