//! Connections: TLS, HTTP/2, and which service a request is for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Method, Request, Response, header};
use weft_proto::certificate::istio_certificate_service_server::IstioCertificateServiceServer;
use weft_runtime::Shutdown;

use super::authenticate::{AuthenticationError, Authenticator, Caller};
use super::certify::Certifier;
use super::stream::{self, Counted, Counts, Surroundings};
use super::tls::ServerTls;
use super::{Limits, ServerParts};

const DISCOVERY: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// What a client may send ahead on one stream, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What is made ready for a client that does not read, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Requests of one connection at one time.
const MAX_STREAMS: u32 = 64;
/// Longest headers of a request.
const MAX_HEADERS: u32 = 32 * 1024;
/// A connection on which nothing arrives for this long is asked whether it is still there …
const ASK_AFTER: Duration = Duration::from_secs(30);
/// … and has this long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Pause when no connection can be accepted, for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests may go on when the server ends.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Largest request for a certificate.
const MAX_CERTIFICATE_REQUEST: usize = 64 * 1024;

/// What connections share.
struct Shared {
    authenticator: Arc<dyn Authenticator>,
    certifier: Option<IstioCertificateServiceServer<Certifier>>,
    tls: ServerTls,
    limits: Limits,
    surroundings: Surroundings,
}

/// Accepts connections until told to end, and sees them off.
pub(crate) async fn accept(listener: TcpListener, parts: ServerParts, counts: Arc<Counts>, mut shutdown: Shutdown) {
    let ServerParts { world, authenticator, certifier, tls, limits } = parts;
    let room = Arc::new(Semaphore::new(limits.connections));
    let certifier = certifier.map(|certifier| {
        IstioCertificateServiceServer::new(certifier).max_decoding_message_size(MAX_CERTIFICATE_REQUEST)
    });
    let resuming = Arc::new(Semaphore::new(limits.resuming.max(1)));
    let surroundings = Surroundings { world, counts, resuming, age: limits.stream_age, shutdown: shutdown.clone() };
    let shared = Arc::new(Shared { authenticator, certifier, tls, limits, surroundings });
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            let (tcp, peer) = listener.accept().await?;
            io::Result::Ok((permit, tcp, peer))
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => break,
            // Only to take what has ended out of the set.
            Some(_) = connections.join_next() => {}
            accepted = accepted => match accepted {
                Ok((permit, tcp, peer)) => {
                    connections.spawn(Arc::clone(&shared).serve(permit, tcp, peer, shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // The rest ends with the set.
    let _ = tokio::time::timeout(END_WITHIN, all_ended).await;
}

/// What a connection is used for.
#[derive(Default)]
pub(crate) struct Use {
    /// Some request had a good token.
    is_authenticated: AtomicBool,
    /// Requests that are being served.
    open: AtomicUsize,
}

/// One request that is being served.
pub(crate) struct Open(Arc<Use>);

impl Open {
    fn new(usage: &Arc<Use>) -> Self {
        usage.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(usage))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    async fn serve(
        self: Arc<Self>,
        _room: OwnedSemaphorePermit,
        tcp: TcpStream,
        peer: SocketAddr,
        mut shutdown: Shutdown,
    ) {
        let _counted = Counted::new(&self.surroundings.counts, |counts| &counts.connections);
        // Small messages must not wait for each other; without it they only come later.
        let _ = tcp.set_nodelay(true);
        let stream = match tokio::time::timeout(self.limits.handshake, self.tls.acceptor().accept(tcp)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "a TLS handshake took too long");
                return;
            }
        };
        let usage = Arc::new(Use::default());
        let service = service_fn(|request| {
            let (shared, usage) = (Arc::clone(&self), Arc::clone(&usage));
            async move { Ok::<_, Infallible>(shared.answer(request, &usage, peer).await) }
        });
        // The tasks of requests end with their connection, whose end their streams report to them.
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(2 * STREAM_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(ASK_AFTER)
            .keep_alive_timeout(ANSWER_WITHIN)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut idle_since = Instant::now();
        let mut look = tokio::time::interval_at(
            Instant::now() + self.limits.handshake,
            self.limits.handshake.min(self.limits.idle),
        );
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "a connection failed");
                    }
                    return;
                }
                _ = look.tick() => {
                    if !usage.is_authenticated.load(Ordering::Relaxed) {
                        tracing::debug!(%peer, "a connection without a good token is closed");
                        return;
                    }
                    if usage.open.load(Ordering::Relaxed) > 0 {
                        idle_since = Instant::now();
                    } else if idle_since.elapsed() >= self.limits.idle {
                        break;
                    }
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(END_WITHIN, connection).await;
    }

    async fn answer(&self, mut request: Request<Incoming>, usage: &Arc<Use>, peer: SocketAddr) -> Response<Body> {
        let open = Open::new(usage);
        let is_grpc = request.method() == Method::POST
            && request
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !is_grpc {
            return Status::invalid_argument("this is no gRPC request").into_http();
        }
        let caller = match self.authenticate(&request).await {
            Ok(caller) => caller,
            Err(status) => {
                self.surroundings.counts.unauthenticated.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(target: "audit", %peer, reason = status.message(), "a caller was refused");
                return status.into_http();
            }
        };
        usage.is_authenticated.store(true, Ordering::Relaxed);
        match (request.uri().path(), &self.certifier) {
            (DISCOVERY, _) => {
                let body = stream::open(request.into_body(), caller, self.surroundings.clone(), open);
                let mut response = Response::new(Body::new(body));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                response
            }
            (CERTIFICATE, Some(certifier)) => {
                request.extensions_mut().insert(caller);
                let Ok(response) = certifier.clone().call(request).await;
                response
            }
            (path, _) => Status::unimplemented(format!("{path:.200} is not served here")).into_http(),
        }
    }

    async fn authenticate(&self, request: &Request<Incoming>) -> Result<Caller, Status> {
        let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = value.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(Status::unauthenticated("there is no bearer token"));
        };
        self.authenticator.authenticate(token.trim()).await.map_err(|error| match error {
            AuthenticationError::Refused(reason) => Status::unauthenticated(reason),
            AuthenticationError::Unavailable(reason) => Status::unavailable(reason),
        })
    }
}
