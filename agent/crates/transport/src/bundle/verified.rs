//! Chains that were verified before.
//!
//! The workloads of one identity on one node share a certificate, and their tunnels come and go: most handshakes
//! show a chain that was verified a moment ago. Verifying it again costs an eighth of the handshake on each side, and
//! can only give the same answer: it depends on the chain's bytes, the purpose, the roots, the revocation lists and the
//! date. The first two are the key here, a change of the next two begins with an empty memory, and the date is compared.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::CertificateDer;
use weft_model::Identity;

/// Chains remembered at most; only certificates of trusted authorities get here. A full memory is emptied.
const MOST: usize = 4096;

/// Chains that were verified against one set of roots and revocation lists.
#[derive(Debug, Default)]
pub(crate) struct VerifiedChains {
    chains: Mutex<HashMap<ChainKey, Verified>>,
}

/// What tells chains apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ChainKey([u8; 32]);

#[derive(Debug)]
struct Verified {
    identity: Identity,
    /// Within these dates all certificates of the chain are valid.
    not_before: SystemTime,
    not_after: SystemTime,
}

impl ChainKey {
    /// The key of a chain that is verified for one purpose.
    pub(crate) fn new(purpose: Purpose, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let mut digest = Context::new(&SHA256);
        digest.update(&[purpose as u8]);
        for certificate in std::iter::once(leaf).chain(intermediates) {
            // With their lengths, so that no two chains read the same.
            digest.update(&certificate.len().to_be_bytes());
            digest.update(certificate);
        }
        Self(digest.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// By a client to a server.
    Client,
    /// By a server to a client.
    Server,
}

impl VerifiedChains {
    /// The identity that the chain proves, if it was verified before and is valid at `now`.
    pub(crate) fn find(&self, key: &ChainKey, now: SystemTime) -> Option<Identity> {
        let chains = self.chains();
        let verified = chains.get(key)?;
        (verified.not_before <= now && now <= verified.not_after).then(|| verified.identity.clone())
    }

    /// Remembers a chain that was verified, all of whose certificates are valid from `not_before` to `not_after`.
    pub(crate) fn remember(&self, key: ChainKey, identity: Identity, not_before: SystemTime, not_after: SystemTime) {
        let mut chains = self.chains();
        if chains.len() >= MOST {
            chains.clear();
        }
        chains.insert(key, Verified { identity, not_before, not_after });
    }

    fn chains(&self) -> MutexGuard<'_, HashMap<ChainKey, Verified>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
