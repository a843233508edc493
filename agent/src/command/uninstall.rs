//! `weft uninstall`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::agent::{BPF_DIR, STATE_DIR, node_name};
use super::cni_flags::{CniArgs, CniFolders};
use super::output;
use crate::cni;

#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    /// Name of the node, as it was given to the agent
    #[arg(long, env = "WEFT_NODE", value_name = "NAME", value_parser = node_name)]
    node: String,

    /// The folder for pinned programs that was given to the agent
    #[arg(long, env = "WEFT_BPF_DIR", value_name = "DIR", default_value = BPF_DIR)]
    bpf_dir: PathBuf,

    /// The state directory that was given to the agent: the CNI plug-in keeps its files there
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    #[command(flatten)]
    cni: CniArgs,
}

pub(super) fn run(arguments: UninstallArgs) -> anyhow::Result<ExitCode> {
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
    let removed = crate::capture::uninstall(&arguments.bpf_dir, &arguments.node)?;
    let (pins, pods) = (removed.pins, removed.pods);
    if pins > 0 {
        said += &format!("Removed {pins} pinned programs and maps; {pods} pods are no longer captured.\n");
    }
    if said.is_empty() {
        said = format!("There was nothing of the node {} to remove.\n", arguments.node);
    }
    output::print(&said)
}
