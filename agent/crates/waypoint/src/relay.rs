//! Connections at layer 4: judged once, and again when policies change, and passed on as bytes.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use weft_model::{Peer, Upstream, Verdict};
use weft_route::{BackendTarget, Matched, choose};

use crate::forward::{Failure, Place, pick};
use crate::record::{Client, ConnectionEnd, ConnectionRecord};
use crate::scope::{Destination, Target};
use crate::state::State;
use crate::stream::TunnelStream;
use crate::worker::Worker;

/// Bytes of one direction that are held between reading and writing.
const BUFFER: usize = 32 << 10;
/// A ClientHello that is longer is none.
const HELLO: usize = 32 << 10;
/// When one direction has failed, what the other still has to say must come within this.
const LAST: Duration = Duration::from_secs(1);

/// Passes a connection on, and tells of it.
pub(crate) async fn serve(
    worker: &Arc<Worker>,
    client: Arc<Client>,
    destination: Destination,
    mut stream: TunnelStream,
    is_tls: bool,
    started: Instant,
) {
    // Before the state is read: what is published from here on is looked at.
    let changes = worker.shared.parts.state.changes();
    let state = worker.shared.parts.state.load();
    let service = match &destination.target {
        Target::Service(service) => Some(Arc::clone(service)),
        Target::Workload(_) => None,
    };
    let mut record = ConnectionRecord {
        ends: ConnectionEnd {
            source: state.snapshot.workload_by_address(client.address.ip()).cloned(),
            client,
            address: destination.address,
            service,
            endpoint: None,
            endpoint_address: None,
        },
        is_established: false,
        is_denied: false,
        from_client: 0,
        to_client: 0,
        duration: Duration::ZERO,
        ended: SystemTime::now(),
        error: None,
    };
    let error = carry(worker, (&state, changes), &destination, &mut stream, is_tls, &mut record).await.err();
    record.error = error;
    record.duration = started.elapsed();
    record.ended = SystemTime::now();
    worker.shared.parts.observer.closed(record);
}

/// Why a connection failed, in words.
type Reason = Cow<'static, str>;

async fn carry(
    worker: &Arc<Worker>,
    (state, mut changes): (&State, tokio::sync::watch::Receiver<()>),
    destination: &Destination,
    stream: &mut TunnelStream,
    is_tls: bool,
    record: &mut ConnectionRecord,
) -> Result<(), Reason> {
    let client = Arc::clone(&record.ends.client);
    let place = match place(worker, state, destination, stream, is_tls, &client).await {
        Ok(place) => place,
        Err(reason) => {
            stream.reset();
            return Err(reason);
        }
    };
    let upstream = match pick(worker, state, &client, &place, None) {
        Ok(upstream) => upstream,
        Err(failure) => {
            stream.reset();
            if let Failure::Denied(upstream, _) = &failure {
                record.is_denied = true;
                endpoint(record, upstream);
            }
            return Err(failure.to_string().into());
        }
    };
    endpoint(record, &upstream);
    let mut pipe = match worker.upstreams.connect(&upstream, Some(client.address)).await {
        Ok(pipe) => pipe,
        Err(error) => {
            stream.reset();
            return Err(error.to_string().into());
        }
    };
    record.is_established = true;
    worker.shared.parts.observer.opened(&record.ends);
    let mut counts = [0; 2];
    let ended = tokio::select! {
        biased;
        denial = denied(worker, &mut changes, &upstream, &client) => Err(denial),
        passed = pass(stream, &mut pipe, &mut counts) => passed.map_err(|error| error.to_string().into()),
    };
    [record.from_client, record.to_client] = counts;
    if ended.is_err() {
        // The tunnels are written by tasks of their own, which get their turn for what came before.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        stream.reset();
        pipe.reset();
    }
    ended
}

fn endpoint(record: &mut ConnectionRecord, upstream: &Upstream) {
    record.ends.endpoint = Some(Arc::clone(&upstream.workload));
    record.ends.endpoint_address = Some(upstream.address);
    if upstream.service.is_some() {
        record.ends.service.clone_from(&upstream.service);
    }
}

