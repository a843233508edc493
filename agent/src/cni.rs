//! The CNI plug-in: what makes a pod of the mesh captured before its first packet.
//!
//! A container runtime calls the plug-ins of the node's network one after the other for each new sandbox. `weft-cni`, this
//! program under another name, is the last of the chain. It asks the agent, whose answer comes when the pod is captured
//! and its listeners stand, and changes nothing by itself: what the plug-ins before it reported it passes on. While no
//! agent answers, a pod that belongs to the mesh is refused, and the kubelet tries again; others start.
//!
//! `plugin` is the program that the runtime calls; `install` puts it into the node's configuration, keeps it there, and
//! takes it out. The specification is CNI 1.1.0 (<https://www.cni.dev/docs/spec/>).

mod install;
mod plugin;
mod question;
mod remembered;

use std::path::{Path, PathBuf};

pub use install::{InstallError, Installation, Removed, keep, uninstall};
pub use plugin::{Failure, NetworkConfig, PodArguments, main};
pub(crate) use question::{Going, Known, MAX_QUESTION};
pub use remembered::Remembered;

/// The plug-in's name: its type in a network configuration, and that of its file.
pub const NAME: &str = "weft-cni";

/// The plug-in's kubeconfig, in the agent's state directory.
pub fn kubeconfig_path(state_dir: &Path) -> PathBuf {
    state_dir.join("cni-kubeconfig")
}
