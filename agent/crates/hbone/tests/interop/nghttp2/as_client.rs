//! Our client, a server by libnghttp2.

use tokio::net::TcpStream;
use weft_hbone::{ConnectRequest, ErrorCode, OpenError, StreamId};

use super::*;
use crate::frames::{flag, kind};

/// A client that is connected to `server.mjs` with these options, and the server.
async fn connected(config: Config, options: &str) -> (Client<TcpStream>, Node) {
    let mut node = Node::start("server.mjs", &[options]);
    let port = node.line();
    let Ok(port) = port.parse::<u16>() else {
        node.finish().await;
        panic!("the server said {port:?} instead of its port");
    };
    let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
    socket.set_nodelay(true).expect("an open socket");
    (Client::new(socket, config), node)
}

/// Closes the connection and returns what the server has to say about it. Nothing may be left open.
async fn finish(client: Client<TcpStream>, node: Node) -> String {
    assert_eq!((client.connection.active_streams(), client.connection.unreleased()), (0, 0));
    client.close().await;
    node.finish().await
}

fn with_baggage<'a>(authority: &'a str, baggage: &'a str) -> ConnectRequest<'a> {
    ConnectRequest { authority, baggage: Some(baggage), ..ConnectRequest::default() }
}

/// What came on a stream, once it has ended.
async fn all(client: &mut Client<TcpStream>, stream: StreamId) -> Vec<u8> {
    client.until(|client| client.seen(stream).has_ended).await;
    client.seen(stream).received.clone()
}

/// Sends these lengths on streams of their own, in turns, and compares what comes back.
async fn echo(client: &mut Client<TcpStream>, lengths: impl Iterator<Item = usize>) {
    let sent: Vec<(StreamId, Vec<u8>)> = lengths.map(|length| (client.open("10.0.0.1:80"), content(length))).collect();
    let longest = sent.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or_default();
    for start in (0..longest).step_by(70_000) {
        for (stream, bytes) in &sent {
            let part = &bytes[start.min(bytes.len())..(start + 70_000).min(bytes.len())];
            if !part.is_empty() {
                client.send(*stream, part, start + part.len() == bytes.len()).await;
            }
        }
    }
    for (stream, bytes) in &sent {
        assert!(all(client, *stream).await == *bytes, "{} bytes came back differently", bytes.len());
    }
}

/// Has the server change its settings, in as many steps as there are objects, and waits until it knows that they are
/// followed.
async fn change(client: &mut Client<TcpStream>, settings: &str) {
    let stream = client.request(&with_baggage("settings.test:1", &format!("[{settings}]")));
    client.send(stream, &[], true).await;
    client.until(|client| client.seen(stream).has_ended).await;
    assert_eq!(client.seen(stream).status, Some(200));
}

#[tokio::test]
async fn sends_the_fields_of_a_connect_and_reads_the_answers() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let baggage = "k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1";
    let forwarded = "for=\"10.244.1.5:40000\";host=web.shop";
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for _ in 0..3 {
        let request = ConnectRequest {
            authority: "fields.test:1",
            baggage: Some(baggage),
            forwarded: Some(forwarded),
            traceparent: Some(traceparent),
        };
        let stream = client.request(&request);
        client.send(stream, &[], true).await;
        let text = String::from_utf8(all(&mut client, stream).await).expect("text");
        let expected = format!(
            ":method: CONNECT\n:authority: fields.test:1\nbaggage: {baggage}\nforwarded: {forwarded}\ntraceparent: {traceparent}\n"
        );
        assert_eq!(text, expected);
        assert_eq!((client.seen(stream).status, client.seen(stream).baggage.as_deref()), (Some(200), Some(baggage)));
    }
    let bare = client.request(&ConnectRequest { authority: "fields.test:1", ..ConnectRequest::default() });
    client.send(bare, &[], true).await;
    assert_eq!(all(&mut client, bare).await, b":method: CONNECT\n:authority: fields.test:1\n");
    assert_eq!(client.seen(bare).baggage, None);
    finish(client, node).await;
}

