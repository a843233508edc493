//! `weft agent`: its flags.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::address::{ListenAddress, loopback};
use super::cni_flags::{CniArgs, CniFolders};
use super::control_plane::{ControlPlaneArgs, ControlPlanes};
use crate::admin::{AdminOptions, socket_path};
use crate::capture::CongestionControl;
use crate::enrol::OlderConnections;
use crate::telemetry::{LineFormat, LogFilter};

/// The state directory of an agent that was not told another.
pub(super) const STATE_DIR: &str = "/var/lib/weft";

/// Where the pins of all nodes of a host are.
pub(super) const BPF_DIR: &str = "/sys/fs/bpf/weft";

/// The trust domain, and the domain of host names, of a mesh that was not told others.
pub(super) const CLUSTER_LOCAL: &str = "cluster.local";

/// The namespace whose policies hold for a whole mesh that was not told another.
pub(super) const ROOT_NAMESPACE: &str = "istio-system";

/// The longest that certificates are valid where nothing else was chosen.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The most threads that carry connections; more than any machine gains from.
const MAX_WORKERS: usize = 512;

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// Folder of Kubernetes manifests (YAML or JSON) that the mesh is described by, without --kubernetes. A change takes
    /// effect at once
    #[arg(long, env = "WEFT_CONFIG", value_name = "DIR", default_value = "/etc/weft", conflicts_with = "kubernetes")]
    config: PathBuf,

    /// This host is a node of the cluster that this pod is in, or that of --kubeconfig: its API server says which pods
    /// run here, and the kubelet is found by itself
    #[arg(long, env = "WEFT_KUBERNETES", requires_all = ["discovery", "ca"])]
    kubernetes: bool,

    /// File that says where the API server is and who this agent is to it [default: this pod's service account]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Name of this node, as pods name it in spec.nodeName [default: this host's name]
    #[arg(long, env = "WEFT_NODE", value_name = "NAME", value_parser = node_name)]
    node: Option<String>,

    /// Folder for what the agent keeps: its admin socket and its last state. One for each agent; made if need be
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    /// Folder of the certificate authority. Its root is made on first start; agents that share it trust each other
    #[arg(long, env = "WEFT_CA_DIR", value_name = "DIR", default_value = "/var/lib/weft/ca")]
    ca_dir: PathBuf,

    /// Threads that carry connections [default: one for each CPU]
    #[arg(long, env = "WEFT_WORKERS", value_name = "N", value_parser = workers)]
    workers: Option<NonZeroUsize>,

    /// Trust domain of the mesh: the first part of every identity
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", default_value = CLUSTER_LOCAL, value_parser = trust_domain)]
    trust_domain: String,

    /// Other trust domains whose certificates are accepted as the mesh's own, separated by commas
    #[arg(long, env = "WEFT_TRUST_DOMAIN_ALIASES", value_name = "NAMES", value_delimiter = ',', value_parser = trust_domain)]
    trust_domain_aliases: Vec<String>,

    /// PEM file of further roots to trust; read again when it changes
    #[arg(long, env = "WEFT_EXTRA_ROOTS", value_name = "FILE")]
    extra_roots: Option<PathBuf>,

    /// PEM file of certificate revocation lists; read again when it changes
    #[arg(long, env = "WEFT_REVOCATION_LISTS", value_name = "FILE")]
    revocation_lists: Option<PathBuf>,

    /// How long certificates are valid; they are renewed at half of it
    #[arg(long, env = "WEFT_CERTIFICATE_LIFETIME", value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    certificate_lifetime: Duration,

    /// Name of this cluster in metrics and workload names
    #[arg(long, env = "WEFT_CLUSTER", value_name = "NAME", default_value = "Kubernetes", value_parser = cluster_name)]
    cluster: String,

    /// Network of this node's pods: those of another one cannot be reached directly. Empty for the only one
    #[arg(long, env = "WEFT_NETWORK", value_name = "NAME", default_value = "")]
    network: String,

    /// Namespace whose policies hold for the whole mesh
    #[arg(long, env = "WEFT_ROOT_NAMESPACE", value_name = "NAME", default_value = ROOT_NAMESPACE, value_parser = namespace)]
    root_namespace: String,

    /// Domain of the services' host names
    #[arg(long, env = "WEFT_CLUSTER_DOMAIN", value_name = "NAME", default_value = CLUSTER_LOCAL, value_parser = cluster_domain)]
    cluster_domain: String,

    /// Where the admin interface listens beside its Unix socket: a loopback address with a port, or off
    #[arg(long, env = "WEFT_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:15000", value_parser = loopback)]
    admin: ListenAddress,

    /// Where metrics are served (/metrics): an address with a port, a port alone for every address, or off
    #[arg(long, env = "WEFT_METRICS", value_name = "ADDRESS", default_value = "15020")]
    metrics: ListenAddress,

    /// Where readiness is served (/healthz/ready): an address with a port, a port alone for every address, or off
    #[arg(long, env = "WEFT_READINESS", value_name = "ADDRESS", default_value = "15021")]
    readiness: ListenAddress,

    /// What is logged, on standard error: off, error, warn, info, debug, trace, or module=level, separated by commas
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info")]
    log: LogFilter,

    /// Form of the log
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LineFormat,

    /// Form of the access log, on standard output: one record for each connection
    #[arg(long, env = "WEFT_ACCESS_LOG", value_name = "FORMAT", default_value = "text")]
    access_log: AccessLogFormat,

    /// What becomes of the connections that a pod has when it comes into the mesh, whatever they go to. To end them takes
    /// a kernel with SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)
    #[arg(long, env = "WEFT_OLDER_CONNECTIONS", value_name = "CHOICE", default_value = "keep")]
    older_connections: OlderConnections,

    /// Cgroup whose processes reach pods directly, even under STRICT: the kubelet's, for its probes. Exactly this one,
    /// not those below it [default with --kubernetes: found]
    #[arg(long, env = "WEFT_PROBE_CGROUP", value_name = "DIR")]
    probe_cgroup: Option<PathBuf>,

    /// TCP congestion control of connections between the applications and the agent, which never leave their pod: one
    /// that the kernel knows, or system for what each pod has. Those that pace, as bbr does, cost them half their speed
    #[arg(long, env = "WEFT_LOOPBACK_CONGESTION_CONTROL", value_name = "NAME", default_value = "reno")]
    loopback_congestion_control: LoopbackCongestionControl,

    /// Folder, in this host's own bpffs, for the pinned eBPF programs; each node gets its own below it
    #[arg(long, env = "WEFT_BPF_DIR", value_name = "DIR", default_value = BPF_DIR)]
    bpf_dir: PathBuf,

    /// Root of the cgroup v2 hierarchy [default: as mounted]
    #[arg(long, env = "WEFT_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,

    /// How long connections may go on after SIGTERM. Capture stays in force after that: nothing goes out in clear
    #[arg(long, env = "WEFT_DRAIN_DEADLINE", value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    drain_deadline: Duration,

    /// Take over from the agent that runs with this state directory, without a connection that is refused: it yields when
    /// this one has its configuration. Otherwise a second agent of one state directory does not start
    #[arg(long, env = "WEFT_TAKE_OVER")]
    take_over: bool,

    #[command(flatten)]
    control_plane: ControlPlaneArgs,

    #[command(flatten)]
    cni: CniArgs,
}

