//! The life of streams and of the connection.

use super::*;
use crate::Request;

#[test]
fn carries_a_connection_there_and_back() {
    let mut client = Connection::client(Config::default());
    let mut server = Connection::server(Config::default());
    // All of it before the server has said a word.
    let wanted = ConnectRequest {
        authority: "10.0.0.1:80",
        baggage: Some("service.name=a"),
        forwarded: Some("for=\"10.0.0.2:1\""),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    };
    let stream = client.open(&wanted, 7).expect("a free stream");
    let mut wire = Vec::new();
    push_data(&mut client, stream, b"hello", false, &mut wire);
    push_data(&mut client, stream, b"", true, &mut wire);

    let request = Request {
        method: "CONNECT".into(),
        authority: "10.0.0.1:80".into(),
        baggage: Some("service.name=a".into()),
        forwarded: Some("for=\"10.0.0.2:1\"".into()),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        end_stream: false,
    };
    assert_eq!(
        receive(&mut server, &wire).expect("valid"),
        [
            Event::Settings,
            Event::Request { stream, request },
            Event::Data { stream, token: 0, payload: b"hello", end_stream: false },
            Event::EndStream { stream, token: 0 },
        ]
    );
    server.set_token(stream, 8);
    server.released(stream, 5);
    server.respond(stream, 200, &[("baggage", "service.name=b")], false);
    let mut wire = Vec::new();
    push_data(&mut server, stream, b"good day", true, &mut wire);
    assert_eq!(
        receive(&mut client, &wire).expect("valid"),
        [
            Event::Settings,
            Event::Response {
                stream,
                token: 7,
                status: 200,
                baggage: Some("service.name=b".into()),
                end_stream: false,
            },
            Event::Data { stream, token: 7, payload: b"good day", end_stream: true },
        ]
    );
    assert_eq!((client.active_streams(), server.active_streams()), (0, 0));
    assert_eq!(settle(&mut client, &mut server), (vec![], vec![]));
}

#[test]
fn either_side_may_end_first() {
    for client_first in [true, false] {
        let mut client = client(Config::default(), &[]);
        let mut server = server(Config::default());
        let stream = client.open(&request(), 0).expect("a free stream");
        settle(&mut client, &mut server);
        server.respond(stream, 200, &[], false);
        settle(&mut client, &mut server);
        let (first, second) = if client_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
        let mut wire = Vec::new();
        push_data(first, stream, b"x", true, &mut wire);
        assert!(!first.can_send(stream));
        assert_eq!(first.send_window(stream), 0);
        let payload = b"x";
        let end = |token| Ok(vec![Event::Data { stream, token, payload, end_stream: true }]);
        assert_eq!(receive(second, &wire), end(0));
        assert_eq!((first.active_streams(), second.active_streams()), (1, 1));
        let mut wire = Vec::new();
        for _ in 0..3 {
            push_data(second, stream, b"y", false, &mut wire);
        }
        push_data(second, stream, b"", true, &mut wire);
        let events = receive(first, &wire).expect("valid");
        assert_eq!(events.len(), 4);
        assert_eq!(events[3], Event::EndStream { stream, token: 0 });
        assert_eq!((first.active_streams(), second.active_streams()), (0, 0));
    }
}

#[test]
fn a_reset_ends_both_sides_and_what_crosses_it_is_ignored() {
    let mut client = client(Config::default(), &[]);
    let mut server = server(Config::default());
    let stream = client.open(&request(), 7).expect("a free stream");
    let mut wire = Vec::new();
    push_data(&mut client, stream, b"before", false, &mut wire);
    receive(&mut server, &wire).expect("valid");
    // Under way when the server resets.
    let mut crossing = Vec::new();
    push_data(&mut client, stream, b"crossing", false, &mut crossing);
    push_data(&mut client, stream, b"", true, &mut crossing);
    server.reset(stream, ErrorCode::CONNECT_ERROR);
    assert_eq!(server.unreleased(), 0);
    assert_eq!(receive(&mut server, &crossing), Ok(vec![]));
    let reset = Event::Reset { stream, token: 7, code: ErrorCode::CONNECT_ERROR, by_peer: true };
    assert_eq!(settle(&mut client, &mut server), (vec![reset], vec![]));
    assert_eq!((client.active_streams(), server.active_streams()), (0, 0));
    // Nothing more can be done with it, and nothing of that reaches the wire as DATA.
    client.reset(stream, ErrorCode::CANCEL);
    client.released(stream, 10);
    assert_eq!(client.send_window(stream), 0);
    let mut wire = Vec::new();
    push_data(&mut client, stream, b"late", true, &mut wire);
    assert_eq!(wire[3], kind::IGNORED);
    assert_eq!(receive(&mut server, &wire), Ok(vec![]));
}

