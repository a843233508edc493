//! An identity's certificate and key, and the TLS configurations made of them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weft_model::Identity;

use super::error::{CertificateFault, OwnCertificateError, TlsError};
use super::handshake::Handshake;
use super::leaf::Leaf;
use super::provider::provider;
use super::verify::{Clients, Server};
use crate::bundle::TrustBundle;

/// The only application protocol: HTTP/2 (RFC 9113, 3.1).
pub(super) const ALPN: &[u8] = b"h2";

/// An identity with its certificate and key, ready for handshakes.
///
/// There is one per certificate, shared by all its connections.
pub struct TlsIdentity {
    leaf: Leaf,
    client: ClientConfig,
    server: Arc<ServerConfig>,
    bundle: Arc<TrustBundle>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Makes the TLS configurations of `identity`. `chain` has its certificate first; peers are verified against
    /// `bundle`, and clients must be of one of `trust_domains`.
    ///
    /// # Errors
    /// When the certificate is not `identity`'s, or the key does not belong to it.
    pub fn new(
        identity: &Identity,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
        bundle: Arc<TrustBundle>,
        trust_domains: Arc<[String]>,
    ) -> Result<Arc<Self>, OwnCertificateError> {
        let unusable = |fault| OwnCertificateError::Certificate { identity: identity.clone(), fault };
        let bad_key = |reason| OwnCertificateError::Key { identity: identity.clone(), reason };
        let first = chain.first().ok_or_else(|| unusable(CertificateFault::Malformed("the chain is empty".into())))?;
        let leaf = Leaf::read(first).map_err(unusable)?;
        if leaf.identity != *identity {
            return Err(unusable(CertificateFault::WrongIdentity {
                presented: leaf.identity,
                expected: Arc::new([identity.clone()]),
            }));
        }
        let certified = CertifiedKey::new(chain, any_supported_type(key).map_err(bad_key)?);
        certified.keys_match().map_err(bad_key)?;
        Self::assemble(leaf, certified, bundle, trust_domains).map_err(bad_key)
    }

    /// Makes the configurations of a certificate that says what `leaf` says.
    pub(super) fn assemble(
        leaf: Leaf,
        certified: CertifiedKey,
        bundle: Arc<TrustBundle>,
        trust_domains: Arc<[String]>,
    ) -> Result<Arc<Self>, rustls::Error> {
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        // The list of expected identities differs by connection; `connect` puts it in.
        let nobody = Server { bundle: Arc::clone(&bundle), expected: Arc::new([]) };
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_client_cert_resolver(resolver.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        let clients = Clients { bundle: Arc::clone(&bundle), trust_domains };
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(clients))
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        Ok(Arc::new(Self { leaf, client, server: Arc::new(server), bundle }))
    }

    /// Starts a client's handshake. The server must prove one of `expected`: the workload that is dialled, or another
    /// name of its service (secure naming).
    ///
    /// # Errors
    /// When nothing is expected, or our certificate has expired.
    pub fn connect(&self, expected: Vec<Identity>) -> Result<Handshake, TlsError> {
        Handshake::client(self.client_config(expected)?)
    }

    /// The configuration of a client whose server must prove one of `expected`.
    pub(super) fn client_config(&self, expected: Vec<Identity>) -> Result<Arc<ClientConfig>, TlsError> {
        if expected.is_empty() {
            return Err(TlsError::NothingExpected);
        }
        self.check_validity()?;
        let mut config = self.client.clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Server { bundle: Arc::clone(&self.bundle), expected: expected.into() }));
        Ok(Arc::new(config))
    }

    /// Starts a server's handshake.
    ///
    /// # Errors
    /// When our certificate has expired.
    pub fn accept(&self) -> Result<Handshake, TlsError> {
        Handshake::server(self.server_config()?)
    }

    /// The configuration of a server.
    pub(super) fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.check_validity()?;
        Ok(Arc::clone(&self.server))
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.leaf.identity
    }

    /// The certificate's serial number in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// Start of the certificate's validity.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// End of the certificate's validity.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    fn check_validity(&self) -> Result<(), TlsError> {
        if SystemTime::now() > self.leaf.not_after {
            return Err(TlsError::OwnCertificateExpired(self.leaf.identity.clone()));
        }
        Ok(())
    }
}
