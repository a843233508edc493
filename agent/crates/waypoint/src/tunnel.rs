//! A client's tunnel: TLS, HTTP/2, and the connections in it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::{Method, Request, Response, StatusCode};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use weft_model::AppProtocol;

use crate::options::Limits;
use crate::record::{Client, ConnectionEnd, ConnectionRecord};
use crate::relay;
use crate::scope::{self, Target};
use crate::service::{self, Flow};
use crate::sniff::{Spoken, sniff};
use crate::stream::TunnelStream;
use crate::worker::Worker;

/// How often the other end of a tunnel is asked whether it is there.
const PING: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const PONG: Duration = Duration::from_secs(20);
/// Streams that the peer has reset and that are remembered: more of them at once is a flood.
const RESETS: usize = 64;
/// Bytes of a CONNECT's headers.
const CONNECT_HEAD: u32 = 16 << 10;
/// Connections of a tunnel that has failed end by themselves; this is for what does not.
const LAST: Duration = Duration::from_secs(5);

/// Sets what all of the mesh's connections have.
pub(crate) fn tune(socket: &TcpStream) {
    let idle = Duration::from_secs(180);
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(idle).with_retries(9);
    // Without them the connection works all the same.
    let _ = socket.set_nodelay(true);
    let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// Completes when the other end of a tunnel does not answer any more.
pub(crate) async fn silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING).await;
        if !matches!(timeout(PONG, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Until a certificate has expired.
pub(crate) fn remaining(not_after: SystemTime) -> Duration {
    not_after.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Serves one tunnel until it ends.
pub(crate) async fn serve(worker: Arc<Worker>, socket: TcpStream, peer: SocketAddr) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let limits = &worker.shared.options.limits;
    tune(&socket);
    let Some(tls) = worker.shared.parts.certificates.current(&worker.shared.options.identity) else {
        tracing::warn!(%peer, "a tunnel is refused: there is no certificate of this waypoint");
        return;
    };
    let shaking = async {
        let secured = tls.accept_stream(socket).await.map_err(|error| error.to_string())?;
        let http2 = http2(limits).handshake::<_, Bytes>(secured.stream).await;
        let http2 = http2.map_err(|error| format!("HTTP/2: {error}"))?;
        Ok::<_, String>((http2, secured.peer, secured.peer_not_after))
    };
    let (mut http2, identity, not_after) = match timeout(limits.handshake, shaking).await {
        Ok(Ok(established)) => established,
        Ok(Err(reason)) => return tracing::debug!(%peer, reason, "a tunnel could not be made"),
        Err(_) => return tracing::debug!(%peer, "a tunnel did not stand in time"),
    };
    let client = Arc::new(Client { identity, address: peer });
    let mut ending = worker.ending();
    let mut is_ending = false;
    let mut streams = JoinSet::new();
    let mut silent = std::pin::pin!(silent(http2.ping_pong()));
    let mut expired = std::pin::pin!(sleep(remaining(not_after)));
    loop {
        tokio::select! {
            biased;
            () = ending.draining(), if !is_ending => {
                is_ending = true;
                http2.graceful_shutdown();
            }
            () = &mut expired, if !is_ending => {
                tracing::debug!(%peer, "the client's certificate has expired: its tunnel takes no more connections");
                is_ending = true;
                http2.graceful_shutdown();
            }
            Some(_) = streams.join_next() => {}
            () = &mut silent => {
                tracing::debug!(%peer, "the tunnel's other end does not answer any more");
                break;
            }
            accepted = http2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(connect(Arc::clone(&worker), Arc::clone(&client), request, respond));
                }
                Some(Err(error)) => {
                    tracing::debug!(%peer, %error, "the tunnel failed");
                    break;
                }
                None => break,
            }
        }
    }
    drop(http2);
    let _ = timeout(LAST, async { while streams.join_next().await.is_some() {} }).await;
}

