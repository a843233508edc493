//! A request's body that can be sent again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::BodyError;
use super::request::ClientBody;

/// Keeps what an attempt has sent, up to a limit, for the next.
#[derive(Clone)]
pub(crate) struct Replay(Arc<Mutex<State>>);

struct State {
    source: Option<ClientBody>,
    size: SizeHint,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    limit: usize,
    /// More was sent than is kept, or the client failed.
    is_lost: bool,
    /// The attempt that may read. An earlier one, whose connection has not noticed yet, must not take what is the next's.
    attempt: u32,
}

impl Replay {
    /// Keeps up to `limit` bytes.
    pub(crate) fn new(source: ClientBody, limit: usize) -> Self {
        let size = source.size_hint();
        Self(Arc::new(Mutex::new(State {
            is_lost: false,
            size,
            source: Some(source),
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            limit,
            attempt: 0,
        })))
    }

    /// Whether another attempt can send all of it.
    pub(crate) fn is_possible(&self) -> bool {
        !self.state().is_lost
    }

    /// The body for the next attempt, which takes it away from the one before.
    pub(crate) fn begin(&self) -> ReplayBody {
        let mut state = self.state();
        state.attempt += 1;
        ReplayBody { attempt: state.attempt, next: 0, has_ended: false, replay: self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt's body.
pub(crate) struct ReplayBody {
    replay: Replay,
    attempt: u32,
    /// Which of what is kept comes next.
    next: usize,
    has_ended: bool,
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let replay = this.replay.clone();
        let mut state = replay.state();
        if state.attempt != this.attempt {
            return Poll::Ready(Some(Err("another attempt has begun".into())));
        }
        if let Some(data) = state.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let Some(source) = &mut state.source else {
            let trailers = state.trailers.clone().filter(|_| !this.has_ended);
            this.has_ended = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        match ready!(Pin::new(source).poll_frame(cx)) {
            None => {
                state.source = None;
                this.has_ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                state.is_lost = true;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if !state.is_lost && state.kept_bytes + data.len() <= state.limit {
                        state.kept_bytes += data.len();
                        let data = data.clone();
                        state.kept.push(data);
                        this.next += 1;
                    } else {
                        state.is_lost = true;
                        state.kept = Vec::new();
                        this.next = 0;
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    state.trailers = Some(trailers.clone());
                    state.source = None;
                    this.has_ended = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.replay.state();
        let is_read = state.source.as_ref().is_none_or(Body::is_end_stream);
        is_read && self.next >= state.kept.len() && (state.trailers.is_none() || self.has_ended)
    }

    fn size_hint(&self) -> SizeHint {
        // Asked for before anything is sent: every attempt's is the whole.
        self.replay.state().size
    }
}
