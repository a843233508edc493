//! Agents start, drain, take over from one another, and are uninstalled; several live on one kernel.

use std::fs;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::{PodSpec, World, eventually, eventually_within, weft};

use crate::client::{Conversation, assert_answered, assert_refused, eventually_answered};
use crate::pair::{NAMESPACE, Pair, Setup};
use crate::stranger::{Credentials, Stranger, connect_request};

#[test]
fn readiness_falls_with_sigterm_and_open_connections_may_finish() -> Result<()> {
    let mut pair = Pair::with(Setup::arguments(&["--drain-deadline", "10s"]))?;
    let _echo = pair.echo(8080)?;
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    pair.agent_a.signal_termination()?;
    eventually("it is no longer ready", || Ok((!pair.agent_a.is_ready()).then_some(())))?;
    ensure!(pair.agent_a.is_running()?, "it did not wait for the open connection");
    open.exchange()?;
    open.finish()?;
    let start = Instant::now();
    pair.agent_a.terminate(Duration::from_secs(8))?;
    ensure!(start.elapsed() < Duration::from_secs(8));
    Ok(())
}

#[test]
fn at_the_deadline_of_a_drain_what_is_left_is_reset() -> Result<()> {
    let mut pair = Pair::with(Setup::arguments(&["--drain-deadline", "2s"]))?;
    let _echo = pair.echo(8080)?;
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    let start = Instant::now();
    pair.agent_a.terminate(Duration::from_secs(10))?;
    ensure!(start.elapsed() >= Duration::from_millis(1500), "it ended after {:?}", start.elapsed());
    open.wait_for_reset()
}

#[test]
fn a_draining_agent_sends_its_peers_away_without_cutting_them_off() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    let credentials = Credentials::issued(&pair.world.ca_folder(), &["spiffe://cluster.local/ns/shop/sa/friend"])?;
    let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&credentials))?;
    let mut channel = peer.open(connect_request(&pair.server.at(8080).to_string())?)?;
    assert_eq!(&peer.exchange(&mut channel, b"hello")?[..], b"hello");
    pair.agent_b.signal_termination()?;
    peer.wait_until_closed()?;
    assert_eq!(&peer.exchange(&mut channel, b"still")?[..], b"still", "the open stream goes on");
    assert_eq!(peer.finish(channel)?, b"");
    Ok(())
}

#[test]
fn a_connection_that_waits_for_its_tunnel_when_the_drain_begins_is_still_made() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    // As if the other node were slow: its kernel takes the connection, and nobody answers.
    pair.agent_b.pause()?;
    let mut waiting = pair.client.connect(pair.server.at(8080))?;
    waiting.set_read_timeout(Some(Duration::from_secs(10)))?;
    waiting.write_all(b"ping")?;
    eventually("the connection waits", || {
        let connections: serde_json::Value = pair.agent_a.json("connections")?;
        Ok(connections.to_string().contains("connecting").then_some(()))
    })?;
    pair.agent_a.signal_termination()?;
    eventually("it is no longer ready", || Ok((!pair.agent_a.is_ready()).then_some(())))?;
    pair.agent_b.resume()?;
    let mut answer = [0; 4];
    waiting.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

#[test]
fn an_idle_agent_ends_at_once() -> Result<()> {
    let mut pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    let start = Instant::now();
    pair.agent_a.terminate(Duration::from_secs(20))?;
    ensure!(start.elapsed() < Duration::from_secs(3), "an idle agent took {:?} to end", start.elapsed());
    Ok(())
}

#[test]
fn links_and_maps_are_pinned_and_uninstall_removes_every_trace() -> Result<()> {
    let mut pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let pins = pair.agent_a.pins();
    ensure!(fs::read_dir(&pins)?.next().is_some(), "{} is empty", pins.display());
    pair.agent_a.terminate(Duration::from_secs(20))?;
    ensure!(pins.exists(), "SIGTERM removed the pins");
    assert_refused(&pair.client, pair.server.at(8080))?;
    weft(&pair.a, &["uninstall", "--node", pair.a.name()])?.success()?;
    ensure!(!pins.exists(), "{} is still there", pins.display());
    // The other node's agent is none the worse, and the pod is on its own again.
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    ensure!(tap.stop()?.contains(b"ping"), "a pod of an uninstalled node talks in clear");
    weft(&pair.a, &["uninstall", "--node", pair.a.name()])?.success()?;
    Ok(())
}

