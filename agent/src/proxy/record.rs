//! What is known of one connection: judged again when policies change, counted and logged when it ends.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::gauge::Gauge;
use weft_hbone::ErrorCode;
use weft_model::{Identity, Service, Upstream, Workload};

use super::{Connection, ConnectionState};
use crate::telemetry::tcp::{ConnectionLabels, ConnectionSecurity, Reporter, ResponseFlags, SeriesCache, TcpSeries};
use crate::telemetry::{AccessEnd, AccessLog, AccessRecord, AgentMetrics};

/// Which way a connection goes, seen from the pod of this node.
pub use crate::telemetry::Direction;

/// Why a connection ended otherwise than in order.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    flags: ResponseFlags,
    reason: Arc<str>,
    status: u16,
    code: ErrorCode,
}

impl Failure {
    fn new(flags: ResponseFlags, status: u16, code: ErrorCode, reason: String) -> Self {
        Self { flags, reason: reason.into(), status, code }
    }

    /// A policy forbids it.
    pub(super) fn denied(reason: String) -> Self {
        Self::new(ResponseFlags::Denied, 401, ErrorCode::CANCEL, reason)
    }

    /// The request does not belong here.
    pub(super) fn misdirected(reason: String) -> Self {
        Self::new(ResponseFlags::Denied, 400, ErrorCode::CANCEL, reason)
    }

    /// The destination or the way to it failed.
    pub(super) fn unreachable(reason: String) -> Self {
        Self::new(ResponseFlags::ConnectFailure, 503, ErrorCode::CONNECT_ERROR, reason)
    }

    /// TLS failed.
    pub(super) fn tls(reason: String) -> Self {
        Self::new(ResponseFlags::TlsFailure, 503, ErrorCode::CONNECT_ERROR, reason)
    }

    /// There is no certificate to present.
    pub(super) fn no_certificate(reason: String) -> Self {
        Self::new(ResponseFlags::IdentityError, 503, ErrorCode::INTERNAL_ERROR, reason)
    }

    /// The agent itself failed.
    pub(super) fn ours(reason: String) -> Self {
        Self::new(ResponseFlags::ConnectFailure, 503, ErrorCode::INTERNAL_ERROR, reason)
    }

    /// One side ended the connection with a reset.
    pub(super) fn reset(reason: String) -> Self {
        Self::new(ResponseFlags::None, 503, ErrorCode::CANCEL, reason)
    }

    /// The pod's own application failed or reset the connection.
    pub(super) fn application(error: &std::io::Error) -> Self {
        Self::reset(format!("the application's socket: {error}"))
    }

    /// The status that a peer's request is answered with.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// The code of the reset that the peer gets.
    pub(super) fn error_code(&self) -> ErrorCode {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) direction: Direction,
    pub(super) started: Instant,
    /// The client's own address.
    pub(super) client: SocketAddr,
    /// Outbound: as the application dialled it. Inbound: the application's address.
    pub(super) destination_address: SocketAddr,
    /// The endpoint that was chosen, on the way out.
    upstream: Option<SocketAddr>,
    /// The other end of the tunnel, when there is one.
    tunnel: Option<SocketAddr>,
    pub(super) source: Option<Arc<Workload>>,
    pub(super) destination: Option<Arc<Workload>>,
    pub(super) service: Option<Arc<Service>>,
    /// The identity that the other side proved.
    pub(super) peer: Option<Identity>,
    pub(super) failure: Option<Failure>,
    series: Option<Arc<TcpSeries>>,
    /// Bytes read and written that the series has already.
    accounted: (u64, u64),
}

impl Record {
    pub(super) fn outbound(client: SocketAddr, started: Instant) -> Self {
        Self::new(Direction::Outbound, client, client, None, started)
    }

    pub(super) fn inbound(
        client: SocketAddr,
        destination: SocketAddr,
        peer: Option<Identity>,
        started: Instant,
    ) -> Self {
        Self::new(Direction::Inbound, client, destination, peer, started)
    }

    fn new(
        direction: Direction,
        client: SocketAddr,
        destination_address: SocketAddr,
        peer: Option<Identity>,
        started: Instant,
    ) -> Self {
        Self {
            direction,
            started,
            client,
            destination_address,
            upstream: None,
            tunnel: None,
            source: None,
            destination: None,
            service: None,
            peer,
            failure: None,
            series: None,
            accounted: (0, 0),
        }
    }

    /// Notes the endpoint that was chosen.
    pub(super) fn set_upstream(&mut self, upstream: &Upstream) {
        self.upstream = Some(upstream.address);
        self.destination = Some(upstream.workload.clone());
        self.service = upstream.service.clone();
    }

    /// Notes the other end of the tunnel.
    pub(super) fn set_tunnel(&mut self, remote: SocketAddr) {
        self.tunnel = Some(remote);
    }

    /// What a CONNECT for this connection names: the endpoint.
    pub(super) fn authority(&self) -> SocketAddr {
        self.upstream.unwrap_or(self.destination_address)
    }

