//! Watches the heads of HTTP/1 requests as they arrive: for heads that never end, and for lengths that contradict each
//! other.
//!
//! hyper parses, and frames by `transfer-encoding` what has both lengths (RFC 9112, 6.3), which is right but tells nobody;
//! its own time-out for heads counts from the request before. Both need to be seen here, in the bytes below it. What a
//! client sends before its last request was answered is not looked at: it is framed by the same parser all the same.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

/// What the connection and its requests know of each other.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    phase: AtomicU8,
    has_both_lengths: AtomicBool,
}

/// A request is under way for as long as one of these lives.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Guard>);

impl Guard {
    /// A request's head is complete.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.phase.store(BUSY, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

impl Busy {
    /// Whether the head had a length and an encoding as well.
    pub(crate) fn has_both_lengths(&self) -> bool {
        self.0.has_both_lengths.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.has_both_lengths.store(false, Ordering::Relaxed);
        self.0.phase.store(IDLE, Ordering::Relaxed);
    }
}

/// A connection whose heads are watched.
pub(crate) struct Guarded<IO> {
    io: IO,
    guard: Arc<Guard>,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    head: Head,
}

impl<IO> Guarded<IO> {
    /// Each head must be complete `patience` after its first byte.
    pub(crate) fn new(io: IO, guard: Arc<Guard>, patience: Duration) -> Self {
        Self { io, guard, patience, timer: Box::pin(tokio::time::sleep(patience)), head: Head::default() }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let phase = this.guard.phase.load(Ordering::Relaxed);
        let before = into.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, into) {
            Poll::Pending => {
                if phase == HEAD {
                    ready!(this.timer.as_mut().poll(cx));
                    return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                let read = &into.filled()[before..];
                if phase == BUSY || read.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                if phase == IDLE {
                    this.head = Head::default();
                    this.timer.as_mut().reset(Instant::now() + this.patience);
                    this.guard.phase.store(HEAD, Ordering::Relaxed);
                }
                if this.head.read(read) {
                    this.guard.has_both_lengths.store(true, Ordering::Relaxed);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

const LENGTH: &[u8] = b"content-length:";
const ENCODING: &[u8] = b"transfer-encoding:";

/// The lines of one head, piece by piece.
#[derive(Debug, Default)]
struct Head {
    /// What the line at hand begins with.
    begin: [u8; ENCODING.len()],
    /// How long it is so far.
    length: usize,
    is_complete: bool,
    has_length: bool,
    has_encoding: bool,
}

impl Head {
    /// Reads on. `true`: both lengths have been seen.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !self.is_complete {
            match memchr::memchr(b'\n', bytes) {
                Some(end) => {
                    self.add(&bytes[..end]);
                    self.end_line();
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.add(bytes);
                    break;
                }
            }
        }
        self.has_length && self.has_encoding
    }

    fn add(&mut self, part: &[u8]) {
        if let Some(room) = self.begin.get_mut(self.length..) {
            let length = room.len().min(part.len());
            room[..length].copy_from_slice(&part[..length]);
        }
        self.length += part.len();
    }

    fn end_line(&mut self) {
        let begin = &self.begin[..self.length.min(self.begin.len())];
        self.is_complete = matches!(begin, b"" | b"\r");
        let is = |name: &[u8]| begin.len() >= name.len() && begin[..name.len()].eq_ignore_ascii_case(name);
        self.has_length |= is(LENGTH);
        self.has_encoding |= is(ENCODING);
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lengths_are_seen_in_any_order_and_however_the_bytes_arrive() {
        let cases = [
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\ntransfer-encoding:chunked\ncontent-LENGTH:1\n\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nTransfer-Encoding: chunked\r\n", false),
            ("POST / HTTP/1.1\r\nX: Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nContent-Lengths: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ];
        for (text, has_both) in cases {
            for piece in [1, 2, 7, text.len()] {
                let mut head = Head::default();
                let seen = text.as_bytes().chunks(piece).fold(false, |seen, piece| head.read(piece) | seen);
                assert_eq!(seen, has_both, "{text:?} in pieces of {piece}");
            }
        }
    }
}
