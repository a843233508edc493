//! Enrolment: which pods of this node are captured, kept in step with what the configuration says.
//!
//! To enrol: certificate, listeners, and only then capture, so that a captured connection always finds a listener.
//! To un-enrol: capture first, listeners later, since peers may not have heard of it yet. Connections that live are
//! left alone either way. A pod whose network namespace is gone is dropped with everything of it, because sockets
//! that the agent holds would keep the namespace alive.

mod older;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_control::LocalPod;
use weft_model::Identity;
use weft_runtime::{Shutdown, Tasks};
use weft_transport::Certificates;

use crate::capture::{Capture, CapturedPod};
use crate::in_pod::{self, PodSockets};
use crate::netns::{Netns, NetnsCookie};
use crate::proxy::pod::Pod;
use crate::proxy::{PodListeners, Proxy};

/// How often namespaces are looked after, and failed enrolments tried again.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Pods that are enrolled at one time.
const ENROLLED_AT_ONCE: usize = 4;
/// How long a pod's first certificate is waited for. Without one it is captured all the same, and its connections
/// are refused: never in clear.
const CERTIFICATE_WAIT: Duration = Duration::from_secs(5);
/// How long the listeners of a pod stay after it left the mesh: peers that have not heard of it still find it.
const LISTENER_GRACE: Duration = Duration::from_secs(5);

/// How a pod of this node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// Captured; its listeners stand.
    Enrolled,
    /// To be captured, which has failed so far.
    Failed(String),
    /// Not in the mesh.
    NotEnrolled,
}

/// A pod of this node, for the operator.
#[derive(Debug, Clone)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub identity: Identity,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace.
    pub netns: PathBuf,
    /// How it stands.
    pub state: PodState,
    /// Connections from before it was enrolled that still live, in clear.
    pub older_connections: usize,
}

/// What enrolment tells others.
#[derive(Debug, Default)]
pub struct EnrolmentStatus(Mutex<Option<Vec<PodStatus>>>);

impl EnrolmentStatus {
    /// The pods of this node, sorted; `None` before the configuration was read for the first time.
    pub fn pods(&self) -> Option<Vec<PodStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Enrolled {
    local: LocalPod,
    pod: Arc<Pod>,
    netns: Arc<Netns>,
    cookie: NetnsCookie,
    inode: (u64, u64),
    /// Connections from before, as long as they live.
    older: HashSet<older::Ends>,
}

/// Keeps capture in step with the pods of this node.
pub struct Enrolment {
    joiner: Joiner,
    status: Arc<EnrolmentStatus>,
    tasks: Tasks,
    enrolled: HashMap<Arc<str>, Enrolled>,
    failures: HashMap<Arc<str>, String>,
    has_adopted: bool,
}

impl Enrolment {
    /// For `workers` workers of `proxy`.
    #[must_use]
    pub fn new(
        capture: Arc<Capture>,
        proxy: Arc<Proxy>,
        certificates: Arc<Certificates>,
        workers: usize,
        tasks: Tasks,
    ) -> Self {
        Self {
            joiner: Joiner { capture, proxy, certificates, workers },
            status: Arc::default(),
            tasks,
            enrolled: HashMap::new(),
            failures: HashMap::new(),
            has_adopted: false,
        }
    }

    /// Where the state can be read.
    #[must_use]
    pub fn status(&self) -> Arc<EnrolmentStatus> {
        self.status.clone()
    }

