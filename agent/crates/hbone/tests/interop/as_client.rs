//! Our client, an `h2` server.

use bytes::Bytes;
use h2::{Reason, server};
use http::{Response, StatusCode};
use weft_hbone::{ErrorCode, StreamId};

use super::*;

/// An `h2` server that echoes, and does other things for other hosts.
async fn h2_echo(pipe: DuplexStream, builder: server::Builder) {
    let mut connection = builder.handshake::<_, Bytes>(pipe).await.expect("a handshake");
    let mut ping_pong = connection.ping_pong().expect("taken once");
    let mut accepted = 0;
    while let Some(request) = connection.accept().await {
        let Ok((request, mut respond)) = request else { return };
        accepted += 1;
        assert_eq!(request.method(), "CONNECT");
        assert_eq!(request.headers().get("baggage").expect("sent"), "service.name=a");
        let host = request.uri().authority().expect("sent").host().to_owned();
        let mut body = request.into_body();
        match host.as_str() {
            "refuse.test" => {
                let response = Response::builder().status(StatusCode::UNAUTHORIZED).body(()).expect("valid");
                respond.send_response(response, true).expect("an open stream");
                continue;
            }
            "reset.test" => {
                respond.send_reset(Reason::CONNECT_ERROR);
                continue;
            }
            "last.test" => connection.graceful_shutdown(),
            "ping.test" => ping_pong.send_ping(h2::Ping::opaque()).expect("one at a time"),
            _ => {}
        }
        let response = Response::builder().header("baggage", format!("n={accepted}")).body(()).expect("valid");
        let mut outgoing = respond.send_response(response, false).expect("an open stream");
        tokio::spawn(async move {
            while let Some(part) = body.data().await {
                let Ok(mut part) = part else { return };
                while !part.is_empty() {
                    outgoing.reserve_capacity(part.len());
                    let capacity = std::future::poll_fn(|context| outgoing.poll_capacity(context)).await;
                    let Some(Ok(capacity)) = capacity else { return };
                    let piece = part.split_to(capacity.min(part.len()));
                    let length = piece.len();
                    if outgoing.send_data(piece, false).is_err() {
                        return;
                    }
                    _ = body.flow_control().release_capacity(length);
                }
            }
            _ = outgoing.send_data(Bytes::new(), true);
        });
    }
}

fn client(pipe: usize, config: Config, builder: server::Builder) -> Client<DuplexStream> {
    let (near, far) = tokio::io::duplex(pipe);
    tokio::spawn(h2_echo(far, builder));
    Client::new(near, config)
}

#[tokio::test]
async fn sends_and_gets_large_bodies() {
    for pipe in PIPES {
        for window in [65_535, 1 << 20] {
            let mut builder = server::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(1 << 20).max_frame_size(1 << 20);
            let mut client = client(pipe, Config::default(), builder);
            let stream = client.open("10.0.0.1:80");
            let sent = content(if pipe < 100 { 300_000 } else { 5_000_000 });
            client.send(stream, &sent, true).await;
            client.until(|client| client.seen(stream).has_ended).await;
            let seen = client.seen(stream);
            assert_eq!((seen.status, seen.baggage.as_deref()), (Some(200), Some("n=1")));
            assert!(seen.received == sent, "{} bytes came back differently", sent.len());
            assert_eq!(client.connection.active_streams(), 0);
        }
    }
}

#[tokio::test]
async fn sends_data_before_the_server_has_said_anything() {
    let mut client = client(7, Config::default(), server::Builder::new());
    let stream = client.open("10.0.0.1:80");
    let header = client.connection.data_header(stream, 5, true);
    client.wire.append(client.connection.output());
    client.wire.extend_from_slice(&header);
    client.wire.extend_from_slice(b"early");
    client.until(|client| client.seen(stream).has_ended).await;
    assert_eq!(client.seen(stream).received, b"early");
}

#[tokio::test]
async fn interleaves_many_streams() {
    for pipe in PIPES {
        let mut client = client(pipe, Config::default(), server::Builder::new());
        let streams: Vec<StreamId> = (0..50).map(|index| client.open(&format!("10.0.0.{index}:80"))).collect();
        let sent = content(3000);
        for part in sent.chunks(500) {
            for stream in &streams {
                client.send(*stream, part, false).await;
            }
        }
        for stream in &streams {
            client.send(*stream, &[], true).await;
        }
        client.until(|client| client.streams.values().all(|seen| seen.has_ended)).await;
        assert!(client.streams.values().all(|seen| seen.received == sent));
    }
}

#[tokio::test]
async fn keeps_to_the_servers_limit() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(3);
    let mut client = client(1000, Config::default(), builder);
    let first = client.open("10.0.0.1:80");
    client.until(|client| client.seen(first).status.is_some()).await;
    client.open("10.0.0.1:80");
    client.open("10.0.0.1:80");
    assert!(!client.connection.can_open());
    client.send(first, &[], true).await;
    client.until(|client| client.seen(first).has_ended).await;
    assert!(client.connection.can_open());
    let last = client.open("10.0.0.1:80");
    client.until(|client| client.seen(last).status.is_some()).await;
}

#[tokio::test]
async fn learns_what_became_of_a_stream() {
    let mut client = client(1000, Config::default(), server::Builder::new());
    let refused = client.open("refuse.test:1");
    client.until(|client| client.seen(refused).has_ended).await;
    assert_eq!(client.seen(refused).status, Some(401));
    let reset = client.open("reset.test:1");
    client.until(|client| client.seen(reset).reset.is_some()).await;
    assert_eq!(client.seen(reset).reset, Some((ErrorCode::CONNECT_ERROR, true)));
    client.connection.reset(refused, ErrorCode::CANCEL);
    assert_eq!(client.connection.active_streams(), 0);
}

#[tokio::test]
async fn resets_streams_in_the_middle() {
    let mut builder = server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let mut client = client(1000, Config::default(), builder);
    for _ in 0..50 {
        let stream = client.open("10.0.0.1:80");
        client.send(stream, &content(50_000), false).await;
        client.until(|client| client.seen(stream).status.is_some()).await;
        client.connection.reset(stream, ErrorCode::CANCEL);
    }
    let stream = client.open("10.0.0.1:80");
    client.send(stream, b"still here", true).await;
    client.until(|client| client.seen(stream).has_ended).await;
    assert_eq!(client.seen(stream).received, b"still here");
    assert_eq!((client.connection.active_streams(), client.connection.unreleased()), (0, 0));
}

#[tokio::test]
async fn survives_a_graceful_shutdown() {
    let mut client = client(1000, Config::default(), server::Builder::new());
    let first = client.open("10.0.0.1:80");
    let last = client.open("last.test:1");
    client.until(|client| !client.goaways.is_empty()).await;
    assert_eq!(client.goaways[0], (ErrorCode::NO_ERROR, String::new()));
    assert!(!client.connection.can_open());
    for stream in [first, last] {
        client.send(stream, b"till the end", true).await;
        client.until(|client| client.seen(stream).has_ended).await;
        assert_eq!(client.seen(stream).received, b"till the end");
    }
}

#[tokio::test]
async fn pings_go_both_ways() {
    let mut client = client(7, Config::default(), server::Builder::new());
    client.connection.ping(*b"01234567");
    let stream = client.open("ping.test:1");
    client.send(stream, b"x", true).await;
    client.until(|client| client.pongs == 1 && client.seen(stream).has_ended).await;
}
