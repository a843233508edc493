//! The servers: one that swallows bytes and counts them, one that echoes messages, one that says what was counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::MESSAGE;
use crate::window::Received;

/// What one read of a sink takes.
const READ: usize = 256 * 1024;
/// Reads on one connection before it is another's turn.
const READS_PER_TURN: usize = 4;

/// Where to listen.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Swallows and counts here.
    #[arg(long)]
    sink: SocketAddr,
    /// Echoes messages here.
    #[arg(long)]
    echo: SocketAddr,
    /// Says what was counted on a Unix socket here: outside the network that is measured.
    #[arg(long)]
    control: Option<PathBuf>,
}

const SINK: Token = Token(0);
const ECHO: Token = Token(1);
const CONTROL: Token = Token(2);
const FIRST: usize = 3;

struct Server {
    poll: Poll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that may have more to read than they were given time for.
    ready: VecDeque<usize>,
    started: Instant,
    received: u64,
    buffer: Vec<u8>,
}

struct Connection {
    kind: Kind,
    is_ready: bool,
    /// The other side has ended its stream: a read that is not full does not mean that the socket is empty.
    has_hangup: bool,
}

enum Kind {
    Sink(TcpStream),
    Echo { stream: TcpStream, message: Box<[u8; MESSAGE]>, received: usize },
    Control(UnixStream),
}

enum After {
    Wait,
    GoOn,
    Close,
}

/// Serves until the process is killed.
pub fn run(options: &Options) -> Result<()> {
    let mut server = Server {
        poll: Poll::new()?,
        connections: Vec::new(),
        free: Vec::new(),
        ready: VecDeque::new(),
        started: Instant::now(),
        received: 0,
        buffer: vec![0; READ],
    };
    let mut sink = listen(options.sink)?;
    let mut echo = listen(options.echo)?;
    let registry = server.poll.registry();
    registry.register(&mut sink, SINK, Interest::READABLE)?;
    registry.register(&mut echo, ECHO, Interest::READABLE)?;
    let mut control = None;
    if let Some(path) = &options.control {
        let listener = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
        registry.register(control.insert(listener), CONTROL, Interest::READABLE)?;
    }
    println!("serving");
    let mut events = Events::with_capacity(1024);
    loop {
        let patience = if server.ready.is_empty() { None } else { Some(Duration::ZERO) };
        match server.poll.poll(&mut events, patience) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token() {
                SINK => server.accept(|| Ok(Kind::Sink(sink.accept()?.0)))?,
                ECHO => server.accept(|| {
                    let stream = echo.accept()?.0;
                    Ok(Kind::Echo { stream, message: Box::new([0; MESSAGE]), received: 0 })
                })?,
                CONTROL => server.accept(|| match &control {
                    Some(control) => Ok(Kind::Control(control.accept()?.0)),
                    None => Err(ErrorKind::WouldBlock.into()),
                })?,
                Token(token) => server.wake(token - FIRST, event.is_read_closed() || event.is_error()),
            }
        }
        for _ in 0..server.ready.len() {
            let Some(index) = server.ready.pop_front() else { break };
            server.serve(index);
        }
    }
}

impl Server {
    fn accept(&mut self, mut accept: impl FnMut() -> io::Result<Kind>) -> Result<()> {
        loop {
            let mut kind = match accept() {
                Ok(kind) => kind,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Reset while it waited in the queue.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error).context("accepting a connection"),
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            kind.register(self.poll.registry(), Token(FIRST + index))?;
            self.connections[index] = Some(Connection { kind, is_ready: false, has_hangup: false });
        }
    }

    fn wake(&mut self, index: usize, has_hangup: bool) {
        let Some(connection) = &mut self.connections[index] else { return };
        connection.has_hangup |= has_hangup;
        if !std::mem::replace(&mut connection.is_ready, true) {
            self.ready.push_back(index);
        }
    }

    fn serve(&mut self, index: usize) {
        let Some(mut connection) = self.connections[index].take() else { return };
        // An error is the other side's reset.
        match self.turn(&mut connection).unwrap_or(After::Close) {
            After::Close => {
                self.free.push(index);
                return;
            }
            After::Wait => connection.is_ready = false,
            After::GoOn => self.ready.push_back(index),
        }
        self.connections[index] = Some(connection);
    }

    fn turn(&mut self, connection: &mut Connection) -> io::Result<After> {
        let has_hangup = connection.has_hangup;
        match &mut connection.kind {
            Kind::Sink(stream) => {
                for _ in 0..READS_PER_TURN {
                    match read(stream, &mut self.buffer)? {
                        None => return Ok(After::Wait),
                        Some(0) => return Ok(After::Close),
                        Some(length) => {
                            self.received += length as u64;
                            if length < READ && !has_hangup {
                                return Ok(After::Wait);
                            }
                        }
                    }
                }
                Ok(After::GoOn)
            }
            Kind::Echo { stream, message, received } => {
                while let Some(length) = read(stream, &mut message[*received..])? {
                    if length == 0 {
                        return Ok(After::Close);
                    }
                    *received += length;
                    if *received == MESSAGE {
                        *received = 0;
                        stream.write_all(&message[..])?;
                        // A client asks again when it has the answer: only its end can be waiting here.
                        if !has_hangup {
                            return Ok(After::Wait);
                        }
                    }
                }
                Ok(After::Wait)
            }
            Kind::Control(stream) => {
                let mut question = [0; 1];
                while let Some(length) = read(stream, &mut question)? {
                    if length == 0 {
                        return Ok(After::Close);
                    }
                    let answer = Received { bytes: self.received, at: self.started.elapsed() };
                    stream.write_all(&answer.to_bytes())?;
                }
                Ok(After::Wait)
            }
        }
    }
}

impl Kind {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Self::Sink(stream) | Self::Echo { stream, .. } => stream,
            Self::Control(stream) => stream,
        };
        source.register(registry, token, Interest::READABLE)
    }
}

/// Reads once; `None` when the socket is empty.
fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(buffer) {
            Ok(length) => return Ok(Some(length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listen = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(socket)
    };
    let socket = listen().with_context(|| format!("listening on {address}"))?;
    Ok(TcpListener::from_std(socket.into()))
}
