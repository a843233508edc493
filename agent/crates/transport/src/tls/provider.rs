//! The cryptography that is offered and accepted.

use std::sync::{Arc, LazyLock};

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};

/// aws-lc, narrowed to what the tunnels use.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        // A server takes the first that the client offers. Both are strong enough; the first one makes a handshake
        // cheaper by an eighth, since processors have instructions for SHA-256 and most have none for SHA-384, and a
        // record by a tenth. The second is for peers that insist on it.
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384],
        // The first one is hybrid: what is recorded today stays secret from a quantum computer of tomorrow.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The cryptography of every connection that is made or accepted.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Algorithms of certificates' signatures: all that the library has, since another authority's root may be RSA.
pub(super) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}
