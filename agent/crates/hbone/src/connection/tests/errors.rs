//! What a peer must not do, and what becomes of it.

use super::*;

/// A server with streams 1 (open), 3 (half closed by the client), 5 (ended by both) and 9 (reset here); 7 was skipped.
fn server_with_streams() -> Connection {
    let mut server = server(Config::default());
    let input =
        [connect(1), headers(3, flag::END_STREAM, &CONNECT), headers(5, flag::END_STREAM, &CONNECT), connect(9)]
            .concat();
    receive(&mut server, &input).expect("valid");
    server.respond(StreamId(5), 503, &[], true);
    server.reset(StreamId(9), ErrorCode::CANCEL);
    server.output().clear();
    server
}

#[test]
fn some_mistakes_end_the_connection() {
    use ErrorCode as E;
    let large = vec![0; 1024 * 1024 + 1];
    let many_settings = vec![0; 65 * 6];
    let open_block = raw(kind::HEADERS, 0, 11, &block(&CONNECT)[..4]);
    let settings = |entry: &[u8]| raw(kind::SETTINGS, 0, 0, entry);
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("a frame over the size limit", data(1, 0, &large), E::FRAME_SIZE_ERROR),
        ("DATA without a stream", data(0, 0, b"x"), E::PROTOCOL_ERROR),
        ("DATA on an idle stream", data(11, 0, b"x"), E::PROTOCOL_ERROR),
        ("DATA on a stream of the server", data(2, 0, b"x"), E::PROTOCOL_ERROR),
        ("DATA on a skipped stream", data(7, 0, b"x"), E::PROTOCOL_ERROR),
        ("DATA on an ended stream", data(5, 0, b"x"), E::STREAM_CLOSED),
        ("DATA padded beyond its end", data(1, flag::PADDED, &[5, 0, 0, 0, 0]), E::PROTOCOL_ERROR),
        ("DATA padded without a length", data(1, flag::PADDED, &[]), E::FRAME_SIZE_ERROR),
        ("HEADERS without a stream", connect(0), E::PROTOCOL_ERROR),
        ("HEADERS on a stream of the server", connect(2), E::PROTOCOL_ERROR),
        ("HEADERS on a skipped stream", connect(7), E::PROTOCOL_ERROR),
        ("HEADERS on an ended stream", connect(5), E::STREAM_CLOSED),
        ("HEADERS padded beyond their end", raw(kind::HEADERS, 0xc, 11, &[9, 0x82]), E::PROTOCOL_ERROR),
        ("HEADERS padded without a length", raw(kind::HEADERS, 0xc, 11, &[]), E::FRAME_SIZE_ERROR),
        ("HEADERS with half a priority", raw(kind::HEADERS, 0x24, 11, &[0; 4]), E::FRAME_SIZE_ERROR),
        ("a stream that depends on itself", raw(kind::HEADERS, 0x24, 11, &[0, 0, 0, 11, 0]), E::PROTOCOL_ERROR),
        ("HEADERS that no table explains", raw(kind::HEADERS, 0x4, 11, &[0xff, 0x7f]), E::COMPRESSION_ERROR),
        ("broken HEADERS on a stream that was reset", raw(kind::HEADERS, 0x4, 9, &[0x80]), E::COMPRESSION_ERROR),
        ("CONTINUATION out of nothing", raw(kind::CONTINUATION, 0x4, 1, &[]), E::PROTOCOL_ERROR),
        ("DATA inside a header block", [open_block.clone(), data(1, 0, b"x")].concat(), E::PROTOCOL_ERROR),
        ("HEADERS inside a header block", [open_block.clone(), connect(13)].concat(), E::PROTOCOL_ERROR),
        (
            "CONTINUATION of another stream",
            [open_block.clone(), raw(kind::CONTINUATION, 0x4, 1, &[])].concat(),
            E::PROTOCOL_ERROR,
        ),
        ("an unknown frame inside a header block", [open_block, raw(0x77, 0, 0, &[])].concat(), E::PROTOCOL_ERROR),
        ("SETTINGS on a stream", raw(kind::SETTINGS, 0, 1, &[]), E::PROTOCOL_ERROR),
        ("half a setting", settings(&[0, 1, 0]), E::FRAME_SIZE_ERROR),
        ("SETTINGS that acknowledge and set", raw(kind::SETTINGS, 1, 0, &[0; 6]), E::FRAME_SIZE_ERROR),
        ("ENABLE_PUSH of 2", settings(&[0, 2, 0, 0, 0, 2]), E::PROTOCOL_ERROR),
        ("INITIAL_WINDOW_SIZE of 2^31", settings(&[0, 4, 0x80, 0, 0, 0]), E::FLOW_CONTROL_ERROR),
        ("MAX_FRAME_SIZE of 16,383", settings(&[0, 5, 0, 0, 0x3f, 0xff]), E::PROTOCOL_ERROR),
        ("MAX_FRAME_SIZE of 2^24", settings(&[0, 5, 1, 0, 0, 0]), E::PROTOCOL_ERROR),
        ("too many settings", settings(&many_settings), E::ENHANCE_YOUR_CALM),
        ("PUSH_PROMISE", raw(kind::PUSH_PROMISE, 0x4, 1, &[0, 0, 0, 2]), E::PROTOCOL_ERROR),
        ("PING on a stream", raw(kind::PING, 0, 1, &[0; 8]), E::PROTOCOL_ERROR),
        ("PING of seven bytes", raw(kind::PING, 0, 0, &[0; 7]), E::FRAME_SIZE_ERROR),
        ("GOAWAY on a stream", raw(kind::GOAWAY, 0, 1, &[0; 8]), E::PROTOCOL_ERROR),
        ("GOAWAY of seven bytes", raw(kind::GOAWAY, 0, 0, &[0; 7]), E::FRAME_SIZE_ERROR),
        ("WINDOW_UPDATE of three bytes", raw(kind::WINDOW_UPDATE, 0, 1, &[0; 3]), E::FRAME_SIZE_ERROR),
        ("WINDOW_UPDATE of nothing", window_update(0, 0), E::PROTOCOL_ERROR),
        ("WINDOW_UPDATE on an idle stream", window_update(11, 1), E::PROTOCOL_ERROR),
        ("WINDOW_UPDATE on a stream of the server", window_update(2, 1), E::PROTOCOL_ERROR),
        ("WINDOW_UPDATE beyond 2^31-1", window_update(0, MAX_STREAM), E::FLOW_CONTROL_ERROR),
        ("RST_STREAM without a stream", rst(0, E::CANCEL), E::PROTOCOL_ERROR),
        ("RST_STREAM on an idle stream", rst(11, E::CANCEL), E::PROTOCOL_ERROR),
        ("RST_STREAM of five bytes", raw(kind::RST_STREAM, 0, 1, &[0; 5]), E::FRAME_SIZE_ERROR),
        ("PRIORITY without a stream", raw(kind::PRIORITY, 0, 0, &[0; 5]), E::PROTOCOL_ERROR),
        ("PRIORITY of four bytes, idle stream", raw(kind::PRIORITY, 0, 11, &[0; 4]), E::FRAME_SIZE_ERROR),
        ("PRIORITY on itself", raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]), E::PROTOCOL_ERROR),
    ];
    for (name, input, code) in cases {
        let mut server = server_with_streams();
        let error = receive(&mut server, &input).expect_err(name);
        assert_eq!(error.code, code, "{name}: {error}");
        let goaway = sent(&mut server).pop().expect("a GOAWAY");
        assert_eq!(goaway.0.kind, kind::GOAWAY, "{name}");
        assert_eq!(number(&goaway.1[4..8]), code.0, "{name}");
        assert_eq!(&goaway.1[8..], error.reason.as_bytes(), "{name}");
        // It stays failed, without a word more.
        assert_eq!(receive(&mut server, b"anything"), Err(error));
        assert!(server.output().is_empty());
        assert!(server.is_going_away());
    }
}

