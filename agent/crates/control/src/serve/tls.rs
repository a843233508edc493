//! The server's own certificate, from the authority that it serves, renewed at half life.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto::CryptoProvider};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use weft_runtime::{Clock, Shutdown, Tasks};
use weft_transport::{CertificateAuthority, crypto_provider};

use super::signing::Signing;

/// How long the certificate is valid.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);

/// What the server proves itself by.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
}

/// Why there is no certificate to serve with.
#[derive(Debug, Error)]
#[error("the server's own certificate for {names}: {reason}")]
pub struct ServerTlsError {
    names: String,
    reason: String,
}

/// The certificate in use.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServerTls {
    /// A certificate of the authority that signs for the names that clients dial. A task of `tasks` renews it at half
    /// life, and when another authority signs. Must be called from within a tokio runtime.
    ///
    /// # Errors
    /// When there is no authority yet, or it cannot issue it.
    pub fn start(
        signing: Signing,
        names: Vec<String>,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Self, ServerTlsError> {
        let provider = crypto_provider();
        let authority = signing.current().map_err(|reason| ServerTlsError { names: names.join(", "), reason })?;
        let (certified, not_after) = issue(&authority, &names, &provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(certified)));
        let fail = |error: rustls::Error| ServerTlsError { names: names.join(", "), reason: error.to_string() };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(fail)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Agents connect rarely: resumption would cost memory for nothing.
        config.send_tls13_tickets = 0;
        let renewal = Renewal { signing, authority, names, provider, current, clock };
        tasks.spawn("server-certificate", renewal.run(not_after, tasks.shutdown()));
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

struct Renewal {
    signing: Signing,
    /// The one that issued the certificate in use.
    authority: Arc<CertificateAuthority>,
    names: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    clock: Arc<dyn Clock>,
}

impl Renewal {
    async fn run(mut self, mut not_after: SystemTime, mut shutdown: Shutdown) {
        let mut has_failed = false;
        loop {
            let left = not_after.duration_since(self.clock.now()).unwrap_or_default();
            let pause = if has_failed { RETRY } else { (left / 2).max(RETRY) };
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.signing.differs_from(Some(&self.authority)) => {}
            }
            // There was one: it is only ever replaced by another.
            let Ok(authority) = self.signing.current() else { continue };
            let issued = issue(&authority, &self.names, &self.provider);
            self.authority = authority;
            has_failed = issued.is_err();
            match issued {
                Ok((certified, until)) => {
                    not_after = until;
                    self.current.0.store(Arc::new(certified));
                }
                Err(error) => tracing::warn!(%error, "renewing failed; the old one is kept"),
            }
        }
    }
}

fn issue(
    authority: &CertificateAuthority,
    names: &[String],
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, SystemTime), ServerTlsError> {
    let fail = |reason: String| ServerTlsError { names: names.join(", "), reason };
    let issued = authority.serving_certificate(names, LIFETIME).map_err(|error| fail(error.to_string()))?;
    let certified =
        CertifiedKey::from_der(issued.chain, issued.key, provider).map_err(|error| fail(error.to_string()))?;
    Ok((certified, issued.not_after))
}
