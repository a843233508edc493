//! HTTP connections to endpoints, kept for the next request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use weft_model::Upstream;

use super::{ConnectError, Upstreams};
use crate::body::RequestBody;
use crate::group::Group;
use crate::options::Limits;
use crate::stream::Counted;

/// Requests of one connection of HTTP/2 at one time: what servers take at least, as a rule. The next go into another.
const REQUESTS: usize = 100;

/// Whose connections they are. Those to another instance of a pod, or to another workload that took its address over,
/// are others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: Arc<str>,
    instance: Arc<str>,
    address: SocketAddr,
    service: Option<Arc<str>>,
    is_http2: bool,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

#[derive(Clone)]
struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    requests: Arc<AtomicUsize>,
}

/// The connections to one endpoint.
struct Place {
    idle: Vec<Idle>,
    shared: Vec<Multiplexed>,
    /// Whose turn it is to make another connection of HTTP/2, which the others then share.
    turn: Arc<Semaphore>,
    used: Instant,
}

type Places = Arc<Mutex<HashMap<Key, Place>>>;

/// All HTTP connections of a worker.
pub(crate) struct Connections {
    limits: Limits,
    group: Group,
    places: Places,
    swept: Mutex<Instant>,
}

/// A connection of HTTP/1 that is free once its answer is complete, or a place in one of HTTP/2.
pub(crate) enum Returning {
    One { places: Home, sender: http1::SendRequest<RequestBody>, limit: usize },
    Shared { _counted: Counted },
}

/// Where a connection goes back to.
pub(crate) struct Home {
    places: Places,
    key: Key,
}

impl Returning {
    /// The answer is complete.
    pub(crate) fn give_back(self) {
        if let Self::One { places: Home { places, key }, sender, limit } = self
            && !sender.is_closed()
        {
            let now = Instant::now();
            let mut places = lock(&places);
            let place = places.entry(key).or_insert_with(|| Place::new(now));
            place.used = now;
            if place.idle.len() < limit {
                place.idle.push(Idle { sender, since: now });
            }
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// There was no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection failed, or broke its protocol.
    #[error("{0}")]
    Http(hyper::Error),
}

impl SendError {
    /// Whether the client's own body failed: no fault of the endpoint's.
    pub(crate) fn is_clients(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_user())
    }
}

impl Place {
    fn new(now: Instant) -> Self {
        Self { idle: Vec::new(), shared: Vec::new(), turn: Arc::new(Semaphore::new(1)), used: now }
    }
}

impl Connections {
    pub(super) fn new(limits: Limits, group: Group) -> Self {
        Self { limits, group, places: Places::default(), swept: Mutex::new(Instant::now()) }
    }

    /// Closes what was idle for too long, from time to time.
    fn sweep(&self, now: Instant) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(*swept) < self.limits.pooled_for / 4 {
            return;
        }
        *swept = now;
        let keep = self.limits.pooled_for;
        lock(&self.places).retain(|_, place| {
            place.idle.retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < keep);
            let is_unused = now.duration_since(place.used) >= keep;
            place.shared.retain(|shared| {
                let is_in_use = !is_unused || shared.requests.load(Ordering::Relaxed) > 0;
                is_in_use && !shared.sender.is_closed()
            });
            !(place.idle.is_empty() && place.shared.is_empty() && is_unused)
        });
    }

    /// An idle connection of HTTP/1, the one that was used last.
    fn take(&self, key: &Key) -> Option<http1::SendRequest<RequestBody>> {
        let mut places = lock(&self.places);
        let place = places.get_mut(key)?;
        place.idle.retain(|idle| !idle.sender.is_closed());
        let ready = place.idle.iter().rposition(|idle| idle.sender.is_ready())?;
        Some(place.idle.remove(ready).sender)
    }

    /// A connection of HTTP/2 with room for one more request.
    fn share(&self, key: &Key) -> Option<(http2::SendRequest<RequestBody>, Counted)> {
        let mut places = lock(&self.places);
        let place = places.get_mut(key)?;
        place.used = Instant::now();
        place.shared.retain(|shared| !shared.sender.is_closed());
        let has_room = |shared: &&Multiplexed| shared.requests.load(Ordering::Relaxed) < REQUESTS;
        let shared = place.shared.iter().find(has_room)?;
        Some((shared.sender.clone(), Counted::new(&shared.requests)))
    }
}

