//! TLS 1.3 of the tunnels (RFC 8446), without I/O.
//!
//! rustls negotiates, in [`Handshake`]; the traffic keys are then taken out and the records are sealed and opened
//! here, in place in the caller's buffers, by [`Sealer`] and [`Opener`]. What rustls would otherwise have done with
//! these keys is owed here: updating them in time, and answering when the peer updates its own.

mod alert;
mod error;
mod handshake;
mod identity;
mod keys;
mod leaf;
mod open;
mod provider;
mod seal;
mod stream;
mod verify;

#[cfg(test)]
mod tests;

pub use alert::Alert;
pub use error::{CertificateFault, OwnCertificateError, TlsError};
pub use handshake::{Handshake, Progress, Session};
pub use identity::TlsIdentity;
pub use open::{Content, Opened, Opener};
pub use provider::provider;
pub use seal::Sealer;
pub use stream::Secured;
pub(crate) use verify::verify_chain;

/// Bytes of a record before its protected content: type, version, length (RFC 8446, 5.2).
const RECORD_HEADER: usize = 5;
/// Longest content of a record (5.1).
const MAX_CONTENT: usize = 1 << 14;
/// Longest protected content: the plaintext, its type and padding, and the tag (5.2).
const MAX_CIPHERTEXT: usize = MAX_CONTENT + 256;
/// Length of the tag of both AES-GCM suites (RFC 5116, 5.1).
const TAG: usize = 16;

/// Content types (5.1).
mod content_type {
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const APPLICATION_DATA: u8 = 23;
}

/// Types of the handshake messages that follow a handshake (4.6).
mod handshake_type {
    pub(super) const NEW_SESSION_TICKET: u8 = 4;
    pub(super) const KEY_UPDATE: u8 = 24;
}
