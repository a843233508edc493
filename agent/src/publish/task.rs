//! The task that owns the state: what it is told, and in which order it acts on it.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use weft_control::LocalPod;

use super::Publisher;
use crate::duty::Duty;
use crate::joined::Heard;
use crate::proxy::Proxy;
use crate::view::Problems;

/// So many changes at once leave enough behind in memory to look for it.
const LARGE_CHANGE: usize = 500;
/// How often it is looked at what the pods talk to, on demand.
const USE_INTERVAL: Duration = Duration::from_secs(60);
/// Addresses that are asked for at once.
const ASKED_AT_ONCE: usize = 1024;

/// What the owner of the state is told.
#[derive(Debug)]
pub struct Inputs {
    /// What was heard before.
    pub first: VecDeque<Heard>,
    /// What is heard of the sources.
    pub hearing: mpsc::Receiver<Heard>,
    /// Addresses that workers found to be outside.
    pub learned: mpsc::Receiver<IpAddr>,
    /// On demand: what workers need to know.
    pub asks: Option<mpsc::Receiver<IpAddr>>,
    /// On demand: what is talked to.
    pub used: mpsc::Receiver<HashSet<IpAddr>>,
    /// To keep capture in step.
    pub duty: Duty,
}

/// One of them.
#[expect(clippy::large_enum_variant, reason = "updates are what there is most of, and a queue holds a few")]
enum News {
    Heard(Heard),
    Asked,
    Learned(IpAddr),
    Used(HashSet<IpAddr>),
    /// The duty was taken up.
    TakenUp,
}

/// Applies what the sources report, one batch after the other.
pub async fn run(
    mut publisher: Publisher,
    inputs: Inputs,
    pods: watch::Sender<Option<Arc<[LocalPod]>>>,
    problems: Arc<Problems>,
    large_changes: Arc<Notify>,
) {
    let Inputs { mut first, mut hearing, mut learned, asks, mut used, duty } = inputs;
    // The end that is kept makes it wait for ever where nothing is asked.
    let (_nobody, nothing) = mpsc::channel(1);
    let mut asks = asks.unwrap_or(nothing);
    let mut asked = Vec::new();
    let mut is_first = true;
    loop {
        let heard = async {
            match first.pop_front() {
                Some(heard) => Some(heard),
                None => hearing.recv().await,
            }
        };
        // All are cancel-safe.
        let news = tokio::select! {
            heard = heard => heard.map(News::Heard),
            _ = asks.recv_many(&mut asked, ASKED_AT_ONCE) => Some(News::Asked),
            address = learned.recv() => address.map(News::Learned),
            Some(addresses) = used.recv() => Some(News::Used(addresses)),
            () = duty.taken_up() => Some(News::TakenUp),
        };
        let act = duty.act().await;
        publisher.act(act.number());
        match news {
            None => return,
            Some(News::Heard(Heard::Pods(uids))) => publisher.own_pods(uids),
            Some(News::Heard(Heard::Answers(answers))) => publisher.answered(answers),
            Some(News::Heard(Heard::Remembered(addresses))) => publisher.asked(&addresses),
            Some(News::Heard(Heard::Update(update))) => {
                for problem in &update.problems {
                    tracing::warn!("{problem}");
                }
                problems.set(update.problems);
                let is_large = is_first || update.changes.len() >= LARGE_CHANGE;
                is_first = false;
                let snapshot = publisher.apply(update.changes);
                tracing::debug!(generation = snapshot.generation(), "the configuration is in force");
                pods.send_replace(Some(update.local_pods.into()));
                if is_large {
                    large_changes.notify_one();
                }
            }
            Some(News::Asked) => {
                publisher.asked(&asked);
                asked.clear();
            }
            Some(News::Learned(address)) => publisher.learned(address),
            Some(News::Used(addresses)) => publisher.used(&addresses),
            Some(News::TakenUp) => {}
        }
    }
}

/// Tells from time to time what this node's pods talk to.
pub async fn watch_use(proxy: Arc<Proxy>, seen: mpsc::Sender<HashSet<IpAddr>>) {
    let mut interval = tokio::time::interval(USE_INTERVAL);
    loop {
        interval.tick().await;
        if seen.send(proxy.talked_to().await).await.is_err() {
            return;
        }
    }
}
