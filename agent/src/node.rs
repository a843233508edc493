//! The pods of this node on Kubernetes: what the API server says of them, joined with what this host says.
//!
//! The API server knows which pods are here and which belong to the mesh, not where their network namespaces are. The
//! container runtime tells those of new pods, through the CNI plug-in, before anything runs in them ([`NodePods`]); those of
//! pods that were there before are found in `/proc`. A pod is announced to the mesh, by an annotation of its object, when
//! it is captured: no earlier, or peers would meet nobody, and before its first process runs, or they would talk to it
//! in clear.

mod announce;
mod another;
mod census;
mod kept;
mod kubelet;
mod processes;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use weft_control::kubernetes::Client;
use weft_control::{LocalPod, Update};
use weft_runtime::{Shutdown, Tasks};

use self::announce::Announcer;
use self::census::{Census, Known};
use self::kept::KeptSandboxes;
pub use self::kubelet::follow_kubelet;
use self::processes::Inode;
use crate::cni;
use crate::duty::Duty;
use crate::enrol::{EnrolmentStatus, PodState, PodStatus};
use crate::sandbox::{BoxFuture, Sandbox, Sandboxes, Verdict};

/// The processes of this host.
const PROC: &str = "/proc";
/// How often namespaces that are missing are looked for, and known ones are looked after.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it waits before it tries again to announce a pod that its runtime waits for.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// How seldom, at most, namespaces are looked for that were not found before.
const LOOK_SELDOM: Duration = Duration::from_secs(30);
/// How long the container runtime waits for a pod to be captured. The kubelet tries again after that.
const ADD_WITHIN: Duration = Duration::from_secs(20);

/// What is known of this node's pods.
#[derive(Debug)]
pub struct NodePods {
    state: Mutex<Census>,
    /// The sandboxes are others.
    sandboxes_changed: Notify,
    /// Moves when the API server has said something new.
    heard: watch::Sender<u64>,
    enrolment: Arc<EnrolmentStatus>,
    announcer: Announcer,
    excluded: Vec<String>,
    /// Namespaces in which another ambient agent's pod is believed to be one.
    administered: Vec<String>,
    /// An earlier agent has left pods captured: the node is Weft's.
    has_captured: bool,
    /// Where it is written down, for the CNI plug-in, which namespaces are of the mesh.
    remembered: Option<PathBuf>,
    kept: KeptSandboxes,
    duty: Duty,
}

/// Which pods of this node are whose.
#[derive(Debug, Clone)]
pub struct Territory {
    /// Namespaces whose pods are never captured.
    pub excluded_namespaces: Vec<String>,
    /// The namespace whose policies hold for the whole mesh: Istio's agents are there, if there are any.
    pub root_namespace: String,
    /// An earlier agent has left pods captured.
    pub has_captured: bool,
}

/// Where what is known of this node's pods is kept.
#[derive(Debug, Clone)]
pub struct Places {
    /// The folder for what the agent keeps.
    pub state_dir: PathBuf,
    /// The file that says to the CNI plug-in which namespaces are of the mesh, if there is a plug-in.
    pub remembered: Option<PathBuf>,
    /// To keep it there, and to announce pods.
    pub duty: Duty,
}

