//! Peers that keep this side busy for nothing.

use std::time::Duration;

use super::*;

/// Feeds the same input again and again, taking the output away or not; how often it was taken.
fn flood(
    connection: &mut Connection,
    inputs: impl IntoIterator<Item = Vec<u8>>,
    is_drained: bool,
) -> (usize, ErrorCode) {
    for (times, input) in inputs.into_iter().enumerate() {
        if let Err(error) = receive(connection, &input) {
            return (times, error.code);
        }
        if is_drained {
            connection.output().clear();
        }
        assert!(connection.output().len() < 70 * 1024, "the output is bounded");
        if times > 200_000 {
            break;
        }
    }
    panic!("nobody stopped it");
}

fn again(input: Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    std::iter::repeat(input)
}

#[test]
fn frames_that_move_nothing_are_limited() {
    let limit = crate::FloodLimits::default().idle_frames as usize;
    let mut settings = Vec::new();
    frame::settings(&mut settings, &[]);
    let cases = [
        ("PING", raw(kind::PING, 0, 0, &[0; 8]), 1),
        ("PONG", raw(kind::PING, flag::ACK, 0, &[0; 8]), 1),
        ("SETTINGS", settings, 2),
        ("SETTINGS with a window", raw(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9]), 3),
        ("SETTINGS acknowledged", raw(kind::SETTINGS, flag::ACK, 0, &[]), 1),
        ("empty DATA", data(1, 0, b""), 1),
        ("DATA of padding", data(1, flag::PADDED, &[0]), 1),
        ("WINDOW_UPDATE", window_update(1, 1), 1),
        ("WINDOW_UPDATE of the connection", window_update(0, 1), 1),
        ("PRIORITY", raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 0]), 1),
        ("unknown frames", raw(0xaa, 0, 1, b"x"), 1),
        ("GOAWAY", raw(kind::GOAWAY, 0, 0, &[0; 8]), 1),
        ("RST_STREAM of an ended stream", rst(3, ErrorCode::CANCEL), 1),
        ("HEADERS of a stream that was reset", headers(5, 0, &[]), 1),
    ];
    for (name, input, cost) in cases {
        let mut server = server(Config::default());
        let open = [connect(1), headers(3, flag::END_STREAM, &CONNECT), connect(5)].concat();
        receive(&mut server, &open).expect("valid");
        server.respond(StreamId(3), 503, &[], true);
        server.reset(StreamId(5), ErrorCode::CANCEL);
        // The SETTINGS of the handshake count as well.
        let left = limit - 2;
        assert_eq!(
            flood(&mut server, again(input.clone()), true),
            (left / cost, ErrorCode::ENHANCE_YOUR_CALM),
            "{name}"
        );
    }
}

#[test]
fn useful_work_pays_for_idle_frames() {
    let mut server = server(Config::default());
    receive(&mut server, &connect(1)).expect("valid");
    let stream = StreamId(1);
    // A reader that answers every frame with two updates, for ever.
    let round = [data(1, 0, b"x"), window_update(0, 1), window_update(1, 1)].concat();
    for _ in 0..100_000 {
        receive(&mut server, &round).expect("that is how some receivers are");
        server.released(stream, 1);
        server.output().clear();
    }
    // For every four kilobytes of a large frame, too.
    let round = [data(1, 0, &[0; 16_384]), [window_update(0, 1), window_update(1, 1)].concat().repeat(4)].concat();
    for _ in 0..10_000 {
        receive(&mut server, &round).expect("others are like this");
        server.released(stream, 16_384);
        server.output().clear();
    }
    // The same for what is sent.
    let updates = [window_update(0, 1), window_update(1, 1)].concat();
    for _ in 0..100_000 {
        server.data_header(stream, 1, false);
        receive(&mut server, &updates).expect("that is how some receivers are");
    }
}

#[test]
fn time_pays_for_keepalive() {
    let mut server = server(Config::default());
    let ping = raw(kind::PING, 0, 0, &[0; 8]);
    for _ in 0..100_000 {
        receive(&mut server, &ping).expect("one in ten seconds");
        server.output().clear();
        server.replenish(Duration::from_secs(10));
    }
}

#[test]
fn answers_that_nobody_reads_do_not_pile_up() {
    let ping = raw(kind::PING, 0, 0, &[0; 8]);
    let mut generous = Config::default();
    generous.flood.idle_frames = u32::MAX;
    let (times, code) = flood(&mut server(generous.clone()), again(ping.clone()), false);
    assert_eq!((times, code), (64 * 1024 / 17, ErrorCode::ENHANCE_YOUR_CALM));
    // What the owner itself leaves there does not count, nor what it took away but for a rest.
    let mut client = client(generous, &[]);
    for _ in 0..1000 {
        client.ping([0; 8]);
        client.output().extend([0; 100]);
    }
    for _ in 0..10_000 {
        receive(&mut client, &ping).expect("taken away in time");
        let length = client.output().len();
        client.output().drain(..length - 1);
    }
}

#[test]
fn answers_to_requests_that_nobody_reads_do_not_pile_up() {
    let mut server = server(Config::default());
    let mut requests = 0;
    let error = loop {
        requests += 1;
        assert!(requests < 100_000, "{} bytes wait", server.output().len());
        let stream = requests * 2 - 1;
        if let Err(error) = receive(&mut server, &connect(stream)) {
            break error;
        }
        server.respond(StreamId(stream), 401, &[], true);
        server.reset(StreamId(stream), ErrorCode::NO_ERROR);
    };
    assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
    assert!(server.output().len() < 256 * 1024, "{} bytes wait", server.output().len());
    // Whoever reads them may be refused as often as it likes.
    let mut server = super::server(Config::default());
    for stream in (1..100_000).step_by(2) {
        receive(&mut server, &connect(stream)).expect("valid");
        server.respond(StreamId(stream), 401, &[], true);
        server.reset(StreamId(stream), ErrorCode::NO_ERROR);
        server.output().clear();
    }
}