    /// Runs until told to end. Capture stays as it is then: only an uninstall removes it.
    pub async fn run(mut self, mut pods: watch::Receiver<Option<Arc<[LocalPod]>>>, mut shutdown: Shutdown) {
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                changed = pods.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = check.tick() => {}
            }
            let wanted = pods.borrow_and_update().clone();
            if let Some(wanted) = wanted {
                self.reconcile(&wanted).await;
            }
        }
    }

    async fn reconcile(&mut self, wanted: &[LocalPod]) {
        let by_uid: HashMap<&str, &LocalPod> = wanted.iter().map(|pod| (&*pod.uid, pod)).collect();
        let leaving: Vec<Arc<str>> = self
            .enrolled
            .iter()
            .filter(|(uid, enrolled)| {
                by_uid.get(&***uid).is_none_or(|wanted| !wanted.enrolled || !enrolled.still_fits(wanted))
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in leaving {
            if let Some(enrolled) = self.enrolled.remove(&uid) {
                let lives_on = by_uid.get(&*uid).is_some_and(|wanted| enrolled.still_fits(wanted));
                self.leave(enrolled, lives_on).await;
            }
        }
        let mut failures = HashMap::new();
        let mut joining = JoinSet::new();
        let mut waiting = wanted.iter().filter(|local| local.enrolled && !self.enrolled.contains_key(&local.uid));
        let mut done = Vec::new();
        loop {
            while joining.len() < ENROLLED_AT_ONCE
                && let Some(local) = waiting.next()
            {
                joining.spawn(self.joiner.clone().enrol(local.clone()));
            }
            match joining.join_next().await {
                Some(Ok(result)) => done.push(result),
                Some(Err(error)) => tracing::error!(%error, "an enrolment did not end as it should"),
                None => break,
            }
        }
        for (local, result) in done {
            match result {
                Ok(enrolled) => {
                    tracing::info!(pod = %local.uid, netns = %local.netns.display(), "enrolled");
                    self.enrolled.insert(local.uid.clone(), enrolled);
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.failures.get(&local.uid) != Some(&error) {
                        tracing::warn!(pod = %local.uid, error, "cannot be enrolled yet: trying again each second");
                    }
                    failures.insert(local.uid.clone(), error);
                }
            }
        }
        self.failures = failures;
        self.drop_strangers();
        self.look_after_older();
        self.report(wanted);
    }

    async fn leave(&self, enrolled: Enrolled, lives_on: bool) {
        let Enrolled { local, pod, cookie, .. } = enrolled;
        let Joiner { capture, proxy, certificates, .. } = self.joiner.clone();
        // It waits for connections that are between their `connect` and their SYN.
        let result = tokio::task::spawn_blocking(move || capture.unenrol(cookie).map_err(io::Error::other)).await;
        if let Err(error) = result.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::error!(pod = %local.uid, %error, "un-enrolling failed: its connections will be refused");
        }
        if lives_on {
            tracing::info!(pod = %local.uid, "un-enrolled");
            let mut shutdown = self.tasks.shutdown();
            self.tasks.spawn("close-listeners", async move {
                tokio::select! {
                    biased;
                    () = shutdown.requested() => {}
                    () = tokio::time::sleep(LISTENER_GRACE) => {}
                }
                proxy.close_listeners(&pod);
                certificates.release(&local.identity);
            });
        } else {
            tracing::info!(pod = %local.uid, "gone");
            proxy.forget(&pod);
            certificates.release(&local.identity);
        }
    }

    /// Lets go, once, of what an earlier agent captured and the configuration no longer has.
    fn drop_strangers(&mut self) {
        if self.has_adopted || !self.failures.is_empty() {
            return;
        }
        self.has_adopted = true;
        let known: HashSet<NetnsCookie> = self.enrolled.values().map(|enrolled| enrolled.cookie).collect();
        match self.joiner.capture.enrolled() {
            Ok(captured) => {
                for cookie in captured.into_iter().filter(|cookie| !known.contains(cookie)) {
                    if let Err(error) = self.joiner.capture.unenrol(cookie) {
                        tracing::warn!(%error, "letting go of a pod that left while no agent ran failed");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "listing the captured pods failed"),
        }
    }

    /// Forgets connections from before that have ended.
    fn look_after_older(&mut self) {
        for enrolled in self.enrolled.values_mut().filter(|enrolled| !enrolled.older.is_empty()) {
            if let Ok(live) = older::connections(&enrolled.netns) {
                enrolled.older.retain(|ends| live.contains(ends));
            }
        }
    }

    fn report(&self, wanted: &[LocalPod]) {
        let mut pods: Vec<PodStatus> = wanted
            .iter()
            .map(|local| PodStatus {
                namespace: local.namespace.clone(),
                name: local.name.clone(),
                identity: local.identity.clone(),
                addresses: local.addresses.clone(),
                netns: local.netns.clone(),
                state: match self.failures.get(&local.uid) {
                    Some(error) => PodState::Failed(error.clone()),
                    None if self.enrolled.contains_key(&local.uid) => PodState::Enrolled,
                    None => PodState::NotEnrolled,
                },
                older_connections: self.enrolled.get(&local.uid).map_or(0, |enrolled| enrolled.older.len()),
            })
            .collect();
        pods.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        *self.status.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pods);
    }
}

/// What it takes to enrol one pod.
#[derive(Clone)]
struct Joiner {
    capture: Arc<Capture>,
    proxy: Arc<Proxy>,
    certificates: Arc<Certificates>,
    workers: usize,
}

impl Joiner {
    async fn enrol(self, local: LocalPod) -> (LocalPod, io::Result<Enrolled>) {
        self.certificates.want(&local.identity);
        let certificates = self.certificates.clone();
        match tokio::time::timeout(CERTIFICATE_WAIT, certificates.ready(&local.identity)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(pod = %local.uid, %error, "no certificate: its connections will be refused")
            }
            Err(_) => tracing::warn!(pod = %local.uid, "no certificate yet: its connections are refused meanwhile"),
        }
        // Loading a program takes milliseconds of the kernel's verifier.
        let pod = local.clone();
        let captured = tokio::task::spawn_blocking(move || self.capture_pod(&pod)).await;
        let result = captured.unwrap_or_else(|error| Err(io::Error::other(error)));
        if result.is_err() {
            certificates.release(&local.identity);
        }
        (local, result)
    }

    fn capture_pod(&self, local: &LocalPod) -> io::Result<Enrolled> {
        let netns = Arc::new(Netns::open(&local.netns)?);
        let metadata = std::fs::metadata(&local.netns)?;
        let (cookie, inode) = (netns.cookie(), (metadata.dev(), metadata.ino()));
        let listeners = in_pod::listeners(&netns, self.workers, &local.addresses)?;
        let pod = Arc::new(Pod {
            uid: local.uid.clone(),
            instance: local.instance.clone(),
            identity: local.identity.clone(),
            addresses: local.addresses.clone(),
            sockets: PodSockets::new(netns.clone())?,
        });
        self.capture
            .enrol(&CapturedPod { netns: &netns, addresses: &local.addresses, listeners: &listeners })
            .map_err(io::Error::other)?;
        let per_worker = listeners.per_worker.into_iter().map(|worker| PodListeners {
            outbound: worker.outbound,
            inbound: worker.inbound,
            hbone: worker.hbone,
        });
        self.proxy.listen(&pod, per_worker);
        let older = older::connections(&netns).unwrap_or_else(|error| {
            tracing::warn!(pod = %local.uid, %error, "connections from before the enrolment cannot be listed");
            HashSet::new()
        });
        if !older.is_empty() {
            tracing::info!(pod = %local.uid, connections = older.len(), "connections from before stay as they are");
        }
        Ok(Enrolled { local: local.clone(), pod, netns, cookie, inode, older })
    }
}

impl Enrolled {
    /// The object is the same pod, and its network namespace is still there.
    fn still_fits(&self, wanted: &LocalPod) -> bool {
        let local = &self.local;
        let is_same = local.instance == wanted.instance
            && local.netns == wanted.netns
            && local.addresses == wanted.addresses
            && local.identity == wanted.identity;
        is_same && std::fs::metadata(&wanted.netns).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode)
    }
}
