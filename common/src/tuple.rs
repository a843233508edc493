//! What one end of a connection tells the other between `connect` and `accept`.

use crate::Address;

/// A connection in the making. The whole four-tuple is the key, with namespace and direction: the kernel may choose
/// one source port for several connections that differ only in their destination.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuple {
    /// The network namespace of the end that accepts.
    pub netns: u64,
    /// Where it comes from.
    pub source: Address,
    /// Where it goes to, after any rewriting.
    pub destination: Address,
    /// The port that goes with `source`.
    pub source_port: u16,
    /// The port that goes with `destination`.
    pub destination_port: u16,
    /// A [`Direction`].
    pub direction: u32,
}

/// Who makes the connection.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// An application to the agent: the value is the original destination.
    Outbound = 1,
    /// The agent to an application: the value is the client.
    Inbound = 2,
    /// A prober to an application; the value says nothing.
    Probe = 3,
}

/// What is published of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// As the direction says.
    pub address: Address,
    /// The port that goes with `address`.
    pub port: u32,
}

const _: () = assert!(size_of::<Tuple>() == 48 && size_of::<Published>() == 20);
