//! A client that does one thing at a time.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};
use weft_hbone::{Config, ConnectRequest, Connection, ErrorCode, Event, StreamId};

use crate::frames::Frames;

/// No server is silent for so long, unless it waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection of the client.
pub struct Client<S> {
    pub connection: Connection,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    buffer: Vec<u8>,
    /// What is to be sent.
    pub wire: Vec<u8>,
    pub streams: BTreeMap<StreamId, Seen>,
    pub goaways: Vec<(ErrorCode, String)>,
    pub pongs: usize,
    /// What the server sent.
    pub frames: Frames,
    /// What was sent to it.
    pub sent: Frames,
}

/// What came on a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub status: Option<u16>,
    pub baggage: Option<String>,
    pub received: Vec<u8>,
    pub has_ended: bool,
    pub reset: Option<(ErrorCode, bool)>,
}

impl<S: AsyncRead + AsyncWrite> Client<S> {
    pub fn new(pipe: S, config: Config) -> Self {
        let (reader, writer) = tokio::io::split(pipe);
        Self {
            connection: Connection::client(config),
            reader,
            writer,
            buffer: vec![0; 32 * 1024],
            wire: Vec::new(),
            streams: BTreeMap::new(),
            goaways: Vec::new(),
            pongs: 0,
            frames: Frames::of_server(),
            sent: Frames::of_client(),
        }
    }

    pub fn open(&mut self, authority: &str) -> StreamId {
        self.request(&ConnectRequest { authority, baggage: Some("service.name=a"), ..ConnectRequest::default() })
    }

    pub fn request(&mut self, request: &ConnectRequest<'_>) -> StreamId {
        let stream = self.connection.open(request, 0).expect("a free stream");
        self.connection.set_token(stream, u64::from(stream.get()) + 1000);
        self.streams.insert(stream, Seen::default());
        stream
    }

    pub fn seen(&self, stream: StreamId) -> &Seen {
        &self.streams[&stream]
    }

    /// Sends some of what waits, or handles something that arrived. `false`: the server has closed the connection.
    async fn turn(&mut self) -> bool {
        self.wire.append(self.connection.output());
        let Self { reader, writer, buffer, wire, sent, .. } = self;
        let arrived = tokio::select! {
            written = writer.write(wire), if !wire.is_empty() => {
                let written = written.expect("an open pipe");
                sent.note(&wire[..written]);
                wire.drain(..written);
                return true;
            }
            length = timeout(PATIENCE, reader.read(buffer)) => length.expect("a server that says something"),
        };
        let arrived = arrived.expect("an open pipe");
        let buffer = std::mem::take(&mut self.buffer);
        self.handle(&buffer[..arrived]);
        self.buffer = buffer;
        arrived > 0
    }

    fn handle(&mut self, mut input: &[u8]) {
        self.frames.note(input);
        while let Some(event) = self.connection.receive(&mut input).expect("a valid peer") {
            let number = |stream: StreamId| u64::from(stream.get()) + 1000;
            match event {
                Event::Response { stream, token, status, baggage, end_stream } => {
                    assert_eq!(token, number(stream));
                    let seen = self.streams.get_mut(&stream).expect("known");
                    (seen.status, seen.baggage, seen.has_ended) = (Some(status), baggage, end_stream);
                }
                Event::Data { stream, token, payload, end_stream } => {
                    assert_eq!(token, number(stream));
                    assert!(!payload.is_empty());
                    let seen = self.streams.get_mut(&stream).expect("known");
                    seen.received.extend_from_slice(payload);
                    seen.has_ended = end_stream;
                    self.connection.released(stream, payload.len());
                }
                Event::EndStream { stream, .. } => {
                    self.streams.get_mut(&stream).expect("known").has_ended = true;
                }
                Event::Reset { stream, code, by_peer, .. } => {
                    self.streams.get_mut(&stream).expect("known").reset = Some((code, by_peer));
                }
                Event::GoAway { code, debug, .. } => self.goaways.push((code, debug)),
                Event::Pong { .. } => self.pongs += 1,
                Event::Writable { .. } | Event::Settings => {}
                Event::Request { .. } => panic!("a client gets no requests"),
            }
        }
    }

    /// Goes on until something is the case and everything is sent.
    pub async fn until(&mut self, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) || !self.wire.is_empty() || !self.connection.output().is_empty() {
            assert!(self.turn().await, "the server went away");
        }
    }

    /// Goes on until the server closes the connection.
    pub async fn until_closed(&mut self) {
        while self.turn().await {}
    }

    /// Closes the connection from this side, and waits until the server has done so too.
    pub async fn close(mut self) {
        self.until(|_| true).await;
        // The server may have closed it already.
        _ = self.writer.shutdown().await;
        while matches!(self.reader.read(&mut self.buffer).await, Ok(1..)) {}
    }

    /// Sends bytes, as many at a time as the windows allow, and whatever that takes, unless the stream is reset meanwhile.
    pub async fn send(&mut self, stream: StreamId, mut bytes: &[u8], end_stream: bool) {
        loop {
            let length = bytes.len().min(self.connection.send_window(stream)).min(self.connection.max_data());
            if length > 0 || bytes.is_empty() {
                let (part, rest) = bytes.split_at(length);
                bytes = rest;
                let header = self.connection.data_header(stream, length, end_stream && rest.is_empty());
                self.wire.append(self.connection.output());
                self.wire.extend_from_slice(&header);
                self.wire.extend_from_slice(part);
            }
            if bytes.is_empty() || !self.connection.can_send(stream) {
                return;
            }
            assert!(self.turn().await, "the server went away");
        }
    }
}
