//! A request: routed, sent to an endpoint, and answered.

mod attempt;
mod place;
mod reply;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use weft_model::{AppProtocol, Upstream};
use weft_route::path::{Slashes, normalize};
use weft_route::{BackendTarget, Cause, Decision, Forward, Rule, decide_in_session, session};

pub(crate) use place::{Failure, Place, pick};

use crate::body::{Account, ClientBody, Progress, RequestBody, ResponseBody, copies};
use crate::guard::Busy;
use crate::headers;
use crate::inspect::{Ambiguity, settle};
use crate::record::RequestRecord;
use crate::relay;
use crate::scope::Target;
use crate::service::Flow;
use crate::state::State;
use attempt::{Ended, Sending};
use reply::Reply;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// A request on its way.
pub(crate) struct Exchange {
    pub(crate) flow: Arc<Flow>,
    pub(crate) state: Arc<State>,
    pub(crate) account: Account,
    busy: Option<Arc<Busy>>,
    /// What the client speaks.
    version: Version,
    is_grpc: bool,
}

/// Answers a request.
pub(crate) async fn answer(
    flow: Arc<Flow>,
    request: Request<Incoming>,
    busy: Option<Arc<Busy>>,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let state = flow.worker.shared.parts.state.load();
    let progress = Arc::<Progress>::default();
    let account = account(&flow, &state, &parts, &progress);
    let (version, is_grpc) = (parts.version, account.record.is_grpc);
    let mut exchange = Exchange { flow, state, account, busy, version, is_grpc };
    match exchange.run(parts, body).await {
        Ok(response) => response,
        Err(reply) => exchange.finish(reply, None),
    }
}

fn account(flow: &Flow, state: &State, parts: &Parts, progress: &Arc<Progress>) -> Account {
    let service = match &flow.destination.target {
        Target::Service(service) => Some(Arc::clone(service)),
        Target::Workload(_) => None,
    };
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let record = RequestRecord {
        client: Arc::clone(&flow.client),
        source: state.snapshot.workload_by_address(flow.client.address.ip()).cloned(),
        address: flow.destination.address,
        service,
        endpoint: None,
        endpoint_address: None,
        route: None,
        method: parts.method.clone(),
        host: host.into(),
        path: path.into(),
        version: parts.version,
        is_grpc: is_grpc(parts),
        status: None,
        grpc_status: None,
        request_bytes: 0,
        response_bytes: 0,
        attempts: 0,
        duration: std::time::Duration::ZERO,
        ended: SystemTime::now(),
        flags: "-",
        error: None,
    };
    Account::new(record, Arc::clone(&flow.worker.shared.parts.observer), Arc::clone(progress))
}

fn is_grpc(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_grpc = kind.get(..16).is_some_and(|begin| begin.eq_ignore_ascii_case(b"application/grpc"));
    is_grpc && matches!(kind.get(16), None | Some(b'+' | b';' | b' '))
}

