//! A FIN is a FIN, a reset is a reset, and a reader that does not read stops its writer, and nobody else.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_tests::server::{Behaviour, End};
use weft_tests::{eventually, pattern};

use crate::client::{Conversation, assert_answered};
use crate::pair::{Pair, Setup, serve};
use crate::stranger::{Credentials, Stranger, connect_request};

#[test]
fn a_client_that_half_closes_still_gets_its_answer() -> Result<()> {
    let pair = Pair::start()?;
    let server = serve(&pair.server, 8080, Behaviour::Verify)?;
    let mut bytes = vec![0; 100_000];
    pattern::fill(0, &mut bytes);
    let mut connection = pair.client.connect(pair.server.at(8080))?;
    connection.write_all(&bytes)?;
    connection.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    assert_eq!(answer, "100000 ok\n");
    assert_eq!(server.wait_for_end(0)?, End::Fin);
    Ok(())
}

#[test]
fn a_server_that_half_closes_still_gets_the_rest() -> Result<()> {
    let pair = Pair::start()?;
    let server = serve(&pair.server, 8080, Behaviour::HalfClose)?;
    let mut connection = pair.client.connect(pair.server.at(8080))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).context("the server's FIN arrives while the client's side is open")?;
    assert_eq!(answer, "bye\n");
    connection.write_all(&[7; 50_000])?;
    eventually("the server has received all", || Ok((server.received() == 50_000).then_some(())))?;
    assert_eq!(server.seen()[0].end, None, "the client has not closed yet");
    connection.shutdown(Shutdown::Write)?;
    assert_eq!(server.wait_for_end(0)?, End::Fin);
    Ok(())
}

