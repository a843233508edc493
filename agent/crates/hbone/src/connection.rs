//! One end of a connection: what its owner can do with it.

use std::{collections::VecDeque, fmt, time::Duration};

use crate::{
    Config, ConnectRequest, ConnectionError, ErrorCode, Event, OpenError, StreamId,
    closed::ClosedStreams,
    config::DEFAULT_WINDOW,
    fields,
    flood::Flood,
    flow::{ConnectionWindow, Growth},
    frame::{self, HEAD, Head, PREFACE, flag, kind},
    hpack::{Decoder, Encoder, Indexing, field_size},
    settings::{self, PeerSettings, Role},
    streams::{Stream, Streams},
};

mod receive;

mod blocks;
mod control;

use self::{blocks::OpenBlock, receive::Reading};

/// The largest stream number (RFC 9113, 5.1.1).
const MAX_STREAM: u32 = (1 << 31) - 1;

/// RFC 9113, 6.8: what a graceful shutdown announces before it is known which streams are under way.
const ALL_STREAMS: u32 = MAX_STREAM;

/// The first bytes of PINGs that are sent here on the connection's own account, followed by a number.
const OWN_PING: [u8; 4] = *b"weft";

/// Number of the PING behind the first GOAWAY of a graceful shutdown; probes of windows count from 1.
const DRAIN: u32 = 0;

/// Bytes of a GOAWAY's debug data that are sent, and kept of what was received.
const MAX_DEBUG: usize = 256;

/// One end of an HTTP/2 connection that carries CONNECT streams.
///
/// It does nothing by itself. Its owner
/// - feeds it what arrives, and takes the [`Event`]s: [`receive`](Self::receive);
/// - sends what it leaves in [`output`](Self::output), which holds control frames only, after each round of calls and
///   *before* any DATA whose header was made later;
/// - puts a [`data_header`](Self::data_header) before each piece of payload that it sends, never more than
///   [`send_window`](Self::send_window) and [`max_data`](Self::max_data) bytes;
/// - tells what payload was handed on: [`released`](Self::released).
///
/// While the transport cannot be written, go on reading: the peer may be one that reads nothing until it has written.
/// But leave the output here then. It is bounded against a peer that asks for answers without reading them, and a
/// buffer to which it was moved is not.
pub struct Connection {
    role: Role,
    config: Config,

    /// Where in the peer's bytes we are.
    reading: Reading,
    /// The beginning of a frame header, and how much of it there is.
    head: [u8; HEAD],
    head_len: usize,
    /// The beginning of a payload that is needed as a whole.
    gathered: Vec<u8>,
    /// A header block that CONTINUATION frames complete, and for which stream.
    block: Vec<u8>,
    open_block: Option<OpenBlock>,
    /// Events that a frame brought about beyond the first.
    events: VecDeque<Event<'static>>,
    decoder: Decoder,
    flood: Flood,

    peer: PeerSettings,
    has_peer_settings: bool,
    are_settings_acknowledged: bool,

    streams: Streams,
    closed: ClosedStreams,
    growth: Growth,
    receive_window: ConnectionWindow,
    send_window: i64,

    output: Vec<u8>,
    /// How much of the output answers the peer's frames.
    replies: usize,
    encoder: Encoder,
    encoded: Vec<u8>,
    pings: u32,

    shutdown: Shutdown,
    /// The last stream that the peer's GOAWAY promises to look at.
    peer_last_stream: Option<u32>,
    failed: Option<ConnectionError>,
}

/// How far this end's shutdown is (RFC 9113, 6.8).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    No,
    /// Announced for all streams; the PONG will tell that the peer knows.
    Announced,
    /// Streams above this one are not looked at.
    After(u32),
}

impl Connection {
    /// The client's end. The preface and SETTINGS wait in the output (RFC 9113, 3.4).
    pub fn client(config: Config) -> Self {
        let mut connection = Self::new(config, Role::Client);
        connection.output.splice(..0, *PREFACE);
        connection
    }

    /// The server's end. SETTINGS wait in the output (RFC 9113, 3.4).
    pub fn server(config: Config) -> Self {
        Self::new(config, Role::Server)
    }

