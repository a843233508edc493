//! A pod of this node as the workers see it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use weft_model::{Identity, Workload};

use super::origin::Origin;
use super::socket::{self, Socket};
use crate::in_pod::PodSockets;

/// An enrolled pod.
#[derive(Debug)]
pub struct Pod {
    /// The workload's uid in the model.
    pub uid: Arc<str>,
    /// The pod object's own uid; a pod of the same name that was created anew differs here.
    pub instance: Arc<str>,
    /// The identity under which its connections are made.
    pub identity: Identity,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What this node knows of it: who its connections are from until the mesh has said so itself. Its policies are not
    /// those in force.
    pub workload: Arc<Workload>,
    /// Where its sockets come from.
    pub sockets: PodSockets,
    /// It is to be in the mesh no more, and its peers are being told: those that know come in clear.
    pub is_leaving: AtomicBool,
}

impl Pod {
    /// A socket to another node or to a destination outside the mesh, recognised as the agent's.
    pub(super) fn outward_socket(&self, origin: &dyn Origin, to: IpAddr) -> io::Result<Socket> {
        let socket = self.socket(origin, to, None)?;
        socket::tune(socket.as_fd())?;
        Ok(socket)
    }

    /// A socket to the pod's own application, which shall see `client` as its peer.
    pub(super) fn application_socket(&self, origin: &dyn Origin, to: IpAddr, client: SocketAddr) -> io::Result<Socket> {
        let socket = self.socket(origin, to, Some(client))?;
        // No keepalive: the other end is on this host, and its kernel says when it dies.
        socket::set_no_delay(socket.as_fd())?;
        socket::set_urgent_inline(socket.as_fd())?;
        Ok(socket)
    }

    fn socket(&self, origin: &dyn Origin, to: IpAddr, client: Option<SocketAddr>) -> io::Result<Socket> {
        let fd = self.sockets.stream(to.is_ipv6())?;
        let socket = Socket::from_fd(fd);
        origin.tag_own(socket.as_fd(), client)?;
        Ok(socket)
    }
}
