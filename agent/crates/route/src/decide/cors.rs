//! Requests from other origins, by the Fetch standard (section 3.3, CORS protocol) and the Gateway API's filter.
//!
//! Preflights are always answered here, with 204; one whose origin is not allowed says nothing, so the browser refuses.
//! Where a wildcard may not stand, with credentials, what was asked for is said instead. What a backend says by itself
//! gives way to the filter.

use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;

use crate::route::Cors;

/// What a filter says of a request.
pub(super) enum Judged {
    /// It is a preflight, answered with these headers.
    Preflight(HeaderMap),
    /// It goes on.
    Request(Verdict),
}

/// What a filter says of a request that goes on.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// It comes from no other origin.
    SameOrigin,
    /// Its origin may not read the answer.
    Denied,
    /// Its origin may; this is what is said.
    Allowed(HeaderValue),
}

/// Judges a request.
pub(super) fn judge(cors: &Cors, parts: &Parts) -> Judged {
    let Some(origin) = parts.headers.get(ORIGIN) else { return Judged::Request(Verdict::SameOrigin) };
    let verdict = if !cors.allow_origins.iter().any(|allowed| is_allowed(allowed, origin)) {
        Verdict::Denied
    } else if is_for_everyone(cors) {
        Verdict::Allowed(HeaderValue::from_static("*"))
    } else {
        Verdict::Allowed(origin.clone())
    };
    let method = parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| parts.method == Method::OPTIONS);
    let Some(method) = method else { return Judged::Request(verdict) };
    let mut headers = HeaderMap::new();
    if let Verdict::Allowed(origin) = verdict {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        say_credentials(cors, &mut headers);
        if let Some(methods) = listed(&cors.allow_methods, method, !cors.allow_credentials) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        // A wildcard would not have `authorization` in it, but who allows all headers means all.
        let names = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(names) = names.and_then(|names| listed(&cors.allow_headers, names, false)) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
    }
    headers.insert(
        VARY,
        HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
    );
    Judged::Preflight(headers)
}

/// Says in an answer what was judged of its request.
pub(super) fn allow(cors: &Cors, verdict: &Verdict, headers: &mut HeaderMap) {
    if !is_for_everyone(cors) {
        // The same answer must not be given from a cache to another origin.
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    if matches!(verdict, Verdict::SameOrigin) {
        return;
    }
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE,
    ] {
        headers.remove(name);
    }
    let Verdict::Allowed(origin) = verdict else { return };
    let exposed = if is_wildcard(&cors.expose_headers) && cors.allow_credentials {
        // With credentials the wildcard would be the name of a header.
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        HeaderValue::try_from(names.join(", ")).ok().filter(|names| !names.is_empty())
    } else {
        listed(&cors.expose_headers, &HeaderValue::from_static("*"), true)
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    say_credentials(cors, headers);
    if let Some(exposed) = exposed {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

fn say_credentials(cors: &Cors, headers: &mut HeaderMap) {
    if cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// A list as a value; for the wildcard itself, or what was asked for.
fn listed(names: &[std::sync::Arc<str>], asked: &HeaderValue, may_be_wildcard: bool) -> Option<HeaderValue> {
    if names.is_empty() {
        return None;
    }
    if is_wildcard(names) {
        return Some(if may_be_wildcard { HeaderValue::from_static("*") } else { asked.clone() });
    }
    HeaderValue::try_from(names.join(", ")).ok()
}

fn is_wildcard(names: &[std::sync::Arc<str>]) -> bool {
    names.iter().any(|name| **name == *"*")
}

/// Whether the answer is the same for all origins.
fn is_for_everyone(cors: &Cors) -> bool {
    is_wildcard(&cors.allow_origins) && !cors.allow_credentials
}

/// Whether an origin is one that is allowed: the scheme is the same, and the port, said or not; the wildcard takes any
/// number of labels.
fn is_allowed(allowed: &str, origin: &HeaderValue) -> bool {
    if allowed == "*" {
        return true;
    }
    let Some(origin) = origin.to_str().ok().and_then(parse) else { return false };
    let Some(allowed) = parse(allowed) else { return false };
    let is_host = match allowed.host.strip_prefix('*') {
        Some(end) => {
            let split = origin.host.len().checked_sub(end.len()).filter(|split| *split > 0);
            split.and_then(|split| origin.host.get(split..)).is_some_and(|suffix| suffix.eq_ignore_ascii_case(end))
        }
        None => origin.host.eq_ignore_ascii_case(allowed.host),
    };
    is_host && origin.scheme.eq_ignore_ascii_case(allowed.scheme) && origin.port == allowed.port
}

/// Scheme, host and port of an origin.
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

/// Reads an origin; `null`, which all that have none share, is none.
fn parse(origin: &str) -> Option<Origin<'_>> {
    let (scheme, authority) = origin.split_once("://")?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
        _ => (authority, None),
    };
    let usual = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Some(80),
        _ if scheme.eq_ignore_ascii_case("https") => Some(443),
        _ => None,
    };
    (!host.is_empty()).then_some(Origin { scheme, host, port: port.or(usual) })
}
