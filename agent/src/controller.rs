//! The controller, put together: one folder of manifests or one cluster, told to any number of agents, and their
//! certificates.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use weft_control::cluster::{self, Leadership, Member, Verdicts};
use weft_control::serve::{
    Authenticator, Certifier, Grants, Limits, Server, ServerParts, ServerTls, Signing, TokenFile, TokenReviews,
    Waypoints, World,
};
use weft_control::{FileSource, Severity, SourceOptions, TranslationOptions, Update, kubernetes};
use weft_runtime::{Clock, Shutdown, SystemClock, Tasks};
use weft_transport::CertificateAuthority;

use crate::admin::{ScrapeListeners, Scraped};
use crate::command::{ControllerOptions, ControllerSource};
use crate::footprint;
use crate::telemetry::{ControllerMetrics, ControllerObservation, Exposition, Logging, SinkCounters};

/// How long streams may take to end.
const TASKS_END: Duration = Duration::from_secs(8);

/// Runs the controller until it is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// When it cannot be started: the folder, the authority or the tokens cannot be read, there is no way to the API server,
/// the address is taken.
pub fn run_controller(options: ControllerOptions) -> anyhow::Result<()> {
    let log = SinkCounters::default();
    let _logging = Logging::start(&options.log, options.log_format, io::stderr(), log.clone())?;
    crate::wire::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("weft-control")
        .build()
        .context("starting the runtime")?;
    runtime.block_on(run(options, &log))
}

async fn run(options: ControllerOptions, log: &SinkCounters) -> anyhow::Result<()> {
    // Signals are watched first: a controller that is told to end while it starts does so in order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tasks = Tasks::new();
    let listeners = ScrapeListeners::bind(options.metrics, options.readiness)?;
    let monitored = Arc::new(Monitored {
        metrics: ControllerMetrics::new(log),
        signing: OnceLock::new(),
        leadership: OnceLock::new(),
        server: OnceLock::new(),
        configuration: Mutex::new(None),
    });
    listeners.start(&(monitored.clone() as Arc<dyn Scraped>), &tasks);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    // What there is to tell.
    let translation = TranslationOptions {
        cluster: options.cluster.clone(),
        network: options.network.clone(),
        trust_domain: options.trust_domain.clone(),
        cluster_domain: options.cluster_domain.clone(),
        root_namespace: options.root_namespace.clone(),
        ..match &options.source {
            ControllerSource::Kubernetes { namespace, .. } => TranslationOptions::of_a_cluster(namespace),
            ControllerSource::Files { .. } => TranslationOptions::default(),
        }
    };
    let verdicts = Verdicts::default();
    let world = World::new(&options.network);
    // A folder is watched for as long as its source lives.
    let (_folder, updates, authenticator, mut signing) = match &options.source {
        ControllerSource::Files { config, tokens, ca_dir } => {
            let tokens: Arc<dyn Authenticator> = Arc::new(TokenFile::open(tokens)?);
            let (folder, updates) = FileSource::start(SourceOptions::new(config, translation))?;
            let authority = authority_on_disk(ca_dir, &options.trust_domain, &clock).await?;
            (Some(folder), updates, tokens, Signing::fixed(Arc::new(authority)))
        }
        ControllerSource::Kubernetes { kubeconfig, namespace, agent_accounts } => {
            let client = kubernetes::connect(kubeconfig.as_deref()).await?;
            let waypoints = Arc::clone(&world) as Arc<dyn Waypoints>;
            let reviews: Arc<dyn Authenticator> =
                Arc::new(TokenReviews::new(client.clone(), agent_accounts.clone(), waypoints));
            let updates = kubernetes::start(&client, translation, &tasks);
            let signing =
                cluster::authority::follow(&client, namespace, &options.trust_domain, Arc::clone(&clock), &tasks);
            let (name, root_namespace) = (host_name(), &options.root_namespace);
            let member = Member { namespace, name: &name, root_namespace };
            let leadership = cluster::lead(&client, member, &signing, &verdicts, &tasks);
            monitored.leadership.get_or_init(|| leadership);
            (None, updates, reviews, signing)
        }
    };
    monitored.signing.get_or_init(|| signing.clone());
    let (reported, news) = mpsc::channel(1);
    tasks.spawn("problems", report(updates, reported, verdicts, monitored.clone(), tasks.shutdown()));
    tasks.spawn("world", Arc::clone(&world).follow(news, tasks.shutdown()));
    tasks.spawn("settle", settle(world.large_changes(), tasks.shutdown()));

    // Who may hear it, and who is given which certificates. Without an authority nobody can be served: readiness says so.
    tokio::select! {
        biased;
        _ = terminate.recv() => return end(&tasks).await,
        _ = interrupt.recv() => return end(&tasks).await,
        () = signing.ready() => {}
    }
    let grants = Arc::clone(&world) as Arc<dyn Grants>;
    let parts = ServerParts {
        world,
        authenticator,
        certifier: Some(Certifier::new(signing.clone(), grants, options.certificate_lifetime)),
        tls: ServerTls::start(signing, options.names, clock, &tasks)?,
        limits: Limits::default(),
    };
    let server = Server::start(options.listen, parts, &tasks).await?;
    let server = monitored.server.get_or_init(|| server);
    tracing::info!(address = %server.address(), version = env!("CARGO_PKG_VERSION"), "the controller runs");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(counts = ?server.counts(), "told to end: agents go on with what they know");
    end(&tasks).await
}

