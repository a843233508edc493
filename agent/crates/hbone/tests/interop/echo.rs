//! A server that returns on each tunnel what it gets, without a socket: bytes in, bytes out.

use std::collections::BTreeMap;

use weft_hbone::{Config, Connection, ConnectionError, ErrorCode, Event, StreamId};

/// What other methods than CONNECT are told.
const ONLY_CONNECT: &[u8] = b"This server answers CONNECT only.\n";

/// One connection of the server.
pub struct Echo {
    pub connection: Connection,
    streams: BTreeMap<StreamId, Pending>,
}

/// What is still to be sent on a stream.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    /// These bytes were received, so the peer may send more once they are gone.
    is_echo: bool,
    has_ended: bool,
}

impl Echo {
    pub fn new(config: Config) -> Self {
        Self { connection: Connection::server(config), streams: BTreeMap::new() }
    }

    /// Takes what arrived and appends what has to be sent, also when the connection has failed.
    pub fn receive(&mut self, mut input: &[u8], wire: &mut Vec<u8>) -> Result<(), ConnectionError> {
        let result = loop {
            match self.connection.receive(&mut input) {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.send(wire);
        result
    }

    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Request { stream, request } if request.is_connect() => match request.authority.as_str() {
                "reset.test:1" => self.connection.reset(stream, ErrorCode::CONNECT_ERROR),
                "refuse.test:1" => self.connection.respond(stream, 503, &[], true),
                _ => {
                    let baggage = request.baggage.as_deref().map(|baggage| ("baggage", baggage));
                    self.connection.respond(stream, 200, baggage.as_slice(), false);
                    let pending = Pending { is_echo: true, has_ended: request.end_stream, ..Pending::default() };
                    self.streams.insert(stream, pending);
                }
            },
            Event::Request { stream, .. } => {
                self.connection.respond(stream, 400, &[], false);
                let pending = Pending { bytes: ONLY_CONNECT.to_vec(), is_echo: false, has_ended: true };
                self.streams.insert(stream, pending);
            }
            Event::Data { stream, payload, end_stream, .. } => match self.streams.get_mut(&stream) {
                Some(pending) if pending.is_echo => {
                    pending.bytes.extend_from_slice(payload);
                    pending.has_ended = end_stream;
                }
                _ => self.connection.released(stream, payload.len()),
            },
            Event::EndStream { stream, .. } => {
                if let Some(pending) = self.streams.get_mut(&stream) {
                    pending.has_ended = true;
                }
            }
            Event::Reset { stream, .. } => {
                self.streams.remove(&stream);
            }
            Event::Response { .. } => unreachable!("a server gets no responses"),
            Event::GoAway { .. } | Event::Writable { .. } | Event::Pong { .. } | Event::Settings => {}
        }
    }

    /// Sends whatever the windows allow.
    pub fn send(&mut self, wire: &mut Vec<u8>) {
        wire.append(self.connection.output());
        let Self { connection, streams } = self;
        streams.retain(|stream, pending| {
            loop {
                let length = pending.bytes.len().min(connection.send_window(*stream)).min(connection.max_data());
                let is_last = pending.has_ended && length == pending.bytes.len();
                if length == 0 && !is_last {
                    return true;
                }
                wire.extend_from_slice(&connection.data_header(*stream, length, is_last));
                wire.extend(pending.bytes.drain(..length));
                if pending.is_echo {
                    connection.released(*stream, length);
                    wire.append(connection.output());
                }
                if is_last {
                    return false;
                }
            }
        });
    }
}
