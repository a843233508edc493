//! The way out: a captured connection of the pod, from its original destination to a tunnel or a plain socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use weft_hbone::{ConnectRequest, Connection, Forwarded, OpenError};
use weft_model::{Identity, ResolveError, Snapshot, Upstream};

use super::flow::{Flow, Link, Unconfirmed};
use super::pod::Pod;
use super::pool::PoolKey;
use super::record::{Failure, Record};
use super::socket::Socket;
use super::table::Key;
use super::timers::Timer;
use super::tunnel::{ESTABLISH_TIMEOUT, Role, State, Tunnel};
use super::worker::{Accepted, Kind, Port, Worker};
use super::{HBONE_PORT, http_config};

/// How many connections wait for a tunnel that is being made before another is dialled. Peers allow at least so many streams.
const PRESUMED_STREAMS: usize = 100;
/// For so long after a workload was announced a refused tunnel is dialled again: its listeners may be about to stand.
pub(super) const ANNOUNCEMENT_GRACE: Duration = Duration::from_secs(5);
const REDIAL_PAUSE: Duration = Duration::from_millis(50);

/// Where a captured connection goes.
#[derive(Debug)]
pub(super) enum Route {
    /// Through a tunnel to the workload that was chosen.
    Tunnel(Upstream),
    /// In clear to a workload that is not in the mesh.
    Plain(Upstream),
    /// In clear, as it was dialled: no workload or service has this address.
    PassThrough,
    /// Nowhere.
    Refused(ResolveError),
}

/// Decides on `destination` as dialled by `client`, a socket of the workload `source`.
pub(super) fn route(
    snapshot: &Snapshot,
    source: &weft_model::Workload,
    client: IpAddr,
    destination: SocketAddr,
    balancer: &weft_model::Balancer,
) -> Route {
    match snapshot.resolve(source, client, destination, balancer) {
        Ok(upstream) if upstream.workload.is_hbone() => Route::Tunnel(upstream),
        Ok(upstream) => Route::Plain(upstream),
        Err(ResolveError::UnknownAddress { .. }) => Route::PassThrough,
        Err(error) => Route::Refused(error),
    }
}

/// A socket that its application bound to a port alone was captured before the kernel had chosen its address, and has a
/// loopback one: to everybody else the client is the pod.
fn seen_from_outside(pod: &Pod, client: SocketAddr, destination: IpAddr) -> SocketAddr {
    if !client.ip().is_loopback() {
        return client;
    }
    let own = pod.addresses.iter().map(IpAddr::to_canonical).find(|own| own.is_ipv4() == destination.is_ipv4());
    SocketAddr::new(own.unwrap_or(client.ip()), client.port())
}

impl Worker {
    pub(super) fn accept_outbound(&mut self, pod: &Arc<Pod>, accepted: Accepted) {
        let Accepted { socket, client: dialler, since } = accepted;
        let mut record = Record::outbound(dialler, since);
        let original = match self.shared.origin.original_destination(socket.as_fd()) {
            Ok(Some(original)) => original,
            Ok(None) => {
                let reason = "port 15001 was dialled directly: it only takes captured connections";
                return self.refuse(socket, record, Failure::denied(reason.to_owned()));
            }
            Err(error) => {
                let reason = format!("reading the original destination failed: {error}");
                return self.refuse(socket, record, Failure::ours(reason));
            }
        };
        record.destination_address = original;
        let client = seen_from_outside(pod, dialler, original.ip());
        record.client = client;
        let snapshot = self.snapshots.load().clone();
        // The mesh may not have spoken of the pod yet: it is enrolled by its own node.
        let source = snapshot.workload(&pod.uid).unwrap_or(&pod.workload);
        record.source = Some(source.clone());
        match route(&snapshot, source, client.ip(), original, &self.shared.balancer) {
            Route::Tunnel(_) if self.shared.certificates.current(&pod.identity).is_none() => {
                self.hold_for_certificate(pod, Port::Outbound, Accepted { socket, client: dialler, since }, original);
            }
            Route::Tunnel(upstream) => {
                self.note_use(original.ip());
                record.set_upstream(&upstream);
                let to = upstream.waypoint.unwrap_or(SocketAddr::new(upstream.address.ip(), HBONE_PORT));
                record.set_tunnel(to);
                self.flow_through_tunnel(pod, socket, client, record, &upstream, to);
            }
            Route::Plain(upstream) => {
                self.note_use(original.ip());
                if upstream.service.is_none() {
                    self.leave_to_kernel(original.ip());
                }
                record.set_upstream(&upstream);
                self.flow_in_clear(pod, socket, client.ip(), record, upstream.address);
            }
            Route::PassThrough if !self.is_known_outside(original.ip(), &snapshot) => {
                self.hold(pod, Port::Outbound, Accepted { socket, client: dialler, since }, original);
            }
            Route::PassThrough => {
                self.note_use(original.ip());
                self.shared.learned.outside(original.ip());
                self.flow_in_clear(pod, socket, client.ip(), record, original);
            }
            Route::Refused(ResolveError::NoWaypoint { .. })
                if self.shared.demand.is_some() && snapshot.awaits_waypoint(original) =>
            {
                self.hold(pod, Port::Outbound, Accepted { socket, client: dialler, since }, original);
            }
            Route::Refused(error) => {
                record.service = error.service().and_then(|key| snapshot.service(key)).cloned();
                self.refuse(socket, record, Failure::unreachable(error.to_string()));
            }
        }
    }

