//! The yardstick of the benchmark: a plain TCP relay that captures pods in the same way as Weft.
//!
//! One process a node, one thread, one readiness loop; no TLS, no HTTP/2, no policy, no pool. A connection that a pod
//! opens is captured, carried to port 15008 of the destination's pod on a connection of its own, behind a few bytes
//! that name the destination, and joined there with the application. It is meant to be as good as such a relay gets:
//! bytes are written from the buffer into which they were read, and nothing is copied but by the kernel.

mod buffers;
mod dial;
mod event_loop;
mod pair;
mod preamble;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use ipnet::IpNet;
use weft::capture::{Capture, CaptureOptions, CapturedPod, LogLevel};
use weft::in_pod;
use weft::netns::Netns;

use crate::dial::Dialler;
use crate::event_loop::EventLoop;

/// Relays the connections of pods until it is killed.
#[derive(Debug, Parser)]
struct Options {
    /// The node's name, under which its eBPF objects are pinned.
    #[arg(long)]
    node: String,
    /// Where they are pinned.
    #[arg(long, default_value = "/sys/fs/bpf/weft")]
    bpf_dir: PathBuf,
    /// The addresses that are captured.
    #[arg(long)]
    range: Vec<IpNet>,
    /// A pod to capture, as `PATH-OF-NETNS=ADDRESS`.
    #[arg(long = "pod")]
    pods: Vec<CaptureArgument>,
}

#[derive(Debug, Clone)]
struct CaptureArgument {
    netns: PathBuf,
    address: IpAddr,
}

impl FromStr for CaptureArgument {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (netns, address) = text.rsplit_once('=').context("a pod is given as PATH=ADDRESS")?;
        Ok(Self { netns: netns.into(), address: address.parse().context("the pod's address")? })
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let capture = Arc::new(Capture::start(CaptureOptions {
        bpf_dir: options.bpf_dir,
        node: options.node,
        cgroup_root: None,
        probe_cgroup: None,
        // Its sockets are as the system makes them.
        loopback_congestion_control: None,
        log: LogLevel::Off,
    })?);
    capture.set_ranges(&options.range)?;
    let mut event_loop = EventLoop::new()?;
    // Plaintext that comes from outside the mesh is no part of the comparison: these listeners only have to exist.
    let mut unserved = Vec::new();
    for pod in &options.pods {
        let netns = Arc::new(
            Netns::open(&pod.netns).with_context(|| format!("opening the namespace {}", pod.netns.display()))?,
        );
        let addresses = [pod.address];
        let mut listeners = in_pod::listeners(&netns, 1, &addresses, false)?;
        capture.enrol(&CapturedPod { netns: &netns, addresses: &addresses, listeners: &listeners })?;
        let own = listeners.per_worker.pop().context("listeners for one worker were asked for")?;
        unserved.push(own.inbound);
        event_loop.serve(own.outbound, own.hbone, Arc::new(Dialler::new(netns, Arc::clone(&capture))?))?;
    }
    println!("relaying");
    event_loop.run()
}
