//! Enrolment: which pods of this node are captured, kept in step with what the configuration says.
//!
//! To enrol: certificate, listeners, and only then capture, so that a captured connection always finds a listener.
//! To un-enrol: the announcement first, which others take back; then, when peers have had time to hear of it, capture; the
//! listeners last. Connections that live are left alone either way. A pod whose network namespace is gone is dropped with everything of it, because sockets
//! that the agent holds would keep the namespace alive.
//!
//! Whatever asks the kernel or the disk runs beside the control runtime, which has one thread for everything.

mod joiner;
mod older;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_control::LocalPod;
use weft_model::Identity;
use weft_runtime::{Shutdown, Tasks};
use weft_transport::Certificates;

use self::joiner::Joiner;
use self::older::{KeptFile, Older, Past};
use crate::capture::Capture;
use crate::duty::Duty;
use crate::netns::NetnsCookie;
use crate::proxy::Proxy;
use crate::proxy::pod::Pod;

pub use self::older::{OlderConnection, OlderConnections};

/// How often namespaces are looked after, and failed enrolments tried again.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Pods that are enrolled at one time.
const ENROLLED_AT_ONCE: usize = 32;
/// How long a pod that leaves the mesh, and is announced no more, stays captured: until peers have heard.
const HEARING: Duration = Duration::from_secs(1);
/// How long it stays captured at most, should the announcement not be taken back.
const LEAVING: Duration = Duration::from_secs(10);
/// How long the listeners of a pod stay after it left the mesh: peers that have not heard of it still find it.
const LISTENER_GRACE: Duration = Duration::from_secs(5);
/// How many older connections are looked at with each check, of all pods together, and for how long at most. Each takes
/// some microseconds; where there are more, their end is noticed later.
const OLDER_AT_ONCE: usize = 4096;
const OLDER_TIME: Duration = Duration::from_millis(500);
/// So many of a pod are looked at whatever the others have.
const OLDER_OF_A_POD: usize = 16;
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
    /// Its name in the model.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub identity: Identity,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace, if that is known.
    pub netns: Option<PathBuf>,
    /// How it stands.
    pub state: PodState,
    /// Connections from before it was enrolled that still live, in clear.
    pub older: Arc<[OlderConnection]>,
    /// Why those are not listed, or not ended though they should be.
    pub older_problem: Option<String>,
}

/// What enrolment tells others.
#[derive(Debug, Default)]
pub struct EnrolmentStatus(watch::Sender<Option<Arc<[PodStatus]>>>);

impl EnrolmentStatus {
    /// The pods of this node, sorted; `None` before the configuration was read for the first time.
    pub fn pods(&self) -> Option<Arc<[PodStatus]>> {
        self.0.borrow().clone()
    }

    /// How a pod stands, with the network namespace of this path.
    pub fn of(&self, uid: &str, netns: &Path) -> Option<PodState> {
        let pods = self.0.borrow();
        let pod = pods.iter().flat_map(|pods| &**pods).find(|pod| *pod.uid == *uid)?;
        (pod.netns.as_deref() == Some(netns)).then(|| pod.state.clone())
    }

    /// Says when a pod may stand otherwise.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<[PodStatus]>>> {
        self.0.subscribe()
    }
}

#[derive(Debug)]
struct Enrolled {
    local: LocalPod,
    /// Where its network namespace was opened.
    netns: PathBuf,
    pod: Arc<Pod>,
    cookie: NetnsCookie,
    inode: (u64, u64),
    /// Whether the path of its network namespace led there when it was looked at last.
    is_there: bool,
    /// It is to be in the mesh no more.
    departure: Option<Departure>,
    /// Another agent may have put its listeners in the place of this one's.
    is_displaced: bool,
    /// Connections from before, as long as they live.
    older: Older,
}

/// What enrolment is told.
#[derive(Debug, Clone)]
pub struct EnrolmentOptions {
    /// How many workers the proxy has.
    pub workers: usize,
    /// What becomes of the connections that a pod had before.
    pub older_connections: OlderConnections,
    /// The folder for what the agent keeps.
    pub state_dir: PathBuf,
    /// To change capture.
    pub duty: Duty,
}

/// The pods that an earlier agent has left captured, until they are taken over; `None` until that is known.
type Adopted = Mutex<Option<HashMap<NetnsCookie, Past>>>;

