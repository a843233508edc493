//! Opens tunnels through a cleartext HTTP/2 proxy to a server that echoes, and checks what comes back:
//!
//! ```text
//! cargo run -p weft-hbone --example h2c_client -- PROXY AUTHORITY [TUNNELS [BYTES]]
//! cargo run -p weft-hbone --example h2c_client -- 127.0.0.1:8480 10.0.0.1:80 50 1000000
//! ```
//!
//! A tunnel is reset once everything has come back, since not every proxy passes a half close on. The proxy may be
//! the `h2c_server` example, or nghttpx with `--http2-proxy` and an echoing HTTP/1.1 proxy behind it.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
};

use weft_hbone::{Config, ConnectRequest, Connection, ErrorCode, Event, StreamId};

/// What was sent on a tunnel and what came back, of the same bytes for all.
#[derive(Default)]
struct Tunnel {
    sent: usize,
    received: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(proxy), Some(authority)) = (arguments.next(), arguments.next()) else {
        return Err("usage: h2c_client PROXY AUTHORITY [TUNNELS [BYTES]]".into());
    };
    let tunnels: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let content: Vec<u8> = (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();

    let mut socket = TcpStream::connect(&proxy)?;
    socket.set_nodelay(true)?;
    // Reading goes on while writing waits: the other end may do one only after the other.
    let mut reader = socket.try_clone()?;
    let (sender, arrived) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });

    let mut connection = Connection::client(Config::default());
    let mut open: BTreeMap<StreamId, Tunnel> = BTreeMap::new();
    let mut opened = 0;
    loop {
        while opened < tunnels && connection.can_open() {
            let request = ConnectRequest { authority: &authority, ..ConnectRequest::default() };
            open.insert(connection.open(&request, 0)?, Tunnel::default());
            opened += 1;
        }
        let mut wire = std::mem::take(connection.output());
        for (stream, tunnel) in &mut open {
            loop {
                let left = bytes - tunnel.sent;
                let length = left.min(connection.send_window(*stream)).min(connection.max_data());
                if length == 0 {
                    break;
                }
                wire.extend_from_slice(&connection.data_header(*stream, length, false));
                wire.extend_from_slice(&content[tunnel.sent..][..length]);
                tunnel.sent += length;
            }
        }
        socket.write_all(&wire)?;
        if open.is_empty() {
            println!("{tunnels} tunnels returned {bytes} bytes each");
            return Ok(());
        }

        let input = arrived.recv().map_err(|_| "the proxy closed the connection")?;
        let mut input = &input[..];
        while let Some(event) = connection.receive(&mut input)? {
            match event {
                Event::Response { status: 200, .. } => {}
                Event::Data { stream, payload, end_stream: false, .. } => {
                    connection.released(stream, payload.len());
                    let tunnel = open.get_mut(&stream).ok_or("data on a tunnel that is closed")?;
                    if content.get(tunnel.received..tunnel.received + payload.len()) != Some(payload) {
                        return Err(format!("tunnel {stream} returned other bytes").into());
                    }
                    tunnel.received += payload.len();
                    if tunnel.received == bytes {
                        open.remove(&stream);
                        connection.reset(stream, ErrorCode::NO_ERROR);
                    }
                }
                Event::Settings | Event::Writable { .. } | Event::Pong { .. } => {}
                other => return Err(format!("unexpected: {other:?}").into()),
            }
        }
    }
}