    /// Whether an address that `snapshot` does not have is outside the mesh, and not merely unknown.
    ///
    /// An answer stands behind the snapshot that it rests on, and is withdrawn ahead of one that lacks what it had. So there
    /// must be one moment at which the address counted as answered and this snapshot was in force: it is in force before
    /// and after the look at the answers. If not, the next turn looks again.
    fn is_known_outside(&mut self, address: IpAddr, snapshot: &Snapshot) -> bool {
        let Some(demand) = &self.shared.demand else { return true };
        demand.is_answered(address.to_canonical()) && self.snapshots.load().generation() == snapshot.generation()
    }

    /// On demand what is not talked to is forgotten.
    fn note_use(&mut self, address: IpAddr) {
        if self.shared.demand.is_some() {
            self.talked_to.insert(address.to_canonical());
        }
    }

    /// A workload outside the mesh that is known only by way of a service: once its address is asked for, and news of it
    /// would be heard, its connections need not come here.
    fn leave_to_kernel(&self, address: IpAddr) {
        if let Some(demand) = &self.shared.demand
            && !demand.is_answered(address.to_canonical())
        {
            // It matters little when it is not.
            let _ = demand.ask(address.to_canonical());
        }
    }

    /// Ends a connection that was just accepted with a RST, and says why.
    pub(super) fn refuse(&mut self, socket: Socket, mut record: Record, failure: Failure) {
        socket.abort();
        record.failure = Some(failure);
        self.finish_record(&mut record, 0, 0);
    }

    fn flow_through_tunnel(
        &mut self,
        pod: &Arc<Pod>,
        socket: Socket,
        client: SocketAddr,
        record: Record,
        upstream: &Upstream,
        to: SocketAddr,
    ) {
        let key = PoolKey::new(pod, client.ip(), &upstream.workload, to);
        let identity = upstream.workload.identity.clone();
        let mut flow = Flow::new(socket, pod.clone(), Some(Box::new(record)));
        flow.unconfirmed = Some(Unconfirmed::default());
        // A client that speaks first has often spoken already: one look saves a turn.
        flow.is_readable = true;
        let Some(flow) = self.adopt(flow) else { return };
        self.join_tunnel(flow, key, identity, to);
    }

    /// Watches a new flow. On failure the flow is aborted and `None` returned.
    pub(super) fn adopt(&mut self, flow: Flow) -> Option<Key> {
        let fd = flow.socket.as_raw_fd();
        let key = self.flows.insert(flow);
        if let Err(error) = self.register(fd, Kind::Flow, key) {
            self.abort_flow(key, Failure::ours(format!("watching the socket failed: {error}")));
            return None;
        }
        Some(key)
    }

