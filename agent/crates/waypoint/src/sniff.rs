//! What a connection's first bytes say is spoken on it.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::options::Limits;
use crate::stream::TunnelStream;

/// What HTTP/2 connections begin with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A method that is longer is none.
const METHOD: usize = 24;
/// A line that is longer is no request's first one.
const LINE: usize = 32 << 10;
/// Content type of a TLS handshake, and the major version of all TLS records.
const TLS: [u8; 2] = [0x16, 0x03];

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS: a ClientHello comes, or has come.
    Tls,
    /// Something else.
    Bytes,
}

/// Reads until it is clear what is spoken. What was read stays to be read.
///
/// After `silence` of a client that has said nothing yet its server may be the one that speaks first, and must be let.
///
/// # Errors
/// When the connection fails.
pub(crate) async fn sniff(stream: &mut TunnelStream, silence: Duration, limits: &Limits) -> io::Result<Spoken> {
    let mut patience = deadline(silence);
    loop {
        if let Some(spoken) = classify(stream.unread()) {
            return Ok(spoken);
        }
        let was_silent = stream.unread().is_empty();
        match timeout_at(patience, stream.receive()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return Ok(Spoken::Bytes),
            Ok(Err(error)) => return Err(error),
        }
        if was_silent {
            patience = deadline(limits.sniff);
        }
    }
}

fn deadline(after: Duration) -> Instant {
    Instant::now() + after
}

/// What `bytes` begin; `None`: too few to say.
fn classify(bytes: &[u8]) -> Option<Spoken> {
    if bytes.is_empty() {
        return None;
    }
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return (common == PREFACE.len()).then_some(Spoken::Http2);
    }
    let common = bytes.len().min(TLS.len());
    if bytes[..common] == TLS[..common] {
        return (common == TLS.len()).then_some(Spoken::Tls);
    }
    let method = bytes.iter().take(METHOD).take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    if method == 0 || method == METHOD {
        return Some(Spoken::Bytes);
    }
    match bytes.get(method) {
        None => return None,
        Some(b' ') => {}
        Some(_) => return Some(Spoken::Bytes),
    }
    // Others begin like this as well (`GET key`): only the end of the line tells.
    match memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE)]) {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            let is_http = line.len() > method + 9 && matches!(&line[line.len() - 9..], b" HTTP/1.1" | b" HTTP/1.0");
            Some(if is_http { Spoken::Http1 } else { Spoken::Bytes })
        }
        None if bytes.len() >= LINE => Some(Spoken::Bytes),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_say_what_is_spoken() {
        let cases: [(&[u8], Option<Spoken>); 18] = [
            (b"", None),
            (b"G", None),
            (b"GET", None),
            (b"GET /", None),
            (b"GET / HTTP/1.1\r", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"POST http://a/ HTTP/1.0\nHost", Some(Spoken::Http1)),
            (b"VERSION-CONTROL * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET key\r\n", Some(Spoken::Bytes)),
            (b"GET / HTTP/1.2\r\n", Some(Spoken::Bytes)),
            (b"get / HTTP/1.1\r\n", Some(Spoken::Bytes)),
            (b"PR", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSN", Some(Spoken::Bytes)),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Spoken::Tls)),
            (b"\x00\x00", Some(Spoken::Bytes)),
        ];
        for (bytes, spoken) in cases {
            assert_eq!(classify(bytes), spoken, "{}", bytes.escape_ascii());
        }
        assert_eq!(classify(&[b'A'; METHOD + 1]), Some(Spoken::Bytes));
        assert_eq!(classify(&[b"GET ".as_slice(), &[b'/'; LINE]].concat()), Some(Spoken::Bytes));
    }
}
