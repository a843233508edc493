//! `weft controller`: its flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::address::ListenAddress;
use super::{agent, control_plane};
use crate::telemetry::{LineFormat, LogFilter};

#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    /// Folder of Kubernetes manifests (YAML or JSON) that the mesh is described by, without --kubernetes. A change takes
    /// effect at once
    #[arg(long, env = "WEFT_CONFIG", value_name = "DIR", default_value = "/etc/weft", conflicts_with = "kubernetes")]
    config: PathBuf,

    /// The mesh is described by the cluster that this pod is in, or that of --kubeconfig; its API server knows the agents'
    /// tokens
    #[arg(long, env = "WEFT_KUBERNETES")]
    kubernetes: bool,

    /// File that says where the API server is and who this controller is to it [default: this pod's service account]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Namespace of the controller's own Secrets and Lease, with --kubernetes
    #[arg(long, env = "WEFT_POD_NAMESPACE", value_name = "NAME", default_value = control_plane::NAMESPACE, value_parser = agent::namespace)]
    namespace: String,

    /// Service accounts of agents, separated by commas, with --kubernetes: no others are served
    #[arg(long, env = "WEFT_AGENT_ACCOUNTS", value_name = "NAMESPACE/NAME", value_delimiter = ',', default_value = "weft-system/weft-agent", value_parser = account, requires = "kubernetes")]
    agent_accounts: Vec<String>,

    /// Where agents are served: an address with a port, or a port alone for every address
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDRESS", default_value = "15012")]
    listen: ListenAddress,

    /// Names and addresses by which agents dial the controller, separated by commas: its own certificate is for these
    #[arg(long, env = "WEFT_NAMES", value_name = "NAMES", value_delimiter = ',', default_value = "localhost")]
    names: Vec<String>,

    /// Folder of the certificate authority, without --kubernetes. Its root is made on first start: give agents its
    /// ca-cert.pem as --root. With --kubernetes it is in the Secret cacerts, or else weft-ca, which is made then, and
    /// agents find its roots in the ConfigMap weft-ca-root-cert of every namespace
    #[arg(
        long,
        env = "WEFT_CA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/weft/ca",
        conflicts_with = "kubernetes"
    )]
    ca_dir: PathBuf,

    /// File of the agents' tokens, without --kubernetes: on each line the name of a node and the SHA-256 of its token,
    /// without a line break, in hexadecimal. Read again when it changes
    #[arg(
        long,
        env = "WEFT_TOKENS",
        value_name = "FILE",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    tokens: Option<PathBuf>,

    /// Trust domain of the mesh: the first part of every identity
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", default_value = agent::CLUSTER_LOCAL, value_parser = agent::trust_domain)]
    trust_domain: String,

    /// The longest that agents' certificates are valid
    #[arg(long, env = "WEFT_CERTIFICATE_LIFETIME", value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    certificate_lifetime: Duration,

    /// Name of this cluster in workload names
    #[arg(long, env = "WEFT_CLUSTER", value_name = "NAME", default_value = "Kubernetes", value_parser = agent::cluster_name)]
    cluster: String,

    /// Network of the pods. Empty for the only one
    #[arg(long, env = "WEFT_NETWORK", value_name = "NAME", default_value = "")]
    network: String,

    /// Namespace whose policies hold for the whole mesh
    #[arg(long, env = "WEFT_ROOT_NAMESPACE", value_name = "NAME", default_value = agent::ROOT_NAMESPACE, value_parser = agent::namespace)]
    root_namespace: String,

    /// Domain of the services' host names
    #[arg(long, env = "WEFT_CLUSTER_DOMAIN", value_name = "NAME", default_value = agent::CLUSTER_LOCAL, value_parser = agent::cluster_domain)]
    cluster_domain: String,

    /// Where metrics are served (/metrics): an address with a port, a port alone for every address, or off
    #[arg(long, env = "WEFT_METRICS", value_name = "ADDRESS", default_value = "15014")]
    metrics: ListenAddress,

    /// Where readiness is served (/healthz/ready): an address with a port, a port alone for every address, or off
    #[arg(long, env = "WEFT_READINESS", value_name = "ADDRESS", default_value = "15016")]
    readiness: ListenAddress,

    /// What is logged, on standard error: off, error, warn, info, debug, trace, or module=level, separated by commas.
    /// Grants and refusals of certificates are records of the module `audit`
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info")]
    log: LogFilter,

    /// Form of the log
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LineFormat,
}

