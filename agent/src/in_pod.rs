//! Sockets inside a pod's network namespace: what listens there, and where connections start.
//!
//! The network sees the pod's own address in everything that the agent does for it, since the sockets are the pod's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use weft_common::ports;

use crate::netns::Netns;

/// The listening sockets of one pod, one set for each worker.
///
/// Connections reach them only through the pod's `sk_lookup` program, which hands them to the workers in turn.
#[derive(Debug)]
pub struct InPodListeners {
    /// In the order of the workers.
    pub per_worker: Vec<WorkerListeners>,
}

/// What one worker listens on in one pod: non-blocking sockets, an IPv4 one and, if the pod has IPv6, an IPv6 one.
#[derive(Debug)]
pub struct WorkerListeners {
    /// Captured outbound connections: the destination is asked of [`crate::capture::Capture::original_destination`].
    pub outbound: Vec<OwnedFd>,
    /// Captured plaintext inbound connections: the socket's local address is the destination.
    pub inbound: Vec<OwnedFd>,
    /// HBONE, on port 15008 of the pod's addresses.
    pub hbone: Vec<OwnedFd>,
}

/// How many connections may wait to be accepted; the kernel lowers it to `net.core.somaxconn` of the namespace.
const BACKLOG: i32 = 65_535;

/// Makes the listening sockets of a pod for `workers` workers.
///
/// IPv4 sockets are always made, IPv6 ones when `addresses` holds an IPv6 address. In a pod that an agent of this node has captured
/// they share their ports with those of that agent; in any other nobody may be there before.
///
/// # Errors
/// When the namespace cannot be entered or a port is taken by a program of the pod, or by another mesh.
pub fn listeners(netns: &Netns, workers: usize, addresses: &[IpAddr], is_captured: bool) -> io::Result<InPodListeners> {
    let ipv6 = addresses.iter().any(|address| address.to_canonical().is_ipv6());
    netns.enter(|| {
        if !is_captured {
            vacant(ipv6)?;
        }
        let per_worker = (0..workers).map(|_| worker_listeners(ipv6)).collect::<io::Result<_>>()?;
        Ok(InPodListeners { per_worker })
    })
}

fn worker_listeners(ipv6: bool) -> io::Result<WorkerListeners> {
    // What is captured is steered by the program whatever the socket is bound to, so that loopback is enough, and
    // keeps both ports closed to the network when a pod is no longer captured and its listeners are still open.
    let [loopback4, loopback6] = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let [any4, any6] = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    let pair = |four: IpAddr, six: IpAddr, port: u16| -> io::Result<Vec<OwnedFd>> {
        let mut sockets = vec![listener(SocketAddr::new(four, port))?];
        if ipv6 {
            sockets.push(listener(SocketAddr::new(six, port))?);
        }
        Ok(sockets)
    };
    Ok(WorkerListeners {
        outbound: pair(loopback4, loopback6, ports::OUTBOUND)?,
        inbound: pair(loopback4, loopback6, ports::INBOUND)?,
        hbone: pair(any4, any6, ports::HBONE)?,
    })
}

/// Checks that nobody has the ports. Istio's ztunnel shares its own with whoever asks, and would get every other connection.
fn vacant(ipv6: bool) -> io::Result<()> {
    let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    for port in [ports::OUTBOUND, ports::INBOUND, ports::HBONE] {
        let address = SocketAddr::new(any, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        // The IPv6 one stands for both families.
        if ipv6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into()).map_err(|error| unheard(address, &error))?;
    }
    Ok(())
}

fn unheard(address: SocketAddr, error: &io::Error) -> io::Error {
    let whose = match error.kind() {
        io::ErrorKind::AddrInUse => "; another mesh or the pod itself has the port, and the pod is left alone",
        _ => "",
    };
    io::Error::new(error.kind(), format!("listening on {address} in the pod's network namespace: {error}{whose}"))
}

fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let named = |error: io::Error| unheard(address, &error);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
        .map_err(named)?;
    let bind = || {
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // An address in TIME_WAIT must not keep a restarted agent from listening.
        socket.set_reuse_address(true)?;
        // One socket for each worker, and those of the next agent process while it takes over.
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)
    };
    bind().map_err(named)?;
    Ok(socket.into())
}

/// Makes connecting sockets inside one pod's network namespace.
///
/// Entering a namespace costs some microseconds, so that a few sockets are made at each visit and kept.
#[derive(Debug)]
pub struct PodSockets {
    netns: Arc<Netns>,
    spare: [Mutex<Vec<OwnedFd>>; 2],
    turn: AtomicU32,
    ephemeral: (u16, u16),
}

/// How many sockets are made at one visit.
const BATCH: usize = 16;

impl PodSockets {
    /// For the pod of this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn new(netns: Arc<Netns>) -> io::Result<Self> {
        let ephemeral = netns.enter(ephemeral_ports)?;
        Ok(Self { netns, spare: Default::default(), turn: AtomicU32::new(0), ephemeral })
    }

    /// A new TCP socket of the family, in non-blocking mode.
    ///
    /// # Errors
    /// When the namespace cannot be entered or descriptors have run out.
    pub fn stream(&self, ipv6: bool) -> io::Result<OwnedFd> {
        let spare = &self.spare[usize::from(ipv6)];
        if let Some(socket) = spare.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(socket);
        }
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let mut made = self.netns.enter(|| {
            let first = stream(family)?;
            // The rest are for later: that they cannot be made is not this caller's failure.
            let rest = (1..BATCH).map_while(|_| stream(family).ok());
            Ok(std::iter::once(first).chain(rest).collect::<Vec<_>>())
        })?;
        let socket = made.pop().expect("the first socket was made or the error returned");
        spare.lock().unwrap_or_else(PoisonError::into_inner).append(&mut made);
        Ok(socket)
    }

    /// The source for the next connection to the pod's own application at `destination`.
    ///
    /// It varies, so that the connections of a pod do not share one port space of about 28,000. For IPv4 it is one
    /// of 256 loopback addresses. IPv6 has a single loopback address: it is that one and, where that is safe, the
    /// pod's own address in turn, hence about 56,000 connections at once to one port of the application.
    pub fn local_source(&self, destination: SocketAddr) -> IpAddr {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match destination.ip().to_canonical() {
            IpAddr::V4(_) => {
                let [a, b, c, _] = weft_common::INBOUND_SOURCES;
                IpAddr::V4(Ipv4Addr::new(a, b, c, turn.to_le_bytes()[0]))
            }
            IpAddr::V6(own) => {
                // From an address to itself the kernel may choose the very port that is being dialled, and a socket
                // would connect to itself: only where that port is not among those that it chooses from.
                let (low, high) = self.ephemeral;
                let is_safe = !(low..=high).contains(&destination.port());
                IpAddr::V6(if is_safe && turn % 2 == 1 { own } else { Ipv6Addr::LOCALHOST })
            }
        }
    }
}

fn stream(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The ports that the kernel chooses from in the calling thread's namespace, both inclusive.
fn ephemeral_ports() -> io::Result<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) => Ok((low, high)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "ip_local_port_range does not hold two ports")),
    }
}
