//! `sk_lookup`: which socket gets a new connection that reaches a captured pod.
//!
//! The hook cannot ask in which network namespace it runs, so that each pod has a copy of the program that knows. It
//! judges by the source address: a pod's connection to its own address seems to come from the outer interface.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::Global;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, bpf_sk_lookup};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::{debug, warn};
use weft_common::{Address, Direction, Listener, ListenerKind, POD_ADDRESSES, Tuple, ports};

use crate::maps;

/// The pod's network namespace.
#[unsafe(no_mangle)]
static STEER_NETNS: Global<u64> = Global::new(0);

/// Between how many workers its connections are divided.
#[unsafe(no_mangle)]
static STEER_WORKERS: Global<u32> = Global::new(1);

/// The pod's own addresses.
#[unsafe(no_mangle)]
static STEER_ADDRESSES: Global<[[u32; 4]; POD_ADDRESSES]> = Global::new([[0; 4]; POD_ADDRESSES]);

/// Whose turn it is, for each kind of listener. A race between two processors makes two connections go to one worker.
static mut TURNS: [u32; 4] = [0; 4];

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;

#[sk_lookup]
pub fn weft_steer(ctx: SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*lookup).protocol } != IPPROTO_TCP {
        return SK_PASS;
    }
    let netns = STEER_NETNS.load();
    let ends = Ends::of(lookup);
    let tuple = |direction: Direction| Tuple {
        netns,
        source: ends.remote,
        destination: ends.local,
        source_port: ends.remote_port,
        destination_port: ends.local_port,
        direction: direction as u32,
    };
    if ends.local.is_loopback() {
        if ends.local.is_capture_destination(ends.local_port) {
            if maps::is_published(&tuple(Direction::Outbound)) {
                return assign(&ctx, netns, ListenerKind::Outbound, &ends);
            }
            // The agent would not know where it goes.
            warn!(&ctx, "netns {}: refused a captured connection that was not published", netns);
            return SK_DROP;
        }
        // Not by way of loopback: those who speak to these listeners directly have nothing to say.
        if ends.local_port == ports::OUTBOUND || ends.local_port == ports::INBOUND {
            return SK_DROP;
        }
    }
    if ends.remote.is_inbound_source() {
        // The application would take the agent's address for its client's.
        return if maps::is_published(&tuple(Direction::Inbound)) { SK_PASS } else { SK_DROP };
    }
    if ends.local.can_be_captured(ends.local_port, &ends.remote) && maps::is_published(&tuple(Direction::Outbound)) {
        return assign(&ctx, netns, ListenerKind::Outbound, &ends);
    }
    if ends.remote.is_loopback() || is_own(&ends.remote) {
        return SK_PASS;
    }
    if ends.local_port == ports::HBONE {
        return assign(&ctx, netns, ListenerKind::Hbone, &ends);
    }
    if maps::is_published(&tuple(Direction::Probe)) {
        return SK_PASS;
    }
    assign(&ctx, netns, ListenerKind::Inbound, &ends)
}

#[inline(always)]
fn assign(ctx: &SkLookupContext, netns: u64, kind: ListenerKind, ends: &Ends) -> u32 {
    let worker = turn(kind) % STEER_WORKERS.load().max(1);
    let key = Listener::new(netns, kind, ends.is_ipv4, worker);
    // The choice is made here: any program of the pod with the agent's user id could join a group of SO_REUSEPORT.
    match maps::listeners().redirect_sk_lookup(ctx, key, BPF_SK_LOOKUP_F_NO_REUSEPORT.into()) {
        Ok(()) => SK_PASS,
        Err(_) => {
            debug!(ctx, "netns {}: refused a connection to port {}: no agent listens", netns, ends.local_port);
            SK_DROP
        }
    }
}

#[inline(always)]
fn turn(kind: ListenerKind) -> u32 {
    // SAFETY: the index is one of three constants below the array's length; that increments may be lost is accepted.
    unsafe {
        let turn = addr_of_mut!(TURNS).cast::<u32>().add(kind as usize);
        let now = turn.read_volatile();
        turn.write_volatile(now.wrapping_add(1));
        now
    }
}

#[inline(always)]
fn is_own(address: &Address) -> bool {
    let own = STEER_ADDRESSES.load();
    // Written out, so that no loop has to be proven to end.
    address.0 == own[0] || address.0 == own[1] || address.0 == own[2] || address.0 == own[3]
}

/// Both ends of a connection, as the pod sees them.
struct Ends {
    is_ipv4: bool,
    local: Address,
    local_port: u16,
    remote: Address,
    remote_port: u16,
}

impl Ends {
    #[inline(always)]
    fn of(lookup: *const bpf_sk_lookup) -> Self {
        // SAFETY: the context is valid; it is read word by word, as the verifier demands, and not in branches.
        unsafe {
            let is_ipv4 = addr_of!((*lookup).family).read_volatile() == AF_INET;
            let local_ipv4 = addr_of!((*lookup).local_ip4).read_volatile();
            let remote_ipv4 = addr_of!((*lookup).remote_ip4).read_volatile();
            let local = Address::either(is_ipv4, local_ipv4, words(addr_of!((*lookup).local_ip6).cast()));
            let remote = Address::either(is_ipv4, remote_ipv4, words(addr_of!((*lookup).remote_ip6).cast()));
            let local_port = addr_of!((*lookup).local_port).read_volatile() as u16;
            let remote_port = u16::from_be(addr_of!((*lookup).remote_port).read_volatile());
            Self { is_ipv4, local, local_port, remote, remote_port }
        }
    }
}

#[inline(always)]
unsafe fn words(at: *const u32) -> [u32; 4] {
    // SAFETY: the caller points at four words of a valid context.
    unsafe { [at.read_volatile(), at.add(1).read_volatile(), at.add(2).read_volatile(), at.add(3).read_volatile()] }
}
