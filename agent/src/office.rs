//! What an agent does that reaches beyond itself, which one agent of a node does at a time: its servers, its CNI plug-in, its
//! duties, the lock of the state directory. It is given up to a successor, and taken up again if that one dies.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use weft_runtime::Tasks;

use crate::admin::{Admin, Listeners};
use crate::capture::Capture;
use crate::cni::{self, Installation};
use crate::command::AgentOptions;
use crate::duty::Duty;
use crate::hand_over::{Said, Successor};
use crate::node::NodePods;
use crate::state_dir;

/// How long the plug-in's keeper may take to end.
const PLUG_IN_ENDS: Duration = Duration::from_secs(2);
/// How long the servers may: longer than each of them lets its last answer take.
const SERVERS_END: Duration = Duration::from_secs(4);
/// How long it waits before it tries again to take everything up.
const PAUSE: Duration = Duration::from_secs(1);
/// How long, from when the successor has enrolled all pods, the listeners stay at least: a client may still be answering
/// the handshake that they began, and would be reset.
const HANDSHAKES_END: Duration = Duration::from_secs(1);

/// The duties of an agent, in the order in which they are given up.
#[derive(Debug, Clone)]
pub struct Duties {
    /// To tell of this node's pods: annotations, the files of sandboxes and namespaces, the cgroup of the probes.
    pub node: Duty,
    /// To enrol and un-enrol.
    pub enrolment: Duty,
    /// To keep capture in step with what is published.
    pub publication: Duty,
}

impl Duties {
    /// Those of an agent that is alone, or of one that is behind another.
    #[must_use]
    pub fn new(are_held: bool) -> Self {
        let duty = || if are_held { Duty::held() } else { Duty::vacant() };
        Self { node: duty(), enrolment: Duty::held(), publication: Duty::held() }
    }
}

/// What it takes to be in office.
pub struct Office {
    /// What the agent was started with.
    pub options: AgentOptions,
    /// What the servers answer from.
    pub admin: Admin,
    /// The eBPF programs.
    pub capture: Arc<Capture>,
    /// The pods of a node of a cluster.
    pub pods: Option<Arc<NodePods>>,
    /// Where the CNI plug-in is kept.
    pub installation: Option<Installation>,
    /// The duties.
    pub duties: Duties,
}

/// An agent's time in office, and what follows.
pub struct Tenure {
    office: Office,
    stand: Stand,
    lock: Option<File>,
    servers: Tasks,
    plug_in: Tasks,
    successors: mpsc::Receiver<OnUpgrade>,
    successor: Option<Successor>,
    said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// In office.
    Acting,
    /// About to give everything up.
    Yielding,
    /// Out of office; connections come as before.
    Yielded,
    /// The successor has all pods, since then.
    Succeeded(Instant),
    /// The successor is gone: about to take everything up again.
    Resuming,
}

impl Tenure {
    /// Begins: `lock` is that of the state directory. Those who want to take over come from `successors`.
    #[must_use]
    pub fn begin(office: Office, lock: File, listeners: Listeners, successors: mpsc::Receiver<OnUpgrade>) -> Self {
        let mut tenure = Self {
            office,
            stand: Stand::Acting,
            lock: Some(lock),
            servers: Tasks::new(),
            plug_in: Tasks::new(),
            successors,
            successor: None,
            said: String::new(),
        };
        tenure.serve(listeners);
        tenure
    }

    /// Whether this agent acts, and no other.
    #[must_use]
    pub fn is_acting(&self) -> bool {
        self.stand == Stand::Acting
    }

    /// Does what is next. May be dropped at any of its waits, and called again.
    pub async fn step(&mut self) {
        match self.stand {
            Stand::Yielding => self.give_up().await,
            Stand::Resuming => match self.take_up().await {
                Ok(()) => {
                    tracing::warn!("the next agent is gone: this one acts again");
                    self.stand = Stand::Acting;
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    if self.said != reason {
                        tracing::warn!(reason, "the next agent is gone, and this one cannot take its place yet");
                        self.said = reason;
                    }
                    sleep(PAUSE).await;
                }
            },
            Stand::Acting | Stand::Yielded | Stand::Succeeded(_) => self.listen().await,
        }
    }