#[test]
fn a_reset_in_the_middle_of_a_frame_swallows_the_rest() {
    let mut server = server(Config::default());
    let stream = StreamId(1);
    let frame = [connect(1), data(1, flag::END_STREAM, b"0123456789"), connect(3)].concat();
    let cut = connect(1).len() + HEAD + 4;
    assert_eq!(receive(&mut server, &frame[..cut]).expect("valid").len(), 2);
    server.reset(stream, ErrorCode::CANCEL);
    let events = receive(&mut server, &frame[cut..]).expect("valid");
    assert!(matches!(events[..], [Event::Request { stream: StreamId(3), .. }]), "{events:?}");
}

#[test]
fn other_methods_are_reported_and_can_be_answered() {
    let mut server = server(Config::default());
    let events = receive(&mut server, headers(1, flag::END_STREAM, &GET).leak()).expect("valid");
    let [Event::Request { stream, request }] = &events[..] else { panic!("{events:?}") };
    assert!(!request.is_connect() && request.end_stream);
    assert_eq!(request.method, "GET");
    server.respond(*stream, 400, &[], true);
    assert_eq!(server.active_streams(), 0);
    let frames = sent(&mut server);
    assert_eq!(frames[0].0.flags, flag::END_STREAM | flag::END_HEADERS);
    assert_eq!(frames[0].1, [0x8c]);
    // Only one answer.
    server.respond(*stream, 200, &[], true);
    assert!(server.output().is_empty());
}

#[test]
fn informational_responses_are_passed_over() {
    let mut client = client(Config::default(), &[]);
    let stream = client.open(&request(), 1).expect("a free stream");
    let input = [headers(1, 0, &[(":status", "103")]), headers(1, 0, &[(":status", "200")])].concat();
    let response = Event::Response { stream, token: 1, status: 200, baggage: None, end_stream: false };
    assert_eq!(receive(&mut client, &input), Ok(vec![response]));
}

#[test]
fn an_answer_that_is_no_tunnel_may_have_a_body_and_trailers() {
    let mut client = client(Config::default(), &[]);
    let stream = client.open(&request(), 1).expect("a free stream");
    let input = [
        headers(1, 0, &[(":status", "503"), ("content-length", "2")]),
        data(1, 0, b"no"),
        headers(1, flag::END_STREAM, &[("x", "y")]),
    ]
    .concat();
    assert_eq!(
        receive(&mut client, &input).expect("valid"),
        [
            Event::Response { stream, token: 1, status: 503, baggage: None, end_stream: false },
            Event::Data { stream, token: 1, payload: b"no", end_stream: false },
            Event::EndStream { stream, token: 1 },
        ]
    );
}

#[test]
fn streams_over_the_limit_are_refused() {
    let mut server = server(Config { max_concurrent_streams: 2, ..Config::default() });
    let input = [connect(1), connect(3), connect(5), data(5, 0, b"x")].concat();
    assert_eq!(receive(&mut server, &input).expect("valid").len(), 2);
    assert_eq!(resets(&mut server), [(5, ErrorCode::REFUSED_STREAM)]);
    server.reset(StreamId(1), ErrorCode::CANCEL);
    assert_eq!(receive(&mut server, connect(7).leak()).expect("valid").len(), 1);
}

#[test]
fn a_client_keeps_to_the_servers_limits() {
    // MAX_CONCURRENT_STREAMS and MAX_HEADER_LIST_SIZE.
    let mut client = client(Config::default(), &[(3, 1), (6, 100)]);
    let long = "x".repeat(100);
    let too_long = client.open(&ConnectRequest { baggage: Some(&long), ..request() }, 0);
    assert_eq!(too_long, Err(OpenError::HeadersTooLarge { size: 46 + 53 + 139, limit: 100 }));
    for (field, request) in [
        (":authority", ConnectRequest { authority: "a b", ..request() }),
        (":authority", ConnectRequest { authority: "", ..request() }),
        ("baggage", ConnectRequest { baggage: Some("a\r\nb"), ..request() }),
        ("forwarded", ConnectRequest { forwarded: Some("for=x "), ..request() }),
        ("traceparent", ConnectRequest { traceparent: Some("\0"), ..request() }),
    ] {
        assert_eq!(client.open(&request, 0), Err(OpenError::InvalidField { field }));
    }
    assert!(client.output().is_empty());
    assert!(client.can_open());
    let stream = client.open(&request(), 0).expect("the first");
    assert!(!client.can_open());
    assert_eq!(client.open(&request(), 0), Err(OpenError::TooManyStreams { limit: 1 }));
    client.reset(stream, ErrorCode::CANCEL);
    assert!(client.can_open());
    // Before any SETTINGS a hundred are dared.
    let mut early = Connection::client(Config::default());
    for _ in 0..100 {
        early.open(&request(), 0).expect("an assumed place");
    }
    assert!(!early.can_open());
    assert_eq!(Connection::server(Config::default()).open(&request(), 0), Err(OpenError::NotAClient));
}

