//! What is known of a captured pod, and where its connections are sent.

use crate::Address;

/// How many addresses of a pod capture knows.
pub const POD_ADDRESSES: usize = 4;

/// A captured pod; the key is its network namespace's cookie.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its own addresses, to which it may connect without the mesh; those not used are `::`.
    pub addresses: [Address; POD_ADDRESSES],
    /// The IPv4 address that its captured connections show as their own; `::` when it has none.
    pub ipv4: Address,
    /// The same for IPv6.
    pub ipv6: Address,
    /// The index of the device that has the address for IPv4; 0 when there is none.
    pub ipv4_device: u32,
    /// The same for IPv6.
    pub ipv6_device: u32,
}

impl Pod {
    /// True if the address is one of the pod's own.
    #[inline(always)]
    pub fn owns(&self, address: &Address) -> bool {
        // Written out, so that no loop has to be proven to end.
        self.addresses[0] == *address
            || self.addresses[1] == *address
            || self.addresses[2] == *address
            || self.addresses[3] == *address
    }
}

/// Names a listening socket of a pod; the value is the socket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listener {
    /// The pod's network namespace.
    pub netns: u64,
    /// A [`ListenerKind`].
    pub kind: u16,
    /// 4 or 6.
    pub family: u16,
    /// Which worker's it is.
    pub worker: u32,
}

impl Listener {
    /// The key of one socket.
    #[inline(always)]
    pub const fn new(netns: u64, kind: ListenerKind, is_ipv4: bool, worker: u32) -> Self {
        Self { netns, kind: kind as u16, family: if is_ipv4 { 4 } else { 6 }, worker }
    }
}

/// What a listening socket is for.
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// Captured outbound connections.
    Outbound = 1,
    /// Captured inbound plaintext connections.
    Inbound = 2,
    /// HBONE.
    Hbone = 3,
}

/// What can change while the programs run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// The id of the cgroup whose processes reach pods directly; 0 when there is none.
    pub probe_cgroup: u64,
}

const _: () = assert!(size_of::<Pod>() == 104 && size_of::<Listener>() == 16);
