//! `cgroup/connect4` and `connect6`: what becomes of a connection is decided where it is made.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::helpers::generated::{bpf_bind, bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_setsockopt};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::{debug, warn};
use weft_common::{Address, Pod, Role, Socket, ports};

use crate::maps;

const ALLOW: i32 = 1;
/// `connect` fails with EPERM.
const REFUSE: i32 = 0;

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;

#[cgroup_sock_addr(connect4)]
pub fn weft_connect4(ctx: SockAddrContext) -> i32 {
    connect::<false>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn weft_connect6(ctx: SockAddrContext) -> i32 {
    connect::<true>(&ctx)
}

#[inline(always)]
fn connect<const IPV6: bool>(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid while the program runs.
    let (kind, protocol) = unsafe { ((*addr).type_, (*addr).protocol) };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP {
        return ALLOW;
    }
    // SAFETY: the helper takes the context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let Some(pod) = maps::pod(netns) else {
        return connect_from_elsewhere::<IPV6>(ctx);
    };
    // SAFETY: as above. `connect` always has a socket.
    let sk = unsafe { (*addr).__bindgen_anon_1.sk };
    let remembered = maps::remembered(sk);
    if let Some(socket) = &remembered
        && socket.role == Role::Own as u16
    {
        return ALLOW;
    }
    let (destination, port) = destination::<IPV6>(addr);
    if destination.is_loopback()
        || destination.is_unspecified()
        || destination.is_link_local_ipv6()
        || pod.owns(&destination)
        || !maps::may_be_in_mesh(&destination)
    {
        if remembered.is_some() {
            // From an earlier attempt of the same socket to another destination.
            maps::forget(sk);
        }
        return ALLOW;
    }
    if !maps::remember(sk, Socket::new(Role::Captured, destination, port, 0)) {
        warn!(ctx, "refused: no memory to remember where a connection of netns {} goes", netns);
        return REFUSE;
    }
    // SAFETY: the helper takes no arguments.
    let choice = unsafe { bpf_get_prandom_u32() };
    let (to, to_port) = match route(ctx, sk, pod, &destination) {
        Route::Loopback => destination.capture_destination(choice),
        Route::Own(address) => (address, ports::OUTBOUND),
        Route::None => {
            warn!(ctx, "refused: a connection of netns {} is bound to a device that is not the pod's", netns);
            return REFUSE;
        }
    };
    bind_to_pod::<IPV6>(ctx, sk, pod, &destination);
    debug!(ctx, "netns {}: captured a connection to port {}, by way of port {}", netns, port, to_port);
    // SAFETY: these fields may be written in this hook, each as one word.
    unsafe {
        if IPV6 {
            let words = addr_of_mut!((*addr).user_ip6).cast::<u32>();
            words.write_volatile(to.0[0]);
            words.add(1).write_volatile(to.0[1]);
            words.add(2).write_volatile(to.0[2]);
            words.add(3).write_volatile(to.0[3]);
        } else {
            addr_of_mut!((*addr).user_ip4).write_volatile(to.ipv4_word());
        }
        addr_of_mut!((*addr).user_port).write_volatile(u32::from(to_port.to_be()));
    }
    ALLOW
}

/// A connection from a namespace that is not captured: left alone, and noted if it is a probe of a captured pod.
#[inline(always)]
fn connect_from_elsewhere<const IPV6: bool>(ctx: &SockAddrContext) -> i32 {
    let Some(settings) = maps::settings() else {
        return ALLOW;
    };
    // SAFETY: the helper takes no arguments.
    if settings.probe_cgroup == 0 || settings.probe_cgroup != unsafe { bpf_get_current_cgroup_id() } {
        return ALLOW;
    }
    // SAFETY: the context is valid, and `connect` always has a socket.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    let (destination, port) = destination::<IPV6>(ctx.sock_addr);
    match maps::pod_of_address(&destination) {
        // Without memory the pod takes it for any other plaintext connection, and policy decides.
        Some(netns) => {
            maps::remember(sk, Socket::new(Role::Probe, destination, port, netns));
        }
        None => maps::forget(sk),
    }
    ALLOW
}

