//! What passes between nodes, how many tunnels it takes, and what goes through unharmed.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use anyhow::{Context as _, Result, ensure};
use weft_tests::server::Behaviour;
use weft_tests::{Pod, PodSpec, pattern};

use crate::client::{Conversation, assert_answered};
use crate::pair::{NAMESPACE, Pair, Setup, serve};

mod nghttp2;

#[test]
fn nothing_but_tls_passes_between_the_nodes() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let tap = pair.a.tap()?;
    for to in [pair.server.at(8080), pair.server.at6(8080)] {
        let mut conversation = Conversation::open(&pair.client, to)?;
        conversation.stream().write_all(b"a secret that must not be seen")?;
        let mut answer = [0; 30];
        conversation.stream().read_exact(&mut answer)?;
        conversation.finish()?;
    }
    let recording = tap.stop()?;
    for clear in [&b"secret"[..], b"hello", b"CONNECT", b"spiffe", b"cluster.local"] {
        ensure!(!recording.contains(clear), "{:?} passed in clear", String::from_utf8_lossy(clear));
    }
    recording.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)?;
    recording.is_only_tls(pair.client.ip6(), pair.server.ip6(), 15008)
}

#[test]
fn connections_share_tunnels() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--workers", "2"]))?;
    let _echo = pair.echo(8080)?;
    let tap = pair.b.tap()?;
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(Conversation::open(&pair.client, pair.server.at(8080))?);
    }
    for conversation in &mut open {
        conversation.exchange()?;
    }
    let recording = tap.stop()?;
    let tunnels: HashSet<_> = recording.on_port(15008).filter(|s| s.to.port() == 15008).map(|s| s.from).collect();
    ensure!((1..=2).contains(&tunnels.len()), "50 connections of 2 workers took {} tunnels", tunnels.len());
    Ok(())
}

#[test]
fn more_connections_than_one_tunnel_has_streams_are_carried() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--workers", "1"]))?;
    let _echo = pair.echo(8080)?;
    let mut open = Vec::new();
    for n in 0..450 {
        open.push(Conversation::open(&pair.client, pair.server.at(8080)).with_context(|| format!("connection {n}"))?);
    }
    for conversation in &mut open {
        conversation.exchange()?;
    }
    open.into_iter().try_for_each(Conversation::finish)
}

#[test]
fn identities_do_not_share_a_tunnel() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--workers", "1"]))?;
    let other = pair.a.pod(PodSpec::new("other").namespace(NAMESPACE).service_account("other"))?;
    pair.agent_a.wait_enrolled(&other)?;
    pair.agent_b.wait_for_protocol(&other, "hbone")?;
    let _echo = pair.echo(8080)?;
    let tap = pair.b.tap()?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    assert_answered(&other, pair.server.at(8080))?;
    let recording = tap.stop()?;
    // The network goes on seeing pod to pod.
    recording.is_only_tls(pair.client.ip(), pair.server.ip(), 15008)?;
    recording.is_only_tls(other.ip(), pair.server.ip(), 15008)
}

#[test]
fn bytes_arrive_whole_and_in_order_both_ways() -> Result<()> {
    let pair = Pair::start()?;
    let _verify = serve(&pair.server, 8080, Behaviour::Verify)?;
    let _send = serve(&pair.server, 8081, Behaviour::Send(20_000_000))?;
    for size in [0, 1, 5, 16_383, 16_384, 16_385, 65_536, 1_000_000, 20_000_000] {
        upload(&pair.client, &pair.server, 8080, size).with_context(|| format!("{size} bytes up"))?;
    }
    let mut connection = pair.client.connect(pair.server.at(8081))?;
    let mut received = Vec::new();
    connection.read_to_end(&mut received)?;
    ensure!(received.len() == 20_000_000 && pattern::is_at(0, &received), "{} bytes, or wrong ones", received.len());
    Ok(())
}

#[test]
fn real_programs_talk_through_the_tunnel() -> Result<()> {
    let pair = Pair::start()?;
    let folder = pair.server.folder()?;
    let body: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
    std::fs::write(folder.join("large.txt"), &body)?;
    let mut server =
        pair.server.spawn(&["python3", "-u", "-m", "http.server", "--directory", &folder.to_string_lossy(), "8000"])?;
    server
        .wait_for_output("Serving HTTP")
        .or_else(|error| if pair.server.listens_on(8000)? { Ok(()) } else { Err(error) })?;
    let url = format!("http://{}/large.txt", pair.server.at(8000));
    let fetched = pair.client.run(&["curl", "-sS", "--max-time", "20", &url])?.success()?;
    ensure!(fetched == body, "curl fetched {} bytes instead of {}", fetched.len(), body.len());
    server.wait_for_output(&pair.client.ip().to_string()).context("the server's log names the client's address")
}

#[test]
fn one_connection_can_do_many_small_exchanges() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let mut conversation = Conversation::open(&pair.client, pair.server.at(8080))?;
    for _ in 0..5_000 {
        conversation.exchange()?;
    }
    conversation.finish()
}

fn upload(client: &Pod, server: &Pod, port: u16, size: usize) -> Result<()> {
    let mut stream = vec![0; size];
    pattern::fill(0, &mut stream);
    let mut connection = client.connect(server.at(port))?;
    connection.write_all(&stream)?;
    connection.shutdown(Shutdown::Write)?;
    let mut verdict = String::new();
    connection.read_to_string(&mut verdict)?;
    ensure!(verdict == format!("{size} ok\n"), "the server says {verdict:?}");
    Ok(())
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_and_the_log_says_what_it_may_be() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    // What the server's pod would answer to the client goes nowhere, as if something between them dropped it.
    pair.server.run(&["ip", "route", "add", "blackhole", &pair.client.ip().to_string()])?.success()?;
    let start = std::time::Instant::now();
    let mut connection = pair.client.connect(pair.server.at(8080))?;
    connection.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    let ended = connection.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset), "after {:?}", start.elapsed());
    ensure!((8..15).contains(&start.elapsed().as_secs()), "it took {:?}", start.elapsed());
    pair.agent_a.wait_for_log(&["timed out", "15008", "NetworkPolicy"])?;
    // The other family is another path, and the first one is tried anew once it works.
    assert_answered(&pair.client, pair.server.at6(8080))?;
    pair.server.run(&["ip", "route", "delete", "blackhole", &pair.client.ip().to_string()])?.success()?;
    assert_answered(&pair.client, pair.server.at(8080))
}
