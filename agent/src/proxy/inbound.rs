//! The way in: tunnels of peers and captured plaintext connections, judged and handed to the pod's application.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weft_hbone::{Authority, Connection, ErrorCode, Forwarded, Request, StreamId};
use weft_model::{Denial, Peer, Service, Snapshot, Verdict, Workload};

use super::flow::{Flow, Link};
use super::pod::Pod;
use super::record::{Direction, Failure, Record};
use super::socket::Socket;
use super::table::Key;
use super::timers::Timer;
use super::tunnel::{ESTABLISH_TIMEOUT, Role, State, Tunnel};
use super::worker::{Accepted, Kind, Port, Worker};
use super::{HBONE_PORT, INBOUND_PORT, OUTBOUND_PORT, http_config};

/// An application of the pod accepts within so long, or the connection has failed.
pub(super) const APPLICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the policies in force about a live connection of the way in. `None`: it may go on.
pub(super) fn judge_again(snapshot: &Snapshot, flow: &Flow) -> Option<Denial> {
    let record = flow.record.as_deref()?;
    if record.direction != Direction::Inbound {
        return None;
    }
    // A pod that is gone from the configuration has no policies left to break; its connections end with it.
    let workload = snapshot.workload(&flow.pod.uid)?;
    let peer =
        Peer { identity: record.peer.as_ref(), source: record.client.ip(), destination: record.destination_address };
    match snapshot.judge_again(workload, &peer) {
        Verdict::Allowed => None,
        Verdict::Denied(denial) => Some(denial),
    }
}

/// The port is one of the agent's own listeners, behind which there is no application.
fn is_own_port(port: u16) -> bool {
    matches!(port, OUTBOUND_PORT | INBOUND_PORT | HBONE_PORT)
}

impl Worker {
    /// A peer dialled 15008 of the pod.
    pub(super) fn accept_tunnel(&mut self, pod: &Arc<Pod>, accepted: Accepted) {
        let Ok(local_address) = accepted.socket.local_addr() else { return };
        if self.must_wait(pod) {
            return self.hold(pod, Port::Hbone, accepted, local_address);
        }
        let Some(certificate) = self.shared.certificates.current(&pod.identity) else {
            return self.hold_for_certificate(pod, Port::Hbone, accepted, local_address);
        };
        let Accepted { socket, client: peer_address, .. } = accepted;
        let handshake = match certificate.accept() {
            Ok(handshake) => handshake,
            Err(error) => {
                tracing::warn!(identity = %pod.identity, %error, "a tunnel is refused: TLS cannot be set up");
                return socket.abort();
            }
        };
        let fd = socket.as_raw_fd();
        let role = Role::Server { peer_address, local_address };
        let state = State::Handshaking { handshake: Box::new(handshake), incoming: Vec::new() };
        let http = Connection::server(http_config());
        let tunnel = Tunnel::new(socket, pod.clone(), role, state, certificate, http, self.now);
        let key = self.tunnels.insert(tunnel);
        self.open_handshakes.began(pod);
        self.timers.set(self.now + ESTABLISH_TIMEOUT, Timer::Tunnel(key));
        if let Err(error) = self.register(fd, Kind::Tunnel, key) {
            self.fail_tunnel(key, &Failure::ours(format!("watching the tunnel's socket failed: {error}")));
        }
    }

    /// A peer has proved that it is of the mesh: which workload it is, metrics and the access log want to know. Nothing
    /// waits for it.
    pub(super) fn learn_of(&mut self, peer: IpAddr) {
        if let Some(demand) = &self.shared.demand
            && self.snapshots.load().workload_by_address(peer).is_none()
            && !demand.is_answered(peer)
        {
            let _ = demand.ask(peer);
        }
    }

    /// A plaintext connection to the pod was steered to 15006.
    pub(super) fn accept_inbound(&mut self, pod: &Arc<Pod>, accepted: Accepted) {
        let Ok(destination) = accepted.socket.local_addr() else { return };
        if self.must_wait(pod) {
            return self.hold(pod, Port::Inbound, accepted, destination);
        }
        let Accepted { socket, client, since } = accepted;
        let mut record = Record::inbound(client, destination, None, since);
        if let Err(failure) = self.judge(pod, &mut record) {
            return self.refuse(socket, record, failure);
        }
        match self.dial_application(pod, destination, client) {
            Ok((application, _)) => self.join_in_clear(pod, socket, record, application),
            Err(error) => {
                let reason = format!("connecting to the application at {destination} failed: {error}");
                self.refuse(socket, record, Failure::unreachable(reason));
            }
        }
    }