#[test]
fn stream_numbers_run_out() {
    let mut client = client(Config::default(), &[]);
    client.closed.opened(MAX_STREAM - 2);
    assert_eq!(client.open(&request(), 0), Ok(StreamId(MAX_STREAM)));
    assert!(!client.can_open());
    assert_eq!(client.open(&request(), 0), Err(OpenError::Exhausted));
}

#[test]
fn a_large_header_block_travels_in_continuations() {
    let config = Config { max_header_list_size: 64 * 1024, ..Config::default() };
    let mut client = client(config.clone(), &[]);
    let mut server = server(config);
    let baggage = "b".repeat(40_000);
    client.open(&ConnectRequest { baggage: Some(&baggage), ..request() }, 0).expect("a free stream");
    let wire = std::mem::take(client.output());
    for cut in [1, 1000, wire.len()] {
        let mut events = 0;
        if cut != 1 {
            server = super::server(server.config.clone());
        }
        for part in wire.chunks(cut) {
            for event in receive(&mut server, part).expect("valid") {
                let Event::Request { request, .. } = event else { panic!("{event:?}") };
                assert_eq!(request.baggage.as_deref(), Some(baggage.as_str()));
                events += 1;
            }
        }
        assert_eq!(events, 1);
    }
}

#[test]
fn pings_are_answered_and_pongs_reported() {
    let mut client = client(Config::default(), &[]);
    let mut server = server(Config::default());
    client.ping(*b"12345678");
    let events = settle(&mut client, &mut server);
    assert_eq!(events, (vec![Event::Pong { opaque: *b"12345678" }], vec![]));
    // One that was not asked for.
    assert_eq!(receive(&mut client, &raw(kind::PING, flag::ACK, 0, b"12345678")), Ok(vec![]));
}

#[test]
fn a_goaway_returns_what_was_not_looked_at() {
    let mut client = client(Config::default(), &[]);
    for token in 1..=3 {
        client.open(&request(), token).expect("a free stream");
    }
    let mut input = Vec::new();
    frame::goaway(&mut input, 1, ErrorCode::NO_ERROR, b"bye\x1b[0m");
    let refused =
        |id, token| Event::Reset { stream: StreamId(id), token, code: ErrorCode::REFUSED_STREAM, by_peer: true };
    assert_eq!(
        receive(&mut client, &input).expect("valid"),
        [
            Event::GoAway { last_stream: StreamId(1), code: ErrorCode::NO_ERROR, debug: "bye\u{fffd}[0m".into() },
            refused(3, 2),
            refused(5, 3),
        ]
    );
    assert!(client.is_going_away() && !client.can_open());
    assert_eq!(client.open(&request(), 4), Err(OpenError::GoingAway));
    // The first goes on.
    let answer = headers(1, 0, &[(":status", "200")]);
    assert_eq!(receive(&mut client, &answer).expect("valid").len(), 1);
}

#[test]
fn a_long_goaway_is_cut() {
    for length in [8, 100, 300, 20_000] {
        let mut client = client(Config::default(), &[]);
        let mut input = Vec::new();
        frame::goaway(&mut input, 0, ErrorCode(77), &vec![b'x'; length - 8]);
        input.extend(raw(kind::PING, 0, 0, &[0; 8]));
        for part in [1, 7, input.len()] {
            let mut events = Vec::new();
            for bytes in input.chunks(part) {
                events.extend(receive(&mut client, bytes).expect("valid"));
            }
            let [Event::GoAway { code, debug, .. }] = &events[..] else { panic!("{events:?}") };
            assert_eq!((*code, debug.len()), (ErrorCode(77), 256.min(length - 8)));
            assert_eq!(sent(&mut client).len(), 1, "the PING behind it is answered");
        }
    }
}

