//! The task that asks for certificates.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinSet;
use webpki::EndEntityCert;
use weft_model::Identity;
use weft_runtime::Shutdown;
use zeroize::Zeroizing;

use super::Certificates;
use crate::authority::workload_params;
use crate::bundle::TrustBundle;
use crate::source::{Issued, SigningRequest};
use crate::tls::{self, TlsIdentity};

/// How long a source may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The date is looked at this often at least: while a machine sleeps, the date moves on and timers do not.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What was issued.
struct Obtained {
    tls: Arc<TlsIdentity>,
    /// The name of the root that it chains to.
    root: Vec<u8>,
}

/// An answer, and for whom it is.
struct Answer {
    identity: Identity,
    id: u64,
    result: Result<Obtained, String>,
}

/// Asks, renews and withdraws until told to end.
pub(super) async fn run(certificates: Arc<Certificates>, mut shutdown: Shutdown) {
    let mut under_way = JoinSet::new();
    let mut moves = certificates.bundle.moves();
    loop {
        let pause = certificates.ask_for_due(&mut under_way);
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            Some(answer) = under_way.join_next() => match answer {
                Ok(answer) => certificates.take(answer),
                // A panic in a source; its entry stays under way, which `list` shows.
                Err(error) => tracing::error!(%error, "a request for a certificate failed unexpectedly"),
            },
            () = certificates.wanted.notified() => {}
            // The bundle is the certificates' own: it does not end before them.
            Ok(()) = moves.changed() => certificates.hasten(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Certificates {
    /// Starts the requests that are due, as many as may run at once, and returns how long there is nothing to do.
    fn ask_for_due(self: &Arc<Self>, under_way: &mut JoinSet<Answer>) -> Duration {
        let now = self.clock.now();
        let mut entries = self.entries();
        let mut expired = false;
        for (identity, entry) in entries.iter_mut() {
            if entry.withdraw(now) {
                expired = true;
                tracing::warn!(
                    %identity,
                    error = entry.last_error().unwrap_or("none"),
                    "the certificate has expired and could not be renewed: its workloads are cut off from the mesh"
                );
            }
        }
        if expired {
            self.publish(&entries);
        }
        let mut due: Vec<(SystemTime, Identity)> =
            entries.iter().filter_map(|(identity, entry)| Some((entry.urgency(now)?, identity.clone()))).collect();
        due.sort();
        let free = self.options.concurrency.max(1).saturating_sub(under_way.len());
        for (_, identity) in due.into_iter().take(free) {
            let Some(entry) = entries.get_mut(&identity) else {
                continue;
            };
            entry.asked();
            let (certificates, id) = (Arc::clone(self), entry.id);
            under_way.spawn(async move {
                let result = match tokio::time::timeout(ANSWER_WITHIN, certificates.obtain(&identity)).await {
                    Ok(result) => result,
                    Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
                };
                Answer { identity, id, result }
            });
        }
        if under_way.len() >= self.options.concurrency.max(1) {
            // Whatever else is due has to wait for an answer anyway.
            return LOOK_EVERY;
        }
        let next = entries.values().filter_map(|entry| entry.due()).min();
        next.map_or(LOOK_EVERY, |time| time.duration_since(now).unwrap_or_default().min(LOOK_EVERY))
    }

    /// Makes a key, has it certified, and checks the answer.
    async fn obtain(&self, identity: &Identity) -> Result<Obtained, String> {
        let key = Zeroizing::new(KeyPair::generate().map_err(|error| format!("making a key: {error}"))?);
        let request = workload_params(identity)
            .map_err(|error| error.to_string())?
            .serialize_request(&*key)
            .map_err(|error| format!("making a signing request: {error}"))?;
        let request = SigningRequest {
            identity: identity.clone(),
            request: request.der().clone(),
            lifetime: self.options.lifetime,
        };
        let issued =
            self.source.issue(&request).await.map_err(|error| format!("{}: {error}", self.source.describe()))?;
        self.adopt(&issued)?;
        let last = issued.chain.last().and_then(|last| EndEntityCert::try_from(last).ok());
        let root = last.map(|last| last.issuer().to_vec()).unwrap_or_default();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialized_der()));
        TlsIdentity::new(identity, issued.chain, &der, Arc::clone(&self.bundle), Arc::clone(&self.trust_domains))
            .map(|tls| Obtained { tls, root })
            .map_err(|error| error.to_string())
    }

    /// Trusts the roots that came with a certificate, if peers that trust them will accept it: what they would refuse
    /// must not replace what they accept.
    fn adopt(&self, issued: &Issued) -> Result<(), String> {
        let fault = |fault| format!("the certificate that was issued would be refused by peers: {fault}");
        if issued.roots.is_empty() {
            return tls::verify_chain(&self.bundle, &issued.chain, self.clock.now()).map_err(fault);
        }
        let named = TrustBundle::new(issued.roots.clone()).map_err(|error| error.to_string())?;
        tls::verify_chain(&named, &issued.chain, self.clock.now()).map_err(fault)?;
        self.bundle.set_issued(issued.roots.clone(), &self.source.describe()).map_err(|error| error.to_string())
    }

    fn take(&self, Answer { identity, id, result }: Answer) {
        let now = self.clock.now();
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&identity).filter(|entry| entry.id == id) else {
            return;
        };
        match result {
            Ok(Obtained { tls, root }) => {
                tracing::debug!(%identity, serial = tls.serial(), "certificate issued");
                let age = self.grow_older(Some(&root));
                entry.issued(tls, age, now);
            }
            Err(reason) => {
                let has_one = entry.valid(now).is_some();
                let pause = entry.failed(reason.clone(), now);
                tracing::warn!(
                    %identity,
                    error = reason,
                    again_in = ?pause,
                    "{}",
                    if has_one { "renewing a certificate failed; the old one is kept" } else { "getting a certificate failed" }
                );
            }
        }
        self.publish(&entries);
        drop(entries);
        self.hasten();
    }

    /// The age of the roots, which grows when others are trusted, or when what is issued chains to another `root`.
    fn grow_older(&self, root: Option<&[u8]>) -> u64 {
        let moves = *self.bundle.moves().borrow();
        let mut age = self.age.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = root.is_some_and(|root| age.root != root);
        if is_other || age.moves != moves {
            age.number += 1;
            age.moves = moves;
            if let Some(root) = root {
                age.root = root.to_vec();
            }
        }
        age.number
    }

    /// Has certificates renewed soon that were issued before the authority's root changed: peers may cease to trust it.
    fn hasten(&self) {
        let age = self.grow_older(None);
        let now = self.clock.now();
        let hastened = self.entries().values_mut().filter_map(|entry| entry.hasten(age, now).then_some(())).count();
        if hastened > 0 {
            tracing::info!(certificates = hastened, "the authority's root has changed: renewing what it signed before");
        }
    }
}
