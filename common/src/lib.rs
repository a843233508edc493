//! The layout of what the eBPF programs and the agent share: keys and values of maps, and the numbers both act on.
//!
//! Everything is `repr(C)` without padding, since the kernel compares keys byte by byte. Whatever changes the meaning
//! or the layout of a map raises [`LAYOUT`]. This crate must know nothing of either side: no sockets, no helpers.

#![no_std]
#![forbid(unsafe_code)]

mod address;
mod pod;
mod socket;
mod tuple;

pub use address::{Address, Prefix};
pub use pod::{Listener, ListenerKind, POD_ADDRESSES, Pod, Settings};
pub use socket::{Role, Socket};
pub use tuple::{Direction, Published, Tuple};

/// The version of all map layouts. Maps are pinned under it: an agent with another one brings maps of its own.
pub const LAYOUT: u32 = 1;

/// The ports that the mesh uses in each captured pod.
pub mod ports {
    /// Captured outbound connections.
    pub const OUTBOUND: u16 = 15_001;
    /// Captured inbound plaintext connections.
    pub const INBOUND: u16 = 15_006;
    /// HBONE: mutual TLS, HTTP/2 CONNECT.
    pub const HBONE: u16 = 15_008;
    /// The first of the ports of `[::1]` to which captured IPv6 connections are rewritten.
    ///
    /// IPv6 has one loopback address. A pod has about 28,000 connections to one address and port, so that the port
    /// varies in place of the address.
    pub const OUTBOUND_IPV6: u16 = 15_104;
    /// How many they are; a power of two.
    pub const OUTBOUND_IPV6_COUNT: u16 = 16;
}

/// Captured IPv4 connections are rewritten to port 15001 of an address in this range, of which the last octet varies.
pub const OUTBOUND_DESTINATIONS: [u8; 4] = [127, 15, 1, 0];

/// The agent connects to applications by IPv4 from an address in this range, of which the last octet varies.
pub const INBOUND_SOURCES: [u8; 4] = [127, 15, 6, 0];

/// Room for the name of a TCP congestion control and the zero behind it: `TCP_CA_NAME_MAX`.
pub const CONGESTION_CONTROL_NAME: usize = 16;

/// How many connections may be between `connect` and `accept` on the whole node. Of more, the oldest are refused.
pub const TUPLES: usize = 32_768;