/// Whether access records are written, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    /// Tab-separated, then `key=value` pairs.
    Text,
    /// One JSON object a line.
    Json,
    /// Not at all.
    Off,
}

impl AccessLogFormat {
    /// The form of the lines; `None`: no lines.
    pub fn line_format(self) -> Option<LineFormat> {
        match self {
            Self::Text => Some(LineFormat::Text),
            Self::Json => Some(LineFormat::Json),
            Self::Off => None,
        }
    }
}

/// The congestion control of connections that never leave their pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopbackCongestionControl {
    /// What the pod's namespace has.
    System,
    /// This one.
    Named(CongestionControl),
}

impl LoopbackCongestionControl {
    /// The one to set; `None`: none.
    pub fn name(self) -> Option<CongestionControl> {
        match self {
            Self::System => None,
            Self::Named(control) => Some(control),
        }
    }
}

impl FromStr for LoopbackCongestionControl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "system" => Ok(Self::System),
            name => name.parse().map(Self::Named),
        }
    }
}

/// What says which pods run on this node, and describes the mesh where no control plane does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeSource {
    /// A folder of manifests. It exists.
    Folder(PathBuf),
    /// A Kubernetes cluster.
    Kubernetes {
        /// How to reach its API server; `None`: as a pod does.
        kubeconfig: Option<PathBuf>,
    },
}