#[test]
fn some_mistakes_end_their_stream_only() {
    use ErrorCode as E;
    let get_with_length = [&GET[..], &[("content-length", "3")]].concat();
    let get = headers(11, 0, &get_with_length);
    let long = "x".repeat(17_000);
    let cases: Vec<(&str, Vec<u8>, u32, ErrorCode)> = vec![
        ("DATA after the end", data(3, 0, b"x"), 3, E::STREAM_CLOSED),
        ("HEADERS after the end", headers(3, 1, &[]), 3, E::STREAM_CLOSED),
        ("a second block in a tunnel", headers(1, flag::END_STREAM, &[("a", "b")]), 1, E::PROTOCOL_ERROR),
        ("a CONNECT with a path", headers(11, 0, &[CONNECT[0], CONNECT[1], GET[2]]), 11, E::PROTOCOL_ERROR),
        ("a request with nothing", headers(11, 0, &[]), 11, E::PROTOCOL_ERROR),
        ("a header list over the limit", headers(11, 0, &[("a", &long[..16_000])]), 11, E::PROTOCOL_ERROR),
        (
            "a header list over the limit by its overhead",
            headers(11, 0, &[CONNECT[0], CONNECT[1], ("a", &long[..16_300])]),
            11,
            E::ENHANCE_YOUR_CALM,
        ),
        ("more than the promised content", [get.clone(), data(11, 0, b"1234")].concat(), 11, E::PROTOCOL_ERROR),
        ("less than it", [get.clone(), data(11, 1, b"12")].concat(), 11, E::PROTOCOL_ERROR),
        ("less than it, empty", [get.clone(), data(11, 1, b"")].concat(), 11, E::PROTOCOL_ERROR),
        ("less than it, trailers", [get.clone(), headers(11, 1, &[])].concat(), 11, E::PROTOCOL_ERROR),
        ("none of it", headers(11, 1, &get_with_length), 11, E::PROTOCOL_ERROR),
        ("trailers that are not the end", [get.clone(), headers(11, 0, &[])].concat(), 11, E::PROTOCOL_ERROR),
        ("trailers with a status", [get, headers(11, 1, &[(":status", "200")])].concat(), 11, E::PROTOCOL_ERROR),
        ("WINDOW_UPDATE of nothing", window_update(1, 0), 1, E::PROTOCOL_ERROR),
        ("WINDOW_UPDATE beyond 2^31-1", window_update(1, MAX_STREAM), 1, E::FLOW_CONTROL_ERROR),
        ("PRIORITY of a wrong size", raw(kind::PRIORITY, 0, 1, &[0; 4]), 1, E::FRAME_SIZE_ERROR),
    ];
    for (name, input, stream, code) in cases {
        let mut server = server_with_streams();
        let events = receive(&mut server, &input).expect(name);
        assert_eq!(resets(&mut server), [(stream, code)], "{name}");
        // Whoever knew of the stream learns that it is gone.
        let was_known = stream < 11 || events.iter().any(|event| matches!(event, Event::Request { .. }));
        let gone = Event::Reset { stream: StreamId(stream), token: 0, code, by_peer: false };
        assert_eq!(events.last() == Some(&gone), was_known, "{name}: {events:?}");
        // What comes after it is ignored, and the others go on.
        let rest = [data(stream, 0, b"x"), window_update(stream, 1), rst(stream, E::CANCEL)].concat();
        assert_eq!(receive(&mut server, &rest), Ok(vec![]), "{name}");
        assert_eq!(receive(&mut server, &headers(13, 0, &CONNECT)).expect(name).len(), 1, "{name}");
    }
}

