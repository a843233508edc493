//! Connections that ask and wait for the answer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

use crate::MESSAGE;
use crate::bulk::connect;
use crate::latency::Latencies;
use crate::window::{self, Window};

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The server that echoes.
    #[arg(long)]
    to: SocketAddr,
    /// How many connections ask at the same time.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[command(flatten)]
    window: window::Options,
}

struct Asking {
    stream: TcpStream,
    asked: Instant,
    received: usize,
}

/// Asks until the window is over.
pub fn run(options: &Options) -> Result<Value> {
    let (measured, latencies) = window::measure(&options.window, |window| ask(options, window))?;
    let mut result = measured.to_json();
    result["rate"] = json!(latencies.count() as f64 / measured.seconds);
    result["latency"] = latencies.into_json();
    Ok(result)
}

fn ask(options: &Options, window: &Window) -> Result<Latencies> {
    let mut poll = Poll::new()?;
    let mut asking = Vec::with_capacity(options.connections);
    for index in 0..options.connections {
        let mut stream = connect(options.to)?;
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        asking.push(Asking { stream, asked: Instant::now(), received: 0 });
    }
    let mut buffer = [0x5a; MESSAGE];
    for connection in &mut asking {
        connection.ask(&buffer)?;
    }
    let mut events = Events::with_capacity(1024);
    let mut latencies = Latencies::default();
    while !window.is_over() {
        match poll.poll(&mut events, Some(Duration::from_millis(50))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let connection = &mut asking[event.token().0];
            if !connection.receive(&mut buffer)? {
                continue;
            }
            if window.is_open() {
                latencies.add(connection.asked.elapsed());
            }
            connection.ask(&buffer)?;
        }
    }
    Ok(latencies)
}

impl Asking {
    fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.asked = Instant::now();
        self.received = 0;
        // A request is far smaller than the send buffer, which is empty now.
        let sent = self.stream.write(request).context("sending a request")?;
        ensure!(sent == request.len(), "the kernel took {sent} bytes of a request");
        Ok(())
    }

    /// Reads what there is of the answer. True when it is complete: there is nothing behind it, so that no further read
    /// is needed to learn that the socket is empty.
    fn receive(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<bool> {
        while self.received < MESSAGE {
            match self.stream.read(&mut buffer[self.received..]) {
                Ok(0) => anyhow::bail!("a connection was closed before the answer was complete"),
                Ok(length) => self.received += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("receiving an answer"),
            }
        }
        Ok(true)
    }
}