/// Gives back what reading much at once has taken: a start takes several times what is kept.
async fn settle(large_changes: Arc<Notify>, mut shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.requested() => {}
        () = footprint::settle_after(large_changes) => {}
    }
}

async fn end(tasks: &Tasks) -> anyhow::Result<()> {
    tasks.drain(TASKS_END).await;
    Ok(())
}

async fn authority_on_disk(
    ca_dir: &Path,
    trust_domain: &str,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<CertificateAuthority> {
    let (directory, trust_domain, clock) = (ca_dir.to_owned(), trust_domain.to_owned(), Arc::clone(clock));
    tokio::task::spawn_blocking(move || CertificateAuthority::open(&directory, &trust_domain, clock))
        .await
        .context("opening the certificate authority")?
        .with_context(|| format!("the certificate authority in {}", ca_dir.display()))
}

/// The name of this host: in a pod, that of the pod.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("weft-controller").to_owned()
}

/// What monitoring asks.
struct Monitored {
    metrics: ControllerMetrics,
    signing: OnceLock<Signing>,
    /// Among the controllers of a cluster.
    leadership: OnceLock<Leadership>,
    server: OnceLock<Server>,
    /// The configuration, once there is one.
    configuration: Mutex<Option<ControllerObservation>>,
}

impl Monitored {
    fn note(&self, update: &Update) {
        let problems = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "info")];
        let problems = problems.map(|(severity, name)| {
            (name, update.problems.iter().filter(|problem| problem.severity == severity).count())
        });
        let observation = ControllerObservation {
            objects: update.objects.by_kind().map(|(kind, count)| (kind.name(), count)).to_vec(),
            problems: problems.to_vec(),
            ..ControllerObservation::default()
        };
        *self.configuration.lock().unwrap_or_else(PoisonError::into_inner) = Some(observation);
    }
}

impl Scraped for Monitored {
    fn metrics(&self, exposition: Exposition) -> String {
        let configuration = self.configuration.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let counts = self.server.get().map(Server::counts).unwrap_or_default();
        let is_leader = self.leadership.get().map(Leadership::is_leader);
        self.metrics.observe(ControllerObservation { counts, is_leader, ..configuration.unwrap_or_default() });
        self.metrics.render(exposition)
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        let has_configuration = self.configuration.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let mut reasons = Vec::new();
        if self.server.get().is_none() {
            let missing = self.signing.get().and_then(|signing| signing.current().err());
            reasons.push(missing.unwrap_or_else(|| "agents are not served yet".to_owned()));
        }
        if !has_configuration {
            reasons.push("the configuration has not been read yet".to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

/// Says what is wrong with what was read, each time that changes, and passes on what is right.
async fn report(
    mut updates: mpsc::Receiver<Update>,
    reported: mpsc::Sender<Update>,
    verdicts: Verdicts,
    monitored: Arc<Monitored>,
    mut shutdown: Shutdown,
) {
    let mut said = Vec::new();
    loop {
        let update = tokio::select! {
            biased;
            () = shutdown.requested() => return,
            update = updates.recv() => update,
        };
        let Some(update) = update else { return };
        verdicts.note(update.statuses.clone());
        for problem in update.problems.iter().filter(|problem| !said.contains(*problem)) {
            tracing::warn!("{problem}");
        }
        said.clone_from(&update.problems);
        monitored.note(&update);
        if reported.send(update).await.is_err() {
            return;
        }
    }
}