#[test]
fn what_may_cross_the_end_of_a_stream_is_tolerated() {
    let cases = [
        ("WINDOW_UPDATE on an ended stream", window_update(5, 1)),
        ("WINDOW_UPDATE of nothing on an ended stream", window_update(5, 0)),
        ("RST_STREAM on an ended stream", rst(5, ErrorCode::CANCEL)),
        ("RST_STREAM on a stream that was reset here", rst(9, ErrorCode::CANCEL)),
        ("PRIORITY on an ended stream", raw(kind::PRIORITY, 0, 5, &[0, 0, 0, 0, 1])),
        ("PRIORITY on an idle stream", raw(kind::PRIORITY, 0, 21, &[0, 0, 0, 0, 1])),
        ("DATA on a stream that was reset here", data(9, flag::END_STREAM, b"x")),
        ("trailers on a stream that was reset here", headers(9, flag::END_STREAM, &[("a", "b")])),
        ("an unknown frame on an idle stream", raw(0xbb, 0xff, 99, b"x")),
        ("an unknown setting", raw(kind::SETTINGS, 0, 0, &[0xff, 0, 1, 2, 3, 4])),
    ];
    for (name, input) in cases {
        let mut server = server_with_streams();
        let events = receive(&mut server, &input).expect(name);
        assert!(events.iter().all(|event| *event == Event::Settings), "{name}: {events:?}");
        assert_eq!(server.active_streams(), 2, "{name}");
    }
}

