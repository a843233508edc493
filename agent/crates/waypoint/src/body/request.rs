//! The body of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::BodyError;
use super::copied::{CopyBody, CopySender};
use super::replay::ReplayBody;
use crate::guard::Busy;

/// What is known of a request while it is under way.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes of its body.
    pub(crate) bytes: AtomicU64,
    /// Its answer has begun.
    pub(crate) is_answered: AtomicBool,
}

/// A request's body as the client sends it.
pub(crate) struct ClientBody {
    incoming: Incoming,
    progress: Arc<Progress>,
    pause: Option<(Duration, Pin<Box<Sleep>>)>,
    copies: Vec<CopySender>,
    _busy: Option<Arc<Busy>>,
}

impl ClientBody {
    /// `pause`: the longest one before the answer has begun.
    pub(crate) fn new(
        incoming: Incoming,
        progress: Arc<Progress>,
        pause: Option<Duration>,
        busy: Option<Arc<Busy>>,
    ) -> Self {
        let pause = pause.filter(|_| !incoming.is_end_stream());
        let pause = pause.map(|pause| (pause, Box::pin(tokio::time::sleep(pause))));
        Self { incoming, progress, pause, copies: Vec::new(), _busy: busy }
    }

    /// What is read from now on goes there as well.
    pub(crate) fn copy_to(&mut self, copy: CopySender) {
        self.copies.push(copy);
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.progress.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                if let Some((pause, timer)) = &mut this.pause {
                    timer.as_mut().reset(Instant::now() + *pause);
                }
                this.copies.iter_mut().for_each(|copy| copy.send(&frame));
                if this.incoming.is_end_stream() {
                    this.copies.drain(..).for_each(CopySender::end);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.copies.drain(..).for_each(CopySender::end);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Pending => {
                if let Some((pause, timer)) = &mut this.pause
                    && !this.progress.is_answered.load(Ordering::Relaxed)
                {
                    ready!(timer.as_mut().poll(cx));
                    let late = format!("the client has sent nothing of the request's body for {pause:?}");
                    return Poll::Ready(Some(Err(late.into())));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Holds a body back until the endpoint wants it (`Expect: 100-continue`), or has been silent about that for long.
pub(crate) struct Gate {
    wanted: oneshot::Receiver<()>,
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    /// Opens when `wanted` says so, or after `patience`.
    pub(crate) fn new(wanted: oneshot::Receiver<()>, patience: Duration) -> Self {
        Self { wanted, patience: Box::pin(tokio::time::sleep(patience)) }
    }
}

/// What an attempt sends.
pub(crate) struct RequestBody {
    content: Content,
    gate: Option<Gate>,
}

enum Content {
    Empty,
    Replay(ReplayBody),
    Copy(CopyBody),
}

impl RequestBody {
    fn of(content: Content) -> Self {
        Self { content, gate: None }
    }

    pub(crate) fn empty() -> Self {
        Self::of(Content::Empty)
    }

    pub(crate) fn replay(body: ReplayBody) -> Self {
        Self::of(Content::Replay(body))
    }

    pub(crate) fn copy(body: CopyBody) -> Self {
        Self::of(Content::Copy(body))
    }

    /// Holds it back.
    pub(crate) fn behind(mut self, gate: Gate) -> Self {
        self.gate = Some(gate);
        self
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(gate) = &mut this.gate {
            // Who would have opened it is gone once the answer is there: then nobody reads the body any more.
            if Pin::new(&mut gate.wanted).poll(cx).is_pending() {
                ready!(gate.patience.as_mut().poll(cx));
            }
            this.gate = None;
        }
        match &mut this.content {
            Content::Empty => Poll::Ready(None),
            Content::Replay(body) => Pin::new(body).poll_frame(cx),
            Content::Copy(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Replay(body) => body.is_end_stream(),
            Content::Copy(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Replay(body) => body.size_hint(),
            Content::Copy(body) => body.size_hint(),
        }
    }
}
