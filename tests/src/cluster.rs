//! A real Kubernetes on this machine: etcd, API server, controllers and scheduler, and nodes with a kubelet, containerd,
//! kube-proxy and CNI each, dual stack.
//!
//! Every machine of a cluster is a set of namespaces (network, mount, process, host name, IPC, cgroup) with a supervisor
//! as its first process, [`machine`]. The machines' network namespaces are joined by a bridge in the control plane's.
//! Nothing of the host's own network is used, so clusters of different names know nothing of each other, although all
//! of them have the same addresses.
//!
//! All traces of a cluster carry its name: processes and cgroups below `weft-k8s-NAME`, network namespaces
//! `weft-k8s-NAME-MACHINE`, files in `weft-k8s-NAME` in the folder for temporary files. So it can be used, and removed,
//! by any later process.

mod plan;

mod kit;
pub use kit::Kit;

mod fabric;

mod control_plane;

mod worker;

pub mod machine;
pub use machine::Machine;

mod hierarchy;

mod api;

pub mod chart;

mod removal;
pub use removal::{clusters, remove_cluster};
pub(crate) use removal::{remove_clusters_of_this_process, remove_stale_clusters};

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::enter_thread;
use crate::process::{Finished, Process};
use crate::sweep;
use crate::tap::Tap;
use crate::wait::eventually_within;
use api::Api;
use plan::Plan;

/// What runs in every cluster besides Kubernetes' own components.
const DNS: &str = include_str!("../cluster/manifests/coredns.yaml");

/// Long enough for a start on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(240);

/// What [`Cluster::start`] is told.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The cluster's name: up to 12 lower-case letters and digits, unique on this machine.
    pub name: String,
    /// How many nodes, `node1` and so on. From 1 to 8, default 2.
    pub nodes: usize,
    /// Is told each phase of the start and how long it took. By default nobody is.
    pub on_phase: fn(phase: &str, took: Duration),
}

impl Default for ClusterOptions {
    /// Two nodes, under a name of this process that no other value has.
    fn default() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("p{}n{number}", std::process::id()), nodes: 2, on_phase: |_, _| {} }
    }
}