#[test]
fn a_draining_server_finishes_what_crosses_the_news() {
    let mut client = client(Config::default(), &[]);
    let mut server = server(Config::default());
    server.drain();
    server.drain();
    let first = std::mem::take(server.output());
    // Opened before the client knew.
    let stream = client.open(&request(), 1).expect("a free stream");
    assert_eq!(receive(&mut server, &std::mem::take(client.output())).expect("valid").len(), 1);
    let events = receive(&mut client, &first).expect("valid");
    assert!(matches!(events[..], [Event::GoAway { code: ErrorCode::NO_ERROR, .. }]), "{events:?}");
    assert!(!client.can_open());
    let (seen, _) = settle(&mut client, &mut server);
    assert!(matches!(seen[..], [Event::GoAway { last_stream, .. }] if last_stream == stream), "{seen:?}");
    assert_eq!((client.active_streams(), server.active_streams()), (1, 1));
    // Whoever opens a stream all the same is not heard, and may go on with the old ones.
    let late = [connect(3), data(3, 0, b"x"), data(1, flag::END_STREAM, b"y")].concat();
    let events = receive(&mut server, &late).expect("valid");
    assert_eq!(events, [Event::Data { stream, token: 0, payload: b"y", end_stream: true }]);
}

#[test]
fn goaway_names_the_last_stream_and_never_a_later_one() {
    let mut server = server(Config::default());
    receive(&mut server, &[connect(1), connect(3)].concat()).expect("valid");
    server.go_away(ErrorCode::NO_ERROR, "first");
    receive(&mut server, &connect(5)).expect("ignored");
    server.go_away(ErrorCode::INTERNAL_ERROR, "second");
    let last: Vec<u32> = sent(&mut server).iter().map(|(_, payload)| number(&payload[..4])).collect();
    assert_eq!(last, [3, 3]);
    // A client has looked at no streams of the server.
    let mut client = client(Config::default(), &[]);
    client.open(&request(), 0).expect("a free stream");
    client.output().clear();
    client.drain();
    assert_eq!(sent(&mut client)[0].1, [0; 8]);
}

#[test]
fn input_may_be_cut_anywhere() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut input = PREFACE.to_vec();
    frame::settings(&mut input, &[(4, 1000), (0x99, 7), (5, 20_000)]);
    frame::settings_ack(&mut input);
    let padded_block = [&[7u8][..], &block(&CONNECT), &[0; 7]].concat();
    let priority_block = [&[0u8, 0, 0, 9, 0][..], &block(&CONNECT)].concat();
    let whole = block(&CONNECT);
    for part in [
        connect(1),
        raw(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 3, &padded_block),
        raw(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 5, &priority_block),
        raw(kind::HEADERS, 0, 7, &whole[..3]),
        raw(kind::CONTINUATION, 0, 7, &[]),
        raw(kind::CONTINUATION, 0, 7, &whole[3..9]),
        raw(kind::CONTINUATION, flag::END_HEADERS, 7, &whole[9..]),
        data(1, 0, b"hello"),
        data(1, flag::PADDED, b"\x05hello....."),
        data(3, flag::PADDED | flag::END_STREAM, b"\x03bye..."),
        data(5, flag::PADDED | flag::END_STREAM, b"\x00all"),
        data(7, flag::PADDED | flag::END_STREAM, b"\x02.."),
        raw(0x77, 0xff, 3, b"something new"),
        raw(kind::PRIORITY, 0, 99, &[0, 0, 0, 0, 9]),
        raw(kind::PING, 0, 0, b"12345678"),
        window_update(0, 5),
        window_update(1, 100_000),
        headers(9, flag::END_STREAM, &GET),
        rst(1, ErrorCode::CANCEL),
        data(9, 0, b"too late"),
    ] {
        input.extend(part);
    }
    frame::goaway(&mut input, 0, ErrorCode::NO_ERROR, b"done");
    // Payload that belongs together is compared as such.
    let run = |cuts: &mut dyn FnMut(usize) -> usize| {
        let mut server = Connection::server(Config::default());
        let mut log: Vec<String> = Vec::new();
        let mut payload = Vec::new();
        let mut rest = &input[..];
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(cuts(rest.len()));
            rest = tail;
            for event in receive(&mut server, part).expect("valid") {
                match event {
                    Event::Data { payload: bytes, end_stream: false, .. } => payload.extend_from_slice(bytes),
                    Event::Data { stream, payload: bytes, end_stream: true, .. } => {
                        payload.extend_from_slice(bytes);
                        log.push(format!("{stream} ends with {:?}", std::mem::take(&mut payload)));
                    }
                    event => log.push(format!("{event:?} after {:?}", std::mem::take(&mut payload))),
                }
            }
        }
        (log, std::mem::take(server.output()))
    };
    let whole = run(&mut |left| left);
    assert_eq!(run(&mut |_| 1), whole);
    for _ in 0..200 {
        let most = rng.usize(2..60);
        assert_eq!(run(&mut |left| rng.usize(1..=most).min(left)), whole);
    }
    assert_eq!(whole.0.len(), 12, "{:#?}", whole.0);
}
