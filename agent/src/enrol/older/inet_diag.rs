//! The kernel's socket monitoring, sock_diag(7): the TCP sockets of one network namespace are listed, found and ended.
//!
//! A netlink socket speaks for the namespace that it was made in, from whichever thread it is used. Answers are taken
//! from the kernel alone: with CAP_NET_ADMIN a program of the pod could send to this socket too.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

use crate::netns::Netns;

/// How long the kernel may take for one answer. It takes microseconds, and milliseconds for a list.
const PATIENCE: Duration = Duration::from_secs(2);
/// The kernel puts at most 32 KiB of a list into one datagram.
const LIST_DATAGRAM: usize = 64 * 1024;
/// One socket with all that the kernel says of it.
const ONE_DATAGRAM: usize = 4 * 1024;
/// How often a list is asked for that sockets came into and went out of meanwhile.
const LIST_ATTEMPTS: usize = 3;
/// The states in which bytes go over a connection, or will once it stands.
const LIVING: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::SYN_SENT)
    .union(StateFlags::SYN_RECV)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT);

/// Why the kernel was asked in vain.
#[derive(Debug, thiserror::Error)]
pub(super) enum InetDiagError {
    /// Sockets cannot be listed at all.
    #[error("this kernel lacks inet_diag (CONFIG_INET_DIAG, CONFIG_INET_TCP_DIAG)")]
    NotThere,
    /// Sockets can be listed, but not ended.
    #[error("this kernel lacks SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)")]
    NoDestroy,
    /// A call failed.
    #[error("inet_diag, {call}: {source}")]
    Call {
        /// What was asked for.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel said something else.
    #[error("inet_diag: an answer cannot be read: {0}")]
    Answer(String),
}

impl From<DecodeError> for InetDiagError {
    fn from(error: DecodeError) -> Self {
        Self::Answer(error.to_string())
    }
}

/// A TCP socket, under the name by which the kernel finds this one and no later one of the same addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TcpSocket {
    family: u8,
    id: SocketId,
    state: u8,
    /// Its inode; 0: no process has it, since it is not accepted yet or closed already.
    pub(super) inode: u32,
}

impl TcpSocket {
    /// Its own end; a v4-mapped address is the v4 one.
    pub(super) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.id.source_address.to_canonical(), self.id.source_port)
    }

    /// The other end.
    pub(super) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.id.destination_address.to_canonical(), self.id.destination_port)
    }

    /// The kernel's number for it, never given again.
    pub(super) fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.id.cookie)
    }

    /// Whether it takes connections instead of being one.
    pub(super) fn listens(&self) -> bool {
        self.state == TCP_LISTEN
    }

    /// Whether bytes go over it, or will once it stands.
    pub(super) fn lives(&self) -> bool {
        self.is_in(LIVING)
    }

    /// Whether this end has said all it has to say.
    pub(super) fn is_closing(&self) -> bool {
        self.is_in(StateFlags::FIN_WAIT1.union(StateFlags::FIN_WAIT2))
    }

    fn is_in(&self, states: StateFlags) -> bool {
        states.bits() & 1_u32.checked_shl(self.state.into()).unwrap_or(0) != 0
    }
}

impl From<InetResponse> for TcpSocket {
    fn from(response: InetResponse) -> Self {
        let header = response.header;
        Self { family: header.family, id: header.socket_id, state: header.state, inode: header.inode }
    }
}

/// A conversation with the kernel about the TCP sockets of one network namespace.
#[derive(Debug)]
pub(super) struct InetDiag {
    socket: Socket,
    sequence: u32,
}

impl InetDiag {
    /// Opens one in `netns`.
    ///
    /// # Errors
    /// [`InetDiagError::NotThere`], or the namespace cannot be entered.
    pub(super) fn open(netns: &Netns) -> Result<Self, InetDiagError> {
        netns.enter(Self::open_here).map_err(|source| match source.raw_os_error() {
            Some(libc::EPROTONOSUPPORT) => InetDiagError::NotThere,
            _ => InetDiagError::Call { call: "opening it", source },
        })
    }

