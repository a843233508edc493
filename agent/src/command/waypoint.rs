//! `weft waypoint`: its flags.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use weft_model::Identity;

use super::address::ListenAddress;
use super::agent::{self, AccessLogFormat};
use crate::telemetry::{LineFormat, LogFilter};

#[derive(Debug, Args)]
pub(super) struct WaypointArgs {
    /// The Gateway that this waypoint is
    #[arg(long, env = "WEFT_GATEWAY", value_name = "NAMESPACE/NAME", value_parser = gateway)]
    gateway: (String, String),

    /// Service account of this waypoint, in the Gateway's namespace [default: the Gateway's name]
    #[arg(long, env = "WEFT_SERVICE_ACCOUNT", value_name = "NAME", value_parser = agent::node_name)]
    service_account: Option<String>,

    /// Folder of Kubernetes manifests (YAML or JSON) that the mesh is described by. A change takes effect at once
    #[arg(long, env = "WEFT_CONFIG", value_name = "DIR", default_value = "/etc/weft")]
    config: PathBuf,

    /// Folder of the certificate authority, the one that the agents have
    #[arg(long, env = "WEFT_CA_DIR", value_name = "DIR", default_value = "/var/lib/weft/ca")]
    ca_dir: PathBuf,

    /// Where agents' tunnels are taken: an address with a port, or a port alone for every address
    #[arg(long, env = "WEFT_ADDRESS", value_name = "ADDRESS", default_value = "15008")]
    address: ListenAddress,

    /// Threads that carry requests [default: one for each CPU]
    #[arg(long, env = "WEFT_WORKERS", value_name = "N", value_parser = agent::workers)]
    workers: Option<NonZeroUsize>,

    /// Trust domain of the mesh: the first part of every identity
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", default_value = agent::CLUSTER_LOCAL, value_parser = agent::trust_domain)]
    trust_domain: String,

    /// How long certificates are valid; they are renewed at half of it
    #[arg(long, env = "WEFT_CERTIFICATE_LIFETIME", value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    certificate_lifetime: Duration,

    /// Name of this cluster in metrics and workload names
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

    /// Form of the access log, on standard output: one record for each request
    #[arg(long, env = "WEFT_ACCESS_LOG", value_name = "FORMAT", default_value = "text")]
    access_log: AccessLogFormat,

    /// How long requests and connections may go on after SIGTERM
    #[arg(long, env = "WEFT_DRAIN_DEADLINE", value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    drain_deadline: Duration,
}

/// What a waypoint is started with: the flags of `weft waypoint`, checked.
#[derive(Debug, Clone)]
pub struct WaypointProcessOptions {
    /// Namespace of its Gateway.
    pub namespace: String,
    /// Name of its Gateway.
    pub name: String,
    /// Who it is.
    pub identity: Identity,
    /// Folder of manifests.
    pub config: PathBuf,
    /// Folder of the certificate authority.
    pub ca_dir: PathBuf,
    /// Where agents' tunnels are taken.
    pub address: SocketAddr,
    /// Threads that carry requests; at least one.
    pub workers: usize,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// How long certificates are valid.
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
    /// Form of the access log.
    pub access_log: AccessLogFormat,
    /// How long requests and connections may go on after SIGTERM.
    pub drain_deadline: Duration,
}

pub(super) fn run(arguments: WaypointArgs) -> anyhow::Result<ExitCode> {
    crate::waypoint::run_waypoint(arguments.into_options()?)?;
    Ok(ExitCode::SUCCESS)
}

impl WaypointArgs {
    fn into_options(self) -> anyhow::Result<WaypointProcessOptions> {
        let Some(address) = self.address.address() else {
            anyhow::bail!("--address: a waypoint that listens nowhere serves nobody");
        };
        anyhow::ensure!(self.certificate_lifetime >= Duration::from_secs(60), "--certificate-lifetime: at least 1m");
        let (namespace, name) = self.gateway;
        let account = self.service_account.as_deref().unwrap_or(&name);
        let workers = self.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        Ok(WaypointProcessOptions {
            identity: Identity::new(&self.trust_domain, &namespace, account)?,
            namespace,
            name,
            config: self.config,
            ca_dir: self.ca_dir,
            address,
            workers,
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
            access_log: self.access_log,
            drain_deadline: self.drain_deadline,
        })
    }
}

/// A Gateway, as `namespace/name`.
fn gateway(text: &str) -> Result<(String, String), String> {
    let Some((namespace, name)) = text.split_once('/') else {
        return Err("write it as namespace/name".to_owned());
    };
    agent::namespace(namespace)?;
    agent::node_name(name)?;
    Ok((namespace.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        waypoint: WaypointArgs,
    }

    fn parse(arguments: &[&str]) -> Result<WaypointProcessOptions, String> {
        let line = Line::try_parse_from([&["weft"], arguments].concat()).map_err(|error| error.to_string())?;
        line.waypoint.into_options().map_err(|error| error.to_string())
    }

    #[test]
    fn a_waypoint_is_named_like_its_gateway() {
        let options = parse(&["--gateway", "shop/gate"]).expect("it is complete");
        assert_eq!(options.identity.principal(), "cluster.local/ns/shop/sa/gate");
        assert_eq!((options.address.port(), options.drain_deadline), (15008, Duration::from_secs(20)));
        let options = parse(&["--gateway", "shop/gate", "--service-account", "other"]).expect("it is complete");
        assert_eq!(options.identity.service_account(), "other");
        for wrong in
            [&[][..], &["--gateway", "gate"], &["--gateway", "a/b/c"], &["--gateway", "a/b", "--address", "off"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
