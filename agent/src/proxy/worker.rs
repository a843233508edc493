//! One worker: a thread with its own event loop, listeners, tunnels and flows.
//!
//! A turn of the loop takes the readiness events, does a bounded amount of work for each socket, lets a few
//! handshakes advance, and then writes out what the turn gathered for each tunnel, so that what arrives together
//! leaves together. Sockets are registered once, edge-triggered; readiness is remembered in the entries.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::baggage::BaggageCache;
use super::buffers::BufferPool;
use super::flow::Flow;
use super::handshake::OpenHandshakes;
use super::held::HeldConnections;
use super::pod::Pod;
use super::pool::Pool;
use super::record::{Direction, Record};
use super::table::{Key, Table};
use super::timers::{Timer, Timers};
use super::tunnel::{State, Tunnel};
use super::{Command, PodListeners, Shared};
use crate::telemetry::WorkerMetrics;
use crate::telemetry::tcp::SeriesCache;

/// Handshakes that may advance in one turn: each costs up to a millisecond of public-key work.
const HANDSHAKES_PER_TURN: usize = 4;
/// Connections taken from one listener in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How often that is done for each listener before it is closed.
const DRAIN_ACCEPTS: usize = 256;
/// A pause after running out of descriptors or memory while accepting.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
pub(super) const WAKE: Token = Token(usize::MAX);
const KINDS: usize = 4;
/// How far behind the metrics may be with the bytes of a connection that lives.
const ACCOUNT_INTERVAL: Duration = Duration::from_secs(5);

/// What a token's number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Listener = 0,
    Flow = 1,
    Tunnel = 2,
    Held = 3,
}

/// What a listener's connections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// 15001: captured connections of the pod.
    Outbound,
    /// 15006: captured plaintext connections to the pod.
    Inbound,
    /// 15008: tunnels of peers.
    Hbone,
}

/// A connection as it came from a listener.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: super::socket::Socket,
    pub(super) client: std::net::SocketAddr,
    pub(super) since: Instant,
}

pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    pub(super) pod: Arc<Pod>,
    pub(super) port: Port,
    pub(super) is_readable: bool,
    is_queued: bool,
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) snapshots: weft_model::SnapshotReader,
    pub(super) series: SeriesCache,
    pub(super) baggage: BaggageCache,
    metrics: WorkerMetrics,
    poll: Poll,
    commands: Receiver<Command>,
    pub(super) listeners: Table<Listener>,
    pub(super) flows: Table<Flow>,
    pub(super) tunnels: Table<Tunnel>,
    pub(super) pool: Pool,
    pub(super) held: HeldConnections,
    /// On demand: where connections went since that was last asked.
    pub(super) talked_to: HashSet<IpAddr>,
    pub(super) timers: Timers,
    pub(super) handshakes: VecDeque<Key>,
    acceptors: VecDeque<Key>,
    /// Tunnels with bytes to receive.
    receivers: VecDeque<Key>,
    /// Plain pairs with bytes to move, by the side to read.
    pub(super) relays: VecDeque<Key>,
    /// Tunnels with something to send at the end of the turn.
    pub(super) dirty: VecDeque<Key>,
    pub(super) dead_flows: Vec<Key>,
    pub(super) dead_tunnels: Vec<Key>,
    pub(super) receive_buffer: Vec<u8>,
    pub(super) send_buffers: BufferPool,
    pub(super) segments: Vec<super::receive::Segment>,
    pub(super) now: Instant,
    judged_generation: u64,
    pub(super) is_draining: bool,
    pub(super) open_handshakes: OpenHandshakes,
    /// A timer is set for listeners that were left waiting.
    awaits_accept: bool,
    is_stopped: bool,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, metrics: WorkerMetrics, poll: Poll, commands: Receiver<Command>) -> Self {
        let snapshots = shared.snapshots.reader();
        Self {
            snapshots,
            series: SeriesCache::new(shared.metrics.tcp.clone(), Instant::now()),
            baggage: BaggageCache::default(),
            metrics,
            poll,
            commands,
            listeners: Table::default(),
            flows: Table::default(),
            tunnels: Table::default(),
            pool: Pool::default(),
            held: HeldConnections::default(),
            talked_to: HashSet::new(),
            timers: Timers::default(),
            handshakes: VecDeque::new(),
            acceptors: VecDeque::new(),
            receivers: VecDeque::new(),
            relays: VecDeque::new(),
            dirty: VecDeque::new(),
            dead_flows: Vec::new(),
            dead_tunnels: Vec::new(),
            receive_buffer: vec![0; super::receive::BUFFER],
            send_buffers: BufferPool::new(super::send::BUFFER),
            segments: Vec::new(),
            now: Instant::now(),
            judged_generation: 0,
            is_draining: false,
            open_handshakes: OpenHandshakes::default(),
            awaits_accept: false,
            is_stopped: false,
            shared,
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        self.timers.set(self.now + ACCOUNT_INTERVAL, Timer::Account);
        while !self.is_stopped {
            let timeout = if self.has_work() { Some(Duration::ZERO) } else { self.timers.next_in(Instant::now()) };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Without its event loop a worker can serve nobody; the process ends and its supervisor starts it anew.
                    tracing::error!(%error, "epoll_wait failed: this agent cannot go on");
                    std::process::abort();
                }
            }
            self.now = Instant::now();
            for event in &events {
                if event.token() == WAKE {
                    continue;
                }
                self.dispatch(event);
            }
            self.turn();
            let took = self.now.elapsed();
            if self.metrics.turn(took) {
                tracing::debug!(milliseconds = took.as_millis(), "a turn of the worker took long");
            }
        }
    }

    fn has_work(&self) -> bool {
        !(self.handshakes.is_empty()
            && self.acceptors.is_empty()
            && self.receivers.is_empty()
            && self.relays.is_empty()
            && self.dirty.is_empty())
    }

    /// One turn's work after the events are noted.
    fn turn(&mut self) {
        self.series.age(self.now);
        while let Some(timer) = self.timers.due(self.now) {
            self.on_timer(timer);
        }
        while let Ok(command) = self.commands.try_recv() {
            self.on_command(command);
        }
        self.judge_again_if_policies_moved();
        self.look_at_held();
        for _ in 0..self.acceptors.len() {
            if let Some(key) = self.acceptors.pop_front() {
                self.accept(key);
            }
        }
        for _ in 0..self.receivers.len() {
            if let Some(key) = self.receivers.pop_front() {
                self.receive(key);
            }
        }
        for _ in 0..self.relays.len() {
            if let Some(key) = self.relays.pop_front() {
                self.relay(key);
            }
        }
        for _ in 0..self.handshakes.len().min(HANDSHAKES_PER_TURN) {
            if let Some(key) = self.handshakes.pop_front() {
                self.advance_handshake(key);
            }
        }
        for _ in 0..self.dirty.len() {
            if let Some(key) = self.dirty.pop_front() {
                self.send(key);
            }
        }
        // Places are reused only in a later turn: an event of this one never reaches a newcomer.
        for key in self.dead_flows.drain(..) {
            self.flows.remove(key);
        }
        for key in self.dead_tunnels.drain(..) {
            self.tunnels.remove(key);
        }
        self.held.free();
    }

    fn dispatch(&mut self, event: &mio::event::Event) {
        let (index, kind) = (event.token().0 / KINDS, event.token().0 % KINDS);
        if kind == Kind::Flow as usize {
            if let Some(key) = self.flows.key_at(index) {
                self.on_flow_event(key, event);
            }
        } else if kind == Kind::Tunnel as usize {
            if let Some(key) = self.tunnels.key_at(index) {
                self.on_tunnel_event(key, event);
            }
        } else if kind == Kind::Held as usize {
            if let Some(key) = self.held.key_at(index) {
                self.on_held_event(key, event);
            }
        } else if let Some(key) = self.listeners.key_at(index) {
            self.queue_accept(key);
        }
    }

    fn on_tunnel_event(&mut self, key: Key, event: &mio::event::Event) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if tunnel.is_dead {
            return;
        }
        if tunnel.awaits_redial {
            return;
        }
        tunnel.has_hangup |= event.is_read_closed() || event.is_error();
        tunnel.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        let writable = event.is_writable() || event.is_error();
        tunnel.is_writable |= writable;
        match tunnel.state {
            State::Connecting if writable => self.tunnel_connected(key),
            State::Connecting => {}
            State::Handshaking { .. } => {
                if !tunnel.is_queued {
                    tunnel.is_queued = true;
                    self.handshakes.push_back(key);
                }
            }
            State::Open { .. } => {
                if tunnel.is_readable && !tunnel.is_queued {
                    tunnel.is_queued = true;
                    self.receivers.push_back(key);
                }
                if writable {
                    self.mark_dirty(key);
                }
            }
        }
    }

    /// Queues a tunnel whose socket may hold more.
    pub(super) fn queue_receive(&mut self, key: Key) {
        self.receivers.push_back(key);
    }

    /// Has the tunnel write, at the end of the turn, what was gathered for it.
    pub(super) fn mark_dirty(&mut self, key: Key) {
        if let Some(tunnel) = self.tunnels.get_mut(key)
            && !tunnel.is_dirty
            && !tunnel.is_dead
        {
            tunnel.is_dirty = true;
            self.dirty.push_back(key);
        }
    }

    /// Watches a socket for as long as it is open.
    pub(super) fn register(&self, fd: RawFd, kind: Kind, key: Key) -> io::Result<()> {
        let token = Token(key.index() * KINDS + kind as usize);
        self.poll.registry().register(
            &mut SourceFd(&fd),
            token,
            Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY,
        )
    }

    /// Watches a socket no more, which stays open.
    pub(super) fn unregister(&self, fd: RawFd) {
        // It fails when the socket was not watched.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    fn queue_accept(&mut self, key: Key) {
        if let Some(listener) = self.listeners.get_mut(key) {
            listener.is_readable = true;
            if !listener.is_queued {
                listener.is_queued = true;
                self.acceptors.push_back(key);
            }
        }
    }

    fn accept(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        listener.is_queued = false;
        let (port, pod) = (listener.port, listener.pod.clone());
        for _ in 0..ACCEPTS_PER_TURN {
            if port == Port::Hbone && !self.open_handshakes.has_room(&pod) {
                // Strangers who open and say nothing must not grow the agent: the rest waits in the backlog, briefly.
                self.accept_later();
                return;
            }
            let Some(listener) = self.listeners.get_mut(key) else { return };
            match super::socket::Socket::accept(listener.socket.as_fd()) {
                Ok(Some((socket, client))) => {
                    let accepted = Accepted { socket, client, since: self.now };
                    match port {
                        Port::Outbound => self.accept_outbound(&pod, accepted),
                        Port::Inbound => self.accept_inbound(&pod, accepted),
                        Port::Hbone => self.accept_tunnel(&pod, accepted),
                    }
                }
                Ok(None) => {
                    listener.is_readable = false;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, pod = %pod.uid, "accept failed, trying again shortly: is RLIMIT_NOFILE too low?");
                    self.accept_later();
                    return;
                }
            }
        }
        self.queue_accept(key);
    }

    /// Has all listeners looked at again after a pause.
    fn accept_later(&mut self) {
        if !self.awaits_accept {
            self.awaits_accept = true;
            self.timers.set(self.now + ACCEPT_PAUSE, Timer::Accept);
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Tunnel(key) => self.on_tunnel_timer(key),
            Timer::Closing(key) => self.on_closing_timer(key),
            Timer::Redial(key) => self.redial(key),
            Timer::Flow(key) => self.on_flow_timer(key),
            Timer::Held(key) => self.on_held_timer(key),
            Timer::Account => self.account(),
            Timer::Accept => {
                self.awaits_accept = false;
                for key in self.listeners.keys_where(|listener| listener.is_readable) {
                    self.queue_accept(key);
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Listen { pod, listeners } => self.listen(&pod, listeners),
            Command::CloseListeners { pod } => self.take_what_waits(|listener| Arc::ptr_eq(&listener.pod, &pod)),
            Command::Forget { pod } => self.forget(&pod),
            Command::Connections { reply } => {
                // Nobody may be waiting any more.
                let mut connections = self.connections();
                connections.extend(self.held_connections());
                let _ = reply.send(connections);
            }
            Command::TalkedTo { reply } => {
                let _ = reply.send(self.talked_to());
            }
            Command::Count { reply } => {
                let tunnels = self.tunnels.iter().filter(|(_, tunnel)| tunnel.is_in_use()).count();
                let _ = reply.send((self.flows.len() + self.held.len(), tunnels));
            }
            Command::Drain => self.drain(),
            Command::Stop => {
                self.abort_everything();
                self.is_stopped = true;
            }
        }
    }

    fn listen(&mut self, pod: &Arc<Pod>, listeners: PodListeners) {
        let ports =
            [(Port::Outbound, listeners.outbound), (Port::Inbound, listeners.inbound), (Port::Hbone, listeners.hbone)];
        for (port, sockets) in ports {
            for socket in sockets {
                if let Err(error) = super::socket::tune(socket.as_fd()) {
                    tracing::warn!(%error, pod = %pod.uid, "setting options of a listener failed");
                }
                let fd = socket.as_raw_fd();
                let key = self.listeners.insert(Listener {
                    socket,
                    pod: pod.clone(),
                    port,
                    is_readable: false,
                    is_queued: false,
                });
                if let Err(error) = self.register(fd, Kind::Listener, key) {
                    tracing::error!(%error, pod = %pod.uid, "a listener cannot be watched: its connections will hang");
                }
                // A connection may have come before the registration.
                self.queue_accept(key);
            }
        }
    }

    pub(super) fn close_listeners(&mut self, wanted: impl FnMut(&Listener) -> bool) {
        for key in self.listeners.keys_where(wanted) {
            self.listeners.remove(key);
        }
    }

    /// Whom the pods have connections with, or had some to since this was last asked.
    fn talked_to(&mut self) -> HashSet<IpAddr> {
        let mut found = std::mem::take(&mut self.talked_to);
        let records = self.flows.iter().filter_map(|(_, flow)| flow.record.as_deref());
        let address = |record: &Record| match record.direction {
            Direction::Outbound => record.destination_address.ip(),
            Direction::Inbound => record.client.ip(),
        };
        found.extend(records.map(|record| address(record).to_canonical()));
        found
    }

    /// Counts what the live connections have carried since the last time.
    fn account(&mut self) {
        for key in self.flows.keys_where(|flow| flow.record.is_some()) {
            let Some(flow) = self.flows.get_mut(key) else { continue };
            let (read, written) = (flow.read_bytes, flow.written_bytes);
            if let Some(record) = flow.record.as_deref_mut() {
                record.account(read, written);
            }
        }
        self.give_up_unanswered();
        self.timers.set(self.now + ACCOUNT_INTERVAL, Timer::Account);
    }

    /// Ends the live connections that the policies in force no longer allow, and only those.
    fn judge_again_if_policies_moved(&mut self) {
        let snapshot = self.snapshots.load().clone();
        let generation = snapshot.policy_generation();
        if generation == self.judged_generation {
            return;
        }
        self.judged_generation = generation;
        for key in self.flows.keys_where(|flow| flow.record.is_some()) {
            let Some(denial) = self.flows.get(key).and_then(|flow| super::inbound::judge_again(&snapshot, flow)) else {
                continue;
            };
            self.abort_flow(key, super::record::Failure::denied(format!("no longer allowed: {denial}")));
        }
    }

    /// Closes listeners. What the kernel has accepted already is carried: closing a listener resets what waits in it.
    fn take_what_waits(&mut self, wanted: impl Fn(&Listener) -> bool) {
        for key in self.listeners.keys_where(&wanted) {
            for _ in 0..DRAIN_ACCEPTS {
                self.accept(key);
                if self.listeners.get(key).is_none_or(|listener| !listener.is_readable) {
                    break;
                }
            }
        }
        self.close_listeners(wanted);
    }

    fn drain(&mut self) {
        self.is_draining = true;
        self.take_what_waits(|_| true);
        for key in self.tunnels.keys_where(|tunnel| tunnel.is_open()) {
            if let Some(tunnel) = self.tunnels.get_mut(key) {
                tunnel.drain(self.now);
            }
            self.mark_dirty(key);
            self.close_tunnel_if_unused(key);
        }
    }
}
