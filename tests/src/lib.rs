//! A world of nodes and pods in network namespaces, for whatever wants to see Weft run: the scenarios in
//! `tests/scenarios`, `cargo xtask demo` and the benchmark.
//!
//! A [`World`] is a cluster in miniature. Its nodes are network namespaces joined by a bridge, its pods are network
//! namespaces with a cgroup each, joined to their node, and its configuration is a folder of Kubernetes manifests that
//! every agent of the world reads. Processes in it are real servers and clients, agents are the shipped binary.
//!
//! Everything is named after the process that made it and removed when the world is dropped, also while a test panics;
//! what a killed process left behind is swept up by the next world. Worlds know nothing of each other, so tests run in
//! parallel.
//!
//! This crate knows Weft only from outside: command line, manifests, wire, metrics and log.

mod world;
pub use world::{World, WorldOptions, descriptor_limit};

mod node;
pub use node::Node;

mod pod;
pub use pod::{Families, Pod, PodSpec};

mod host;
pub use host::Host;

mod manifest;
pub use manifest::{Manifest, ServiceSpec, yaml};

mod config;
pub use config::ConfigDir;

mod agent;
pub use agent::{Agent, AgentOptions, weft, weft_binary};

mod metrics;
pub use metrics::{Metrics, Sample};

pub mod pattern;

pub mod server;

mod nginx;
pub use nginx::{Nginx, nginx};

pub mod tap;

mod process;
pub use process::{Finished, Process};

mod wait;
pub use wait::{eventually, eventually_within};

mod netns;
pub use netns::Netns;

mod cgroup;
pub use cgroup::Cgroup;

mod ip;

pub mod cluster;

mod sweep;
pub use sweep::{remove_kept_worlds, remove_worlds_of_this_process, stale_leftovers, sweep_on_interrupt};
