//! A server that returns on each tunnel what it gets, without a socket: bytes in, bytes out. A few authorities get
//! something else:
//!
//! | authority | |
//! | --- | --- |
//! | `refuse.test:1` | status 503 |
//! | `reset.test:1` | RST_STREAM instead of an answer |
//! | `cut.test:1` | RST_STREAM once there is data |
//! | `bye.test:1` | `bye` and END_STREAM at once, while it goes on reading |
//! | `last.test:1` | an echo, and no further streams |

use std::collections::BTreeMap;

use weft_hbone::{Config, Connection, ConnectionError, ErrorCode, Event, Request, StreamId};

/// What other methods than CONNECT are told.
const ONLY_CONNECT: &[u8] = b"This server answers CONNECT only.\n";

/// One connection of the server.
pub struct Echo {
    pub connection: Connection,
    streams: BTreeMap<StreamId, Pending>,
    /// Bytes of payload that came on all streams.
    pub received: usize,
    /// The most streams that were open at once.
    pub most_active: usize,
}

/// What is still to be sent on a stream.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    /// The first data that comes ends it.
    is_cut: bool,
    /// These bytes were received, so the peer may send more once they are gone.
    is_echo: bool,
    has_ended: bool,
}

impl Echo {
    pub fn new(config: Config) -> Self {
        Self { connection: Connection::server(config), streams: BTreeMap::new(), received: 0, most_active: 0 }
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
            Event::Request { stream, request } if request.is_connect() => self.connect(stream, &request),
            Event::Request { stream, .. } => {
                self.connection.respond(stream, 400, &[], false);
                self.streams
                    .insert(stream, Pending { bytes: ONLY_CONNECT.to_vec(), has_ended: true, ..Pending::default() });
            }
            Event::Data { stream, payload, end_stream, .. } => {
                self.received += payload.len();
                match self.streams.get_mut(&stream) {
                    Some(pending) if pending.is_cut => {
                        self.connection.reset(stream, ErrorCode::CANCEL);
                        self.streams.remove(&stream);
                    }
                    Some(pending) if pending.is_echo => {
                        pending.bytes.extend_from_slice(payload);
                        pending.has_ended = end_stream;
                    }
                    _ => self.connection.released(stream, payload.len()),
                }
            }
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

    fn connect(&mut self, stream: StreamId, request: &Request) {
        self.most_active = self.most_active.max(self.connection.active_streams());
        let mut pending = Pending { has_ended: request.end_stream, ..Pending::default() };
        match request.authority.as_str() {
            "reset.test:1" => return self.connection.reset(stream, ErrorCode::CONNECT_ERROR),
            "refuse.test:1" => return self.connection.respond(stream, 503, &[], true),
            "cut.test:1" => pending.is_cut = true,
            "bye.test:1" => pending = Pending { bytes: b"bye".to_vec(), has_ended: true, ..pending },
            "last.test:1" => {
                self.connection.drain();
                pending.is_echo = true;
            }
            _ => pending.is_echo = true,
        }
        // The fields that mean something here come back as well.
        let fields =
            [("baggage", &request.baggage), ("forwarded", &request.forwarded), ("traceparent", &request.traceparent)];
        let fields: Vec<_> = fields.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        self.connection.respond(stream, 200, &fields, false);
        self.streams.insert(stream, pending);
    }

    /// Sends whatever the windows allow.
    pub fn send(&mut self, wire: &mut Vec<u8>) {
        wire.append(self.connection.output());
        let Self { connection, streams, .. } = self;
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