    fn open_here() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        // From then on nobody but the kernel can send to it.
        socket.connect(&NetlinkAddr::new(0, 0))?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The sockets of both families that live or listen and are `wanted`; at most `most` of them.
    ///
    /// # Errors
    /// [`InetDiagError::NotThere`], or the kernel does not answer, or not in its protocol.
    pub(super) fn list(
        &mut self,
        most: usize,
        wanted: impl Fn(&TcpSocket) -> bool,
    ) -> Result<Vec<TcpSocket>, InetDiagError> {
        let mut sockets = Vec::new();
        for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = request(family, id, LIVING | StateFlags::LISTEN);
            let before = sockets.len();
            for attempt in 1..=LIST_ATTEMPTS {
                sockets.truncate(before);
                let message = SockDiagMessage::InetRequest(request.clone());
                let is_whole = self.ask("listing sockets", message, NLM_F_DUMP, |socket| {
                    if sockets.len() < most && wanted(&socket) {
                        sockets.push(socket);
                    }
                })?;
                if is_whole {
                    break;
                }
                // The last one is taken as it is: what it lacks came or went while it was made.
                tracing::debug!(attempt, "the list of sockets changed while it was made");
            }
        }
        Ok(sockets)
    }

    /// What became of a socket; `None`: it is gone.
    ///
    /// # Errors
    /// The kernel does not answer, or not in its protocol.
    pub(super) fn find(&mut self, socket: &TcpSocket) -> Result<Option<TcpSocket>, InetDiagError> {
        let request = request(socket.family, socket.id.clone(), StateFlags::all());
        let mut found = None;
        match self.ask("finding a socket", SockDiagMessage::InetRequest(request), 0, |socket| found = Some(socket)) {
            Err(InetDiagError::NotThere) => Ok(None),
            result => result.map(|_| found),
        }
    }

    /// Ends a connection: its process and its other end see an error instead of an end of stream. True if it still was.
    ///
    /// # Errors
    /// [`InetDiagError::NoDestroy`], or the kernel does not answer, or refuses for want of CAP_NET_ADMIN.
    pub(super) fn destroy(&mut self, socket: &TcpSocket) -> Result<bool, InetDiagError> {
        let request = request(socket.family, socket.id.clone(), StateFlags::all());
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        match self.ask("ending a connection", message, NLM_F_ACK, |_| {}) {
            Ok(_) => Ok(true),
            Err(InetDiagError::NotThere) => Ok(false),
            Err(InetDiagError::Call { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(InetDiagError::NoDestroy)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks, and takes the answer up to its end. False: what it lists changed while it was made.
    ///
    /// ENOENT is [`InetDiagError::NotThere`]: what is not there is the socket, if one was asked for.
    fn ask<M>(
        &mut self,
        call: &'static str,
        message: M,
        flags: u16,
        mut take: impl FnMut(TcpSocket),
    ) -> Result<bool, InetDiagError>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOENT) => InetDiagError::NotThere,
            _ => InetDiagError::Call { call, source },
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let deadline = Instant::now() + PATIENCE;
        self.socket.send(&bytes, 0).map_err(failed)?;

        let is_list = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut is_whole = true;
        let mut buffer = vec![0; if is_list { LIST_DATAGRAM } else { ONE_DATAGRAM }];
        loop {
            let datagram = self.receive(&mut buffer, deadline).map_err(failed)?;
            for message in messages(datagram) {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    // Of an earlier question, whose answer came too late.
                    continue;
                }
                is_whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        take((*response).into());
                        if !is_list {
                            return Ok(true);
                        }
                    }
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(is_whole),
                    NetlinkPayload::Done(done) => return Err(failed(errno(done.code))),
                    NetlinkPayload::Error(error) => {
                        return error.code.map_or(Ok(is_whole), |code| Err(failed(errno(code.get()))));
                    }
                    NetlinkPayload::Noop => {}
                    other => return Err(InetDiagError::Answer(format!("{other:?}"))),
                }
            }
        }
    }

    fn receive<'a>(&self, buffer: &'a mut [u8], deadline: Instant) -> io::Result<&'a [u8]> {
        loop {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let received = self.socket.recv_from(&mut &mut *buffer, libc::MSG_TRUNC);
            let (length, from) = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            };
            if from.port_number() != 0 {
                continue;
            }
            // With MSG_TRUNC it is the length that the datagram has, not what there was room for.
            return buffer.get(..length).ok_or_else(|| io::Error::other(format!("a datagram of {length} bytes")));
        }
    }
}

fn request(family: u8, socket_id: SocketId, states: StateFlags) -> InetRequest {
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// The kernel gives error numbers as negative ones.
fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// The messages in a datagram, up to the first that cannot be read.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkMessage<SockDiagMessage>, DecodeError>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram);
        // Each begins at a multiple of four bytes. What could be read is no longer than what there is.
        let length = message.as_ref().map_or(datagram.len(), |message| message.header.length as usize);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
pub(super) mod tests;
