//! What can go wrong in a session, in words for the access log.

use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;
use weft_model::Identity;

use super::alert::Alert;

/// Why a handshake or a session failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer's certificate was refused.
    #[error("the peer's certificate is refused: {0}")]
    Certificate(#[source] CertificateFault),
    /// The peer presented no certificate.
    #[error("the peer presented no certificate: it is not part of the mesh")]
    NoCertificate,
    /// The peer did not agree on HTTP/2.
    #[error("the peer does not speak the application protocol h2")]
    NoApplicationProtocol,
    /// The peer ended the session.
    #[error("the peer ended the session with the TLS alert {0}")]
    PeerAlert(Alert),
    /// The peer broke the protocol, or has nothing in common with us.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] rustls::Error),
    /// A record failed authentication.
    #[error("a TLS record was tampered with, or is out of order")]
    BadRecord,
    /// The peer broke the protocol in an established session.
    #[error("TLS: {reason}")]
    Protocol {
        /// The alert that answers it.
        alert: Alert,
        /// What it did.
        reason: &'static str,
    },
    /// The connection below failed, in a handshake over a stream.
    #[error("the connection failed in the TLS handshake: {0}")]
    Network(std::io::ErrorKind),
    /// Our own certificate expired.
    #[error("our own certificate, of {0}, has expired and was not renewed")]
    OwnCertificateExpired(Identity),
    /// A client must say whom it expects.
    #[error("no identity is known that the peer could prove")]
    NothingExpected,
    /// Sealing was asked for what cannot be sealed: a mistake of the caller.
    #[error("TLS: {0}")]
    Misuse(&'static str),
    /// The cryptographic library failed.
    #[error("TLS: {0}")]
    Internal(#[source] rustls::Error),
}

impl TlsError {
    pub(super) fn unexpected(reason: &'static str) -> Self {
        Self::Protocol { alert: Alert::UNEXPECTED_MESSAGE, reason }
    }

    /// The alert that tells the peer, when it has not been told yet. Errors of [`super::Handshake::advance`] have
    /// been told.
    pub fn alert(&self) -> Option<Alert> {
        match self {
            Self::BadRecord => Some(Alert::BAD_RECORD_MAC),
            Self::Protocol { alert, .. } => Some(*alert),
            Self::NoApplicationProtocol => Some(Alert::NO_APPLICATION_PROTOCOL),
            Self::Internal(_) => Some(Alert::INTERNAL_ERROR),
            // rustls has answered these, no answer is due to an alert, and the rest never reached a peer.
            Self::Certificate(_)
            | Self::NoCertificate
            | Self::PeerAlert(_)
            | Self::Handshake(_)
            | Self::Network(_)
            | Self::OwnCertificateExpired(_)
            | Self::NothingExpected
            | Self::Misuse(_) => None,
        }
    }

    /// Whether the peer is to blame, rather than this node.
    pub fn is_peers_fault(&self) -> bool {
        !matches!(self, Self::OwnCertificateExpired(_) | Self::NothingExpected | Self::Misuse(_) | Self::Internal(_))
    }

    /// Reads what rustls says; what our verifier said to it comes out again as it was.
    pub(super) fn from_handshake(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::PeerAlert(Alert(alert.into())),
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::NoApplicationProtocol => Self::NoApplicationProtocol,
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                match other.0.downcast_ref::<CertificateFault>() {
                    Some(fault) => Self::Certificate(fault.clone()),
                    None => Self::Handshake(rustls::CertificateError::Other(other).into()),
                }
            }
            other => Self::Handshake(other),
        }
    }
}

/// What is wrong with a peer's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateFault {
    /// It is not a certificate, or one of a kind that is not used here.
    #[error("it cannot be read ({0})")]
    Malformed(String),
    /// It does not chain to a trusted root, or may not be used like this.
    #[error("it does not chain to a root that is trusted here ({0})")]
    Chain(String),
    /// It is not valid any more.
    #[error("it expired {}", Ago(*.not_after))]
    Expired {
        /// When it ended.
        not_after: SystemTime,
    },
    /// It is not valid yet.
    #[error("it is not valid yet: do the clocks of the nodes agree?")]
    NotYetValid {
        /// When it begins.
        not_before: SystemTime,
    },
    /// It is on a revocation list.
    #[error("it has been revoked")]
    Revoked,
    /// A certificate names one workload: exactly one URI as its subject alternative name.
    #[error("it carries {count} URI names ({names}) where exactly one is required")]
    UriNames {
        /// How many it carries.
        count: usize,
        /// The first few of them.
        names: String,
    },
    /// Its URI is not a workload's identity.
    #[error("{0}")]
    NotAnIdentity(String),
    /// It is another workload's than the one that was dialled.
    #[error("it proves {presented}, but {} was expected", any_of(.expected))]
    WrongIdentity {
        /// The identity that it proves.
        presented: Identity,
        /// The identities that would have been accepted.
        expected: Arc<[Identity]>,
    },
    /// It is of a trust domain that is neither the mesh's nor an alias.
    #[error("{presented} is of another trust domain than {}", .accepted.join(", "))]
    OtherTrustDomain {
        /// The identity that it proves.
        presented: Identity,
        /// The trust domains that are accepted.
        accepted: Arc<[String]>,
    },
}

/// Why a certificate cannot be used as one's own.
#[derive(Debug, Clone, Error)]
pub enum OwnCertificateError {
    /// The certificate itself is not usable.
    #[error("the certificate issued for {identity} is not usable: {fault}")]
    Certificate {
        /// For whom it was issued.
        identity: Identity,
        /// What is wrong.
        #[source]
        fault: CertificateFault,
    },
    /// The key does not fit.
    #[error("the key of the certificate issued for {identity} is not usable: {reason}")]
    Key {
        /// For whom the certificate was issued.
        identity: Identity,
        /// What is wrong.
        #[source]
        reason: rustls::Error,
    },
}

fn any_of(identities: &[Identity]) -> String {
    let names: Vec<String> = identities.iter().map(ToString::to_string).collect();
    names.join(" or ")
}

/// Displays how long ago a time was, in the unit that fits.
struct Ago(SystemTime);

impl std::fmt::Display for Ago {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.elapsed().unwrap_or_default().as_secs();
        match seconds {
            0..120 => write!(f, "{seconds} seconds ago"),
            120..7200 => write!(f, "{} minutes ago", seconds / 60),
            7200..172_800 => write!(f, "{} hours ago", seconds / 3600),
            _ => write!(f, "{} days ago", seconds / 86_400),
        }
    }
}