    fn new(config: Config, role: Role) -> Self {
        let config = config.clamped();
        let mut output = Vec::new();
        frame::settings(&mut output, &settings::announced(&config, role));
        // RFC 9113, 6.9.2: SETTINGS cannot change the connection's window.
        let mut receive_window = ConnectionWindow::new(DEFAULT_WINDOW, config.connection_window);
        if config.connection_window > DEFAULT_WINDOW {
            frame::window_update(&mut output, 0, receive_window.announce());
        }
        Self {
            role,
            reading: if role == Role::Server { Reading::Preface { matched: 0 } } else { Reading::Head },
            head: [0; HEAD],
            head_len: 0,
            gathered: Vec::new(),
            block: Vec::new(),
            open_block: None,
            events: VecDeque::new(),
            decoder: Decoder::new(config.header_table_size),
            flood: Flood::new(&config.flood),
            peer: PeerSettings::default(),
            has_peer_settings: false,
            are_settings_acknowledged: false,
            streams: Streams::default(),
            closed: ClosedStreams::new(),
            growth: Growth::new(config.initial_stream_window, config.max_stream_window, config.growth_budget),
            receive_window,
            send_window: i64::from(DEFAULT_WINDOW),
            output,
            replies: 0,
            encoder: Encoder::new(),
            encoded: Vec::new(),
            pings: 0,
            shutdown: Shutdown::No,
            peer_last_stream: None,
            failed: None,
            config,
        }
    }

    /// Control frames that wait to be sent; take them away.
    ///
    /// They must go on the wire before any DATA whose header is made afterwards: they may open its stream.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Client: opens a stream. DATA may follow at once, without waiting for the response.
    ///
    /// # Errors
    /// When the stream cannot be opened here; nothing was sent then.
    pub fn open(&mut self, request: &ConnectRequest<'_>, token: u64) -> Result<StreamId, OpenError> {
        if self.role != Role::Client {
            return Err(OpenError::NotAClient);
        }
        if self.is_going_away() {
            return Err(OpenError::GoingAway);
        }
        let limit = self.peer.max_concurrent_streams;
        if self.streams.len() >= limit as usize {
            return Err(OpenError::TooManyStreams { limit });
        }
        let id = self.next_stream().ok_or(OpenError::Exhausted)?;
        if !request.authority.bytes().all(|byte| byte.is_ascii_graphic()) || request.authority.is_empty() {
            return Err(OpenError::InvalidField { field: ":authority" });
        }
        // The authority and the baggage come again with the next connection; the client's address does not.
        let optional = [
            ("baggage", request.baggage, Indexing::Repeated),
            ("forwarded", request.forwarded, Indexing::Once),
            ("traceparent", request.traceparent, Indexing::Once),
        ];
        let optional = || optional.iter().filter_map(|(name, value, indexing)| Some((*name, (*value)?, *indexing)));
        if let Some((field, ..)) = optional().find(|(_, value, _)| !fields::is_field_value(value)) {
            return Err(OpenError::InvalidField { field });
        }
        let list = [(":method", "CONNECT", Indexing::Repeated), (":authority", request.authority, Indexing::Repeated)];
        let list = || list.into_iter().chain(optional());
        let size = list().map(|(name, value, _)| field_size(name.as_bytes(), value.as_bytes())).sum();
        if size > self.peer.max_header_list_size as usize {
            return Err(OpenError::HeadersTooLarge { size, limit: self.peer.max_header_list_size });
        }

        self.encoded.clear();
        self.encoder.begin(&mut self.encoded);
        for (name, value, indexing) in list() {
            self.encoder.field(&mut self.encoded, name, value, indexing);
        }
        frame::headers(&mut self.output, id, &self.encoded, false, self.peer.max_frame_size as usize);
        self.closed.opened(id);
        self.add_stream(id, token);
        Ok(StreamId(id))
    }

    /// Client: whether [`open`](Self::open) would find a free stream.
    pub fn can_open(&self) -> bool {
        self.role == Role::Client
            && !self.is_going_away()
            && self.streams.len() < self.peer.max_concurrent_streams as usize
            && self.next_stream().is_some()
    }

    /// Streams that are not closed in both directions.
    pub fn active_streams(&self) -> usize {
        self.streams.len()
    }

    /// Either side announced the end of the connection, or it failed. Streams that are open may go on in the former
    /// case.
    pub fn is_going_away(&self) -> bool {
        self.shutdown != Shutdown::No || self.peer_last_stream.is_some() || self.failed.is_some()
    }

    /// Streams that the peer opens from now on are not looked at, and it was told so. A server's [`drain`](Self::drain)
    /// comes to this one round trip later.
    pub fn is_shut_down(&self) -> bool {
        matches!(self.shutdown, Shutdown::After(_))
    }

    /// Nothing can be sent on any stream until the peer enlarges the connection's window.
    pub fn is_window_closed(&self) -> bool {
        self.send_window <= 0
    }

