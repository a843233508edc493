//! HTTP through the waypoint.

use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::AppProtocol;
use weft_waypoint::Limits;

use crate::world::{Body, World};

pub fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Says what it was asked.
pub async fn echo(request: Request<Incoming>) -> Response<Body> {
    let mut said = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        said.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("?")));
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    said.push_str(&String::from_utf8_lossy(&body));
    Response::new(text(said))
}

#[tokio::test]
async fn a_request_reaches_the_endpoint_through_two_tunnels_and_says_who_called() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, echo);
    let answer = world
        .raw(
            address,
            "GET /a/../b?c HTTP/1.1\r\nHost: web\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-Client-Cert: URI=forged\r\n\
             Connection: close, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /b?c\n"), "{answer}");
    assert!(answer.contains("host: web\n") && answer.contains("x-kept: 2\n"), "{answer}");
    assert!(answer.contains("forwarded: for=\"127.90."), "{answer}");
    assert!(answer.contains(";URI=spiffe://cluster.local/ns/shop/sa/cart\n"), "{answer}");
    assert!(!answer.contains("1.2.3.4") && !answer.contains("forged") && !answer.contains("x-hop"), "{answer}");
    let record = world.record().await;
    assert_eq!((record.status, record.attempts, record.flags), (Some(StatusCode::OK), 1, "-"));
    assert_eq!(record.endpoint.expect("it was chosen").name, "web-1".into());
    assert_eq!(record.client.identity.service_account(), "cart");
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, echo);
    let cases = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n",
        "GET /%2e%2e/%2e%2e/etc HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /a%2fb HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ];
    for case in cases {
        let answer = world.raw(address, case).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{case:?}: {answer}");
        assert!(!answer.contains("smuggled"), "{case:?}: {answer}");
    }
}

#[tokio::test]
async fn old_clients_heads_and_chunks_are_served() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, echo);
    let answer = world.raw(address, "GET /old HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.contains("host: web.shop.svc"), "{answer}");
    let answer = world.raw(address, "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("content-length: "), "{answer}");
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let answer = world.raw(address, chunked).await;
    assert!(answer.ends_with("hello world"), "{answer}");
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_the_connection() {
    let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
    let mut world = World::with(limits).await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, echo);
    // The first line is complete, so that HTTP it is; the head is not.
    let answer = world.raw(address, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow").await;
    assert!(!answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn grpc_keeps_its_trailers_over_http2() {
    let mut world = World::new().await;
    let address = world.service("grpc", AppProtocol::Grpc);
    world.http("grpc-1", "grpc", true, |request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let trailers = [("grpc-status", "7"), ("grpc-message", "no")];
        let trailers = trailers.map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        let frames = vec![Ok(Frame::data(body)), Ok(Frame::trailers(trailers.into_iter().collect()))];
        let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync());
        response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
        response
    });
    let socket = world.connect(address).await.expect("the waypoint takes it");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2");
    world.servers.spawn(async move { drop(connection.await) });
    let request = Request::post("http://grpc/shop.Cart/Add")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x01a")))
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    assert_eq!(answer.trailers().expect("they came")["grpc-status"], "7");
    assert_eq!(answer.to_bytes(), b"\0\0\0\0\x01a".as_slice());
    let record = world.record().await;
    assert_eq!((record.is_grpc, record.grpc_status, record.request_bytes), (true, Some(7), 6));
}

#[tokio::test]
async fn an_http2_client_is_served_by_an_http1_server() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, echo);
    let socket = world.connect(address).await.expect("the waypoint takes it");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2");
    world.servers.spawn(async move { drop(connection.await) });
    let request = Request::get("http://web.example/a").body(Empty::<Bytes>::new()).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("GET /a\n") && body.contains("host: web.example\n"), "{body}");
}

#[tokio::test]
async fn an_upgrade_goes_through_and_bytes_pass_both_ways() {
    let mut world = World::new().await;
    let address = world.service("ws", AppProtocol::Http);
    world.http("ws-1", "ws", false, |mut request: Request<Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        let upgrading = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrading.await.expect("an upgrade"));
            let mut said = [0; 4];
            io.read_exact(&mut said).await.expect("the client speaks");
            said.reverse();
            io.write_all(&said).await.expect("the client listens");
            io.shutdown().await.expect("the client listens");
        });
        let head = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        head.body(text("")).expect("an answer")
    });
    let asked = "GET /ws HTTP/1.1\r\nHost: ws\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\nping";
    let answer = world.raw(address, asked).await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\ngnip"), "{answer}");
}

#[tokio::test]
async fn a_server_is_asked_before_an_announced_body_is_sent() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, |request: Request<Incoming>| async move {
        match request.uri().path() {
            "/no" => Response::builder().status(417).body(text("")).expect("an answer"),
            _ => echo(request).await,
        }
    });
    let mut socket = world.connect(address).await.expect("the waypoint takes it");
    let head =
        "POST /yes HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    socket.write_all(head.as_bytes()).await.expect("it listens");
    let mut said = [0; 25];
    socket.read_exact(&mut said).await.expect("an interim answer");
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"hello").await.expect("it listens");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
    let answer = world.raw(address, &head.replace("/yes", "/no")).await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "no body was asked for: {answer}");
}

#[tokio::test]
async fn a_large_body_is_held_up_by_its_reader_and_arrives_whole() {
    const SIZE: usize = 16 << 20;
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, |request: Request<Incoming>| async move {
        let mut body = request.into_body();
        let (mut length, mut sum) = (0_usize, 0_u64);
        while let Some(frame) = body.frame().await {
            let frame = frame.expect("the client goes on");
            let data = frame.data_ref().expect("no trailers");
            length += data.len();
            sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        Response::new(text(format!("{length} {sum}")))
    });
    let mut socket = world.connect(address).await.expect("the waypoint takes it");
    let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("it listens");
    let piece: Vec<u8> = (0..1 << 16).map(|at| (at % 251) as u8).collect();
    for _ in 0..SIZE / piece.len() {
        socket.write_all(&piece).await.expect("it listens");
    }
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    let sum = piece.iter().map(|byte| u64::from(*byte)).sum::<u64>() * (SIZE / piece.len()) as u64;
    assert!(answer.ends_with(&format!("{SIZE} {sum}")), "{answer}");
    assert_eq!(world.record().await.request_bytes, SIZE as u64);
}

#[tokio::test]
async fn when_it_drains_requests_under_way_are_finished_and_connections_closed() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    let (reached, mut is_reached) = tokio::sync::mpsc::unbounded_channel();
    world.http("web-1", "web", false, move |_| {
        let reached = reached.clone();
        async move {
            reached.send(()).expect("the test waits");
            tokio::time::sleep(Duration::from_millis(300)).await;
            Response::new(text("late"))
        }
    });
    let mut idle = world.connect(address).await.expect("the waypoint takes it");
    let mut busy = world.connect(address).await.expect("the waypoint takes it");
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("it listens");
    is_reached.recv().await.expect("the request arrives");
    assert!(world.waypoint.drain(Duration::from_secs(20)).await, "nothing is left");
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("late"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(idle.read(&mut [0; 1]).await.expect("an end"), 0);
}
