//! The way to endpoints: tunnels under the waypoint's own identity, TCP to what is not in the mesh, and HTTP on both.

mod connections;
mod pipe;
mod tunnels;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_model::Upstream;

pub(crate) use connections::{Returning, SendError};
pub(crate) use pipe::Pipe;

use crate::group::Group;
use crate::tunnel::tune;
use crate::worker::Shared;
use connections::Connections;
use tunnels::Tunnels;

/// Where workloads take tunnels.
pub(crate) const TUNNEL_PORT: u16 = 15008;

/// Why an endpoint could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connecting to {0} took too long: is a NetworkPolicy blocking it?")]
    TimedOut(SocketAddr),
    #[error("connecting to {0}: {1}")]
    Tcp(SocketAddr, std::io::Error),
    #[error("there is no certificate of this waypoint")]
    NoCertificate,
    #[error("the tunnel to {0}: {1}")]
    Tls(SocketAddr, weft_transport::TlsError),
    #[error("the tunnel to {0}: {1}")]
    Http2(SocketAddr, h2::Error),
    #[error("the agent of {0} refuses: {1}")]
    Refused(SocketAddr, http::StatusCode),
    #[error("HTTP to {0}: {1}")]
    Http(SocketAddr, hyper::Error),
}

/// One worker's connections to endpoints.
pub(crate) struct Upstreams {
    shared: Arc<Shared>,
    tunnels: Tunnels,
    pub(crate) connections: Connections,
}

impl Upstreams {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        // What drives the connections ends with them.
        let group = Group::default();
        Self {
            tunnels: Tunnels::new(Arc::clone(&shared), group.clone()),
            connections: Connections::new(shared.options.limits.clone(), group),
            shared,
        }
    }

    /// A connection to an endpoint. `client`: whom it is for, where it is for one alone.
    ///
    /// # Errors
    /// When it does not stand in time.
    pub(crate) async fn connect(&self, upstream: &Upstream, client: Option<SocketAddr>) -> Result<Pipe, ConnectError> {
        let limits = &self.shared.options.limits;
        let connecting = async {
            if upstream.workload.is_hbone() {
                return self.tunnels.open(upstream, client).await.map(Pipe::Tunnel);
            }
            let socket = TcpStream::connect(upstream.address).await;
            let socket = socket.map_err(|error| ConnectError::Tcp(upstream.address, error))?;
            tune(&socket);
            Ok(Pipe::Plain(socket))
        };
        timeout(limits.connect, connecting).await.unwrap_or(Err(ConnectError::TimedOut(upstream.address)))
    }
}
