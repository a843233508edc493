//! What one relay tells the other before the bytes of a connection.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The two ends of a captured connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Where the application wanted to go.
    pub destination: SocketAddr,
    /// The application's own address.
    pub client: SocketAddr,
}

impl Preamble {
    /// How many bytes it takes, always.
    pub const LENGTH: usize = 36;

    /// The bytes to send.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        for (half, address) in bytes.chunks_exact_mut(18).zip([self.destination, self.client]) {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            half[..16].copy_from_slice(&ip.octets());
            half[16..].copy_from_slice(&address.port().to_be_bytes());
        }
        bytes
    }

    /// The other way round; `None` while there are too few bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = bytes.first_chunk()?;
        let address = |half: &[u8]| {
            let (ip, port) = half.split_first_chunk::<16>().expect("a half has 18 bytes");
            let port = u16::from_be_bytes(port.try_into().expect("two are left"));
            SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), port)
        };
        let (destination, client) = bytes.split_at(18);
        Some(Self { destination: address(destination), client: address(client) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_survives_the_wire() {
        for (destination, client) in [("10.0.0.1:80", "10.0.0.2:40000"), ("[fd00::1]:443", "[fd00::2]:1")] {
            let sent =
                Preamble { destination: destination.parse().expect("valid"), client: client.parse().expect("valid") };
            assert_eq!(Preamble::parse(&sent.to_bytes()), Some(sent));
            assert_eq!(Preamble::parse(&sent.to_bytes()[1..]), None);
        }
    }
}
