//! Who a workload is on the wire: SPIFFE identities' certificates, the authorities that issue them, and the TLS 1.3
//! sessions of the tunnels.
//!
//! The tunnels' TLS is without I/O: bytes in, bytes out, in the caller's buffers; for those who own streams instead, it is
//! a stream ([`Secured`]). The one socket that this crate opens leads to a control plane ([`ControlPlane`]), where certificates and configuration come from. It knows nothing of
//! tunnels' framing, capture or Kubernetes.
#![forbid(unsafe_code)]

mod authority;
mod bundle;
mod certificates;
mod control_plane;
mod remote;
mod source;
mod tls;

#[cfg(test)]
mod testing;

pub use authority::{AuthorityError, AuthorityMaterial, CertificateAuthority, ServingCertificate};
pub use bundle::{BundleError, TrustBundle};
pub use certificates::{CertificateError, CertificateOptions, CertificateState, CertificateStatus, Certificates};
pub use control_plane::{Connection, ControlPlane, ControlPlaneError, ControlPlaneOptions};
pub use remote::RemoteAuthority;
pub use source::{CertificateSource, Issued, Issuing, SigningRequest, SourceError};
pub use tls::provider as crypto_provider;
pub use tls::{
    Alert, CertificateFault, Content, Handshake, Opened, Opener, OwnCertificateError, Progress, Sealer, Secured,
    Session, TlsError, TlsIdentity,
};
