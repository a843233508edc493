//! What is remembered of one socket, in its own storage.

use crate::Address;

/// The value in a socket's storage.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Socket {
    /// A [`Role`].
    pub role: u16,
    /// 1 from the moment that its tuple was published.
    pub published: u16,
    /// The port that goes with `address`.
    pub port: u16,
    /// Always 0.
    pub zero: u16,
    /// What the role says.
    pub address: Address,
    /// [`Role::Probe`]: the network namespace of the pod that it goes to; else 0.
    pub netns: u64,
}

impl Socket {
    /// With this role, address and port.
    #[inline(always)]
    pub const fn new(role: Role, address: Address, port: u16, netns: u64) -> Self {
        Self { role: role as u16, published: 0, port, zero: 0, address, netns }
    }
}

/// What a socket is to capture. 0 is none of these.
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An application's, captured: `address` is where it wanted to go.
    Captured = 1,
    /// The agent's own, never captured. With a port, `address` is the client that the other end shall see.
    Own = 2,
    /// The agent's, accepted from a captured one: `address` is the original destination.
    Accepted = 3,
    /// An application's, accepted from the agent: `address` is the client.
    Served = 4,
    /// A prober's, on its way to a pod.
    Probe = 5,
}

const _: () = assert!(size_of::<Socket>() == 32);
