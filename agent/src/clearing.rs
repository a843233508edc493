//! Clears a node when its cluster orders it: what the agent does on its side of [`weft_control::uninstall`].
//!
//! First of all new pods no longer wait for an agent; then the pods of the node leave the mesh, and what they have open goes on
//! for as long as a drain may take; then every trace goes. The agent stays, idle, until it is told to end: its DaemonSet
//! would start it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_control::kubernetes::Client;
use weft_control::uninstall;

use crate::capture;
use crate::cni;
use crate::command::{AgentOptions, CniFolders};

/// How long it waits before it tries again what has failed.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the API server is asked, at the start, whether there is an order. Without an answer there is none yet.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// What there is to clear, and whom to answer.
pub struct Clearing {
    client: Client,
    namespace: String,
    pod: String,
    traces: Traces,
}

/// Where an agent leaves traces on its node.
#[derive(Debug, Clone)]
struct Traces {
    node: String,
    bpf_dir: PathBuf,
    state_dir: PathBuf,
    /// An authority is nobody's to remove, whoever it is of.
    ca_dir: PathBuf,
    cni: Option<CniFolders>,
}

impl Clearing {
    /// For an agent that is the pod that its options name.
    pub fn new(client: Client, options: &AgentOptions) -> Self {
        let planes = &options.control_planes;
        Self {
            client,
            namespace: planes.namespace.clone(),
            pod: planes.pod.clone().unwrap_or_else(|| options.node.clone()),
            traces: Traces {
                node: options.node.clone(),
                bpf_dir: options.bpf_dir.clone(),
                state_dir: options.state_dir.clone(),
                ca_dir: options.ca_dir.clone(),
                cni: options.cni.clone(),
            },
        }
    }

    /// Whether the order stands already.
    pub async fn is_ordered(&self) -> bool {
        let asked = uninstall::is_ordered(&self.client, &self.namespace, &self.pod);
        matches!(tokio::time::timeout(ASK_WITHIN, asked).await, Ok(Ok(true)))
    }

    /// Resolves when the order stands.
    pub async fn ordered(&self) {
        uninstall::ordered(&self.client, &self.namespace, &self.pod).await;
    }

    /// Takes the CNI plug-in out, and tries again for as long as it must. Nobody may keep it installed any more.
    pub async fn take_plug_in_out(&self) {
        let traces = self.traces.clone();
        persist("taking the CNI plug-in out", move || traces.take_plug_in_out()).await;
    }

    /// Removes what is left and says that the node is clear; tries again for as long as it must. Capture must be nobody's.
    pub async fn finish(&self) {
        let traces = self.traces.clone();
        persist("removing capture and files", move || traces.remove()).await;
        while let Err(error) = uninstall::acknowledge(&self.client, &self.namespace, &self.pod).await {
            tracing::warn!(%error, "the cluster cannot be told that this node is clear; trying again");
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!("this node is clear; the agent does nothing any more");
    }
}

impl Traces {
    fn take_plug_in_out(&self) -> io::Result<()> {
        let Some(CniFolders { conf_dir, bin_dir }) = &self.cni else { return Ok(()) };
        cni::uninstall(conf_dir, bin_dir, &self.state_dir).map(drop).map_err(io::Error::other)
    }

    fn remove(&self) -> io::Result<()> {
        self.take_plug_in_out()?;
        capture::uninstall(&self.bpf_dir, &self.node).map_err(io::Error::other)?;
        empty(&self.state_dir, &self.ca_dir)
    }
}

/// Removes what a folder holds but for `spared`. The folder itself may be a mount.
fn empty(folder: &Path, spared: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path() == spared {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Does it beside the control runtime, again and again until it has worked.
async fn persist(what: &str, work: impl Fn() -> io::Result<()> + Clone + Send + 'static) {
    loop {
        let done = tokio::task::spawn_blocking(work.clone()).await.map_err(io::Error::other).flatten();
        let Err(error) = done else { return };
        tracing::error!(%error, "{what} failed; trying again");
        tokio::time::sleep(PAUSE).await;
    }
}
