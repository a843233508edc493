//! Our server, an `h2` client.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client};
use http::{Method, Request, StatusCode};
use tokio::task::JoinSet;

use super::*;

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).expect("a valid request")
}

/// A connection to an echo server.
async fn client(
    pipe: usize,
    config: Config,
    builder: client::Builder,
) -> (client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>, tokio::task::JoinHandle<Served>) {
    let (near, far) = tokio::io::duplex(pipe);
    let server = tokio::spawn(serve(far, config));
    let (requests, connection) = builder.handshake(near).await.expect("a handshake");
    (requests, tokio::spawn(connection), server)
}

async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end_stream: bool) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let capacity = capacity.expect("an open stream").expect("a connection");
        let part = bytes.split_to(capacity.min(bytes.len()));
        stream.send_data(part, end_stream && bytes.is_empty()).expect("an open stream");
    }
}

async fn receive_all(stream: &mut RecvStream) -> Vec<u8> {
    let mut received = Vec::new();
    while let Some(part) = stream.data().await {
        let part = part.expect("no error");
        stream.flow_control().release_capacity(part.len()).expect("no more than was received");
        received.extend_from_slice(&part);
    }
    received
}

/// Sends and receives at the same time, and compares.
async fn echo(requests: &mut client::SendRequest<Bytes>, length: usize) {
    let mut requests = requests.clone().ready().await.expect("a connection");
    let (response, mut outgoing) = requests.send_request(connect("10.0.0.1:80"), false).expect("a stream");
    let response = response.await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    let mut incoming = response.into_body();
    let sent = content(length);
    let bytes = Bytes::from(sent.clone());
    let sending = tokio::spawn(async move { send_all(&mut outgoing, bytes, true).await });
    assert!(receive_all(&mut incoming).await == sent, "{length} bytes came back differently");
    sending.await.expect("it was all sent");
}

#[tokio::test]
async fn returns_large_bodies() {
    for pipe in PIPES {
        for window in [65_535, 1 << 20] {
            let mut builder = client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(1 << 20).max_frame_size(1 << 20);
            let (mut requests, ..) = client(pipe, Config::default(), builder).await;
            let length = if pipe < 100 { 300_000 } else { 10_000_000 };
            echo(&mut requests, length).await;
        }
    }
}

#[tokio::test]
async fn carries_many_streams_at_once() {
    let (requests, ..) = client(64 * 1024, Config::default(), client::Builder::new()).await;
    let mut streams = JoinSet::new();
    for index in 0..1000 {
        let mut requests = requests.clone();
        streams.spawn(async move { echo(&mut requests, 1 + index * 100).await });
    }
    while let Some(result) = streams.join_next().await {
        result.expect("each comes back");
    }
}

#[tokio::test]
async fn keeps_a_client_to_its_limit() {
    let config = Config { max_concurrent_streams: 2, ..Config::default() };
    let (requests, ..) = client(1000, config, client::Builder::new()).await;
    // The limit is known once there is an answer.
    echo(&mut requests.clone(), 1).await;
    let mut streams = JoinSet::new();
    for _ in 0..20 {
        let mut requests = requests.clone();
        streams.spawn(async move { echo(&mut requests, 10_000).await });
    }
    while let Some(result) = streams.join_next().await {
        result.expect("all get their turn");
    }
}

#[tokio::test]
async fn passes_half_closes_on() {
    let (mut requests, ..) = client(1000, Config::default(), client::Builder::new()).await;
    let (response, mut outgoing) = requests.send_request(connect("10.0.0.1:80"), false).expect("a stream");
    let mut incoming = response.await.expect("a response").into_body();
    outgoing.send_data("hello".into(), false).expect("an open stream");
    let first = incoming.data().await.expect("open").expect("no error");
    assert_eq!(first, "hello");
    assert!(!incoming.is_end_stream());
    // An empty frame ends it.
    outgoing.send_data(Bytes::new(), true).expect("an open stream");
    assert!(receive_all(&mut incoming).await.is_empty());
    assert!(incoming.is_end_stream());
}

#[tokio::test]
async fn answers_a_client_that_says_nothing() {
    let (mut requests, ..) = client(1000, Config::default(), client::Builder::new()).await;
    let (response, _) = requests.send_request(connect("10.0.0.1:80"), true).expect("a stream");
    let mut incoming = response.await.expect("a response").into_body();
    assert!(receive_all(&mut incoming).await.is_empty());
}

