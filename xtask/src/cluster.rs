//! `cargo xtask cluster`: a real Kubernetes on this machine, to test in and to try things in.

mod go;
mod host_files;
mod images;
mod kit;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use weft_tests::cluster::{Cluster, ClusterOptions, Kit, Machine, clusters, remove_cluster};
use weft_tests::sweep_on_interrupt;

use crate::progress;
use crate::setup;

/// What `cargo xtask cluster` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which cluster: several can stand side by side. Up to 12 lower-case letters and digits
    #[arg(long, default_value = "default")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build what is missing, start a cluster, and wait until its nodes and its DNS are ready
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// Take the images as they were packed before, although programs of this machine may have changed since
        #[arg(long)]
        keep_images: bool,
    },
    /// Load an image, an OCI archive, on every node
    Load {
        /// The archive [default: the one that `cargo xtask image` packs]
        archive: Option<PathBuf>,
    },
    /// Remove the cluster with all that is in it
    Down,
    /// Show the cluster's machines, nodes and pods, and where its logs are
    Status,
    /// Run kubectl against the cluster
    #[command(disable_help_flag = true)]
    Kubectl(Arguments),
    /// Run Helm against the cluster
    #[command(disable_help_flag = true)]
    Helm(Arguments),
    /// Only build what clusters are made of
    Build,
}

#[derive(Debug, Args)]
struct Arguments {
    /// Go to the program as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// `cargo xtask cluster`
pub(crate) fn run(options: &Options) -> Result<()> {
    let name = &options.name;
    match &options.action {
        Action::Up { nodes, keep_images } => up(name, *nodes, *keep_images),
        Action::Load { archive } => load(name, archive.as_deref()),
        Action::Down => down(name),
        Action::Status => status(name),
        Action::Kubectl(arguments) => become_program(name, "kubectl", arguments),
        Action::Helm(arguments) => become_program(name, "helm", arguments),
        Action::Build => build(false).map(drop),
    }
}

/// The kit of this tree with Helm in it, whatever else it lacks.
pub(crate) fn kit_with_helm() -> Result<Kit> {
    kit::with_helm()
}

/// The kit of this tree with Kubernetes' components in it, whatever else it lacks.
pub(crate) fn kit_with_kubernetes() -> Result<Kit> {
    setup::for_clusters()?;
    kit::with_kubernetes()
}

fn up(name: &str, nodes: usize, keep_images: bool) -> Result<()> {
    if Cluster::attach(&kit::here(), name).is_ok_and(|cluster| cluster.nodes().len() == nodes) {
        progress::note(&format!("the cluster {name:?} is up already"));
        return status(name);
    }
    let kit = build(keep_images)?;
    // No thread of the builds is left, so that Ctrl-C reaches the one that cleans up.
    sweep_on_interrupt()?;
    progress::heading(&format!("starting the cluster {name:?} with {nodes} nodes"));
    let start = Instant::now();
    let on_phase = |phase: &str, took: Duration| progress::note(&format!("{phase}: after {:.1} s", took.as_secs_f32()));
    let options = ClusterOptions { name: name.to_owned(), nodes, on_phase };
    let cluster = Cluster::start(&kit, &options)?;
    progress::note(&format!("it took {:.1} s in all", start.elapsed().as_secs_f32()));
    let folder = cluster.folder();
    cluster.keep()?;
    look_around(name, &kit, &folder);
    Ok(())
}

/// What clusters are made of, built as far as it is missing.
pub(crate) fn kit() -> Result<Kit> {
    build(false)
}

fn build(keep_images: bool) -> Result<Kit> {
    setup::for_clusters()?;
    let kit = kit::build()?;
    images::pack(&kit, keep_images)?;
    Ok(kit)
}

fn load(name: &str, archive: Option<&Path>) -> Result<()> {
    let archive = match archive {
        Some(archive) => archive.to_owned(),
        None => crate::image::default_output()?,
    };
    let cluster = attach(name)?;
    cluster.load_image(&archive)?;
    progress::note(&format!("{} is on {} nodes", archive.display(), cluster.nodes().len()));
    Ok(())
}

fn down(name: &str) -> Result<()> {
    let start = Instant::now();
    if clusters().iter().any(|known| known == name) {
        remove_cluster(name);
        progress::note(&format!("removed the cluster {name:?} in {:.1} s", start.elapsed().as_secs_f32()));
    } else {
        progress::note(&format!("there is no cluster {name:?}"));
    }
    let left = clusters();
    anyhow::ensure!(!left.iter().any(|known| known == name), "not everything of the cluster {name:?} could be removed");
    if !left.is_empty() {
        progress::note(&format!("others: {}", left.join(", ")));
    }
    Ok(())
}

fn status(name: &str) -> Result<()> {
    let cluster = attach(name)?;
    for machine in [cluster.control_plane()].into_iter().chain(cluster.nodes()) {
        progress::note(&describe(machine)?);
    }
    for arguments in [&["get", "nodes", "--output=wide"][..], &["get", "pods", "--all-namespaces", "--output=wide"]] {
        let shown = cluster.kubectl(arguments)?.success()?;
        println!("\n{}", shown.trim_end());
    }
    look_around(name, &kit::here(), &cluster.folder());
    Ok(())
}

/// A machine in one line.
fn describe(machine: &Machine) -> Result<String> {
    let services = std::fs::read_dir(machine.folder())?.flatten().filter_map(|entry| {
        let path = entry.path();
        let is_service = path.extension().is_some_and(|extension| extension == "pid");
        is_service.then(|| path.file_stem().map(|name| name.to_string_lossy().into_owned())).flatten()
    });
    let mut services: Vec<String> = services.collect();
    services.sort();
    Ok(format!("{}: process {}, runs {}", machine.name(), machine.pid()?, services.join(", ")))
}

fn look_around(name: &str, kit: &Kit, folder: &Path) {
    let of = if name == "default" { String::new() } else { format!("--name {name} ") };
    println!();
    progress::note(&format!("to use it:      cargo xtask cluster {of}kubectl get pods --all-namespaces"));
    progress::note(&format!("                cargo xtask cluster {of}helm list --all-namespaces"));
    progress::note(&format!("to remove it:   cargo xtask cluster {of}down"));
    progress::note(&format!("logs:           {}/*/*.log", folder.display()));
    progress::note(&format!("CRDs to apply:  {}", kit.definitions().display()));
}

/// Lets kubectl or Helm take the place of this program.
fn become_program(name: &str, program: &str, arguments: &Arguments) -> Result<()> {
    let mut command = attach(name)?.command(program)?;
    let error = command.args(&arguments.arguments).exec();
    Err(error).with_context(|| format!("starting {program}"))
}

fn attach(name: &str) -> Result<Cluster> {
    Cluster::attach(&kit::here(), name).context("`cargo xtask cluster up` starts one")
}