#[test]
fn a_clients_reset_is_a_reset_to_the_server() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.echo(8080)?;
    let mut conversation = Conversation::open(&pair.client, pair.server.at(8080))?;
    socket2::SockRef::from(&*conversation.stream()).set_linger(Some(Duration::ZERO))?;
    drop(conversation);
    assert_eq!(server.wait_for_end(0)?, End::Error(ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn a_servers_reset_is_a_reset_to_the_client() -> Result<()> {
    let pair = Pair::start()?;
    let _server = serve(&pair.server, 8080, Behaviour::Reset)?;
    let mut connection = pair.client.connect(pair.server.at(8080))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    connection.write_all(b"x")?;
    let read = connection.read(&mut [0; 16]);
    assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn a_client_that_exits_with_unread_data_resets_and_the_server_is_told() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.echo(8080)?;
    let mut connection = pair.client.connect(pair.server.at(8080))?;
    connection.write_all(b"hello")?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    // The kernel answers a close with data unread by a reset.
    let mut byte = [0];
    connection.peek(&mut byte)?;
    drop(connection);
    assert_eq!(server.wait_for_end(0)?, End::Error(ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn a_port_nobody_listens_on_is_refused_by_a_reset() -> Result<()> {
    let pair = Pair::start()?;
    let outcome = crate::client::ping(&pair.client, pair.server.at(9))?;
    ensure!(outcome.is_refusal(), "{outcome:?}");
    let log = pair.agent_a.wait_for_log(&["503"]).or_else(|_| pair.agent_a.wait_for_log(&["refused"]))?;
    ensure!(log.contains("error"), "{log}");
    Ok(())
}

#[test]
fn an_unread_connection_stops_its_sender_within_bounded_memory() -> Result<()> {
    let pair = Pair::start()?;
    let server = serve(&pair.server, 8080, Behaviour::Stall)?;
    let connection = pair.client.connect(pair.server.at(8080))?;
    let memory = [pair.agent_a.memory()?, pair.agent_b.memory()?];
    let accepted = write_until_stuck(&connection)?;
    let growth = [pair.agent_a.memory()?.saturating_sub(memory[0]), pair.agent_b.memory()?.saturating_sub(memory[1])];
    println!("{accepted} bytes were taken from the client; the agents grew by {growth:?} bytes");
    // Four sockets with the kernel's largest buffers, and what the tunnel's windows allow.
    ensure!(accepted < 40 << 20, "{accepted} bytes were accepted of which nobody reads one");
    ensure!(growth.iter().all(|grown| *grown < 8 << 20), "the agents grew by {growth:?} bytes");
    server.release();
    finish_pattern(connection, accepted)
}

#[test]
fn four_readers_that_stand_still_do_not_stop_a_fifth() -> Result<()> {
    // One worker: all of them share one tunnel.
    let pair = Pair::with(Setup::arguments(&["--workers", "1"]))?;
    let server = serve(&pair.server, 8080, Behaviour::Stall)?;
    let _echo = pair.echo(8081)?;
    let _verify = serve(&pair.server, 8082, Behaviour::Verify)?;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let connection = pair.client.connect(pair.server.at(8080))?;
        let accepted = write_until_stuck(&connection)?;
        stalled.push((connection, accepted));
    }
    let start = Instant::now();
    assert_answered(&pair.client, pair.server.at(8081))?;
    ensure!(start.elapsed() < Duration::from_secs(2), "a fifth connection took {:?}", start.elapsed());
    let fifth = pair.client.connect(pair.server.at(8082))?;
    finish_pattern_of(fifth, 0, 30_000_000).context("30 MB beside four stalled streams")?;
    server.release();
    stalled.into_iter().try_for_each(|(connection, accepted)| finish_pattern(connection, accepted))
}

#[test]
fn a_client_that_does_not_read_stops_the_server_and_nobody_else() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--workers", "1"]))?;
    const TOTAL: u64 = 100 << 20;
    let _send = serve(&pair.server, 8080, Behaviour::Send(TOTAL))?;
    let _echo = pair.echo(8081)?;
    let mut slow = pair.client.connect(pair.server.at(8080))?;
    let memory = [pair.agent_a.memory()?, pair.agent_b.memory()?];
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..20 {
        assert_answered(&pair.client, pair.server.at(8081))?;
    }
    let growth = [pair.agent_a.memory()?.saturating_sub(memory[0]), pair.agent_b.memory()?.saturating_sub(memory[1])];
    ensure!(growth.iter().all(|grown| *grown < 8 << 20), "the agents grew by {growth:?} bytes");
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let length = slow.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        ensure!(pattern::is_at(total, &buffer[..length]), "wrong bytes after {total}");
        total += length as u64;
    }
    assert_eq!(total, TOTAL);
    Ok(())
}

/// Writes the pattern until the connection takes nothing for a second; returns how much it took.
fn write_until_stuck(mut connection: &TcpStream) -> Result<u64> {
    connection.set_write_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = vec![0; 256 << 10];
    let mut accepted = 0;
    loop {
        pattern::fill(accepted, &mut buffer);
        match connection.write(&buffer) {
            Ok(length) => accepted += length as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(accepted),
            Err(error) => return Err(error).context("writing to a connection that nobody reads"),
        }
        ensure!(accepted < 1 << 30, "a gigabyte was accepted of which nobody reads a byte");
    }
}

/// Goes on for a megabyte, ends, and checks that the server received every byte.
fn finish_pattern(connection: TcpStream, accepted: u64) -> Result<()> {
    finish_pattern_of(connection, accepted, accepted + (1 << 20))
}

fn finish_pattern_of(mut connection: TcpStream, from: u64, to: u64) -> Result<()> {
    connection.set_write_timeout(Some(Duration::from_secs(20)))?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut rest = vec![0; (to - from) as usize];
    pattern::fill(from, &mut rest);
    connection.write_all(&rest)?;
    connection.shutdown(Shutdown::Write)?;
    let mut verdict = String::new();
    connection.read_to_string(&mut verdict)?;
    ensure!(verdict == format!("{to} ok\n"), "the server says {verdict:?} after {to} bytes");
    Ok(())
}

/// Reads to the end or to the error, and says how many bytes came.
fn read_out(connection: &mut TcpStream) -> Result<(usize, std::io::Result<()>)> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut count, mut buffer) = (0, vec![0; 64 * 1024]);
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok((count, Ok(()))),
            Ok(length) => count += length,
            Err(error) => return Ok((count, Err(error))),
        }
    }
}

/// How a server ends that has not read all of its request. The kernel sends a reset then.
#[derive(Clone, Copy, PartialEq)]
enum Leaves {
    AtOnce,
    /// It ends its own side in order first, which is what its client is told first as well.
    InOrder,
}

#[test]
fn an_answer_that_comes_before_a_reset_is_delivered() -> Result<()> {
    answers_before_a_reset(Leaves::AtOnce, |count, _| count == 200)
}

#[test]
fn an_end_that_comes_before_a_reset_is_delivered() -> Result<()> {
    answers_before_a_reset(Leaves::InOrder, |count, end| count == 200 && end.is_ok())
}

