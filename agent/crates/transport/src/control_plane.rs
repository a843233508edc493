//! The way to a control plane: gRPC over HTTP/2 over TLS 1.3, with a bearer token.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::http::uri::{PathAndQuery, Scheme};
use tonic::codegen::http::{self, HeaderValue, Uri, header};

use crate::tls;

/// How long making a connection may take: name, TCP, TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A connection on which nothing arrives for this long is asked whether it is still there …
const ASK_AFTER: Duration = Duration::from_secs(20);
/// … and has this long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// What the control plane may send ahead on one stream, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// Tokens and roots are small.
const MAX_FILE: u64 = 1 << 20;
/// The port where control planes listen.
const DEFAULT_PORT: u16 = 15012;

/// Where a control plane is, and what proves each to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneOptions {
    /// `https://HOST:PORT`; the port is 15012 if none is given. The server's certificate must be for HOST.
    pub url: String,
    /// PEM file of the roots that the server's certificate must chain to. Read at each connect.
    pub roots: PathBuf,
    /// File of the bearer token. Read at each connect: whoever issues it renews it there. None: no token is sent.
    pub token: Option<PathBuf>,
}

/// A control plane that can be connected to.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    options: ControlPlaneOptions,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlPlaneError {
    /// The address is none.
    #[error("'{url}' is not the address of a control plane ({reason}): write https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the credentials cannot be used.
    #[error("the file {path} of the {what}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The control plane was not reached.
    #[error("connecting to the control plane {host}:{port} failed: {reason}")]
    Connect {
        /// Its name.
        host: String,
        /// Its port.
        port: u16,
        /// Why.
        reason: String,
    },
}

impl ControlPlane {
    /// Checks the address. Files are read at each connect.
    ///
    /// # Errors
    /// When the address is none, or is not of TLS.
    pub fn new(options: ControlPlaneOptions) -> Result<Self, ControlPlaneError> {
        let fail = |reason: &str| ControlPlaneError::Url { url: options.url.clone(), reason: reason.to_owned() };
        let uri: Uri = options.url.parse().map_err(|_| fail("it is no URL"))?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(fail("it does not start with https://"));
        }
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(fail("it has a path"));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| fail("its host is no name and no address"))?;
        Ok(Self { port: uri.port_u16().unwrap_or(DEFAULT_PORT), host, name, options })
    }

    /// Connects. The roots and the token are read anew.
    ///
    /// # Errors
    /// When a file cannot be used, the server is not reached within 10 s, or its certificate is not accepted.
    pub async fn connect(&self) -> Result<Connection, ControlPlaneError> {
        let roots = read(&self.options.roots, "control plane's roots").await?;
        let token = match &self.options.token {
            Some(path) => Some(bearer(&read(path, "token").await?, path)?),
            None => None,
        };
        let tls = self.tls(&roots)?;
        let failed = |reason: String| ControlPlaneError::Connect { host: self.host.clone(), port: self.port, reason };
        match tokio::time::timeout(CONNECT_WITHIN, self.open(tls, token)).await {
            Ok(result) => result.map_err(|error| failed(explain(&error))),
            Err(_) => Err(failed(format!("it did not answer within {} s", CONNECT_WITHIN.as_secs()))),
        }
    }

    fn tls(&self, roots: &[u8]) -> Result<TlsConnector, ControlPlaneError> {
        let path = &self.options.roots;
        let unusable = |reason| ControlPlaneError::File { path: path.clone(), what: "control plane's roots", reason };
        let mut store = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots) {
            let root = root.map_err(|error| unusable(error.to_string()))?;
            store.add(root).map_err(|error| unusable(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(unusable("holds no certificate".to_owned()));
        }
        let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    async fn open(&self, tls: TlsConnector, token: Option<HeaderValue>) -> io::Result<Connection> {
        let tcp = TcpStream::connect((&*self.host, self.port)).await?;
        tcp.set_nodelay(true)?;
        let stream = tls.connect(self.name.clone(), tcp).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the server does not speak HTTP/2"));
        }
        let (sender, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(2 * STREAM_WINDOW)
            .keep_alive_interval(ASK_AFTER)
            .keep_alive_timeout(ANSWER_WITHIN)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "the connection to the control plane ended");
            }
        });
        let authority = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        Ok(Connection { sender, authority, token, _driver: Arc::new(Driver(driver)) })
    }
}

impl fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.options.url)
    }
}

/// A connection to a control plane, for gRPC clients. Clones are the same connection, which ends with the last one.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
    authority: String,
    token: Option<HeaderValue>,
    _driver: Arc<Driver>,
}

/// The task that moves a connection's bytes. It ends with the connection, or with its last owner.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTPS).authority(&*self.authority).path_and_query(path).build();
        *request.uri_mut() = uri.expect("the authority was checked to be one, and the path is one");
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        Box::pin(self.sender.send_request(request))
    }
}

async fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, ControlPlaneError> {
    let fail = |reason: String| ControlPlaneError::File { path: path.to_owned(), what, reason };
    let metadata = tokio::fs::metadata(path).await.map_err(|error| fail(error.to_string()))?;
    if metadata.len() > MAX_FILE {
        return Err(fail(format!("is larger than {} KiB", MAX_FILE >> 10)));
    }
    tokio::fs::read(path).await.map_err(|error| fail(error.to_string()))
}

fn bearer(token: &[u8], path: &Path) -> Result<HeaderValue, ControlPlaneError> {
    let token = token.trim_ascii();
    let fail =
        |reason: &str| ControlPlaneError::File { path: path.to_owned(), what: "token", reason: reason.to_owned() };
    if token.is_empty() {
        return Err(fail("is empty"));
    }
    let mut value =
        HeaderValue::try_from([b"Bearer ", token].concat()).map_err(|_| fail("holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What to look at, where the error alone does not say.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{error}: does it run there?"),
        io::ErrorKind::InvalidData => {
            format!(
                "{error}: is the file of its roots the right one, and its certificate for the name that is dialled?"
            )
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control_plane(url: &str) -> Result<ControlPlane, ControlPlaneError> {
        ControlPlane::new(ControlPlaneOptions { url: url.to_owned(), roots: PathBuf::from("/roots"), token: None })
    }

    #[test]
    fn an_address_has_a_host_and_perhaps_a_port() {
        for (url, host, port) in [
            ("https://istiod.istio-system.svc", "istiod.istio-system.svc", 15012),
            ("https://10.0.0.1:15013/", "10.0.0.1", 15013),
            ("https://[fd00::1]:443", "fd00::1", 443),
        ] {
            let found = control_plane(url).expect(url);
            assert_eq!((&*found.host, found.port), (host, port), "{url}");
        }
        for url in ["", "istiod:15012", "http://istiod:15012", "https://istiod/path", "https://", "https://a_b c"] {
            let error = control_plane(url).expect_err(url).to_string();
            assert!(error.contains("write https://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_token_is_one_line_of_text() {
        let path = Path::new("/token");
        let value = bearer(b"abc.def\n", path).expect("a token");
        assert_eq!(value.as_bytes(), b"Bearer abc.def");
        assert!(value.is_sensitive(), "it is not shown in logs");
        for token in [&b" \n"[..], b"a\nb", b"a\x00b"] {
            assert!(bearer(token, path).is_err(), "{token:?}");
        }
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let control_plane = control_plane("https://localhost:1").expect("an address");
        let error = control_plane.connect().await.expect_err("there are no roots").to_string();
        assert!(error.starts_with("the file /roots of the control plane's roots: "), "{error}");
    }
}
