//! The agent, put together: this file names every part and reads as the start-up script that it is.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use weft_control::discovery::{Discovered, Discovery, DiscoveryOptions, NodeDescription};
use weft_control::{FileSource, SourceOptions, TranslationOptions, Update, kubernetes};
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
use crate::duty::Duty;
use crate::enrol::{Enrolment, EnrolmentOptions, EnrolmentStatus, PodState, PodStatus};
use crate::footprint;
use crate::hand_over::{self, Predecessor, Prepared, Standing, Succeeded};
use crate::joined;
use crate::last_state::{self, KeptState, Known};
use crate::node::{NodePods, Places, Territory, follow_kubelet};
use crate::office::{Duties, Office, Tenure};
use crate::proxy::demand::Demand;
use crate::proxy::origin::Origin;
use crate::proxy::{Proxy, Shared};
use crate::publish::{self, Inputs, Learned, Publisher};
use crate::state_dir;
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
    state_dir::make(&options.state_dir)?;
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
    let standing = tokio::select! {
        standing = hand_over::stand(&options) => standing?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let duties = Duties::new(matches!(standing, Standing::Alone(_)));

    // What takes long at the start goes on at once: reading the folder, opening the authority, loading the programs.
    let enrolment_status = Arc::<EnrolmentStatus>::default();
    // The folder is watched for as long as its source lives.
    let Pods { _folder, updates, cluster } =
        pods_of_this_node(&options, &enrolment_status, &duties.node, &tasks).await?;
    if let Some(Cluster { clearing, .. }) = &cluster
        && matches!(standing, Standing::Alone(_))
        && clearing.is_ordered().await
    {
        tokio::select! {
            () = cleared(clearing) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        return Ok(());
    }
    let (heard, mut hearing) = mpsc::channel(4);
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

    // Office: this agent's own, or from the one that runs, which goes on to serve until all its pods are enrolled here.
    let asked = discovery.as_ref().filter(|_| demand.is_some());
    let succeeding = hand_over::succeed(standing, &options, &mut hearing, asked, &certificates);
    let Succeeded { lock, predecessor, mut prepared } = tokio::select! {
        succeeded = succeeding => succeeded?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let listeners = Listeners::bind(&options.admin_options())?;
    if let Some(cluster) = &cluster {
        cluster.pods.take_up().await;
    }
    duties.node.take_up().await;

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
        // Nothing is known of the mesh's ranges then: whatever is not known to be outside goes to the agent.
        capture.widen().context("capturing what is not known to be outside the mesh")?;
    }
    let capture = Arc::new(capture);
    tasks.spawn("capture-log", until(tasks.shutdown(), capture.forward_log()));
    if cluster.is_some() && options.probe_cgroup.is_none() {
        let root = capture.cgroup_root().to_owned();
        tasks.spawn("kubelet", until(tasks.shutdown(), follow_kubelet(capture.clone(), root, duties.node.clone())));
    } else {
        tasks.spawn("probe-cgroup", until(tasks.shutdown(), follow_probe_cgroup(capture.clone(), duties.node.clone())));
    }

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
        duty: duties.enrolment.clone(),
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
        is_taking_over: AtomicBool::new(predecessor.is_some()),
        is_draining: AtomicBool::new(false),
        options,
    });
    tasks.spawn("enrolment", enrolment.run(wanted, tasks.shutdown()));
    let mut publisher = Publisher::new(store, snapshots.clone(), capture.clone(), shared, proxy.clone());
    let (seen_used, used) = mpsc::channel(1);
    if let (Some(discovery), Some(demand)) = (discovery, demand) {
        publisher = publisher.on_demand(discovery, demand);
        tasks.spawn("use", until(tasks.shutdown(), publish::watch_use(proxy.clone(), seen_used)));
    }
    tasks.spawn(
        "certificates-wake",
        until(tasks.shutdown(), wake_for_certificates(view.certificates.clone(), proxy.clone())),
    );
    if let (Some(discovery), Some(source)) = (view.discovery.clone(), &view.options.control_planes.discovery) {
        let kept = KeptState::of(&view.options.state_dir, &source.url, &view.options.network);
        if let Some(patience) = view.options.control_planes.last_state {
            let recalling = last_state::recall(kept.clone(), discovery.clone(), patience);
            tasks.spawn("recall", until(tasks.shutdown(), recalling));
        }
        tasks.spawn("retry", until(tasks.shutdown(), retry_certificates(discovery.clone(), view.certificates.clone())));
        let known = Known {
            snapshots: snapshots.clone(),
            demand: view.demand.clone(),
            discovery,
            duty: duties.publication.clone(),
        };
        tasks.spawn("last-state", last_state::keep(kept, known, tasks.shutdown()));
    }
    let large_changes = Arc::new(Notify::new());
    let inputs = Inputs {
        first: std::mem::take(&mut prepared.heard),
        hearing,
        learned: learned_addresses,
        asks,
        used,
        duty: duties.publication.clone(),
    };
    let publishing = publish::run(publisher, inputs, pods, view.problems.clone(), large_changes.clone());
    tasks.spawn("publish", until(tasks.shutdown(), publishing));
    tasks.spawn("settle", until(tasks.shutdown(), footprint::settle_after(large_changes)));
    tasks.spawn("prune", until(tasks.shutdown(), prune(metrics.clone(), snapshots)));
    if let Some(predecessor) = predecessor {
        tasks.spawn("taking-over", until(tasks.shutdown(), replace(predecessor, prepared, view.clone())));
    }
    let (successors_sender, successors) = mpsc::channel(1);
    let admin = Admin::new(view.clone(), metrics, Some(logging.control())).with_successors(successors_sender);
    let admin = match &cluster {
        Some(cluster) => admin.with_sandboxes(cluster.pods.clone()),
        None => admin,
    };
    let office = Office {
        options: view.options.clone(),
        admin,
        capture,
        pods: cluster.as_ref().map(|cluster| cluster.pods.clone()),
        installation: installation(&view.options),
        duties,
    };
    let mut tenure = Tenure::begin(office, lock, listeners, successors);
    tracing::info!(node = view.options.node, version = env!("CARGO_PKG_VERSION"), "the agent runs");

    let ordered = async {
        match &cluster {
            Some(cluster) => cluster.clearing.ordered().await,
            None => std::future::pending().await,
        }
    };
    let (mut ordered, mut is_ordered) = (pin!(ordered), false);
    let order = loop {
        // One that is out of office leaves it to its successor.
        if is_ordered && tenure.is_acting() {
            break cluster.as_ref();
        }
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            () = &mut ordered, if !is_ordered => is_ordered = true,
            () = tenure.step() => {}
        }
    };
    let told = Instant::now();
    tenure.leave_plug_in().await;
    let mut drain_deadline = view.options.drain_deadline;
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
        tokio::select! {
            () = tenure.see_succeeded(drain_deadline / 2) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        drain_deadline = drain_deadline.saturating_sub(told.elapsed());
        tracing::info!("told to end: taking no more connections; capture stays, so that nothing goes out in clear");
    }
    view.is_draining.store(true, Ordering::Relaxed);
    tokio::select! {
        left = proxy.drain(drain_deadline) => {
            if left > 0 {
                tracing::warn!(connections = left, "the deadline has passed: what is left is reset");
            }
        }
        // A second signal means now.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    proxy.stop();
    tenure.end().await;
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

/// Tells the predecessor when all pods are enrolled here, and holds on to it: should this agent die, it goes on.
async fn replace(mut predecessor: Predecessor, mut prepared: Prepared, view: Arc<View>) {
    let mut enrolled = view.enrolment.subscribe();
    let is_done = |pods: &[PodStatus]| {
        pods.iter().all(|pod| pod.state != PodState::NotEnrolled || !prepared.pods.contains(&pod.uid))
    };
    if enrolled.wait_for(|pods| pods.as_deref().is_some_and(is_done)).await.is_err() {
        return;
    }
    prepared.release(&view.certificates);
    view.is_taking_over.store(false, Ordering::Relaxed);
    tracing::info!("took over from the agent before this one");
    // One that is gone needs no telling.
    let _ = predecessor.tell_done().await;
    predecessor.gone().await;
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
    Ok(Some(Discovery::start(DiscoveryOptions { control_plane, node, on_demand, with_routes: false }, tasks)))
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
    duty: &Duty,
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
                duty: duty.clone(),
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

/// Connections may wait for certificates.
async fn wake_for_certificates(certificates: Arc<Certificates>, proxy: Arc<Proxy>) {
    let mut changes = certificates.changes();
    while changes.changed().await.is_ok() {
        proxy.wake();
    }
}

/// Where the control plane is again, its authority most often is, too.
async fn retry_certificates(discovery: Discovery, certificates: Arc<Certificates>) {
    let mut connected = discovery.connected();
    while connected.changed().await.is_ok() {
        certificates.retry();
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
        metrics.tcp.prune(&snapshots.load(), Instant::now());
    }
}

/// The kubelet's cgroup has another id after each of its restarts.
async fn follow_probe_cgroup(capture: Arc<Capture>, duty: Duty) {
    let mut interval = tokio::time::interval(PROBE_CGROUP_INTERVAL);
    let mut last = String::new();
    loop {
        interval.tick().await;
        let act = duty.act().await;
        if act.number().is_none() {
            continue;
        }
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
