//! The attempts of a request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, EXPECT, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use weft_model::Upstream;
use weft_route::{Attempts, Outcome, Rule};

use super::place::{Failure, Place, pick};
use super::reply::Reply;
use super::{Exchange, at};
use crate::body::{ClientBody, Gate, Replay, RequestBody};
use crate::upstream::{Returning, SendError};

/// An endpoint that does not say whether it wants a body that was announced gets it after this.
const CONTINUE: Duration = Duration::from_secs(1);

/// What is to be sent.
pub(super) struct Sending<'a> {
    pub(super) place: Place,
    pub(super) parts: Parts,
    /// To what the connection shall be upgraded.
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) is_http2: bool,
    pub(super) rule: &'a Rule,
}

/// An answer that is passed on.
pub(super) struct Ended {
    pub(super) response: Response<Incoming>,
    pub(super) returning: Returning,
    /// Whose answer it is.
    pub(super) endpoint: Upstream,
    /// When all of it must be there.
    pub(super) deadline: Option<Instant>,
}

impl Exchange {
    /// Makes as many attempts as it takes and as are allowed. `uid`: the endpoint of the client's session.
    pub(super) async fn attempt(
        &mut self,
        sending: Sending<'_>,
        body: ClientBody,
        uid: Option<&str>,
    ) -> Result<Ended, Reply> {
        let Sending { place, parts, upgrade, is_http2, rule } = sending;
        let worker = Arc::clone(&self.flow.worker);
        let started = self.account.started();
        let budget = worker.budget(&place);
        let mut attempts = Attempts::new(rule, &parts.method, &budget, fastrand::u64(..), started);
        let expects = !is_http2 && parts.version == Version::HTTP_11 && parts.headers.contains_key(EXPECT);
        let replay = (!body.is_end_stream()).then(|| {
            let limit = if attempts.may_repeat() { worker.shared.options.limits.replay } else { 0 };
            Replay::new(body, limit)
        });
        let mut uid = uid;
        loop {
            let upstream = match pick(&worker, &self.state, &self.flow.client, &place, uid.take()) {
                Ok(upstream) => upstream,
                Err(failure) => {
                    if let Failure::Denied(upstream, _) = &failure {
                        self.chose(upstream);
                    }
                    return Err(failure.into());
                }
            };
            self.chose(&upstream);
            self.account.record.attempts += 1;
            let body = replay.as_ref().map_or_else(RequestBody::empty, |replay| RequestBody::replay(replay.begin()));
            let mut request = request(&parts, upgrade.as_ref(), is_http2, body);
            if expects && replay.is_some() {
                request = gated(request);
            }
            let deadline = attempts.attempt_deadline(Instant::now());
            let sent = worker.upstreams.send(&upstream, is_http2, request);
            let sent = match deadline {
                Some(deadline) => timeout_at(at(deadline), sent).await.map_err(|_| ()),
                None => Ok(sent.await),
            };
            let outcome = match &sent {
                Ok(Ok((response, _))) => Outcome::Answered(response.status()),
                Ok(Err(error)) => outcome(error),
                Err(()) => Outcome::TimedOut,
            };
            // A client that fails in the middle of its request is not to be asked again.
            let is_clients = matches!(&sent, Ok(Err(error)) if error.is_clients());
            let can_repeat = !is_clients && replay.as_ref().is_none_or(Replay::is_possible);
            if !can_repeat {
                attempts.lose_body();
            }
            let pause = if can_repeat { attempts.next(outcome, Instant::now()) } else { None };
            if let Some(pause) = pause {
                tracing::debug!(?outcome, endpoint = %upstream.address, "another attempt is made");
                drop(sent);
                tokio::time::sleep(pause).await;
                continue;
            }
            return match sent {
                Ok(Ok((response, returning))) => {
                    attempts.next(Outcome::PassedOn, Instant::now());
                    Ok(Ended { response, returning, endpoint: upstream, deadline })
                }
                Ok(Err(error)) if is_clients => {
                    Err(Reply::new(StatusCode::REQUEST_TIMEOUT, "DC", format!("the request broke off: {error}"))
                        .closing())
                }
                Ok(Err(error @ SendError::Connect(_))) => {
                    Err(Reply::new(StatusCode::SERVICE_UNAVAILABLE, "UF", error.to_string()))
                }
                Ok(Err(error)) => {
                    let reason = format!("{} broke the connection before it answered: {error}", upstream.address);
                    Err(Reply::new(StatusCode::SERVICE_UNAVAILABLE, "UC", reason))
                }
                Err(()) => {
                    let reason = format!("{} did not answer in time", upstream.address);
                    Err(Reply::new(StatusCode::GATEWAY_TIMEOUT, "UT", reason))
                }
            };
        }
    }

    fn chose(&mut self, upstream: &Upstream) {
        let record = &mut self.account.record;
        record.endpoint = Some(Arc::clone(&upstream.workload));
        record.endpoint_address = Some(upstream.address);
        if upstream.service.is_some() {
            record.service.clone_from(&upstream.service);
        }
    }
}

fn outcome(error: &SendError) -> Outcome {
    let SendError::Http(error) = error else { return Outcome::Refused };
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(http2) = inner.downcast_ref::<h2::Error>()
            && http2.reason() == Some(h2::Reason::REFUSED_STREAM)
        {
            return Outcome::Refused;
        }
        source = inner.source();
    }
    Outcome::Broken
}

/// The request of one attempt, in the form of the protocol that the endpoint speaks.
pub(super) fn request(
    parts: &Parts,
    upgrade: Option<&HeaderValue>,
    is_http2: bool,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    if is_http2 {
        *request.version_mut() = Version::HTTP_2;
        let host = request.headers_mut().remove(HOST);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(target).build();
        // A filter may have set a host that is none: then the endpoint judges what has no authority.
        *request.uri_mut() = uri.unwrap_or_else(|_| parts.uri.clone());
    } else {
        *request.uri_mut() = parts.uri.clone();
        if let Some(upgrade) = upgrade {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(UPGRADE, upgrade.clone());
        }
    }
    request
}

/// Holds the body back until the endpoint asks for it.
fn gated(mut request: Request<RequestBody>) -> Request<RequestBody> {
    let (open, wanted) = oneshot::channel();
    let open = std::sync::Mutex::new(Some(open));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE
            && let Some(open) = open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        {
            let _ = open.send(());
        }
    });
    request.map(|body| body.behind(Gate::new(wanted, CONTINUE)))
}