#[test]
fn headers_on_a_stream_that_was_reset_keep_the_compression_state() {
    let mut server = server_with_streams();
    let mut encoder = Encoder::new();
    let mut next = |stream: u32| {
        let mut block = Vec::new();
        for (name, value) in CONNECT {
            encoder.field(&mut block, name, value, Indexing::Repeated);
        }
        raw(kind::HEADERS, flag::END_HEADERS, stream, &block)
    };
    assert_eq!(receive(&mut server, &next(9)), Ok(vec![]));
    let second = next(11);
    assert!(second.len() < HEAD + 5, "it refers to what the first one left in the table");
    assert!(matches!(receive(&mut server, &second).as_deref(), Ok([Event::Request { .. }])));
}

#[test]
fn the_first_words_must_be_right() {
    for input in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ", b"\x16\x03\x01"] {
        let mut server = Connection::server(Config::default());
        assert_eq!(receive(&mut server, input).expect_err("no preface").code, ErrorCode::PROTOCOL_ERROR);
    }
    for first in [raw(kind::PING, 0, 0, &[0; 8]), raw(kind::SETTINGS, flag::ACK, 0, &[]), data(1, 0, b"x")] {
        let mut server = Connection::server(Config::default());
        let input = [&PREFACE[..], &first].concat();
        assert_eq!(receive(&mut server, &input).expect_err("no SETTINGS").code, ErrorCode::PROTOCOL_ERROR);
        let mut client = Connection::client(Config::default());
        assert_eq!(receive(&mut client, &first).expect_err("no SETTINGS").code, ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn a_client_refuses_what_a_server_must_not_send() {
    use ErrorCode as E;
    let answer = |fields: &[(&str, &str)]| headers(1, 0, fields);
    let ok = answer(&[(":status", "200")]);
    let cases: Vec<(&str, Vec<u8>, Result<ErrorCode, ErrorCode>)> = vec![
        ("an answer to nothing", headers(3, 0, &[(":status", "200")]), Err(E::PROTOCOL_ERROR)),
        ("a stream of its own", headers(2, 0, &[(":status", "200")]), Err(E::PROTOCOL_ERROR)),
        ("a push", raw(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), Err(E::PROTOCOL_ERROR)),
        ("permission to push", raw(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1]), Err(E::PROTOCOL_ERROR)),
        ("DATA before HEADERS", data(1, 0, b"x"), Ok(E::PROTOCOL_ERROR)),
        ("an answer without a status", answer(&[("a", "b")]), Ok(E::PROTOCOL_ERROR)),
        ("an answer with a method", answer(&[(":status", "200"), (":method", "GET")]), Ok(E::PROTOCOL_ERROR)),
        ("switching protocols", answer(&[(":status", "101")]), Ok(E::PROTOCOL_ERROR)),
        ("an informational end", headers(1, 1, &[(":status", "100")]), Ok(E::PROTOCOL_ERROR)),
        ("trailers in a tunnel", [ok.clone(), headers(1, 1, &[("a", "b")])].concat(), Ok(E::PROTOCOL_ERROR)),
        ("two answers", [ok.clone(), ok].concat(), Ok(E::PROTOCOL_ERROR)),
    ];
    for (name, input, expected) in cases {
        let mut client = client(Config::default(), &[]);
        client.open(&request(), 0).expect("a free stream");
        client.output().clear();
        match expected {
            Err(code) => assert_eq!(receive(&mut client, &input).expect_err(name).code, code, "{name}"),
            Ok(code) => {
                receive(&mut client, &input).expect(name);
                assert_eq!(resets(&mut client), [(1, code)], "{name}");
                assert_eq!(client.active_streams(), 0);
            }
        }
    }
}