/// A running Kubernetes. Dropping it removes all of it, unless it was only attached to, or is to be kept.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    kit: Kit,
    control_plane: Machine,
    nodes: Vec<Machine>,
    is_owned: bool,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes and its DNS are ready.
    ///
    /// # Errors
    /// Not root, the name is taken, the kit lacks a part, or a component does not come up; the message says which, and what
    /// its log ends with.
    pub fn start(kit: &Kit, options: &ClusterOptions) -> Result<Self> {
        kit.check()?;
        remove_stale_clusters();
        let plan = Plan::new(&options.name, options.nodes)?;
        let folder = plan.folder();
        // Making it is what takes the name.
        fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| {
            format!("making {}: is there a cluster of the name {:?} already?", folder.display(), options.name)
        })?;
        removal::mark_owned(&folder)?;
        let machines = [plan.control_plane()].into_iter().chain(plan.nodes());
        let [control_plane, nodes @ ..] = &machines.map(|name| Machine::named(&plan, &name)).collect::<Vec<_>>()[..]
        else {
            bail!("a cluster has a control plane");
        };
        let cluster = Self {
            kit: kit.clone(),
            control_plane: control_plane.clone(),
            nodes: nodes.to_vec(),
            is_owned: true,
            plan,
        };
        cluster.bring_up(options.on_phase)?;
        Ok(cluster)
    }

    /// A cluster that another process has started and kept.
    ///
    /// # Errors
    /// There is none of this name, or one of its machines does not run.
    pub fn attach(kit: &Kit, name: &str) -> Result<Self> {
        let plan = Plan::of_existing(name)?;
        let control_plane = Machine::attach(&plan, &plan.control_plane())?;
        let nodes = plan.nodes().map(|node| Machine::attach(&plan, &node)).collect::<Result<_>>()?;
        Ok(Self { kit: kit.clone(), plan, control_plane, nodes, is_owned: false })
    }

    /// Leaves the cluster running when this is dropped and the process has ended, until [`remove_cluster`].
    ///
    /// # Errors
    /// Its folder cannot be written.
    pub fn keep(mut self) -> Result<()> {
        removal::mark_kept(&self.plan.folder())?;
        self.is_owned = false;
        Ok(())
    }

    /// The folder with the configuration and the log of every component.
    pub fn folder(&self) -> PathBuf {
        self.plan.folder()
    }

    /// The administrator's kubeconfig. The address in it can be reached in the control plane's network namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plan.kubeconfig("admin")
    }

    /// The machine with etcd, API server, controllers and scheduler. Its network namespace has the bridge that joins the
    /// nodes, named `fabric`.
    pub fn control_plane(&self) -> &Machine {
        &self.control_plane
    }

    /// Records what passes between the first node and all others.
    ///
    /// # Errors
    /// The cluster was removed.
    pub fn record_fabric(&self) -> Result<Tap> {
        Tap::start_in(self.control_plane.netns()?, &plan::node_name(1))
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Machine] {
        &self.nodes
    }

    /// A program that will run on the host's file system but in the control plane's network, with `KUBECONFIG` set:
    /// `kubectl`, `helm` and whatever else speaks with the API server. Kubernetes' parts and Helm come from the kit.
    ///
    /// # Errors
    /// The network namespace is gone.
    pub fn command(&self, program: &str) -> Result<Command> {
        let netns = self.control_plane.netns()?;
        let mut command = match program {
            "kubectl" => {
                let mut command = Command::new(self.kit.kubernetes());
                command.arg("kubectl");
                command
            }
            "helm" => Command::new(self.kit.helm()),
            other => Command::new(other),
        };
        command.env("KUBECONFIG", self.kubeconfig());
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns.
        unsafe { command.pre_exec(move || enter_thread(&netns)) };
        Ok(command)
    }

    /// Runs `kubectl` to its end, at most a minute.
    ///
    /// # Errors
    /// It did not end in time. A failure of kubectl itself is in the returned status.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command("kubectl")?;
        command.args(arguments).process_group(0);
        Process::spawn(command)?.finish_within(Duration::from_secs(60))
    }

    /// Applies manifests, YAML or JSON.
    ///
    /// # Errors
    /// The API server does not take them; the message says why.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let file = self.plan.folder().join(format!("apply-{}-{}.yaml", std::process::id(), number_of_this_call()));
        fs::write(&file, manifests).with_context(|| format!("writing {}", file.display()))?;
        let applied = self.kubectl(&["apply", "--filename", &file.to_string_lossy()])?.success();
        let _ = fs::remove_file(&file);
        applied.map(drop)
    }

    /// Loads an image, an OCI archive, on every node.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| worker::load_image(node, archive))
    }

    fn bring_up(&self, on_phase: fn(&str, Duration)) -> Result<()> {
        let mut stopwatch = Stopwatch { last: Instant::now(), on_phase };
        let plan = &self.plan;
        let result = (|| -> Result<()> {
            fabric::lay(plan)?;
            stopwatch.lap("network between the machines");
            control_plane::start(&self.control_plane, plan, &self.kit)?;
            for (index, node) in self.nodes.iter().enumerate() {
                worker::start(node, index + 1, plan, &self.kit)?;
            }
            stopwatch.lap("machines started");
            let api = Api::new(plan, &self.control_plane)?;
            eventually_within(PATIENCE, "the API server is ready", || api.is_ready())?;
            plan.announce_api_server()?;
            stopwatch.lap("API server ready");
            self.load_images()?;
            stopwatch.lap("images loaded on every node");
            eventually_within(PATIENCE, "all nodes are ready", || api.ready_nodes(self.nodes.len()))?;
            stopwatch.lap("nodes ready");
            self.apply(&DNS.replace("FIRST_ADDRESS", plan.dns()).replace("ALL_ADDRESSES", &plan.dns_addresses()))?;
            eventually_within(PATIENCE, "the cluster's DNS is ready", || api.is_available("kube-system", "coredns"))?;
            stopwatch.lap("DNS ready");
            Ok(())
        })();
        if result.is_err() && sweep::ensure_not_interrupted().is_err() {
            // The thread that was interrupted takes the cluster apart and ends the process; what fails under it is no news.
            loop {
                thread::park();
            }
        }
        result.with_context(|| format!("starting the cluster {}:\n{}", plan.name(), self.ends_of_logs()))
    }

    fn load_images(&self) -> Result<()> {
        let images = self.kit.images()?;
        thread::scope(|scope| {
            let load = |node| images.iter().try_for_each(|image| worker::load_image(node, image));
            let loaders: Vec<_> = self.nodes.iter().map(|node| scope.spawn(move || load(node))).collect();
            loaders.into_iter().try_for_each(|loader| loader.join().expect("loading does not panic"))
        })
    }

    /// What a person needs first when a start has failed: its folder will be gone.
    fn ends_of_logs(&self) -> String {
        [&self.control_plane].into_iter().chain(&self.nodes).map(Machine::ends_of_logs).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_owned {
            remove_cluster(self.plan.name());
        }
    }
}

/// Tells how long each part of the start took.
struct Stopwatch {
    last: Instant,
    on_phase: fn(&str, Duration),
}

impl Stopwatch {
    fn lap(&mut self, phase: &str) {
        (self.on_phase)(phase, self.last.elapsed());
        self.last = Instant::now();
    }
}

/// Tells the files of threads apart that apply at the same time.
fn number_of_this_call() -> u32 {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    COUNTER.fetch_add(1, Ordering::Relaxed)
}
