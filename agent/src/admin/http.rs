//! An HTTP/1.1 server for few, short answers, that no client can hold up.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use weft_runtime::Shutdown;

use super::Answer;

/// Connections to one server over TCP. Further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 64;
/// Connections over the Unix socket: each pod that starts holds one until it is captured, and an operator who wants to
/// know why that takes so long must find room beside a node full of them.
const MAX_UNIX_CONNECTIONS: usize = 1024;
/// How long a request's head may take to arrive, and a connection may be idle between two.
const HEAD: Duration = Duration::from_secs(5);
/// How large a request's head may be.
const MAX_HEAD: usize = 16 * 1024;
/// How large a request's body may be, and how long it may take.
const MAX_BODY: usize = 4 * 1024;
const BODY: Duration = Duration::from_secs(5);
/// How long one connection may last: a client that reads slowly cannot keep its place for longer.
const CONNECTION: Duration = Duration::from_secs(60);
/// How much longer the answer under way may take after that, or after the server was told to end.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// The pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) type Reply = Response<Full<Bytes>>;

/// Answers requests.
pub(super) trait Handler: Send + Sync + 'static {
    fn answer(&self, request: Request<Incoming>) -> Answer<'static, Reply>;
}

/// Where requests come from.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    fn max_connections(&self) -> usize {
        match self {
            Self::Unix(_) => MAX_UNIX_CONNECTIONS,
            Self::Tcp(_) => MAX_CONNECTIONS,
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
        }
    }
}

/// Serves until `shutdown`, then lets the answers under way finish.
pub(super) async fn serve(listener: Listener, handler: Arc<dyn Handler>, mut shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < listener.max_connections();
        tokio::select! {
            // The end comes first. All three are cancel-safe.
            biased;
            () = shutdown.requested() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok(Stream::Unix(stream)) => {
                    connections.spawn(connection(stream, Arc::clone(&handler), shutdown.clone()));
                }
                Ok(Stream::Tcp(stream)) => {
                    connections.spawn(connection(stream, Arc::clone(&handler), shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection to a server of the agent");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: Arc<dyn Handler>,
    mut shutdown: Shutdown,
) {
    let service = service_fn(|request| {
        let answer = handler.answer(request);
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            // Of all routes one makes its connection something else.
            .with_upgrades()
    );
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        () = sleep(CONNECTION) => {}
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a client of a server of the agent");
            }
            return;
        }
    }
    connection.as_mut().graceful_shutdown();
    // Whoever has not read the answer by then does not get the rest.
    let _ = timeout(LAST_ANSWER, connection).await;
}

/// The body of a request.
///
/// # Errors
/// The answer to give: it is too large or too slow.
pub(super) async fn body(request: Request<Incoming>) -> Result<Bytes, Reply> {
    body_up_to(request, MAX_BODY).await
}

/// [`body`], where it may be of another size.
///
/// # Errors
/// The answer to give: it is too large or too slow.
pub(super) async fn body_up_to(request: Request<Incoming>, limit: usize) -> Result<Bytes, Reply> {
    let body = Limited::new(request.into_body(), limit);
    match timeout(BODY, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(failure(StatusCode::BAD_REQUEST, &format!("the request's body: {error}"))),
        Err(_) => Err(failure(StatusCode::REQUEST_TIMEOUT, "the request's body took too long")),
    }
}

/// Makes an answer on a thread of its own: a list of a large mesh takes long enough to hold up everything else that
/// the control runtime has to do.
pub(super) async fn aside(make: impl FnOnce() -> Reply + Send + 'static) -> Reply {
    match spawn_blocking(make).await {
        Ok(reply) => reply,
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &format!("making the answer: {error}")),
    }
}

/// An answer in JSON, indented for people.
pub(super) fn json(value: &impl Serialize) -> Reply {
    let mut body = match serde_json::to_vec_pretty(value) {
        Ok(body) => body,
        Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    body.push(b'\n');
    reply(StatusCode::OK, "application/json", body)
}

/// An answer that says what is wrong: `{"error": "…"}`.
pub(super) fn failure(status: StatusCode, error: &str) -> Reply {
    let body = format!("{}\n", serde_json::json!({ "error": error }));
    reply(status, "application/json", body)
}

/// Any answer.
pub(super) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