/// What an agent is started with: the flags of `weft agent`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentOptions {
    /// What says which pods run on this node.
    pub source: NodeSource,
    /// Name of this node.
    pub node: String,
    /// Folder for what the agent keeps.
    pub state_dir: PathBuf,
    /// Folder of the certificate authority.
    pub ca_dir: PathBuf,
    /// Threads that carry connections; at least one.
    pub workers: usize,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Other trust domains whose certificates are accepted.
    pub trust_domain_aliases: Vec<String>,
    /// PEM file of further roots to trust.
    pub extra_roots: Option<PathBuf>,
    /// PEM file of certificate revocation lists.
    pub revocation_lists: Option<PathBuf>,
    /// How long certificates are valid.
    pub certificate_lifetime: Duration,
    /// Name of this cluster.
    pub cluster: String,
    /// Network of this node's pods; empty for the only one.
    pub network: String,
    /// Namespace whose policies hold for the whole mesh.
    pub root_namespace: String,
    /// Domain of the services' host names.
    pub cluster_domain: String,
    /// Where the admin interface listens over TCP, always on loopback; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where readiness is served; `None`: nowhere.
    pub readiness: Option<SocketAddr>,
    /// What is logged.
    pub log: LogFilter,
    /// Form of the log.
    pub log_format: LineFormat,
    /// Form of the access log.
    pub access_log: AccessLogFormat,
    /// What becomes of the connections that a pod has when it comes into the mesh.
    pub older_connections: OlderConnections,
    /// Cgroup whose processes reach pods directly.
    pub probe_cgroup: Option<PathBuf>,
    /// TCP congestion control of connections that never leave their pod.
    pub loopback_congestion_control: LoopbackCongestionControl,
    /// Folder for pinned programs, without the node's name.
    pub bpf_dir: PathBuf,
    /// Root of the cgroup v2 hierarchy; `None`: as mounted.
    pub cgroup_root: Option<PathBuf>,
    /// How long connections may go on after SIGTERM.
    pub drain_deadline: Duration,
    /// Take over from the agent that runs.
    pub take_over: bool,
    /// Control planes that are followed in place of the folder and the embedded authority.
    pub control_planes: ControlPlanes,
    /// Where the CNI plug-in is kept installed; `None`: nowhere.
    pub cni: Option<CniFolders>,
}

impl AgentOptions {
    /// Choices by which something is less strict than by default, in words. That clients may speak in clear where no policy says
    /// otherwise is the default, and none of them.
    pub fn relaxations(&self) -> Vec<String> {
        let is_node = matches!(self.source, NodeSource::Kubernetes { .. });
        let mut relaxations = Vec::new();
        if !self.trust_domain_aliases.is_empty() {
            let names = self.trust_domain_aliases.join(", ");
            relaxations.push(format!("certificates of the trust domains {names} count as the mesh's own"));
        }
        // On a cluster they are the ConfigMap of the controllers, who say what is trusted anyway.
        if let Some(roots) = self.extra_roots.as_ref().filter(|_| !is_node) {
            relaxations.push(format!("the roots in {} are trusted as well", roots.display()));
        }
        // The kubelet's is found by itself there.
        if let Some(cgroup) = &self.probe_cgroup {
            relaxations.push(format!("processes of the cgroup {} reach pods past policies", cgroup.display()));
        }
        if self.certificate_lifetime > CERTIFICATE_LIFETIME {
            let lifetime = humantime::format_duration(self.certificate_lifetime);
            relaxations.push(format!("certificates are valid for {lifetime}, and so is one that was stolen"));
        }
        relaxations
    }

    /// The name of the agent's own pod; of its node, where it is none.
    pub fn own_name(&self) -> &str {
        self.control_planes.pod.as_deref().unwrap_or(&self.node)
    }

    /// Where the servers listen.
    pub fn admin_options(&self) -> AdminOptions {
        AdminOptions {
            socket: socket_path(&self.state_dir),
            admin: self.admin,
            metrics: self.metrics,
            readiness: self.readiness,
        }
    }
}

pub(super) fn run(arguments: AgentArgs) -> anyhow::Result<ExitCode> {
    crate::wire::run_agent(arguments.into_options()?)?;
    Ok(ExitCode::SUCCESS)
}

