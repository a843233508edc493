//! `cargo xtask manifests`: what the chart renders, kept in the tree for those who have no Helm. A test of the clusters holds
//! it to the chart.

use std::fs;

use anyhow::{Context, Result};
use weft_tests::cluster::chart::plain_manifests;

use crate::cluster;
use crate::progress;

/// `cargo xtask manifests`
pub(crate) fn run() -> Result<()> {
    let kit = cluster::kit_with_helm()?;
    let file = plain_manifests();
    let text = kit.render_chart(&["createNamespace=true"])?;
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    progress::note("deploy/weft.yaml is what the chart renders now");
    Ok(())
}
