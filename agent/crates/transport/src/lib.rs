//! Who a workload is on the wire: SPIFFE identities' certificates, the authorities that issue them, and the TLS 1.3
//! sessions of the tunnels.
//!
//! TLS is without I/O: bytes in, bytes out, in the caller's buffers. This crate opens no socket, and knows nothing of
//! HTTP/2, capture or Kubernetes.
#![forbid(unsafe_code)]

mod authority;
mod bundle;
mod certificates;
mod source;
mod tls;

#[cfg(test)]
mod testing;

pub use authority::{AuthorityError, CertificateAuthority};
pub use bundle::{BundleError, TrustBundle};
pub use certificates::{CertificateError, CertificateOptions, CertificateState, CertificateStatus, Certificates};
pub use source::{CertificateSource, Issued, Issuing, SigningRequest, SourceError};
pub use tls::{
    Alert, CertificateFault, Content, Handshake, Opened, Opener, OwnCertificateError, Progress, Sealer, Session,
    TlsError, TlsIdentity,
};
