//! `cargo xtask demo`: a small shop on two nodes, before, in, and after trouble in the mesh.
//!
//! Each step does something, shows what can be seen of it, and checks it; the first check that fails ends the demo with
//! an exit code other than 0.

mod kubernetes;
mod shop;
mod stage;
mod steps;

use anyhow::Result;
use clap::Args;
use weft_tests::{remove_kept_worlds, sweep_on_interrupt};

use crate::build;
use crate::setup;
use shop::Shop;
use stage::Stage;

/// What `cargo xtask demo` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The same story on a real Kubernetes on this machine, by kubectl and Helm
    #[arg(long)]
    kubernetes: bool,
    /// Leave the shop running, and say how to look around in it
    #[arg(long)]
    keep: bool,
    /// Remove what earlier runs with --keep left, and do nothing else
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

/// `cargo xtask demo`
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.remove {
        let removed = remove_kept_worlds();
        let clusters = usize::from(kubernetes::remove());
        println!("removed: {}", removed + clusters);
        return Ok(());
    }
    if options.kubernetes {
        setup::for_clusters()?;
        let agent = build::agent()?;
        // No thread of the builds is left, so that Ctrl-C reaches the one that cleans up.
        sweep_on_interrupt()?;
        return kubernetes::run(&agent, options.keep);
    }
    // Before any thread is there, so that Ctrl-C reaches the one that cleans up.
    sweep_on_interrupt()?;
    setup::for_worlds()?;
    let agent = build::agent()?;
    let mut stage = Stage::new(steps::STEPS.len());
    let mut shop = Shop::open(&agent)?;
    for (title, step) in steps::STEPS {
        stage.step(title);
        step(&mut shop, &mut stage)?;
    }
    stage.end();
    if options.keep {
        shop.world.keep()?;
        stage.look_around(&shop, &agent);
        // Everything in it would remove itself.
        std::mem::forget(shop);
    }
    Ok(())
}