/// Where a connection goes: as a TLSRoute or TCPRoute says, else where it was meant to.
async fn place(
    worker: &Worker,
    state: &State,
    destination: &Destination,
    stream: &mut TunnelStream,
    is_tls: bool,
    client: &Client,
) -> Result<Place, Reason> {
    let own = Place::of(&state.snapshot, destination);
    let Target::Service(service) = &destination.target else {
        return own.map_err(|failure| failure.to_string().into());
    };
    let namespace = Some(client.identity.namespace());
    let (port, gateway) = (destination.address.port(), Some(worker.shared.gateway.as_str()));
    let Some(table) = state.routes.table(&service.key, port, gateway, namespace) else {
        return own.map_err(|failure| failure.to_string().into());
    };
    let own = match (table.find_tcp(), table.has_tls(), table.has_requests()) {
        (Some(_), _, _) | (None, false, false) => own,
        (None, true, _) if is_tls => own,
        // Who keeps silent, or says something else first, does not get past the routes.
        (None, true, false) => return Err("only TLS is routed here, and none was spoken".into()),
        (None, _, true) => return Err("only HTTP is routed here, and none was spoken".into()),
    };
    let matched = if is_tls && table.has_tls() {
        let name = timeout(worker.shared.options.limits.head, server_name(stream)).await;
        let name = name.map_err(|_| "the ClientHello did not come in time")?;
        let matched = table.find_tls(name.as_deref());
        Some(matched.ok_or_else(|| format!("no TLSRoute takes the server name {}", name.as_deref().unwrap_or("-")))?)
    } else {
        table.find_tcp()
    };
    match matched {
        Some(matched) => backend(state, &matched),
        None => own.map_err(|failure| failure.to_string().into()),
    }
}

fn backend(state: &State, matched: &Matched) -> Result<Place, Reason> {
    let rule = matched.rule();
    let chosen = choose(rule, &mut |n| fastrand::u32(0..n.max(1)));
    match chosen.map(|chosen| &rule.backends[chosen].target) {
        None => Err(format!("{} has no backend", matched.route.key).into()),
        Some(BackendTarget::Invalid { reason }) => Err(reason.to_string().into()),
        Some(BackendTarget::Service { key, port }) => match state.snapshot.service(key) {
            Some(service) => Ok(Place::Service(Arc::clone(service), *port)),
            None => Err(format!("service {key} is not known").into()),
        },
    }
}

/// The server name of a ClientHello, of which at least the beginning is there.
async fn server_name(stream: &mut TunnelStream) -> Option<String> {
    loop {
        let mut acceptor = Acceptor::default();
        let mut hello = stream.unread();
        while !hello.is_empty() {
            if acceptor.read_tls(&mut hello).ok()? == 0 {
                break;
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => return accepted.client_hello().server_name().map(str::to_ascii_lowercase),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
        if stream.unread().len() >= HELLO || !matches!(stream.receive().await, Ok(true)) {
            return None;
        }
    }
}

/// Completes when the client may not be connected to the endpoint any more.
pub(crate) async fn denied(
    worker: &Worker,
    changes: &mut tokio::sync::watch::Receiver<()>,
    upstream: &Upstream,
    client: &Client,
) -> Reason {
    loop {
        let state = worker.shared.parts.state.load();
        let workload = state.snapshot.workload(&upstream.workload.uid).unwrap_or(&upstream.workload);
        let peer =
            Peer { identity: Some(&client.identity), source: client.address.ip(), destination: upstream.address };
        if let Verdict::Denied(denial) = state.snapshot.authorize(workload, &peer) {
            return denial.to_string().into();
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Passes bytes both ways until both have ended. An end on one side is an end on the other.
///
/// # Errors
/// When one side is reset, or fails. What the other had said before was passed on.
pub(crate) async fn pass<A, B>(a: &mut A, b: &mut B, counts: &mut [u64; 2]) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut forth, mut back) = (Way::new(), Way::new());
    let [from_a, from_b] = counts;
    let both = std::future::poll_fn(|cx| {
        let is_forth = forth.poll(cx, a, b, from_a);
        let is_back = back.poll(cx, b, a, from_b);
        match (is_forth, is_back) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await;
    if both.is_err() {
        let rest = std::future::poll_fn(|cx| {
            let is_forth = !forth.is_live || forth.poll(cx, a, b, from_a).is_ready();
            let is_back = !back.is_live || back.poll(cx, b, a, from_b).is_ready();
            if is_forth && is_back { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = timeout(LAST, rest).await;
    }
    both
}

/// One direction.
struct Way {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    has_ended: bool,
    /// Neither ended nor failed.
    is_live: bool,
}

impl Way {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), start: 0, end: 0, has_ended: false, is_live: true }
    }

    fn poll<A, B>(&mut self, cx: &mut Context<'_>, from: &mut A, to: &mut B, count: &mut u64) -> Poll<io::Result<()>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        if !self.is_live {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_live(cx, from, to, count));
        self.is_live = false;
        Poll::Ready(result)
    }

    fn poll_live<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.end {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..self.end]))?;
                if written == 0 {
                    return Poll::Ready(Err(ErrorKind::WriteZero.into()));
                }
                self.start += written;
                *count += written as u64;
            }
            if self.has_ended {
                return Pin::new(&mut *to).poll_shutdown(cx);
            }
            let mut into = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut into)? {
                Poll::Ready(()) => {
                    (self.start, self.end) = (0, into.filled().len());
                    self.has_ended = self.end == 0;
                }
                Poll::Pending => {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }
}
