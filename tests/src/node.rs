//! A node: a host that runs an agent and pods.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

use crate::agent::AgentOptions;
use crate::host::Host;
use crate::ip::Batch;
use crate::pod::{Pod, PodSpec};
use crate::tap::Tap;
use crate::world::{Shared, connect_to_fabric};

/// A network namespace with the interface `uplink` towards the other nodes and the bridge `pods` towards its own pods,
/// which have addresses in `10.244.N.0/24` and `fd00:244:0:N::/64`.
#[derive(Debug)]
pub struct Node {
    name: String,
    label: String,
    number: u16,
    host: Arc<Host>,
    addresses: Vec<IpAddr>,
    shared: Arc<Shared>,
    next_pod: AtomicU16,
}

impl Node {
    pub(crate) fn create(shared: Arc<Shared>, label: &str, number: u16) -> Result<Self> {
        let name = format!("{}-{label}", shared.name);
        let host = Host::create(&name, &format!("{}/{label}/system", shared.name))?;
        let addresses = connect_to_fabric(&shared.fabric, host.netns(), number)?;
        let mut batch = Batch::default();
        // A bridge without an address of its own takes that of one of its ports, and another one's when ports come and go:
        // pods that had learnt the old one would talk to nobody for seconds.
        batch.line(format_args!("link add pods address 0a:58:0a:f4:{number:02x}:01 type bridge mcast_snooping 0"));
        batch.line(format_args!("addr add 10.244.{number}.1/24 dev pods"));
        batch.line(format_args!("addr add fd00:244:0:{number}::1/64 dev pods nodad"));
        batch.line("link set pods up");
        batch.run(host.netns())?;
        host.netns().sysctl("ipv4/ip_forward", "1")?;
        host.netns().sysctl("ipv6/conf/all/forwarding", "1")?;
        let host = Arc::new(host);
        Ok(Self { name, label: label.into(), number, host, addresses, shared, next_pod: AtomicU16::new(2) })
    }

    /// The node's name in manifests and for `weft agent --node`, unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The short name it was made with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its own addresses towards the other nodes, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Starts a pod here: network namespace, cgroup, addresses, and its manifest.
    ///
    /// # Errors
    /// The kernel refuses a part of it, or there is a pod of that name.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        let name = spec.name.clone();
        Pod::create(
            Arc::clone(&self.shared),
            Arc::clone(&self.host),
            (&self.name, &self.label, self.number),
            spec,
            number,
        )
        .with_context(|| format!("making the pod {name} on {}", self.label))
    }

    /// An agent for this node, not yet started.
    pub fn agent(&self) -> AgentOptions {
        AgentOptions::new(Arc::clone(&self.shared), Arc::clone(&self.host), &self.name, &self.label)
    }

    /// Records everything that crosses the interface towards the other nodes, from now on.
    ///
    /// # Errors
    /// No packet socket can be opened.
    pub fn tap(&self) -> Result<Tap> {
        Tap::start(self.host.netns(), "uplink")
    }
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}
