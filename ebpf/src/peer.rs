//! `cgroup/getpeername4` and `getpeername6`: the application hears of the other end that it knows, in `getpeername` and
//! in `accept`.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_addr, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_release};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use weft_common::{Address, Role, Socket, ports};

use crate::maps;

/// The kernel accepts no other answer from these hooks.
const DONE: i32 = 1;

const IPPROTO_MPTCP: u32 = 262;

#[cgroup_sock_addr(getpeername4)]
pub fn weft_peername4(ctx: SockAddrContext) -> i32 {
    peer_name::<false>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn weft_peername6(ctx: SockAddrContext) -> i32 {
    peer_name::<true>(&ctx)
}

#[inline(always)]
fn peer_name<const IPV6: bool>(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid while the program runs, and the hook always has a socket.
    let (protocol, sk) = unsafe { ((*addr).protocol, (*addr).__bindgen_anon_1.sk) };
    let (peer, port) = peer::<IPV6>(addr);
    if protocol == IPPROTO_MPTCP {
        if peer.is_capture_destination(port) || port == ports::OUTBOUND {
            of_subflow::<IPV6>(ctx, sk, &peer, port);
        }
    } else if let Some(socket) = maps::remembered(sk) {
        answer::<IPV6>(addr, socket, &peer, port);
    }
    DONE
}

/// Answers what is remembered, if it is of the connection that the socket has now.
#[inline(always)]
fn answer<const IPV6: bool>(addr: *mut bpf_sock_addr, socket: &Socket, peer: &Address, port: u16) {
    let is_current = if socket.role == Role::Captured as u16 {
        peer.is_capture_destination(port) || port == ports::OUTBOUND
    } else if socket.role == Role::Served as u16 {
        peer.is_inbound_source() || !peer.is_ipv4()
    } else {
        false
    };
    // An IPv4 socket cannot show an IPv6 address.
    if !is_current || (!IPV6 && !socket.address.is_ipv4()) {
        return;
    }
    // SAFETY: these fields may be written in this hook, each as one word.
    unsafe {
        if IPV6 {
            let words = addr_of_mut!((*addr).user_ip6).cast::<u32>();
            words.write_volatile(socket.address.0[0]);
            words.add(1).write_volatile(socket.address.0[1]);
            words.add(2).write_volatile(socket.address.0[2]);
            words.add(3).write_volatile(socket.address.0[3]);
        } else {
            addr_of_mut!((*addr).user_ip4).write_volatile(socket.address.ipv4_word());
        }
        addr_of_mut!((*addr).user_port).write_volatile(u32::from(socket.port.to_be()));
    }
}

/// An MPTCP socket is another than the one that connected: that one is its subflow, and found by the addresses of both.
#[inline(always)]
fn of_subflow<const IPV6: bool>(ctx: &SockAddrContext, sk: *mut bpf_sock, peer: &Address, port: u16) {
    let remote_port = port.to_be();
    // SAFETY: the verifier knows `sk` as a socket; it is read word by word.
    let (local, local_port) = unsafe {
        let local = if IPV6 {
            let words = addr_of!((*sk).src_ip6).cast::<u32>();
            Address([
                words.read_volatile(),
                words.add(1).read_volatile(),
                words.add(2).read_volatile(),
                words.add(3).read_volatile(),
            ])
        } else {
            Address::ipv4((*sk).src_ip4)
        };
        (local, ((*sk).src_port as u16).to_be())
    };
    // The subflow's own look-up is that of a packet which comes from the peer.
    let subflow = if peer.is_ipv4() {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: peer.ipv4_word(),
            daddr: local.ipv4_word(),
            sport: remote_port,
            dport: local_port,
        };
        look_up(ctx, bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } }, 12)
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: peer.0,
            daddr: local.0,
            sport: remote_port,
            dport: local_port,
        };
        look_up(ctx, bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, 36)
    };
    if subflow.is_null() {
        return;
    }
    if let Some(socket) = maps::remembered(subflow) {
        answer::<IPV6>(ctx.sock_addr, socket, peer, port);
    }
    // SAFETY: the look-up gave a reference, and this gives it back.
    unsafe { bpf_sk_release(subflow.cast()) };
}

#[inline(always)]
fn look_up(ctx: &SockAddrContext, mut tuple: bpf_sock_tuple, size: u32) -> *mut bpf_sock {
    // SAFETY: the helper reads `size` bytes of the tuple, which has at least as many.
    unsafe { bpf_sk_lookup_tcp(ctx.as_ptr(), addr_of_mut!(tuple), size, BPF_F_CURRENT_NETNS as i64 as u64, 0) }
}

#[inline(always)]
fn peer<const IPV6: bool>(addr: *mut bpf_sock_addr) -> (Address, u16) {
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
        (address, u16::from_be(addr_of!((*addr).user_port).read_volatile() as u16))
    }
}