impl NodePods {
    /// Follows `updates`, which are those of [`weft_control::kubernetes::start_node`], in tasks owned by `tasks`. What
    /// comes back is the same with the network namespaces filled in.
    #[must_use]
    pub fn start(
        client: Client,
        updates: mpsc::Receiver<Update>,
        enrolment: Arc<EnrolmentStatus>,
        territory: Territory,
        places: Places,
        tasks: &Tasks,
    ) -> (Arc<Self>, mpsc::Receiver<Update>) {
        let kept = KeptSandboxes::of(&places.state_dir);
        let sandboxes = kept.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "what an earlier agent kept of sandboxes cannot be read: they are looked for");
            Vec::new()
        });
        let sandboxes = sandboxes.into_iter().map(|sandbox| (sandbox.container.clone(), sandbox)).collect();
        let Territory { excluded_namespaces, root_namespace, has_captured } = territory;
        let pods = Arc::new(Self {
            state: Mutex::new(Census { sandboxes, ..Census::default() }),
            sandboxes_changed: Notify::new(),
            heard: watch::Sender::new(0),
            enrolment,
            announcer: Announcer::new(client),
            administered: [excluded_namespaces.clone(), vec![root_namespace]].concat(),
            excluded: excluded_namespaces,
            has_captured,
            remembered: places.remembered,
            kept,
            duty: places.duty,
        });
        let (sender, filled_in) = mpsc::channel(4);
        tasks.spawn("node-pods", Arc::clone(&pods).follow(updates, sender, tasks.shutdown()));
        tasks.spawn("announce", Arc::clone(&pods).announce(tasks.shutdown()));
        (pods, filled_in)
    }

    /// Takes all pods of this node out of the mesh, and waits until they are, and the mesh knows, but no longer than that.
    pub async fn leave(&self, patience: Duration) {
        self.state().is_leaving = true;
        self.sandboxes_changed.notify_one();
        let (mut heard, mut enrolled) = (self.heard.subscribe(), self.enrolment.subscribe());
        let left = async {
            loop {
                let is_announced = !self.state().stands_aside && self.state().pods().iter().any(|pod| pod.is_announced);
                let is_enrolled = self.enrolment.pods().iter().flat_map(|pods| &**pods).any(is_enrolled);
                if !is_announced && !is_enrolled {
                    return;
                }
                tokio::select! {
                    changed = heard.changed() => if changed.is_err() { return },
                    changed = enrolled.changed() => if changed.is_err() { return },
                }
            }
        };
        if tokio::time::timeout(patience, left).await.is_err() {
            tracing::warn!("not all pods of this node have left the mesh in order");
        }
    }

    /// Takes the duty up. Another agent was told of sandboxes until now: what it knew is known here from now on.
    pub async fn take_up(&self) {
        let kept = self.kept.clone();
        match tokio::task::spawn_blocking(move || kept.read()).await {
            Ok(Ok(sandboxes)) => {
                let mut state = self.state();
                for sandbox in sandboxes {
                    state.sandboxes.entry(sandbox.container.clone()).or_insert(sandbox);
                }
                // It is to be written down anew.
                state.known = Known::default();
            }
            Ok(Err(error)) => tracing::warn!(%error, "what the agent before kept of sandboxes cannot be read"),
            Err(error) => tracing::error!(%error, "reading what the agent before kept of sandboxes failed"),
        }
        self.duty.take_up().await;
        self.sandboxes_changed.notify_one();
    }

    async fn follow(
        self: Arc<Self>,
        mut updates: mpsc::Receiver<Update>,
        filled_in: mpsc::Sender<Update>,
        mut shutdown: Shutdown,
    ) {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What is not found is looked for less and less often: all processes of the host are looked at.
        let (mut search, mut pause) = (Instant::now(), LOOK_INTERVAL);
        loop {
            let is_news = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    self.take(update).await;
                    // New pods of the mesh that have run for a while are found at once.
                    self.look(true).await;
                    (search, pause) = (Instant::now(), LOOK_INTERVAL);
                    self.heard.send_modify(|times| *times += 1);
                    true
                }
                () = self.sandboxes_changed.notified() => {
                    self.keep_sandboxes().await;
                    true
                }
                _ = look.tick() => {
                    let searches = search.elapsed() >= pause;
                    if searches {
                        (search, pause) = (Instant::now(), (pause * 2).min(LOOK_SELDOM));
                    }
                    self.look(searches).await
                }
            };
            let Some(update) = self.filled_in().filter(|_| is_news) else { continue };
            if filled_in.send(update).await.is_err() {
                return;
            }
        }
    }

    /// Notes what the API server says.
    async fn take(&self, mut update: Update) {
        let other = another::agent(&update.local_pods, &self.administered).cloned();
        let is_ours = self.has_captured || self.enrolment.pods().iter().flat_map(|pods| &**pods).any(is_enrolled);
        let stands_aside = other.is_some() && !is_ours;
        update.problems.extend(other.map(|pod| another::problem(&pod, stands_aside)));
        {
            let mut state = self.state();
            state.stands_aside = stands_aside;
            let Census { ended, members, .. } = &mut *state;
            ended.retain(|uid| {
                update.local_pods.iter().any(|pod| *pod.instance == **uid) || members.contains_key(uid.as_str())
            });
            state.said = Some(update);
        }
        self.remember().await;
    }

    /// Writes down what the CNI plug-in is told of namespaces, where that is another thing than before.
    async fn remember(&self) {
        let act = self.duty.act().await;
        if act.number().is_none() {
            return;
        }
        let namespaces = {
            let mut state = self.state();
            let Some(known) = state.said.as_ref().map(Known::of).filter(|known| state.known != *known) else { return };
            state.known = known.clone();
            known
        };
        let Some(path) = self.remembered.clone() else { return };
        let written = tokio::task::spawn_blocking(move || {
            cni::Remembered::learn(
                &path,
                namespaces.0.iter().map(|(name, ambient, members)| (&**name, *ambient, *members)),
            )
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "what the CNI plug-in needs while nobody answers cannot be written down");
        }
    }

    async fn keep_sandboxes(&self) {
        self.remember().await;
        let act = self.duty.act().await;
        if act.number().is_none() {
            return;
        }
        let sandboxes: Vec<Sandbox> = self.state().sandboxes.values().cloned().collect();
        let kept = self.kept.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || kept.write(&sandboxes)).await {
            tracing::warn!(%error, "what the next agent must know of sandboxes cannot be kept");
        }
    }

    /// Looks for network namespaces that are missing, if it `searches`, and forgets those that are no more. Returns whether that changed
    /// anything.
    async fn look(&self, searches: bool) -> bool {
        let (missing, known) = {
            let state = self.state();
            let known: Vec<(String, PathBuf, Option<Inode>)> = state
                .found
                .iter()
                .map(|(uid, found)| (uid.clone(), found.path.clone(), Some(found.inode)))
                .chain(state.sandboxes.iter().map(|(id, sandbox)| (id.clone(), sandbox.netns.clone(), None)))
                .collect();
            (if searches { state.missing() } else { HashSet::new() }, known)
        };
        let looked = tokio::task::spawn_blocking(move || {
            let is_gone = |path: &Path, inode: Option<Inode>| match processes::inode(path) {
                Ok(now) => inode.is_some_and(|before| before != now),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            let gone: Vec<(String, PathBuf)> = known
                .into_iter()
                .filter(|(_, path, inode)| is_gone(path, *inode))
                .map(|(id, path, _)| (id, path))
                .collect();
            let found = match missing.is_empty() {
                true => Ok(HashMap::new()),
                false => processes::network_namespaces(Path::new(PROC), &|uid| missing.contains(uid)),
            };
            (gone, found)
        });
        let Ok((gone, found)) = looked.await else { return false };
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "the network namespaces of this node's pods cannot be looked for");
            HashMap::new()
        });
        let mut state = self.state();
        let is_news = !(gone.is_empty() && found.is_empty());
        for (id, path) in gone {
            if state.found.get(&id).is_some_and(|found| found.path == path) {
                state.found.remove(&id);
            }
            if state.sandboxes.get(&id).is_some_and(|sandbox| sandbox.netns == path) {
                state.sandboxes.remove(&id);
            }
        }
        state.found.extend(found);
        is_news
    }

    /// What the API server says, with what this host knows filled in; `None` before it said anything.
    fn filled_in(&self) -> Option<Update> {
        let mut state = self.state();
        let mut pods: Vec<LocalPod> =
            state.said.as_ref()?.local_pods.iter().filter_map(|pod| state.fill_in(pod)).collect();
        pods.extend(state.left_behind());
        let is_member = |pod: &&LocalPod| pod.enrolled && pod.netns.is_some();
        state.members = pods.iter().filter(is_member).map(|pod| (pod.instance.clone(), pod.clone())).collect();
        let said = state.said.as_mut()?;
        Some(Update {
            changes: std::mem::take(&mut said.changes),
            local_pods: pods,
            namespaces: said.namespaces.clone(),
            problems: said.problems.clone(),
            objects: said.objects,
            ..Update::default()
        })
    }

    /// Keeps the annotations in step with what is captured.
    async fn announce(self: Arc<Self>, mut shutdown: Shutdown) {
        let (mut heard, mut enrolled) = (self.heard.subscribe(), self.enrolment.subscribe());
        loop {
            let due = {
                let state = self.state();
                match state.stands_aside {
                    // What is announced is so by others.
                    true => Vec::new(),
                    false => due(&state.pods(), self.enrolment.pods().as_deref().unwrap_or_default()),
                }
            };
            let tell = async {
                let act = self.duty.act().await;
                match act.number() {
                    Some(_) => self.announcer.tell(due).await,
                    None => true,
                }
            };
            let all_went_well = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                all_went_well = tell => all_went_well,
            };
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                changed = heard.changed() => if changed.is_err() { return },
                changed = enrolled.changed() => if changed.is_err() { return },
                () = self.duty.taken_up() => {}
                () = tokio::time::sleep(LOOK_INTERVAL), if !all_went_well => {}
            }
        }
    }

    async fn captured(&self, sandbox: &Sandbox, last: &Mutex<Option<String>>) -> Result<Verdict, String> {
        let (mut heard, mut enrolled) = (self.heard.subscribe(), self.enrolment.subscribe());
        loop {
            let (pod, knows_namespace, is_others) = {
                let state = self.state();
                (state.pod(sandbox).cloned(), state.knows_namespace(&sandbox.namespace), state.is_others(sandbox))
            };
            match pod {
                _ if is_others => return Ok(Verdict::NotInMesh),
                Some(pod) if !pod.enrolled && knows_namespace => return Ok(Verdict::NotInMesh),
                Some(pod) if pod.enrolled => match self.enrolment.of(&pod.uid, &sandbox.netns) {
                    Some(PodState::Enrolled) => match self.announcer.tell_one(&pod, true).await {
                        Ok(()) => return Ok(Verdict::Enrolled),
                        Err(reason) => {
                            *lock(last) = Some(reason);
                            tokio::time::sleep(TELL_AGAIN).await;
                            continue;
                        }
                    },
                    Some(PodState::Failed(reason)) => *lock(last) = Some(reason),
                    Some(PodState::NotEnrolled) | None => {}
                },
                _ => {}
            }
            tokio::select! {
                changed = heard.changed() => changed.map_err(|_| "the agent ends".to_owned())?,
                changed = enrolled.changed() => changed.map_err(|_| "the agent ends".to_owned())?,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Census> {
        lock(&self.state)
    }
}

impl Sandboxes for NodePods {
    fn add(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>> {
        Box::pin(async move {
            if self.excluded.contains(&sandbox.namespace) || self.state().is_leaving {
                return Ok(Verdict::NotInMesh);
            }
            {
                let mut state = self.state();
                state.ended.remove(&sandbox.uid);
                // A pod has one. The runtime may not have told that the one before went.
                state.sandboxes.retain(|_, known| known.uid.is_empty() || known.uid != sandbox.uid);
                state.sandboxes.insert(sandbox.container.clone(), sandbox.clone());
            }
            self.sandboxes_changed.notify_one();
            let last = Mutex::new(None);
            match tokio::time::timeout(ADD_WITHIN, self.captured(&sandbox, &last)).await {
                Ok(verdict) => verdict,
                Err(_) => Err(lock(&last).take().unwrap_or_else(|| {
                    "the API server has not told the agent of this node about the pod yet".to_owned()
                })),
            }
        })
    }

    fn remove<'a>(&'a self, _uid: &'a str, container: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            {
                let mut state = self.state();
                // Runtimes remove a sandbox more than once, and an older one of a pod that has another now: only what was
                // told of ends. The namespace of any other is looked after by itself.
                let Some(removed) = state.sandboxes.remove(container) else { return };
                if !removed.uid.is_empty() {
                    state.ended.insert(removed.uid);
                }
            }
            self.sandboxes_changed.notify_one();
        })
    }

    fn check(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>> {
        Box::pin(async move {
            let (pod, knows_namespace) = {
                let state = self.state();
                (state.pod(&sandbox).cloned(), state.knows_namespace(&sandbox.namespace))
            };
            let Some(pod) = pod.filter(|pod| pod.enrolled || knows_namespace) else {
                return match self.excluded.contains(&sandbox.namespace) || self.state().is_others(&sandbox) {
                    true => Ok(Verdict::NotInMesh),
                    false => Err("the API server has not told the agent of this node about the pod".to_owned()),
                };
            };
            match self.enrolment.of(&pod.uid, &sandbox.netns) {
                _ if !pod.enrolled || self.state().stands_aside => Ok(Verdict::NotInMesh),
                Some(PodState::Enrolled) => Ok(Verdict::Enrolled),
                Some(PodState::Failed(reason)) => Err(reason),
                Some(PodState::NotEnrolled) | None => Err("it is not captured yet".to_owned()),
            }
        })
    }

    fn retain(&self, containers: BTreeSet<String>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.state().sandboxes.retain(|container, _| containers.contains(container));
            self.sandboxes_changed.notify_one();
        })
    }
}

/// The pods whose annotation is not as it should be, and what it should be. One that should be captured and is not at
/// the moment stays announced: peers must be refused, not talk to it in clear.
fn due(pods: &[LocalPod], enrolment: &[PodStatus]) -> Vec<(LocalPod, bool)> {
    let is_captured = |pod: &LocalPod| enrolment.iter().any(|status| status.uid == pod.uid && is_enrolled(status));
    let due = pods.iter().filter_map(|pod| match (pod.enrolled, pod.is_announced) {
        (true, false) if is_captured(pod) => Some((pod.clone(), true)),
        (false, true) => Some((pod.clone(), false)),
        _ => None,
    });
    due.collect()
}

fn is_enrolled(status: &PodStatus) -> bool {
    status.state == PodState::Enrolled
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
