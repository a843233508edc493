//! A cluster in miniature.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};

use crate::config::ConfigDir;
use crate::host::Host;
use crate::ip::Batch;
use crate::manifest::{Manifest, ServiceSpec};
use crate::netns::Netns;
use crate::node::Node;
use crate::process::Journal;
use crate::sweep;

/// How many nodes a world can have: each node has a route to every other one, also to those still to come.
pub(crate) const NODES: u16 = 8;

/// Lines of an agent's log that are shown when a test fails.
const LOG_TAIL: usize = 300;

/// Nodes and pods, the network between them, and the manifests that describe them. Dropping it removes all of it.
#[derive(Debug)]
pub struct World {
    shared: Arc<Shared>,
    options: WorldOptions,
    next_node: AtomicU16,
    next_outside: AtomicU16,
    next_service: AtomicU16,
}

/// What [`World::with`] is told.
#[derive(Debug, Clone, Copy)]
pub struct WorldOptions {
    /// Print the last lines of every agent's log when the world is dropped. The test runner shows them if the test
    /// failed. Default: true.
    pub shows_logs: bool,
}

/// What nodes and pods need of their world.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) config: ConfigDir,
    pub(crate) fabric: Netns,
    pub(crate) folder: PathBuf,
    pub(crate) journals: Mutex<Vec<(String, Journal)>>,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { shows_logs: true }
    }
}

impl World {
    /// Makes an empty world.
    ///
    /// # Errors
    /// Not root, or the kernel lacks network namespaces, bridges or version 2 cgroups; the message says which.
    pub fn new() -> Result<Self> {
        Self::with(WorldOptions::default())
    }

    /// [`new`](Self::new) with options.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(options: WorldOptions) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid takes nothing and always succeeds.
        let is_root = unsafe { libc::geteuid() } == 0;
        ensure!(is_root, "nodes and pods are network namespaces, and making those needs root: run this with sudo");
        sweep::remove_stale_worlds();
        raise_descriptor_limit();
        let name = sweep::world_name(COUNTER.fetch_add(1, Ordering::Relaxed));
        let folder = sweep::world_folder(&name);
        let config = ConfigDir::create(&folder.join("config"))?;
        let fabric = Netns::create(&format!("{name}-fabric"))?;
        let mut batch = Batch::default();
        batch.line("link add fabric type bridge mcast_snooping 0");
        batch.line("link set fabric up");
        batch.run(&fabric)?;
        let shared = Shared { name, config, fabric, folder, journals: Mutex::default() };
        Ok(Self {
            shared: Arc::new(shared),
            options,
            next_node: AtomicU16::new(1),
            next_outside: AtomicU16::new(200),
            next_service: AtomicU16::new(10),
        })
    }

    /// The name that all traces of this world carry.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// A folder for files of this world; it is removed with it.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// The folder of manifests that all agents of this world read.
    pub fn config(&self) -> &ConfigDir {
        &self.shared.config
    }

    /// The folder of the certificate authority that all agents of this world share.
    pub fn ca_folder(&self) -> PathBuf {
        self.shared.folder.join("ca")
    }

    /// Leaves everything as it is when this process ends, until [`remove_kept_worlds`](crate::remove_kept_worlds): whoever
    /// calls this then forgets ([`std::mem::forget`]) what would remove itself when it is dropped.
    ///
    /// # Errors
    /// The mark that tells other processes cannot be written.
    pub fn keep(&self) -> Result<()> {
        sweep::mark_kept(&self.shared.name)
    }

    /// Adds a node. Its full name, unique on this machine, is [`Node::name`].
    ///
    /// # Errors
    /// There are eight already, or the kernel refuses a part of it.
    pub fn node(&self, name: &str) -> Result<Node> {
        let number = self.next_node.fetch_add(1, Ordering::Relaxed);
        ensure!(number <= NODES, "a world has at most {NODES} nodes");
        Node::create(Arc::clone(&self.shared), name, number).with_context(|| format!("making the node {name}"))
    }

    /// Adds a host that is no node and runs no pods: something on the network that is outside the mesh.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn outside(&self, name: &str) -> Result<(Host, Vec<IpAddr>)> {
        let number = self.next_outside.fetch_add(1, Ordering::Relaxed);
        let host =
            Host::create(&format!("{}-{name}", self.shared.name), &format!("{}/outside/{name}", self.shared.name))?;
        let addresses = connect_to_fabric(&self.shared.fabric, host.netns(), number)?;
        Ok((host, addresses))
    }

    /// Writes a Namespace with these labels, or replaces it.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.config().put(&format!("namespace-{name}"), &Manifest::namespace(name, labels).to_yaml())
    }

    /// Labels a Namespace into the mesh.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn enrol(&self, namespace: &str) -> Result<()> {
        self.namespace(namespace, &[("istio.io/dataplane-mode", "ambient")])
    }

    /// Takes the label off again.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn unenrol(&self, namespace: &str) -> Result<()> {
        self.namespace(namespace, &[])
    }

    /// Writes a Service and returns its virtual addresses, IPv4 first; none if it is headless.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn service(&self, spec: &ServiceSpec) -> Result<Vec<IpAddr>> {
        let number = self.next_service.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let addresses = match spec.is_headless {
            true => Vec::new(),
            false => vec![
                IpAddr::from(Ipv4Addr::new(10, 96, high, low)),
                IpAddr::from(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number)),
            ],
        };
        self.put_service(spec, &addresses)?;
        Ok(addresses)
    }

    /// Writes a Service with given addresses, or replaces it.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn put_service(&self, spec: &ServiceSpec, addresses: &[IpAddr]) -> Result<()> {
        let file = format!("service-{}-{}", spec.namespace, spec.name);
        self.config().put(&file, &spec.manifest(addresses).to_yaml())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.options.shows_logs {
            for (agent, journal) in self.shared.journals.lock().expect("no journal panics").iter() {
                let text = journal.text();
                let lines: Vec<&str> = text.lines().collect();
                println!("--- log of {agent}, last {} of {} lines", lines.len().min(LOG_TAIL), lines.len());
                lines[lines.len().saturating_sub(LOG_TAIL)..].iter().for_each(|line| println!("{line}"));
            }
        }
        sweep::remove_world(&self.shared.name);
    }
}