#[test]
fn a_second_agent_of_a_node_does_not_disturb_the_first_and_takes_over_when_that_ends() -> Result<()> {
    let mut pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let state = pair.world.folder().join("second");
    fs::create_dir_all(&state)?;
    let config = pair.world.config().path().to_string_lossy().into_owned();
    let ca = pair.world.ca_folder().to_string_lossy().into_owned();
    let weft = weft_tests::weft_binary()?;
    let mut second = pair.a.spawn(&[
        &weft.to_string_lossy(),
        "agent",
        "--config",
        &config,
        "--node",
        pair.a.name(),
        "--state-dir",
        &state.to_string_lossy(),
        "--ca-dir",
        &ca,
        "--admin",
        "off",
        "--metrics",
        "off",
        "--readiness",
        "off",
    ])?;
    second.wait_for_output(pair.a.name())?;
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    for _ in 0..20 {
        assert_answered(&pair.client, pair.server.at(8080))?;
        open.exchange()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    open.finish()?;
    if second.is_running()? {
        pair.agent_a.terminate(Duration::from_secs(20))?;
        eventually_answered(&pair.client, pair.server.at(8080))?;
    }
    Ok(())
}

#[test]
fn agents_of_other_nodes_come_and_go_without_notice() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    for round in 0..3 {
        let node = pair.world.node(&format!("c{round}"))?;
        let pod = node.pod(PodSpec::new(&format!("pod-{round}")).namespace(NAMESPACE))?;
        let mut agent = node.agent().start()?;
        agent.wait_enrolled(&pod)?;
        agent.wait_for_protocol(&pair.server, "hbone")?;
        assert_answered(&pod, pair.server.at(8080))?;
        open.exchange()?;
        agent.kill()?;
        weft(&node, &["uninstall", "--node", node.name()])?.success()?;
        open.exchange()?;
    }
    assert_answered(&pair.client, pair.server.at(8080))
}

#[test]
fn a_certificate_is_renewed_while_connections_go_on() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--certificate-lifetime", "1m"]))?;
    let _echo = pair.echo(8080)?;
    let identity = pair.client.identity();
    let serial = |agent: &weft_tests::Agent| -> Result<String> {
        let list = agent.list("certificates")?;
        let found = list.iter().find(|item| item["identity"] == *identity);
        Ok(found.and_then(|item| item["serial"].as_str()).unwrap_or_default().to_owned())
    };
    let first = serial(&pair.agent_a)?;
    ensure!(!first.is_empty(), "the client has no certificate");
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    eventually_within(Duration::from_secs(50), "a new certificate", || {
        open.exchange()?;
        assert_answered(&pair.client, pair.server.at(8080))?;
        std::thread::sleep(Duration::from_millis(50));
        Ok((serial(&pair.agent_a)? != first).then_some(()))
    })?;
    for _ in 0..20 {
        open.exchange()?;
        assert_answered(&pair.client, pair.server.at(8080))?;
    }
    Ok(())
}

#[test]
fn what_the_kernel_holds_is_loaded_and_verified() -> Result<()> {
    let pair = Pair::start()?;
    let status = pair.agent_a.json("status")?;
    assert_eq!(status["capture"]["is_active"], true, "{status}");
    Ok(())
}

#[test]
fn an_agent_does_not_start_on_a_folder_for_pins_that_is_not_in_bpffs() -> Result<()> {
    let world = World::new()?;
    let node = world.node("a")?;
    let elsewhere = world.folder().join("not-bpffs");
    fs::create_dir_all(&elsewhere)?;
    let mut agent = node.agent().with(&["--bpf-dir", &elsewhere.to_string_lossy()]).start_unready()?;
    eventually("it ends", || Ok((!agent.is_running()?).then_some(())))?;
    agent.wait_for_log(&["bpf"])?;
    ensure!(agent.log().contains(&*elsewhere.to_string_lossy()), "{}", agent.log());
    Ok(())
}