    /// Which policies hold for the pod is not known yet: it was enrolled before the control plane spoke of it.
    fn must_wait(&mut self, pod: &Pod) -> bool {
        self.shared.demand.is_some() && self.snapshots.load().workload(&pod.uid).is_none()
    }

    /// Whether the connection that `record` describes may be made to the pod.
    fn judge(&mut self, pod: &Pod, record: &mut Record) -> Result<(), Failure> {
        let destination = record.destination_address;
        if is_own_port(destination.port()) {
            return Err(Failure::denied(format!("port {} is the agent's own", destination.port())));
        }
        let snapshot = self.snapshots.load().clone();
        let Some(workload) = snapshot.workload(&pod.uid) else {
            return Err(Failure::denied(format!("the pod {} is not in the configuration any more", pod.uid)));
        };
        record.destination = Some(workload.clone());
        record.service = service_behind(&snapshot, workload, destination.port());
        record.source = snapshot.workload_by_address(record.client.ip()).cloned();
        let peer = Peer { identity: record.peer.as_ref(), source: record.client.ip(), destination };
        match snapshot.admit(workload, &peer) {
            Verdict::Allowed => Ok(()),
            // As it is right after, when it is captured no more.
            Verdict::Denied(_) if record.peer.is_none() && pod.is_leaving.load(Ordering::Relaxed) => Ok(()),
            Verdict::Denied(denial) => Err(Failure::denied(denial.to_string())),
        }
    }

    /// Starts a connection to the pod's application, which will see `client` as its peer. True: established already.
    fn dial_application(&self, pod: &Pod, destination: SocketAddr, client: SocketAddr) -> io::Result<(Socket, bool)> {
        let socket = pod.application_socket(&*self.shared.origin, destination.ip(), client)?;
        let source = pod.sockets.local_source(destination);
        let established = socket.connect(Some(source), destination)?;
        // For IPv4 the kernel refuses the connection itself.
        if destination.is_ipv6() && !self.shared.origin.is_client_known(socket.as_fd())? {
            // The application may have refused it meanwhile, which is the end of what was kept.
            if let Some(error) = socket.take_error() {
                return Err(error);
            }
            socket.abort();
            return Err(io::Error::other(
                "too many connections are being made: the client's address could not be kept",
            ));
        }
        Ok((socket, established))
    }

    /// A peer asks for a connection to the pod.
    pub(super) fn on_request(&mut self, key: Key, stream: StreamId, request: &Request) {
        let Some(tunnel) = self.tunnels.get(key) else { return };
        let (Role::Server { peer_address, local_address }, State::Open { peer, .. }) = (&tunnel.role, &tunnel.state)
        else {
            return;
        };
        let (peer_address, dialled, peer, pod) = (*peer_address, local_address.ip(), peer.clone(), tunnel.pod.clone());
        if !request.is_connect() {
            return self.answer(key, stream, 400);
        }
        let authority = request.authority.parse::<Authority>().ok();
        let Some(destination) = authority.and_then(|authority| authority.socket_addr()) else {
            return self.answer(key, stream, 400);
        };
        let snapshot = self.snapshots.load();
        let is_own_waypoint = snapshot
            .workload(&pod.uid)
            .is_some_and(|workload| snapshot.is_own_waypoint(workload, destination.port(), &peer));
        let client = client_address(peer_address, request.forwarded.as_deref(), is_own_waypoint);
        let mut record = Record::inbound(client, destination, Some(peer), self.now);
        record.set_tunnel(peer_address);
        // What was dialled is what the identity was proved for: another address of the pod is not it.
        let judged = if destination.ip() == dialled {
            self.judge(&pod, &mut record)
        } else {
            Err(Failure::misdirected(format!("{destination} is not the address that was dialled, {dialled}")))
        };
        if let Err(failure) = judged {
            self.answer(key, stream, failure.status());
            record.failure = Some(failure);
            return self.finish_record(&mut record, 0, 0);
        }
        let (socket, established) = match self.dial_application(&pod, destination, client) {
            Ok(dialled) => dialled,
            Err(error) => {
                self.answer(key, stream, 503);
                let reason = format!("connecting to the application at {destination} failed: {error}");
                record.failure = Some(Failure::unreachable(reason));
                return self.finish_record(&mut record, 0, 0);
            }
        };
        let mut flow = Flow::new(socket, pod, Some(Box::new(record)));
        flow.is_connecting = true;
        flow.link = Link::Stream { tunnel: key, stream };
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.streams += 1;
        let fd = flow.socket.as_raw_fd();
        let flow = self.flows.insert(flow);
        tunnel.http.set_token(stream, flow.to_bits());
        if request.end_stream {
            self.note_end(flow);
        }
        if let Err(error) = self.register(fd, Kind::Flow, flow) {
            return self.abort_flow(flow, Failure::ours(format!("watching the socket failed: {error}")));
        }
        if established {
            self.application_connected(flow);
        } else {
            self.timers.set(self.now + APPLICATION_TIMEOUT, Timer::Flow(flow));
        }
    }