/// Gives a namespace an interface `uplink` on the network between the nodes, and routes to the pods of every node.
pub(crate) fn connect_to_fabric(fabric: &Netns, netns: &Netns, number: u16) -> Result<Vec<IpAddr>> {
    let (v4, v6) = fabric_addresses(number);
    let mut switch = Batch::default();
    switch.line(format_args!("link add n{number} type veth peer name uplink netns {}", netns.name()));
    switch.line(format_args!("link set n{number} master fabric up"));
    switch.run(fabric)?;
    let mut host = Batch::default();
    host.line(format_args!("addr add {v4}/24 dev uplink"));
    host.line(format_args!("addr add {v6}/64 dev uplink nodad"));
    host.line("link set uplink up");
    for node in (1..=NODES).filter(|node| *node != number) {
        let (v4, v6) = fabric_addresses(node);
        host.line(format_args!("route add 10.244.{node}.0/24 via {v4}"));
        host.line(format_args!("route add fd00:244:0:{node}::/64 via {v6}"));
    }
    host.run(netns)?;
    Ok(vec![v4.into(), v6.into()])
}

fn fabric_addresses(number: u16) -> (Ipv4Addr, Ipv6Addr) {
    let [_, low] = number.to_be_bytes();
    (Ipv4Addr::new(172, 30, 0, low), Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, number))
}

/// Lets this process and those that it starts open as many descriptors as the hard limit allows: scenarios hold tens of
/// thousands of connections.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls are given pointers to values that outlive them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            let wanted = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
            // Raising the hard limit needs CAP_SYS_RESOURCE; without it, take what there is.
            if limit.rlim_max >= wanted.rlim_max || libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) != 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
    }
}

/// How many descriptors a process of a world may have open.
pub fn descriptor_limit() -> u64 {
    raise_descriptor_limit();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value that outlives the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}
