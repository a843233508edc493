//! Everything that is done with this tree: `cargo xtask --help`.
//!
//! Each command does its own set-up, says what it installs and why, and is quick when there is nothing to do.

mod archive;
mod bench;
mod build;
mod cluster;
mod demo;
mod image;
mod lint;
mod manifests;
mod progress;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set-up, build, test, demo, benchmark and lint of Weft.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the other commands need, and check that the kernel has what they need
    Setup,
    /// Build the agent, with the eBPF programs in it, as it is shipped
    Build,
    /// Pack the agent into a container image, without a container engine
    Image(image::Options),
    /// Render the chart into deploy/weft.yaml, for those who have no Helm
    Manifests,
    /// Check formatting, run clippy with warnings as errors, and check licences and sources of dependencies
    Lint,
    /// Run all tests: of the crates, and of the agent in a world of nodes and pods
    Test(test::Options),
    /// Show Weft at work in a small shop on two nodes, step by step
    Demo(demo::Options),
    /// Compare Weft with a plain relay and with no mesh at all
    #[command(disable_help_flag = true)]
    Bench(bench::Options),
    /// Start, use and remove a real Kubernetes of several nodes on this machine
    Cluster(cluster::Options),
}

fn main() -> ExitCode {
    let run = || -> Result<()> {
        match Cli::parse().command {
            Command::Setup => setup::everything(),
            Command::Build => build::run(),
            Command::Image(options) => image::run(&options),
            Command::Manifests => manifests::run(),
            Command::Lint => lint::run(),
            Command::Test(options) => test::run(&options),
            Command::Demo(options) => demo::run(&options),
            Command::Bench(options) => bench::run(&options),
            Command::Cluster(options) => cluster::run(&options),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