/// What describes the mesh, and knows the agents' tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerSource {
    /// Files.
    Files {
        /// Folder of manifests.
        config: PathBuf,
        /// File of the agents' tokens.
        tokens: PathBuf,
        /// Folder of the certificate authority.
        ca_dir: PathBuf,
    },
    /// A Kubernetes cluster.
    Kubernetes {
        /// Where its API server is, and who the controller is to it; `None`: as this pod's files say.
        kubeconfig: Option<PathBuf>,
        /// Namespace of its Secrets and its Lease.
        namespace: String,
        /// Service accounts of agents, as `namespace/name`.
        agent_accounts: Vec<String>,
    },
}

/// What a controller is started with: the flags of `weft controller`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerOptions {
    /// What describes the mesh, and knows the agents' tokens.
    pub source: ControllerSource,
    /// Where agents are served.
    pub listen: SocketAddr,
    /// Names and addresses by which agents dial it.
    pub names: Vec<String>,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// The longest that agents' certificates are valid.
    pub certificate_lifetime: Duration,
    /// Name of this cluster.
    pub cluster: String,
    /// Network of the pods; empty for the only one.
    pub network: String,
    /// Namespace whose policies hold for the whole mesh.
    pub root_namespace: String,
    /// Domain of the services' host names.
    pub cluster_domain: String,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where readiness is served; `None`: nowhere.
    pub readiness: Option<SocketAddr>,
    /// What is logged.
    pub log: LogFilter,
    /// Form of the log.
    pub log_format: LineFormat,
}

pub(super) fn run(arguments: ControllerArgs) -> anyhow::Result<ExitCode> {
    crate::controller::run_controller(arguments.into_options()?)?;
    Ok(ExitCode::SUCCESS)
}

impl ControllerArgs {
    fn into_options(self) -> anyhow::Result<ControllerOptions> {
        let Some(listen) = self.listen.address() else {
            anyhow::bail!("--listen: a controller that listens nowhere serves nobody");
        };
        anyhow::ensure!(self.certificate_lifetime >= Duration::from_secs(60), "--certificate-lifetime: at least 1m");
        let source = match self.tokens {
            Some(tokens) => ControllerSource::Files { config: self.config, tokens, ca_dir: self.ca_dir },
            None => ControllerSource::Kubernetes {
                kubeconfig: self.kubeconfig,
                namespace: self.namespace,
                agent_accounts: self.agent_accounts,
            },
        };
        Ok(ControllerOptions {
            source,
            listen,
            names: self.names,
            trust_domain: self.trust_domain,
            certificate_lifetime: self.certificate_lifetime,
            cluster: self.cluster,
            network: self.network,
            root_namespace: self.root_namespace,
            cluster_domain: self.cluster_domain,
            metrics: self.metrics.address(),
            readiness: self.readiness.address(),
            log: self.log,
            log_format: self.log_format,
        })
    }
}

/// A service account, as `namespace/name`.
fn account(text: &str) -> Result<String, String> {
    let Some((namespace, name)) = text.split_once('/') else {
        return Err("write it as namespace/name".to_owned());
    };
    agent::namespace(namespace)?;
    agent::node_name(name)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        controller: ControllerArgs,
    }

    fn parse(arguments: &[&str]) -> Result<ControllerSource, String> {
        let line = Line::try_parse_from([&["weft"], arguments].concat()).map_err(|error| error.to_string())?;
        line.controller.into_options().map(|options| options.source).map_err(|error| error.to_string())
    }

    #[test]
    fn a_controller_of_a_cluster_finds_its_authority_and_lease_in_its_namespace() {
        let source = |namespace: &str| ControllerSource::Kubernetes {
            kubeconfig: None,
            namespace: namespace.to_owned(),
            agent_accounts: vec!["weft-system/weft-agent".to_owned()],
        };
        assert_eq!(parse(&["--kubernetes"]), Ok(source("weft-system")));
        assert_eq!(parse(&["--kubernetes", "--namespace", "mesh"]), Ok(source("mesh")));
        assert!(parse(&["--kubernetes", "--namespace", "a/b"]).is_err());
    }

    #[test]
    fn what_describes_the_mesh_says_where_the_authority_is() {
        let files = ControllerSource::Files { config: "/c".into(), tokens: "/t".into(), ca_dir: "/ca".into() };
        assert_eq!(parse(&["--config", "/c", "--tokens", "/t", "--ca-dir", "/ca"]), Ok(files));
        for other in [["--ca-dir", "/ca"], ["--config", "/c"], ["--tokens", "/t"]] {
            let error = parse(&[&["--kubernetes"], &other[..]].concat()).expect_err("the cluster has it");
            assert!(error.contains("cannot be used with"), "{error}");
        }
        assert!(parse(&[]).is_err(), "nobody knows the agents' tokens");
    }
}
