//! The roots that peers' certificates must chain to.

mod verified;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use thiserror::Error;
use tokio::sync::watch;
use webpki::{CertRevocationList, OwnedCertRevocationList};

pub(crate) use self::verified::{ChainKey, Purpose, VerifiedChains};

/// The trust bundle of the mesh: several roots, so that one can be rotated without an outage, and revocation lists.
///
/// Shared by all TLS configurations; a change applies to the next handshake. A bundle without roots trusts nobody.
#[derive(Debug, Default)]
pub struct TrustBundle {
    published: ArcSwap<Trusted>,
    parts: Mutex<Parts>,
    /// Moves when the roots do.
    moves: watch::Sender<u64>,
}

/// What a handshake verifies against.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    pub(crate) revocation_lists: Arc<[CertRevocationList<'static>]>,
    pub(crate) verified: VerifiedChains,
}

/// Where the published roots came from, so that one origin can be replaced without the others.
#[derive(Debug, Default)]
struct Parts {
    issued: Vec<CertificateDer<'static>>,
    extra: Vec<CertificateDer<'static>>,
    revocation_lists: Arc<[CertRevocationList<'static>]>,
}

/// Why roots or revocation lists were not taken. What was trusted before stays.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The file could not be read as PEM.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The file has none of what it should hold.
    #[error("{path} holds no {what}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A root or a list cannot be used.
    #[error("{origin}: {what} {number} is not usable: {reason}")]
    Unusable {
        /// The file or authority that it came from.
        origin: String,
        /// A root certificate or a revocation list.
        what: &'static str,
        /// Its number in the file, from 1.
        number: usize,
        /// What is wrong.
        reason: webpki::Error,
    },
}

impl TrustBundle {
    /// A bundle of `roots`.
    ///
    /// # Errors
    /// When one of them is not a certificate that can serve as a root.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Arc<Self>, BundleError> {
        let bundle = Self::default();
        bundle.set_issued(roots, "the given roots")?;
        Ok(Arc::new(bundle))
    }

    /// Replaces the roots that the authority named. `origin` names it in errors.
    ///
    /// # Errors
    /// As [`TrustBundle::new`].
    pub fn set_issued(&self, roots: Vec<CertificateDer<'static>>, origin: &str) -> Result<(), BundleError> {
        check_roots(&roots, origin)?;
        self.change(|parts| {
            // An authority names its roots with each certificate. They are most often the same, and then what was
            // verified stays verified.
            let is_news = parts.issued != roots;
            parts.issued = roots;
            is_news
        });
        Ok(())
    }

    /// Replaces the operator's further roots by those of a PEM file's text. `path` is for errors.
    ///
    /// # Errors
    /// When the text holds no certificate, or one that cannot serve as a root.
    pub fn set_extra(&self, pem: &[u8], path: PathBuf) -> Result<(), BundleError> {
        let roots: Vec<CertificateDer<'static>> = read(pem, &path, "certificate")?;
        check_roots(&roots, &path.display().to_string())?;
        self.change(|parts| {
            let is_news = parts.extra != roots;
            parts.extra = roots;
            is_news
        });
        Ok(())
    }

    /// Replaces the certificate revocation lists (RFC 5280, 5) by those of a PEM file's text. `path` is for errors.
    ///
    /// # Errors
    /// When the text holds no list, or one that cannot be read.
    pub fn set_revocation_lists(&self, pem: &[u8], path: PathBuf) -> Result<(), BundleError> {
        let lists: Vec<CertificateRevocationListDer<'static>> = read(pem, &path, "revocation list")?;
        let lists = lists
            .iter()
            .enumerate()
            .map(|(index, list)| {
                OwnedCertRevocationList::from_der(list).map(CertRevocationList::from).map_err(|reason| {
                    BundleError::Unusable {
                        origin: path.display().to_string(),
                        what: "revocation list",
                        number: index + 1,
                        reason,
                    }
                })
            })
            .collect::<Result<Arc<[_]>, _>>()?;
        self.change(|parts| {
            parts.revocation_lists = lists;
            true
        });
        Ok(())
    }

    /// Moves on whenever other roots are trusted than before.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// How many roots are trusted.
    pub fn roots(&self) -> usize {
        self.published.load().anchors.len()
    }

    /// What is trusted now.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Trusted>> {
        self.published.load()
    }

    /// Publishes anew if `change` says that something did.
    fn change(&self, change: impl FnOnce(&mut Parts) -> bool) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut parts) {
            return;
        }
        let mut roots: Vec<&CertificateDer<'static>> = parts.issued.iter().chain(&parts.extra).collect();
        roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        let anchors: Vec<TrustAnchor<'static>> = roots
            .iter()
            .filter_map(|root| webpki::anchor_from_trusted_cert(root).ok())
            .map(|anchor| anchor.to_owned())
            .collect();
        let have_moved = self.published.load().anchors != anchors;
        self.published.store(Arc::new(Trusted {
            anchors,
            revocation_lists: Arc::clone(&parts.revocation_lists),
            verified: VerifiedChains::default(),
        }));
        if have_moved {
            self.moves.send_modify(|moves| *moves += 1);
        }
    }
}

fn read<T: PemObject>(pem: &[u8], path: &Path, what: &'static str) -> Result<Vec<T>, BundleError> {
    let objects = T::pem_slice_iter(pem)
        .collect::<Result<Vec<T>, _>>()
        .map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    if objects.is_empty() {
        return Err(BundleError::Empty { path: path.to_owned(), what });
    }
    Ok(objects)
}

fn check_roots(roots: &[CertificateDer<'_>], origin: &str) -> Result<(), BundleError> {
    for (index, root) in roots.iter().enumerate() {
        webpki::anchor_from_trusted_cert(root).map_err(|reason| BundleError::Unusable {
            origin: origin.to_owned(),
            what: "root certificate",
            number: index + 1,
            reason,
        })?;
    }
    Ok(())
}
