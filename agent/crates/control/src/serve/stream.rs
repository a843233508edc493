//! One discovery stream: requests in, pushes out.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use prost_types::value::Kind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;
use weft_proto::discovery::DeltaDiscoveryRequest;
use weft_runtime::Shutdown;

use super::TAKES_PARTS;
use super::authenticate::Caller;
use super::connection::Open;
use super::push::Pieces;
use super::subscription::{Push, Subscription, SubscriptionError, Wish};
use super::world::World;
use crate::istio::{ADDRESS, AUTHORIZATION, ROUTE};

/// Bytes of a message to a client that puts parts together.
const PART_BUDGET: usize = 1 << 20;
/// Bytes of a message to one that does not: it gets all in one, since it takes the first message for the whole.
const WHOLE_BUDGET: usize = 1 << 30;
/// Longest request: what a client has, by name and version.
const MAX_REQUEST: usize = 64 << 20;
/// How long a client may take to say what it has before others get their turn.
const RESUME_WITHIN: Duration = Duration::from_secs(3);
/// How much of a client's words is logged.
const MAX_WORDS: usize = 1000;

/// What servers count.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub connections: AtomicU64,
    pub streams: AtomicU64,
    pub unauthenticated: AtomicU64,
    pushes: AtomicU64,
    resources: AtomicU64,
    refusals: AtomicU64,
    pub certificates: AtomicU64,
    pub certificate_refusals: AtomicU64,
}

/// What a server has done up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountsNow {
    /// Connections that are open.
    pub connections: u64,
    /// Discovery streams that are open.
    pub streams: u64,
    /// Requests without a good token.
    pub unauthenticated: u64,
    /// Messages sent.
    pub pushes: u64,
    /// Resources in them.
    pub resources: u64,
    /// Messages that clients refused.
    pub refusals: u64,
    /// Certificates that were granted.
    pub certificates: u64,
    /// Certificates that were refused.
    pub certificate_refusals: u64,
}

impl Counts {
    pub fn now(&self) -> CountsNow {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CountsNow {
            connections: load(&self.connections),
            streams: load(&self.streams),
            unauthenticated: load(&self.unauthenticated),
            pushes: load(&self.pushes),
            resources: load(&self.resources),
            refusals: load(&self.refusals),
            certificates: load(&self.certificates),
            certificate_refusals: load(&self.certificate_refusals),
        }
    }
}

/// Counts one thing for as long as it is there.
pub(crate) struct Counted {
    counts: Arc<Counts>,
    which: fn(&Counts) -> &AtomicU64,
}

impl Counted {
    pub fn new(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU64) -> Self {
        which(counts).fetch_add(1, Ordering::Relaxed);
        Self { counts: Arc::clone(counts), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.counts).fetch_sub(1, Ordering::Relaxed);
    }
}

/// What streams share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub world: Arc<World>,
    pub counts: Arc<Counts>,
    pub resuming: Arc<Semaphore>,
    pub age: Duration,
    pub shutdown: Shutdown,
}

/// A stream as the body of its response: it lives while the body is read, and goes on when there is room for more.
pub(crate) struct Body {
    pieces: mpsc::Receiver<Bytes>,
    stream: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
    end: Option<Status>,
}

/// Serves the stream that a request opened.
pub(crate) fn open(request: Incoming, caller: Caller, surroundings: Surroundings, open: Open) -> Body {
    let (sender, pieces) = mpsc::channel(1);
    let requests = Streaming::new_request(ProstDecoder::new(Default::default()), request, None, Some(MAX_REQUEST));
    let age = surroundings.age.mul_f64(0.9 + fastrand::f64() / 5.0);
    let stream = Stream {
        news: surroundings.world.news(),
        until: Instant::now() + age,
        requests,
        sender,
        caller,
        client: String::new(),
        takes_parts: false,
        sent: 0,
        addresses: Subscription::default(),
        policies: Subscription::default(),
        routes: Subscription::default(),
        _counted: Counted::new(&surroundings.counts, |counts| &counts.streams),
        _open: open,
        surroundings,
    };
    Body { pieces, stream: Some(Box::pin(stream.run())), end: None }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(stream) = &mut this.stream {
            if let Poll::Ready(Some(piece)) = this.pieces.poll_recv(cx) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Poll::Ready(status) = stream.as_mut().poll(cx) {
                (this.stream, this.end) = (None, Some(status));
            }
        }
        // What the stream has just put there, or had put there when it ended.
        match ready!(this.pieces.poll_recv(cx)) {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Ready(this.end.take().map(|status| {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers)?;
                Ok(Frame::trailers(trailers))
            })),
        }
    }
}

struct Stream {
    surroundings: Surroundings,
    caller: Caller,
    requests: Streaming<DeltaDiscoveryRequest>,
    sender: mpsc::Sender<Bytes>,
    news: watch::Receiver<u64>,
    until: Instant,
    /// What the client calls itself.
    client: String,
    takes_parts: bool,
    /// Messages sent.
    sent: u64,
    addresses: Subscription,
    policies: Subscription,
    routes: Subscription,
    _counted: Counted,
    _open: Open,
}

