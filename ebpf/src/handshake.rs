//! `sockops`: what the connecting end knows is carried to the accepting end.
//!
//! Published when the source port is known and the SYN is not yet sent, so that it is there whenever the other end asks,
//! with TCP Fast Open too. Taken when the other end is established, or when the connecting socket closes without that.

use core::ptr::addr_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::{debug, warn};
use weft_common::{Address, CONGESTION_CONTROL_NAME, Direction, Published, Role, Socket, Tuple};

use crate::maps;

/// The congestion control of connections that never leave their pod, as a string that ends with a zero; empty: the
/// namespace's own. Set before the first byte: one that paces would set the kernel's timer for each burst.
#[unsafe(no_mangle)]
static LOOPBACK_CONGESTION_CONTROL: Global<[u8; CONGESTION_CONTROL_NAME]> = Global::new([0; CONGESTION_CONTROL_NAME]);

const AF_INET: u32 = 2;
const SOL_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;

#[sock_ops]
pub fn weft_handshake(ctx: SockOpsContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let (op, sk) = unsafe { ((*ctx.ops).op, (*ctx.ops).__bindgen_anon_2.sk) };
    if sk.is_null() {
        return 1;
    }
    match op {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx, sk),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx, sk),
        BPF_SOCK_OPS_STATE_CB => changed(&ctx, sk),
        _ => {}
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext, sk: *mut bpf_sock) {
    let Some(socket) = maps::remembered(sk) else {
        return;
    };
    let ends = Ends::of(ctx);
    let Some(tuple) = announced(ctx, &ends, socket) else {
        return;
    };
    if tuple.direction != Direction::Probe as u32 {
        choose_congestion_control(ctx);
    }
    let published = Published { address: socket.address, port: u32::from(socket.port) };
    if !maps::publish(&tuple, &published) {
        // Nothing was published, so that the pod's `steer` refuses the SYN.
        warn!(ctx, "refused: no memory to publish a connection of netns {}", tuple.netns);
        return;
    }
    socket.published = 1;
    // What others have asked for stays asked for.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_err() {
        // Without the callback the entry could outlive the socket and let another connection pass.
        socket.published = 0;
        maps::retract(&tuple);
    }
}

#[inline(always)]
fn changed(ctx: &SockOpsContext, sk: *mut bpf_sock) {
    if ctx.arg(1) != BPF_TCP_CLOSE {
        return;
    }
    let Some(socket) = maps::remembered(sk) else {
        return;
    };
    if socket.published == 0 {
        return;
    }
    let ends = Ends::of(ctx);
    if let Some(tuple) = announced(ctx, &ends, socket) {
        socket.published = 0;
        maps::retract(&tuple);
    }
}

/// On loopback there is no network whose congestion could be measured, and nothing is lost.
#[inline(always)]
fn choose_congestion_control(ctx: &SockOpsContext) {
    let mut name = LOOPBACK_CONGESTION_CONTROL.load();
    if name[0] == 0 {
        return;
    }
    // SAFETY: the helper reads as many bytes as it is told, and they are on the stack. That it does not know the name
    // leaves the connection as it was, which is slower and no worse.
    unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_TCP, TCP_CONGESTION, name.as_mut_ptr().cast(), CONGESTION_CONTROL_NAME as i32);
    }
}

/// Under what a connecting socket publishes, if it does.
#[inline(always)]
fn announced(ctx: &SockOpsContext, ends: &Ends, socket: &Socket) -> Option<Tuple> {
    let (netns, direction) = if socket.role == Role::Captured as u16 {
        // A socket whose capture was long ago, and that connects elsewhere now that its pod is not captured.
        if !ends.remote.can_be_captured(ends.remote_port, &ends.local) {
            return None;
        }
        (netns(ctx), Direction::Outbound)
    } else if socket.role == Role::Own as u16 && socket.port != 0 {
        (netns(ctx), Direction::Inbound)
    } else if socket.role == Role::Probe as u16 {
        (socket.netns, Direction::Probe)
    } else {
        return None;
    };
    Some(Tuple {
        netns,
        source: ends.local,
        destination: ends.remote,
        source_port: ends.local_port,
        destination_port: ends.remote_port,
        direction: direction as u32,
    })
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext, sk: *mut bpf_sock) {
    let ends = Ends::of(ctx);
    let direction = if ends.local.can_be_captured(ends.local_port, &ends.remote) {
        Direction::Outbound
    } else if ends.remote.is_inbound_source() {
        Direction::Inbound
    } else if ends.remote.is_loopback() {
        if ends.remote.is_ipv4() {
            return;
        }
        Direction::Inbound
    } else {
        // Most connections of the machine come here, and this look-up is what they pay.
        match maps::pod(netns(ctx)) {
            None => return,
            Some(pod) if pod.owns(&ends.remote) => Direction::Inbound,
            Some(_) => Direction::Probe,
        }
    };
    let tuple = Tuple {
        netns: netns(ctx),
        source: ends.remote,
        destination: ends.local,
        source_port: ends.remote_port,
        destination_port: ends.local_port,
        direction: direction as u32,
    };
    let role = match direction {
        Direction::Outbound => Role::Accepted,
        Direction::Inbound => Role::Served,
        Direction::Probe => return maps::retract(&tuple),
    };
    let Some(published) = maps::published(&tuple) else {
        return;
    };
    choose_congestion_control(ctx);
    if !maps::remember(sk, Socket::new(role, published.address, published.port as u16, 0)) {
        warn!(ctx, "no memory to remember an accepted connection of netns {}", tuple.netns);
    }
    maps::retract(&tuple);
    debug!(ctx, "netns {}: accepted a connection for port {}", tuple.netns, published.port);
}

#[inline(always)]
fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Both ends of a connection, as the socket sees them.
struct Ends {
    local: Address,
    local_port: u16,
    remote: Address,
    remote_port: u16,
}

impl Ends {
    #[inline(always)]
    fn of(ctx: &SockOpsContext) -> Self {
        let ops = ctx.ops;
        // SAFETY: the context is valid; it is read word by word, as the verifier demands, and not in branches.
        unsafe {
            let is_ipv4 = addr_of!((*ops).family).read_volatile() == AF_INET;
            let local_ipv4 = addr_of!((*ops).local_ip4).read_volatile();
            let remote_ipv4 = addr_of!((*ops).remote_ip4).read_volatile();
            let local = Address::either(is_ipv4, local_ipv4, words(addr_of!((*ops).local_ip6).cast()));
            let remote = Address::either(is_ipv4, remote_ipv4, words(addr_of!((*ops).remote_ip6).cast()));
            // The kernel gives the local port in host order, and the remote one in network order in the upper half.
            let local_port = addr_of!((*ops).local_port).read_volatile() as u16;
            let remote_port = u32::from_be(addr_of!((*ops).remote_port).read_volatile()) as u16;
            Self { local, local_port, remote, remote_port }
        }
    }
}

#[inline(always)]
unsafe fn words(at: *const u32) -> [u32; 4] {
    // SAFETY: the caller points at four words of a valid context.
    unsafe { [at.read_volatile(), at.add(1).read_volatile(), at.add(2).read_volatile(), at.add(3).read_volatile()] }
}
