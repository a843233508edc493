//! The waypoint process, put together: what a folder of manifests says, certificates, the proxy, and what is told of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weft_control::{FileSource, SourceOptions, TranslationOptions, Update};
use weft_model::{MeshOptions, Store};
use weft_route::RouteStore;
use weft_runtime::{Clock, Shutdown, SystemClock, Tasks};
use weft_transport::{CertificateAuthority, CertificateOptions, Certificates};
use weft_waypoint::{
    ConnectionEnd, ConnectionRecord, Limits, Observe, RequestRecord, State, StateCell, Waypoint, WaypointOptions,
    WaypointParts,
};

use crate::admin::{ScrapeListeners, Scraped};
use crate::command::WaypointProcessOptions;
use crate::telemetry::{
    ConnectionLabels, ConnectionSecurity, Exposition, Logging, Metrics, Reporter, RequestMetrics, ResponseFlags,
    SinkCounters, WaypointLog,
};

/// How long the control tasks, and the log's writer, may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often series of workloads that are gone are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Runs the waypoint until it is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// When it cannot be started: the folder or the authority cannot be read, the address is taken.
pub fn run_waypoint(options: WaypointProcessOptions) -> anyhow::Result<()> {
    let log = SinkCounters::default();
    let _logging = Logging::start(&options.log, options.log_format, io::stderr(), log)?;
    crate::wire::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("weft-control")
        .build()
        .context("starting the runtime")?;
    runtime.block_on(run(options))
}

async fn run(options: WaypointProcessOptions) -> anyhow::Result<()> {
    // Signals are watched first: a waypoint that is told to end while it starts does so in order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tasks = Tasks::new();
    let listeners = ScrapeListeners::bind(options.metrics, options.readiness)?;
    let told = Arc::new(Told::start(&options)?);
    listeners.start(&(told.clone() as Arc<dyn Scraped>), &tasks);

    // What there is to know. Nothing is served before all of it is here.
    let translation = TranslationOptions {
        cluster: options.cluster.clone(),
        network: options.network.clone(),
        trust_domain: options.trust_domain.clone(),
        cluster_domain: options.cluster_domain.clone(),
        root_namespace: options.root_namespace.clone(),
        ..TranslationOptions::default()
    };
    let (_folder, mut updates) = FileSource::start(SourceOptions::new(&options.config, translation))?;
    let mut known = Known::new(&options);
    let certificates = certificates(&options, &tasks).await?;
    let starting = async {
        let update = updates.recv().await.context("the source of the configuration ended")?;
        known.apply(update);
        certificates.ready(&options.identity).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        started = starting => started?,
    }
    let state = known.cell.clone();
    let parts = WaypointParts { state: state.clone(), certificates, observer: told.clone() };
    let mut waypoint = Waypoint::start(waypoint_options(&options), parts)
        .with_context(|| format!("taking tunnels on {}", options.address))?;
    tasks.spawn("configuration", follow(known, updates, tasks.shutdown()));
    tasks.spawn("prune", prune(told.clone(), state, tasks.shutdown()));
    told.is_serving.store(true, Ordering::Relaxed);
    tracing::info!(
        gateway = format!("{}/{}", options.namespace, options.name),
        address = %waypoint.address(),
        version = env!("CARGO_PKG_VERSION"),
        "the waypoint runs"
    );

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end: taking no more tunnels");
    told.is_serving.store(false, Ordering::Relaxed);
    tokio::select! {
        is_done = waypoint.drain(options.drain_deadline) => {
            if !is_done {
                tracing::warn!("the deadline has passed: what is left is reset");
            }
        }
        // A second signal means now.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(waypoint);
    tasks.drain(LAST_WORDS).await;
    told.log.finish(LAST_WORDS);
    Ok(())
}

fn waypoint_options(options: &WaypointProcessOptions) -> WaypointOptions {
    let WaypointProcessOptions { namespace, name, cluster_domain, .. } = options;
    WaypointOptions {
        address: options.address,
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
        service: format!("{namespace}/{name}.{namespace}.svc.{cluster_domain}").into(),
        identity: options.identity.clone(),
        workers: options.workers,
        limits: Limits::default(),
    }
}

async fn certificates(options: &WaypointProcessOptions, tasks: &Tasks) -> anyhow::Result<Arc<Certificates>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (folder, trust_domain, its_clock) = (options.ca_dir.clone(), options.trust_domain.clone(), Arc::clone(&clock));
    let opening = move || CertificateAuthority::open(&folder, &trust_domain, its_clock);
    let authority = tokio::task::spawn_blocking(opening)
        .await
        .context("opening the certificate authority")?
        .with_context(|| format!("the certificate authority in {}", options.ca_dir.display()))?;
    let certificate_options = CertificateOptions {
        trust_domain: options.trust_domain.clone(),
        lifetime: options.certificate_lifetime,
        ..CertificateOptions::default()
    };
    let certificates = Certificates::start(Arc::new(authority), certificate_options, clock, tasks)?;
    certificates.want(&options.identity);
    Ok(certificates)
}

