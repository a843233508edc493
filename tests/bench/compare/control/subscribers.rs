//! Agents, as far as a controller knows them: the agent's own client of discovery, over TLS, with a token of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use weft_control::discovery::{Discovery, DiscoveryOptions, News, NodeDescription};
use weft_model::{Change, Health};
use weft_runtime::Tasks;
use weft_transport::{ControlPlane, ControlPlaneOptions};

use super::objects::{self, Pod};

/// Agents that connect at one time: as many as a DaemonSet's roll-out or the end of an outage brings, or more.
const WAVE: usize = 64;
/// Services that each agent's pods talk to, besides the one that all know.
const SERVICES: usize = 5;
/// How long all agents may take to have what they want.
const CONNECT_WITHIN: Duration = Duration::from_secs(600);
/// How long a change may take to reach them all.
const HEAR_WITHIN: Duration = Duration::from_secs(30);

/// Where agents connect to, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// As `https://HOST:PORT`.
    pub url: String,
    /// The file of the roots.
    pub roots: PathBuf,
    /// The folder of the tokens, each in a file of its node's name.
    pub tokens: PathBuf,
    /// Everything is asked for, not only what the node's pods talk to.
    pub wildcard: bool,
}

/// What is to be heard of.
#[derive(Debug, Clone)]
pub enum Mark {
    /// That a pod is ready, or not.
    Readiness(String, bool),
    /// That a pod is an endpoint.
    Endpoint(String),
    /// That there is a policy.
    Policy(String),
}

/// Agents that are connected and have what they asked for.
pub struct Subscribers {
    awaited: Arc<Awaited>,
    heard: mpsc::UnboundedReceiver<(u64, Instant)>,
    count: usize,
    number: u64,
    tasks: Tasks,
    _agents: Vec<Discovery>,
    /// How long it took until all had everything.
    pub connected_after: Duration,
}

type Awaited = RwLock<Option<(u64, Mark)>>;

impl Mark {
    fn is_in(&self, changes: &[Change]) -> bool {
        changes.iter().any(|change| match (self, change) {
            (Self::Readiness(uid, is_ready), Change::PutWorkload(workload)) => {
                *workload.uid == **uid && (workload.health == Health::Healthy) == *is_ready
            }
            (Self::Endpoint(uid), Change::PutWorkload(workload)) => {
                *workload.uid == **uid && !workload.services.is_empty()
            }
            (Self::Policy(key), Change::PutPolicy(policy)) => *policy.key == **key,
            _ => false,
        })
    }
}

impl Subscribers {
    /// Connects an agent for each of the first `count` nodes of `nodes`, where there are so many pods.
    pub async fn connect(target: &Target, count: usize, nodes: usize, pods: usize) -> Result<Self> {
        let (start, tasks) = (Instant::now(), Tasks::new());
        let (room, awaited) = (Arc::new(Semaphore::new(WAVE)), Arc::new(Awaited::default()));
        let (sender, heard) = mpsc::unbounded_channel();
        let mut opening = JoinSet::new();
        for node in 0..count {
            let agent = Agent { target: target.clone(), node, nodes, pods };
            let (room, tasks, awaited, sender) =
                (Arc::clone(&room), tasks.clone(), Arc::clone(&awaited), sender.clone());
            opening.spawn(async move {
                let _turn = room.acquire().await?;
                agent.connect(&tasks, awaited, sender).await
            });
        }
        let all = async {
            let mut agents = Vec::with_capacity(count);
            while let Some(opened) = opening.join_next().await {
                agents.push(opened.context("an agent panicked")??);
            }
            anyhow::Ok(agents)
        };
        let agents = tokio::time::timeout(CONNECT_WITHIN, all).await;
        let agents = agents.with_context(|| format!("not all agents have everything after {CONNECT_WITHIN:?}"))??;
        let connected_after = start.elapsed();
        Ok(Self { awaited, heard, count, number: 0, tasks, _agents: agents, connected_after })
    }

    /// From now on it is noted when each agent hears of this.
    pub fn expect(&mut self, mark: Mark) {
        self.number += 1;
        *self.awaited.write().unwrap_or_else(PoisonError::into_inner) = Some((self.number, mark));
    }

    /// When each of them heard of what was expected last, counted from `start`.
    pub async fn heard_since(&mut self, start: Instant) -> Result<Vec<Duration>> {
        let deadline = tokio::time::Instant::now() + HEAR_WITHIN;
        let mut times = Vec::with_capacity(self.count);
        while times.len() < self.count {
            match tokio::time::timeout_at(deadline, self.heard.recv()).await {
                Ok(Some((number, at))) if number == self.number => times.push(at.saturating_duration_since(start)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    bail!("{} of {} agents have not heard of a change", self.count - times.len(), self.count)
                }
            }
        }
        Ok(times)
    }

    /// Disconnects them all.
    pub async fn disconnect(self) {
        self.tasks.drain(Duration::from_secs(10)).await;
    }
}

/// One of them.
struct Agent {
    target: Target,
    node: usize,
    nodes: usize,
    pods: usize,
}

impl Agent {
    async fn connect(
        self,
        tasks: &Tasks,
        awaited: Arc<Awaited>,
        heard: mpsc::UnboundedSender<(u64, Instant)>,
    ) -> Result<Discovery> {
        let name = objects::node_name(self.node);
        let options = ControlPlaneOptions {
            url: self.target.url.clone(),
            roots: self.target.roots.clone(),
            token: Some(token_file(&self.target.tokens, &name)),
        };
        let options = DiscoveryOptions {
            control_plane: ControlPlane::new(options)?,
            node: NodeDescription {
                address: [127, 0, 0, 1].into(),
                pod: format!("{}-{name}", objects::AGENT),
                namespace: objects::SYSTEM.to_owned(),
                node: name,
                cluster: "Kubernetes".to_owned(),
                network: String::new(),
            },
            on_demand: !self.target.wildcard,
            with_routes: false,
        };
        let (discovery, mut discovered) = Discovery::start(options, tasks);
        let mut wanted = 0;
        for number in (self.node..self.pods).step_by(self.nodes) {
            ensure!(discovery.want_named(&Pod::numbered(number, self.nodes).uid()), "too much is wanted");
            wanted += 1;
        }
        let services = (self.pods / objects::PODS_OF_A_SERVICE).max(1);
        let talked_to = (0..SERVICES.min(services)).map(|n| (self.node * 31 + n * services / SERVICES) % services);
        let mut addresses: Vec<_> = talked_to.map(objects::service_address).collect();
        addresses.push(objects::popular_address());
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            ensure!(discovery.want(address.into()), "too much is wanted");
            wanted += 1;
        }
        while wanted > 0 {
            match discovered.news.recv().await.context("discovery has ended")? {
                News::Update(_) | News::Remembered(_) => {}
                News::Answers(answers) => wanted -= answers.len().min(wanted),
            }
        }
        tasks.spawn("subscriber", async move {
            let mut last = 0;
            while let Some(news) = discovered.news.recv().await {
                let News::Update(update) = news else { continue };
                let now = Instant::now();
                let awaited = awaited.read().unwrap_or_else(PoisonError::into_inner);
                if let Some((number, mark)) = &*awaited
                    && *number != last
                    && mark.is_in(&update.changes)
                {
                    last = *number;
                    let _ = heard.send((*number, now));
                }
            }
        });
        Ok(discovery)
    }
}

/// Where a node's token is.
pub fn token_file(folder: &Path, node: &str) -> PathBuf {
    folder.join(node)
}