#[tokio::test]
async fn refuses_in_the_ways_of_a_server() {
    let (requests, ..) = client(1000, Config::default(), client::Builder::new()).await;
    let get = Request::builder().uri("http://a/").body(()).expect("a valid request");
    for (request, status) in [(get, 400), (connect("refuse.test:1"), 503)] {
        let mut requests = requests.clone().ready().await.expect("a connection");
        let (response, _) = requests.send_request(request, true).expect("a stream");
        assert_eq!(response.await.expect("a response").status().as_u16(), status);
    }
    let mut requests = requests.ready().await.expect("a connection");
    let (response, _stream) = requests.send_request(connect("reset.test:1"), false).expect("a stream");
    assert_eq!(response.await.expect_err("a reset").reason(), Some(Reason::CONNECT_ERROR));
}

#[tokio::test]
async fn learns_of_resets() {
    let (mut requests, connection, server) = client(1000, Config::default(), client::Builder::new()).await;
    for _ in 0..100 {
        requests = requests.ready().await.expect("a connection");
        let (response, mut outgoing) = requests.send_request(connect("10.0.0.1:80"), false).expect("a stream");
        response.await.expect("a response");
        outgoing.send_data("hello".into(), false).expect("an open stream");
        outgoing.send_reset(Reason::CANCEL);
    }
    echo(&mut requests, 10).await;
    drop(requests);
    connection.await.expect("no panic").expect("no error");
    let Served { echo, error, .. } = server.await.expect("no panic");
    assert_eq!(error, None);
    assert_eq!((echo.connection.active_streams(), echo.connection.unreleased()), (0, 0));
}

#[tokio::test]
async fn reads_large_and_repeated_headers() {
    let config = Config { max_header_list_size: 64 * 1024, ..Config::default() };
    for pipe in PIPES {
        // A small table makes h2 evict and resize.
        for table in [0, 200, 4096, 65_536] {
            let config = Config { header_table_size: table, ..config.clone() };
            let (requests, ..) = client(pipe, config, client::Builder::new()).await;
            for index in 0..30 {
                let mut requests = requests.clone().ready().await.expect("a connection");
                let mut request = connect("10.0.0.1:80");
                // The longest takes CONTINUATION frames. The alphabet has long and short Huffman codes.
                let alphabet: Vec<char> = (' '..='~').filter(|letter| *letter != ' ').collect();
                let length = if index == 7 { 40_000 } else { index * 7 };
                let baggage: String = (0..length).map(|at| alphabet[(at * 31 + index) % alphabet.len()]).collect();
                request.headers_mut().insert("baggage", baggage.parse().expect("printable"));
                let (response, _) = requests.send_request(request, true).expect("a stream");
                let response = response.await.expect("a response");
                assert_eq!(response.headers().get("baggage").map(|value| value.as_bytes()), Some(baggage.as_bytes()));
            }
        }
    }
}

#[tokio::test]
async fn lets_streams_finish_while_it_drains() {
    let (near, far) = tokio::io::duplex(1000);
    let (told, tell) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve_until(far, Config::default(), async {
        tell.await.expect("the test tells");
    }));
    let (mut requests, connection) = client::Builder::new().handshake::<_, Bytes>(near).await.expect("a handshake");
    let connection = tokio::spawn(connection);
    let (response, mut outgoing) = requests.send_request(connect("10.0.0.1:80"), false).expect("a stream");
    let mut incoming = response.await.expect("a response").into_body();
    told.send(()).expect("the server waits for it");
    // Until h2 knows, requests may still come through, and none may fail otherwise.
    let error = loop {
        match requests.clone().ready().await {
            Err(error) => break error,
            Ok(mut requests) => match requests.send_request(connect("10.0.0.1:80"), true) {
                Err(error) => break error,
                Ok((response, _)) => match response.await {
                    Ok(response) => assert_eq!(response.status(), StatusCode::OK),
                    Err(error) => break error,
                },
            },
        }
    };
    assert!(error.is_go_away() && error.is_remote(), "{error:?}");
    assert_eq!(error.reason(), Some(Reason::NO_ERROR));
    // The stream from before goes on to its end.
    send_all(&mut outgoing, content(100_000).into(), true).await;
    assert!(receive_all(&mut incoming).await == content(100_000));
    connection.await.expect("no panic").expect("a graceful end");
    assert_eq!(server.await.expect("no panic").echo.connection.active_streams(), 0);
}
