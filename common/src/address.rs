//! Addresses as the maps hold them.

use crate::{INBOUND_SOURCES, OUTBOUND_DESTINATIONS, ports};

/// An IP address: IPv6, or IPv4 as the mapped IPv6 address, so that a socket of either family has one key.
///
/// The words are in network byte order, as the kernel's contexts have them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address(pub [u32; 4]);

/// A range of addresses: the key of a longest-prefix map (`struct bpf_lpm_trie_key`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefix {
    /// How many bits of the address count, of 128; those of an IPv4 range begin after the first 96.
    pub length: u32,
    /// The first address of the range.
    pub address: Address,
}

const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// `::`.
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `::1`.
    pub const LOOPBACK_IPV6: Self = Self([0, 0, 0, 1_u32.to_be()]);

    /// An IPv4 address given in network byte order.
    #[inline(always)]
    pub const fn ipv4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The one of both that `is_ipv4` says.
    ///
    /// A program reads both forms from its context before it chooses: reads in branches are merged by the compiler into
    /// one at an offset that depends, which the verifier refuses.
    #[inline(always)]
    pub const fn either(is_ipv4: bool, ipv4: u32, ipv6: [u32; 4]) -> Self {
        if is_ipv4 { Self::ipv4(ipv4) } else { Self(ipv6) }
    }

    /// True if it is an IPv4 address.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The IPv4 address in network byte order, which only means something if it is one.
    #[inline(always)]
    pub const fn ipv4_word(&self) -> u32 {
        self.0[3]
    }

    /// True for `127.0.0.0/8` and `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_ipv4() { self.0[3].to_ne_bytes()[0] == 127 } else { equal(self, &Self::LOOPBACK_IPV6) }
    }

    /// True for `0.0.0.0` and `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        if self.is_ipv4() { self.0[3] == 0 } else { equal(self, &Self::UNSPECIFIED) }
    }

    /// True for `fe80::/10`: an address that means nothing without an interface, so that the mesh cannot hold it.
    #[inline(always)]
    pub const fn is_link_local_ipv6(&self) -> bool {
        let bytes = self.0[0].to_ne_bytes();
        bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80
    }

    /// True if captured connections are rewritten to it and `port`.
    #[inline(always)]
    pub const fn is_capture_destination(&self, port: u16) -> bool {
        if self.is_ipv4() {
            port == ports::OUTBOUND && same_24(self.0[3], OUTBOUND_DESTINATIONS)
        } else {
            port >= ports::OUTBOUND_IPV6
                && port < ports::OUTBOUND_IPV6 + ports::OUTBOUND_IPV6_COUNT
                && equal(self, &Self::LOOPBACK_IPV6)
        }
    }

    /// True if a connection from `source` to `self` and `port` can be a captured one.
    ///
    /// A socket that is bound to the pod's own device cannot reach loopback: it is rewritten to the very address that it
    /// comes from.
    #[inline(always)]
    pub const fn can_be_captured(&self, port: u16, source: &Self) -> bool {
        self.is_capture_destination(port) || port == ports::OUTBOUND && equal(self, source)
    }

    /// True if only the agent connects from it.
    #[inline(always)]
    pub const fn is_inbound_source(&self) -> bool {
        self.is_ipv4() && same_24(self.0[3], INBOUND_SOURCES)
    }

    /// The address and port to which a captured connection to `self` is rewritten; `choice` makes it vary.
    #[inline(always)]
    pub const fn capture_destination(&self, choice: u32) -> (Self, u16) {
        if self.is_ipv4() {
            let [a, b, c, _] = OUTBOUND_DESTINATIONS;
            (Self::ipv4(u32::from_ne_bytes([a, b, c, choice as u8])), ports::OUTBOUND)
        } else {
            let offset = choice as u16 & (ports::OUTBOUND_IPV6_COUNT - 1);
            (Self::LOOPBACK_IPV6, ports::OUTBOUND_IPV6 + offset)
        }
    }
}

/// `==` in a form that a constant function may use and that compiles to comparisons of words.
#[inline(always)]
const fn equal(a: &Address, b: &Address) -> bool {
    a.0[0] == b.0[0] && a.0[1] == b.0[1] && a.0[2] == b.0[2] && a.0[3] == b.0[3]
}

#[inline(always)]
const fn same_24(word: u32, network: [u8; 4]) -> bool {
    let mask = u32::from_ne_bytes([255, 255, 255, 0]);
    word & mask == u32::from_ne_bytes(network)
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        let octets = match address {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(words)
    }
}

impl From<Address> for core::net::IpAddr {
    /// A mapped address becomes the IPv4 address.
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(address.0) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        core::net::IpAddr::from(octets).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().expect("the test gives a valid address"))
    }

    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one() {
        assert_eq!(address("10.1.2.3"), address("::ffff:10.1.2.3"));
        assert_eq!(IpAddr::from(address("::ffff:10.1.2.3")), "10.1.2.3".parse::<IpAddr>().expect("valid"));
        assert_eq!(IpAddr::from(address("fd00::3")), "fd00::3".parse::<IpAddr>().expect("valid"));
    }

    #[test]
    fn kinds_of_addresses_are_told_apart() {
        for (text, loopback, unspecified, link_local) in [
            ("127.0.0.1", true, false, false),
            ("127.255.0.9", true, false, false),
            ("128.0.0.1", false, false, false),
            ("0.0.0.0", false, true, false),
            ("::", false, true, false),
            ("::1", true, false, false),
            ("::2", false, false, false),
            ("fe80::1", false, false, true),
            ("febf::1", false, false, true),
            ("fec0::1", false, false, false),
            ("254.128.0.1", false, false, false),
        ] {
            let address = address(text);
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.is_unspecified(), unspecified, "{text}");
            assert_eq!(address.is_link_local_ipv6(), link_local, "{text}");
        }
    }

    #[test]
    fn what_a_connection_is_rewritten_to_is_recognised() {
        for choice in [0, 1, 255, 256, u32::MAX] {
            for original in ["10.0.0.1", "fd00::1"] {
                let (to, port) = address(original).capture_destination(choice);
                assert!(to.is_loopback());
                assert!(to.is_capture_destination(port), "{original} {choice}");
            }
        }
        assert!(!address("127.0.0.1").is_capture_destination(ports::OUTBOUND));
        assert!(!address("127.15.1.7").is_capture_destination(80));
        assert!(!address("::1").is_capture_destination(ports::OUTBOUND));
        assert!(address("127.15.6.200").is_inbound_source());
        assert!(!address("127.15.1.200").is_inbound_source());
    }
}