/// Why a stream ends.
enum End {
    /// The client is gone, or is to come again.
    Quietly,
    Told(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

impl From<SubscriptionError> for End {
    fn from(error: SubscriptionError) -> Self {
        Self::Told(match error {
            SubscriptionError::LeftBehind => Status::aborted(error.to_string()),
            SubscriptionError::TooMany => Status::resource_exhausted(error.to_string()),
            SubscriptionError::TooLong => Status::invalid_argument(error.to_string()),
        })
    }
}

impl Stream {
    async fn run(mut self) -> Status {
        let result = match self.begin().await {
            Ok(()) => self.serve().await,
            Err(end) => Err(end),
        };
        match result {
            Ok(()) | Err(End::Quietly) => Status::ok(""),
            Err(End::Told(status)) => {
                tracing::debug!(client = self.client, caller = %self.caller, %status, "a discovery stream ended");
                status
            }
        }
    }

    /// Hears what the client has. After an outage all clients tell it at the same time, and each has much to tell.
    async fn begin(&mut self) -> Result<(), End> {
        // Compared with nothing, all that it has would be gone.
        while !self.surroundings.world.read().is_ready {
            tokio::select! {
                biased;
                () = self.surroundings.shutdown.requested() => return Err(End::Quietly),
                changed = self.news.changed() => changed.map_err(|_| End::Quietly)?,
            }
        }
        let permit = Arc::clone(&self.surroundings.resuming).acquire_owned().await;
        let _turn: OwnedSemaphorePermit = permit.map_err(|error| Status::unavailable(error.to_string()))?;
        let both = async {
            while self.addresses.is_unasked() || self.policies.is_unasked() {
                let request = self.requests.message().await?.ok_or(End::Quietly)?;
                self.take(request)?;
            }
            Ok(())
        };
        // A client that wants one type only, or is slow: the others need not wait for it.
        tokio::time::timeout(RESUME_WITHIN, both).await.unwrap_or(Ok(()))
    }

    async fn serve(&mut self) -> Result<(), End> {
        loop {
            // What changes from here on is told of again.
            self.news.mark_unchanged();
            while let Some((push, type_url)) = self.next()? {
                self.send(push, type_url).await?;
                // A client for which there is always more is heard all the same.
                tokio::select! {
                    biased;
                    request = self.requests.message() => {
                        let Some(request) = request? else { return Err(End::Quietly) };
                        self.take(request)?;
                    }
                    () = std::future::ready(()) => {}
                }
            }
            tokio::select! {
                biased;
                () = self.surroundings.shutdown.requested() => return Err(End::Quietly),
                () = tokio::time::sleep_until(self.until) => return Err(End::Quietly),
                () = self.sender.closed() => return Err(End::Quietly),
                // Dropping it between messages loses nothing: what was read is kept in it.
                request = self.requests.message() => {
                    let Some(request) = request? else { return Err(End::Quietly) };
                    self.take(request)?;
                }
                changed = self.news.changed() => changed.map_err(|_| End::Quietly)?,
            }
        }
    }

    /// Takes a request in.
    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), End> {
        if let Some(node) = &request.node
            && self.client.is_empty()
        {
            self.client = node.id.chars().take(MAX_WORDS).collect();
            let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
            let parts = fields.and_then(|fields| fields.get(TAKES_PARTS)).and_then(|value| value.kind.as_ref());
            self.takes_parts = matches!(parts, Some(Kind::BoolValue(true)));
            tracing::debug!(client = self.client, caller = %self.caller, "a discovery stream began");
        }
        if let Some(error) = &request.error_detail {
            self.surroundings.counts.refusals.fetch_add(1, Ordering::Relaxed);
            let mut reason = String::new();
            // Cut, and without what would break a log's lines.
            let _ = write!(reason, "{}", error.message.chars().take(MAX_WORDS).collect::<String>().escape_debug());
            tracing::warn!(
                client = self.client,
                caller = %self.caller,
                type_url = request.type_url,
                nonce = request.response_nonce,
                reason,
                "an agent refused what it was sent; it goes on with what it had"
            );
        }
        let world = self.surroundings.world.read();
        let (subscription, catalog) = match &*request.type_url {
            ADDRESS => (&mut self.addresses, &world.addresses),
            AUTHORIZATION => (&mut self.policies, &world.policies),
            ROUTE if self.caller.is_waypoint => (&mut self.routes, &world.routes),
            ROUTE => return Err(Status::permission_denied("only waypoints are told of routes").into()),
            other => {
                return Err(
                    Status::invalid_argument(format!("resources of the type {other:.200} are not served")).into()
                );
            }
        };
        let is_answer = !request.response_nonce.is_empty();
        let says_nothing = request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty();
        if is_answer && says_nothing {
            return Ok(());
        }
        let wish = Wish {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            known: request.initial_resource_versions,
        };
        Ok(subscription.wish(catalog, wish)?)
    }

    /// What there is to say. Policies come first: what they forbid must not be reached for want of them.
    fn next(&mut self) -> Result<Option<(Push, &'static str)>, End> {
        let world = self.surroundings.world.read();
        let budget = if self.takes_parts { PART_BUDGET } else { WHOLE_BUDGET };
        if let Some(push) = self.policies.next(&world.policies, budget)? {
            return Ok(Some((push, AUTHORIZATION)));
        }
        // And routes before what they lead to: what they filter must not be reached without them.
        if let Some(push) = self.routes.next(&world.routes, budget)? {
            return Ok(Some((push, ROUTE)));
        }
        Ok(self.addresses.next(&world.addresses, budget)?.map(|push| (push, ADDRESS)))
    }

    async fn send(&mut self, push: Push, type_url: &str) -> Result<(), End> {
        self.sent += 1;
        let counts = &self.surroundings.counts;
        counts.pushes.fetch_add(1, Ordering::Relaxed);
        counts.resources.fetch_add(push.entries.len() as u64, Ordering::Relaxed);
        for piece in Pieces::new(push, type_url, self.sent.to_string()) {
            tokio::select! {
                biased;
                () = self.surroundings.shutdown.requested() => return Err(End::Quietly),
                sent = self.sender.send(piece) => sent.map_err(|_| End::Quietly)?,
            }
        }
        Ok(())
    }
}
