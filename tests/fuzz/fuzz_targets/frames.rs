//! Any bytes, cut anywhere, at either end of a connection, with an owner that does what owners may do.
//!
//! Nothing panics, what happens does not depend on the cuts, and nothing exceeds its bound.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use weft_hbone::{Config, ConnectRequest, Connection, ErrorCode, Event, StreamId};

#[derive(Arbitrary, Debug)]
struct Input {
    is_client: bool,
    /// Begin as a valid peer does.
    is_polite: bool,
    limits: u8,
    pieces: Vec<Piece>,
    cuts: Vec<u8>,
    /// What the owner does after each event.
    acts: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Raw(Vec<u8>),
    Frame { kind: u8, flags: u8, stream: u8, payload: Vec<u8> },
    Connect { stream: u8, end_stream: bool },
    Answer { stream: u8, end_stream: bool },
    Data { stream: u8, flags: u8, length: u16 },
    Settings { id: u8, value: u32 },
    WindowUpdate { stream: u8, increment: u32 },
    Repeated { times: u8, kind: u8, flags: u8, stream: u8, payload: [u8; 8] },
}

impl Piece {
    fn append(&self, out: &mut Vec<u8>) {
        // A block of literals only, so that it does not depend on the tables.
        const CONNECT: &[u8] = b"\x02\x07CONNECT\x01\x0b10.0.0.1:80\x00\x07baggage\x03a=b";
        match self {
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Frame { kind, flags, stream, payload } => frame(out, kind % 12, *flags, *stream, payload),
            Self::Connect { stream, end_stream } => frame(out, 1, 4 | u8::from(*end_stream), *stream, CONNECT),
            Self::Answer { stream, end_stream } => frame(out, 1, 4 | u8::from(*end_stream), *stream, &[0x88]),
            Self::Data { stream, flags, length } => frame(out, 0, *flags, *stream, &vec![7; usize::from(*length)]),
            Self::Settings { id, value } => {
                let mut entry = vec![0, id % 8];
                entry.extend(value.to_be_bytes());
                frame(out, 4, 0, 0, &entry);
            }
            Self::WindowUpdate { stream, increment } => frame(out, 8, 0, *stream, &increment.to_be_bytes()),
            Self::Repeated { times, kind, flags, stream, payload } => {
                let length = [8, 5, 5, 4, 0, 8, 8, 8, 4, 0, 1, 0][usize::from(kind % 12)];
                for _ in 0..*times {
                    frame(out, kind % 12, *flags, *stream, &payload[..length]);
                }
            }
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    out.extend_from_slice(payload);
}

/// Everything that can be seen from outside, with the payload of a stream in one piece.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    events: Vec<String>,
    payload: BTreeMap<StreamId, Vec<u8>>,
    output: Vec<u8>,
    error: Option<ErrorCode>,
}

struct Owner {
    connection: Connection,
    config: Config,
    is_server: bool,
    /// The streams that ought to be open.
    streams: BTreeMap<StreamId, Side>,
    acts: Vec<u8>,
    step: usize,
    seen: Seen,
}

#[derive(Default)]
struct Side {
    unreleased: usize,
    is_answered: bool,
    has_sent_end: bool,
    has_received_end: bool,
}

impl Owner {
    fn new(input: &Input) -> Self {
        let mut config = Config::default();
        if input.limits & 1 != 0 {
            config.initial_stream_window = 65_535;
            config.connection_window = 65_535;
            config.growth_budget = 100_000;
        }
        if input.limits & 2 != 0 {
            config.max_concurrent_streams = 2;
            config.header_table_size = 64;
            config.max_header_list_size = 200;
        }
        if input.limits & 4 != 0 {
            config.flood.idle_frames = 20;
            config.flood.resets = 3;
            config.flood.output = 100;
        }
        let connection =
            if input.is_client { Connection::client(config.clone()) } else { Connection::server(config.clone()) };
        let (streams, seen) = Default::default();
        let mut owner =
            Self { connection, config, is_server: !input.is_client, streams, acts: input.acts.clone(), step: 0, seen };
        if input.is_client {
            for token in 0..3 {
                let request = ConnectRequest { authority: "10.0.0.1:80", ..ConnectRequest::default() };
                let stream = owner.connection.open(&request, token).expect("a free stream");
                owner.streams.insert(stream, Side::default());
            }
        }
        owner.take_output();
        owner
    }

    fn take_output(&mut self) {
        self.seen.output.append(self.connection.output());
    }

