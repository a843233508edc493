//! Where a request is sent: redirections, and other hosts and paths.

use std::borrow::Cow;
use std::fmt::Write;

use http::header::{HeaderMap, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};

use super::headers::set_host;
use crate::path::{escape, stands_for_itself};
use crate::request::asked_for;
use crate::route::{PathRewrite, Redirect, Rewrite};

/// What a route wants is no valid head of a request or answer.
#[derive(Debug)]
pub(super) struct Invalid;

/// Changes host and path of a request. `came`: the path that it came with.
pub(super) fn rewrite(rewrite: &Rewrite, came: &str, prefix: Option<&str>, parts: &mut Parts) -> Result<(), Invalid> {
    if let Some(hostname) = &rewrite.hostname {
        let value = HeaderValue::from_str(hostname).map_err(|_| Invalid)?;
        set_host(parts, &value).map_err(|_| Invalid)?;
    }
    if let Some(path) = &rewrite.path {
        let mut target = rewritten(path, came, prefix).into_owned();
        if let Some(query) = parts.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        let before = uri.path_and_query.replace(PathAndQuery::try_from(target).map_err(|_| Invalid)?);
        debug_assert!(before.is_some(), "a request that was matched has a path");
        parts.uri = Uri::from_parts(uri).map_err(|_| Invalid)?;
    }
    Ok(())
}

/// The headers of a redirection. `came`: the path that the request came with.
pub(super) fn redirect(
    redirect: &Redirect,
    came: &str,
    prefix: Option<&str>,
    parts: &Parts,
) -> Result<HeaderMap, Invalid> {
    let (host, port) = asked_for(&parts.uri, &parts.headers);
    let scheme = redirect.scheme.as_deref().or(parts.uri.scheme_str()).unwrap_or("http");
    let known = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    // A scheme that is said brings its own port along, unless that is said as well.
    let port = redirect.port.or(if redirect.scheme.is_some() && known.is_some() { known } else { port });
    let host = redirect.hostname.as_deref().unwrap_or(host);
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port.filter(|port| Some(*port) != known) {
        let _ = write!(location, ":{port}");
    }
    location.push_str(&redirect.path.as_ref().map_or(Cow::Borrowed(came), |path| rewritten(path, came, prefix)));
    if let Some(query) = parts.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    let location = HeaderValue::try_from(location).map_err(|_| Invalid)?;
    Ok(HeaderMap::from_iter([(LOCATION, location)]))
}

/// The new path. The prefix of a rule that matched by no prefix cannot be replaced: the path stays.
fn rewritten<'a>(path: &PathRewrite, came: &'a str, prefix: Option<&str>) -> Cow<'a, str> {
    match path {
        PathRewrite::Full(full) => Cow::Owned(spelled(full)),
        PathRewrite::Prefix(new) => {
            let Some(rest) = prefix.and_then(|prefix| came.strip_prefix(prefix.trim_end_matches('/'))) else {
                return Cow::Borrowed(came);
            };
            // What is left begins with a slash or is empty, so the new prefix brings none of its own.
            let mut path = if new.trim_end_matches('/').is_empty() { String::new() } else { spelled(new) };
            path.truncate(path.trim_end_matches('/').len());
            path.push_str(rest);
            if path.is_empty() {
                path.push('/');
            }
            Cow::Owned(path)
        }
    }
}

/// A path of a route as it may be sent: what has no place in a path, a `?` as well, is escaped.
fn spelled(path: &str) -> String {
    let mut spelled = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        spelled.push('/');
    }
    for byte in path.bytes() {
        // An escape stays one.
        if byte == b'/' || byte == b'%' || stands_for_itself(byte) {
            spelled.push(char::from(byte));
        } else {
            escape(&mut spelled, byte);
        }
    }
    spelled
}
