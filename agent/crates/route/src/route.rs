//! What routes say, as their objects said it, after defaults and references were settled.
//!
//! The words are the Gateway API's (v1.6). A gRPC route is one whose methods became paths: service and method are the
//! two elements of the path of every gRPC request.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use regex_syntax::hir::literal::Extractor;

/// One HTTPRoute, GRPCRoute, TLSRoute or TCPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `<kind>/<namespace>/<name>`: what it is known by.
    pub key: Arc<str>,
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// When it was created, in seconds since 1970: among equals the oldest wins, then the first by namespace and name.
    pub created: i64,
    /// What it is attached to; only where it was accepted.
    pub parents: Vec<Parent>,
    /// Hosts that it takes; empty: all. They count where it is attached to a Gateway, not where it is to a service.
    pub hostnames: Vec<Hostname>,
    /// In the order of the object.
    pub rules: Vec<Rule>,
}

/// The kind of a [`Route`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute: takes requests of gRPC alone. One that is attached beside an HTTPRoute wins.
    Grpc,
    /// TLSRoute: by the server name of a handshake that is passed through.
    Tls,
    /// TCPRoute.
    Tcp,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parent {
    /// The object.
    pub target: ParentTarget,
    /// The port of it; `None`: all.
    pub port: Option<u16>,
    /// The namespace whose clients alone it is for: a route beside its clients and not beside its service (consumer
    /// route), which takes the place of the service's own routes for them.
    pub consumer: Option<Arc<str>>,
}

/// See [`Parent`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ParentTarget {
    /// A service, by its key in the model, `<namespace>/<hostname>`.
    Service(Arc<str>),
    /// A waypoint's Gateway, `<namespace>/<name>`: for all services of that waypoint that have no routes of their own.
    Gateway(Arc<str>),
}

/// A host name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hostname {
    /// This one.
    Exact(Arc<str>),
    /// All below it: `*.example.com` is `example.com` here.
    Below(Arc<str>),
}

/// One rule of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its name; the route's position in telemetry when it has none.
    pub name: Option<Arc<str>>,
    /// ORed. Empty: every request.
    pub matches: Vec<RequestMatch>,
    /// Server names (TLS routes); empty elsewhere.
    pub server_names: Vec<Hostname>,
    /// In the order of the object.
    pub filters: Vec<Filter>,
    /// Where requests go, in proportion to their weights. None at all, or the sum of weights 0: answered with 500.
    pub backends: Vec<Backend>,
    /// How long requests may take.
    pub timeouts: Timeouts,
    /// Whether and when another attempt is made.
    pub retry: Option<Retry>,
    /// Requests of one session stay with one endpoint.
    pub session: Option<SessionPersistence>,
}

/// Conditions on a request, ANDed. None at all: every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMatch {
    /// On the path, without the query.
    pub path: Option<PathMatch>,
    /// The method.
    pub method: Option<Method>,
    /// On headers. Of a name only the first entry is kept. Several values of one header count as one, joined by commas.
    pub headers: Vec<HeaderMatch>,
    /// On parameters of the query. Of a parameter that is repeated, the first value counts.
    pub query: Vec<QueryMatch>,
}

/// A condition on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(Arc<str>),
    /// This path and what is below it, by whole elements: `/a` has `/a` and `/a/b`, not `/ab`. Without a slash at the
    /// end, except for `/`.
    Prefix(Arc<str>),
    /// All of the path matches this (RE2's syntax).
    Regex(Pattern),
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Name of the header.
    pub name: HeaderName,
    /// What its value must be.
    pub value: ValueMatch,
}

/// A condition on a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Name of the parameter, decoded.
    pub name: Arc<str>,
    /// What its value, decoded, must be.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// This value.
    Exact(Arc<str>),
    /// All of the value matches this (RE2's syntax).
    Regex(Pattern),
}

/// A regular expression that was compiled within a bound, and matches in time linear in the text.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Arc<str>,
    compiled: regex::Regex,
    beginning: Arc<str>,
}

/// Bytes that a compiled pattern may take. What a route may say is an operator's choice; what it costs is bounded.
const PATTERN_BYTES: usize = 1 << 20;

