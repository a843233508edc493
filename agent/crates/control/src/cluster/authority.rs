//! The certificate authority of a cluster: one root for all controllers, in a Secret.
//!
//! The operator's own is the Secret `cacerts`, laid out as Istio's: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`,
//! `cert-chain.pem`. Where there is none it is `weft-ca`, which the first controller makes; of several that start at once
//! one succeeds, and the others take what it made. The key is in the Secret and in memory, nowhere else.
//!
//! Both are watched. A change counts at once if it makes an authority, and else what was known signs on.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};
use weft_runtime::{Backoff, Clock, Shutdown, Tasks};
use weft_transport::{AuthorityMaterial, CertificateAuthority};
use zeroize::Zeroizing;

use super::answered;
use crate::serve::{Signing, SigningState};
use crate::source::kubernetes::{Retries, code};

/// The operator's own.
const GIVEN: &str = "cacerts";
/// The one that controllers make.
const MADE: &str = "weft-ca";
/// How often, at first and at last, making one is tried again.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Things that are wrong at one time, and are not said again.
const MOST_SAID: usize = 16;

/// Follows the Secrets of `namespace`, in a task of `tasks`, and makes the root where there is none.
#[must_use]
pub fn follow(client: &Client, namespace: &str, trust_domain: &str, clock: Arc<dyn Clock>, tasks: &Tasks) -> Signing {
    let (sender, signing) = Signing::watched();
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), namespace),
        namespace: namespace.to_owned(),
        trust_domain: trust_domain.to_owned(),
        clock,
        sender,
        given: Seen::Unknown,
        made: Seen::Unknown,
        backoff: Backoff::new(RETRIES.0, RETRIES.1),
        again: None,
        said: HashSet::new(),
    };
    tasks.spawn("certificate-authority", keeper.run(tasks.shutdown()));
    signing
}

/// What is known of one of the Secrets.
enum Seen {
    /// Nothing yet.
    Unknown,
    Absent,
    /// It is there, and this is what its content makes.
    There {
        content: Content,
        makes: Result<Arc<CertificateAuthority>, String>,
    },
}

/// What tells the content of one version of a Secret from that of another.
type Content = Option<[u8; 32]>;

struct Keeper {
    secrets: Api<Secret>,
    namespace: String,
    trust_domain: String,
    clock: Arc<dyn Clock>,
    sender: watch::Sender<SigningState>,
    given: Seen,
    made: Seen,
    backoff: Backoff,
    /// When making a root is tried again.
    again: Option<Instant>,
    /// What is wrong and was said in the log.
    said: HashSet<String>,
}

