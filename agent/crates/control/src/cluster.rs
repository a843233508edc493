//! What the controllers of a cluster keep in it, whatever their number.
//!
//! - The certificate authority, [`authority`]: one root for all, given by the operator or made by whichever controller is
//!   first, in a Secret.
//! - The trust bundle: its roots in a ConfigMap of every namespace.
//! - The conditions of policies, routes, Gateways and their classes: what of them is in force.
//!
//! The last two are the duties of one controller at a time, [`lead`], which holds the Lease.
//!
//! # How a root is replaced without an outage
//!
//! The Secret is `cacerts`, or `weft-ca` where the controllers made the root; a change of it counts at once.
//! 1. Add the new root to `root-cert.pem`, behind the old one. The controllers tell both, by the ConfigMap and with each
//!    certificate. Wait until every agent trusts both: two minutes where agents read the mounted ConfigMap
//!    (`--extra-roots`), and else until all certificates were renewed, which is at half of their lifetime.
//! 2. Put the new `ca-cert.pem`, `ca-key.pem` and `cert-chain.pem` in place. From now on certificates chain to the new
//!    root, the controllers' own as well; peers accept both. Wait until the last certificate of the old root has ended
//!    or was renewed: one certificate lifetime.
//! 3. Take the old root out of `root-cert.pem`.
//!
//! Between `weft-ca` and a new `cacerts` it is the same: `cacerts` first holds the authority of `weft-ca` and both roots.

pub mod authority;
mod lease;
mod statuses;
mod trust_bundle;

use std::future::Future;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use weft_runtime::Tasks;

use crate::serve::Signing;
pub use statuses::Verdicts;

/// How long the API server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How this controller stands among those of its cluster.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Whether this controller has the duties of the leader now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        *self.0.borrow()
    }
}

/// One of a cluster's controllers.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The namespace of the controllers, where their Lease is.
    pub namespace: &'a str,
    /// Its name, by which people know who the leader is.
    pub name: &'a str,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: &'a str,
}

/// Takes part in the election of the leader, and does its duties whenever this controller is it, in a task of `tasks`.
/// `verdicts` are what the source of the cluster's objects says of routes. Told to end, it lets go of the Lease.
#[must_use]
pub fn lead(client: &Client, member: Member<'_>, signing: &Signing, verdicts: &Verdicts, tasks: &Tasks) -> Leadership {
    let (leads, leadership) = watch::channel(false);
    let election = lease::Election::new(client, member.namespace, member.name);
    let (client, signing, root_namespace) = (client.clone(), signing.clone(), member.root_namespace.to_owned());
    let verdicts = verdicts.clone();
    let duties = move || {
        let bundle = trust_bundle::keep(client.clone(), signing.clone());
        let statuses = statuses::keep(client.clone(), root_namespace.clone(), verdicts.clone());
        async { tokio::join!(bundle, statuses).0 }
    };
    tasks.spawn("leader", election.take_part(duties, leads, tasks.shutdown()));
    Leadership(leadership)
}

/// What the API server answers to a request, or that it does not.
async fn answered<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_WITHIN, request).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => {
            Err(Failure { code: 0, is_object: false, text: format!("no answer in {} s", ANSWER_WITHIN.as_secs()) })
        }
    }
}

/// Why a request was in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    /// The status that the API server answered with; 0 without an answer.
    code: u16,
    /// The answer is about an object of a name, not about a whole kind.
    is_object: bool,
    text: String,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let (code, is_object) = match &error {
            kube::Error::Api(status) => {
                (status.code, status.details.as_ref().is_some_and(|details| !details.name.is_empty()))
            }
            _ => (0, false),
        };
        Self { code, is_object, text: error.to_string() }
    }
}
