//! The agent, put together: this file names every part and reads as the start-up script that it is.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use weft_control::discovery::{Discovered, Discovery, DiscoveryOptions, NodeDescription};
use weft_control::{FileSource, LocalPod, SourceOptions, TranslationOptions, Update, kubernetes};
use weft_model::{MeshOptions, SnapshotCell, Store};
use weft_runtime::{Shutdown, SystemClock, Tasks};
use weft_transport::{
    CertificateAuthority, CertificateOptions, CertificateSource, Certificates, ControlPlane, RemoteAuthority,
};

use crate::admin::{Admin, Listeners};
use crate::capture::{self, Capture, CaptureOptions, LogLevel};
use crate::clearing::Clearing;
use crate::cni::{self, Installation};
use crate::command::{AgentOptions, DiscoveryMode, NodeSource};
use crate::enrol::{Enrolment, EnrolmentOptions, EnrolmentStatus};
use crate::footprint;
use crate::joined::{self, Heard};
use crate::node::{NodePods, Places, Territory, follow_kubelet};
use crate::proxy::demand::Demand;
use crate::proxy::origin::Origin;
use crate::proxy::{Proxy, Shared};
use crate::publish::{self, Learned, Publisher};
use crate::telemetry::{AccessLog, Logging, Metrics};
use crate::view::{Problems, View};

/// Certificates that are requested at one time.
const CERTIFICATE_CONCURRENCY: usize = 8;
/// How long the log's writers may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the control tasks may take at the end.
const TASKS_END: Duration = Duration::from_secs(2);
/// How long the pods of a node may take to leave the mesh, before their connections are drained.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// How often series of workloads that are gone are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// So many changes at once leave enough behind in memory to look for it.
const LARGE_CHANGE: usize = 500;
/// How often it is looked at what the pods talk to, on demand.
const USE_INTERVAL: Duration = Duration::from_secs(60);
/// Addresses that are asked for at once.
const ASKED_AT_ONCE: usize = 1024;
/// How often the probe cgroup is looked up again.
const PROBE_CGROUP_INTERVAL: Duration = Duration::from_secs(1);

impl Origin for Capture {
    fn original_destination(&self, socket: std::os::fd::BorrowedFd<'_>) -> io::Result<Option<std::net::SocketAddr>> {
        Capture::original_destination(self, socket)
    }

    fn tag_own(&self, socket: std::os::fd::BorrowedFd<'_>, client: Option<std::net::SocketAddr>) -> io::Result<()> {
        Capture::tag_own(self, socket, client)
    }

    fn is_client_known(&self, socket: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
        Capture::is_client_known(self, socket)
    }
}

/// Runs the agent until it is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// When it cannot be started: the state directory is in use, the certificate authority cannot be opened, the kernel
/// lacks something, an address is taken.
pub fn run_agent(options: AgentOptions) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let logging = Logging::start(&options.log, options.log_format, io::stderr(), metrics.agent.log.clone())?;
    let access_log = match options.access_log.line_format() {
        Some(format) => AccessLog::start(format, io::stdout(), metrics.agent.access_log.clone())?,
        None => AccessLog::off(),
    };
    raise_descriptor_limit();
    let _owned = own_state_dir(&options.state_dir)?;
    // One thread is enough for what is not on the way of a byte, and keeps an idle agent small.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("starting the control runtime")?;
    let result = runtime.block_on(run(options, metrics, &access_log, &logging));
    if !access_log.finish(LAST_WORDS) {
        tracing::warn!("access records are lost: the output is too slow");
    }
    result
}