    /// Told to end: waits for a successor that is on its way, until it has all pods, is gone, or time is up.
    pub async fn see_succeeded(&mut self, patience: Duration) {
        let on_its_way = async {
            while self.successor.is_some() && !matches!(self.stand, Stand::Succeeded(_)) {
                self.step().await;
            }
        };
        if timeout(patience, on_its_way).await.is_err() {
            tracing::warn!("the next agent has not enrolled all pods in time");
        }
        if let Stand::Succeeded(since) = self.stand {
            sleep_until(since + HANDSHAKES_END).await;
        }
    }

    /// Keeps the CNI plug-in installed no more.
    pub async fn leave_plug_in(&self) {
        self.plug_in.drain(PLUG_IN_ENDS).await;
    }

    /// Ends the servers.
    pub async fn end(self) {
        self.servers.drain(SERVERS_END).await;
    }

    async fn listen(&mut self) {
        let Some(successor) = &mut self.successor else {
            if let Some(connection) = self.successors.recv().await {
                tracing::info!("another agent is here, to take over");
                self.successor = Some(Successor::new(connection));
            }
            return;
        };
        let says = tokio::select! {
            says = successor.says() => says,
            // One at a time: the other one's connection ends.
            Some(_) = self.successors.recv() => return,
        };
        match (says, self.stand) {
            (Said::Yield, Stand::Acting) => self.stand = Stand::Yielding,
            (Said::Done, Stand::Yielded) => {
                tracing::info!("the next agent has enrolled all pods; this one carries what it has");
                self.stand = Stand::Succeeded(Instant::now());
            }
            (Said::Gone, Stand::Acting) => self.successor = None,
            (Said::Gone, _) => (self.successor, self.stand) = (None, Stand::Resuming),
            (Said::Yield | Said::Done, _) => {}
        }
    }

    async fn give_up(&mut self) {
        // New pods may still be enrolled while the servers end: their runtimes wait for that.
        self.plug_in.drain(PLUG_IN_ENDS).await;
        self.servers.drain(SERVERS_END).await;
        let Duties { node, enrolment, publication } = &self.office.duties;
        for duty in [node, enrolment, publication] {
            duty.give_up().await;
        }
        if let Err(error) = self.office.capture.widen() {
            tracing::error!(%error, "what is outside the mesh stays in the kernel's list until the next agent has it");
        }
        self.lock = None;
        let Some(successor) = &mut self.successor else {
            self.stand = Stand::Resuming;
            return;
        };
        self.stand = match successor.tell_yielded().await {
            Ok(()) => {
                tracing::info!("yielded to the next agent: connections come and go on, and nothing else is done");
                Stand::Yielded
            }
            Err(_) => {
                self.successor = None;
                Stand::Resuming
            }
        };
    }

    async fn take_up(&mut self) -> anyhow::Result<()> {
        let lock = state_dir::lock(&self.office.options.state_dir)?;
        let listeners = Listeners::bind(&self.office.options.admin_options())?;
        self.office.capture.resume()?;
        let Duties { node, enrolment, publication } = &self.office.duties;
        if let Some(pods) = &self.office.pods {
            pods.take_up().await;
        }
        for duty in [publication, enrolment, node] {
            duty.take_up().await;
        }
        self.lock = Some(lock);
        self.serve(listeners);
        Ok(())
    }

    fn serve(&mut self, listeners: Listeners) {
        (self.servers, self.plug_in) = (Tasks::new(), Tasks::new());
        listeners.start(&self.office.admin, &self.servers);
        if let Some(installation) = self.office.installation.clone() {
            self.plug_in.spawn("cni", cni::keep(installation, self.plug_in.shutdown()));
        }
    }
}