    /// Sets the number that a stream's events carry.
    pub fn set_token(&mut self, stream: StreamId, token: u64) {
        if let Some(stream) = self.streams.get_mut(stream.0) {
            stream.token = token;
        }
    }

    /// Server: answers a request, once. Header names are in lower case.
    ///
    /// Nothing is sent on a stream that is closed by now, or was answered. A header that cannot be expressed is left
    /// out.
    pub fn respond(&mut self, stream: StreamId, status: u16, headers: &[(&str, &str)], end_stream: bool) {
        debug_assert!((200..1000).contains(&status), "only final responses are sent");
        let Some(open) = self.streams.get_mut(stream.0) else { return };
        if self.role != Role::Server || open.is_answered || open.is_local_closed {
            return;
        }
        open.is_answered = true;
        open.is_local_closed = end_stream;
        let is_over = end_stream && open.is_remote_closed;

        self.encoded.clear();
        self.encoder.begin(&mut self.encoded);
        let mut digits = [0; 3];
        for (digit, unit) in digits.iter_mut().zip([100, 10, 1]) {
            *digit = b'0' + (status / unit % 10) as u8;
        }
        let status = std::str::from_utf8(&digits).expect("three digits are ASCII");
        self.encoder.field(&mut self.encoded, ":status", status, Indexing::Repeated);
        for (name, value) in headers {
            let is_name = !name.is_empty() && name.bytes().all(|b| fields::is_token(b) && !b.is_ascii_uppercase());
            debug_assert!(is_name, "header names are tokens in lower case");
            if is_name && fields::is_field_value(value) {
                let indexing = if *name == "baggage" { Indexing::Repeated } else { Indexing::Once };
                self.encoder.field(&mut self.encoded, name, value, indexing);
            }
        }
        frame::headers(&mut self.output, stream.0, &self.encoded, end_stream, self.peer.max_frame_size as usize);
        // A refusal cost the peer nothing but its request.
        if status.starts_with('2') {
            self.flood.answered();
        }
        if is_over {
            self.end(stream.0);
        }
    }

    /// Bytes that may be sent on a stream now: the smaller of its window and the connection's, 0 if it cannot send.
    pub fn send_window(&self, stream: StreamId) -> usize {
        match self.streams.get(stream.0) {
            Some(stream) if !stream.is_local_closed => stream.send_window.min(self.send_window).max(0) as usize,
            _ => 0,
        }
    }

    /// Whether this side of a stream is open, though its window may be 0.
    pub fn can_send(&self, stream: StreamId) -> bool {
        self.streams.get(stream.0).is_some_and(|stream| !stream.is_local_closed)
    }

    /// The most payload that the peer takes in one DATA frame.
    pub fn max_data(&self) -> usize {
        self.peer.max_frame_size as usize
    }

    /// The header of a DATA frame with `len` bytes of payload, which must follow it on the wire. Charges both windows.
    ///
    /// `len` must not exceed [`send_window`](Self::send_window) and [`max_data`](Self::max_data). With `end_stream` the
    /// stream can send nothing more; `len` may be 0 then.
    ///
    /// On a stream that cannot send any more the header is that of a frame which receivers ignore (RFC 9113, 5.5), so
    /// that bytes already on their way behind it do no harm.
    pub fn data_header(&mut self, stream: StreamId, len: usize, end_stream: bool) -> [u8; 9] {
        debug_assert!(len <= self.max_data(), "{len} bytes do not fit into a frame");
        let length = len as u32;
        let open = match self.streams.get_mut(stream.0) {
            Some(open) if !open.is_local_closed => open,
            _ => return Head { length, kind: kind::IGNORED, flags: 0, stream: 0 }.bytes(),
        };
        debug_assert!(
            len == 0 || i64::from(length) <= open.send_window.min(self.send_window),
            "{len} bytes exceed the window"
        );
        // RFC 9113, 6.9: only DATA counts, and its header does not.
        open.send_window -= i64::from(length);
        self.send_window -= i64::from(length);
        self.flood.data_frame(length);
        let mut flags = 0;
        if end_stream {
            flags = flag::END_STREAM;
            open.is_local_closed = true;
            if open.is_remote_closed {
                self.end(stream.0);
            }
        }
        Head { length, kind: kind::DATA, flags, stream: stream.0 }.bytes()
    }

    /// Payload of a stream was handed on (or thrown away), so the peer may send as much again.
    pub fn released(&mut self, stream: StreamId, len: usize) {
        let Some(open) = self.streams.get_mut(stream.0) else { return };
        debug_assert!(len <= open.receive.unreleased() as usize, "more was released than was received");
        self.growth.released(&mut open.receive, len);
        self.update_stream_window(stream.0);
    }

