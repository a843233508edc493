//! The eBPF programs that capture the connections of pods: one file for each kind of hook, over one file of maps.
//!
//! A connection of a captured pod passes here as follows.
//! - [`connect`] (`cgroup/connect4`, `connect6`) rewrites its destination to the agent's listener in the pod.
//! - [`handshake`] (`sockops`) tells the accepting end what the connecting end knows: the original destination, or the
//!   client that the agent speaks for.
//! - [`steer`] (`sk_lookup`, one for each pod) hands new connections that reach the pod to the agent.
//! - [`peer`] (`cgroup/getpeername4`, `getpeername6`) answers what the application expects to hear.
//!
//! Nothing here decides policy: what cannot be handed to the agent is refused.

#![no_std]
#![no_main]

mod connect;
mod handshake;
mod maps;
mod peer;
mod steer;

/// The kernel reads the licence from this section. No helper that is for programs under the GPL alone is called.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can reach this.
    loop {}
}
