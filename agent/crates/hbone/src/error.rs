//! Error codes, and the ways in which a connection or a stream ends.

use std::fmt;

/// An error code of RFC 9113, 7.
///
/// Codes outside the registry are kept: an endpoint must not treat them specially.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Graceful shutdown.
    pub const NO_ERROR: Self = Self(0x00);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x01);
    /// The sender of the code failed.
    pub const INTERNAL_ERROR: Self = Self(0x02);
    /// More was sent than a window allowed.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x03);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x04);
    /// A frame for a stream that had ended.
    pub const STREAM_CLOSED: Self = Self(0x05);
    /// A frame of a wrong size.
    pub const FRAME_SIZE_ERROR: Self = Self(0x06);
    /// The stream was not processed at all: it is safe to try again elsewhere.
    pub const REFUSED_STREAM: Self = Self(0x07);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x08);
    /// The header compression context cannot be kept.
    pub const COMPRESSION_ERROR: Self = Self(0x09);
    /// The TCP connection behind a CONNECT was reset or failed.
    pub const CONNECT_ERROR: Self = Self(0x0a);
    /// The peer causes too much work.
    pub const ENHANCE_YOUR_CALM: Self = Self(0x0b);
    /// The transport does not meet the minimum.
    pub const INADEQUATE_SECURITY: Self = Self(0x0c);
    /// HTTP/1.1 is wanted.
    pub const HTTP_1_1_REQUIRED: Self = Self(0x0d);

    /// The name in the registry, or `None` for a code that is not registered.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::NO_ERROR => "NO_ERROR",
            Self::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Self::INTERNAL_ERROR => "INTERNAL_ERROR",
            Self::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Self::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
            Self::STREAM_CLOSED => "STREAM_CLOSED",
            Self::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Self::REFUSED_STREAM => "REFUSED_STREAM",
            Self::CANCEL => "CANCEL",
            Self::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Self::CONNECT_ERROR => "CONNECT_ERROR",
            Self::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            Self::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
            Self::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The peer did something after which the connection cannot go on (RFC 9113, 5.4.1).
///
/// A GOAWAY that says so waits in the output: send it, then close. It is always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke HTTP/2 ({code}): {reason}")]
pub struct ConnectionError {
    /// The code that the GOAWAY carries.
    pub code: ErrorCode,
    /// What the peer did, in words.
    pub reason: &'static str,
}

/// A stream cannot be opened on this connection. Nothing was sent, so it is safe to try on another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams are open as the peer allows.
    #[error("the peer's limit of {limit} concurrent streams is reached")]
    TooManyStreams {
        /// The peer's `SETTINGS_MAX_CONCURRENT_STREAMS`.
        limit: u32,
    },
    /// One side is shutting the connection down, or it has failed.
    #[error("the connection is going away")]
    GoingAway,
    /// All stream identifiers of this connection are used up.
    #[error("the connection has no stream identifiers left")]
    Exhausted,
    /// The header list is larger than the peer accepts.
    #[error("the request's headers take {size} bytes, but the peer accepts {limit}")]
    HeadersTooLarge {
        /// Size of the list as RFC 9113, 6.5.2 counts it.
        size: usize,
        /// The peer's `SETTINGS_MAX_HEADER_LIST_SIZE`.
        limit: u32,
    },
    /// A value that no header field may carry, for instance one with a line feed in it.
    #[error("the request's `{field}` cannot be expressed as a header field")]
    InvalidField {
        /// The header field.
        field: &'static str,
    },
    /// Only a client opens streams.
    #[error("a server cannot open streams")]
    NotAClient,
}
