//! `weft uninstall`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use weft_control::{kubernetes, uninstall};

use super::agent::{self, BPF_DIR, STATE_DIR, node_name};
use super::cni_flags::{CniArgs, CniFolders};
use super::output;
use crate::cni;

#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    /// Name of the node, as it was given to the agent
    #[arg(
        long,
        env = "WEFT_NODE",
        value_name = "NAME",
        value_parser = node_name,
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    node: Option<String>,

    /// The folder for pinned programs that was given to the agent
    #[arg(long, env = "WEFT_BPF_DIR", value_name = "DIR", default_value = BPF_DIR, conflicts_with = "kubernetes")]
    bpf_dir: PathBuf,

    /// The state directory that was given to the agent: the CNI plug-in keeps its files there
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    #[command(flatten)]
    cni: CniArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// All nodes of a cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "All nodes of a cluster")]
struct ClusterArgs {
    /// All nodes of the cluster that this pod is in, or that of --kubeconfig: every agent is asked to clear its node, and
    /// waited for. Their DaemonSet stays, idle, to be deleted next
    #[arg(long)]
    kubernetes: bool,

    /// File that says where the API server is and who you are to it [default: this pod's service account]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Namespace of the agents
    #[arg(long, env = "WEFT_POD_NAMESPACE", value_name = "NAME", default_value = "weft-system", value_parser = agent::namespace)]
    namespace: String,

    /// How long all nodes together may take
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(arguments: UninstallArgs) -> anyhow::Result<ExitCode> {
    let Some(node) = &arguments.node else { return all_nodes(&arguments.cluster) };
    // First of all new pods no longer wait for an agent.
    let mut said = String::new();
    if let Some(CniFolders { conf_dir, bin_dir }) = arguments.cni.into_folders() {
        let removed = cni::uninstall(&conf_dir, &bin_dir, &arguments.state_dir)?;
        if removed != cni::Removed::default() {
            let cni::Removed { networks, files } = removed;
            said = format!(
                "Took the CNI plug-in out of {networks} network configurations, and removed {files} of its files.\n"
            );
        }
    }
    let removed = crate::capture::uninstall(&arguments.bpf_dir, node)?;
    let (pins, pods) = (removed.pins, removed.pods);
    if pins > 0 {
        said += &format!("Removed {pins} pinned programs and maps; {pods} pods are no longer captured.\n");
    }
    if said.is_empty() {
        said = format!("There was nothing of the node {node} to remove.\n");
    }
    output::print(&said)
}

fn all_nodes(cluster: &ClusterArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let nodes = runtime.block_on(async {
        let client = kubernetes::connect(cluster.kubeconfig.as_deref()).await?;
        let tell = |news: &str| eprintln!("{news}");
        anyhow::Ok(uninstall::order(&client, &cluster.namespace, cluster.timeout, tell).await?)
    })?;
    match nodes {
        0 => output::print(&format!("There are no agents in the namespace {}.\n", cluster.namespace)),
        _ => output::print(&format!("{nodes} nodes are clear; delete the DaemonSet now.\n")),
    }
}
