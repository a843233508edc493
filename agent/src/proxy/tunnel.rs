//! A tunnel: one TCP connection to or from a peer's port 15008, its TLS session and its HTTP/2 streams.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::gauge::Gauge;
use weft_hbone::{Connection, ErrorCode};
use weft_model::Identity;
use weft_transport::{Handshake, Opener, Sealer, TlsIdentity};

use super::buffers::{BufferPool, Unsent};
use super::pod::Pod;
use super::pool::PoolKey;
use super::record::{Failure, Record};
use super::socket::{Outcome, Socket};
use super::table::Key;
use crate::telemetry::AgentMetrics;

/// Establishing a tunnel, TCP and TLS together, takes no longer.
pub(super) const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a tunnel's liveness is looked at; a PING is sent when nothing came since the last look.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A tunnel whose peer leaves a PING unanswered for so long is dead.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A client's tunnel without streams is closed after so long.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A tunnel whose end was said waits no longer for the peer's. Closed earlier, whatever the peer still sends would make
/// the kernel reset the connection, and lose what the peer has not received yet.
pub(super) const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);

/// How far a tunnel has come.
pub(super) enum State {
    /// The TCP connection is being made.
    Connecting,
    /// TLS is being negotiated. `incoming` is what the handshake has not consumed.
    Handshaking { handshake: Box<Handshake>, incoming: Vec<u8> },
    /// Frames flow. The peer proved who it is with a certificate that ends at `peer_not_after`.
    Open { sealer: Sealer, opener: Opener, peer: Identity, peer_not_after: SystemTime },
}

/// Which end of the tunnel this is.
pub(super) enum Role {
    /// Dialled by this agent for flows of its own pod.
    Client { key: PoolKey, to: SocketAddr, expected: Identity },
    /// Accepted on 15008 of this agent's pod.
    Server { peer_address: SocketAddr, local_address: SocketAddr },
}

pub(super) struct Tunnel {
    pub(super) socket: Socket,
    pub(super) pod: Arc<Pod>,
    pub(super) role: Role,
    pub(super) state: State,
    /// The certificate that the tunnel was made with; a renewed one makes new tunnels.
    pub(super) certificate: Arc<TlsIdentity>,
    pub(super) http: Connection,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// The beginning of a TLS record whose end has not come.
    pub(super) partial: Vec<u8>,
    /// Sealed bytes that the socket had no room for.
    pub(super) unsent: Option<Unsent>,
    /// Flows with something to send, each once, in turn.
    pub(super) ready: VecDeque<Key>,
    /// Flows that met a closed window.
    pub(super) blocked: Vec<Key>,
    /// Flows that wait for the tunnel to open.
    pub(super) waiting: Vec<Key>,
    /// How many flows are linked to a stream of it.
    pub(super) streams: usize,
    /// No new streams: the peer or this agent is going away.
    pub(super) is_draining: bool,
    /// The end was said to the peer, and nothing more may be sealed or understood.
    pub(super) is_closing: bool,
    /// FIN was sent behind the last bytes.
    pub(super) is_finished: bool,
    /// The socket takes nothing any more, for this reason; what the peer had said before is read to its end.
    pub(super) broken: Option<Box<Failure>>,
    /// Since when this agent refuses new streams, or is about to.
    drained_at: Option<Instant>,
    /// The connection was refused, and is dialled again later: what the old socket reports means nothing.
    pub(super) awaits_redial: bool,
    pub(super) is_dirty: bool,
    /// The tunnel stands in the worker's queue of handshakes, or of those to receive.
    pub(super) is_queued: bool,
    /// The kernel reported FIN or an error: reading goes on until it shows.
    pub(super) has_hangup: bool,
    pub(super) is_dead: bool,
    pub(super) opened_at: Instant,
    pub(super) last_received: Instant,
    pub(super) idle_since: Instant,
    pub(super) ping_sent: Option<Instant>,
    pub(super) dials: u32,
}

