//! Whether a request can be read in one way only.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Uri, Version};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguity {
    #[error("it has a content-length and a transfer-encoding")]
    Lengths,
    #[error("it has a transfer-encoding that is not `chunked` alone")]
    Encoding,
    #[error("it has no host")]
    NoHost,
    #[error("it has several hosts")]
    Hosts,
    #[error("its host is none")]
    BadHost,
    #[error("its target is no path")]
    Target,
    #[error("CONNECT is not for waypoints")]
    Connect,
}

impl Ambiguity {
    /// What it is answered with.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Encoding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Brings a request into the one form that everything after this reads: the path and query alone in its URI, the host in
/// the header `host` alone. `default_host` is for HTTP/1.0, where there may be none.
///
/// # Errors
/// When it can be read in several ways, or in none.
pub(crate) fn settle(parts: &mut Parts, default_host: &str) -> Result<Authority, Ambiguity> {
    if parts.method == Method::CONNECT {
        return Err(Ambiguity::Connect);
    }
    let mut encodings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if parts.headers.contains_key(CONTENT_LENGTH) {
            return Err(Ambiguity::Lengths);
        }
        if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some() {
            return Err(Ambiguity::Encoding);
        }
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, other) = (hosts.next(), hosts.next());
    if other.is_some() {
        return Err(Ambiguity::Hosts);
    }
    let from_header = match host {
        None => None,
        Some(host) => {
            let text = host.to_str().map_err(|_| Ambiguity::BadHost)?;
            Some(text.parse::<Authority>().map_err(|_| Ambiguity::BadHost)?)
        }
    };
    let from_target = parts.uri.authority().cloned();
    // RFC 9112, 3.2.2: a target with an authority replaces the header; in HTTP/2 both must say the same (RFC 9113, 8.3.1).
    let is_contradiction = parts.version == Version::HTTP_2
        && matches!((&from_target, &from_header), (Some(target), Some(header)) if target != header);
    if is_contradiction {
        return Err(Ambiguity::Hosts);
    }
    // RFC 9112, 3.2: a request of HTTP/1.1 has a host, even where its target has one.
    if parts.version == Version::HTTP_11 && from_header.is_none() {
        return Err(Ambiguity::NoHost);
    }
    let authority = match from_target.or(from_header) {
        Some(authority) => authority,
        None if parts.version == Version::HTTP_10 => default_host.parse().map_err(|_| Ambiguity::BadHost)?,
        None => return Err(Ambiguity::NoHost),
    };
    if !is_plain(&authority) {
        return Err(Ambiguity::BadHost);
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let is_path = path.as_str().starts_with('/') || (path.as_str() == "*" && parts.method == Method::OPTIONS);
    if !is_path {
        return Err(Ambiguity::Target);
    }
    parts.uri = Uri::from(path);
    let value = authority.as_str().parse().map_err(|_| Ambiguity::BadHost)?;
    parts.headers.insert(HOST, value);
    Ok(authority)
}

/// Whether it is a name or address, and perhaps a port, and nothing else: user names, which have been read for hosts, and
/// lists, which are two headers made one, are in the syntax (RFC 3986, 3.2) and in no request.
fn is_plain(authority: &Authority) -> bool {
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host);
    let is_port = |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        }
    };
    is_host && port.is_some_and(|port| port.is_empty() || is_port(port))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(version: Version, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_request_gets_one_form() {
        let cases = [
            (Version::HTTP_11, "/a?b", &[("host", "shop:80")][..], "shop:80", "/a?b"),
            (Version::HTTP_11, "http://shop/a", &[("host", "other")], "shop", "/a"),
            (Version::HTTP_2, "http://shop/a", &[], "shop", "/a"),
            (Version::HTTP_2, "http://shop/a", &[("host", "shop")], "shop", "/a"),
            (Version::HTTP_10, "/a", &[], "default", "/a"),
            (Version::HTTP_11, "/", &[("host", "[::1]:80")], "[::1]:80", "/"),
        ];
        for (version, target, headers, host, path) in cases {
            let mut parts = request(version, target, headers);
            let authority = settle(&mut parts, "default").expect(target);
            assert_eq!((authority.as_str(), parts.uri.to_string().as_str()), (host, path));
            assert_eq!(parts.headers[HOST], host);
        }
    }

    #[test]
    fn what_can_be_read_in_several_ways_is_refused() {
        use Ambiguity::*;
        let cases = [
            (Version::HTTP_11, "/", &[][..], NoHost),
            (Version::HTTP_2, "/", &[], NoHost),
            (Version::HTTP_11, "/", &[("host", "a"), ("host", "a")], Hosts),
            (Version::HTTP_2, "http://a/", &[("host", "b")], Hosts),
            (Version::HTTP_11, "/", &[("host", "a@b")], BadHost),
            (Version::HTTP_11, "/", &[("host", "")], BadHost),
            (Version::HTTP_11, "/", &[("host", "a/b")], BadHost),
            (Version::HTTP_11, "/", &[("host", "a,b")], BadHost),
            (Version::HTTP_11, "/", &[("host", "a%2eb")], BadHost),
            (Version::HTTP_11, "/", &[("host", "a:http")], BadHost),
            (Version::HTTP_11, "/", &[("host", "[::1")], BadHost),
            (Version::HTTP_11, "*", &[("host", "a")], Target),
            (
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")],
                Lengths,
            ),
            (Version::HTTP_11, "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Encoding),
            (
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Encoding,
            ),
        ];
        for (version, target, headers, ambiguity) in cases {
            let mut parts = request(version, target, headers);
            assert_eq!(settle(&mut parts, "default"), Err(ambiguity), "{target} {headers:?}");
        }
    }
}
