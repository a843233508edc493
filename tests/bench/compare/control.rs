//! The control plane of a large cluster: what a controller and its agents cost, and how soon all agents hear of a change.
//!
//! The cluster has an API server and an etcd, and as many nodes and pods as are asked for: objects that are written through
//! the API, which nobody runs. Everything between a change of an object and an agent that has heard of it is real: the API
//! server and its watches, the shipped controller, TLS, the agents' tokens and the API server's reviews of them, and the
//! agents' own client.

mod changes;
mod cluster;
mod controller;
mod growth;
mod objects;
mod subscribers;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weft_tests::cluster::Kit;
use weft_tests::{Node, World, WorldOptions};

use self::changes::{Changes, Outcome};
use self::cluster::Cluster;
use self::controller::{Controller, LIVING, Living};
use self::growth::{Figure, Growth};
use self::objects::{PODS_OF_A_SERVICE, POPULAR, POPULAR_PODS, Pod, SYSTEM};
use self::subscribers::{Subscribers, Target, token_file};
use self::writer::Writer;
use crate::contender;
use crate::machine::{CpuUse, Machine, cpu_time};

/// The control plane of a large cluster: memory, start, and how soon all agents hear of a change.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Pods of the cluster, one size after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000, 100_000])]
    pods: Vec<usize>,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Agents that are connected; without it, one for each node.
    #[arg(long)]
    agents: Option<usize>,
    /// Agents ask for everything, not only for what their pods talk to. Large with many pods: every agent gets them all.
    #[arg(long)]
    wildcard: bool,
    /// How often the controller and the agents are started; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Changes of each kind that are measured.
    #[arg(long, default_value_t = 30)]
    changes: usize,
    /// Changes of pods that nobody follows, while it is measured how soon others are heard of.
    #[arg(long, default_value_t = 1000)]
    churn: usize,
    /// Connections that write.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Writes every single figure here as well.
    #[arg(long)]
    json: Option<PathBuf>,
}

const READY: Figure = Figure::new("controller", "start to ready", "ms");
const READY_CPU: Figure = Figure::new("controller", "start to ready, CPU", "ms");
const IDLE: Figure = Figure::new("controller", "resident, no agents", "MB");
const PEAK: Figure = Figure::new("controller", "resident, at its start's peak", "MB");
const BUSY: Figure = Figure::new("controller", "resident, all agents", "MB");
const EACH: Figure = Figure::new("controller", "for each agent", "KB");
const CONNECTED: Figure = Figure::new("agents", "all connected", "ms");
const ON_DEMAND: Figure = Figure::new("agent", "on demand, resident", "MB").at_most(15.0);
const WILDCARD: Figure = Figure::new("agent", "wildcard, resident", "MB");
const WRITE_RATE: Figure = Figure::new("API server", "pods written", "1/s");

/// What is measured of one kind of change.
struct Kind {
    p50: Figure,
    p99: Figure,
    max: Figure,
    written: Figure,
    cpu: Figure,
}

impl Kind {
    const fn new(line: &'static str) -> Self {
        Self {
            p50: Figure::new(line, "to an agent, p50", "ms"),
            p99: Figure::new(line, "to an agent, p99", "ms").at_most(250.0),
            max: Figure::new(line, "to the last agent, worst", "ms"),
            written: Figure::new(line, "of it the API server's write", "ms"),
            cpu: Figure::new(line, "controller's CPU for each", "ms"),
        }
    }
}

const READINESS: Kind = Kind::new("readiness");
const ENDPOINT: Kind = Kind::new("new endpoint");
const POLICY: Kind = Kind::new("new policy");
const CHURN: Kind = Kind::new("under churn");
const CHURN_RATE: Figure = Figure::new("under churn", "changes", "1/s");

const HOW: &str = "\
How: etcd, API server, controller, agents and what writes the objects share this machine. Pods are behind services of ten;
each agent follows the pods of its node, five services, and one service of twenty pods that all agents follow, to which the
changes are made. Times are from the request that changes an object until an agent has read the change, over all agents and
changes: the API server's write, which is given as well, is part of them. A policy is one of the whole mesh. Under churn
four writers make pods unready and ready again as fast as the API server takes it. CPU is the controller's, by the
scheduler's clock. Memory is measured some seconds after what happened last.";

