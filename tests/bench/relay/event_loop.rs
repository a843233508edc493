//! The one loop: accepts, dials, and gives each pair its turns.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use crate::buffers::{Buffers, Chunk};
use crate::dial::Dialler;
use crate::pair::{self, Side, Turn};
use crate::preamble::Preamble;

/// The port on which relays listen for each other: what is dialled from one pod to another.
const RELAY_PORT: u16 = 15008;

/// Listeners have the tokens below; each pair has two above.
const LISTENERS: usize = 1024;

/// All sockets of one relay.
pub struct EventLoop {
    poll: Poll,
    listeners: Vec<Listener>,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    /// Places of pairs that ended in this turn, in which events of the old pair may still be under way.
    vacated: Vec<usize>,
    ready: VecDeque<usize>,
    buffers: Buffers,
}

struct Listener {
    socket: TcpListener,
    dialler: Arc<Dialler>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Captured connections of a pod.
    Captured,
    /// Connections of other relays.
    Relayed,
}

struct Pair {
    near: Side,
    stage: Stage,
    is_queued: bool,
}

enum Stage {
    /// The other relay has not said yet where to go.
    Greeted { received: Option<Chunk>, dialler: Arc<Dialler> },
    /// Both sockets exist; `preamble` is to be sent first on the far one.
    Joined { far: Side, is_connecting: bool, preamble: Option<Preamble> },
}