impl Tunnel {
    pub(super) fn new(
        socket: Socket,
        pod: Arc<Pod>,
        role: Role,
        state: State,
        certificate: Arc<TlsIdentity>,
        http: Connection,
        now: Instant,
    ) -> Self {
        Self {
            socket,
            pod,
            role,
            state,
            certificate,
            http,
            is_readable: false,
            is_writable: true,
            partial: Vec::new(),
            unsent: None,
            ready: VecDeque::new(),
            blocked: Vec::new(),
            waiting: Vec::new(),
            streams: 0,
            is_draining: false,
            is_closing: false,
            is_finished: false,
            broken: None,
            drained_at: None,
            awaits_redial: false,
            is_dirty: false,
            is_queued: false,
            has_hangup: false,
            is_dead: false,
            opened_at: now,
            last_received: now,
            idle_since: now,
            ping_sent: None,
            dials: 1,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    pub(super) fn is_client(&self) -> bool {
        matches!(self.role, Role::Client { .. })
    }

    /// Whether one more stream may be opened, now or when the tunnel is established.
    pub(super) fn has_room(&self, presumed_limit: usize) -> bool {
        if self.is_draining || self.is_closing || self.is_dead {
            return false;
        }
        if self.is_open() { self.http.can_open() } else { self.waiting.len() < presumed_limit }
    }

    /// Writes what the socket had no room for and returns its buffer to the pool. True when nothing is left.
    pub(super) fn flush_unsent(&mut self, buffers: &mut BufferPool) -> io::Result<bool> {
        while let Some(mut unsent) = self.unsent.take() {
            let outcome = if self.is_writable { self.socket.write(unsent.bytes())? } else { Outcome::Blocked };
            match outcome {
                Outcome::Moved(moved) => {
                    if unsent.advance(moved) {
                        buffers.give_back(unsent.into_buffer());
                    } else {
                        self.unsent = Some(unsent);
                    }
                }
                Outcome::Blocked => {
                    self.is_writable = false;
                    self.unsent = Some(unsent);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Writes `bytes`, keeping what the socket does not take. Only handshake bytes come this way.
    pub(super) fn write_or_keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(unsent) = &mut self.unsent {
            unsent.append(bytes);
            return Ok(());
        }
        let mut at = 0;
        while at < bytes.len() && self.is_writable {
            match self.socket.write(&bytes[at..])? {
                Outcome::Moved(moved) => at += moved,
                Outcome::Blocked => self.is_writable = false,
            }
        }
        if at < bytes.len() {
            self.unsent = Some(Unsent::from_slice(&bytes[at..]));
        }
        Ok(())
    }

    /// The certificate that the peer has shown is not valid any more.
    pub(super) fn is_peer_expired(&self) -> bool {
        matches!(self.state, State::Open { peer_not_after, .. } if peer_not_after <= SystemTime::now())
    }

    /// Tells the peer that no stream will be taken any more; those that are open go on.
    pub(super) fn drain(&mut self, now: Instant) {
        self.is_draining = true;
        self.drained_at.get_or_insert(now);
        self.http.drain();
    }

    /// Whoever has not taken notice of a drain for so long is not waited for.
    pub(super) fn insist_on_drain(&mut self, now: Instant) {
        if self.drained_at.is_some_and(|at| now.duration_since(at) >= PING_INTERVAL) && !self.http.is_shut_down() {
            self.http.go_away(ErrorCode::NO_ERROR, "");
        }
    }

    /// Nothing is carried any more, and nothing that crossed the news of the end can still come.
    pub(super) fn is_done(&self) -> bool {
        let is_unused = self.streams == 0 && self.waiting.is_empty() && self.http.active_streams() == 0;
        self.is_draining && is_unused && (self.is_client() || self.http.is_shut_down())
    }

    /// What a drain waits for: bytes may be on their way in it, or connections wait for it.
    pub(super) fn is_in_use(&self) -> bool {
        !self.is_dead && (self.is_open() || !self.waiting.is_empty())
    }

    /// The gauge that counts tunnels like this one.
    pub(super) fn gauge<'a>(&self, metrics: &'a AgentMetrics) -> &'a Gauge {
        if self.is_client() { &metrics.client_tunnels_open } else { &metrics.server_tunnels_open }
    }

    /// What goes on record when a peer's tunnel fails before it stands.
    pub(super) fn refused(&self, now: Instant) -> Option<Record> {
        let (Role::Server { peer_address, local_address }, State::Handshaking { .. }) = (&self.role, &self.state)
        else {
            return None;
        };
        let mut record = Record::inbound(*peer_address, *local_address, None, now);
        record.set_tunnel(*peer_address);
        Some(record)
    }

    /// The address at the other end of the TCP connection.
    pub(super) fn remote(&self) -> SocketAddr {
        match &self.role {
            Role::Client { to, .. } => *to,
            Role::Server { peer_address, .. } => *peer_address,
        }
    }
}