#[test]
fn rapid_resets_are_limited() {
    // CVE-2023-44487.
    let open_and_reset = |stream| [connect(stream), rst(stream, ErrorCode::CANCEL)].concat();
    let streams = (3..).step_by(2);
    let mut server = server(Config::default());
    receive(&mut server, &connect(1)).expect("valid");
    for stream in streams.clone().take(1000) {
        receive(&mut server, &open_and_reset(stream)).expect("within the limit");
    }
    assert!(!server.is_shut_down());
    server.output().clear();
    // Nothing that happened before the last one is lost, and what is open goes on.
    let input = open_and_reset(2003);
    let mut rest = &input[..];
    assert!(matches!(server.receive(&mut rest), Ok(Some(Event::Request { .. }))));
    assert!(matches!(server.receive(&mut rest), Ok(Some(Event::Reset { .. }))));
    assert!(matches!(server.receive(&mut rest), Ok(None)));
    assert!(server.is_shut_down() && server.can_send(StreamId(1)));
    let goaway =
        raw(kind::GOAWAY, 0, 0, &[2003u32.to_be_bytes(), ErrorCode::ENHANCE_YOUR_CALM.0.to_be_bytes()].concat());
    assert_eq!(server.output()[HEAD..][..8], goaway[HEAD..]);
    let data = data(1, 0, b"still there");
    assert!(matches!(server.receive(&mut &data[..]), Ok(Some(Event::Data { .. }))));
    // New streams come to nothing, and more of them than any mistake explains end it all.
    let (times, code) = flood(&mut server, (2005..).step_by(2).map(open_and_reset), true);
    assert_eq!(code, ErrorCode::ENHANCE_YOUR_CALM);
    assert!((990..=1010).contains(&times), "{times}");
    // Time gives some back.
    let mut server = super::server(Config::default());
    for stream in streams.clone().take(10_000) {
        receive(&mut server, &open_and_reset(stream)).expect("a hundred a second");
        server.replenish(Duration::from_millis(10));
    }
    // A client that waits for the answer may reset as it likes.
    let mut server = super::server(Config::default());
    for stream in streams.take(10_000) {
        receive(&mut server, &connect(stream)).expect("valid");
        server.respond(StreamId(stream), 200, &[], false);
        receive(&mut server, &rst(stream, ErrorCode::CANCEL)).expect("it was served before");
        server.output().clear();
    }
}

#[test]
fn resets_that_the_peer_provokes_are_limited() {
    // CVE-2025-8671, and its relatives.
    type Make = fn(u32) -> Vec<u8>;
    let cases: [(&str, Make); 4] = [
        ("WINDOW_UPDATE of nothing", |stream| [connect(stream), window_update(stream, 0)].concat()),
        ("DATA after the end", |stream| [headers(stream, 1, &CONNECT), data(stream, 0, b"x")].concat()),
        ("malformed requests", |stream| headers(stream, 0, &[("a", "b")])),
        ("a window that overflows", |stream| [connect(stream), window_update(stream, MAX_STREAM)].concat()),
    ];
    for (name, make) in cases {
        let mut server = server(Config::default());
        let result = flood(&mut server, (1..).step_by(2).map(make), true);
        assert_eq!(result, (1000, ErrorCode::ENHANCE_YOUR_CALM), "{name}");
    }
    let mut server = server(Config { max_concurrent_streams: 0, ..Config::default() });
    let result = flood(&mut server, (1..).step_by(2).map(connect), true);
    assert_eq!(result, (1000, ErrorCode::ENHANCE_YOUR_CALM), "streams over the limit");
}

#[test]
fn continuations_are_limited() {
    let open = raw(kind::HEADERS, 0, 1, &[]);
    for (payload, times) in [(0, 16), (1, 16), (1024, 16), (1025, 15), (16_000, 1), (17_000, 0)] {
        let mut server = server(Config::default());
        receive(&mut server, &open).expect("valid");
        let more = raw(kind::CONTINUATION, 0, 1, &vec![0; payload]);
        let result = flood(&mut server, again(more), true);
        assert_eq!(result, (times, ErrorCode::ENHANCE_YOUR_CALM), "of {payload} bytes");
        assert!(server.block.capacity() <= 64 * 1024);
    }
    let mut server = server(Config::default());
    let error = receive(&mut server, &raw(kind::HEADERS, 0, 1, &vec![0; 17_000])).expect_err("too large");
    assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn a_small_block_that_stands_for_a_large_list_costs_little() {
    // One field of almost the whole table, and then a byte for each repetition.
    let mut server = server(Config::default());
    let mut bomb = vec![0x40, 0x01, b'a', 0x7f, 0x81, 0x1e];
    bomb.extend(vec![b'x'; 4096 - 32 - 1 - 63]);
    let fill = bomb.len();
    bomb.extend(vec![0xbe; 16_384 - fill]);
    let input = raw(kind::HEADERS, flag::END_HEADERS, 1, &bomb);
    assert_eq!(receive(&mut server, &input), Ok(vec![]));
    assert!(matches!(resets(&mut server)[..], [(1, _)]));
}

#[test]
fn tiny_updates_of_the_window_are_limited() {
    // One byte at a time costs the sender a frame for each; whoever sends real data on it is free to.
    let mut server = server(Config::default());
    receive(&mut server, &[connect(1), raw(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat()).expect("valid");
    let (times, code) = flood(&mut server, again(window_update(1, 1)), true);
    assert!(times < 2000);
    assert_eq!(code, ErrorCode::ENHANCE_YOUR_CALM);
}
