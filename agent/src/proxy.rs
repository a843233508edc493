//! The data path: one worker per core, each with its own event loop, listeners, tunnels and flows.
//!
//! A connection lives and dies on one worker. Workers share nothing that is written on the way of a byte: they read
//! immutable snapshots, look certificates up without locks, and are told of everything else by commands.

mod socket;
mod table;
mod timers;
mod buffers;
mod baggage;
mod record;
pub mod origin;
pub mod pod;
pub mod demand;
mod flow;
mod tunnel;
mod pool;
mod worker;
mod held;
mod readiness;
mod outbound;
mod inbound;
mod handshake;
mod send;
mod receive;
mod relay;
mod ending;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};
use tokio::sync::oneshot;
use weft_model::{Balancer, Identity, Service, SnapshotCell, Workload};
use weft_transport::Certificates;

use crate::telemetry::{AccessLog, Metrics};
use demand::Demand;
use origin::Origin;
use pod::Pod;
pub use record::Direction;

/// Where captured connections of a pod arrive, in its network namespace.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where captured plaintext connections to a pod arrive, in its network namespace.
pub const INBOUND_PORT: u16 = 15006;
/// Where tunnels arrive, on a pod's addresses.
pub const HBONE_PORT: u16 = 15008;

/// The most that is read from one socket at once, and sealed before it is written: 16 full records.
const BATCH: usize = 256 * 1024;
/// Streams that a peer may have open in one tunnel.
const MAX_STREAMS: u32 = 1024;

/// What this side of a tunnel announces and tolerates.
fn http_config() -> weft_hbone::Config {
    weft_hbone::Config { max_concurrent_streams: MAX_STREAMS, ..weft_hbone::Config::default() }
}

/// What all workers read.
pub struct Shared {
    /// The configuration in force.
    pub snapshots: Arc<SnapshotCell>,
    /// Whose turn it is among a service's endpoints.
    pub balancer: Balancer,
    /// The certificates of this node's workloads.
    pub certificates: Arc<Certificates>,
    /// Capture, as far as a connection needs it.
    pub origin: Arc<dyn Origin>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// One record for each connection.
    pub access_log: AccessLog,
    /// Who joined the mesh only just now.
    pub announced: Announced,
    /// What is asked for only when somebody connects there; `None`: all that there is is known.
    pub demand: Option<Arc<Demand>>,
    /// Where to report addresses that turned out to be outside the mesh.
    pub learned: Box<dyn LearnOutside>,
}

impl Shared {
    /// Puts together what workers read.
    pub fn new(
        snapshots: Arc<SnapshotCell>,
        certificates: Arc<Certificates>,
        origin: Arc<dyn Origin>,
        metrics: Arc<Metrics>,
        access_log: AccessLog,
        learned: Box<dyn LearnOutside>,
    ) -> Self {
        Self {
            snapshots,
            balancer: Balancer::new(),
            certificates,
            origin,
            metrics,
            access_log,
            announced: Announced::default(),
            demand: None,
            learned,
        }
    }
}

impl Shared {
    /// What is not known is asked for by way of `demand`.
    #[must_use]
    pub fn on_demand(self, demand: Option<Arc<Demand>>) -> Self {
        Self { demand, ..self }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Takes note of addresses that no workload and no service has, so that capture can leave them alone.
pub trait LearnOutside: Send + Sync {
    /// `address` was looked up and is unknown. The receiver checks that against the configuration of its own time:
    /// this may be old news.
    fn outside(&self, address: IpAddr);
}

/// When workloads joined the mesh, for as long as that matters.
#[derive(Debug, Default)]
pub struct Announced(Mutex<Joined>);

#[derive(Debug, Default)]
struct Joined {
    /// When all did of which nothing else is said.
    all: Option<Instant>,
    each: HashMap<Arc<str>, Instant>,
}

impl Announced {
    /// Whatever there is can be reached by tunnel from now on: the agent has just learned of the mesh.
    pub fn note_all(&self, now: Instant) {
        *self.joined() = Joined { all: Some(now), each: HashMap::new() };
    }

    /// These workloads can be reached by tunnel from now on.
    pub fn note(&self, uids: impl IntoIterator<Item = Arc<str>>, now: Instant) {
        let mut joined = self.joined();
        joined.each.retain(|_, at| now.duration_since(*at) < outbound::ANNOUNCEMENT_GRACE * 4);
        joined.each.extend(uids.into_iter().map(|uid| (uid, now)));
    }

    fn is_recent(&self, uid: &str, within: Duration) -> bool {
        let joined = self.joined();
        let times = joined.all.iter().chain(joined.each.get(uid));
        times.into_iter().any(|at| at.elapsed() < within * 2)
    }

    fn joined(&self) -> MutexGuard<'_, Joined> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listeners of one pod for one worker, in non-blocking mode.
#[derive(Debug, Default)]
pub struct PodListeners {
    /// On 15001.
    pub outbound: Vec<OwnedFd>,
    /// On 15006.
    pub inbound: Vec<OwnedFd>,
    /// On 15008.
    pub hbone: Vec<OwnedFd>,
}

/// How far a live connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// The other side is not reached yet.
    Connecting,
    /// Bytes flow both ways.
    Open,
    /// One direction has ended.
    HalfClosed,
}

/// A live connection, for the operator.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Which way it goes, seen from the pod of this node.
    pub direction: Direction,
    /// How far it is.
    pub state: ConnectionState,
    /// The client's own address.
    pub client: SocketAddr,
    /// The endpoint.
    pub destination: SocketAddr,
    /// The other end of the tunnel; `None` in clear.
    pub tunnel: Option<SocketAddr>,
    /// The client's workload, if known.
    pub source: Option<Arc<Workload>>,
    /// The workload that is reached, if known.
    pub destination_workload: Option<Arc<Workload>>,
    /// The service that was addressed, if one was.
    pub service: Option<Arc<Service>>,
    /// The identity that the other side proved.
    pub peer: Option<Identity>,
    /// Bytes that the client sent.
    pub bytes_from_client: u64,
    /// Bytes that the client was sent.
    pub bytes_to_client: u64,
    /// Time since it was accepted.
    pub age: Duration,
}

/// What a worker is told.
pub(crate) enum Command {
    /// Serve a pod.
    Listen { pod: Arc<Pod>, listeners: PodListeners },
    /// Take no more connections of a pod; those that live go on.
    CloseListeners { pod: Arc<Pod> },
    /// The pod is gone: end everything of it.
    Forget { pod: Arc<Pod> },
    /// List the live connections.
    Connections { reply: oneshot::Sender<Vec<Connection>> },
    /// Tell whom the pods have connections with, or had some to since this was last asked. On demand.
    TalkedTo { reply: oneshot::Sender<HashSet<IpAddr>> },
    /// Count flows and tunnels.
    Count { reply: oneshot::Sender<(usize, usize)> },
    /// Take no more connections, and tell peers so.
    Drain,
    /// End what is left, and the thread.
    Stop,
}

struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The running workers.
pub struct Proxy {
    workers: Vec<Handle>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("workers", &self.workers.len()).finish()
    }
}

