//! The `forwarded` header (RFC 7239): for whom a waypoint or a gateway opens a tunnel.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::fields::is_token;

/// What the nearest proxy says about the connection it carries.
///
/// Of several elements the last one is read: it is what the peer itself added, and the ones before are what others told
/// it. It is to be believed only from a peer whose identity allows for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address and, where given, port. `None` when it is absent, `unknown` or obfuscated (RFC 7239, 6).
    pub client: Option<(IpAddr, Option<u16>)>,
    /// The host that the client asked for, as given.
    pub host: Option<String>,
}

/// The header is not as RFC 7239 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Forwarded header of RFC 7239: {0}")]
pub struct ForwardedError(&'static str);

impl FromStr for Forwarded {
    type Err = ForwardedError;

    fn from_str(text: &str) -> Result<Self, ForwardedError> {
        // RFC 7239, 4: elements are separated by commas, their pairs by semicolons, and either may be in quotes, so the
        // text has to be read from its beginning.
        let mut rest = text;
        let mut element = Self::default();
        let mut seen = Seen::default();
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if !rest.starts_with([';', ',']) && !rest.is_empty() {
                let (name, value);
                (name, rest) = token(rest)?;
                rest = rest.strip_prefix('=').ok_or(ForwardedError("a parameter without a value"))?;
                (value, rest) = value_of(rest)?;
                element.set(name, value, &mut seen)?;
                rest = rest.trim_start_matches([' ', '\t']);
            }
            match rest.as_bytes().first() {
                None => break,
                Some(b';') => rest = &rest[1..],
                Some(b',') => {
                    rest = &rest[1..];
                    // An empty element says nothing, so it does not hide the one before (RFC 9110, 5.6.1.2).
                    if !rest.trim_matches([' ', '\t', ',']).is_empty() {
                        (element, seen) = (Self::default(), Seen::default());
                    }
                }
                Some(_) => return Err(ForwardedError("something after a value")),
            }
        }
        Ok(element)
    }
}

/// RFC 7239, 4: a parameter must not come twice in one element.
#[derive(Default)]
struct Seen {
    client: bool,
    host: bool,
}

impl Forwarded {
    fn set(&mut self, name: &str, value: String, seen: &mut Seen) -> Result<(), ForwardedError> {
        let is_repeated = if name.eq_ignore_ascii_case("for") {
            self.client = node(&value)?;
            std::mem::replace(&mut seen.client, true)
        } else if name.eq_ignore_ascii_case("host") {
            self.host = Some(value).filter(|host| !host.is_empty());
            std::mem::replace(&mut seen.host, true)
        } else {
            false
        };
        match is_repeated {
            true => Err(ForwardedError("a parameter comes twice")),
            false => Ok(()),
        }
    }
}

/// RFC 7239, 6: an address with or without a port, or a name that hides it.
fn node(text: &str) -> Result<Option<(IpAddr, Option<u16>)>, ForwardedError> {
    let invalid = ForwardedError("`for` is not an address");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(invalid)?;
            let host: Ipv6Addr = host.parse().map_err(|_| invalid)?;
            let port = match port {
                "" => None,
                _ => Some(port.strip_prefix(':').ok_or(invalid)?),
            };
            (Some(IpAddr::V6(host).to_canonical()), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let is_hidden = host.eq_ignore_ascii_case("unknown") || is_obfuscated(host);
            (if is_hidden { None } else { Some(IpAddr::V4(host.parse::<Ipv4Addr>().map_err(|_| invalid)?)) }, port)
        }
    };
    let port = match port {
        Some(port) if is_obfuscated(port) => None,
        Some(port) if (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().map_err(|_| invalid)?)
        }
        Some(_) => return Err(invalid),
        None => None,
    };
    Ok(host.map(|host| (host, port)))
}

/// RFC 7239, 6.3.
fn is_obfuscated(text: &str) -> bool {
    text.len() > 1
        && text.starts_with('_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn token(text: &str) -> Result<(&str, &str), ForwardedError> {
    match text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len()) {
        0 => Err(ForwardedError("a name or a value is missing")),
        length => Ok(text.split_at(length)),
    }
}

/// RFC 9110, 5.6.4: a token or a quoted string.
fn value_of(text: &str) -> Result<(String, &str), ForwardedError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text)?;
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        let character = match character {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => characters.next().ok_or(ForwardedError("a quoted value does not end"))?.1,
            _ => character,
        };
        if character.is_control() {
            return Err(ForwardedError("a control character in a value"));
        }
        value.push(character);
    }
    Err(ForwardedError("a quoted value does not end"))
}