    /// The flow with this record reads what the client sends; else it reads what the client is sent.
    fn reads_from_client(&self) -> bool {
        self.direction == Direction::Outbound || self.tunnel.is_none()
    }

    fn identities(&self) -> (Option<&Identity>, Option<&Identity>) {
        if self.tunnel.is_none() {
            return (None, None);
        }
        match self.direction {
            Direction::Outbound => (self.source.as_ref().map(|source| &source.identity), self.peer.as_ref()),
            Direction::Inbound => (self.peer.as_ref(), self.destination.as_ref().map(|workload| &workload.identity)),
        }
    }

    fn labels(&self, flags: ResponseFlags) -> ConnectionLabels<'_> {
        let (source_identity, destination_identity) = self.identities();
        let security = match (self.tunnel, &self.peer) {
            (Some(_), Some(_)) => ConnectionSecurity::MutualTls,
            (Some(_), None) => ConnectionSecurity::Unknown,
            (None, _) => ConnectionSecurity::None,
        };
        ConnectionLabels {
            reporter: match self.direction {
                Direction::Outbound => Reporter::Source,
                Direction::Inbound => Reporter::Destination,
            },
            source: self.source.as_ref(),
            destination: self.destination.as_ref(),
            source_identity,
            destination_identity,
            service: self.service.as_ref(),
            security,
            flags,
        }
    }

    /// The connection is carried from now on.
    pub(super) fn open(&mut self, cache: &mut SeriesCache, metrics: &AgentMetrics) {
        if self.series.is_none() {
            self.gauge(metrics).inc();
            let series = cache.series(&self.labels(ResponseFlags::None));
            series.opened();
            self.series = Some(series);
        }
    }

    /// Adds what was read and written since the last time to the counters. No series: nothing was carried.
    pub(super) fn account(&mut self, read: u64, written: u64) {
        let Some(series) = &self.series else { return };
        let (counted_read, counted_written) = std::mem::replace(&mut self.accounted, (read, written));
        let (read, written) = (read - counted_read, written - counted_written);
        let (from_client, to_client) = if self.reads_from_client() { (read, written) } else { (written, read) };
        series.add_from_client(from_client);
        series.add_to_client(to_client);
    }

    fn gauge<'a>(&self, metrics: &'a AgentMetrics) -> &'a Gauge {
        match self.direction {
            Direction::Outbound => &metrics.outbound_open,
            Direction::Inbound => &metrics.inbound_open,
        }
    }

    /// Counts and logs the end. `read` and `written` are the bytes of the flow that has this record.
    pub(super) fn finish(
        &mut self,
        read: u64,
        written: u64,
        now: Instant,
        cache: &mut SeriesCache,
        metrics: &AgentMetrics,
        log: &AccessLog,
    ) {
        let (from_client, to_client) = if self.reads_from_client() { (read, written) } else { (written, read) };
        let flags = self.failure.as_ref().map_or(ResponseFlags::None, |failure| failure.flags);
        let is_established = self.series.is_some();
        self.account(read, written);
        if let Some(series) = self.series.take() {
            self.gauge(metrics).dec();
            if flags == ResponseFlags::None {
                series.closed();
            } else {
                cache.series(&self.labels(flags)).closed();
            }
        } else {
            cache.series(&self.labels(flags)).failed();
        }
        if !log.is_enabled() {
            return;
        }
        let (source_identity, destination_identity) = self.identities();
        log.write(AccessRecord {
            direction: self.direction,
            source: AccessEnd {
                address: self.client,
                workload: self.source.clone(),
                identity: source_identity.cloned(),
            },
            destination: AccessEnd {
                address: self.dialled(),
                workload: self.destination.clone(),
                identity: destination_identity.cloned(),
            },
            hbone_address: self.tunnel.map(|_| self.authority()),
            service: self.service.clone(),
            from_client,
            to_client,
            duration: now.saturating_duration_since(self.started),
            ended: SystemTime::now(),
            is_established,
            error: self.failure.as_ref().map(|failure| Cow::Owned(failure.reason.to_string())),
        });
    }

    /// The address at which the destination was dialled: the tunnel's, if there is one.
    fn dialled(&self) -> SocketAddr {
        match (self.tunnel, self.direction) {
            (Some(remote), Direction::Outbound) => remote,
            (Some(_), Direction::Inbound) => SocketAddr::new(self.destination_address.ip(), super::HBONE_PORT),
            (None, _) => self.authority(),
        }
    }

    /// The connection as an operator sees it.
    pub(super) fn describe(&self, state: ConnectionState, read: u64, written: u64, age: Duration) -> Connection {
        let (from_client, to_client) = if self.reads_from_client() { (read, written) } else { (written, read) };
        Connection {
            direction: self.direction,
            state,
            client: self.client,
            destination: self.authority(),
            tunnel: self.tunnel,
            source: self.source.clone(),
            destination_workload: self.destination.clone(),
            service: self.service.clone(),
            peer: self.peer.clone(),
            bytes_from_client: from_client,
            bytes_to_client: to_client,
            age,
        }
    }
}
