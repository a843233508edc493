//! A copy of a request's body, for a mirror.
//!
//! A mirror never holds a request up: when it does not keep up its copy is broken off.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::BodyError;

/// Frames that can wait for a mirror. One is 64 KiB at most, as a rule 16.
const QUEUE: usize = 32;

enum Piece {
    Frame(Frame<Bytes>),
    /// It is complete: without this, a copy that was broken off would look like one that has ended.
    End,
}

/// Makes a copy of a body of that size.
pub(crate) fn copies(size: SizeHint) -> (CopySender, CopyBody) {
    // One place more, for the end.
    let (sender, receiver) = mpsc::channel(QUEUE + 1);
    (CopySender(Some(sender)), CopyBody { receiver, size })
}

/// Where frames go in.
pub(crate) struct CopySender(Option<mpsc::Sender<Piece>>);

impl CopySender {
    /// Never waits.
    pub(crate) fn send(&mut self, frame: &Frame<Bytes>) {
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(data.clone()),
            (_, Some(trailers)) => Frame::trailers(trailers.clone()),
            _ => return,
        };
        let has_room = self.0.as_ref().is_some_and(|sender| sender.capacity() > 1);
        match &self.0 {
            Some(sender) if has_room => drop(sender.try_send(Piece::Frame(copy))),
            _ => self.0 = None,
        }
    }

    pub(crate) fn end(self) {
        if let Some(sender) = self.0 {
            let _ = sender.try_send(Piece::End);
        }
    }
}

/// Where they come out.
pub(crate) struct CopyBody {
    receiver: mpsc::Receiver<Piece>,
    size: SizeHint,
}

impl Body for CopyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(match ready!(self.get_mut().receiver.poll_recv(cx)) {
            Some(Piece::Frame(frame)) => Some(Ok(frame)),
            Some(Piece::End) => None,
            None => Some(Err("the copy was broken off".into())),
        })
    }

    fn size_hint(&self) -> SizeHint {
        // What is left to come is not tracked: only a length that is known from the start matters, for the head.
        self.size
    }
}
