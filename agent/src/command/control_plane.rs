//! The flags by which an agent follows a control plane instead of a folder and its own authority.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use weft_transport::{ControlPlane, ControlPlaneOptions};

/// The namespace of an agent that was not told another.
pub(super) const NAMESPACE: &str = "weft-system";

#[derive(Debug, Args)]
#[command(next_help_heading = "Control plane")]
pub(super) struct ControlPlaneArgs {
    /// Control plane that describes the mesh, as https://HOST:PORT: `weft controller`, or one that speaks Istio's
    /// workload protocol. The manifests of --config then only say which pods run on this node
    #[arg(long, env = "WEFT_DISCOVERY", value_name = "URL", requires = "root")]
    discovery: Option<String>,

    /// What is asked for: only what this node's pods talk to, so that memory follows that, or everything
    #[arg(long, env = "WEFT_DISCOVERY_MODE", value_name = "MODE", default_value = "on-demand")]
    discovery_mode: DiscoveryMode,

    /// Certificate authority that is asked in place of the one in --ca-dir, as https://HOST:PORT, by Istio's protocol
    #[arg(long, env = "WEFT_CA", value_name = "URL", requires = "root")]
    ca: Option<String>,

    /// File of the token that this node shows to both; read again at each connect
    #[arg(long, env = "WEFT_TOKEN", value_name = "FILE")]
    token: Option<PathBuf>,

    /// PEM file of the roots that their certificates must chain to; read again at each connect
    #[arg(long, env = "WEFT_ROOT", value_name = "FILE")]
    root: Option<PathBuf>,

    /// How long the control plane may take at the start before the agent serves by what was known before, which it keeps in
    /// the state directory: a time, or off for ever. What needs a new certificate waits for the authority all the same
    #[arg(long, env = "WEFT_LAST_STATE", value_name = "TIME", default_value = "2s", value_parser = last_state)]
    last_state: LastStateAfter,

    /// Name of the agent's own pod, if it is one, for the control plane [default: the node's name]
    #[arg(long, env = "WEFT_POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,

    /// Namespace of the agent's own pod, for the control plane
    #[arg(long, env = "WEFT_POD_NAMESPACE", value_name = "NAME", default_value = NAMESPACE)]
    pod_namespace: String,

    /// Address of the agent's own pod or host, for the control plane
    #[arg(long, env = "WEFT_INSTANCE_IP", value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    instance_ip: IpAddr,
}

/// After which time what was known before is served by.
#[derive(Debug, Clone, Copy)]
struct LastStateAfter(Option<Duration>);

fn last_state(text: &str) -> Result<LastStateAfter, String> {
    match text {
        "off" => Ok(LastStateAfter(None)),
        time => {
            humantime::parse_duration(time).map(|time| LastStateAfter(Some(time))).map_err(|error| error.to_string())
        }
    }
}

/// What a control plane is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DiscoveryMode {
    /// What this node's pods talk to, once they do: their first connection waits for the answer.
    #[default]
    OnDemand,
    /// Everything, beforehand.
    Wildcard,
}

/// Which control planes an agent follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlanes {
    /// What describes the mesh; `None`: the folder does.
    pub discovery: Option<ControlPlaneOptions>,
    /// What it is asked for.
    pub mode: DiscoveryMode,
    /// How long it may take at the start before what was known before is served by; `None`: for ever.
    pub last_state: Option<Duration>,
    /// What issues certificates; `None`: the embedded authority does.
    pub authority: Option<ControlPlaneOptions>,
    /// Name of the agent's own pod; `None`: the node's.
    pub pod: Option<String>,
    /// Namespace of the agent's own pod.
    pub namespace: String,
    /// Address of the agent's own pod or host.
    pub address: IpAddr,
}

impl Default for ControlPlanes {
    fn default() -> Self {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (mode, namespace) = (DiscoveryMode::default(), NAMESPACE.to_owned());
        let last_state = Some(Duration::from_secs(2));
        Self { discovery: None, mode, last_state, authority: None, pod: None, namespace, address }
    }
}

impl ControlPlaneArgs {
    /// Checks the addresses; what is wrong is added to `mistakes`.
    pub(super) fn into_options(self, mistakes: &mut Vec<String>) -> ControlPlanes {
        let (roots, token) = (self.root.unwrap_or_default(), self.token);
        let mut checked = |flag: &str, url: Option<String>| {
            let options = ControlPlaneOptions { url: url?, roots: roots.clone(), token: token.clone() };
            if let Err(error) = ControlPlane::new(options.clone()) {
                mistakes.push(format!("{flag}: {error}"));
            }
            Some(options)
        };
        ControlPlanes {
            discovery: checked("--discovery", self.discovery),
            mode: self.discovery_mode,
            last_state: self.last_state.0,
            authority: checked("--ca", self.ca),
            pod: self.pod_name,
            namespace: self.pod_namespace,
            address: self.instance_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        control_plane: ControlPlaneArgs,
    }

    fn parse(arguments: &[&str]) -> Result<(ControlPlanes, Vec<String>), String> {
        let line = Line::try_parse_from([&["weft"], arguments].concat()).map_err(|error| error.to_string())?;
        let mut mistakes = Vec::new();
        Ok((line.control_plane.into_options(&mut mistakes), mistakes))
    }

    #[test]
    fn without_flags_no_control_plane_is_followed() {
        assert_eq!(parse(&[]), Ok((ControlPlanes::default(), Vec::new())));
    }

    #[test]
    fn discovery_and_authority_share_token_and_roots_and_may_be_in_two_places() {
        let arguments = ["--discovery", "https://a:1", "--ca", "https://b", "--token", "/t", "--root", "/r"];
        let (planes, mistakes) = parse(&arguments).expect("good flags");
        let expected =
            |url: &str| Some(ControlPlaneOptions { url: url.to_owned(), roots: "/r".into(), token: Some("/t".into()) });
        assert_eq!((planes.discovery, planes.authority), (expected("https://a:1"), expected("https://b")));
        assert!(mistakes.is_empty());
    }

    #[test]
    fn what_was_known_before_is_waited_with_or_not_used() {
        for (given, expected) in [("5s", Some(Duration::from_secs(5))), ("off", None)] {
            assert_eq!(parse(&["--last-state", given]).expect("a good flag").0.last_state, expected);
        }
        assert!(parse(&["--last-state", "soon"]).is_err());
    }

    #[test]
    fn only_what_is_needed_is_asked_for_unless_everything_is() {
        let mode = |arguments: &[&str]| parse(arguments).map(|(planes, _)| planes.mode);
        assert_eq!(mode(&[]), Ok(DiscoveryMode::OnDemand));
        assert_eq!(mode(&["--discovery-mode", "wildcard"]), Ok(DiscoveryMode::Wildcard));
        assert!(mode(&["--discovery-mode", "some"]).is_err());
    }

    #[test]
    fn an_address_needs_roots_and_must_be_one() {
        let error = parse(&["--discovery", "https://a:1"]).expect_err("there are no roots");
        assert!(error.contains("--root"), "{error}");
        let (_, mistakes) = parse(&["--ca", "b:15012", "--root", "/r"]).expect("flags that can be read");
        assert!(mistakes[0].starts_with("--ca: 'b:15012' is not the address of a control plane"), "{mistakes:?}");
    }
}
