//! A connection against hand-made frames, and against its own other end.

use super::*;
use crate::{
    frame::{self, HEAD, Head, PREFACE, flag, kind},
    hpack::{Encoder, Indexing},
};

mod errors;
mod floods;
mod pairs;
mod streams;
mod windows;

/// Everything that a connection says about an input.
fn receive<'b>(connection: &mut Connection, mut input: &'b [u8]) -> Result<Vec<Event<'b>>, ConnectionError> {
    let mut events = Vec::new();
    while let Some(event) = connection.receive(&mut input)? {
        events.push(event);
    }
    assert!(input.is_empty(), "a connection that wants nothing more has consumed everything");
    Ok(events)
}

/// The frames that wait in a connection's output, which is emptied.
fn sent(connection: &mut Connection) -> Vec<(Head, Vec<u8>)> {
    let output = std::mem::take(connection.output());
    let mut rest = output.strip_prefix(PREFACE.as_slice()).unwrap_or(&output);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let head = Head::parse(rest.first_chunk().expect("a whole header"));
        let (payload, tail) = rest[HEAD..].split_at(head.length as usize);
        frames.push((head, payload.to_vec()));
        rest = tail;
    }
    frames
}

/// The streams and codes of the RST_STREAM frames in the output.
fn resets(connection: &mut Connection) -> Vec<(u32, ErrorCode)> {
    let frames = sent(connection);
    let resets = frames.iter().filter(|(head, _)| head.kind == kind::RST_STREAM);
    resets.map(|(head, payload)| (head.stream, ErrorCode(number(payload)))).collect()
}

/// The streams and increments of the WINDOW_UPDATE frames in the output.
fn updates(connection: &mut Connection) -> Vec<(u32, u32)> {
    let frames = sent(connection);
    let updates = frames.iter().filter(|(head, _)| head.kind == kind::WINDOW_UPDATE);
    updates.map(|(head, payload)| (head.stream, number(payload))).collect()
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().expect("four bytes"))
}

/// A server that has seen the preface and SETTINGS of a client, and whose own are acknowledged.
fn server(config: Config) -> Connection {
    let mut server = Connection::server(config);
    let mut input = PREFACE.to_vec();
    frame::settings(&mut input, &[]);
    frame::settings_ack(&mut input);
    assert_eq!(receive(&mut server, &input), Ok(vec![Event::Settings]));
    server.output().clear();
    server
}

/// A client that has seen the SETTINGS of a server, and whose own are acknowledged.
fn client(config: Config, settings: &[(u16, u32)]) -> Connection {
    let mut client = Connection::client(config);
    let mut input = Vec::new();
    frame::settings(&mut input, settings);
    frame::settings_ack(&mut input);
    assert_eq!(receive(&mut client, &input), Ok(vec![Event::Settings]));
    client.output().clear();
    client
}

fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Head { length: payload.len() as u32, kind, flags, stream }.bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut encoder = Encoder::new();
    for (name, value) in fields {
        encoder.field(&mut block, name, value, Indexing::Once);
    }
    block
}

const CONNECT: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "10.0.0.1:80")];
const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    raw(kind::HEADERS, flags | flag::END_HEADERS, stream, &block(fields))
}

fn connect(stream: u32) -> Vec<u8> {
    headers(stream, 0, &CONNECT)
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    raw(kind::DATA, flags, stream, payload)
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    raw(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn rst(stream: u32, code: ErrorCode) -> Vec<u8> {
    raw(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

const fn request() -> ConnectRequest<'static> {
    ConnectRequest { authority: "10.0.0.1:80", baggage: None, forwarded: None, traceparent: None }
}

/// Payload as it goes on the wire: what waits in the output, then DATA.
fn push_data(connection: &mut Connection, stream: StreamId, payload: &[u8], end_stream: bool, wire: &mut Vec<u8>) {
    let header = connection.data_header(stream, payload.len(), end_stream);
    wire.append(connection.output());
    wire.extend_from_slice(&header);
    wire.extend_from_slice(payload);
}

/// Carries outputs to and fro until both ends are silent; panics on errors. Returns the events of each.
fn settle(client: &mut Connection, server: &mut Connection) -> (Vec<Event<'static>>, Vec<Event<'static>>) {
    let mut seen = (Vec::new(), Vec::new());
    loop {
        let up = std::mem::take(client.output());
        let down = std::mem::take(server.output());
        if up.is_empty() && down.is_empty() {
            return seen;
        }
        seen.1.extend(receive(server, up.leak()).expect("the server takes what the client sends"));
        seen.0.extend(receive(client, down.leak()).expect("the client takes what the server sends"));
    }
}
