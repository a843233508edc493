//! The Go compiler. Any since 1.21 fetches the one that a module asks for by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::progress;
use crate::setup;
use crate::workspace;

/// What is fetched where the system's compiler is too old to fetch one itself. It is a Go module, checked like any other.
const RELEASE: &str = "1.26.8";

/// A command of Go, for programs that run on any Linux: an image may hold one alone.
pub(super) fn command() -> Result<Command> {
    let mut command = Command::new(compiler()?);
    command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto");
    Ok(command)
}

/// Fetches a module and returns its folder.
pub(super) fn module(path_and_version: &str) -> Result<PathBuf> {
    let mut command = command()?;
    command.args(["mod", "download", "-json", path_and_version]);
    download(command).with_context(|| format!("fetching {path_and_version}"))
}

fn compiler() -> Result<PathBuf> {
    setup::go()?;
    let system = workspace::program("go").context("Go was installed, but there is no program `go`")?;
    let version = Command::new(&system).args(["env", "GOVERSION"]).output()?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let minor = version.strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor >= 21) { Ok(system) } else { fetched(&system, &version) }
}

/// A compiler as a module, fetched by an older one.
fn fetched(system: &Path, version: &str) -> Result<PathBuf> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("install Go 1.21 or later: {version} is too old, and no other is known for {other}"),
    };
    progress::note(&format!("Go {RELEASE}: this system's {version} is too old for Kubernetes"));
    let mut command = Command::new(system);
    command.args(["mod", "download", "-json"]);
    command.arg(format!("golang.org/toolchain@v0.0.1-go{RELEASE}.linux-{architecture}"));
    let folder = download(command).context("fetching Go; or install Go 1.21 or later yourself")?;
    // Modules are stored as plain files, and none may hold another, which the library's own sources are.
    fs::copy(folder.join("src/_go.mod"), folder.join("src/go.mod"))?;
    for programs in ["bin", &format!("pkg/tool/linux_{architecture}")] {
        for entry in fs::read_dir(folder.join(programs))?.flatten() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o555))?;
        }
    }
    Ok(folder.join("bin/go"))
}

fn download(mut command: Command) -> Result<PathBuf> {
    // Outside of any module, so that none is changed.
    let output = command.current_dir(std::env::temp_dir()).output().context("starting go")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).context("parsing go's answer")?;
    let folder = answer["Dir"].as_str().with_context(|| format!("go names no folder: {answer}"))?;
    Ok(folder.into())
}
