//! The `:authority` of a CONNECT: `address:port`, `[address]:port` or `hostname:port` (RFC 9113, 8.5; RFC 3986, 3.2).
//!
//! An authority decides where bytes go and which policy judges them, so there is one way to read each, and whatever
//! could be read in two ways is refused.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// Where a CONNECT wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// The host of an [`Authority`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address. A v4-mapped IPv6 address is given as the IPv4 address that it stands for, so that no address has two
    /// spellings that a policy would have to know of.
    Ip(IpAddr),
    /// A DNS name in lower case, without the trailing dot, at most 253 bytes.
    Name(Box<str>),
}

/// Why a string is not an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no `:port`.
    #[error("the authority has no port")]
    NoPort,
    /// The port is not a decimal number from 1 to 65535 without leading zeros.
    #[error("the authority's port is not a number from 1 to 65535")]
    InvalidPort,
    /// The host in brackets is not an IPv6 address.
    #[error("the authority's host is not an IPv6 address in brackets")]
    InvalidIpv6,
    /// The host is neither an IPv4 address nor a DNS name.
    #[error("the authority's host is neither an IPv4 address nor a DNS name")]
    InvalidHost,
}

impl Authority {
    /// The socket address, when the host is an address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip().to_canonical()), port: address.port() }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(AuthorityError::InvalidIpv6)?;
            let port = parse_port(port.strip_prefix(':').ok_or(AuthorityError::NoPort)?)?;
            // The standard parser takes neither zone identifiers nor ports, which is what is wanted.
            let host: Ipv6Addr = host.parse().map_err(|_| AuthorityError::InvalidIpv6)?;
            return Ok(Self { host: Host::Ip(IpAddr::V6(host).to_canonical()), port });
        }
        // A second colon stays in the host and makes it invalid: an IPv6 address without brackets is ambiguous.
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::NoPort)?;
        let port = parse_port(port)?;
        if let Ok(host) = host.parse::<Ipv4Addr>() {
            return Ok(Self { host: Host::Ip(IpAddr::V4(host)), port });
        }
        if !is_dns_name(host) {
            return Err(AuthorityError::InvalidHost);
        }
        Ok(Self { host: Host::Name(host.to_ascii_lowercase().into()), port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    // The integer parser would take `+80` and `080`.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || text.starts_with('0') {
        return Err(AuthorityError::InvalidPort);
    }
    text.parse().map_err(|_| AuthorityError::InvalidPort)
}

/// RFC 1123, 2.1, and the underscore that service discovery uses. A last label of digits only would make the name look
/// like an IPv4 address to some resolvers (`127.1`, `0x7f.1`), so it is refused.
pub(crate) fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let looks_numeric = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_digit())
            || label
                .strip_prefix("0x")
                .or_else(|| label.strip_prefix("0X"))
                .is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    name.len() <= 253 && name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(looks_numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_addresses_and_names() {
        let cases = [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("255.255.255.255:65535", "255.255.255.255:65535"),
            ("[::1]:1", "[::1]:1"),
            ("[2001:DB8:0::1]:8080", "[2001:db8::1]:8080"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("localhost:80", "localhost:80"),
            ("Shop.Default.svc.cluster.local:9080", "shop.default.svc.cluster.local:9080"),
            ("_grpc._tcp.example:1", "_grpc._tcp.example:1"),
            ("1.2.3.4.example:1", "1.2.3.4.example:1"),
        ];
        for (text, canonical) in cases {
            let authority: Authority = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(authority.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(authority));
        }
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        use AuthorityError::*;
        let long_label = format!("{}.example:80", "a".repeat(64));
        let long_name = format!("{}a:80", "a.".repeat(127));
        let cases = [
            ("", NoPort),
            ("10.0.0.1", NoPort),
            ("[::1]", NoPort),
            ("[::1]80", NoPort),
            ("10.0.0.1:", InvalidPort),
            ("10.0.0.1:0", InvalidPort),
            ("10.0.0.1:080", InvalidPort),
            ("10.0.0.1:+80", InvalidPort),
            ("10.0.0.1:65536", InvalidPort),
            ("10.0.0.1:99999999999999999999", InvalidPort),
            ("10.0.0.1:80 ", InvalidPort),
            (" 10.0.0.1:80", InvalidHost),
            ("::1:80", InvalidHost),
            ("2001:db8::1:80", InvalidHost),
            ("10.0.0.1:80:80", InvalidHost),
            ("010.0.0.1:80", InvalidHost),
            ("10.1:80", InvalidHost),
            ("0x7f.0x1:80", InvalidHost),
            ("2130706433:80", InvalidHost),
            ("256.0.0.1:80", InvalidHost),
            ("user@10.0.0.1:80", InvalidHost),
            ("http://a:80", InvalidHost),
            (":80", InvalidHost),
            (".:80", InvalidHost),
            ("a..b:80", InvalidHost),
            ("a.:80", InvalidHost),
            ("-a:80", InvalidHost),
            ("a-:80", InvalidHost),
            ("*.a:80", InvalidHost),
            ("ä:80", InvalidHost),
            (long_label.as_str(), InvalidHost),
            (long_name.as_str(), InvalidHost),
            ("[fe80::1%eth0]:80", InvalidIpv6),
            ("[10.0.0.1]:80", InvalidIpv6),
            ("[::1:80", InvalidIpv6),
            ("[]:80", InvalidIpv6),
            ("[[::1]]:80", NoPort),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Authority>(), Err(error), "{text}");
        }
    }
}
