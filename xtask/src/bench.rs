//! The benchmark: Weft beside a plain relay and no mesh at all, and the control plane of a large cluster.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build;
use crate::cluster;
use crate::progress;
use crate::setup;
use crate::workspace;

/// What `cargo xtask bench` is told: `cargo xtask bench --help` prints what there is.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Goes to the benchmark's own program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// `cargo xtask bench`
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_worlds()?;
    // An API server is part of what is measured. Another kit than this tree's may be named, as for the tests.
    let is_control = options.arguments.first().is_some_and(|first| first == "control");
    let kit = match std::env::var_os("WEFT_CLUSTER_KIT") {
        None if is_control => Some(cluster::kit_with_kubernetes()?),
        _ => None,
    };
    let agent = build::agent()?;
    progress::heading("building the load and the relay that Weft is compared with");
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "weft-tests",
        "--features",
        "weft-tests/bench",
        "--bins",
    ]);
    ensure!(cargo.status()?.success(), "building the benchmark failed");
    let program = workspace::target()?.join("release/weft-bench");
    progress::heading("measuring");
    // It takes the place of this program, so that Ctrl-C reaches what cleans up.
    let mut command = Command::new(&program);
    command.args(&options.arguments).env("WEFT_BIN", agent);
    if let Some(kit) = kit {
        command.env("WEFT_CLUSTER_KIT", kit.folder());
    }
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