/// The owner of what the waypoint knows.
struct Known {
    store: Store,
    routes: RouteStore,
    cell: Arc<StateCell>,
    said: Vec<weft_control::Problem>,
}

impl Known {
    fn new(options: &WaypointProcessOptions) -> Self {
        let store = Store::new(MeshOptions {
            network: options.network.as_str().into(),
            root_namespace: options.root_namespace.as_str().into(),
            trust_domain: options.trust_domain.as_str().into(),
        });
        let routes = RouteStore::new();
        let cell =
            StateCell::new(State { snapshot: Arc::clone(store.snapshot()), routes: Arc::clone(routes.current()) });
        Self { store, routes, cell, said: Vec::new() }
    }

    fn apply(&mut self, update: Update) {
        for problem in update.problems.iter().filter(|problem| !self.said.contains(*problem)) {
            tracing::warn!("{problem}");
        }
        self.said = update.problems;
        let snapshot = self.store.apply(update.changes).snapshot;
        let routes = self.routes.apply(update.routes);
        self.cell.publish(State { snapshot, routes });
    }
}

async fn follow(mut known: Known, mut updates: mpsc::Receiver<Update>, mut shutdown: Shutdown) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            update = updates.recv() => match update {
                Some(update) => known.apply(update),
                None => return,
            }
        }
    }
}

async fn prune(told: Arc<Told>, state: Arc<StateCell>, mut shutdown: Shutdown) {
    let mut interval = tokio::time::interval(PRUNE_INTERVAL);
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            _ = interval.tick() => {
                told.metrics.tcp.prune(&state.load().snapshot, Instant::now());
            }
        }
    }
}

/// What is told of requests, and of the waypoint itself.
struct Told {
    metrics: Metrics,
    requests: Arc<RequestMetrics>,
    log: WaypointLog,
    is_serving: AtomicBool,
}

impl Told {
    fn start(options: &WaypointProcessOptions) -> io::Result<Self> {
        let requests = Arc::<RequestMetrics>::default();
        let metrics = Metrics::with(|registry: &mut Registry| {
            registry.register_collector(Box::new(Arc::clone(&requests)));
        });
        let counters = metrics.agent.access_log.clone();
        let log = WaypointLog::start(options.access_log.line_format(), io::stdout(), counters)?;
        Ok(Self { metrics, requests, log, is_serving: AtomicBool::new(false) })
    }

    fn labels(ends: &ConnectionEnd, flags: ResponseFlags) -> ConnectionLabels<'_> {
        let endpoint = ends.endpoint.as_ref();
        ConnectionLabels {
            reporter: Reporter::Waypoint,
            source: ends.source.as_ref(),
            destination: endpoint,
            source_identity: Some(&ends.client.identity),
            destination_identity: endpoint.filter(|endpoint| endpoint.is_hbone()).map(|endpoint| &endpoint.identity),
            service: ends.service.as_ref(),
            security: ConnectionSecurity::MutualTls,
            flags,
        }
    }
}

impl Observe for Told {
    fn request(&self, record: RequestRecord) {
        self.requests.count(&record);
        self.log.request(record);
    }

    fn opened(&self, ends: &ConnectionEnd) {
        self.metrics.tcp.series(&Self::labels(ends, ResponseFlags::None)).opened();
    }

    fn closed(&self, record: ConnectionRecord) {
        let flags = match (record.is_denied, record.is_established, &record.error) {
            (true, ..) => ResponseFlags::Denied,
            (_, false, _) => ResponseFlags::ConnectFailure,
            _ => ResponseFlags::None,
        };
        let series = self.metrics.tcp.series(&Self::labels(&record.ends, flags));
        if record.is_established {
            series.add_from_client(record.from_client);
            series.add_to_client(record.to_client);
            series.closed();
        } else {
            series.failed();
        }
        self.log.connection(record);
    }
}

impl Scraped for Told {
    fn metrics(&self, exposition: Exposition) -> String {
        self.metrics.render(exposition)
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        match self.is_serving.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(vec!["no tunnels are taken: it starts, or ends".to_owned()]),
        }
    }
}
