//! Where the next agent greets this one: see [`crate::hand_over`]. Only on the Unix socket, which is for root alone.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::mpsc;

use super::http::{Reply, failure};
use crate::hand_over::PROTOCOL;

/// Agrees to hand over, and passes on the connection that the request's becomes.
pub(super) fn answer(mut request: Request<Incoming>, successors: Option<&mpsc::Sender<OnUpgrade>>) -> Reply {
    if request.method() != Method::POST || request.headers().get(UPGRADE).is_none_or(|asked| asked != PROTOCOL) {
        return failure(StatusCode::BAD_REQUEST, "this is asked for with POST and an Upgrade to weft-hand-over");
    }
    let Some(successors) = successors else {
        return failure(StatusCode::NOT_IMPLEMENTED, "this agent does not hand over");
    };
    if successors.try_send(hyper::upgrade::on(&mut request)).is_err() {
        return failure(StatusCode::CONFLICT, "this agent is handing over to another one already, or ends");
    }
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    reply
}