impl Keeper {
    async fn run(mut self, mut shutdown: Shutdown) {
        let mut given = pin!(watch(self.secrets.clone(), GIVEN));
        let mut made = pin!(watch(self.secrets.clone(), MADE));
        loop {
            let again = self.again;
            let is_time = async {
                match again {
                    Some(time) => tokio::time::sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            let is_news = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                Some(news) = given.next() => self.note(GIVEN, news),
                Some(news) = made.next() => self.note(MADE, news),
                () = is_time => true,
            };
            if !is_news {
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = self.decide() => {}
            }
        }
    }

    /// Takes in what a watch says. Returns whether it is anything to decide about.
    fn note(&mut self, name: &str, news: Result<Option<Secret>, watcher::Error>) -> bool {
        let seen = match news {
            Ok(None) => Seen::Absent,
            Ok(Some(secret)) => self.read(name, secret),
            Err(error) => {
                // What was seen stays.
                let hint = match code(&error) {
                    Some(403) => "its Role must allow get, list and watch of this Secret",
                    _ => "trying again",
                };
                let reason = format!("watching the Secret {}/{name} failed ({error}): {hint}", self.namespace);
                if !self.has_authority() {
                    self.complain(reason);
                } else if self.is_unsaid(&reason) {
                    // An API server that is away for a while is nothing wrong with the authority.
                    tracing::warn!(reason, "the authority that is known signs on");
                }
                return false;
            }
        };
        match name {
            GIVEN => self.given = seen,
            _ => self.made = seen,
        }
        true
    }

    fn has_authority(&self) -> bool {
        self.sender.borrow().authority.is_some()
    }

    /// What is seen of a Secret that is there. Each new list names it again, and labels may change: what has the same
    /// content is the same authority.
    fn read(&self, name: &str, secret: Secret) -> Seen {
        let data = secret.data.unwrap_or_default();
        let content = digest_of(&data);
        let before = if name == GIVEN { &self.given } else { &self.made };
        let makes = match before {
            Seen::There { content: known, makes: Ok(authority) } if content.is_some() && *known == content => {
                Ok(Arc::clone(authority))
            }
            _ => self.authority(name, data),
        };
        Seen::There { content, makes }
    }

    /// The authority that a Secret makes.
    fn authority(
        &self,
        name: &str,
        mut data: BTreeMap<String, ByteString>,
    ) -> Result<Arc<CertificateAuthority>, String> {
        let key = data.remove(AuthorityMaterial::KEY).map(|bytes| Zeroizing::new(bytes.0));
        let mut part = |name: &str| data.remove(name).map(|bytes| bytes.0);
        let missing = |part: &str| {
            format!(
                "the Secret {}/{name} has no {part}: it needs {}, {}, {} and {}, as Istio's has",
                self.namespace,
                AuthorityMaterial::CERTIFICATE,
                AuthorityMaterial::KEY,
                AuthorityMaterial::ROOTS,
                AuthorityMaterial::CHAIN
            )
        };
        let material = AuthorityMaterial {
            certificate: part(AuthorityMaterial::CERTIFICATE).ok_or_else(|| missing(AuthorityMaterial::CERTIFICATE))?,
            key: key.ok_or_else(|| missing(AuthorityMaterial::KEY))?,
            roots: part(AuthorityMaterial::ROOTS),
            chain: part(AuthorityMaterial::CHAIN),
        };
        let place = PathBuf::from(format!("Secret {}/{name}", self.namespace));
        CertificateAuthority::from_material(&material, &place, &self.trust_domain, Arc::clone(&self.clock))
            .map(Arc::new)
            .map_err(|error| error.to_string())
    }

    /// Puts the authority in force that should be.
    async fn decide(&mut self) {
        let found = match (&self.given, &self.made) {
            (Seen::There { makes, .. }, _) => (GIVEN, makes.clone()),
            (Seen::Absent, Seen::There { makes, .. }) => (MADE, makes.clone()),
            (Seen::Absent, Seen::Absent) => return self.make().await,
            // Whether the operator has given one must be known first.
            _ => return,
        };
        self.again = None;
        match found {
            (name, Ok(authority)) => self.take(name, authority),
            (_, Err(reason)) => self.complain(reason),
        }
    }

    fn take(&mut self, name: &str, authority: Arc<CertificateAuthority>) {
        self.said.clear();
        let before = self.sender.send_replace(SigningState { authority: Some(Arc::clone(&authority)), problem: None });
        let secret = format!("{}/{name}", self.namespace);
        if !before.authority.is_some_and(|known| Arc::ptr_eq(&known, &authority)) {
            tracing::info!(target: "audit", secret, roots = authority.roots().len(), "this authority signs");
        } else if before.problem.is_some() {
            tracing::info!(secret, "the certificate authority is as it should be again");
        }
    }

    /// Makes a root, if no other controller is quicker.
    async fn make(&mut self) {
        let namespace = &self.namespace;
        if self.has_authority() {
            // A new root would cut off every agent that does not know it yet.
            let gone = format!(
                "the Secrets {namespace}/{GIVEN} and {namespace}/{MADE} are gone: the authority that was known signs on \
                 until this controller ends; put the Secret back, or let a controller that starts make a new root, which \
                 agents accept only with their next certificates"
            );
            return self.complain(gone);
        }
        if self.again.is_some_and(|again| again > Instant::now()) {
            return;
        }
        let secret = match AuthorityMaterial::generate(&self.trust_domain, self.clock.now()) {
            Ok(material) => secret(material),
            Err(error) => return self.complain(error.to_string()),
        };
        let created = answered(self.secrets.create(&PostParams::default(), &secret)).await;
        let made = match created {
            Ok(made) => {
                tracing::info!(target: "audit", secret = format!("{namespace}/{MADE}"), "made a new root");
                Ok(made)
            }
            // Another controller was quicker, and its root counts.
            Err(failure) if failure.code == 409 => answered(self.secrets.get(MADE)).await,
            Err(failure) => Err(failure),
        };
        match made {
            Ok(made) => {
                self.made = self.read(MADE, made);
                self.again = None;
                self.backoff.reset();
                if let Seen::There { makes, .. } = &self.made {
                    match makes.clone() {
                        Ok(authority) => self.take(MADE, authority),
                        Err(reason) => self.complain(reason),
                    }
                }
            }
            Err(failure) => {
                let hint = match failure.code {
                    403 => "its Role must allow it to create Secrets, or give it the Secret cacerts",
                    404 => "is there such a namespace?",
                    _ => "trying again",
                };
                let reason = format!("making the Secret {namespace}/{MADE} failed ({}): {hint}", failure.text);
                self.again = Some(Instant::now() + self.backoff.pause());
                self.complain(reason);
            }
        }
    }

    /// Whether this was not said yet since all was well. Bounded, whatever an API server may say.
    fn is_unsaid(&mut self, reason: &str) -> bool {
        if self.said.len() >= MOST_SAID {
            self.said.clear();
        }
        self.said.insert(reason.to_owned())
    }

    /// Says what is wrong, once.
    fn complain(&mut self, reason: String) {
        if self.is_unsaid(&reason) {
            if self.has_authority() {
                tracing::error!(reason, "the certificate authority is not as it should be; the last one signs on");
            } else {
                tracing::error!(reason, "there is no certificate authority yet; waiting for it");
            }
        }
        self.sender.send_modify(|state| state.problem = Some(reason));
    }
}

/// Says what becomes of one Secret, from now on.
fn watch(secrets: Api<Secret>, name: &str) -> impl Stream<Item = Result<Option<Secret>, watcher::Error>> + use<> {
    watcher::watch_object(secrets, name).backoff(Retries::default())
}

/// The digest of all parts, each with its name and length.
fn digest_of(data: &BTreeMap<String, ByteString>) -> Content {
    let mut digest = Context::new(&SHA256);
    for part in data.iter().flat_map(|(name, bytes)| [name.as_bytes(), &bytes.0]) {
        digest.update(&part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finish().as_ref().try_into().ok()
}

/// The Secret that keeps a root.
fn secret(material: AuthorityMaterial) -> Secret {
    let mut data = BTreeMap::new();
    let mut put = |name: &str, bytes: Vec<u8>| data.insert(name.to_owned(), ByteString(bytes));
    put(AuthorityMaterial::CERTIFICATE, material.certificate);
    put(AuthorityMaterial::KEY, material.key.to_vec());
    material.roots.map(|pem| put(AuthorityMaterial::ROOTS, pem));
    material.chain.map(|pem| put(AuthorityMaterial::CHAIN, pem));
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "weft".to_owned())]);
    let metadata = ObjectMeta { name: Some(MADE.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() }
}

#[cfg(test)]
mod tests;
