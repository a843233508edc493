//! What of a request counts for its match, and the conditions on it.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, HOST, HeaderMap};
use http::request::Parts;
use http::{Method, Uri};
use smallvec::SmallVec;

use crate::route::{HeaderMatch, QueryMatch, RequestMatch, ValueMatch};

/// What of a request counts for its match.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The host that it asks for, without a port; in any case.
    pub host: &'a str,
    /// Its path, as [`crate::path::normalize`] made it.
    pub path: &'a str,
    /// Its query, without the question mark.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

impl<'a> Request<'a> {
    /// The same of a request's head, whose path was normalized.
    #[must_use]
    pub fn of(parts: &'a Parts) -> Self {
        let (host, _) = asked_for(&parts.uri, &parts.headers);
        Self { method: &parts.method, host, path: parts.uri.path(), query: parts.uri.query(), headers: &parts.headers }
    }

    /// Whether it is one of gRPC: a POST of `application/grpc`, or of a subtype of that.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        const GRPC: &[u8] = b"application/grpc";
        let Some(kind) = self.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes) else { return false };
        // `application/grpc-web` is another protocol.
        *self.method == Method::POST
            && kind.len() >= GRPC.len()
            && kind[..GRPC.len()].eq_ignore_ascii_case(GRPC)
            && matches!(kind.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
    }

    /// Whether it meets the conditions, that on the path aside.
    pub(crate) fn meets(&self, conditions: &RequestMatch) -> bool {
        conditions.method.as_ref().is_none_or(|method| method == self.method)
            && conditions.headers.iter().all(|condition| self.has_header(condition))
            && conditions.query.iter().all(|condition| self.has_parameter(condition))
    }

    fn has_header(&self, condition: &HeaderMatch) -> bool {
        let mut values = self.headers.get_all(&condition.name).iter();
        let Some(first) = values.next() else { return false };
        let Some(second) = values.next() else { return is_met(&condition.value, first.as_bytes()) };
        let mut joined: SmallVec<[u8; 256]> = SmallVec::from_slice(first.as_bytes());
        for value in std::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value.as_bytes());
        }
        is_met(&condition.value, &joined)
    }

    fn has_parameter(&self, condition: &QueryMatch) -> bool {
        let mut parameters = self.query.into_iter().flat_map(|query| query.split('&'));
        let value = parameters.find_map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            decoded(name).eq(condition.name.bytes()).then_some(value)
        });
        match (value, &condition.value) {
            (None, _) => false,
            (Some(value), ValueMatch::Exact(wanted)) => decoded(value).eq(wanted.bytes()),
            (Some(value), wanted @ ValueMatch::Regex(_)) => {
                let is_plain = memchr::memchr2(b'%', b'+', value.as_bytes()).is_none();
                let value =
                    if is_plain { Cow::Borrowed(value.as_bytes()) } else { Cow::Owned(decoded(value).collect()) };
                is_met(wanted, &value)
            }
        }
    }
}

/// The host and the port that a request asks for: those of its `:authority` or of the target's absolute form, else those
/// of its `host`.
pub(crate) fn asked_for<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> (&'a str, Option<u16>) {
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // A colon in brackets belongs to the address.
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

fn is_met(condition: &ValueMatch, value: &[u8]) -> bool {
    match condition {
        ValueMatch::Exact(wanted) => wanted.as_bytes() == value,
        ValueMatch::Regex(pattern) => std::str::from_utf8(value).is_ok_and(|value| pattern.is_match(value)),
    }
}

/// The bytes of a name or value in a query: `+` is a space, and what is no escape stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        rest = after;
        if first == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        Some(if first == b'+' { b' ' } else { first })
    })
}

/// The value of a hexadecimal digit.
pub(crate) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests;
