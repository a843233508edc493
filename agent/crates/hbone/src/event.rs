//! What a connection tells its owner, and what its owner asks of it.

use std::{borrow::Cow, fmt};

use crate::ErrorCode;

/// Identifies a stream on its connection (RFC 9113, 5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number on the wire, 31 bits.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.0)
    }
}

/// A CONNECT that a client sends (RFC 9113, 8.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// `host:port` to be connected to; see [`Authority`](crate::Authority).
    pub authority: &'a str,
    /// Who the client is; see [`Baggage`](crate::Baggage).
    pub baggage: Option<&'a str>,
    /// On whose behalf; see [`Forwarded`](crate::Forwarded).
    pub forwarded: Option<&'a str>,
    /// See [`TraceParent`](crate::TraceParent).
    pub traceparent: Option<&'a str>,
}

/// A request that a server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `CONNECT`, or what else the client tried: answer that with status 400.
    pub method: Cow<'static, str>,
    /// The `:authority` as received, printable ASCII and otherwise unchecked. Empty if another method came without.
    pub authority: String,
    /// The `baggage` fields, joined by commas; absent also when they were not UTF-8.
    pub baggage: Option<String>,
    /// The `forwarded` fields, joined by commas; absent also when they were not UTF-8.
    pub forwarded: Option<String>,
    /// The `traceparent` field, unless it came more than once or was not UTF-8.
    pub traceparent: Option<String>,
    /// The client will send nothing on this stream.
    pub end_stream: bool,
}

impl Request {
    /// Whether this is a CONNECT, the only method with a meaning here.
    pub fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }
}

/// What happened on a connection.
///
/// `token` is the number that the owner gave to the stream, 0 until it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// Server: a stream was opened. Give it a token, then respond or reset.
    Request {
        /// The new stream.
        stream: StreamId,
        /// What is asked for.
        request: Request,
    },
    /// Client: the final answer to a request. Informational answers (1xx) are not reported.
    Response {
        /// The stream answered.
        stream: StreamId,
        /// The owner's number.
        token: u64,
        /// 200 to 999.
        status: u16,
        /// The `baggage` fields, joined by commas.
        baggage: Option<String>,
        /// The server will send nothing more.
        end_stream: bool,
    },
    /// Payload of a DATA frame, possibly a part of one. Never empty. Credit it with
    /// [`Connection::released`](crate::Connection::released) once it is handed on.
    Data {
        /// The stream it arrived on.
        stream: StreamId,
        /// The owner's number.
        token: u64,
        /// Borrowed from the input.
        payload: &'b [u8],
        /// These were the stream's last bytes.
        end_stream: bool,
    },
    /// The peer ended its side of the stream without further payload.
    EndStream {
        /// The stream.
        stream: StreamId,
        /// The owner's number.
        token: u64,
    },
    /// The stream is gone in both directions, and bytes still waiting to be sent on it must be dropped.
    Reset {
        /// The stream.
        stream: StreamId,
        /// The owner's number.
        token: u64,
        /// Why. `REFUSED_STREAM` means that the peer did nothing and the request may be tried elsewhere; streams that a
        /// GOAWAY left unprocessed are reported so as well.
        code: ErrorCode,
        /// The peer reset it. Otherwise the peer broke the protocol on this stream and it was reset here.
        by_peer: bool,
    },
    /// The peer accepts no further streams. Those that it will not process are reported as reset right after this.
    GoAway {
        /// The last stream that the peer processed or may still process.
        last_stream: StreamId,
        /// `NO_ERROR` for a graceful shutdown.
        code: ErrorCode,
        /// What the peer says about it, at most 256 bytes of it, made printable.
        debug: String,
    },
    /// A window from which nothing could be sent has opened.
    Writable {
        /// The stream and its token; `None` is the connection's own window, that is, all streams.
        stream: Option<(StreamId, u64)>,
    },
    /// The answer to [`Connection::ping`](crate::Connection::ping).
    Pong {
        /// The bytes sent.
        opaque: [u8; 8],
    },
    /// The peer's SETTINGS took effect: limits on streams and frames may have moved.
    Settings,
}