    fn receive(&mut self, mut input: &[u8]) {
        loop {
            match self.connection.receive(&mut input) {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => {
                    assert!(input.is_empty());
                    assert_eq!(self.seen.error, None, "a failed connection stays failed");
                    break;
                }
                Err(error) => {
                    assert_eq!(*self.seen.error.get_or_insert(error.code), error.code);
                    assert!(self.connection.is_going_away());
                    break;
                }
            }
        }
        assert_eq!(self.connection.active_streams(), self.streams.len());
        assert!(self.seen.error.is_some() || self.streams.len() <= self.config.max_concurrent_streams.max(3) as usize);
        assert_eq!(self.connection.unreleased(), self.streams.values().map(|side| side.unreleased).sum::<usize>());
        let most = self.config.initial_stream_window as usize * self.streams.len() + self.config.growth_budget as usize;
        assert!(self.connection.unreleased() <= most);
    }

    fn handle(&mut self, event: Event<'_>) {
        match &event {
            Event::Data { stream, payload, end_stream, .. } => {
                assert!(!payload.is_empty());
                let side = self.side(*stream);
                side.unreleased += payload.len();
                side.has_received_end = *end_stream;
                self.seen.payload.entry(*stream).or_default().extend_from_slice(payload);
                if !end_stream {
                    // How many parts there are depends on the cuts, and what the owner does must not.
                    return;
                }
            }
            Event::Request { stream, request } => {
                let side = Side { has_received_end: request.end_stream, ..Side::default() };
                assert!(self.streams.insert(*stream, side).is_none());
            }
            Event::Response { stream, end_stream, .. } => self.side(*stream).has_received_end = *end_stream,
            Event::EndStream { stream, .. } => self.side(*stream).has_received_end = true,
            Event::Reset { stream, .. } => {
                self.streams.remove(stream).expect("a stream that is open");
            }
            _ => {}
        }
        self.seen.events.push(match event {
            Event::Data { stream, .. } => format!("the end of {stream}"),
            event => format!("{event:?}"),
        });
        self.forget_closed();
        self.act();
        self.forget_closed();
        self.take_output();
    }

    fn side(&mut self, stream: StreamId) -> &mut Side {
        self.streams.get_mut(&stream).expect("a stream that is open")
    }

    fn forget_closed(&mut self) {
        self.streams.retain(|_, side| !(side.has_sent_end && side.has_received_end));
    }

    fn act(&mut self) {
        let act = self.acts.get(self.step).copied().unwrap_or_default();
        self.step += 1;
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        let Some(&stream) = streams.get(usize::from(act >> 4) % streams.len().max(1)) else { return };
        let Self { connection, streams, is_server, .. } = self;
        let side = streams.get_mut(&stream).expect("one of them");
        let flag = act & 8 != 0;
        match act % 8 {
            0 => connection.set_token(stream, u64::from(act)),
            status @ 1..=2 => {
                connection.respond(stream, u16::from(status) * 200, &[("baggage", "a=b")], flag);
                if *is_server && !side.is_answered && !side.has_sent_end {
                    (side.is_answered, side.has_sent_end) = (true, flag);
                }
            }
            3 => {
                connection.released(stream, side.unreleased);
                side.unreleased = 0;
            }
            4 => {
                connection.reset(stream, ErrorCode::CANCEL);
                streams.remove(&stream);
            }
            5 => {
                let length = connection.send_window(stream).min(connection.max_data()).min(100);
                assert!(length == 0 || !side.has_sent_end);
                assert_eq!(connection.can_send(stream), !side.has_sent_end);
                let header = connection.data_header(stream, length, flag);
                assert_eq!(usize::from(header[2]), length);
                side.has_sent_end |= flag;
            }
            6 => connection.ping(*b"12345678"),
            _ if flag => connection.drain(),
            _ => connection.go_away(ErrorCode::NO_ERROR, "bye"),
        }
    }
}

/// The output must consist of whole frames.
fn check_frames(output: &[u8]) {
    let mut rest = output.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_or(output);
    while let Some((head, tail)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(length <= 16_384 && head[3] <= 9);
        rest = &tail[length..];
    }
    assert!(rest.is_empty());
}

fuzz_target!(|input: Input| {
    let mut bytes = Vec::new();
    if input.is_polite {
        if !input.is_client {
            bytes.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        frame(&mut bytes, 4, 0, 0, &[]);
        frame(&mut bytes, 4, 1, 0, &[]);
    }
    for piece in &input.pieces {
        piece.append(&mut bytes);
    }

    let mut whole = Owner::new(&input);
    whole.receive(&bytes);
    whole.take_output();
    check_frames(&whole.seen.output);

    let mut cut = Owner::new(&input);
    let mut rest = &bytes[..];
    let mut cuts = input.cuts.iter().cycle();
    while !rest.is_empty() && cut.seen.error.is_none() {
        let length = cuts.next().map_or(1, |cut| usize::from(*cut).max(1)).min(rest.len());
        cut.receive(&rest[..length]);
        rest = &rest[length..];
    }
    cut.take_output();
    assert_eq!(whole.seen, cut.seen);
});