#[tokio::test]
async fn agrees_with_nghttp2_on_both_tables_at_every_size() {
    let mut lengths = Vec::new();
    for size in [0, 200, 4096, 65_536] {
        let options = format!(r#"{{"maxDeflateDynamicTableSize": 65536, "settings": {{"headerTableSize": {size}}}}}"#);
        let config = Config { header_table_size: size, ..Config::default() };
        let (mut client, node) = connected(config, &options).await;
        // The sizes are known once there is an answer.
        echo(&mut client, [1].into_iter()).await;
        let alphabet: Vec<char> = ('!'..='~').collect();
        for index in 0..120 {
            let letters = (0..1 + index % 40 * 8).map(|at| alphabet[(at * 7 + index % 40) % alphabet.len()]);
            let baggage: String = letters.collect();
            let forwarded = format!("for=\"10.0.0.{index}:1\"");
            let request = ConnectRequest { forwarded: Some(&forwarded), ..with_baggage("fields.test:1", &baggage) };
            let stream = client.request(&request);
            client.send(stream, &[], true).await;
            let text = String::from_utf8(all(&mut client, stream).await).expect("text");
            assert!(text.ends_with(&format!("\nbaggage: {baggage}\nforwarded: {forwarded}\n")), "{text}");
            assert_eq!(client.seen(stream).baggage.as_deref(), Some(&*baggage));
        }
        let sum = |frames: &Frames| frames.with(kind::HEADERS, 0).map(|frame| frame.length).sum::<usize>();
        lengths.push((sum(&client.sent), sum(&client.frames)));
        finish(client, node).await;
    }
    // A larger table makes smaller blocks, so each of them was really made use of; ours uses no more than the default.
    let (sent, received): (Vec<usize>, Vec<usize>) = lengths.into_iter().unzip();
    assert!(sent[..3].is_sorted_by(|one, next| one > next), "{sent:?}");
    assert!(received.is_sorted_by(|one, next| one > next), "{received:?}");
}

#[tokio::test]
async fn sends_and_reads_fields_that_take_several_frames() {
    let config = Config { max_header_list_size: 64 * 1024, ..Config::default() };
    let (mut client, node) = connected(config, "{}").await;
    let baggage: String = content(30_000).iter().map(|byte| format!("{byte:02x}")).collect();
    for _ in 0..2 {
        let stream = client.request(&with_baggage("10.0.0.1:80", &baggage));
        client.send(stream, &[], true).await;
        client.until(|client| client.seen(stream).has_ended).await;
        assert!(client.seen(stream).baggage.as_deref() == Some(&*baggage));
    }
    for frames in [&client.sent, &client.frames] {
        assert!(frames.with(kind::CONTINUATION, 0).count() >= 2);
    }
    finish(client, node).await;
}

#[tokio::test]
async fn sends_no_more_fields_than_the_server_takes() {
    let (mut client, node) = connected(Config::default(), r#"{"settings": {"maxHeaderListSize": 1000}}"#).await;
    echo(&mut client, [1].into_iter()).await;
    let refused = client.connection.open(&with_baggage("10.0.0.1:80", &"a".repeat(1000)), 0);
    assert!(matches!(refused, Err(OpenError::HeadersTooLarge { limit: 1000, .. })), "{refused:?}");
    echo(&mut client, [1].into_iter()).await;
    finish(client, node).await;
}

#[tokio::test]
async fn sends_and_gets_bulk_data_on_several_streams_through_windows_of_every_size() {
    let small =
        Config { initial_stream_window: 65_535, connection_window: 65_535, growth_budget: 0, ..Config::default() };
    for (config, settings, streams, length) in [
        (Config::default(), "{}", 8, 3_000_000),
        (Config::default(), r#"{"initialWindowSize": 1048576, "maxFrameSize": 1048576}"#, 8, 3_000_000),
        (small.clone(), r#"{"initialWindowSize": 10000}"#, 8, 500_000),
        (small, r#"{"initialWindowSize": 1}"#, 3, 1_000),
    ] {
        let (mut client, node) = connected(config, &format!(r#"{{"settings": {settings}}}"#)).await;
        echo(&mut client, (0..streams).map(|index| length + index)).await;
        finish(client, node).await;
    }
}

#[tokio::test]
async fn sends_data_before_the_server_has_said_anything() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let stream = client.open("10.0.0.1:80");
    let header = client.connection.data_header(stream, 5, true);
    client.wire.append(client.connection.output());
    client.wire.extend_from_slice(&header);
    client.wire.extend_from_slice(b"early");
    assert_eq!(all(&mut client, stream).await, b"early");
    finish(client, node).await;
}

#[tokio::test]
async fn reads_padded_frames() {
    // To lengths of a multiple of eight, and as far as it goes (Node.js' PADDING_STRATEGY_ALIGNED and _MAX).
    for strategy in [1, 2] {
        let options = format!(r#"{{"paddingStrategy": {strategy}}}"#);
        let (mut client, node) = connected(Config::default(), &options).await;
        echo(&mut client, [1, 255, 256, 1_000_000, 1_000_001].into_iter()).await;
        for kind in [kind::HEADERS, kind::DATA] {
            assert!(client.frames.with(kind, flag::PADDED).count() > 0, "no frame of type {kind} was padded");
        }
        // So many frames of one byte that their padding exceeds the windows: it has to be given back, too.
        let stream = client.open("10.0.0.1:80");
        for count in 1..=1500 {
            client.send(stream, b"x", false).await;
            client.until(|client| client.seen(stream).received.len() == count).await;
        }
        client.send(stream, &[], true).await;
        all(&mut client, stream).await;
        finish(client, node).await;
    }
}

#[tokio::test]
async fn passes_half_closes_on() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    // The client ends first, and what it sent still comes back.
    let first = client.open("10.0.0.1:80");
    client.send(first, b"hello", false).await;
    client.until(|client| client.seen(first).received == b"hello").await;
    assert!(!client.seen(first).has_ended);
    client.send(first, b" and goodbye", true).await;
    assert_eq!(all(&mut client, first).await, b"hello and goodbye");
    // The server ends first, and the client goes on sending.
    let second = client.open("bye.test:1");
    assert_eq!(all(&mut client, second).await, b"bye");
    assert!(client.connection.can_send(second));
    client.send(second, &content(1_000_000), true).await;
    // The client says nothing at all.
    let third = client.open("10.0.0.1:80");
    client.send(third, &[], true).await;
    assert_eq!(all(&mut client, third).await, b"");
    let told = finish(client, node).await;
    assert!(told.contains("received 1000000\n"), "{told}");
}

#[tokio::test]
async fn learns_of_refusals_and_resets() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    for _ in 0..20 {
        let refused = client.open("refuse.test:1");
        client.send(refused, &[], true).await;
        client.until(|client| client.seen(refused).has_ended).await;
        assert_eq!(client.seen(refused).status, Some(401));
        let reset = client.open("reset.test:1");
        client.until(|client| client.seen(reset).reset.is_some()).await;
        assert_eq!(client.seen(reset).status, None);
        assert_eq!(client.seen(reset).reset, Some((ErrorCode::CONNECT_ERROR, true)));
        for (authority, code, has_ended) in
            [("cut.test:1", ErrorCode::INTERNAL_ERROR, false), ("close.test:1", ErrorCode::CANCEL, true)]
        {
            let stream = client.open(authority);
            client.send(stream, &content(50_000), false).await;
            client.until(|client| client.seen(stream).reset.is_some()).await;
            let seen = client.seen(stream);
            assert_eq!((seen.status, seen.has_ended, seen.reset), (Some(200), has_ended, Some((code, true))));
        }
    }
    echo(&mut client, [1_000_000].into_iter()).await;
    finish(client, node).await;
}

#[tokio::test]
async fn resets_streams_in_the_middle() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let mut expected = Vec::new();
    for index in 0..50 {
        let stream = client.open("10.0.0.1:80");
        client.send(stream, &content(100_000), false).await;
        client.until(|client| client.seen(stream).status.is_some()).await;
        let code = [ErrorCode::CANCEL, ErrorCode::CONNECT_ERROR][index % 2];
        client.connection.reset(stream, code);
        expected.push(format!("stream {stream} ended with {}", code.0));
    }
    echo(&mut client, [1_000_000].into_iter()).await;
    let told = finish(client, node).await;
    for line in expected {
        assert!(told.lines().any(|told| told == line), "{line:?} is missing in:\n{told}");
    }
}

#[tokio::test]
async fn resets_a_tunnel_that_has_trailers() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let stream = client.open("trailers.test:1");
    client.until(|client| client.seen(stream).reset.is_some()).await;
    assert_eq!(client.seen(stream).reset, Some((ErrorCode::PROTOCOL_ERROR, false)));
    echo(&mut client, [10].into_iter()).await;
    finish(client, node).await;
}

#[tokio::test]
async fn survives_a_server_that_takes_no_more_streams() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let first = client.open("10.0.0.1:80");
    let last = client.open("last.test:1");
    let beyond = client.open("10.0.0.1:80");
    client.until(|client| !client.goaways.is_empty()).await;
    assert_eq!(client.goaways, [(ErrorCode::NO_ERROR, "that was all".into())]);
    assert!(!client.connection.can_open());
    assert_eq!(client.seen(beyond).reset, Some((ErrorCode::REFUSED_STREAM, true)));
    for (stream, length) in [(first, 300_000), (last, 500_000)] {
        client.send(stream, &content(length), true).await;
        assert!(all(&mut client, stream).await == content(length));
    }
    finish(client, node).await;
}

#[tokio::test]
async fn learns_why_a_server_ends_the_connection() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let stream = client.open("calm.test:1");
    client.send(stream, &[], true).await;
    client.until(|client| client.seen(stream).has_ended).await;
    assert_eq!(client.goaways, [(ErrorCode::ENHANCE_YOUR_CALM, "too much".into())]);
    assert!(!client.connection.can_open());
    finish(client, node).await;
}

#[tokio::test]
async fn goes_away_gracefully() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let stream = client.open("10.0.0.1:80");
    client.until(|client| client.seen(stream).status.is_some()).await;
    client.connection.drain();
    assert!(!client.connection.can_open());
    client.send(stream, &content(500_000), false).await;
    client.until(|client| client.seen(stream).received.len() == 500_000).await;
    assert!(client.seen(stream).received == content(500_000));
    client.connection.reset(stream, ErrorCode::CANCEL);
    // There is nothing left to wait for, and the server knows it.
    client.until_closed().await;
    let told = finish(client, node).await;
    assert!(told.starts_with("goaway 0\n"), "{told}");
}

