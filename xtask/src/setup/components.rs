//! What only a lint needs: rustfmt, clippy, cargo-deny.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::progress;
use crate::workspace;

/// Installs what is missing.
///
/// # Errors
/// rustup or cargo fails.
pub(crate) fn install() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let mut ask = workspace::cargo();
        let is_there =
            ask.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
        if !is_there {
            progress::heading(&format!("installing {component}"));
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", component]);
            progress::run(&format!("adding {component} to the toolchain"), &mut rustup)?;
        }
    }
    if workspace::program("cargo-deny").is_none() {
        progress::heading("installing cargo-deny");
        progress::note("cargo-deny: checks licences, sources and advisories of all dependencies");
        let mut cargo = workspace::cargo();
        cargo.args(["install", "cargo-deny", "--locked"]);
        progress::run("building cargo-deny, which takes some minutes", &mut cargo)?;
    }
    Ok(())
}
