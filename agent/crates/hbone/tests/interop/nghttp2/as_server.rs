//! Our server, a client by libnghttp2.

use tokio::net::TcpListener;

use super::*;
use weft_hbone::ErrorCode;

use crate::frames::{flag, kind};

/// Runs a case of `client.mjs` against an echo server, and returns the server once the connection is over.
async fn visited(config: Config, case: &str, numbers: &[u32]) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let serving = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        socket.set_nodelay(true).expect("an open socket");
        serve(socket, config).await
    });
    let arguments: Vec<String> =
        [port.to_string(), case.to_owned()].into_iter().chain(numbers.iter().map(u32::to_string)).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Node::start("client.mjs", &arguments).finish().await;
    let served = timeout(PATIENCE, serving).await.expect("the client is gone").expect("the server does not panic");
    assert_eq!((served.echo.connection.active_streams(), served.echo.connection.unreleased()), (0, 0));
    served
}

/// A case that keeps to the protocol.
async fn visit(config: Config, case: &str, numbers: &[u32]) -> Served {
    let served = visited(config, case, numbers).await;
    assert_eq!(served.error, None);
    served
}

#[tokio::test]
async fn reads_the_fields_of_a_connect_and_sends_some_back() {
    visit(Config::default(), "fields", &[]).await;
}

#[tokio::test]
async fn follows_nghttp2s_encoder_at_every_table_size() {
    let mut lengths = Vec::new();
    for header_table_size in [0, 200, 4096, 65_536] {
        let served = visit(Config { header_table_size, ..Config::default() }, "compression", &[]).await;
        lengths.push(served.frames.with(kind::HEADERS, 0).map(|frame| frame.length).sum::<usize>());
    }
    // A larger table makes smaller blocks, so each of them was really made use of.
    assert!(lengths.is_sorted_by(|one, next| one > next), "{lengths:?}");
}

#[tokio::test]
async fn reads_fields_that_take_several_frames() {
    let config = Config { max_header_list_size: 64 * 1024, ..Config::default() };
    let served = visit(config, "longFields", &[]).await;
    assert!(served.frames.with(kind::CONTINUATION, 0).count() >= 3);
}

#[tokio::test]
async fn ends_a_connection_whose_fields_are_too_long_and_says_why() {
    let served = visited(Config::default(), "tooLongFields", &[]).await;
    assert_eq!(served.error.map(|error| error.code), Some(ErrorCode::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn returns_bulk_data_of_several_streams_through_windows_of_every_size() {
    let small =
        Config { initial_stream_window: 65_535, connection_window: 65_535, growth_budget: 0, ..Config::default() };
    for (config, [streams, length, window, frame]) in [
        (Config::default(), [8, 3_000_000, 65_535, 16_384]),
        (Config::default(), [8, 3_000_000, 1 << 20, 1 << 20]),
        (small.clone(), [8, 500_000, 10_000, 16_384]),
        (small, [3, 1_000, 1, 16_384]),
    ] {
        let served = visit(config, "bulk", &[streams, length, window, frame]).await;
        assert_eq!(served.echo.received, (streams * length) as usize);
    }
}

#[tokio::test]
async fn grows_windows_by_what_nghttp2s_answers_to_its_pings_tell() {
    let served = visit(Config::default(), "upload", &[10_000_000]).await;
    assert_eq!(served.echo.received, 10_000_000);
    assert!(served.frames.with(kind::PING, flag::ACK).count() > 0);
}

#[tokio::test]
async fn reads_padded_frames() {
    // To lengths of a multiple of eight, and as far as it goes (Node.js' PADDING_STRATEGY_ALIGNED and _MAX).
    for strategy in [1, 2] {
        let served = visit(Config::default(), "padding", &[strategy]).await;
        for kind in [kind::HEADERS, kind::DATA] {
            assert!(served.frames.with(kind, flag::PADDED).count() > 0, "no frame of type {kind} was padded");
        }
    }
}

#[tokio::test]
async fn passes_half_closes_on() {
    let served = visit(Config::default(), "halfCloses", &[]).await;
    assert_eq!(served.echo.received, "hello".len() + "and goodbye".len() + 1_000_000);
}

#[tokio::test]
async fn refuses_in_the_ways_of_a_server() {
    visit(Config::default(), "refusals", &[]).await;
}

#[tokio::test]
async fn resets_streams() {
    visit(Config::default(), "resetsByTheServer", &[]).await;
}

#[tokio::test]
async fn learns_of_resets() {
    visit(Config::default(), "resetsByTheClient", &[]).await;
}

#[tokio::test]
async fn lets_streams_finish_while_it_drains() {
    visit(Config::default(), "goawayByTheServer", &[]).await;
}

#[tokio::test]
async fn lets_streams_finish_of_a_client_that_goes_away() {
    let served = visit(Config::default(), "goawayByTheClient", &[]).await;
    assert!(served.echo.connection.is_going_away());
    assert_eq!(served.echo.received, 500_000);
}

#[tokio::test]
async fn answers_pings() {
    visit(Config::default(), "pings", &[]).await;
}

#[tokio::test]
async fn follows_settings_that_change_while_bytes_flow() {
    let served = visit(Config::default(), "settings", &[]).await;
    assert!(served.frames.with(kind::SETTINGS, 0).filter(|frame| frame.flags & flag::ACK == 0).count() >= 10);
}

#[tokio::test]
async fn keeps_a_client_to_its_limit() {
    let served = visit(Config { max_concurrent_streams: 3, ..Config::default() }, "manyStreams", &[]).await;
    assert_eq!(served.echo.most_active, 3);
}

#[tokio::test]
async fn ignores_priorities() {
    visit(Config::default(), "priorities", &[]).await;
}