    /// Payload that was received on streams still open and not yet released, in bytes.
    pub fn unreleased(&self) -> usize {
        self.growth.unreleased()
    }

    /// Ends a stream in both directions at once (RFC 9113, 6.4). Nothing happens if it is closed.
    ///
    /// What was received on it needs no release any more, and no further event will name it.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        if self.remove(stream.0).is_some() {
            self.closed.discarded(stream.0);
            frame::rst_stream(&mut self.output, stream.0, code);
        }
    }

    /// Sends a PING, which [`Event::Pong`] answers. `opaque` must not begin with `weft`: such PINGs are sent here.
    pub fn ping(&mut self, opaque: [u8; 8]) {
        self.pings = self.pings.saturating_add(1);
        frame::ping(&mut self.output, opaque, false);
    }

    /// Begins a graceful shutdown (RFC 9113, 6.8): no stream is opened any more, those that are open go on.
    ///
    /// A server announces it, and refuses streams only after a round trip, so that none is lost that crossed the news.
    pub fn drain(&mut self) {
        if self.shutdown != Shutdown::No {
            return;
        }
        match self.role {
            Role::Client => self.go_away(ErrorCode::NO_ERROR, ""),
            Role::Server => {
                self.shutdown = Shutdown::Announced;
                frame::goaway(&mut self.output, ALL_STREAMS, ErrorCode::NO_ERROR, &[]);
                frame::ping(&mut self.output, own_ping(DRAIN), false);
            }
        }
    }

    /// Ends the connection for streams not yet opened, at once (RFC 9113, 6.8): whatever the peer opened beyond those
    /// known here is ignored, and the peer learns that it may try elsewhere. Open streams go on, unless the owner
    /// closes the transport, as it should after an error.
    ///
    /// `debug` is for a person at the other end; its first 256 bytes are sent.
    pub fn go_away(&mut self, code: ErrorCode, debug: &str) {
        // What matters to the peer is which of the streams that it opened were looked at.
        let highest = if self.role == Role::Server { self.closed.highest() } else { 0 };
        let last = match self.shutdown {
            // RFC 9113, 6.8: the number must not grow.
            Shutdown::After(last) => last,
            _ => highest,
        };
        self.shutdown = Shutdown::After(last);
        let debug = debug.as_bytes();
        frame::goaway(&mut self.output, last, code, &debug[..debug.len().min(MAX_DEBUG)]);
    }

    /// Tells how much time passed since the last call, which refills the budgets of
    /// [`FloodLimits`](crate::FloodLimits).
    ///
    /// Call it now and then while the connection lives, every ten seconds for instance: without it an idle connection
    /// uses its budgets up by keepalive alone, in the end.
    pub fn replenish(&mut self, elapsed: Duration) {
        self.flood.replenish(elapsed);
    }

    fn next_stream(&self) -> Option<u32> {
        match self.closed.highest() {
            0 => Some(1),
            highest => highest.checked_add(2).filter(|id| *id <= MAX_STREAM),
        }
    }

    fn add_stream(&mut self, id: u32, token: u64) -> &mut Stream {
        self.streams.insert(Stream::new(id, token, self.peer.initial_window, self.config.initial_stream_window));
        self.streams.get_mut(id).expect("it was inserted")
    }

    /// Takes a stream out of the table; the caller decides how it is remembered.
    fn remove(&mut self, id: u32) -> Option<Stream> {
        let stream = self.streams.remove(id)?;
        self.growth.closed(&stream.receive);
        Some(stream)
    }

    /// Both sides of a stream have ended.
    fn end(&mut self, id: u32) {
        self.remove(id);
        self.closed.ended(id);
    }

    /// Announces what a stream can take again, once it is worth a frame.
    fn update_stream_window(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        // The peer will send nothing more on it.
        if stream.is_remote_closed || !stream.receive.is_update_due() {
            return;
        }
        self.growth.share(&mut stream.receive);
        let increment = stream.receive.announce();
        if increment == 0 {
            return;
        }
        frame::window_update(&mut self.output, id, increment);
        if let Some(number) = self.growth.probe(id, &mut stream.receive, increment) {
            frame::ping(&mut self.output, own_ping(number), false);
        }
    }
}

fn own_ping(number: u32) -> [u8; 8] {
    let [a, b, c, d] = OWN_PING;
    let [e, f, g, h] = number.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("role", &self.role)
            .field("active_streams", &self.active_streams())
            .field("send_window", &self.send_window)
            .field("unreleased", &self.unreleased())
            .field("granted", &self.growth.granted())
            .field("is_going_away", &self.is_going_away())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
