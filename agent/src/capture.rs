//! Capture: the eBPF programs, loaded, attached, pinned and taken over, and the state that they read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::in_pod::InPodListeners;
use crate::netns::{Netns, NetnsCookie};

/// What capture is started with.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// The folder of this host's bpffs that holds the pins of all nodes; default `/sys/fs/bpf/weft`.
    pub bpf_dir: PathBuf,
    /// The node's name: several nodes on one kernel have a folder each.
    pub node: String,
    /// The root of the cgroup v2 hierarchy; `None`: found in the mount table.
    pub cgroup_root: Option<PathBuf>,
    /// The cgroup whose processes may reach the pods directly (the kubelet's); that one exactly, not those below it.
    pub probe_cgroup: Option<PathBuf>,
    /// The most detailed level that the programs write to their log.
    pub log: LogLevel,
}

/// How much the eBPF programs write to their log. Programs are loaded anew with each process, so that what is off
/// is not even there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Connections that had to be refused.
    #[default]
    Warn,
    /// Every decision on a captured connection.
    Debug,
}

/// A pod to be captured.
#[derive(Debug, Clone, Copy)]
pub struct CapturedPod<'a> {
    /// Its network namespace.
    pub netns: &'a Netns,
    /// Its addresses, at most [`weft_common::POD_ADDRESSES`].
    pub addresses: &'a [IpAddr],
    /// Where its connections are sent.
    pub listeners: &'a InPodListeners,
}

/// Why capture does not work.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The agent was built without the eBPF programs.
    #[error("capture is not built in")]
    NotBuiltIn,
}

/// What [`uninstall`] took away.
#[derive(Debug, Clone, Default)]
pub struct Removed {
    /// Pods that were captured until now.
    pub pods: usize,
    /// Pinned links and maps.
    pub pins: usize,
}

/// How capture fares, for `weft status`.
#[derive(Debug, Clone)]
pub struct CaptureStatus {
    /// The pods that are captured.
    pub pods: Vec<NetnsCookie>,
}

/// The loaded programs and their state. Cheap to share by `Arc`.
#[derive(Debug)]
pub struct Capture;

impl Capture {
    /// Loads and attaches the programs, or takes over those that an earlier agent of this node left pinned.
    ///
    /// # Errors
    /// When the kernel lacks something, the bpffs is not the host's, or the programs cannot be loaded.
    pub fn start(options: CaptureOptions) -> Result<Self, CaptureError> {
        let _ = options;
        Err(CaptureError::NotBuiltIn)
    }

    /// Captures a pod, or replaces its addresses and listeners.
    pub fn enrol(&self, pod: &CapturedPod<'_>) -> Result<(), CaptureError> {
        let _ = pod;
        Err(CaptureError::NotBuiltIn)
    }

    /// Captures a pod no longer; its connections stay as they are.
    pub fn unenrol(&self, cookie: NetnsCookie) -> Result<(), CaptureError> {
        let _ = cookie;
        Err(CaptureError::NotBuiltIn)
    }

    /// The captured pods, those of an earlier agent included.
    pub fn enrolled(&self) -> Result<Vec<NetnsCookie>, CaptureError> {
        Err(CaptureError::NotBuiltIn)
    }

    /// The ranges that can hold destinations in the mesh; what is outside stays in the kernel.
    pub fn set_ranges(&self, ranges: &[IpNet]) -> Result<(), CaptureError> {
        let _ = ranges;
        Err(CaptureError::NotBuiltIn)
    }

    /// Remembers that an address inside the ranges is not of the mesh.
    pub fn put_outside(&self, address: IpAddr) -> Result<(), CaptureError> {
        let _ = address;
        Err(CaptureError::NotBuiltIn)
    }

    /// Forgets that an address is outside: before a snapshot is published in which it is in the mesh.
    pub fn remove_outside(&self, address: IpAddr) -> Result<(), CaptureError> {
        let _ = address;
        Err(CaptureError::NotBuiltIn)
    }

    /// The destination that the application gave to `connect`; `None` for a connection that was not captured.
    pub fn original_destination(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
        let _ = socket;
        Ok(None)
    }

    /// Marks a socket as the agent's own before it connects, and names the client that the application shall see.
    pub fn tag_own(&self, socket: BorrowedFd<'_>, client: Option<SocketAddr>) -> io::Result<()> {
        let _ = (socket, client);
        Ok(())
    }

    /// Finds the probe cgroup anew: its id changes each time that its service is restarted.
    pub fn refresh_probe_cgroup(&self) -> Result<(), CaptureError> {
        Err(CaptureError::NotBuiltIn)
    }

    /// Carries the programs' log into `tracing` until the process ends; blocks, so give it a thread of its own.
    pub fn forward_log(&self) -> Result<(), CaptureError> {
        Err(CaptureError::NotBuiltIn)
    }

    /// How capture fares.
    pub fn status(&self) -> Result<CaptureStatus, CaptureError> {
        Err(CaptureError::NotBuiltIn)
    }
}

/// What this kernel lacks for capture, by name; empty when it has everything.
pub fn missing_features() -> Vec<String> {
    Vec::new()
}

/// Removes every trace of a node's capture from the kernel.
pub fn uninstall(bpf_dir: &Path, node: &str) -> Result<Removed, CaptureError> {
    let _ = (bpf_dir, node);
    Err(CaptureError::NotBuiltIn)
}
