//! `weft uninstall`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::agent::{BPF_DIR, node_name};
use super::output;

#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    /// Name of the node, as it was given to the agent
    #[arg(long, env = "WEFT_NODE", value_name = "NAME", value_parser = node_name)]
    node: String,

    /// The folder for pinned programs that was given to the agent
    #[arg(long, env = "WEFT_BPF_DIR", value_name = "DIR", default_value = BPF_DIR)]
    bpf_dir: PathBuf,
}

pub(super) fn run(arguments: &UninstallArgs) -> anyhow::Result<ExitCode> {
    let removed = crate::capture::uninstall(&arguments.bpf_dir, &arguments.node)?;
    let (pins, pods) = (removed.pins, removed.pods);
    if pins == 0 {
        return output::print(&format!("There was nothing of the node {} to remove.\n", arguments.node));
    }
    output::print(&format!("Removed {pins} pinned programs and maps; {pods} pods are no longer captured.\n"))
}
