//! Two ends that do as they please: whatever valid owners do, no byte is lost and nobody complains.

use std::collections::BTreeMap;

use super::*;

/// One end and what its owner knows.
struct End {
    connection: Connection,
    streams: BTreeMap<StreamId, Side>,
    wire: Vec<u8>,
    /// Everything that was received on streams, including those that are gone.
    received: BTreeMap<StreamId, Vec<u8>>,
    sent: BTreeMap<StreamId, Vec<u8>>,
    resets: usize,
}

#[derive(Default)]
struct Side {
    unreleased: usize,
    has_sent_end: bool,
    has_received_end: bool,
    is_answered: bool,
}

impl End {
    fn new(connection: Connection) -> Self {
        let (streams, received, sent) = Default::default();
        Self { connection, streams, wire: Vec::new(), received, sent, resets: 0 }
    }

    fn handle(&mut self, input: &[u8]) {
        let mut rest = input;
        while let Some(event) = self.connection.receive(&mut rest).expect("the other end is valid") {
            match event {
                Event::Request { stream, request } => {
                    assert!(!request.end_stream);
                    self.streams.insert(stream, Side::default());
                }
                Event::Response { stream, .. } => self.side(stream).is_answered = true,
                Event::Data { stream, payload, end_stream, .. } => {
                    self.received.entry(stream).or_default().extend_from_slice(payload);
                    let side = self.side(stream);
                    side.unreleased += payload.len();
                    side.has_received_end = end_stream;
                }
                Event::EndStream { stream, .. } => self.side(stream).has_received_end = true,
                Event::Reset { stream, by_peer, .. } => {
                    assert!(by_peer, "nobody broke the protocol");
                    self.streams.remove(&stream).expect("known until then");
                    self.resets += 1;
                }
                Event::Writable { .. } | Event::Settings | Event::Pong { .. } => {}
                Event::GoAway { .. } => panic!("nobody goes away"),
            }
        }
        self.streams.retain(|_, side| !(side.has_sent_end && side.has_received_end));
        assert_eq!(self.streams.len(), self.connection.active_streams());
        let unreleased: usize = self.streams.values().map(|side| side.unreleased).sum();
        assert_eq!(unreleased, self.connection.unreleased());
    }

    fn side(&mut self, stream: StreamId) -> &mut Side {
        self.streams.get_mut(&stream).expect("no event names a stream that is gone")
    }

    fn act(&mut self, rng: &mut fastrand::Rng, is_client: bool, is_over: bool) {
        if is_client && !is_over && self.connection.can_open() && rng.u8(..8) == 0 {
            let stream = self.connection.open(&request(), 0).expect("a free stream");
            self.streams.insert(stream, Side::default());
        }
        let known: Vec<StreamId> = self.streams.keys().copied().collect();
        let Some(&stream) = rng.choice(&known) else { return };
        let side = self.streams.get_mut(&stream).expect("known");
        if !is_client && !side.is_answered {
            self.connection.respond(stream, 200, &[], false);
            side.is_answered = true;
        }
        match rng.u8(..16) {
            0 if !is_over => {
                self.connection.reset(stream, ErrorCode::CANCEL);
                self.streams.remove(&stream);
                self.resets += 1;
            }
            1..8 => {
                let length = if is_over { side.unreleased } else { rng.usize(..=side.unreleased) };
                self.connection.released(stream, length);
                side.unreleased -= length;
            }
            _ if !side.has_sent_end => {
                let window = self.connection.send_window(stream).min(self.connection.max_data());
                let length = if rng.bool() { rng.usize(..=window.min(30_000)) } else { rng.usize(..=window.min(300)) };
                let is_end = is_over || rng.u8(..10) == 0;
                let length = if is_over { 0 } else { length };
                if length == 0 && !is_end {
                    return;
                }
                let mut payload = vec![0; length];
                rng.fill(&mut payload);
                self.sent.entry(stream).or_default().extend_from_slice(&payload);
                push_data(&mut self.connection, stream, &payload, is_end, &mut self.wire);
                side.has_sent_end = is_end;
                if side.has_received_end && is_end {
                    self.streams.remove(&stream);
                }
            }
            _ => {}
        }
        self.wire.append(self.connection.output());
    }
}

/// Bytes travel in pieces, and not always.
fn carry(from: &mut End, to: &mut End, rng: &mut fastrand::Rng, is_all: bool) {
    from.wire.append(from.connection.output());
    let length = if is_all { from.wire.len() } else { rng.usize(..=from.wire.len()) };
    let under_way: Vec<u8> = from.wire.drain(..length).collect();
    let mut rest = &under_way[..];
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(rng.usize(1..=rest.len()));
        to.handle(part);
        rest = tail;
    }
}

#[test]
fn valid_owners_never_see_an_error() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = |rng: &mut fastrand::Rng| Config {
            initial_stream_window: rng.u32(..200_000),
            max_stream_window: rng.u32(..1_000_000),
            connection_window: rng.u32(..1_000_000),
            growth_budget: rng.u32(..2_000_000),
            max_frame_size: rng.u32(..100_000),
            max_concurrent_streams: rng.u32(1..20),
            header_table_size: rng.u32(..5000),
            ..Config::default()
        };
        let mut client = End::new(Connection::client(config(&mut rng)));
        let mut server = End::new(Connection::server(config(&mut rng)));
        for step in 0.. {
            let is_over = step > 1500;
            client.act(&mut rng, true, is_over);
            server.act(&mut rng, false, is_over);
            carry(&mut client, &mut server, &mut rng, is_over);
            carry(&mut server, &mut client, &mut rng, is_over);
            if is_over && client.streams.is_empty() && server.streams.is_empty() && client.wire.is_empty() {
                break;
            }
            assert!(step < 20_000, "it comes to an end");
        }
        for (from, to) in [(&client, &server), (&server, &client)] {
            for (stream, received) in &to.received {
                let sent = &from.sent[stream];
                assert!(sent.starts_with(received), "stream {stream}, seed {seed}");
            }
        }
        for end in [&mut client, &mut server] {
            assert_eq!(end.connection.unreleased(), 0);
            assert_eq!(end.connection.active_streams(), 0);
            assert_eq!(end.connection.growth.granted(), 0);
        }
    }
}
