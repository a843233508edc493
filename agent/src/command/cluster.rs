//! Commands for a whole cluster: with a kubeconfig, through its API server.

use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::Context;
use weft_control::kubernetes::{self, Client};

/// The agents' namespace, unless somebody says another.
pub(super) const AGENTS_NAMESPACE: &str = "weft-system";

/// The variable that stands in for `--kubeconfig`. The parser does not read it: there it would count as the flag, and be
/// refused where a command does not ask a cluster.
const KUBECONFIG: &str = "WEFT_KUBECONFIG";

/// A client of the cluster that this file, or the variable, or `kubectl`'s own rules name.
pub(super) async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let variable = || std::env::var_os(KUBECONFIG).filter(|path| !path.is_empty()).map(PathBuf::from);
    let kubeconfig = kubeconfig.map(Path::to_owned).or_else(variable);
    Ok(kubernetes::connect_as_operator(kubeconfig.as_deref()).await?)
}

/// Runs to its end what asks a cluster.
pub(super) fn block_on<T>(asking: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(asking)
}
