//! A Rust compiler that can build `core` for eBPF, and the linker for it.
//!
//! Either a nightly of rustup with its sources, or Debian's compiler for the web, which has them in a package. The
//! linker is built against the same LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages;
use crate::progress;
use crate::workspace;

const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";

/// The LLVM versions that this linker can be built with.
const LLVM_VERSIONS: std::ops::RangeInclusive<u32> = 21..=23;

/// Installs what is missing of both.
///
/// # Errors
/// A part cannot be installed; the message says what and why.
pub(crate) fn install() -> Result<()> {
    let linker = workspace::program(LINKER);
    if linker.is_some() && (has_sources(Path::new("/usr/bin/rustc")) || rustup_nightly().is_some()) {
        return Ok(());
    }
    progress::heading("installing a toolchain for eBPF");
    let compiler = match compiler() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    if linker.is_none() { install_linker(&compiler) } else { Ok(()) }
}

/// The compiler that the agent's build will choose, if there is one: the system's before rustup's.
pub(crate) fn compiler() -> Option<PathBuf> {
    let debian = PathBuf::from("/usr/bin/rustc");
    if has_sources(&debian) { Some(debian) } else { rustup_nightly() }
}

fn install_compiler() -> Result<PathBuf> {
    packages::update_lists()?;
    if packages::is_offered("rustc-web") && packages::is_offered("rust-web-src") {
        progress::note("rustc-web, cargo-web, rust-web-src: no nightly of rustup with rust-src is here");
        packages::apt_install(&["rustc-web", "cargo-web", "rust-web-src"])?;
    } else {
        progress::note("rustup's nightly with rust-src: this system's packages have no compiler with its sources");
        let mut rustup = Command::new("rustup");
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        progress::run("installing rustup's nightly", &mut rustup)?;
    }
    compiler()
        .context("the compiler was installed, but it has no sources of its library: lib/rustlib/src/rust is missing")
}

fn install_linker(compiler: &Path) -> Result<()> {
    let own = llvm_version(compiler)?;
    packages::update_lists()?;
    // Bitcode of an older LLVM can be read by a newer one, not the other way round.
    let offered = LLVM_VERSIONS.filter(|version| *version >= own);
    let found = offered.clone().find(|version| packages::is_offered(&format!("llvm-{version}-dev")));
    let Some(version) = found else {
        bail!(
            "{} is built on LLVM {own}, and this system offers none of {:?}: add the repository of apt.llvm.org",
            compiler.display(),
            offered.map(|version| format!("llvm-{version}-dev")).collect::<Vec<_>>()
        );
    };
    progress::note(&format!("llvm-{version}-dev, g++: {LINKER} is built against them"));
    packages::apt_install(&[&format!("llvm-{version}-dev"), "g++"])?;
    progress::note(&format!("{LINKER} {LINKER_VERSION}: links eBPF programs"));
    let mut cargo = workspace::cargo();
    cargo
        .args(["install", LINKER, "--version", LINKER_VERSION, "--no-default-features", "--locked", "--features"])
        .arg(format!("llvm-{version}"))
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{version}"));
    progress::run(&format!("building {LINKER}, which takes a minute or two"), &mut cargo)
}

fn has_sources(rustc: &Path) -> bool {
    let Some(sysroot) = output(Command::new(rustc).args(["--print", "sysroot"])) else { return false };
    Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
        && rustc.with_file_name("cargo").exists()
}

fn rustup_nightly() -> Option<PathBuf> {
    let rustc = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"])).map(PathBuf::from)?;
    has_sources(&rustc).then_some(rustc)
}

fn llvm_version(rustc: &Path) -> Result<u32> {
    let described = output(Command::new(rustc).arg("-vV")).with_context(|| format!("asking {}", rustc.display()))?;
    let version = described.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    major.with_context(|| format!("{} names no LLVM version", rustc.display()))
}

fn output(command: &mut Command) -> Option<String> {
    // Otherwise rustup answers for the toolchain that runs this program.
    let output = command.env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
