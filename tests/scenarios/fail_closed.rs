//! Without its agent a pod of the mesh is cut off, and never in clear.

use anyhow::{Result, ensure};
use weft_tests::PodSpec;
use weft_tests::server::Behaviour;

use crate::client::{Conversation, assert_answered, assert_refused, eventually_answered, eventually_refused};
use crate::pair::{NAMESPACE, Pair, serve};

#[test]
fn with_the_clients_agent_dead_a_connect_is_refused_and_nothing_goes_out() -> Result<()> {
    let mut pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    pair.agent_a.kill()?;
    let tap = pair.a.tap()?;
    for to in [pair.server.at(8080), pair.server.at6(8080)] {
        assert_refused(&pair.client, to)?;
    }
    let recording = tap.stop()?;
    for stream in recording.between(pair.client.ip(), pair.server.ip()) {
        ensure!(stream.is_empty(), "{} bytes went from {} to {}", stream.len(), stream.from, stream.to);
    }
    pair.agent_a.restart()?;
    pair.agent_a.wait_enrolled(&pair.client)?;
    eventually_answered(&pair.client, pair.server.at(8080))
}

#[test]
fn with_the_servers_agent_dead_nobody_reaches_the_application() -> Result<()> {
    let mut pair = Pair::start()?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    let server = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    assert_answered(&stranger, pair.server.at(8080))?;
    pair.agent_b.kill()?;
    let before = server.count();
    for (who, client) in [("a pod of the mesh", &pair.client), ("a pod outside", &stranger)] {
        let outcome = crate::client::ping(client, pair.server.at(8080))?;
        ensure!(!matches!(outcome, crate::client::Outcome::Answered(_)), "{who} got {outcome:?}");
    }
    ensure!(server.count() == before, "a connection reached the application");
    pair.agent_b.restart()?;
    pair.agent_b.wait_enrolled(&pair.server)?;
    eventually_answered(&stranger, pair.server.at(8080))?;
    eventually_answered(&pair.client, pair.server.at(8080))
}

#[test]
fn a_pod_still_talks_to_itself_and_to_the_outside_while_its_agent_is_dead() -> Result<()> {
    let mut pair = Pair::start()?;
    let (outside, addresses) = pair.world.outside("internet")?;
    let _outside = weft_tests::server::Server::start(&outside, "[::]:80".parse()?, Behaviour::Echo)?;
    let _own = serve(&pair.client, 8080, Behaviour::Echo)?;
    pair.agent_a.kill()?;
    assert_answered(&pair.client, pair.client.at(8080))?;
    assert_answered(&pair.client, "127.0.0.1:8080".parse()?)?;
    assert_answered(&pair.client, (addresses[0], 80).into())
}

#[test]
fn the_connections_of_a_killed_agent_are_reset() -> Result<()> {
    let mut pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    let mut open = Conversation::open(&pair.client, pair.server.at(8080))?;
    pair.agent_a.kill()?;
    ensure!(open.exchange().is_err(), "a connection outlived the agent that carried it");
    Ok(())
}

#[test]
fn a_killed_agent_takes_over_again_and_its_links_were_never_gone() -> Result<()> {
    let mut pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    for _ in 0..3 {
        pair.agent_a.kill()?;
        assert_refused(&pair.client, pair.server.at(8080))?;
        pair.agent_a.restart()?;
        pair.agent_a.wait_enrolled(&pair.client)?;
        pair.agent_a.wait_for_protocol(&pair.server, "hbone")?;
        eventually_answered(&pair.client, pair.server.at(8080))?;
    }
    Ok(())
}

#[test]
fn sigterm_leaves_the_pods_captured() -> Result<()> {
    let mut pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    pair.agent_a.terminate(std::time::Duration::from_secs(20))?;
    ensure!(pair.agent_a.pins().exists(), "SIGTERM removed the pinned objects");
    assert_refused(&pair.client, pair.server.at(8080))
}

#[test]
fn a_pod_whose_label_came_while_its_agent_was_away_is_captured_when_it_is_back() -> Result<()> {
    let mut pair = Pair::start()?;
    let _server = pair.echo(8080)?;
    pair.agent_a.kill()?;
    let late = pair.a.pod(PodSpec::new("late").namespace(NAMESPACE).service_account("late"))?;
    pair.agent_a.restart()?;
    pair.agent_a.wait_enrolled(&late)?;
    pair.agent_b.wait_for_protocol(&late, "hbone")?;
    let tap = pair.b.tap()?;
    eventually_answered(&late, pair.server.at(8080))?;
    tap.stop()?.is_only_tls(late.ip(), pair.server.ip(), 15008)
}

#[test]
fn a_server_without_its_agent_makes_the_client_fail_and_not_fall_back() -> Result<()> {
    let mut pair = Pair::start()?;
    let server = pair.echo(8080)?;
    pair.agent_b.terminate(std::time::Duration::from_secs(20))?;
    let tap = pair.a.tap()?;
    eventually_refused(&pair.client, pair.server.at(8080))?;
    let recording = tap.stop()?;
    ensure!(!recording.contains(b"ping"), "the client's bytes went out in clear");
    ensure!(server.count() == 0, "the application was reached");
    Ok(())
}