/// HTTP/2 within bounds. The whole tunnel's window is that of all its streams, so that none of them waits for another.
fn http2(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits.window)
        .initial_connection_window_size(limits.window.saturating_mul(limits.streams).min(i32::MAX as u32))
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(CONNECT_HEAD)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(RESETS))
        .max_frame_size(64 << 10)
        .max_send_buffer_size(limits.window as usize);
    builder
}

/// One connection of a client.
async fn connect(
    worker: Arc<Worker>,
    client: Arc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let started = Instant::now();
    let state = worker.shared.parts.state.load();
    let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
    let admitted = match *request.method() {
        Method::CONNECT => scope::admit(&worker.shared.options, &state.snapshot, authority),
        _ => return refuse(&mut respond, StatusCode::BAD_REQUEST),
    };
    let destination = match admitted {
        Ok(destination) => destination,
        Err(refusal) => {
            tracing::debug!(client = %client.address, identity = %client.identity, authority, "refused: {refusal}");
            return refuse(&mut respond, refusal.status);
        }
    };
    let (_, receive) = request.into_parts();
    let Ok(send) = respond.send_response(Response::new(()), false) else { return };
    let mut stream = TunnelStream::new(send, receive, None);
    let namespace = Some(client.identity.namespace());
    let table = match &destination.target {
        Target::Service(service) => {
            state.routes.table(&service.key, destination.address.port(), Some(&worker.shared.gateway), namespace)
        }
        Target::Workload(_) => None,
    };
    // Where requests are routed the client speaks first, or not at all.
    let is_declared = matches!(destination.protocol, AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc)
        || table.is_some_and(|table| table.has_requests());
    let has_tls = table.is_some_and(|table| table.has_tls());
    let is_tcp_route = table.is_some_and(|table| !table.has_requests() && table.find_tcp().is_some());
    let limits = &worker.shared.options.limits;
    let spoken = if is_declared {
        let mut ending = worker.ending();
        // Nothing was asked yet, and nothing will be: a client that keeps connections in store must not hold the end up.
        let begun = tokio::select! {
            biased;
            begun = timeout(limits.idle, stream.receive()) => begun.is_ok_and(|begun| matches!(begun, Ok(true))),
            () = ending.draining() => false,
        };
        if !begun {
            let _ = stream.shutdown().await;
            return;
        }
        sniff(&mut stream, limits.head, limits).await
    } else {
        let patience = if has_tls { limits.head } else { limits.silence };
        sniff(&mut stream, patience, limits).await
    };
    let spoken = match spoken {
        Ok(spoken) => spoken,
        Err(error) => {
            tracing::debug!(client = %client.address, %error, "a connection failed before anything was said on it");
            return stream.reset();
        }
    };
    match spoken {
        Spoken::Http1 | Spoken::Http2 if destination.protocol != AppProtocol::Tls && !is_tcp_route => {
            let flow = Flow::new(worker, client, destination);
            service::serve(Arc::new(flow), stream, spoken == Spoken::Http2).await;
        }
        // Where HTTP is declared and something else is spoken, routes and their policies cannot be applied.
        _ if is_declared && !is_tcp_route => {
            let snapshot = &state.snapshot;
            let ends = ConnectionEnd {
                source: snapshot.workload_by_address(client.address.ip()).cloned(),
                address: destination.address,
                service: match destination.target {
                    Target::Service(service) => Some(service),
                    Target::Workload(_) => None,
                },
                client,
                endpoint: None,
                endpoint_address: None,
            };
            stream.reset();
            worker.shared.parts.observer.closed(ConnectionRecord {
                ends,
                is_established: false,
                is_denied: false,
                from_client: 0,
                to_client: 0,
                duration: started.elapsed(),
                ended: SystemTime::now(),
                error: Some("the port is declared to speak HTTP, and the client speaks something else".into()),
            });
        }
        _ => relay::serve(&worker, client, destination, stream, spoken == Spoken::Tls, started).await,
    }
}

fn refuse(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // The client may be gone.
    let _ = respond.send_response(response, true);
}

/// The error of services that have none.
pub(crate) type Never = Infallible;
