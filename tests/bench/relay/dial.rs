//! Connections that start inside a pod, made as the agent makes them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use mio::net::TcpStream;
use socket2::Socket;
use weft::capture::Capture;
use weft::in_pod::PodSockets;
use weft::netns::Netns;

/// Dials from within one pod.
#[derive(Debug)]
pub struct Dialler {
    sockets: PodSockets,
    capture: Arc<Capture>,
}

impl Dialler {
    /// For the pod of this namespace.
    pub fn new(netns: Arc<Netns>, capture: Arc<Capture>) -> io::Result<Self> {
        Ok(Self { sockets: PodSockets::new(netns)?, capture })
    }

    /// Where the application wanted to go that opened this captured connection.
    pub fn original_destination(&self, accepted: BorrowedFd<'_>) -> io::Result<SocketAddr> {
        self.capture.original_destination(accepted)?.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Starts a connection to another relay.
    pub fn relay(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to, None)?;
        connect(socket, to)
    }

    /// Starts a connection to the pod's own application, which will see `client` as its peer.
    pub fn application(&self, to: SocketAddr, client: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to, Some(client))?;
        bind_address_without_port(&socket)?;
        socket.bind(&SocketAddr::new(self.sockets.local_source(to), 0).into())?;
        connect(socket, to)
    }

    fn socket(&self, to: SocketAddr, client: Option<SocketAddr>) -> io::Result<Socket> {
        let socket = Socket::from(self.sockets.stream(to.is_ipv6())?);
        socket.set_tcp_nodelay(true)?;
        self.capture.tag_own(socket.as_fd(), client)?;
        Ok(socket)
    }
}

fn connect(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Leaves the choice of the port to `connect`, which knows the whole four-tuple.
fn bind_address_without_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes a pointer to an int and its size, and both outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
