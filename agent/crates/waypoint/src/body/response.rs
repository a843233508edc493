//! The body of an answer, which ends a request's account.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::BodyError;
use super::request::Progress;
use crate::guard::Busy;
use crate::record::{Observe, RequestRecord};
use crate::upstream::Returning;

/// What is told of a request once it is over, however it ends.
///
/// Dropping it tells. What it is taken from tells nothing any more.
pub(crate) struct Account {
    /// What is known so far.
    pub(crate) record: RequestRecord,
    is_told: bool,
    observer: Arc<dyn Observe>,
    progress: Arc<Progress>,
    started: Instant,
    is_complete: bool,
}

impl Account {
    pub(crate) fn new(record: RequestRecord, observer: Arc<dyn Observe>, progress: Arc<Progress>) -> Self {
        Self { record, is_told: false, observer, progress, started: Instant::now(), is_complete: false }
    }

    /// Hands the account over.
    pub(crate) fn take(&mut self) -> Self {
        let taken = Self {
            record: self.record.clone(),
            is_told: self.is_told,
            observer: Arc::clone(&self.observer),
            progress: Arc::clone(&self.progress),
            started: self.started,
            is_complete: self.is_complete,
        };
        self.is_told = true;
        taken
    }

    /// A connection that went on in another protocol is over.
    pub(crate) fn switched(&mut self, [from_client, to_client]: [u64; 2], error: Option<std::io::Error>) {
        self.progress.bytes.fetch_add(from_client, Ordering::Relaxed);
        self.record.response_bytes += to_client;
        self.is_complete = true;
        if let Some(error) = error {
            self.fail("UC", error.to_string());
        }
    }

    /// The request's progress.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// When the request came.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// It failed, for this reason and with Istio's flag for it.
    pub(crate) fn fail(&mut self, flags: &'static str, error: impl Into<Cow<'static, str>>) {
        self.record.flags = flags;
        self.record.error = Some(error.into());
    }

    /// Reads `grpc-status` from headers or trailers.
    pub(crate) fn read_grpc_status(&mut self, headers: &HeaderMap) {
        let status = headers.get("grpc-status").and_then(|status| status.to_str().ok());
        if let Some(status) = status.and_then(|status| status.parse().ok()) {
            self.record.grpc_status = Some(status);
        }
    }

    /// The answer's head goes out.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.record.status = Some(status);
        self.progress.is_answered.store(true, Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Self { record, is_told, observer, progress, started, is_complete } = self;
        if *is_told {
            return;
        }
        let mut record = record.clone();
        record.request_bytes = progress.bytes.load(Ordering::Relaxed);
        record.duration = started.elapsed();
        record.ended = SystemTime::now();
        if !*is_complete && record.error.is_none() {
            record.flags = "DC";
            record.error = Some("the client was gone before the answer was complete".into());
        }
        observer.request(record);
    }
}

/// An answer's body.
pub(crate) struct ResponseBody {
    content: Content,
    account: Option<Account>,
    deadline: Option<Pin<Box<Sleep>>>,
    returning: Option<Returning>,
    _busy: Option<Arc<Busy>>,
}

enum Content {
    Whole(Option<Bytes>),
    Endpoint(Incoming),
}

impl ResponseBody {
    /// An answer of our own.
    pub(crate) fn whole(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        let content = Content::Whole(Some(text).filter(|text| !text.is_empty()));
        Self { content, account: None, deadline: None, returning: None, _busy: None }
    }

    /// An endpoint's. It must be complete by `deadline`; its connection is free when it is.
    pub(crate) fn endpoint(incoming: Incoming, deadline: Option<Instant>, returning: Option<Returning>) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
        let mut body = Self { content: Content::Endpoint(incoming), account: None, deadline, returning, _busy: None };
        if body.is_end_stream() {
            body.complete();
        }
        body
    }

    /// Its end is the request's.
    pub(crate) fn closing(mut self, account: Account, busy: Option<Arc<Busy>>) -> Self {
        self.account = Some(account);
        self._busy = busy;
        if self.is_end_stream() {
            self.complete();
        }
        self
    }

    fn complete(&mut self) {
        if let Some(returning) = self.returning.take() {
            returning.give_back();
        }
        self.deadline = None;
        if let Some(account) = &mut self.account {
            account.is_complete = true;
        }
    }

    fn fail(&mut self, flags: &'static str, error: &str) {
        if let Some(account) = &mut self.account {
            account.fail(flags, error.to_owned());
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.content {
            Content::Whole(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Content::Endpoint(incoming) => Pin::new(incoming).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(account) = &mut this.account {
                    if let Some(data) = frame.data_ref() {
                        account.record.response_bytes += data.len() as u64;
                    } else if let Some(trailers) = frame.trailers_ref() {
                        account.read_grpc_status(trailers);
                    }
                }
                if frame.is_trailers() || this.is_end_stream() {
                    this.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.fail("UC", &format!("the answer was broken off: {error}"));
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending => {
                if this.deadline.as_mut().is_none_or(|deadline| deadline.as_mut().poll(cx).is_pending()) {
                    return Poll::Pending;
                }
                this.fail("UT", "the answer was not complete in time");
                Poll::Ready(Some(Err("the answer was not complete in time".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(text) => text.is_none(),
            Content::Endpoint(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Content::Endpoint(incoming) => incoming.size_hint(),
        }
    }
}