#[tokio::test]
async fn tells_why_it_goes_away() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    echo(&mut client, [1].into_iter()).await;
    client.connection.go_away(ErrorCode::INTERNAL_ERROR, "out of memory");
    client.until_closed().await;
    let told = finish(client, node).await;
    assert!(told.contains("goaway 2 out of memory\n"), "{told}");
}

#[tokio::test]
async fn pings_go_both_ways() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    client.connection.ping(*b"weekdays");
    let stream = client.open("ping.test:1");
    client.send(stream, &[], true).await;
    client.until(|client| client.pongs == 1 && client.seen(stream).has_ended).await;
    assert_eq!(client.seen(stream).baggage.as_deref(), Some("ping=01234567"));
    let told = finish(client, node).await;
    assert!(told.contains("ping weekdays\n"), "{told}");
}

#[tokio::test]
async fn skips_what_a_proxy_has_no_use_for() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let stream = client.open("chatter.test:1");
    client.send(stream, b"hello", true).await;
    assert_eq!(all(&mut client, stream).await, b"hello");
    assert_eq!(client.seen(stream).status, Some(200));
    assert_eq!(client.frames.with(kind::HEADERS, 0).count(), 3);
    for kind in [kind::ALTSVC, kind::ORIGIN] {
        assert_eq!(client.frames.with(kind, 0).count(), 1, "of type {kind}");
    }
    finish(client, node).await;
}

