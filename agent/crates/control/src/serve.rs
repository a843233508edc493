//! The control plane's servers: discovery and certificates for agents, over TLS.
//!
//! [`World`] holds what there is to tell, encoded once; whoever has a source of changes feeds it. [`Server`] listens,
//! authenticates callers by their bearer tokens, and serves Istio's protocols, so that any agent that speaks them can be
//! a client: delta xDS of workloads, services and policies, and certificates for the pods of the caller's node.
//!
//! A slow reader costs nobody anything: a stream is a place in the order of changes, and the next message is made when
//! the last one has left.

mod authenticate;
mod catalog;
mod certify;
mod connection;
mod push;
mod residents;
mod signing;
mod stream;
mod subscription;
mod tls;
mod token_review;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use authenticate::{
    Authenticating, AuthenticationError, Authenticator, Caller, TokenFile, TokenFileError, Waypoints,
};
pub use certify::Certifier;
pub(crate) use push::PART;
pub use residents::Grants;
pub use signing::Signing;
pub(crate) use signing::{State as SigningState, pem_of};
pub use stream::CountsNow;
use thiserror::Error;
pub use tls::{ServerTls, ServerTlsError};
pub use token_review::TokenReviews;
use tokio::net::TcpListener;
use weft_runtime::Tasks;
pub use world::World;

/// Metadata of a node that can put together what comes in several messages.
pub(crate) const TAKES_PARTS: &str = "WEFT_PARTS";

/// Limits of a [`Server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; further ones wait to be accepted. Default: 16,384.
    pub connections: usize,
    /// How long a TLS handshake, and after it the first authenticated request, may take. Default: 10 s.
    pub handshake: Duration,
    /// A connection without a request is closed after this time. Default: 5 min.
    pub idle: Duration,
    /// A stream is ended after about this time, give or take a tenth: its client connects again, shows a token that is
    /// still good, and finds the replicas that have come since. Default: 30 min.
    pub stream_age: Duration,
    /// Clients that may at one time tell what they have, which is much after an outage. Default: 16.
    pub resuming: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            stream_age: Duration::from_secs(1800),
            resuming: 16,
        }
    }
}

/// Why a server does not run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("listening on {address} failed: {error}: is another server there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// What a server is made of.
pub struct ServerParts {
    /// What there is to tell.
    pub world: Arc<World>,
    /// Who callers are.
    pub authenticator: Arc<dyn Authenticator>,
    /// Certificates for callers; `None`: this server issues none.
    pub certifier: Option<Certifier>,
    /// The server's own certificate.
    pub tls: ServerTls,
    /// Limits.
    pub limits: Limits,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    counts: Arc<stream::Counts>,
}

impl Server {
    /// Starts to listen on `address` and to serve, in tasks owned by `tasks`. Must be called from within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(address: SocketAddr, parts: ServerParts, tasks: &Tasks) -> Result<Self, ServeError> {
        let failed = |error| ServeError::Listen { address, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let counts = Arc::new(stream::Counts::default());
        let certifier = parts.certifier.map(|certifier| certifier.counted(&counts));
        let parts = ServerParts { certifier, ..parts };
        let accepting = connection::accept(listener, parts, Arc::clone(&counts), tasks.shutdown());
        tasks.spawn("control-plane", accepting);
        Ok(Self { address: bound, counts })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done, and does, up to now.
    #[must_use]
    pub fn counts(&self) -> CountsNow {
        self.counts.now()
    }
}
