//! The sockets that the servers listen on.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use weft_runtime::Tasks;

use super::Admin;
use super::http::{self, Handler, Listener};
use super::routes::{AdminRoutes, TcpAdminRoutes};
use super::sandboxes::UnixRoutes;
use super::scrape::{MetricsRoutes, ReadinessRoutes, Scraped};

/// Connections that may wait for the server.
const BACKLOG: i32 = 64;
/// Those that may wait at the Unix socket: a node's pods, when all of them start at once.
const UNIX_BACKLOG: i32 = 512;

/// Where the servers listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminOptions {
    /// The Unix socket of the admin interface: see [`socket_path`].
    pub socket: PathBuf,
    /// The admin interface over TCP, on a loopback address; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Metrics; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Readiness; `None`: nowhere.
    pub readiness: Option<SocketAddr>,
}

/// The Unix socket of the agent whose state directory this is.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("admin.sock")
}

/// A server that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The admin interface changes the log level and shows addresses: it is not for other hosts.
    #[error("--admin {0} is not a loopback address; the admin interface is only for the node itself (127.0.0.1:15000)")]
    NotLoopback(SocketAddr),
    /// A TCP socket.
    #[error("listening on {address} for {purpose}: {source}{}", advice(.source))]
    Tcp {
        /// What it is for: the flag.
        purpose: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The Unix socket.
    #[error("listening on {}: {source}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; is another one running here? give this one another address, or \"off\"",
        _ => "",
    }
}

/// The listening sockets. The Unix socket's file is removed with them, unless another agent has taken its place.
pub struct Listeners {
    socket: UnixListener,
    socket_file: SocketFile,
    admin: Option<TcpListener>,
    metrics: Option<TcpListener>,
    readiness: Option<TcpListener>,
}

impl Listeners {
    /// Opens the sockets. Must be called from within a tokio runtime.
    ///
    /// # Errors
    /// When one cannot be opened: an agent that nobody can look into is not started by mistake.
    pub fn bind(options: &AdminOptions) -> Result<Self, AdminError> {
        if let Some(address) = options.admin.filter(|address| !address.ip().to_canonical().is_loopback()) {
            return Err(AdminError::NotLoopback(address));
        }
        let admin = bind_tcp("--admin", options.admin)?;
        let ScrapeListeners { metrics, readiness } = ScrapeListeners::bind(options.metrics, options.readiness)?;
        let (socket, socket_file) =
            listen_unix(&options.socket).map_err(|source| AdminError::Unix { path: options.socket.clone(), source })?;
        Ok(Self { socket, socket_file, admin, metrics, readiness })
    }

    /// Where metrics are served: the port that the kernel chose, if it was to choose.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// Where readiness is served.
    pub fn readiness_address(&self) -> Option<SocketAddr> {
        self.readiness.as_ref()?.local_addr().ok()
    }

    /// Where the admin interface is served over TCP.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Starts the servers, owned by `tasks`.
    pub fn start(self, admin: &Admin, tasks: &Tasks) {
        let Self { socket, socket_file, admin: admin_tcp, metrics, readiness } = self;
        let routes = UnixRoutes {
            admin: AdminRoutes(admin.clone()),
            sandboxes: admin.sandboxes.clone(),
            successors: admin.successors.clone(),
        };
        let over_unix = http::serve(Listener::Unix(socket), Arc::new(routes), tasks.shutdown());
        tasks.spawn("admin", async move {
            let _removed_at_the_end = socket_file;
            over_unix.await;
        });
        if let Some(listener) = admin_tcp {
            let routes = Arc::new(TcpAdminRoutes(AdminRoutes(admin.clone())));
            tasks.spawn("admin-tcp", http::serve(Listener::Tcp(listener), routes, tasks.shutdown()));
        }
        ScrapeListeners { metrics, readiness }.start(&(Arc::new(admin.clone()) as Arc<dyn Scraped>), tasks);
    }
}

/// The sockets that monitoring asks.
pub(crate) struct ScrapeListeners {
    metrics: Option<TcpListener>,
    readiness: Option<TcpListener>,
}

impl ScrapeListeners {
    /// Opens the sockets. Must be called from within a tokio runtime.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(crate) fn bind(metrics: Option<SocketAddr>, readiness: Option<SocketAddr>) -> Result<Self, AdminError> {
        Ok(Self { metrics: bind_tcp("--metrics", metrics)?, readiness: bind_tcp("--readiness", readiness)? })
    }

    /// Starts the servers, owned by `tasks`.
    pub(crate) fn start(self, scraped: &Arc<dyn Scraped>, tasks: &Tasks) {
        let servers: [(&str, Option<TcpListener>, Arc<dyn Handler>); 2] = [
            ("metrics", self.metrics, Arc::new(MetricsRoutes(Arc::clone(scraped)))),
            ("readiness", self.readiness, Arc::new(ReadinessRoutes(Arc::clone(scraped)))),
        ];
        for (name, listener, handler) in servers {
            if let Some(listener) = listener {
                tasks.spawn(name, http::serve(Listener::Tcp(listener), handler, tasks.shutdown()));
            }
        }
    }
}

fn bind_tcp(purpose: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, AdminError> {
    address
        .map(|address| listen_tcp(address).map_err(|source| AdminError::Tcp { purpose, address, source }))
        .transpose()
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_tcp_exactly(address) {
        // Where IPv6 is switched off, "any address" still has a meaning.
        Err(error) if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && lacks_ipv6(&error) => {
            listen_tcp_exactly(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        result => result,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn listen_tcp_exactly(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // "::" means both families, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Makes the socket under another name and moves it into its place: it appears with its permissions, and takes the
/// place of one that a dead agent, or the one that this agent replaces, has left, without a moment in which there is
/// none.
fn listen_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut staging = path.as_os_str().to_owned();
    staging.push(format!(".{}", std::process::id()));
    let staging = PathBuf::from(staging);
    match fs::remove_file(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(&staging)?)?;
    let listen = || {
        // Nobody can connect before `listen`, hence nobody before the permissions are right.
        fs::set_permissions(&staging, fs::Permissions::from_mode(0o600))?;
        socket.listen(UNIX_BACKLOG)?;
        let inode = inode(&staging)?;
        fs::rename(&staging, path)?;
        Ok(inode)
    };
    let inode = listen().inspect_err(|_: &io::Error| {
        // The first error is the one to report.
        let _ = fs::remove_file(&staging);
    })?;
    let file = SocketFile { path: path.to_owned(), inode };
    Ok((UnixListener::from_std(socket.into())?, file))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The Unix socket's file, removed when dropped.
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket stays behind");
        }
    }
}
