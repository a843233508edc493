//! Headers that are between neighbours, and those by which a workload learns who called.

use std::net::SocketAddr;

use http::header::{
    CONNECTION, FORWARDED, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE,
};
use weft_model::Identity;

/// Who called, as Envoy's proxies say it.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Never removed by what `connection` names: without these a message would be another one.
const KEPT: [HeaderName; 3] = [http::header::HOST, http::header::CONTENT_LENGTH, http::header::AUTHORIZATION];

/// Takes out what is between two neighbours only (RFC 9110, 7.6.1). That trailers are welcome is passed on. Returns what
/// was to be upgraded to.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut upgrade = None;
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        if named.contains(&UPGRADE) {
            upgrade = headers.get(UPGRADE).cloned();
        }
        let has_trailers = accepts_trailers(headers);
        for name in named {
            if !KEPT.contains(&name) {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
        if has_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    } else if headers.contains_key(TE) {
        match accepts_trailers(headers) {
            true => drop(headers.insert(TE, HeaderValue::from_static("trailers"))),
            false => drop(headers.remove(TE)),
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    upgrade
}

/// Whether HTTP/2 in clear, or HTTP in TLS (RFC 2817), is among what is offered; so is what cannot be read.
pub(crate) fn offers_another_http(offered: &HeaderValue) -> bool {
    let Ok(offered) = offered.to_str() else { return true };
    offered.split(',').map(|token| token.trim().to_ascii_lowercase()).any(|token| {
        let name = token.split('/').next().unwrap_or_default();
        matches!(name, "h2c" | "h2" | "tls" | "http")
    })
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case("trailers"))
}

/// Says who called, in place of whatever the client said of that.
pub(crate) fn set_caller(headers: &mut HeaderMap, own: &Identity, client: &Identity, address: SocketAddr, host: &str) {
    let said = format!("By={};URI={}", own.uri(), client.uri());
    // An identity has no character that a header could not.
    if let Ok(said) = HeaderValue::from_str(&said) {
        headers.insert(CLIENT_CERTIFICATE, said);
    }
    // RFC 7239, 6: an IPv6 address is in brackets, and what has a colon in quotes; so does `SocketAddr` write it.
    let host =
        if host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') { host } else { "" };
    let said = format!("for=\"{address}\";host=\"{host}\";proto=http");
    if let Ok(said) = HeaderValue::from_str(&said) {
        headers.insert(FORWARDED, said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_between_neighbours_goes() {
        let mut given = headers(&[
            ("connection", "keep-alive, X-Mine, host, te, upgrade"),
            ("x-mine", "1"),
            ("host", "a"),
            ("te", "gzip, trailers"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ]);
        assert_eq!(remove_hop_by_hop(&mut given).expect("an upgrade"), "websocket");
        assert_eq!(given, headers(&[("host", "a"), ("te", "trailers"), ("accept", "*/*")]));
        let mut given = headers(&[("upgrade", "websocket"), ("te", "gzip")]);
        assert_eq!(remove_hop_by_hop(&mut given), None, "an upgrade that `connection` does not name is none");
        assert!(given.is_empty());
    }

    #[test]
    fn nobody_else_says_who_called() {
        let identity = |name| Identity::new("cluster.local", "shop", name).expect("an identity");
        let mut given = headers(&[("forwarded", "for=1.2.3.4"), ("x-forwarded-client-cert", "URI=spiffe://forged")]);
        let address = "[fd00::1]:4000".parse().expect("an address");
        set_caller(&mut given, &identity("waypoint"), &identity("cart"), address, "shop:80");
        assert_eq!(given[FORWARDED], "for=\"[fd00::1]:4000\";host=\"shop:80\";proto=http");
        assert_eq!(
            given[CLIENT_CERTIFICATE],
            "By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/cart"
        );
        assert_eq!(given.len(), 2);
    }

    #[test]
    fn offers_of_other_forms_of_http_are_known_in_every_spelling() {
        let offers = |text: &'static str| offers_another_http(&HeaderValue::from_static(text));
        assert!(["h2c", "H2C", "websocket, h2c", "TLS/1.2", "HTTP/2.0"].into_iter().all(offers));
        assert!(!["websocket", "SPDY/3.1", "tcp"].into_iter().any(offers));
    }
}