/// Writes the header's value: `for="10.0.0.1:4321";host=shop.default.svc.cluster.local`.
impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some((ip, port)) = self.client {
            // RFC 7239, 6: a colon or a bracket needs quotes.
            match ip {
                IpAddr::V4(ip) => write!(f, "for=\"{ip}")?,
                IpAddr::V6(ip) => write!(f, "for=\"[{ip}]")?,
            }
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
            f.write_str("\"")?;
            separator = ";";
        }
        if let Some(host) = self.host.as_deref().filter(|host| !host.is_empty()) {
            write!(f, "{separator}host=")?;
            if host.bytes().all(is_token) {
                return f.write_str(host);
            }
            f.write_str("\"")?;
            for character in host.chars().filter(|character| !character.is_control()) {
                if matches!(character, '"' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{character}")?;
            }
            f.write_str("\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn reads_addresses_and_hosts() {
        let cases = [
            ("for=\"10.0.0.1:4321\";host=a.b", Some((ip("10.0.0.1"), Some(4321))), Some("a.b")),
            ("For=\"[2001:db8::1]:80\"", Some((ip("2001:db8::1"), Some(80))), None),
            ("for=\"[::ffff:10.0.0.1]:80\"", Some((ip("10.0.0.1"), Some(80))), None),
            ("for=192.0.2.43", Some((ip("192.0.2.43"), None)), None),
            ("for=\"192.0.2.43:_x\"", Some((ip("192.0.2.43"), None)), None),
            ("for=unknown;host=\"a:80\"", None, Some("a:80")),
            ("for=_gazonk", None, None),
            ("proto=http;by=203.0.113.43; host=x ;FOR=192.0.2.60", Some((ip("192.0.2.60"), None)), Some("x")),
            ("secret=\"a;b,c\\\"for=1.2.3.4\"", None, None),
            ("host=\"a\\\"b\"", None, Some("a\"b")),
            ("", None, None),
            (" , ;; ", None, None),
        ];
        for (text, client, host) in cases {
            let forwarded: Forwarded = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(forwarded, Forwarded { client, host: host.map(str::to_owned) }, "{text}");
            assert_eq!(forwarded.to_string().parse(), Ok(forwarded));
        }
    }

    #[test]
    fn reads_what_the_nearest_proxy_added() {
        for text in ["for=1.1.1.1;host=a, for=2.2.2.2", "for=1.1.1.1,for=2.2.2.2, ,"] {
            let forwarded: Forwarded = text.parse().expect(text);
            assert_eq!(forwarded, Forwarded { client: Some((ip("2.2.2.2"), None)), host: None });
        }
    }

    #[test]
    fn refuses_broken_headers() {
        let cases = [
            "for",
            "for=",
            "=1.1.1.1",
            "for=1.1.1.1;for=1.1.1.1",
            "for=1.1.1.1;FOR=_x",
            "host=a;host=a",
            "for=::1",
            "for=\"::1\"",
            "for=\"[::1\"",
            "for=\"[::1]80\"",
            "for=\"[1.1.1.1]\"",
            "for=\"1.1.1.1:\"",
            "for=\"1.1.1.1:70000\"",
            "for=\"1.1.1.1:+80\"",
            "for=\"1.1.1.1:80:80\"",
            "for=1.1.1.1 host=a",
            "for=\"1.1.1.1",
            "for=\"1.1.1.1\\",
            "for=\"1.1.1.1\"x",
            "for=example.org",
            "for=_",
            "for=\"_ä\"",
            "host=\"a\u{7}\"",
            "host=\"a\\\n\"",
            "ä=b",
            "for = 1.1.1.1",
        ];
        for text in cases {
            assert!(text.parse::<Forwarded>().is_err(), "{text}");
        }
    }

    #[test]
    fn writes_the_form_that_peers_expect() {
        let forwarded = Forwarded { client: Some((ip("10.0.0.1"), Some(80))), host: Some("shop.svc".into()) };
        assert_eq!(forwarded.to_string(), "for=\"10.0.0.1:80\";host=shop.svc");
        let forwarded = Forwarded { client: Some((ip("::1"), Some(80))), host: Some("[::1]:80".into()) };
        assert_eq!(forwarded.to_string(), "for=\"[::1]:80\";host=\"[::1]:80\"");
    }
}
