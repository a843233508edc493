//! Everything that can be said about the code without running it.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::progress;
use crate::setup;
use crate::workspace;

/// Trees of their own beside the workspace.
const APART: &[&str] = &["ebpf/Cargo.toml", "tests/fuzz/Cargo.toml"];

type Check = fn() -> Result<()>;

/// `cargo xtask lint`
pub(crate) fn run() -> Result<()> {
    setup::for_lint()?;
    let checks: [(&str, Check); 4] =
        [("formatting", formatting), ("clippy", clippy), ("the eBPF programs", ebpf), ("dependencies", dependencies)];
    // All of them, so that one run shows every mistake.
    let mut failed = Vec::new();
    for (what, check) in checks {
        progress::heading(what);
        if let Err(error) = check() {
            progress::note(&format!("{error:#}"));
            failed.push(what);
        }
    }
    ensure!(failed.is_empty(), "lint failed: {}", failed.join(", "));
    println!("\nlint: all is well");
    Ok(())
}

fn formatting() -> Result<()> {
    succeed(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    for manifest in APART.iter().filter(|manifest| workspace::root().join(manifest).exists()) {
        succeed(workspace::cargo().args(["fmt", "--check", "--manifest-path", manifest]))?;
    }
    Ok(())
}

fn clippy() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["clippy", "--locked", "--workspace", "--all-targets", "--features", "weft-tests/bench"]);
    succeed(cargo.args(["--", "--deny", "warnings"]))
}

/// The eBPF programs are built by another toolchain, which may have no clippy: then its compiler's own lints count.
fn ebpf() -> Result<()> {
    let Some(rustc) = setup::ebpf_compiler() else { bail!("no compiler for eBPF is here") };
    let cargo = rustc.with_file_name("cargo");
    let has_clippy = rustc.with_file_name("cargo-clippy").exists();
    let mut command = Command::new(&cargo);
    command
        .current_dir(workspace::root().join("ebpf"))
        .arg(if has_clippy { "clippy" } else { "check" })
        .args(["--release", "--locked", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        // Other flags than the agent's build has: in the same folder each would undo the other's work.
        .args(["--target-dir", "target/lint"])
        .env("RUSTC", &rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-D warnings")
        .env_remove("RUSTUP_TOOLCHAIN");
    if !has_clippy {
        progress::note(&format!("{} comes without clippy: the compiler's own lints count", rustc.display()));
    }
    succeed(&mut command)
}

/// Advisories come from a database that has to be fetched. Where that cannot be reached the other checks still count.
fn dependencies() -> Result<()> {
    // What it fetches goes under the target folder, not into the user's home.
    let fetched = workspace::cargo().args(["deny", "--log-level", "error", "fetch", "db"]).output()?;
    if fetched.status.success() {
        return succeed(workspace::cargo().args(["deny", "check"]));
    }
    let reason = String::from_utf8_lossy(&fetched.stderr);
    let reason = reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason was given");
    succeed(workspace::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    progress::note(&format!("advisories were NOT checked: their database could not be fetched ({reason})"));
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    ensure!(status.success(), "{} {} failed", command.get_program().display(), arguments.join(" "));
    Ok(())
}
