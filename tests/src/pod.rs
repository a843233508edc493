//! A pod: a network namespace and a cgroup on a node, and the manifest that says so.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::host::Host;
use crate::ip::Batch;
use crate::manifest::Manifest;
use crate::tap::Tap;
use crate::world::Shared;

/// Which addresses a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 and IPv6, IPv4 first.
    Dual,
    /// IPv4 only; the pod has no IPv6 route.
    V4,
    /// IPv6 only; the pod has no IPv4 route.
    V6,
}

/// A pod to be made by [`Node::pod`](crate::Node::pod).
#[derive(Debug, Clone)]
pub struct PodSpec {
    pub(crate) name: String,
    namespace: String,
    service_account: String,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
    ports: Vec<(String, u16)>,
    families: Families,
    number: Option<u16>,
    uid: Option<String>,
    owner: Option<(String, String)>,
    is_ready: bool,
    is_terminating: bool,
    is_listed: bool,
}

impl PodSpec {
    /// A ready pod of the namespace `default` with the label `app: NAME`, the service account `default` and both address
    /// families.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: "default".into(),
            service_account: "default".into(),
            labels: vec![("app".into(), name.into())],
            annotations: Vec::new(),
            ports: Vec::new(),
            families: Families::Dual,
            number: None,
            uid: None,
            owner: None,
            is_ready: true,
            is_terminating: false,
            is_listed: true,
        }
    }

    /// Puts it into a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Runs it under a service account, whose name becomes part of its identity.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.service_account = name.into();
        self
    }

    /// Sets a label, or replaces it.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        set(&mut self.labels, name, Some(value));
        self
    }

    /// Sets an annotation, or replaces it.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        set(&mut self.annotations, name, Some(value));
        self
    }

    /// Names a container port.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16) -> Self {
        self.ports.push((name.into(), port));
        self
    }

    /// Gives it addresses of these families.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Gives it the addresses that `other`, gone by now, had.
    #[must_use]
    pub fn number(mut self, number: u16) -> Self {
        self.number = Some(number);
        self
    }

    /// Sets `metadata.uid`.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.into());
        self
    }

    /// Names the controller that owns it: `("ReplicaSet", "web-5d9c7f8b6d")`, say.
    #[must_use]
    pub fn owner(mut self, kind: &str, name: &str) -> Self {
        self.owner = Some((kind.into(), name.into()));
        self
    }

    /// Makes it start unready.
    #[must_use]
    pub fn unready(mut self) -> Self {
        self.is_ready = false;
        self
    }

    /// Writes no manifest for it: a pod that nobody has told the agents about.
    #[must_use]
    pub fn unlisted(mut self) -> Self {
        self.is_listed = false;
        self
    }
}

/// A pod. Dropping it kills its processes and removes its manifest, interfaces and namespace.
#[derive(Debug)]
pub struct Pod {
    spec: Mutex<PodSpec>,
    name: String,
    namespace: String,
    node: String,
    number: u16,
    addresses: Vec<IpAddr>,
    host: Host,
    interface: String,
    node_host: Arc<Host>,
    shared: Arc<Shared>,
}

impl Pod {
    pub(crate) fn create(
        shared: Arc<Shared>,
        node_host: Arc<Host>,
        (node, node_label, node_number): (&str, &str, u16),
        spec: PodSpec,
        next_number: u16,
    ) -> Result<Self> {
        let full_name = format!("{}-{}", spec.namespace, spec.name);
        let host = Host::create(
            &format!("{}-{full_name}", shared.name),
            &format!("{}/{node_label}/pods/{full_name}", shared.name),
        )?;
        let number = spec.number.unwrap_or(next_number);
        let v4 = Ipv4Addr::new(10, 244, node_number as u8, number as u8);
        let v6 = Ipv6Addr::new(0xfd00, 0x244, 0, node_number, 0, 0, 0, number);
        let interface = format!("pod{next_number}");
        let [a, b, c, d] = v4.octets();
        let mut on_node = Batch::default();
        // The hardware address follows from the pod's, so that neighbours need not learn anew when an address is reused.
        on_node.line(format_args!(
            "link add {interface} type veth peer name eth0 address 0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x} netns {}",
            host.netns().name()
        ));
        on_node.line(format_args!("link set {interface} master pods up"));
        on_node.run(node_host.netns())?;
        let mut inside = Batch::default();
        inside.line("link set eth0 up");
        let mut addresses = Vec::new();
        if spec.families != Families::V6 {
            inside.line(format_args!("addr add {v4}/24 dev eth0"));
            inside.line(format_args!("route add default via 10.244.{node_number}.1"));
            addresses.push(v4.into());
        }
        if spec.families != Families::V4 {
            inside.line(format_args!("addr add {v6}/64 dev eth0 nodad"));
            inside.line(format_args!("route add default via fd00:244:0:{node_number}::1"));
            addresses.push(v6.into());
        }
        inside.run(host.netns())?;
        let pod = Self {
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            spec: Mutex::new(spec),
            node: node.into(),
            number,
            addresses,
            host,
            interface,
            node_host,
            shared,
        };
        pod.write_manifest()?;
        Ok(pod)
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The number from which its addresses follow, for [`PodSpec::number`] of a pod that is to reuse them.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first address.
    pub fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// It was made without one.
    pub fn ip6(&self) -> IpAddr {
        *self.addresses.iter().find(|address| address.is_ipv6()).expect("the pod was made with an IPv6 address")
    }

    /// A port of its first address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// A port of its IPv6 address.
    ///
    /// # Panics
    /// It was made without one.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip6(), port)
    }

