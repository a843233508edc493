//! Non-blocking stream sockets: the few system calls of the data path.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{SockAddr, SockRef, TcpKeepalive};

/// What a read or a write came to, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// So many bytes were moved; for a read, 0 is the end of the stream.
    Moved(usize),
    /// The socket would have blocked.
    Blocked,
}

/// A connected or connecting TCP socket in non-blocking mode.
#[derive(Debug)]
pub(super) struct Socket(socket2::Socket);

impl Socket {
    /// Wraps a socket that is in non-blocking mode already.
    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(socket2::Socket::from(fd))
    }

    /// Takes the next connection from `listener`; `None` when there is none waiting.
    ///
    /// The peer's address is what the kernel's getpeername hook shows for the accepted socket.
    pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<(Self, SocketAddr)>> {
        loop {
            let mut accepted = -1;
            // SAFETY: accept4 fills the storage with an address and says how long it is, which is what
            // `try_init` asks of its closure.
            let peer = unsafe {
                SockAddr::try_init(|storage, length| {
                    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                    accepted = libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags);
                    if accepted < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
                })
            };
            let error = match peer {
                Ok(((), peer)) => {
                    // SAFETY: accept4 returned a new descriptor that nothing else owns.
                    let socket = Self::from_fd(unsafe { OwnedFd::from_raw_fd(accepted) });
                    return Ok(Some((socket, address(peer)?)));
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                Some(libc::EINTR | libc::ECONNABORTED | libc::EPROTO) => {}
                _ => return Err(error),
            }
        }
    }

    /// Starts a connection from `source` (port 0: the kernel chooses when connecting). True when it is established already.
    pub(super) fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<bool> {
        if let Some(source) = source {
            self.bind_address_without_port()?;
            self.0.bind(&SocketAddr::new(source, 0).into())?;
        }
        match self.0.connect(&to.into()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Leaves the choice of the port to `connect`, which knows the whole four-tuple and may reuse a port.
    fn bind_address_without_port(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the option takes a pointer to an int and its size, and both outlive the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                std::ptr::from_ref(&on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Outcome> {
        outcome(|| (&self.0).read(buffer))
    }

    pub(super) fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<Outcome> {
        outcome(|| (&self.0).read_vectored(buffers))
    }

    pub(super) fn write(&self, buffer: &[u8]) -> io::Result<Outcome> {
        outcome(|| (&self.0).write(buffer))
    }

    pub(super) fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<Outcome> {
        outcome(|| (&self.0).write_vectored(buffers))
    }

    /// Sends FIN: this side has no more to say.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// Makes the close of this socket a RST, so that the other side never takes a failure for an end of stream.
    pub(super) fn set_abort(&self) {
        // A failure means that the connection is gone already.
        let _ = self.0.set_linger(Some(Duration::ZERO));
    }

    /// Closes the socket with a RST now.
    pub(super) fn abort(self) {
        self.set_abort();
    }

    /// The pending error of the socket, if any; clears it.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        self.0.take_error().unwrap_or_else(Some)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.0.local_addr()?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sets what every socket of the data path has: no delay, and keepalive so that a silent death is noticed.
///
/// Accepted sockets inherit both from their listener.
pub(super) fn tune(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_no_delay(socket)?;
    set_urgent_inline(socket)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(180)).with_interval(Duration::from_secs(180)).with_retries(9);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive)
}

/// Bytes leave when they are written.
pub(super) fn set_no_delay(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_nodelay(true)
}

/// Urgent data stays in the stream, where no byte of it is lost. The mark that sets it apart is not carried.
pub(super) fn set_urgent_inline(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_out_of_band_inline(true)
}

fn outcome(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Outcome> {
    loop {
        match call() {
            Ok(moved) => return Ok(Outcome::Moved(moved)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Addresses are compared as values everywhere: a v4-mapped one is the v4 one.
fn address(address: SockAddr) -> io::Result<SocketAddr> {
    let address = address.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