impl Exchange {
    async fn run(&mut self, mut parts: Parts, body: Incoming) -> Result<Response<ResponseBody>, Reply> {
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = self.prepare(&mut parts)?;
        let (forward, session) = self.route(&mut parts)?;
        let rule_of_none = Rule::default();
        let rule = forward.as_ref().map_or(&rule_of_none, |forward| forward.matched().rule());
        let place = match forward.as_ref().map(|forward| &forward.backend().target) {
            Some(BackendTarget::Service { key, port }) => match self.state.snapshot.service(key) {
                Some(service) => Place::Service(Arc::clone(service), *port),
                None => {
                    return Err(Reply::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "NC",
                        format!("service {key} is not known"),
                    ));
                }
            },
            Some(BackendTarget::Invalid { reason }) => {
                return Err(Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "NC", reason.to_string()));
            }
            None => Place::of(&self.state.snapshot, &self.flow.destination).map_err(Reply::from)?,
        };
        let is_http2 = upgrade.is_none() && self.is_http2(&place);
        if is_http2 {
            parts.headers.remove(EXPECT);
        }
        let limits = &self.flow.worker.shared.options.limits;
        let pause = Some(limits.body).filter(|_| self.version < Version::HTTP_2 && !self.is_grpc);
        let mut body = ClientBody::new(body, Arc::clone(self.account.progress()), pause, self.busy.clone());
        if let Some(forward) = &forward {
            self.mirror(forward, &parts, &mut body);
        }
        let sending = Sending { place, parts, upgrade: upgrade.clone(), is_http2, rule };
        let uid = session.as_ref().map(session::Token::uid);
        let Ended { response, returning, endpoint, deadline } = match self.attempt(sending, body, uid).await {
            Ok(ended) => ended,
            Err(reply) => return Ok(self.finish_by_ref(reply, forward.as_ref())),
        };

        let (mut head, incoming) = response.into_parts();
        self.account.read_grpc_status(&head.headers);
        let to_upstream = head.extensions.remove::<OnUpgrade>();
        headers::remove_hop_by_hop(&mut head.headers);
        if let Some(forward) = &forward {
            forward.edit_response(&mut head);
            if let Some(persistence) = &forward.matched().rule().session {
                let (prefix, target) = (forward.matched().prefix.as_deref(), &forward.backend().target);
                let told = session::tell(persistence, session.as_ref(), target, &endpoint.workload.uid, prefix, now());
                if let Some((name, value)) = told {
                    head.headers.append(name, value);
                }
            }
        }
        head.version = self.version;
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            && let (Some(upgrade), Some(client), Some(upstream)) = (upgrade, on_upgrade, to_upstream)
        {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, upgrade);
            return Ok(self.switch(head, client, upstream, endpoint));
        }
        self.account.answered(head.status);
        let body = ResponseBody::endpoint(incoming, deadline, Some(returning));
        Ok(Response::from_parts(head, body.closing(self.take_account(), self.busy.take())))
    }

    /// Brings the request into one form, and says who called. Returns what is to be upgraded to.
    fn prepare(&self, parts: &mut Parts) -> Result<Option<HeaderValue>, Reply> {
        let refuse = |status, reason: String| Reply::new(status, "DPE", reason);
        if self.busy.as_ref().is_some_and(|busy| busy.has_both_lengths()) {
            return Err(refuse(Ambiguity::Lengths.status(), Ambiguity::Lengths.to_string()).closing());
        }
        let default_host = match &self.flow.destination.target {
            Target::Service(service) => service.hostname.to_string(),
            Target::Workload(_) => self.flow.destination.address.to_string(),
        };
        let authority = settle(parts, &default_host)
            .map_err(|ambiguity| refuse(ambiguity.status(), ambiguity.to_string()).closing())?;
        // In HTTP/2 there is no upgrade, and what is left of one is malformed.
        let mut upgrade = headers::remove_hop_by_hop(&mut parts.headers).filter(|_| self.version == Version::HTTP_11);
        parts.headers.remove(HTTP2_SETTINGS);
        // An offer of HTTP/2 in clear, or of TLS, is for the next hop, which may leave it: what it leads to could not be routed.
        if upgrade.as_ref().is_some_and(headers::offers_another_http) {
            upgrade = None;
        }
        let path = normalize(parts.uri.path(), Slashes::Keep);
        let path = path.map_err(|ambiguous| refuse(StatusCode::BAD_REQUEST, ambiguous.to_string()))?;
        if let std::borrow::Cow::Owned(path) = path {
            let target = parts.uri.query().map_or(path.clone(), |query| format!("{path}?{query}"));
            let target = PathAndQuery::try_from(target);
            let target = target.map_err(|error| refuse(StatusCode::BAD_REQUEST, error.to_string()))?;
            parts.uri = Uri::from(target);
        }
        let (own, client) = (&self.flow.worker.shared.options.identity, &self.flow.client);
        headers::set_caller(&mut parts.headers, own, &client.identity, client.address, authority.as_str());
        Ok(upgrade)
    }

    /// What the routes make of the request; `None`: there are none, it goes where it was meant to.
    fn route(&mut self, parts: &mut Parts) -> Result<(Option<Forward>, Option<session::Token>), Reply> {
        let Target::Service(service) = &self.flow.destination.target else { return Ok((None, None)) };
        let namespace = Some(self.flow.client.identity.namespace());
        let (port, gateway) = (self.flow.destination.address.port(), Some(self.flow.worker.shared.gateway.as_str()));
        let table = self.state.routes.table(&service.key, port, gateway, namespace);
        let Some(table) = table.filter(|table| table.has_requests()) else { return Ok((None, None)) };
        let Some(matched) = table.find(&weft_route::Request::of(parts)) else {
            return Err(Reply::new(StatusCode::NOT_FOUND, "NR", "no route matches".to_owned()));
        };
        self.account.record.route = Some(Arc::clone(&matched.route.key));
        let rule = matched.rule();
        let session = rule.session.as_ref().and_then(|persistence| session::read(persistence, &parts.headers, now()));
        let backend = session.as_ref().and_then(|session| session.backend(rule));
        match decide_in_session(&matched, parts, backend, &mut |n| fastrand::u32(0..n.max(1))) {
            Decision::Forward(forward) => Ok((Some(forward), session)),
            Decision::Answer(answer) => {
                let (flags, reason) = match &answer.cause {
                    Cause::Redirect | Cause::Preflight => ("-", None),
                    Cause::NoBackend => ("NC", Some("the rule has no backend".to_owned())),
                    Cause::InvalidBackend(reason) => ("NC", Some(reason.to_string())),
                    Cause::InvalidFilter => ("NC", Some("a filter makes no valid request of this one".to_owned())),
                };
                Err(Reply { status: answer.status, flags, reason, headers: Box::new(answer.headers), closes: false })
            }
        }
    }

    /// Whether the endpoint is spoken to in HTTP/2: as its port declares, else as the client does.
    fn is_http2(&self, place: &Place) -> bool {
        match place.protocol(&self.state.snapshot) {
            AppProtocol::Http2 | AppProtocol::Grpc => true,
            // gRPC is HTTP/2 whatever a port is called.
            AppProtocol::Http => self.is_grpc && self.version == Version::HTTP_2,
            AppProtocol::Tcp | AppProtocol::Tls => self.version == Version::HTTP_2,
        }
    }

    /// Sends copies to mirrors. Nothing waits for them.
    fn mirror(&self, forward: &Forward, parts: &Parts, body: &mut ClientBody) {
        let worker = &self.flow.worker;
        for mirror in forward.mirrors() {
            let BackendTarget::Service { key, port } = &mirror.backend else { continue };
            let Some(service) = self.state.snapshot.service(key) else { continue };
            let place = Place::Service(Arc::clone(service), *port);
            let Ok(permit) = Arc::clone(&worker.mirror_permits).try_acquire_owned() else { continue };
            let Ok(upstream) = pick(worker, &self.state, &self.flow.client, &place, None) else { continue };
            let copy = match body.is_end_stream() {
                true => RequestBody::empty(),
                false => {
                    let (sender, copy) = copies(body.size_hint());
                    body.copy_to(sender);
                    RequestBody::copy(copy)
                }
            };
            let is_http2 = self.is_http2(&place);
            let mut copied = parts.clone();
            copied.headers.remove(EXPECT);
            let request = attempt::request(&copied, None, is_http2, copy);
            let (worker, patience) = (Arc::downgrade(worker), worker.shared.options.limits.mirror);
            self.flow.worker.mirrors.spawn(async move {
                let _permit = permit;
                // The worker owns this task: it is gone before the worker is.
                let Some(worker) = worker.upgrade() else { return };
                let sending = async {
                    let Ok((response, returning)) = worker.upstreams.send(&upstream, is_http2, request).await else {
                        return;
                    };
                    let mut body = std::pin::pin!(ResponseBody::endpoint(response.into_body(), None, Some(returning)));
                    while let Some(Ok(_)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
                };
                let _ = tokio::time::timeout(patience, sending).await;
            });
        }
    }

    /// Hands the connection over to another protocol, on both sides.
    fn switch(
        &mut self,
        head: http::response::Parts,
        client: OnUpgrade,
        upstream: OnUpgrade,
        endpoint: Upstream,
    ) -> Response<ResponseBody> {
        self.account.answered(head.status);
        let mut account = self.take_account();
        // For as long as this lives, what the client sends is not taken for a head.
        let busy = self.busy.take();
        let (worker, caller) = (Arc::downgrade(&self.flow.worker), Arc::clone(&self.flow.client));
        let mut changes = self.flow.worker.shared.parts.state.changes();
        self.flow.upgrade(Box::pin(async move {
            let _busy = busy;
            let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else { return };
            let mut counts = [0; 2];
            let Some(worker) = worker.upgrade() else { return };
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            // It lives on as a connection, and is judged as one.
            let failed = tokio::select! {
                biased;
                denial = relay::denied(&worker, &mut changes, &endpoint, &caller) => Some(std::io::Error::other(denial)),
                passed = relay::pass(&mut client, &mut upstream, &mut counts) => passed.err(),
            };
            account.switched(counts, failed);
        }));
        Response::from_parts(head, ResponseBody::whole(""))
    }

    /// An answer of our own in place of an endpoint's.
    fn finish_by_ref(&mut self, reply: Reply, forward: Option<&Forward>) -> Response<ResponseBody> {
        let mut response = reply.into_response(self.version, self.is_grpc, &mut self.account);
        if let Some(forward) = forward {
            let (mut head, body) = response.into_parts();
            forward.edit_response(&mut head);
            response = Response::from_parts(head, body);
        }
        let (head, body) = response.into_parts();
        Response::from_parts(head, body.closing(self.take_account(), self.busy.take()))
    }

    fn finish(mut self, reply: Reply, forward: Option<&Forward>) -> Response<ResponseBody> {
        self.finish_by_ref(reply, forward)
    }

    /// Whoever takes it tells of the request; nothing is told of what is left here.
    fn take_account(&mut self) -> Account {
        self.account.take()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A deadline of the engine's as tokio has it.
pub(crate) fn at(deadline: Instant) -> tokio::time::Instant {
    deadline.into()
}