async fn run(
    options: AgentOptions,
    metrics: Arc<Metrics>,
    access_log: &AccessLog,
    logging: &Logging,
) -> anyhow::Result<()> {
    // Signals are watched first: an agent that is told to end while it starts does so in order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tasks = Tasks::new();
    let listeners = Listeners::bind(&options.admin_options())?;

    // What takes long at the start goes on at once: reading the folder, opening the authority, loading the programs.
    let enrolment_status = Arc::<EnrolmentStatus>::default();
    // The folder is watched for as long as its source lives.
    let Pods { _folder, updates, cluster } = pods_of_this_node(&options, &enrolment_status, &tasks).await?;
    if let Some(Cluster { clearing, .. }) = &cluster
        && clearing.is_ordered().await
    {
        tokio::select! {
            () = cleared(clearing) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        return Ok(());
    }
    let (heard, hearing) = mpsc::channel(4);
    let discovery = match follow_control_plane(&options, &tasks)? {
        Some((discovery, discovered)) => {
            tasks.spawn("configuration", until(tasks.shutdown(), joined::join(discovered, updates, heard)));
            Some(discovery)
        }
        None => {
            tasks.spawn("configuration", until(tasks.shutdown(), joined::alone(updates, heard)));
            None
        }
    };
    let (demand, asks) = match &discovery {
        Some(_) if options.control_planes.mode == DiscoveryMode::OnDemand => {
            let (demand, asks) = Demand::new();
            (Some(demand), Some(asks))
        }
        _ => (None, None),
    };
    let clock = Arc::new(SystemClock);
    let opening = options.control_planes.authority.is_none().then(|| {
        let (directory, trust_domain, clock) = (options.ca_dir.clone(), options.trust_domain.clone(), clock.clone());
        tokio::task::spawn_blocking(move || CertificateAuthority::open(&directory, &trust_domain, clock))
    });

    // Capture.
    let capture = Capture::start(CaptureOptions {
        bpf_dir: options.bpf_dir.clone(),
        node: options.node.clone(),
        cgroup_root: options.cgroup_root.clone(),
        probe_cgroup: options.probe_cgroup.clone(),
        loopback_congestion_control: options.loopback_congestion_control.name(),
        log: LogLevel::default(),
    })
    .context("starting capture")?;
    if demand.is_some() {
        publish::capture_everything(&capture).context("capturing what is not known to be outside the mesh")?;
    }
    let capture = Arc::new(capture);
    tasks.spawn("capture-log", until(tasks.shutdown(), capture.forward_log()));
    if cluster.is_some() && options.probe_cgroup.is_none() {
        let root = capture.cgroup_root().to_owned();
        tasks.spawn("kubelet", until(tasks.shutdown(), follow_kubelet(capture.clone(), root)));
    } else {
        tasks.spawn("probe-cgroup", until(tasks.shutdown(), follow_probe_cgroup(capture.clone())));
    }

    // Identity.
    let authority: Arc<dyn CertificateSource> = match (opening, &options.control_planes.authority) {
        (Some(opening), _) => Arc::new(
            opening
                .await
                .context("opening the certificate authority")?
                .with_context(|| format!("the certificate authority in {}", options.ca_dir.display()))?,
        ),
        (None, remote) => {
            let remote = remote.clone().context("there is no certificate authority")?;
            Arc::new(RemoteAuthority::new(ControlPlane::new(remote)?, &options.cluster)?)
        }
    };
    let certificate_options = CertificateOptions {
        trust_domain: options.trust_domain.clone(),
        trust_domain_aliases: options.trust_domain_aliases.clone(),
        lifetime: options.certificate_lifetime,
        concurrency: CERTIFICATE_CONCURRENCY,
        extra_roots: options.extra_roots.clone(),
        revocation_lists: options.revocation_lists.clone(),
    };
    let certificates = Certificates::start(authority, certificate_options, clock, &tasks)?;

    // The data path.
    let store = Store::new(MeshOptions {
        network: options.network.as_str().into(),
        root_namespace: options.root_namespace.as_str().into(),
        trust_domain: options.trust_domain.as_str().into(),
    });
    let snapshots = Arc::new(SnapshotCell::new(store.snapshot().clone()));
    let (learned, learned_addresses) = Learned::new();
    let shared = Shared::new(
        snapshots.clone(),
        certificates.clone(),
        capture.clone(),
        metrics.clone(),
        access_log.clone(),
        Box::new(learned),
    );
    let shared = Arc::new(shared.on_demand(demand.clone()));
    let proxy = Arc::new(Proxy::start(&shared, options.workers).context("starting the workers")?);

    // Enrolment and configuration.
    let (pods, wanted) = watch::channel(None);
    let enrolment_options = EnrolmentOptions {
        workers: options.workers,
        older_connections: options.older_connections,
        state_dir: options.state_dir.clone(),
    };
    let enrolment = Enrolment::new(
        capture.clone(),
        proxy.clone(),
        certificates.clone(),
        enrolment_options,
        enrolment_status.clone(),
        tasks.clone(),
    );
    let view = Arc::new(View {
        started: SystemTime::now(),
        snapshots: snapshots.clone(),
        certificates,
        capture: capture.clone(),
        proxy: proxy.clone(),
        enrolment: enrolment_status,
        problems: Arc::new(Problems::default()),
        discovery: discovery.clone(),
        demand: demand.clone(),
        is_draining: AtomicBool::new(false),
        options,
    });
    tasks.spawn("enrolment", enrolment.run(wanted, tasks.shutdown()));
    let mut publisher = Publisher::new(store, snapshots.clone(), capture.clone(), shared, proxy.clone());
    let (seen_used, used) = mpsc::channel(1);
    if let (Some(discovery), Some(demand)) = (discovery, demand) {
        publisher = publisher.on_demand(discovery, demand);
        tasks.spawn("use", until(tasks.shutdown(), watch_use(proxy.clone(), seen_used)));
    }
    let large_changes = Arc::new(Notify::new());
    let inputs = Inputs { hearing, learned: learned_addresses, asks, used };
    let publishing = publish(publisher, inputs, pods, view.problems.clone(), large_changes.clone());
    tasks.spawn("publish", until(tasks.shutdown(), publishing));
    tasks.spawn("settle", until(tasks.shutdown(), footprint::settle_after(large_changes)));
    tasks.spawn("prune", until(tasks.shutdown(), prune(metrics.clone(), snapshots)));
    let plug_in = Tasks::new();
    if let Some(installation) = installation(&view.options) {
        plug_in.spawn("cni", cni::keep(installation, plug_in.shutdown()));
    }
    let admin = Admin::new(view.clone(), metrics, Some(logging.control()));
    let admin = match &cluster {
        Some(cluster) => admin.with_sandboxes(cluster.pods.clone()),
        None => admin,
    };
    listeners.start(&admin, &tasks);
    tracing::info!(node = view.options.node, version = env!("CARGO_PKG_VERSION"), "the agent runs");

    let order = async {
        match &cluster {
            Some(cluster) => {
                cluster.clearing.ordered().await;
                cluster
            }
            None => std::future::pending().await,
        }
    };
    let order = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        cluster = order => Some(cluster),
    };
    plug_in.drain(TASKS_END).await;
    if let Some(cluster) = order {
        tracing::info!("told to clear this node: its pods leave the mesh");
        let leaving = async {
            cluster.clearing.take_plug_in_out().await;
            cluster.pods.leave(LEAVE_WITHIN).await;
        };
        tokio::select! {
            () = leaving => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    } else {
        tracing::info!("told to end: taking no more connections; capture stays, so that nothing goes out in clear");
    }
    view.is_draining.store(true, Ordering::Relaxed);
    tokio::select! {
        left = proxy.drain(view.options.drain_deadline) => {
            if left > 0 {
                tracing::warn!(connections = left, "the deadline has passed: what is left is reset");
            }
        }
        // A second signal means now.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    proxy.stop();
    tasks.drain(TASKS_END).await;
    if let Some(cluster) = order {
        tokio::select! {
            () = cleared(&cluster.clearing) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    Ok(())
}

/// Clears the node, and stays.
async fn cleared(clearing: &Clearing) {
    clearing.finish().await;
    std::future::pending().await
}

/// The control plane that describes the mesh, where one is configured.
fn follow_control_plane(options: &AgentOptions, tasks: &Tasks) -> anyhow::Result<Option<(Discovery, Discovered)>> {
    let planes = &options.control_planes;
    let Some(discovery) = &planes.discovery else {
        return Ok(None);
    };
    let node = NodeDescription {
        address: planes.address,
        pod: planes.pod.clone().unwrap_or_else(|| options.node.clone()),
        namespace: planes.namespace.clone(),
        node: options.node.clone(),
        cluster: options.cluster.clone(),
        network: options.network.clone(),
    };
    let control_plane = ControlPlane::new(discovery.clone())?;
    let on_demand = planes.mode == DiscoveryMode::OnDemand;
    Ok(Some(Discovery::start(DiscoveryOptions { control_plane, node, on_demand }, tasks)))
}

/// What tells which pods run on this node.
struct Pods {
    _folder: Option<FileSource>,
    updates: mpsc::Receiver<Update>,
    cluster: Option<Cluster>,
}

/// What an agent has to do with the cluster that its host is a node of.
struct Cluster {
    /// Where the container runtime tells of its sandboxes.
    pods: Arc<NodePods>,
    clearing: Clearing,
}

async fn pods_of_this_node(
    options: &AgentOptions,
    enrolment: &Arc<EnrolmentStatus>,
    tasks: &Tasks,
) -> anyhow::Result<Pods> {
    let translation = translation_options(options);
    match &options.source {
        NodeSource::Folder(folder) => {
            let (folder, updates) = FileSource::start(SourceOptions::new(folder, translation))?;
            Ok(Pods { _folder: Some(folder), updates, cluster: None })
        }
        NodeSource::Kubernetes { kubeconfig } => {
            let client = kubernetes::connect(kubeconfig.as_deref()).await?;
            let territory = Territory {
                excluded_namespaces: translation.excluded_namespaces.clone(),
                root_namespace: translation.root_namespace.clone(),
                has_captured: capture::has_pods(&options.bpf_dir, &options.node),
            };
            let said = kubernetes::start_node(&client, translation, tasks);
            let clearing = Clearing::new(client.clone(), options);
            let places = Places {
                state_dir: options.state_dir.clone(),
                remembered: options.cni.is_some().then(|| cni::Remembered::path(&options.state_dir)),
            };
            let (pods, updates) = NodePods::start(client, said, enrolment.clone(), territory, places, tasks);
            Ok(Pods { _folder: None, updates, cluster: Some(Cluster { pods, clearing }) })
        }
    }
}

/// Where the CNI plug-in is kept installed, if anywhere.
fn installation(options: &AgentOptions) -> Option<Installation> {
    let folders = options.cni.clone()?;
    Some(Installation {
        conf_dir: folders.conf_dir,
        bin_dir: folders.bin_dir,
        state_dir: options.state_dir.clone(),
        admin_socket: options.admin_options().socket,
        namespaces: translation_options(options).excluded_namespaces,
        kubeconfig: None,
    })
}

fn translation_options(options: &AgentOptions) -> TranslationOptions {
    let cluster = match &options.source {
        NodeSource::Kubernetes { .. } => TranslationOptions::of_a_cluster(&options.control_planes.namespace),
        NodeSource::Folder(_) => TranslationOptions::default(),
    };
    TranslationOptions {
        node: options.node.clone(),
        cluster: options.cluster.clone(),
        network: options.network.clone(),
        trust_domain: options.trust_domain.clone(),
        cluster_domain: options.cluster_domain.clone(),
        root_namespace: options.root_namespace.clone(),
        ..cluster
    }
}

/// What the owner of the state is told.
struct Inputs {
    hearing: mpsc::Receiver<Heard>,
    learned: mpsc::Receiver<IpAddr>,
    /// On demand: what workers need to know.
    asks: Option<mpsc::Receiver<IpAddr>>,
    /// On demand: what is talked to.
    used: mpsc::Receiver<HashSet<IpAddr>>,
}

/// Applies what the source reports, one batch after the other.
async fn publish(
    mut publisher: Publisher,
    inputs: Inputs,
    pods: watch::Sender<Option<Arc<[LocalPod]>>>,
    problems: Arc<Problems>,
    large_changes: Arc<Notify>,
) {
    let Inputs { mut hearing, mut learned, asks, mut used } = inputs;
    // The end that is kept makes it wait for ever where nothing is asked.
    let (_nobody, nothing) = mpsc::channel(1);
    let mut asks = asks.unwrap_or(nothing);
    let mut asked = Vec::new();
    let mut is_first = true;
    loop {
        tokio::select! {
            heard = hearing.recv() => match heard {
                None => return,
                Some(Heard::Pods(uids)) => publisher.own_pods(uids),
                Some(Heard::Answers(answers)) => publisher.answered(answers),
                Some(Heard::Update(update)) => {
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
            },
            _ = asks.recv_many(&mut asked, ASKED_AT_ONCE) => {
                publisher.asked(&asked);
                asked.clear();
            }
            address = learned.recv() => {
                let Some(address) = address else { return };
                publisher.learned(address);
            }
            Some(addresses) = used.recv() => publisher.used(&addresses),
        }
    }
}

/// Tells from time to time what this node's pods talk to.
async fn watch_use(proxy: Arc<Proxy>, seen: mpsc::Sender<HashSet<IpAddr>>) {
    let mut interval = tokio::time::interval(USE_INTERVAL);
    loop {
        interval.tick().await;
        if seen.send(proxy.talked_to().await).await.is_err() {
            return;
        }
    }
}

/// Ends `task` when its owner wants that; it is one that may be dropped at any of its waits.
async fn until(mut shutdown: Shutdown, task: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        () = task => {}
    }
}

async fn prune(metrics: Arc<Metrics>, snapshots: Arc<SnapshotCell>) {
    let mut interval = tokio::time::interval(PRUNE_INTERVAL);
    loop {
        interval.tick().await;
        metrics.tcp.prune(&snapshots.load(), std::time::Instant::now());
    }
}

/// The kubelet's cgroup has another id after each of its restarts.
async fn follow_probe_cgroup(capture: Arc<Capture>) {
    let mut interval = tokio::time::interval(PROBE_CGROUP_INTERVAL);
    let mut last = String::new();
    loop {
        interval.tick().await;
        let said = capture.refresh_probe_cgroup().err().map(|error| error.to_string()).unwrap_or_default();
        if !said.is_empty() && said != last {
            tracing::warn!("probes are judged like any connection: {said}");
        }
        last = said;
    }
}

/// Every connection takes two descriptors or more: the agent takes what it may have.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Makes the state directory and keeps other agents out of it.
fn own_state_dir(path: &Path) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making the state directory {}", path.display()))?;
    let lock = path.join("agent.lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        .with_context(|| format!("opening {}", lock.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            anyhow::anyhow!(
                "another agent runs with the state directory {}: stop it, or give this one a --state-dir of its own",
                path.display()
            )
        } else {
            anyhow::Error::new(error).context(format!("locking {}", lock.display()))
        }
    })?;
    Ok(file)
}
