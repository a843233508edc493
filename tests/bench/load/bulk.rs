//! Streams that send as much as is taken.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;

use crate::window::{self, Window};

/// What one write offers to the kernel.
const CHUNK: usize = 256 * 1024;
/// Writes on one stream before it is another's turn.
const WRITES_PER_TURN: usize = 4;

/// What to send where.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The server that counts.
    #[arg(long)]
    to: SocketAddr,
    /// How many streams send at the same time.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    #[command(flatten)]
    window: window::Options,
}

/// Sends until the window is over.
pub fn run(options: &Options) -> Result<Value> {
    let (measured, ()) = window::measure(&options.window, |window| send(options, window))?;
    Ok(measured.to_json())
}

fn send(options: &Options, window: &Window) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::with_capacity(options.streams);
    for index in 0..options.streams {
        let mut stream = connect(options.to)?;
        poll.registry().register(&mut stream, Token(index), Interest::WRITABLE)?;
        streams.push(stream);
    }
    // Not all zeros, lest anything on the way treats them in a special manner.
    let chunk: Vec<u8> = (0..CHUNK).map(|at| (at * 31 / 7) as u8).collect();
    let mut events = Events::with_capacity(256);
    let mut is_ready = vec![false; streams.len()];
    let mut ready = VecDeque::new();
    while !window.is_over() {
        let patience = if ready.is_empty() { Duration::from_millis(50) } else { Duration::ZERO };
        match poll.poll(&mut events, Some(patience)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            if !std::mem::replace(&mut is_ready[index], true) {
                ready.push_back(index);
            }
        }
        for _ in 0..ready.len() {
            let Some(index) = ready.pop_front() else { break };
            if offer(&mut streams[index], &chunk)? {
                ready.push_back(index);
            } else {
                is_ready[index] = false;
            }
        }
    }
    Ok(())
}

/// Writes what the kernel takes, up to a turn's worth. False when it would take no more.
fn offer(stream: &mut TcpStream, chunk: &[u8]) -> Result<bool> {
    for _ in 0..WRITES_PER_TURN {
        match stream.write(chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("a stream was ended from the other side"),
        }
    }
    Ok(true)
}

/// A connection for a readiness loop, established.
pub fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5))
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}
