//! Certificates of this node's workloads: requested when first wanted, renewed in time, published to the workers.

mod entry;
mod files;
mod renewal;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use weft_model::Identity;
use weft_runtime::{Clock, Tasks};

use self::entry::Entry;
use crate::bundle::{BundleError, TrustBundle};
use crate::source::CertificateSource;
use crate::tls::TlsIdentity;

/// Settings of [`Certificates`].
#[derive(Debug, Clone)]
pub struct CertificateOptions {
    /// The mesh's trust domain. Clients must be of it, or of an alias. Default `cluster.local`.
    pub trust_domain: String,
    /// Other trust domains that count as the mesh's own. Default none.
    pub trust_domain_aliases: Vec<String>,
    /// How long certificates are asked to be valid. Default 24 hours.
    pub lifetime: Duration,
    /// Requests to the source at one time. Default 8.
    pub concurrency: usize,
    /// A PEM file of further roots to trust, read again when it changes. Default none.
    pub extra_roots: Option<PathBuf>,
    /// A PEM file of certificate revocation lists, read again when it changes. An issuer without a list there revokes
    /// nothing. Default none.
    pub revocation_lists: Option<PathBuf>,
}

impl Default for CertificateOptions {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            lifetime: Duration::from_secs(24 * 3600),
            concurrency: 8,
            extra_roots: None,
            revocation_lists: None,
        }
    }
}

/// The certificates of the identities that this node's workloads have.
///
/// One task asks for them and renews them; workers look them up without locks.
pub struct Certificates {
    source: Arc<dyn CertificateSource>,
    options: CertificateOptions,
    trust_domains: Arc<[String]>,
    clock: Arc<dyn Clock>,
    bundle: Arc<TrustBundle>,
    published: ArcSwap<HashMap<Identity, Arc<TlsIdentity>>>,
    entries: Mutex<HashMap<Identity, Entry>>,
    /// Wakes the task: an identity is wanted that has no certificate.
    wanted: Notify,
    changes: watch::Sender<u64>,
    /// The age of the authority's roots.
    age: Mutex<Age>,
}

/// What a certificate is renewed early for, when it was issued under another one.
#[derive(Debug, Default)]
struct Age {
    /// It grows with each change.
    number: u64,
    /// How often the trusted roots had changed.
    moves: u64,
    /// The name of the root that was last chained to.
    root: Vec<u8>,
}

/// Why there is no certificate.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Nobody wants it, or nobody any more.
    #[error("no workload of {0} is on this node")]
    NotWanted(Identity),
    /// The last attempt to get it failed. Another one follows.
    #[error("there is no certificate of {identity}: {reason}")]
    Failed {
        /// Whose certificate it is.
        identity: Identity,
        /// Why the last attempt failed.
        reason: String,
    },
}

/// One identity's certificate, as an operator sees it.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// Whose certificate it is.
    pub identity: Identity,
    /// Where it stands.
    pub state: CertificateState,
    /// Its serial number in lower-case hexadecimal; empty when there is none.
    pub serial: String,
    /// Start of its validity.
    pub not_before: Option<SystemTime>,
    /// End of its validity.
    pub not_after: Option<SystemTime>,
    /// When it is asked for next; `None` while it is being asked for.
    pub next_attempt: Option<SystemTime>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
    /// Workloads that want it.
    pub users: usize,
}

/// Where a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateState {
    /// Asked for, and not there yet.
    Pending,
    /// Valid.
    Ready,
    /// Valid, but the last attempt to renew it failed.
    RenewalFailing,
    /// Not there, and the last attempt failed.
    Failing,
    /// Not renewed in time, and not used any more.
    Expired,
}

impl CertificateState {
    /// The state in words, lower-case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::RenewalFailing => "renewal failing",
            Self::Failing => "failing",
            Self::Expired => "expired",
        }
    }
}