impl Upstreams {
    /// Sends a request, whose form is HTTP/1's (path, `host`), and waits for the head of its answer.
    ///
    /// A kept connection may turn out to have been closed by the endpoint. What was not answered at all is then sent
    /// anew, once, on a new one: if nothing of it was sent, or if it may be sent twice (RFC 9110, 9.2.2) and has no body.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn send(
        &self,
        upstream: &Upstream,
        is_http2: bool,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Returning), SendError> {
        self.connections.sweep(Instant::now());
        let key = Key {
            uid: Arc::clone(&upstream.workload.uid),
            instance: Arc::clone(&upstream.workload.instance),
            address: upstream.address,
            service: upstream.service.as_ref().map(|service| Arc::clone(&service.key)),
            is_http2,
        };
        match is_http2 {
            true => self.send_shared(upstream, key, request).await,
            false => self.send_alone(upstream, key, request).await,
        }
    }

    async fn send_alone(
        &self,
        upstream: &Upstream,
        key: Key,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Returning), SendError> {
        let mut request = request;
        if let Some(mut sender) = self.connections.take(&key) {
            let again = copy_if_repeatable(&request);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, self.returning(key, sender))),
                Err(mut failure) => match failure.take_message().or(again) {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::Http(failure.into_error())),
                },
            }
        }
        let pipe = self.connect(upstream, None).await?;
        let handshake = http1::Builder::new()
            .max_headers(256)
            .handshake::<_, RequestBody>(TokioIo::new(pipe))
            .await
            .map_err(|error| ConnectError::Http(upstream.address, error))?;
        let (mut sender, connection) = handshake;
        self.connections.group.spawn(async move {
            // Its failure is that of the request on it.
            let _ = connection.with_upgrades().await;
        });
        let response = sender.send_request(request).await.map_err(SendError::Http)?;
        Ok((response, self.returning(key, sender)))
    }

    fn returning(&self, key: Key, sender: http1::SendRequest<RequestBody>) -> Returning {
        let places = Home { places: Arc::clone(&self.connections.places), key };
        Returning::One { places, sender, limit: self.connections.limits.pooled }
    }

    async fn send_shared(
        &self,
        upstream: &Upstream,
        key: Key,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Returning), SendError> {
        let mut request = request;
        if let Some((mut sender, counted)) = self.connections.share(&key) {
            let again = copy_if_repeatable(&request);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Returning::Shared { _counted: counted })),
                Err(mut failure) => match failure.take_message() {
                    Some(unsent) => request = unsent,
                    // A reset of this one request is an answer of sorts; a connection that is gone is none.
                    None if sender.is_closed() => match again {
                        Some(again) => request = again,
                        None => return Err(SendError::Http(failure.into_error())),
                    },
                    None => return Err(SendError::Http(failure.into_error())),
                },
            }
        }
        let (mut sender, counted) = self.connection(upstream, &key).await?;
        let response = sender.send_request(request).await.map_err(SendError::Http)?;
        Ok((response, Returning::Shared { _counted: counted }))
    }

    /// A connection of HTTP/2: another's, if it has come to stand meanwhile.
    async fn connection(
        &self,
        upstream: &Upstream,
        key: &Key,
    ) -> Result<(http2::SendRequest<RequestBody>, Counted), ConnectError> {
        let turn = {
            let mut places = lock(&self.connections.places);
            let place = places.entry(key.clone()).or_insert_with(|| Place::new(Instant::now()));
            Arc::clone(&place.turn)
        };
        // It is never closed.
        let _turn = turn.acquire().await;
        if let Some(found) = self.connections.share(key) {
            return Ok(found);
        }
        let pipe = self.connect(upstream, None).await?;
        let limits = &self.shared.options.limits;
        let (sender, connection) = http2::Builder::new(self.connections.group.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.window)
            .initial_connection_window_size(limits.window.saturating_mul(64))
            .max_header_list_size(limits.head_bytes as u32)
            .handshake::<_, RequestBody>(TokioIo::new(pipe))
            .await
            .map_err(|error| ConnectError::Http(upstream.address, error))?;
        self.connections.group.spawn(async move {
            let _ = connection.await;
        });
        let shared = Multiplexed { sender: sender.clone(), requests: Arc::default() };
        let counted = Counted::new(&shared.requests);
        let now = Instant::now();
        let mut places = lock(&self.connections.places);
        let place = places.entry(key.clone()).or_insert_with(|| Place::new(now));
        place.used = now;
        place.shared.push(shared);
        Ok((sender, counted))
    }
}

fn lock(places: &Places) -> MutexGuard<'_, HashMap<Key, Place>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same request again, if it may be sent twice.
fn copy_if_repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let is_safe_twice = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    if !is_safe_twice || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