#[tokio::test]
async fn follows_settings_that_change_while_bytes_flow() {
    let (mut client, node) = connected(Config::default(), "{}").await;
    let sent = content(1_000_000);
    let bulk = client.open("10.0.0.1:80");
    client.send(bulk, &sent[..60_000], false).await;
    // The window shrinks below what is on its way, and new streams have none.
    change(&mut client, r#"{"initialWindowSize": 0}"#).await;
    assert_eq!(client.connection.send_window(bulk), 0);
    let stuck = client.open("10.0.0.1:80");
    assert_eq!(client.connection.send_window(stuck), 0);
    // With it goes the table, and comes back at once: nothing that was indexed may be referred to.
    change(&mut client, r#"{"initialWindowSize": 100000, "headerTableSize": 0}, {"headerTableSize": 4096}"#).await;
    client.send(stuck, b"free", true).await;
    assert_eq!(all(&mut client, stuck).await, b"free");
    client.send(bulk, &sent[60_000..500_000], false).await;
    assert!(client.sent.with(kind::DATA, 0).all(|frame| frame.length <= 16_384));
    change(&mut client, r#"{"headerTableSize": 0, "maxFrameSize": 1000000, "initialWindowSize": 1000000}"#).await;
    assert_eq!(client.connection.max_data(), 1_000_000);
    client.send(bulk, &sent[500_000..900_000], false).await;
    assert!(client.sent.with(kind::DATA, 0).any(|frame| frame.length > 16_384));
    // Streams that are open stay so under a limit that they exceed.
    let second = client.open("10.0.0.1:80");
    change(&mut client, r#"{"maxConcurrentStreams": 1, "maxFrameSize": 16384}"#).await;
    client.send(second, b"still here", true).await;
    assert_eq!(all(&mut client, second).await, b"still here");
    assert!(!client.connection.can_open());
    client.send(bulk, &sent[900_000..], true).await;
    assert!(all(&mut client, bulk).await == sent);
    assert!(client.connection.can_open());
    finish(client, node).await;
}

#[tokio::test]
async fn keeps_to_the_servers_limit() {
    let (mut client, node) = connected(Config::default(), r#"{"settings": {"maxConcurrentStreams": 3}}"#).await;
    // Before the limit is known more may be opened than are taken.
    let streams: Vec<StreamId> = (0..10).map(|_| client.open("10.0.0.1:80")).collect();
    let (taken, refused) = streams.split_at(3);
    client.until(|client| refused.iter().all(|stream| client.seen(*stream).reset.is_some())).await;
    for stream in refused {
        assert_eq!(client.seen(*stream).reset, Some((ErrorCode::REFUSED_STREAM, true)));
    }
    assert!(!client.connection.can_open());
    for stream in taken {
        client.send(*stream, b"hello", true).await;
        assert_eq!(all(&mut client, *stream).await, b"hello");
        assert!(client.connection.can_open());
    }
    for _ in 0..10 {
        echo(&mut client, 20_000..20_003).await;
    }
    finish(client, node).await;
}
