//! What the proxy needs of capture, and nothing more.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// Knows where a captured connection wanted to go, and marks the agent's own sockets.
pub trait Origin: std::fmt::Debug + Send + Sync {
    /// The destination that the application gave to `connect`; `None` for a connection that was not captured.
    fn original_destination(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>>;

    /// Makes `socket`, before it connects, recognisable as the agent's own, and names the client that the
    /// application at its other end shall see.
    fn tag_own(&self, socket: BorrowedFd<'_>, client: Option<SocketAddr>) -> io::Result<()>;

    /// Whether the application at the other end of `socket`, for which `connect` was just called, will see the client
    /// that was named. Otherwise the connection must not be made.
    fn is_client_known(&self, socket: BorrowedFd<'_>) -> io::Result<bool>;
}