impl Pattern {
    /// Compiles a pattern that has to match the whole of a text.
    ///
    /// # Errors
    /// When it is no regular expression, or too large a one. The message is in words for whoever wrote it.
    pub fn new(source: &str) -> Result<Self, String> {
        // The parts alone must be right, too: `a)(b` is right only between parentheses.
        let parsed = regex_syntax::parse(source).map_err(|error| error.to_string())?;
        let whole = format!("^(?:{source})$");
        let compiled = regex::RegexBuilder::new(&whole).size_limit(PATTERN_BYTES).build();
        let compiled = compiled.map_err(|error| error.to_string())?;
        let literals = Extractor::new().extract(&parsed);
        let beginning = literals.longest_common_prefix().and_then(|bytes| str::from_utf8(bytes).ok());
        Ok(Self { source: source.into(), compiled, beginning: beginning.unwrap_or_default().into() })
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// What every text that matches begins with, as far as it is known.
    pub(crate) fn beginning(&self) -> &str {
        &self.beginning
    }

    /// Whether all of `text` matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// What is done with a request, its answer, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Headers of the request are changed.
    RequestHeaders(HeaderEdits),
    /// Headers of the answer are changed.
    ResponseHeaders(HeaderEdits),
    /// The answer is a redirection; no backend is asked.
    Redirect(Redirect),
    /// Host or path of the request are changed.
    Rewrite(Rewrite),
    /// A copy of the request goes elsewhere too; its answer is dropped.
    Mirror(Mirror),
    /// Cross-origin requests (the Fetch standard) are judged, and preflights answered.
    Cors(Cors),
}

/// Changes of headers: `set` first, then `add`, then `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Take the place of what the header has.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Join what the header has.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Go.
    pub remove: Vec<HeaderName>,
}

/// A redirection. What is not said stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host name.
    pub hostname: Option<Arc<str>>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// Port. Not said: the well-known one of the scheme that is said, else the one that was asked for.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// See [`Filter::Rewrite`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The new host.
    pub hostname: Option<Arc<str>>,
    /// The new path.
    pub path: Option<PathRewrite>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// All of it.
    Full(Arc<str>),
    /// The prefix that the rule matched.
    Prefix(Arc<str>),
}

/// See [`Filter::Mirror`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go.
    pub backend: BackendTarget,
    /// Which share of the requests, as numerator and denominator (never 0).
    pub share: (u32, u32),
}

/// See [`Filter::Cors`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins, `scheme://host[:port]`, in which a host may start with `*.`; or `*` alone.
    pub allow_origins: Vec<Arc<str>>,
    /// Credentials may be sent.
    pub allow_credentials: bool,
    /// Methods; `*` alone: all.
    pub allow_methods: Vec<Arc<str>>,
    /// Headers of requests; `*` alone: all.
    pub allow_headers: Vec<Arc<str>>,
    /// Headers of answers that scripts may read.
    pub expose_headers: Vec<Arc<str>>,
    /// For so long the answer to a preflight may be kept. Default: 5 s.
    pub max_age: Duration,
}

/// One of a rule's destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where.
    pub target: BackendTarget,
    /// Its share of the requests, in proportion to the sum of the rule's weights. Default: 1.
    pub weight: u32,
    /// Filters for requests that go here.
    pub filters: Vec<Filter>,
}

/// See [`Backend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// A service by its key in the model, `<namespace>/<hostname>`, and a port of it.
    Service {
        /// Its key.
        key: Arc<str>,
        /// Its port.
        port: u16,
    },
    /// It does not exist, is of no kind that can take requests, or must not be referred to: its share is answered with 500.
    Invalid {
        /// Why, in words.
        reason: Arc<str>,
    },
}

/// How long a request may take. `None`: as long as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From its first byte to the last of its answer, all attempts in it.
    pub request: Option<Duration>,
    /// Each attempt.
    pub backend: Option<Duration>,
}

/// See [`Rule::retry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Status codes of answers that are tried again. Connections that fail before an answer are, too.
    pub codes: Vec<StatusCode>,
    /// How many further attempts. Default: 2.
    pub attempts: u32,
    /// The least pause before one. Default: 25 ms; each waits twice as long as the one before, at random within it.
    pub backoff: Option<Duration>,
}

/// See [`Rule::session`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Name of the cookie or header.
    pub name: Arc<str>,
    /// Where the session's token travels.
    pub carrier: SessionCarrier,
    /// After so long a session begins anew.
    pub absolute_timeout: Option<Duration>,
    /// After so long without a request a session begins anew.
    pub idle_timeout: Option<Duration>,
}

/// See [`SessionPersistence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionCarrier {
    /// A cookie that ends with the browser.
    SessionCookie,
    /// A cookie that lives as long as the session may.
    PermanentCookie,
    /// A header.
    Header,
}

/// A change of what is routed where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// A route is new, or another.
    Put(Arc<Route>),
    /// The route of this key is gone.
    Remove(Arc<str>),
}