impl Proxy {
    /// Starts `workers` threads.
    ///
    /// # Errors
    /// When an event loop or a thread cannot be made.
    pub fn start(shared: &Arc<Shared>, workers: usize) -> io::Result<Self> {
        let workers = (0..workers).map(|index| Handle::start(shared, index)).collect::<io::Result<_>>()?;
        Ok(Self { workers })
    }

    /// Serves a pod: one set of listeners for each worker, in order.
    pub fn listen(&self, pod: &Arc<Pod>, listeners: impl IntoIterator<Item = PodListeners>) {
        for (worker, listeners) in self.workers.iter().zip(listeners) {
            worker.tell(Command::Listen { pod: pod.clone(), listeners });
        }
    }

    /// Takes no more connections of a pod; those that live go on.
    pub fn close_listeners(&self, pod: &Arc<Pod>) {
        self.tell_all(|| Command::CloseListeners { pod: pod.clone() });
    }

    /// Ends everything of a pod that is gone.
    pub fn forget(&self, pod: &Arc<Pod>) {
        self.tell_all(|| Command::Forget { pod: pod.clone() });
    }

    /// Has every worker look at what was published, now rather than with its next event.
    pub fn wake(&self) {
        for worker in &self.workers {
            worker.wake();
        }
    }

    /// The live connections of all workers.
    pub async fn connections(&self) -> Vec<Connection> {
        self.ask(|reply| Command::Connections { reply }).await.into_iter().flatten().collect()
    }

    /// Whom this node's pods have connections with, or had some to since this was last asked. On demand.
    pub async fn talked_to(&self) -> HashSet<IpAddr> {
        self.ask(|reply| Command::TalkedTo { reply }).await.into_iter().flatten().collect()
    }

    /// How many flows and tunnels there are.
    pub async fn counts(&self) -> (usize, usize) {
        let counts = self.ask(|reply| Command::Count { reply }).await;
        counts.into_iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }

    /// Takes no more connections, and waits up to `deadline` for those that live. Returns how many flows were left.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.tell_all(|| Command::Drain);
        let end = Instant::now() + deadline;
        loop {
            let (flows, tunnels) = self.counts().await;
            // A tunnel that carries nothing any more may still hold what its peer has not received.
            if (flows, tunnels) == (0, 0) || Instant::now() >= end {
                return flows;
            }
            tokio::time::sleep(Duration::from_millis(20).min(deadline)).await;
        }
    }

    /// Ends what is left and waits for the threads.
    pub fn stop(&self) {
        self.tell_all(|| Command::Stop);
        for worker in &self.workers {
            if let Some(thread) = worker.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
                && thread.join().is_err()
            {
                tracing::error!("a worker panicked");
            }
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.tell(command());
        }
    }

    async fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            worker.tell(command(reply));
            answers.push(answer);
        }
        let mut values = Vec::with_capacity(answers.len());
        for answer in answers {
            // A worker that has stopped has no answer.
            if let Ok(value) = answer.await {
                values.push(value);
            }
        }
        values
    }
}

impl Handle {
    fn start(shared: &Arc<Shared>, index: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), worker::WAKE)?;
        let (commands, receiver) = channel();
        let shared = shared.clone();
        let metrics = shared.metrics.agent.worker(index);
        let thread = std::thread::Builder::new()
            .name(format!("weft-worker-{index}"))
            .spawn(move || worker::Worker::new(shared, metrics, poll, receiver).run())?;
        Ok(Self { commands, waker, thread: Mutex::new(Some(thread)) })
    }

    fn tell(&self, command: Command) {
        // A worker that has stopped needs no telling.
        let _ = self.commands.send(command);
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "a worker cannot be woken");
        }
    }
}
