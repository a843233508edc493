//! Agents start, drain, take over from one another, and are uninstalled; several live on one kernel.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::{PodSpec, eventually, weft};

use crate::client::{Conversation, assert_answered, assert_refused};
use crate::pair::{NAMESPACE, Pair, Setup};

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
fn the_second_agent_of_a_node_is_refused_while_the_first_lives() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let state = pair.world.folder().join("second");
    fs::create_dir_all(&state)?;
    let mut second = pair.a.spawn(&[
        &weft_tests::weft_binary()?.to_string_lossy(),
        "agent",
        "--config",
        &pair.world.config().path().to_string_lossy(),
        "--node",
        pair.a.name(),
        "--state-dir",
        &state.to_string_lossy(),
        "--ca-dir",
        &pair.world.ca_folder().to_string_lossy(),
        "--admin",
        "off",
        "--metrics",
        "off",
        "--readiness",
        "off",
    ])?;
    second.wait_for_output(pair.a.name())?;
    eventually("the second agent ends", || Ok((!second.is_running()?).then_some(())))?;
    let finished = second.finish_within(Duration::from_secs(1))?;
    ensure!(!finished.status.success(), "a second agent of the same node ran");
    assert_answered(&pair.client, pair.server.at(8080))
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
    let pair = Pair::with(Setup::arguments(&["--certificate-lifetime", "20s"]))?;
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
    eventually("a new certificate", || {
        open.exchange()?;
        assert_answered(&pair.client, pair.server.at(8080))?;
        Ok((serial(&pair.agent_a)? != first).then_some(()))
    })?;
    for _ in 0..100 {
        open.exchange()?;
        assert_answered(&pair.client, pair.server.at(8080))?;
        std::thread::sleep(Duration::from_millis(150));
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
