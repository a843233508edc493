//! Everything that can be said about the code without running it.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::progress;
use crate::setup;
use crate::workspace;

/// Trees of their own beside the workspace.
const APART: &[&str] = &["ebpf/Cargo.toml", "tests/fuzz/Cargo.toml"];

/// A host that cannot be reached may not say so.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

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
    let unreachable = fetch_advisories()?;
    let checks: &[&str] = match unreachable {
        None => &["advisories", "bans", "licenses", "sources"],
        Some(_) => &["bans", "licenses", "sources"],
    };
    succeed(workspace::cargo().args(["deny", "--log-level", "error", "check"]).args(checks))?;
    // The eBPF programs are in the binary, too; the fuzz targets are in nothing that is shipped.
    let mut cargo = workspace::cargo();
    cargo.args([
        "deny",
        "--log-level",
        "error",
        "--manifest-path",
        "ebpf/Cargo.toml",
        "--config",
        "deny.toml",
        "check",
    ]);
    succeed(cargo.args(checks))?;
    if let Some(reason) = unreachable {
        progress::note(&format!("advisories were NOT checked: their database could not be fetched ({reason})"));
    }
    Ok(())
}

/// Fetches the database of advisories; returns why that was not possible.
fn fetch_advisories() -> Result<Option<String>> {
    let mut fetch = workspace::cargo();
    fetch.args(["deny", "--log-level", "error", "fetch", "db"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut fetch = fetch.stdout(Stdio::null()).spawn()?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = fetch.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > FETCH_LIMIT {
            fetch.kill()?;
            fetch.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(50));
    };
    match status {
        Some(status) if status.success() => return Ok(None),
        None => return Ok(Some(format!("no answer in {} s", FETCH_LIMIT.as_secs()))),
        Some(_) => {}
    }
    let mut said = String::new();
    fetch.stderr.take().expect("stderr is piped").read_to_string(&mut said)?;
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Ok(Some(last.unwrap_or("no reason was given").to_owned()))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    ensure!(status.success(), "{} {} failed", command.get_program().display(), arguments.join(" "));
    Ok(())
}
