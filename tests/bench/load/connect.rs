//! Connections that are opened for one request each.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

use crate::MESSAGE;
use crate::latency::Latencies;
use crate::window::{self, Window};

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The server that echoes.
    #[arg(long)]
    to: SocketAddr,
    /// How many connections there are at a time.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    #[command(flatten)]
    window: window::Options,
}

/// Opens connections until the window is over. One that fails is counted, and the first error is in the result.
pub fn run(options: &Options) -> Result<Value> {
    let (measured, counted) = window::measure(&options.window, |window| open(options, window))?;
    let mut result = measured.to_json();
    result["rate"] = json!(counted.latencies.count() as f64 / measured.seconds);
    result["failed"] = json!(counted.failed);
    result["error"] = json!(counted.error);
    result["latency"] = counted.latencies.into_json();
    Ok(result)
}

#[derive(Default)]
struct Counted {
    latencies: Latencies,
    failed: usize,
    error: Option<String>,
}

struct Exchange {
    stream: TcpStream,
    begun: Instant,
    has_asked: bool,
    received: usize,
}

fn open(options: &Options, window: &Window) -> Result<Counted> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut counted = Counted::default();
    let mut exchanges: Vec<Option<Exchange>> = Vec::new();
    exchanges.resize_with(options.parallel, || None);
    while !window.is_over() {
        for (index, slot) in exchanges.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
            match Exchange::begin(options.to, &poll, Token(index)) {
                Ok(exchange) => *slot = Some(exchange),
                Err(error) => {
                    counted.note(&error);
                    // Refused at once, as when all ports are in use: trying again at once would only spin.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        match poll.poll(&mut events, Some(Duration::from_millis(50))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let slot = &mut exchanges[event.token().0];
            let Some(exchange) = slot else { continue };
            match exchange.go_on() {
                Ok(false) => {}
                Ok(true) => {
                    if window.is_open() {
                        counted.latencies.add(exchange.begun.elapsed());
                    }
                    *slot = None;
                }
                Err(error) => {
                    counted.note(&error);
                    *slot = None;
                }
            }
        }
    }
    Ok(counted)
}

impl Counted {
    fn note(&mut self, error: &io::Error) {
        self.failed += 1;
        self.error.get_or_insert_with(|| error.to_string());
    }
}

impl Exchange {
    fn begin(to: SocketAddr, poll: &Poll, token: Token) -> io::Result<Self> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(to)?;
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, begun, has_asked: false, received: 0 })
    }

    /// Does what the socket allows. True when the answer is complete.
    fn go_on(&mut self) -> io::Result<bool> {
        if !self.has_asked {
            match self.stream.write(&[0x5a; MESSAGE]) {
                Ok(MESSAGE) => self.has_asked = true,
                Ok(_) => return Err(ErrorKind::WriteZero.into()),
                // Not yet established; an event will come.
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::NotConnected => {}
                Err(error) => return Err(error),
            }
            return Ok(false);
        }
        let mut buffer = [0; MESSAGE];
        while self.received < MESSAGE {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.received += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
