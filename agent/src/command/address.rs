//! Where a server is to listen, as a flag says it.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// `10.0.0.1:15020`, `[::1]:15020`, `15020` (every address, of both families), or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenAddress {
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

impl ListenAddress {
    pub(super) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
            return Ok(Self::At((Ipv6Addr::UNSPECIFIED, port).into()));
        }
        text.parse().map(Self::At).map_err(|_| {
            "not an address with a port (127.0.0.1:15000, [::1]:15000), a port alone (every address), or off".to_owned()
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// A [`ListenAddress`] that other hosts cannot reach.
pub(super) fn loopback(text: &str) -> Result<ListenAddress, String> {
    // A port alone would be every address, which is never meant here.
    let text = match text.trim_start_matches(':').parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => text.to_owned(),
    };
    match text.parse()? {
        ListenAddress::At(address) if !address.ip().to_canonical().is_loopback() => {
            Err("other hosts could reach it; the admin interface is only for the node itself: use 127.0.0.1 or [::1]"
                .into())
        }
        listen => Ok(listen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_ports_and_off() {
        for (text, expected) in [
            ("10.0.0.1:15020", "10.0.0.1:15020"),
            ("[::1]:1", "[::1]:1"),
            ("15020", "[::]:15020"),
            (":15020", "[::]:15020"),
            ("off", "off"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), expected);
        }
        for text in ["", "10.0.0.1", "localhost:1", "1.2.3.4:70000", "on"] {
            text.parse::<ListenAddress>().unwrap_err();
        }
    }

    #[test]
    fn the_admin_interface_is_on_loopback_only() {
        assert_eq!(loopback("15000").unwrap().to_string(), "127.0.0.1:15000");
        assert_eq!(loopback("[::1]:15000").unwrap().to_string(), "[::1]:15000");
        assert_eq!(loopback("off").unwrap(), ListenAddress::Off);
        for text in ["0.0.0.0:15000", "[::]:15000", "10.0.0.1:15000", "[::ffff:10.0.0.1]:15000"] {
            assert!(loopback(text).unwrap_err().contains("other hosts"), "{text}");
        }
    }
}
