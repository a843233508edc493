//! What a fresh Debian or Ubuntu machine with rustup, git and a C compiler still lacks.

mod components;
mod kernel;
mod packages;
mod toolchain;

use anyhow::Result;

use crate::progress;

/// What every command may need.
pub(crate) fn everything() -> Result<()> {
    for_lint()?;
    for_tests()?;
    progress::note("everything that Weft needs is here");
    Ok(())
}

/// The compiler that builds the eBPF programs.
pub(crate) fn ebpf_compiler() -> Option<std::path::PathBuf> {
    toolchain::compiler()
}

/// What a build of the agent needs.
pub(crate) fn for_build() -> Result<()> {
    packages::install(packages::BUILD)?;
    toolchain::install()
}

/// What a lint needs.
pub(crate) fn for_lint() -> Result<()> {
    for_build()?;
    components::install()
}

/// What the tests need.
pub(crate) fn for_tests() -> Result<()> {
    for_worlds()?;
    packages::install(packages::TESTS)
}

/// What the agent needs to run in a world of nodes and pods: the tests, the demo, the benchmark.
pub(crate) fn for_worlds() -> Result<()> {
    kernel::check()?;
    for_build()?;
    packages::install(packages::WORLD)
}

/// What a Kubernetes on this machine needs, but for what is built.
pub(crate) fn for_clusters() -> Result<()> {
    kernel::check()?;
    packages::install(packages::BUILD)?;
    packages::install(packages::WORLD)?;
    packages::install(packages::CLUSTER)
}

/// A compiler for Go, of whatever version this system has.
pub(crate) fn go() -> Result<()> {
    packages::install(packages::GO)
}
