//! What a successor gets before it asks its predecessor to yield: the less is missing then, the sooner all pods are its own.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use weft_control::Update;
use weft_control::discovery::{Discovery, Wanted};
use weft_model::Identity;
use weft_transport::Certificates;

use crate::joined::Heard;

/// How long, from the first configuration on, for what is said of this node's own pods, on demand.
const OWN_PODS: Duration = Duration::from_secs(5);
/// How long for certificates. Those that are not there then are waited for as those of new pods are.
const CERTIFICATES: Duration = Duration::from_secs(10);
/// What is heard while that is waited for, at most.
const MOST: usize = 1024;

/// What was got.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What was heard, in order, and is still to be applied.
    pub heard: VecDeque<Heard>,
    /// The pods that are to be enrolled.
    pub pods: HashSet<Arc<str>>,
    /// The identities whose certificates were wanted.
    identities: Vec<Identity>,
    /// The pods that were asked for by name, and those of them that were not answered.
    asked: HashSet<Arc<str>>,
    unanswered: HashSet<Arc<str>>,
}

impl Prepared {
    /// The pods want their certificates by themselves by now.
    pub fn release(&mut self, certificates: &Certificates) {
        for identity in self.identities.drain(..) {
            certificates.release(&identity);
        }
    }
}

/// Waits for the first configuration, for what the control plane says of this node's own pods where it is asked for each, and
/// for the certificates of these pods. Without a configuration it waits for ever: another agent serves meanwhile.
/// What was got by then is in `prepared`, whenever it is dropped.
pub async fn prepare(
    prepared: &mut Prepared,
    hearing: &mut mpsc::Receiver<Heard>,
    asked: Option<&Discovery>,
    certificates: &Certificates,
) {
    while prepared.pods_of_update().is_none() {
        let Some(heard) = hearing.recv().await else { return };
        prepared.note(heard, asked);
    }
    let own = async {
        while !prepared.unanswered.is_empty() && prepared.heard.len() < MOST {
            let Some(heard) = hearing.recv().await else { return };
            prepared.note(heard, asked);
        }
    };
    if timeout(OWN_PODS, own).await.is_err() {
        tracing::warn!(pods = prepared.unanswered.len(), "the control plane says nothing of some of this node's pods");
    }
    let enrolled = |update: &Update| -> Vec<(Arc<str>, Identity)> {
        let enrolled = update.local_pods.iter().filter(|pod| pod.enrolled && pod.netns.is_some());
        enrolled.map(|pod| (pod.uid.clone(), pod.identity.clone())).collect()
    };
    let pods = prepared.pods_of_update().map(enrolled).unwrap_or_default();
    for (uid, identity) in pods {
        certificates.want(&identity);
        prepared.pods.insert(uid);
        prepared.identities.push(identity);
    }
    let all = async {
        let mut changes = certificates.changes();
        while prepared.identities.iter().any(|identity| certificates.current(identity).is_none()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    if timeout(CERTIFICATES, all).await.is_err() {
        tracing::warn!("not all certificates of this node's pods can be had: taking over without them");
    }
}

impl Prepared {
    /// The last update that was heard.
    fn pods_of_update(&self) -> Option<&Update> {
        self.heard.iter().rev().find_map(|heard| match heard {
            Heard::Update(update) => Some(update),
            _ => None,
        })
    }

    fn note(&mut self, heard: Heard, asked: Option<&Discovery>) {
        match (&heard, asked) {
            (Heard::Pods(uids), Some(discovery)) => {
                for uid in uids {
                    if self.asked.insert(uid.clone()) && discovery.want_named(uid) {
                        self.unanswered.insert(uid.clone());
                    }
                }
            }
            (Heard::Answers(answers), _) => {
                for wanted in answers {
                    if let Wanted::Name(name) = wanted {
                        self.unanswered.remove(name);
                    }
                }
            }
            _ => {}
        }
        self.heard.push_back(heard);
    }
}