impl Certificates {
    /// Starts the task, owned by `tasks`, that asks `source` for certificates. Must be called from within a tokio
    /// runtime. Blocks on the disk when further roots or revocation lists are configured.
    ///
    /// # Errors
    /// When the file of further roots or of revocation lists cannot be used.
    pub fn start(
        source: Arc<dyn CertificateSource>,
        options: CertificateOptions,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, BundleError> {
        let bundle = Arc::new(TrustBundle::default());
        let files = files::Watched::load(&options, &bundle)?;
        let mut trust_domains = vec![options.trust_domain.clone()];
        trust_domains.extend_from_slice(&options.trust_domain_aliases);
        let certificates = Arc::new(Self {
            source,
            options,
            trust_domains: trust_domains.into(),
            clock,
            bundle,
            published: ArcSwap::default(),
            entries: Mutex::default(),
            wanted: Notify::new(),
            changes: watch::Sender::new(0),
            age: Mutex::default(),
        });
        let renewal = renewal::run(Arc::clone(&certificates), tasks.shutdown());
        tasks.spawn("certificates", renewal);
        if let Some(files) = files {
            let reload = files::reload(files, Arc::clone(&certificates.bundle), tasks.shutdown());
            tasks.spawn("trust-files", reload);
        }
        Ok(certificates)
    }

    /// A workload of `identity` is here. Counted: each call is undone by one [`Certificates::release`].
    pub fn want(&self, identity: &Identity) {
        let mut entries = self.entries();
        let entry = entries.entry(identity.clone()).or_insert_with(|| Entry::new(self.clock.now()));
        entry.users += 1;
        if entry.users == 1 {
            self.wanted.notify_one();
        }
    }

    /// A workload of `identity` is gone. With its last one the certificate and its key are forgotten.
    pub fn release(&self, identity: &Identity) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(identity) else {
            return;
        };
        entry.users -= 1;
        if entry.users == 0 {
            entries.remove(identity);
            self.publish(&entries);
        }
    }

    /// Asks within a second for those whose last attempt failed: the source is there again.
    pub fn retry(&self) {
        let now = self.clock.now();
        for entry in self.entries().values_mut() {
            entry.retry(now);
        }
        self.wanted.notify_one();
    }

    /// Moves on with [`Certificates::changes`].
    pub fn generation(&self) -> u64 {
        *self.changes.borrow()
    }

    /// The valid certificate of `identity`. Takes no lock. `None`: not wanted, not there yet, or expired.
    pub fn current(&self, identity: &Identity) -> Option<Arc<TlsIdentity>> {
        let published = self.published.load();
        let tls = published.get(identity)?;
        // The task withdraws what has expired, but it may be late.
        (self.clock.now() <= tls.not_after()).then(|| Arc::clone(tls))
    }

    /// Waits until `identity` has a valid certificate. Cancel-safe.
    ///
    /// # Errors
    /// When nobody wants it, or the last attempt failed and none is under way that could be waited for.
    pub async fn ready(&self, identity: &Identity) -> Result<Arc<TlsIdentity>, CertificateError> {
        // Subscribed before looking, so that no change is missed between looking and waiting.
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if let Some(tls) = self.current(identity) {
                return Ok(tls);
            }
            match self.entries().get(identity) {
                None => return Err(CertificateError::NotWanted(identity.clone())),
                Some(entry) => {
                    if let Some(reason) = entry.last_error() {
                        return Err(CertificateError::Failed { identity: identity.clone(), reason: reason.to_owned() });
                    }
                }
            }
            // The sender is a field of `self`: it cannot be gone.
            let _ = changes.changed().await;
        }
    }

    /// All certificates, in the order of their identities.
    pub fn list(&self) -> Vec<CertificateStatus> {
        let now = self.clock.now();
        let mut list: Vec<_> = self.entries().iter().map(|(identity, entry)| entry.status(identity, now)).collect();
        list.sort_by(|a, b| a.identity.cmp(&b.identity));
        list
    }

    /// Moves on whenever a certificate was issued, failed, expired or was forgotten.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What peers are verified against.
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// Where certificates come from, in words.
    pub fn source(&self) -> String {
        self.source.describe()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Identity, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the workers what is valid, and tells whoever waits.
    fn publish(&self, entries: &HashMap<Identity, Entry>) {
        let now = self.clock.now();
        let valid =
            entries.iter().filter_map(|(identity, entry)| Some((identity.clone(), entry.valid(now)?))).collect();
        self.published.store(Arc::new(valid));
        self.changes.send_modify(|generation| *generation += 1);
    }
}