/// Runs it and prints what it came to.
pub fn run(options: &Options) -> Result<()> {
    let mut sizes = options.pods.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let agents = options.agents.unwrap_or(options.nodes);
    ensure!(sizes.first().is_some_and(|size| *size >= PODS_OF_A_SERVICE), "--pods: at least {PODS_OF_A_SERVICE}");
    ensure!(sizes.iter().all(|size| size % PODS_OF_A_SERVICE == 0), "--pods: a multiple of {PODS_OF_A_SERVICE}");
    ensure!((1..=options.nodes).contains(&agents), "--agents: at least one, and at most one for each node");
    ensure!(options.rounds > 0 && options.changes > 0, "--rounds and --changes must be greater than zero");
    let kit = Kit::find_programs()?;
    let machine = Machine::look();
    let world = World::with(WorldOptions { shows_logs: false })?;
    let node = world.node("control")?;
    contender::tune_ports(&node)?;
    eprintln!("  starting an API server");
    let cluster = Cluster::start(&node, world.folder().join("cluster"), &kit)?;
    let target = Target {
        url: controller::url(&node),
        roots: world.folder().join("roots.pem"),
        tokens: world.folder().join("tokens"),
        wildcard: options.wildcard,
    };
    fs::create_dir_all(&target.tokens)?;
    let bench = Bench {
        options,
        agents,
        living: [Living::create(&world, "a")?, Living::create(&world, "b")?],
        log: world.folder().join("controller.log"),
        cgroup: contender::world_cgroup(&node),
        node,
        cluster,
        target,
    };
    let mut growth = Growth::default();
    let before = CpuUse::take(&bench.cgroup)?;
    if let Err(error) = bench.measure(&sizes, &mut growth) {
        growth.note(format!("stopped: {error:#}"));
    }
    let foreign = CpuUse::take(&bench.cgroup)?.foreign_since(&before);
    println!("\nThe control plane of a cluster with {} nodes and {agents} agents\n", options.nodes);
    println!("{}", growth.to_text());
    println!("Machine: {}.", machine.to_text());
    println!("Other processes took {:.0} % of it while this was measured.", foreign * 100.0);
    let asked_for = if options.wildcard { "everything" } else { "what their pods talk to" };
    println!("Rounds: {}, {} changes of each kind; agents ask for {asked_for}.", options.rounds, options.changes);
    println!("{HOW}");
    growth.notes().iter().for_each(|note| println!("Note: {note}"));
    if let Some(path) = &options.json {
        let report = bench.to_json(&growth, &machine, foreign);
        fs::write(path, format!("{report:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    agents: usize,
    living: [Living; 2],
    log: PathBuf,
    cgroup: PathBuf,
    cluster: Cluster,
    target: Target,
    node: Node,
}

impl Bench<'_> {
    fn measure(&self, sizes: &[usize], growth: &mut Growth) -> Result<()> {
        // The runtime's threads are where its first one is: in the node's network.
        self.node.enter(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let writer = runtime.block_on(Writer::new(&self.cluster.kubeconfig("admin"), self.options.connections))?;
            runtime.block_on(self.found(&writer))?;
            let mut written = 0;
            // What was made for one size is there for the next: popular pods, and policies.
            let mut made = POPULAR_PODS;
            for size in sizes {
                let rate = runtime.block_on(self.grow(&writer, written..*size))?;
                growth.add(WRITE_RATE, *size, rate);
                written = *size;
                for round in 0..self.options.rounds {
                    self.round(&runtime, &writer, *size, made, growth)
                        .with_context(|| format!("round {} of {size} pods", round + 1))?;
                    made += self.options.changes;
                    eprintln!("  {size} pods: round {} of {}", round + 1, self.options.rounds);
                }
            }
            Ok(())
        })
    }

    /// Writes what is there in any size.
    async fn found(&self, writer: &Writer) -> Result<()> {
        for (name, is_in_mesh) in [(SYSTEM, false), (objects::ROOT, false), (POPULAR, true), (LIVING, true)] {
            writer.create(&objects::namespace_object(name, is_in_mesh)).await?;
        }
        for (namespace, account) in [(SYSTEM, objects::AGENT), (POPULAR, POPULAR), (LIVING, LIVING)] {
            writer.create(&objects::account_object(namespace, account)).await?;
        }
        let make = |number| objects::node_object(&objects::node_name(number), number);
        writer.create_all("nodes", 0..self.options.nodes, make).await?;
        let nodes = self.options.nodes;
        let popular: Vec<Pod> = (0..POPULAR_PODS).map(|number| Pod::popular(number, nodes)).collect();
        writer.create(&objects::service_object(POPULAR, POPULAR, objects::popular_address())).await?;
        writer.create(&objects::slice_object(POPULAR, POPULAR, &popular)).await?;
        for pod in &popular {
            writer.create(&pod.object(true)).await?;
        }
        for (number, living) in self.living.iter().enumerate() {
            writer.create(&objects::node_object(living.node.name(), number)).await?;
            writer.create(&living.object()?).await?;
        }
        let names = (0..self.agents).map(objects::node_name);
        let names: Vec<String> = names.chain(self.living.iter().map(|living| living.node.name().to_owned())).collect();
        eprintln!("  {} agents' pods and tokens", names.len());
        let mut tokens = JoinSet::new();
        for share in names.chunks(names.len().div_ceil(self.options.connections)) {
            let (share, writer, folder) = (share.to_vec(), writer.clone(), self.target.tokens.clone());
            tokens.spawn(async move {
                for name in share {
                    token(&writer, &name, &folder).await.with_context(|| format!("a token for {name}"))?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(made) = tokens.join_next().await {
            made.context("a writer panicked")??;
        }
        Ok(())
    }

    /// Writes the pods of these numbers, and all that belongs to them. Returns how many pods a second.
    async fn grow(&self, writer: &Writer, pods: std::ops::Range<usize>) -> Result<f64> {
        let nodes = self.options.nodes;
        let services = pods.start / PODS_OF_A_SERVICE..pods.end / PODS_OF_A_SERVICE;
        let spaces = |service: usize| service.div_ceil(objects::SERVICES_OF_A_NAMESPACE);
        let make = |number: usize| {
            objects::namespace_object(&objects::namespace(number * objects::SERVICES_OF_A_NAMESPACE), true)
        };
        writer.create_all("namespaces", spaces(services.start)..spaces(services.end), make).await?;
        let app = |service: usize| Pod::numbered(service * PODS_OF_A_SERVICE, 1);
        let make = move |service: usize| objects::account_object(&app(service).namespace, &app(service).app);
        writer.create_all("service accounts", services.clone(), make).await?;
        let make = move |service: usize| {
            let pod = app(service);
            objects::service_object(&pod.namespace, &pod.app, objects::service_address(service))
        };
        writer.create_all("services", services.clone(), make).await?;
        let make = move |service: usize| {
            let of_it = service * PODS_OF_A_SERVICE..(service + 1) * PODS_OF_A_SERVICE;
            let pods: Vec<Pod> = of_it.map(|number| Pod::numbered(number, nodes)).collect();
            objects::slice_object(&pods[0].namespace, &pods[0].app, &pods)
        };
        writer.create_all("endpoint slices", services, make).await?;
        writer.create_all("pods", pods, move |number| Pod::numbered(number, nodes).object(true)).await
    }

    /// One start of everything, and all changes.
    fn round(
        &self,
        runtime: &tokio::runtime::Runtime,
        writer: &Writer,
        pods: usize,
        made: usize,
        growth: &mut Growth,
    ) -> Result<()> {
        let controller = Controller::start(&self.node, &self.cluster.kubeconfig("weft-controller"), &self.log)?;
        growth.add(READY, pods, milliseconds(controller.ready_after));
        growth.add(READY_CPU, pods, milliseconds(cpu_time(controller.pid())?));
        runtime.block_on(self.roots(writer))?;
        let idle = controller.memory()?;
        growth.add(IDLE, pods, idle.resident);
        growth.add(PEAK, pods, controller.peak()?);
        for (living, is_wildcard, figure) in [(&self.living[0], false, ON_DEMAND), (&self.living[1], true, WILDCARD)] {
            growth.add(figure, pods, living.agent_memory(&self.target, is_wildcard)?.resident);
        }
        let idle = controller.memory()?;
        let nodes = self.options.nodes;
        let connecting = Subscribers::connect(&self.target, self.agents, nodes, pods);
        let mut subscribers = runtime.block_on(connecting)?;
        growth.add(CONNECTED, pods, milliseconds(subscribers.connected_after));
        let busy = controller.memory()?;
        growth.add(BUSY, pods, busy.resident);
        growth.add(EACH, pods, (busy.resident - idle.resident) * 1e3 / self.agents as f64);
        let count = self.options.changes;
        runtime.block_on(async {
            let controller = controller.pid();
            let mut changes = Changes { writer, subscribers: &mut subscribers, controller, nodes, pods };
            note(growth, pods, &READINESS, &changes.readiness(count).await.context("readiness")?)?;
            note(growth, pods, &ENDPOINT, &changes.endpoints(count, made).await.context("new endpoints")?)?;
            note(growth, pods, &POLICY, &changes.policies(count, made).await.context("new policies")?)?;
            if self.options.churn > 0 {
                let outcome = changes.churn(self.options.churn).await.context("under churn")?;
                note(growth, pods, &CHURN, &outcome)?;
                growth.add(CHURN_RATE, pods, outcome.rate);
            }
            anyhow::Ok(())
        })?;
        runtime.block_on(subscribers.disconnect());
        Ok(())
    }

    /// Waits for the roots, which the controller keeps in every namespace.
    async fn roots(&self, writer: &Writer) -> Result<()> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/configmaps/weft-ca-root-cert");
        let start = std::time::Instant::now();
        loop {
            if let Some(Value::String(roots)) = writer.get(&path).await.map(|map| map["data"]["root-cert.pem"].clone())
            {
                return fs::write(&self.target.roots, roots).context("writing the roots");
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "the controller has told nobody its roots for a minute");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn to_json(&self, growth: &Growth, machine: &Machine, foreign: f64) -> Value {
        let mut report = growth.to_json();
        report["machine"] = machine.to_json();
        report["foreign_cpu_share"] = json!(foreign);
        report["nodes"] = json!(self.options.nodes);
        report["agents"] = json!(self.agents);
        report["wildcard"] = json!(self.options.wildcard);
        report["rounds"] = json!(self.options.rounds);
        report["changes"] = json!(self.options.changes);
        report
    }
}

/// Makes an agent's pod on a node and a token that is bound to it, as a kubelet would ask for it.
async fn token(writer: &Writer, node: &str, folder: &Path) -> Result<()> {
    let name = format!("{}-{node}", objects::AGENT);
    let pod = writer.create(&objects::agent_object(&name, node)).await?;
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": ["istio-ca"],
            "expirationSeconds": 86_400,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"] },
        },
    });
    let path = format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts/{}/token", objects::AGENT);
    let answer = writer.post(&path, &request).await?;
    let token = answer["status"]["token"].as_str().context("the API server gave no token")?;
    fs::write(token_file(folder, node), token).context("writing a token")
}

fn note(growth: &mut Growth, pods: usize, kind: &Kind, outcome: &Outcome) -> Result<()> {
    growth.add(kind.p50, pods, milliseconds(outcome.percentile(0.5)?));
    growth.add(kind.p99, pods, milliseconds(outcome.percentile(0.99)?));
    growth.add(kind.max, pods, milliseconds(outcome.last.iter().max().copied().unwrap_or_default()));
    let written: Vec<f64> = outcome.written.iter().copied().map(milliseconds).collect();
    growth.add(kind.written, pods, crate::figures::median(&written).unwrap_or_default());
    growth.add(kind.cpu, pods, milliseconds(outcome.cpu));
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