    /// The SPIFFE identity that Weft gives it in the trust domain `cluster.local`.
    pub fn identity(&self) -> String {
        let account = self.spec().service_account.clone();
        format!("spiffe://cluster.local/ns/{}/sa/{account}", self.namespace)
    }

    /// Changes its readiness.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn set_ready(&self, is_ready: bool) -> Result<()> {
        self.spec().is_ready = is_ready;
        self.write_manifest()
    }

    /// Marks it as being deleted, as Kubernetes does while it drains.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn set_terminating(&self) -> Result<()> {
        self.spec().is_terminating = true;
        self.write_manifest()
    }

    /// Writes the manifest of one that was [`PodSpec::unlisted`].
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn list(&self) -> Result<()> {
        self.spec().is_listed = true;
        self.write_manifest()
    }

    /// Takes its manifest away; it lives on.
    ///
    /// # Errors
    /// The configuration folder cannot be written, or there is none.
    pub fn unlist(&self) -> Result<()> {
        self.spec().is_listed = false;
        self.shared.config.remove(&self.file())
    }

    /// Sets a label, or removes it.
    ///
    /// # Errors
    /// The configuration folder cannot be written.
    pub fn set_label(&self, name: &str, value: Option<&str>) -> Result<()> {
        set(&mut self.spec().labels, name, value);
        self.write_manifest()
    }

    /// Records what crosses its interface, from now on.
    ///
    /// # Errors
    /// No packet socket can be opened.
    pub fn tap(&self) -> Result<Tap> {
        Tap::start(self.netns(), "eth0")
    }

    /// A folder for files of this pod; it is removed with the world.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self) -> Result<PathBuf> {
        let folder = self.shared.folder.join("pods").join(format!("{}-{}", self.namespace, self.name));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    fn spec(&self) -> std::sync::MutexGuard<'_, PodSpec> {
        self.spec.lock().expect("nothing panics while it holds the specification")
    }

    fn file(&self) -> String {
        format!("pod-{}-{}", self.namespace, self.name)
    }

    fn write_manifest(&self) -> Result<()> {
        let spec = self.spec().clone();
        if !spec.is_listed {
            return Ok(());
        }
        self.shared.config.put(&self.file(), &self.manifest(&spec).to_yaml())
    }

    fn manifest(&self, spec: &PodSpec) -> Manifest {
        let owned = |pairs: &[(String, String)]| -> serde_json::Map<String, Value> {
            pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
        };
        let mut annotations = owned(&spec.annotations);
        annotations.insert("weft.dev/netns".into(), json!(self.netns().path()));
        let ports: Vec<Value> =
            spec.ports.iter().map(|(name, port)| json!({ "name": name, "containerPort": port })).collect();
        let status = if spec.is_ready { "True" } else { "False" };
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": spec.name,
                "namespace": spec.namespace,
                "labels": owned(&spec.labels),
                "annotations": annotations,
            },
            "spec": {
                "nodeName": self.node,
                "serviceAccountName": spec.service_account,
                "containers": [{ "name": "app", "ports": ports }],
            },
            "status": {
                "phase": "Running",
                "podIP": self.addresses[0].to_string(),
                "podIPs": self.addresses.iter().map(|ip| json!({ "ip": ip.to_string() })).collect::<Vec<_>>(),
                "conditions": [{ "type": "Ready", "status": status }],
            },
        });
        if let Some(uid) = &spec.uid {
            object["metadata"]["uid"] = json!(uid);
        }
        if let Some((kind, name)) = &spec.owner {
            object["metadata"]["ownerReferences"] =
                json!([{ "apiVersion": "apps/v1", "kind": kind, "name": name, "controller": true }]);
        }
        if spec.is_terminating {
            object["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        }
        Manifest::object(object)
    }
}

impl Deref for Pod {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.shared.config.remove(&self.file());
        // The kernel would remove the pair some time after the namespace; its address may be given away before that.
        let mut batch = Batch::default();
        let _ = batch.line(format_args!("link delete {}", self.interface)).run(self.node_host.netns());
    }
}

fn set(pairs: &mut Vec<(String, String)>, name: &str, value: Option<&str>) {
    pairs.retain(|(key, _)| key != name);
    if let Some(value) = value {
        pairs.push((name.into(), value.into()));
    }
}