    /// Answers a request and ends its stream.
    fn answer(&mut self, key: Key, stream: StreamId, status: u16) {
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.http.respond(stream, status, &[], true);
            // The client may still be sending: it is told that nobody listens. RFC 9113, 8.1.
            tunnel.http.reset(stream, ErrorCode::NO_ERROR);
            self.mark_dirty(key);
        }
    }

    /// The application has accepted: the peer learns it, and bytes flow.
    pub(super) fn application_connected(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.is_connecting = false;
        flow.is_writable = true;
        flow.is_readable = true;
        if let Link::Stream { tunnel: tunnel_key, stream } = flow.link {
            let baggage = flow.record.as_ref().and_then(|record| record.destination.as_ref());
            let baggage = baggage.map(|workload| self.baggage.of(workload));
            let Some(tunnel) = self.tunnels.get_mut(tunnel_key) else { return };
            match &baggage {
                Some(baggage) => tunnel.http.respond(stream, 200, &[("baggage", baggage)], false),
                None => tunnel.http.respond(stream, 200, &[], false),
            }
            self.mark_dirty(tunnel_key);
        }
        self.opened(key);
        self.write_on(key);
        self.queue_flow(key);
    }

    /// The application did not accept.
    pub(super) fn application_refused(&mut self, key: Key, error: &io::Error) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let destination = flow.record.as_ref().map(|record| record.destination_address);
        let link = std::mem::replace(&mut flow.link, Link::None);
        if let Link::Stream { tunnel, stream } = link {
            self.answer(tunnel, stream, 503);
            self.release_stream(tunnel);
        }
        let reason = match destination {
            Some(destination) => format!("connecting to the application at {destination} failed: {error}"),
            None => format!("connecting to the application failed: {error}"),
        };
        self.abort_flow(key, Failure::unreachable(reason));
    }
}

/// The service through which the client came, as far as the pod's side can tell: the first one that leads to this port.
fn service_behind(snapshot: &Snapshot, workload: &Workload, port: u16) -> Option<Arc<Service>> {
    let leads_here =
        |membership: &&weft_model::Membership| membership.ports.iter().any(|mapping| mapping.target_port == port);
    let membership = workload.services.iter().find(leads_here)?;
    snapshot.service(&membership.service).cloned()
}

/// The client's own address. The pod's own waypoint is believed, which carries the connections of others. Of anybody else the
/// address counts, and of what it says only the port is taken, since the connection's own port was left behind in the client's
/// agent and a lie about it decides nothing.
fn client_address(peer: SocketAddr, forwarded: Option<&str>, is_own_waypoint: bool) -> SocketAddr {
    let said = forwarded.and_then(|value| value.parse::<Forwarded>().ok()).and_then(|forwarded| forwarded.client);
    match said {
        Some((address, port)) if is_own_waypoint && address.is_ipv4() == peer.is_ipv4() => {
            SocketAddr::new(address, port.unwrap_or_default())
        }
        Some((address, Some(port))) if address.to_canonical() == peer.ip() => SocketAddr::new(peer.ip(), port),
        _ => peer,
    }
}
