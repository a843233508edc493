//! A stream of a tunnel as bytes to read and to write.
//!
//! Flow control passes through: what was received is credited when it is read, and nothing is taken for sending that the
//! peer has no room for. An end is an end of the stream, a reset a reset, both ways.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is handed to the tunnel at once.
const WRITE: usize = 64 << 10;

/// A stream of a tunnel.
pub(crate) struct TunnelStream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received, and not read yet.
    unread: BytesMut,
    has_ended: bool,
    _counted: Option<Counted>,
}

/// Counts a stream for as long as it lives.
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Counts one more.
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TunnelStream {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream, counted: Option<Counted>) -> Self {
        Self { send, receive, unread: BytesMut::new(), has_ended: false, _counted: counted }
    }

    /// Ends it by a reset.
    pub(crate) fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// What was received and not read.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Waits for more than [`TunnelStream::unread`] has. `false`: there is no more. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.has_ended {
            return Poll::Ready(Ok(false));
        }
        loop {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    if self.unread.is_empty() {
                        self.unread = BytesMut::from(data);
                    } else {
                        self.unread.extend_from_slice(&data);
                    }
                    return Poll::Ready(Ok(true));
                }
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => {
                    self.has_ended = true;
                    return Poll::Ready(Ok(false));
                }
            }
        }
    }

    /// How much may be sent now, at least one byte and at most `wanted`.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(wanted)));
            }
            self.send.reserve_capacity(wanted.min(WRITE));
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                // The peer has ended the stream, or we have.
                None => {
                    return Poll::Ready(Err(match self.send.poll_reset(cx) {
                        Poll::Ready(Ok(Reason::NO_ERROR)) | Poll::Pending => ErrorKind::BrokenPipe.into(),
                        Poll::Ready(Ok(_)) => ErrorKind::ConnectionReset.into(),
                        Poll::Ready(Err(error)) => failure(error),
                    }));
                }
            }
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() && !ready!(self.poll_receive(cx))? {
            return Poll::Ready(Ok(()));
        }
        let length = self.unread.len().min(into.remaining());
        into.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        // It fails only for more than was received.
        let _ = self.receive.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, data.len().min(WRITE)))?;
        self.send.send_data(Bytes::copy_from_slice(&data[..room]), false).map_err(failure)?;
        Poll::Ready(Ok(room))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = data.iter().map(|slice| slice.len()).sum::<usize>().min(WRITE);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, wanted))?;
        let mut gathered = BytesMut::with_capacity(room);
        for slice in data {
            let length = slice.len().min(room - gathered.len());
            gathered.extend_from_slice(&slice[..length]);
        }
        self.send.send_data(gathered.freeze(), false).map_err(failure)?;
        Poll::Ready(Ok(room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The tunnel writes by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(failure))
    }
}

/// A reset stays a reset; what became of a tunnel that is gone is the network's.
fn failure(error: h2::Error) -> io::Error {
    if error.is_reset() || error.is_go_away() {
        return io::Error::new(ErrorKind::ConnectionReset, error);
    }
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| ErrorKind::ConnectionAborted.into()),
        false => io::Error::new(ErrorKind::BrokenPipe, error),
    }
}
