//! Addresses as keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

/// An address as a key. An IPv4 address and its IPv4-mapped IPv6 form are the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey {
    high: u64,
    low: u64,
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        let bits = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        // Two halves rather than one u128, whose alignment would cost each entry of a map 8 bytes.
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }
}

impl From<AddressKey> for IpAddr {
    fn from(AddressKey { high, low }: AddressKey) -> Self {
        Self::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical()
    }
}

/// The address with an IPv4-mapped one turned into IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The range with one of IPv4-mapped addresses turned into IPv4, since the addresses that are compared with it have
/// been. A wider IPv6 range (`::/0`) means IPv6.
pub(crate) fn canonical_range(range: IpNet) -> IpNet {
    const MAPPED_PREFIX: u8 = 96;
    let IpNet::V6(v6) = range else { return range };
    let v4: Option<Ipv4Addr> = Ipv6Addr::to_ipv4_mapped(&v6.addr());
    match (v4, v6.prefix_len().checked_sub(MAPPED_PREFIX)) {
        (Some(address), Some(prefix)) => {
            IpNet::V4(Ipv4Net::new(address, prefix).expect("128 - 96 bits are at most 32"))
        }
        _ => range,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_the_same_key() {
        let key = |text: &str| AddressKey::from(text.parse::<IpAddr>().expect("a valid address"));
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("::10.0.0.1"));
        assert_ne!(key("fd00::1"), key("fd00::2"));
        assert_ne!(key("fd00::1"), key("fe00::1"));
        for address in ["10.0.0.1", "0.0.0.0", "fd00::1", "::", "::10.0.0.1"] {
            assert_eq!(
                IpAddr::from(key(address)).to_string(),
                address.parse::<IpAddr>().expect("a valid address").to_string()
            );
        }
    }

    #[test]
    fn ranges_of_mapped_addresses_become_ipv4() {
        for (given, wanted) in [
            ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::ffff:0.0.0.0/95", "::ffff:0.0.0.0/95"),
            ("fd00::/8", "fd00::/8"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let range: IpNet = given.parse().expect("a valid range");
            assert_eq!(canonical_range(range), wanted.parse().expect("a valid range"), "{given}");
        }
    }
}