/// Keeps capture in step with the pods of this node.
pub struct Enrolment {
    joiner: Joiner,
    status: Arc<EnrolmentStatus>,
    tasks: Tasks,
    enrolled: HashMap<Arc<str>, Enrolled>,
    failures: HashMap<Arc<str>, String>,
    kept: Arc<KeptFile>,
    /// What is written in it: which pods, with which older connections.
    written: Vec<(NetnsCookie, Arc<[OlderConnection]>)>,
    /// When older connections were looked after last.
    looked_after: Instant,
    has_adopted: bool,
    duty: Duty,
    /// The tenure of the duty in which capture was changed last.
    tenure: Option<u64>,
}

impl Enrolment {
    /// Captures with `capture` and serves with `proxy`; what comes of it is told by `status`.
    #[must_use]
    pub fn new(
        capture: Arc<Capture>,
        proxy: Arc<Proxy>,
        certificates: Arc<Certificates>,
        options: EnrolmentOptions,
        status: Arc<EnrolmentStatus>,
        tasks: Tasks,
    ) -> Self {
        let EnrolmentOptions { workers, older_connections, state_dir, duty } = options;
        Self {
            joiner: Joiner { capture, proxy, certificates, workers, older_connections, adopted: Arc::default() },
            status,
            tasks,
            enrolled: HashMap::new(),
            failures: HashMap::new(),
            kept: Arc::new(KeptFile::of(&state_dir)),
            written: Vec::new(),
            looked_after: Instant::now(),
            has_adopted: false,
            duty,
            tenure: None,
        }
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
            let Some(wanted) = wanted else { continue };
            let act = self.duty.act().await;
            match act.number() {
                Some(tenure) => {
                    self.begin(tenure);
                    self.reconcile(&wanted).await;
                }
                None => self.let_go(&wanted).await,
            }
        }
    }

    /// Another agent may have had the duty meanwhile: what it captured is its own, and what it left is to be found out.
    fn begin(&mut self, tenure: u64) {
        if self.tenure.replace(tenure).is_some_and(|before| before != tenure) {
            *lock(&self.joiner.adopted) = None;
            self.has_adopted = false;
            self.written.clear();
            for enrolled in self.enrolled.values_mut() {
                enrolled.is_displaced = true;
            }
        }
    }

    /// Changes nothing that others see, and holds on to nothing that is gone: the next agent enrols and un-enrols.
    async fn let_go(&mut self, wanted: &[LocalPod]) {
        self.look_after_enrolled().await;
        let by_uid: HashMap<&str, &LocalPod> = wanted.iter().map(|pod| (&*pod.uid, pod)).collect();
        let Joiner { proxy, certificates, .. } = &self.joiner;
        self.enrolled.retain(|uid, enrolled| {
            let is_gone = by_uid.get(&**uid).is_none_or(|wanted| enrolled.fit(wanted) == Fit::Gone);
            if is_gone {
                proxy.forget(&enrolled.pod);
                certificates.release(&enrolled.local.identity);
            }
            !is_gone
        });
    }

    async fn reconcile(&mut self, wanted: &[LocalPod]) {
        self.find_adopted().await;
        self.look_after_enrolled().await;
        let by_uid: HashMap<&str, &LocalPod> = wanted.iter().map(|pod| (&*pod.uid, pod)).collect();
        let mut moving = HashSet::new();
        let mut leaving = Vec::new();
        for (uid, enrolled) in &mut self.enrolled {
            let wanted = by_uid.get(&**uid);
            match wanted.map_or(Fit::Gone, |wanted| enrolled.fit(wanted)) {
                Fit::Same if wanted.is_some_and(|wanted| wanted.enrolled) => enrolled.stay(),
                Fit::Moved if wanted.is_some_and(|wanted| wanted.enrolled) => {
                    enrolled.stay();
                    moving.insert(uid.clone());
                    if let Some(adopted) = &mut *lock(&self.joiner.adopted) {
                        // What it has open now is carried already.
                        adopted.entry(enrolled.cookie).or_insert(Past::Forgotten);
                    }
                }
                Fit::Gone => leaving.push((uid.clone(), false)),
                Fit::Same | Fit::Moved => {
                    let is_announced = wanted.is_some_and(|wanted| wanted.is_announced);
                    if enrolled.departs(is_announced, Instant::now()) {
                        leaving.push((uid.clone(), true));
                    }
                }
            }
        }
        for (uid, lives_on) in leaving {
            if let Some(enrolled) = self.enrolled.remove(&uid) {
                self.leave(enrolled, lives_on).await;
            }
        }
        let is_waiting = |local: &&LocalPod| {
            local.enrolled && (!self.enrolled.contains_key(&local.uid) || moving.contains(&local.uid))
        };
        let waiting: Vec<LocalPod> = wanted.iter().filter(is_waiting).cloned().collect();
        let mut waiting = waiting.into_iter();
        let mut failures = HashMap::new();
        let mut joining = JoinSet::new();
        loop {
            while joining.len() < ENROLLED_AT_ONCE
                && let Some(local) = waiting.next()
            {
                joining.spawn(self.joiner.clone().enrol(local));
            }
            let Some(joined) = joining.join_next().await else { break };
            let Ok((local, result)) = joined else {
                tracing::error!("an enrolment did not end as it should");
                continue;
            };
            match result {
                Ok(enrolled) => {
                    tracing::info!(pod = %local.uid, netns = %enrolled.netns.display(), "enrolled");
                    self.failures.remove(&local.uid);
                    if let Some(before) = self.enrolled.insert(local.uid.clone(), enrolled) {
                        // Its listeners have been replaced where the kernel looks for them.
                        self.joiner.proxy.close_listeners(&before.pod);
                        self.joiner.certificates.release(&before.local.identity);
                    }
                    // A container runtime may wait for this one.
                    self.report(wanted);
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
        self.drop_strangers().await;
        self.report(wanted);
        self.write_down().await;
    }

    /// Finds out, once, what an earlier agent has left.
    async fn find_adopted(&self) {
        if lock(&self.joiner.adopted).is_some() {
            return;
        }
        let (capture, kept) = (self.joiner.capture.clone(), self.kept.clone());
        let found = beside(move || {
            let captured = capture.enrolled().map_err(io::Error::other)?;
            let mut known = kept.read().unwrap_or_else(|error| {
                tracing::warn!(%error, "what an earlier agent wrote down of older connections cannot be read");
                Default::default()
            });
            let past = |cookie: NetnsCookie| (cookie, known.remove(&cookie).map_or(Past::Forgotten, Past::Known));
            Ok(captured.into_iter().map(past).collect::<HashMap<_, _>>())
        });
        match found.await {
            Ok(adopted) => *lock(&self.joiner.adopted) = Some(adopted),
            Err(error) => tracing::warn!(%error, "listing the captured pods failed"),
        }
    }

    /// Looks whether the namespaces of the enrolled pods are still there, and which of their older connections are.
    async fn look_after_enrolled(&mut self) {
        if self.enrolled.is_empty() {
            return;
        }
        let with_older = self.enrolled.values().filter(|enrolled| enrolled.older.needs_care()).count();
        let each = if self.looked_after.elapsed() < CHECK_INTERVAL / 2 {
            // The configuration changes often: its changes do not wait for this.
            0
        } else {
            self.looked_after = Instant::now();
            (OLDER_AT_ONCE / with_older.max(1)).max(OLDER_OF_A_POD)
        };
        let pods: Vec<(Arc<str>, PathBuf, Older)> = self
            .enrolled
            .iter_mut()
            .map(|(uid, enrolled)| (uid.clone(), enrolled.netns.clone(), std::mem::take(&mut enrolled.older)))
            .collect();
        let choice = self.joiner.older_connections;
        let looked = beside(move || {
            let deadline = Instant::now() + OLDER_TIME;
            let looked = pods.into_iter().map(|(uid, path, mut older)| {
                older.look_after(choice, each, deadline);
                (uid, inode(&path).ok(), older)
            });
            Ok(looked.collect::<Vec<_>>())
        });
        match looked.await {
            Ok(looked) => {
                for (uid, inode, older) in looked {
                    if let Some(enrolled) = self.enrolled.get_mut(&uid) {
                        enrolled.is_there = inode == Some(enrolled.inode);
                        enrolled.older = older;
                    }
                }
            }
            Err(error) => tracing::error!(%error, "looking after the enrolled pods failed"),
        }
    }

    async fn leave(&self, enrolled: Enrolled, lives_on: bool) {
        let Enrolled { local, pod, cookie, .. } = enrolled;
        let Joiner { capture, proxy, certificates, .. } = self.joiner.clone();
        // It waits for connections that are between their `connect` and their SYN.
        if let Err(error) = beside(move || capture.unenrol(cookie).map_err(io::Error::other)).await {
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
    async fn drop_strangers(&mut self) {
        if self.has_adopted || !self.failures.is_empty() {
            return;
        }
        self.has_adopted = true;
        *lock(&self.joiner.adopted) = Some(HashMap::new());
        let known: HashSet<NetnsCookie> = self.enrolled.values().map(|enrolled| enrolled.cookie).collect();
        let capture = self.joiner.capture.clone();
        let dropped = beside(move || {
            let captured = capture.enrolled().map_err(io::Error::other)?;
            for cookie in captured.into_iter().filter(|cookie| !known.contains(cookie)) {
                if let Err(error) = capture.unenrol(cookie) {
                    tracing::warn!(%error, "letting go of a pod that left while no agent ran failed");
                }
            }
            Ok(())
        });
        if let Err(error) = dropped.await {
            tracing::warn!(%error, "listing the captured pods failed");
        }
    }

    /// Leaves to the next agent what it must know of older connections.
    async fn write_down(&mut self) {
        let mut pods: Vec<_> =
            self.enrolled.values_mut().map(|enrolled| (enrolled.cookie, enrolled.older.shown())).collect();
        pods.sort_by_key(|(cookie, _)| *cookie);
        if pods == self.written {
            return;
        }
        self.written = pods.clone();
        let kept = self.kept.clone();
        if let Err(error) = beside(move || kept.write(&pods)).await {
            tracing::warn!(%error, "writing down the older connections, for the next agent, failed");
        }
    }

    fn report(&mut self, wanted: &[LocalPod]) {
        let status = |local: &LocalPod| {
            let mut enrolled = self.enrolled.get_mut(&local.uid);
            PodStatus {
                uid: local.uid.clone(),
                namespace: local.namespace.clone(),
                name: local.name.clone(),
                identity: local.identity.clone(),
                addresses: local.addresses.clone(),
                netns: local.netns.clone(),
                state: match self.failures.get(&local.uid) {
                    Some(error) => PodState::Failed(error.clone()),
                    None if enrolled.is_some() => PodState::Enrolled,
                    None => PodState::NotEnrolled,
                },
                older_problem: enrolled.as_ref().and_then(|enrolled| enrolled.older.problem().map(str::to_owned)),
                older: enrolled.as_mut().map(|enrolled| enrolled.older.shown()).unwrap_or_default(),
            }
        };
        let mut pods: Vec<PodStatus> = wanted.iter().map(status).collect();
        pods.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        self.status.0.send_replace(Some(pods.into()));
    }
}

/// How far a pod is on its way out of the mesh.
#[derive(Debug, Clone, Copy)]
struct Departure {
    /// Since when it is to leave.
    since: Instant,
    /// Since when it is announced no more.
    unannounced: Option<Instant>,
}

impl Departure {
    fn is_due(self, now: Instant) -> bool {
        let has_passed = |since: Instant, time| now.saturating_duration_since(since) >= time;
        has_passed(self.since, LEAVING) || self.unannounced.is_some_and(|since| has_passed(since, HEARING))
    }
}

/// How a captured pod fits what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It is as it should be.
    Same,
    /// The same pod in the same namespace, with other addresses or the listeners of another agent: capture is replaced, and
    /// never missing.
    Moved,
    /// Another pod, or its network namespace is no more.
    Gone,
}

impl Enrolled {
    /// It is to be in the mesh, whatever was said before.
    fn stay(&mut self) {
        if self.departure.take().is_some() {
            self.pod.is_leaving.store(false, Ordering::Relaxed);
        }
    }

    /// It is to leave. Returns whether it is time to.
    fn departs(&mut self, is_announced: bool, now: Instant) -> bool {
        self.pod.is_leaving.store(true, Ordering::Relaxed);
        let departure = self.departure.get_or_insert(Departure { since: now, unannounced: None });
        departure.unannounced = if is_announced { None } else { departure.unannounced.or(Some(now)) };
        departure.is_due(now)
    }

    /// A namespace may be known by another path than before. One that nobody can name at the moment is taken for the same:
    /// what is captured stays so for as long as the pod is there.
    fn fit(&mut self, wanted: &LocalPod) -> Fit {
        if self.local.instance != wanted.instance || self.local.identity != wanted.identity {
            return Fit::Gone;
        }
        match &wanted.netns {
            Some(path) if *path == self.netns && !self.is_there => return Fit::Gone,
            Some(path) if *path != self.netns => match inode(path) {
                Ok(inode) if inode == self.inode => self.netns.clone_from(path),
                _ => return Fit::Gone,
            },
            _ => {}
        }
        if self.local.addresses == wanted.addresses && !self.is_displaced { Fit::Same } else { Fit::Moved }
    }
}

/// Runs `work`, which may block, on a thread for that.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Which namespace a path leads to.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_leaves_when_its_peers_have_had_time_to_hear_of_it_or_when_that_takes_too_long() {
        let since = Instant::now();
        let announced = Departure { since, unannounced: None };
        assert!(!announced.is_due(since + HEARING * 2));
        assert!(announced.is_due(since + LEAVING));
        let told = since + Duration::from_secs(3);
        let unannounced = Departure { since, unannounced: Some(told) };
        assert!(!unannounced.is_due(told));
        assert!(unannounced.is_due(told + HEARING));
    }
}