/// Checks what clients get of a server that answers with 200 bytes: one in the mesh, and one outside it, since the two
/// ways to the application share no code.
fn answers_before_a_reset(leaves: Leaves, is_right: fn(usize, &std::io::Result<()>) -> bool) -> Result<()> {
    let pair = Pair::start()?;
    let listener = pair.server.listen("[::]:8080".parse()?)?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        for _ in 0..20 {
            let (mut connection, _) = listener.accept()?;
            connection.read_exact(&mut [0; 10])?;
            std::thread::sleep(Duration::from_millis(30));
            connection.write_all(&[b'r'; 200])?;
            if leaves == Leaves::InOrder {
                connection.shutdown(Shutdown::Write)?;
            }
        }
        Ok(())
    });
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(weft_tests::PodSpec::new("stranger").namespace("other"))?;
    for from in [&pair.client, &stranger] {
        for attempt in 0..10 {
            let mut connection = from.connect(pair.server.at(8080))?;
            connection.write_all(&[b'q'; 5000])?;
            let (count, end) = read_out(&mut connection)?;
            ensure!(is_right(count, &end), "attempt {attempt} of {}: {count} bytes, then {end:?}", from.name());
        }
    }
    server.join().expect("the server does not panic")?;
    Ok(())
}

#[test]
fn a_drain_loses_nothing_of_an_answer_that_is_on_its_way() -> Result<()> {
    const LENGTH: usize = 12_000_000;
    for of_the_server in [true, false] {
        let mut pair = Pair::start()?;
        let listener = pair.server.listen("[::]:8080".parse()?)?;
        let server = std::thread::spawn(move || -> std::io::Result<()> {
            let (mut connection, _) = listener.accept()?;
            connection.read_to_end(&mut Vec::new())?;
            connection.write_all(&vec![b'z'; LENGTH])
        });
        let mut connection = pair.client.connect(pair.server.at(8080))?;
        connection.write_all(b"get")?;
        connection.shutdown(Shutdown::Write)?;
        let mut count = 0;
        let mut piece = [0; 16 * 1024];
        // Slowly, until the server has said all: the rest is in the agents and the kernel.
        while !server.is_finished() {
            count += connection.read(&mut piece)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        server.join().expect("the server does not panic")?;
        let agent = if of_the_server { &mut pair.agent_b } else { &mut pair.agent_a };
        agent.signal_termination()?;
        std::thread::sleep(Duration::from_millis(500));
        let (rest, end) = read_out(&mut connection)?;
        ensure!(end.is_ok() && count + rest == LENGTH, "{} of {LENGTH} bytes, then {end:?}", count + rest);
        drop(connection);
        let agent = if of_the_server { &mut pair.agent_b } else { &mut pair.agent_a };
        eventually("the agent has ended", || Ok((!agent.is_running()?).then_some(())))?;
    }
    Ok(())
}

#[test]
fn urgent_data_stays_in_the_stream_and_stops_nothing() -> Result<()> {
    let pair = Pair::start()?;
    let listener = pair.server.listen("[::]:8080".parse()?)?;
    let server = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        connection.write_all(b"k")?;
        let mut all = Vec::new();
        connection.read_to_end(&mut all)?;
        Ok(all)
    });
    let mut connection = pair.client.connect(pair.server.at(8080))?;
    connection.read_exact(&mut [0])?;
    let socket = socket2::SockRef::from(&connection);
    for _ in 0..3 {
        socket.send(b"abc")?;
        socket.send_out_of_band(b"d")?;
        socket.send(b"efg")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    connection.shutdown(Shutdown::Write)?;
    let all = server.join().expect("the server does not panic")?;
    assert_eq!(String::from_utf8_lossy(&all), "abcdefgabcdefgabcdefg");
    Ok(())
}

#[test]
fn a_request_that_ends_its_stream_at_once_is_a_fin_for_the_application() -> Result<()> {
    let pair = Pair::start()?;
    let server = serve(&pair.server, 8080, Behaviour::Verify)?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(weft_tests::PodSpec::new("stranger").namespace("other"))?;
    let credentials = Credentials::issued(&pair.world.ca_folder(), &["spiffe://cluster.local/ns/shop/sa/friend"])?;
    let mut peer = Stranger::connect(&stranger, pair.server.at(15008), Some(&credentials))?;
    assert_eq!(peer.whole(connect_request(&pair.server.at(8080).to_string())?)?, b"0 ok\n");
    assert_eq!(server.wait_for_end(0)?, End::Fin);
    Ok(())
}