impl EventLoop {
    /// A loop without sockets.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            listeners: Vec::new(),
            pairs: Vec::new(),
            free: Vec::new(),
            vacated: Vec::new(),
            ready: VecDeque::new(),
            buffers: Buffers::default(),
        })
    }

    /// Adds the listeners of one pod.
    pub fn serve(&mut self, captured: Vec<OwnedFd>, relayed: Vec<OwnedFd>, dialler: Arc<Dialler>) -> io::Result<()> {
        let captured = captured.into_iter().map(|socket| (socket, Kind::Captured));
        let relayed = relayed.into_iter().map(|socket| (socket, Kind::Relayed));
        for (socket, kind) in captured.chain(relayed) {
            // Accepted sockets inherit it.
            SockRef::from(&socket).set_tcp_nodelay(true)?;
            let mut socket = TcpListener::from_std(StdListener::from(socket));
            self.poll.registry().register(&mut socket, Token(self.listeners.len()), Interest::READABLE)?;
            self.listeners.push(Listener { socket, dialler: Arc::clone(&dialler), kind });
        }
        Ok(())
    }

    /// Relays until the process is killed.
    pub fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let patience = if self.ready.is_empty() { None } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, patience) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                match event.token().0.checked_sub(LISTENERS) {
                    None => self.accept(event.token().0),
                    Some(socket) => self.wake(socket / 2, socket % 2 == 1, event),
                }
            }
            for _ in 0..self.ready.len() {
                let Some(index) = self.ready.pop_front() else { break };
                self.give_turn(index);
            }
            self.free.append(&mut self.vacated);
        }
    }

    fn accept(&mut self, listener: usize) {
        loop {
            let Listener { socket, dialler, kind } = &self.listeners[listener];
            match socket.accept() {
                Ok((accepted, client)) => {
                    let (dialler, kind) = (Arc::clone(dialler), *kind);
                    if let Err(error) = self.adopt(accepted, client, dialler, kind) {
                        eprintln!("a connection from {client} could not be relayed: {error}");
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return eprintln!("accepting a connection: {error}"),
            }
        }
    }

    fn adopt(&mut self, accepted: TcpStream, client: SocketAddr, dialler: Arc<Dialler>, kind: Kind) -> io::Result<()> {
        let near = Side::new(accepted);
        let stage = match kind {
            Kind::Relayed => Stage::Greeted { received: None, dialler },
            Kind::Captured => {
                let dial = || {
                    let destination = dialler.original_destination(near.socket.as_fd())?;
                    let far = dialler.relay(SocketAddr::new(destination.ip(), RELAY_PORT))?;
                    Ok((far, Preamble { destination, client }))
                };
                let (far, preamble) = dial().inspect_err(|_: &io::Error| near.abort())?;
                Stage::Joined { far: Side::new(far), is_connecting: true, preamble: Some(preamble) }
            }
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        let pair = self.pairs[index].insert(Pair { near, stage, is_queued: false });
        register(&self.poll, &mut pair.near, index, false)?;
        if let Stage::Joined { far, .. } = &mut pair.stage {
            register(&self.poll, far, index, true)?;
        }
        Ok(())
    }

    /// Notes what an event says about a socket and queues its pair.
    fn wake(&mut self, index: usize, is_far: bool, event: &Event) {
        let Some(pair) = &mut self.pairs[index] else { return };
        let side = match &mut pair.stage {
            Stage::Joined { far, is_connecting, .. } if is_far => {
                *is_connecting &= !(event.is_writable() || event.is_error());
                far
            }
            _ => &mut pair.near,
        };
        side.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        side.has_hangup |= event.is_read_closed() || event.is_error();
        // A reset passes on at once, also while nobody reads from this side.
        let is_broken = event.is_error() && !matches!(side.socket.take_error(), Ok(None));
        let is_flushed = is_broken || !event.is_writable() || side.flush(&mut self.buffers).is_ok();
        if is_broken || !is_flushed {
            return self.abort(index);
        }
        if !std::mem::replace(&mut pair.is_queued, true) {
            self.ready.push_back(index);
        }
    }

    fn give_turn(&mut self, index: usize) {
        let Some(pair) = &mut self.pairs[index] else { return };
        pair.is_queued = false;
        let result = match &mut pair.stage {
            Stage::Joined { is_connecting: true, .. } => Ok(Turn::Wait),
            Stage::Joined { far, preamble, .. } => pair::turn(&mut pair.near, far, preamble, &mut self.buffers),
            Stage::Greeted { received, dialler } => greet(&mut pair.near, received, dialler, &mut self.buffers)
                .and_then(|far| {
                    if let Some(mut far) = far {
                        register(&self.poll, &mut far, index, true)?;
                        pair.stage = Stage::Joined { far, is_connecting: true, preamble: None };
                    }
                    Ok(Turn::Wait)
                }),
        };
        match result {
            Ok(Turn::Wait) => {}
            Ok(Turn::GoOn) => {
                pair.is_queued = true;
                self.ready.push_back(index);
            }
            Ok(Turn::Complete) => self.remove(index),
            Err(_) => self.abort(index),
        }
    }

    /// Ends both connections with a reset.
    fn abort(&mut self, index: usize) {
        if let Some(pair) = &self.pairs[index] {
            pair.near.abort();
            if let Stage::Joined { far, .. } = &pair.stage {
                far.abort();
            }
        }
        self.remove(index);
    }

    fn remove(&mut self, index: usize) {
        self.pairs[index] = None;
        self.vacated.push(index);
    }
}

/// Reads the preamble and dials the application; what came behind the preamble waits to be sent there.
fn greet(
    near: &mut Side,
    received: &mut Option<Chunk>,
    dialler: &Dialler,
    buffers: &mut Buffers,
) -> io::Result<Option<Side>> {
    let mut chunk = received.take().unwrap_or_else(|| Chunk { buffer: buffers.take(), waiting: 0..0 });
    if let Some(length) = near.read(&mut chunk.buffer[chunk.waiting.end..])? {
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        chunk.waiting.end += length;
    }
    let Some(preamble) = Preamble::parse(chunk.bytes()) else {
        *received = Some(chunk);
        return Ok(None);
    };
    let mut far = Side::new(dialler.application(preamble.destination, preamble.client)?);
    chunk.waiting.start = Preamble::LENGTH;
    if chunk.waiting.is_empty() {
        buffers.give_back(chunk.buffer);
    } else {
        far.unsent = Some(chunk);
    }
    Ok(Some(far))
}

fn register(poll: &Poll, side: &mut Side, index: usize, is_far: bool) -> io::Result<()> {
    let token = Token(LISTENERS + index * 2 + usize::from(is_far));
    poll.registry().register(&mut side.socket, token, Interest::READABLE | Interest::WRITABLE)
}