    /// Gives a flow a stream: on a tunnel that has room, else on one that is being made, else on a new one.
    pub(super) fn join_tunnel(&mut self, flow: Key, key: PoolKey, expected: Identity, to: SocketAddr) {
        let Some(pod) = self.flows.get(flow).map(|flow| flow.pod.clone()) else { return };
        let Some(certificate) = self.shared.certificates.current(&pod.identity) else {
            let reason = format!("there is no valid certificate for {}: see `weft certificates`", pod.identity);
            return self.abort_flow(flow, Failure::no_certificate(reason));
        };
        let fitting = self.pool.tunnels(&key).iter().rev().copied().find(|tunnel| {
            self.tunnels.get(*tunnel).is_some_and(|tunnel| {
                Arc::ptr_eq(&tunnel.certificate, &certificate) && tunnel.has_room(PRESUMED_STREAMS)
            })
        });
        if let Some(tunnel) = fitting {
            return self.attach(flow, tunnel);
        }
        let socket = match self.dial(&pod, key.source_address(), to) {
            Ok(socket) => socket,
            Err(error) => {
                return self.abort_flow(flow, Failure::unreachable(format!("dialling {to} failed: {error}")));
            }
        };
        let fd = socket.as_raw_fd();
        let role = Role::Client { key: key.clone(), to, expected };
        let http = Connection::client(http_config());
        let tunnel = Tunnel::new(socket, pod, role, State::Connecting, certificate, http, self.now);
        let tunnel = self.tunnels.insert(tunnel);
        self.pool.add(key, tunnel);
        self.timers.set(self.now + ESTABLISH_TIMEOUT, Timer::Tunnel(tunnel));
        self.attach(flow, tunnel);
        if let Err(error) = self.register(fd, Kind::Tunnel, tunnel) {
            self.fail_tunnel(tunnel, &Failure::ours(format!("watching the tunnel's socket failed: {error}")));
        }
    }

    fn dial(&self, pod: &Pod, source: IpAddr, to: SocketAddr) -> io::Result<Socket> {
        let socket = pod.outward_socket(&*self.shared.origin, to.ip())?;
        socket.connect(Some(source), to)?;
        Ok(socket)
    }

    fn attach(&mut self, flow: Key, tunnel: Key) {
        let Some(entry) = self.tunnels.get_mut(tunnel) else { return };
        if entry.is_open() {
            self.open_stream(flow, tunnel);
        } else {
            entry.waiting.push(flow);
            if let Some(flow) = self.flows.get_mut(flow) {
                flow.link = Link::Waiting { tunnel };
            }
        }
    }

    /// Opens the flow's stream. What the application says meanwhile goes out right behind the request.
    pub(super) fn open_stream(&mut self, key: Key, tunnel_key: Key) {
        let (Some(flow), Some(tunnel)) = (self.flows.get_mut(key), self.tunnels.get_mut(tunnel_key)) else { return };
        let Some(record) = flow.record.as_deref_mut() else { return };
        if let State::Open { peer, .. } = &tunnel.state {
            record.peer = Some(peer.clone());
        }
        let authority = record.authority().to_string();
        let baggage = record.source.as_ref().map(|source| self.baggage.of(source));
        let client = Some((record.client.ip(), Some(record.client.port())));
        let forwarded = Forwarded { client, host: None }.to_string();
        let request = ConnectRequest {
            authority: &authority,
            baggage: baggage.as_deref(),
            forwarded: Some(&forwarded),
            traceparent: None,
        };
        match tunnel.http.open(&request, key.to_bits()) {
            Ok(stream) => {
                flow.link = Link::Stream { tunnel: tunnel_key, stream };
                flow.is_blocked = false;
                if let Some(unconfirmed) = &mut flow.unconfirmed {
                    unconfirmed.start_over();
                }
                tunnel.streams += 1;
                if !flow.is_queued {
                    flow.is_queued = true;
                    tunnel.ready.push_back(key);
                }
                self.mark_dirty(tunnel_key);
            }
            Err(OpenError::TooManyStreams { limit: 0 }) => {
                let reason = format!("{} takes no streams at all", tunnel.remote());
                self.abort_flow(key, Failure::unreachable(reason));
            }
            Err(OpenError::TooManyStreams { .. }) => self.rejoin(key, tunnel_key),
            Err(OpenError::GoingAway | OpenError::Exhausted) => {
                tunnel.is_draining = true;
                self.rejoin(key, tunnel_key);
            }
            Err(error) => {
                let reason = format!("the request for {authority} cannot be sent: {error}");
                self.abort_flow(key, Failure::ours(reason));
            }
        }
    }

