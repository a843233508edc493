//! Where certificates come from: the embedded authority, or one elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use thiserror::Error;
use weft_model::Identity;

/// Signs certificates for the identities of this node's workloads.
///
/// Private keys are made here and stay here: an authority sees the signing request only.
pub trait CertificateSource: Send + Sync {
    /// Issues a certificate for `request`. Called for several identities at once; the caller limits the time, and
    /// tries again with back-off.
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> Issuing<'a>;

    /// What the source is, for logs and status, such as `embedded authority in /var/lib/weft/ca`.
    fn describe(&self) -> String;
}

/// The future that [`CertificateSource::issue`] returns.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Issued, SourceError>> + Send + 'a>>;

/// What a source is asked to sign.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    /// The identity that the certificate shall carry.
    pub identity: Identity,
    /// The request (PKCS #10, RFC 2986), signed with the key in it, with the identity as its only alternative name.
    pub request: CertificateSigningRequestDer<'static>,
    /// How long the certificate should be valid. A source may grant less.
    pub lifetime: Duration,
}

/// What a source answers.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, then its intermediates, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots to trust from now on, in place of those that this source named before. None: they stay.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why a source did not issue.
#[derive(Debug, Clone, Error)]
pub enum SourceError {
    /// It will not sign this.
    #[error("{0}")]
    Refused(String),
    /// It could not be reached, or could not sign.
    #[error("{0}")]
    Failed(String),
}