#[inline(always)]
fn destination<const IPV6: bool>(addr: *mut bpf_sock_addr) -> (Address, u16) {
    // SAFETY: the context is valid; it is read word by word, as the verifier demands.
    unsafe {
        let address = if IPV6 {
            let words = addr_of!((*addr).user_ip6).cast::<u32>();
            Address([
                words.read_volatile(),
                words.add(1).read_volatile(),
                words.add(2).read_volatile(),
                words.add(3).read_volatile(),
            ])
        } else {
            Address::ipv4(addr_of!((*addr).user_ip4).read_volatile())
        };
        let port = addr_of!((*addr).user_port).read_volatile();
        (address, u16::from_be(port as u16))
    }
}

/// On which way a connection reaches the agent.
enum Route {
    Loopback,
    /// By way of the pod's own address: for a socket that stays bound to the device which has it.
    Own(Address),
    None,
}

/// A socket that is bound to a device would send past loopback.
#[inline(always)]
fn route(ctx: &SockAddrContext, sk: *mut bpf_sock, pod: &Pod, destination: &Address) -> Route {
    /// The index of `lo` in every network namespace.
    const LOOPBACK: u32 = 1;
    // SAFETY: the verifier knows `sk` as a socket.
    let device = unsafe { (*sk).bound_dev_if };
    if device == 0 || device == LOOPBACK {
        return Route::Loopback;
    }
    let mut no_name = [0_u8; 4];
    // SAFETY: the helper takes the context and reads as many bytes as it is told.
    let result = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTODEVICE, no_name.as_mut_ptr().cast(), no_name.len() as i32)
    };
    if result == 0 {
        return Route::Loopback;
    }
    // The kernel asks the process for CAP_NET_RAW to unbind, but not to bind.
    let (own, own_device) =
        if destination.is_ipv4() { (pod.ipv4, pod.ipv4_device) } else { (pod.ipv6, pod.ipv6_device) };
    if device == own_device { Route::Own(own) } else { Route::None }
}

/// Makes `getsockname` show the pod's address instead of loopback, unless the application has chosen one itself.
///
/// That it fails (an address that is not assigned yet) only shows in `getsockname`.
#[inline(always)]
fn bind_to_pod<const IPV6: bool>(ctx: &SockAddrContext, sk: *mut bpf_sock, pod: &Pod, destination: &Address) {
    // SAFETY: the verifier knows `sk` as a socket.
    if unsafe { (*sk).src_port } != 0 {
        return;
    }
    if IPV6 {
        let own = if destination.is_ipv4() { &pod.ipv4 } else { &pod.ipv6 };
        if own.is_unspecified() || is_bound_ipv6(sk) {
            return;
        }
        let mut name = SocketAddressV6 { family: AF_INET6, port: 0, flow: 0, address: own.0, scope: 0 };
        // SAFETY: the helper reads the whole structure.
        unsafe { bpf_bind(ctx.sock_addr, addr_of_mut!(name).cast(), size_of::<SocketAddressV6>() as i32) };
    } else {
        // SAFETY: the verifier knows `sk` as a socket.
        if pod.ipv4.is_unspecified() || unsafe { (*sk).src_ip4 } != 0 {
            return;
        }
        let mut name = SocketAddressV4 { family: AF_INET, port: 0, address: pod.ipv4.ipv4_word(), zero: [0; 2] };
        // SAFETY: the helper reads the whole structure.
        unsafe { bpf_bind(ctx.sock_addr, addr_of_mut!(name).cast(), size_of::<SocketAddressV4>() as i32) };
    }
}

#[inline(always)]
fn is_bound_ipv6(sk: *mut bpf_sock) -> bool {
    // SAFETY: the verifier knows `sk` as a socket; it is read word by word.
    unsafe {
        let words = addr_of!((*sk).src_ip6).cast::<u32>();
        words.read_volatile()
            | words.add(1).read_volatile()
            | words.add(2).read_volatile()
            | words.add(3).read_volatile()
            != 0
    }
}

/// `struct sockaddr_in`.
#[repr(C)]
struct SocketAddressV4 {
    family: u16,
    port: u16,
    address: u32,
    zero: [u32; 2],
}

/// `struct sockaddr_in6`.
#[repr(C)]
struct SocketAddressV6 {
    family: u16,
    port: u16,
    flow: u32,
    address: [u32; 4],
    scope: u32,
}