    /// Finds another tunnel for a flow whose tunnel cannot take it.
    pub(super) fn rejoin(&mut self, flow: Key, tunnel: Key) {
        let Some(Tunnel { role: Role::Client { key, to, expected }, .. }) = self.tunnels.get(tunnel) else { return };
        let (key, to, expected) = (key.clone(), *to, expected.clone());
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.link = Link::None;
        }
        self.join_tunnel(flow, key, expected, to);
    }

    /// The TCP connection of a client's tunnel came to something.
    pub(super) fn tunnel_connected(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let Role::Client { expected, key: pool_key, .. } = &tunnel.role else { return };
        if let Some(error) = tunnel.socket.take_error() {
            let recently = self.shared.announced.is_recent(pool_key.destination_uid(), ANNOUNCEMENT_GRACE);
            if error.kind() == io::ErrorKind::ConnectionRefused
                && recently
                && tunnel.opened_at + ANNOUNCEMENT_GRACE > self.now
            {
                tunnel.awaits_redial = true;
                let pause = REDIAL_PAUSE * tunnel.dials.min(8);
                self.timers.set(self.now + pause, Timer::Redial(key));
                return;
            }
            let to = tunnel.remote();
            let reason = if error.kind() == io::ErrorKind::ConnectionRefused {
                format!("connecting to {to} was refused: is the agent of that node running?")
            } else {
                format!("connecting to {to} failed: {error}")
            };
            return self.fail_tunnel(key, &Failure::unreachable(reason));
        }
        match tunnel.certificate.connect(vec![expected.clone()]) {
            Ok(handshake) => {
                tunnel.state = State::Handshaking { handshake: Box::new(handshake), incoming: Vec::new() };
                self.open_handshakes.began(&tunnel.pod);
                tunnel.is_queued = true;
                self.handshakes.push_back(key);
            }
            Err(error) => self.fail_tunnel(key, &Failure::tls(error.to_string())),
        }
    }

    /// Dials again for a tunnel whose peer was only just announced.
    pub(super) fn redial(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let Role::Client { key: pool_key, to, .. } = &tunnel.role else { return };
        let (source, to, pod) = (pool_key.source_address(), *to, tunnel.pod.clone());
        let dialled = self.dial(&pod, source, to).and_then(|socket| {
            self.register(socket.as_raw_fd(), Kind::Tunnel, key)?;
            Ok(socket)
        });
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match dialled {
            Ok(socket) => {
                tunnel.socket = socket;
                tunnel.awaits_redial = false;
                tunnel.is_readable = false;
                tunnel.is_writable = true;
                tunnel.has_hangup = false;
                tunnel.dials += 1;
            }
            Err(error) => {
                self.fail_tunnel(key, &Failure::unreachable(format!("dialling {to} again failed: {error}")));
            }
        }
    }

    /// Joins an accepted connection with a plain one to `to`, from the same source address.
    fn flow_in_clear(&mut self, pod: &Arc<Pod>, socket: Socket, source: IpAddr, record: Record, to: SocketAddr) {
        let dialled = pod.outward_socket(&*self.shared.origin, to.ip()).and_then(|upstream| {
            // A destination of the other family has no use for the client's address.
            let source = (source.is_ipv4() == to.is_ipv4()).then_some(source);
            upstream.connect(source, to)?;
            Ok(upstream)
        });
        match dialled {
            Ok(upstream) => self.join_in_clear(pod, socket, record, upstream),
            Err(error) => {
                let reason = format!("connecting to {to} failed: {error}");
                self.refuse(socket, record, Failure::unreachable(reason));
            }
        }
    }
}
