//! Connections that are opened and kept.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::MESSAGE;

/// How many to keep, and how fast they come.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The server that echoes.
    #[arg(long)]
    to: SocketAddr,
    /// How many connections are kept.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// How many of them are opened, and ask, before the first answer is waited for.
    #[arg(long, default_value_t = 1)]
    burst: usize,
}

/// Opens them, prints `holding` once each has had its own bytes back, and keeps them.
pub fn run(options: &Options) -> Result<()> {
    let mut kept = Vec::with_capacity(options.connections);
    while kept.len() < options.connections {
        let burst = options.burst.clamp(1, options.connections - kept.len());
        let first = kept.len();
        for number in first..first + burst {
            kept.push(ask(options.to, number).with_context(|| format!("opening connection {number} of a burst"))?);
        }
        for (number, stream) in kept.iter_mut().enumerate().skip(first) {
            check(stream, number).with_context(|| format!("the answer on connection {number}"))?;
        }
    }
    println!("holding {}", kept.len());
    loop {
        thread::park();
    }
}

fn ask(to: SocketAddr, number: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&message(number))?;
    Ok(stream)
}

fn check(stream: &mut TcpStream, number: usize) -> Result<()> {
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer)?;
    ensure!(answer == message(number), "holds the bytes of another connection");
    Ok(())
}

/// Bytes that tell one connection from another.
fn message(number: usize) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    for (at, byte) in message.iter_mut().enumerate() {
        *byte = (number * 7 + at + (number >> 8)) as u8;
    }
    message[..8].copy_from_slice(&(number as u64).to_be_bytes());
    message
}
