//! The agent, as it is shipped.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::progress;
use crate::setup;
use crate::workspace;

/// `cargo xtask build`
pub(crate) fn run() -> Result<()> {
    setup::for_build()?;
    let binary = agent()?;
    let size = std::fs::metadata(&binary)?.len();
    println!("\n{} ({:.1} MB)", binary.display(), size as f64 / 1e6);
    Ok(())
}

/// Builds the agent with its eBPF programs and returns where it is; or takes the one that `WEFT_BIN` names. Cargo shows
/// its own progress.
///
/// It needs no library of the machine that it runs on: the image holds nothing else, and the same file is what a node's
/// container runtime calls as a CNI plug-in, on whatever the node's system is. Only the program is linked so; the crates
/// below it are those of any other build.
pub(crate) fn agent() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("WEFT_BIN").map(PathBuf::from) {
        progress::note(&format!("WEFT_BIN is set: {} is taken, and none is built", given.display()));
        return given.canonicalize().with_context(|| format!("finding {}", given.display()));
    }
    progress::heading("building the agent");
    let mut cargo = workspace::cargo();
    cargo.args(["rustc", "--release", "--locked", "--package", "weft", "--bin", "weft"]);
    let status = cargo.args(["--", "-C", "target-feature=+crt-static"]).status()?;
    ensure!(status.success(), "building the agent failed");
    let binary = workspace::target()?.join("release/weft");
    ensure!(binary.exists(), "{} was not built", binary.display());
    binary.canonicalize().with_context(|| format!("finding {}", binary.display()))
}