impl AgentArgs {
    /// Checks what can only be checked here, all of it, so that one run shows every mistake.
    fn into_options(self) -> anyhow::Result<AgentOptions> {
        let mut mistakes = Vec::new();
        match fs::metadata(&self.config) {
            _ if self.kubernetes => {}
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => mistakes.push(format!("--config {}: not a folder", self.config.display())),
            Err(error) => mistakes.push(format!(
                "--config {}: {error}; make the folder, and put the mesh's manifests into it",
                self.config.display()
            )),
        }
        for (flag, file) in [("--extra-roots", &self.extra_roots), ("--revocation-lists", &self.revocation_lists)] {
            if let Some(file) = file
                && let Err(error) = fs::metadata(file)
            {
                mistakes.push(format!("{flag} {}: {error}", file.display()));
            }
        }
        let folders = [
            ("--bpf-dir", Some(&self.bpf_dir)),
            ("--probe-cgroup", self.probe_cgroup.as_ref()),
            ("--cgroup-root", self.cgroup_root.as_ref()),
        ];
        for (flag, folder) in folders {
            if let Some(folder) = folder.filter(|folder| !folder.is_absolute()) {
                mistakes.push(format!("{flag} {}: must be an absolute path", folder.display()));
            }
        }
        // The plug-in is started by others, in folders of theirs.
        let cni = self.cni.into_folders();
        if cni.is_some() && !self.state_dir.is_absolute() {
            let folder = self.state_dir.display();
            mistakes.push(format!("--state-dir {folder}: must be an absolute path where there is a CNI plug-in"));
        }
        // Shorter than that, clocks that differ a little and one slow answer of the authority would end connections.
        if self.certificate_lifetime < Duration::from_secs(60) {
            mistakes.push("--certificate-lifetime: at least 1m".to_owned());
        }
        let control_planes = self.control_plane.into_options(&mut mistakes);
        let node = match self.node.map_or_else(host_name, Ok) {
            Ok(node) => node,
            Err(mistake) => {
                mistakes.push(mistake);
                String::new()
            }
        };
        anyhow::ensure!(mistakes.is_empty(), "the agent cannot be started:\n  {}", mistakes.join("\n  "));
        let workers = self.workers.or_else(|| std::thread::available_parallelism().ok());
        let source = match self.kubernetes {
            true => NodeSource::Kubernetes { kubeconfig: self.kubeconfig },
            false => NodeSource::Folder(self.config),
        };
        Ok(AgentOptions {
            source,
            node,
            state_dir: self.state_dir,
            ca_dir: self.ca_dir,
            workers: workers.map_or(1, NonZeroUsize::get),
            trust_domain: self.trust_domain,
            trust_domain_aliases: self.trust_domain_aliases,
            extra_roots: self.extra_roots,
            revocation_lists: self.revocation_lists,
            certificate_lifetime: self.certificate_lifetime,
            cluster: self.cluster,
            network: self.network,
            root_namespace: self.root_namespace,
            cluster_domain: self.cluster_domain,
            admin: self.admin.address(),
            metrics: self.metrics.address(),
            readiness: self.readiness.address(),
            log: self.log,
            log_format: self.log_format,
            access_log: self.access_log,
            older_connections: self.older_connections,
            probe_cgroup: self.probe_cgroup,
            loopback_congestion_control: self.loopback_congestion_control,
            bpf_dir: self.bpf_dir,
            cgroup_root: self.cgroup_root,
            drain_deadline: self.drain_deadline,
            take_over: self.take_over,
            control_planes,
            cni,
        })
    }
}

/// This host's name, as far as it can be a node's.
fn host_name() -> Result<String, String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    node_name(&name)
        .map_err(|error| format!("this host's name {name:?} cannot be a node's ({error}): give --node NAME"))
}

/// A name as Kubernetes has them (RFC 1123 subdomain).
pub(super) fn node_name(text: &str) -> Result<String, String> {
    if text.len() > 253 {
        return Err("longer than 253 characters".to_owned());
    }
    for label in text.split('.') {
        dns_label(label)?;
    }
    Ok(text.to_owned())
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
    if text.len() > 63 {
        return Err("longer than 63 characters".to_owned());
    }
    dns_label(text)?;
    Ok(text.to_owned())
}

fn dns_label(label: &str) -> Result<(), String> {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = label.as_bytes();
    let is_bounded = bytes.first().is_some_and(|&byte| is_alphanumeric(byte))
        && bytes.last().is_some_and(|&byte| is_alphanumeric(byte));
    if is_bounded && bytes.iter().all(|&byte| is_alphanumeric(byte) || byte == b'-') {
        return Ok(());
    }
    Err(format!("{label:?} is not lower-case letters, digits and hyphens, with a letter or digit at both ends"))
}

pub(super) fn trust_domain(text: &str) -> Result<String, String> {
    // The identity's own rules are the ones that count.
    weft_model::Identity::new(text, "namespace", "account").map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

pub(super) fn cluster_domain(text: &str) -> Result<String, String> {
    node_name(text.trim_end_matches('.'))
}

pub(super) fn cluster_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("must not be empty".to_owned()),
        _ if text.contains('/') || text.contains(char::is_whitespace) || text.contains(char::is_control) => {
            Err("must not contain slashes or spaces: it is part of workload names".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn workers(text: &str) -> Result<NonZeroUsize, String> {
    let workers: NonZeroUsize = text.parse().map_err(|_| "not a number of at least 1".to_owned())?;
    if workers.get() > MAX_WORKERS {
        return Err(format!("at most {MAX_WORKERS}"));
    }
    Ok(workers)
}

#[cfg(test)]
mod tests;
