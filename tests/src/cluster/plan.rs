//! A cluster's names and addresses.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// What the names of all traces of clusters begin with.
pub(super) const PREFIX: &str = "weft-k8s-";

const CONTROL_PLANE: &str = "control";

/// Kubernetes' own name for its API server has the first address of the range for services.
pub(super) const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:96::/112";
pub(super) const API_SERVICE: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
const DNS_SERVICE: [&str; 2] = ["10.96.0.10", "fd00:96::a"];
pub(super) const POD_RANGES: &str = "10.244.0.0/16,fd00:244::/32";
pub(super) const DOMAIN: &str = "cluster.local";

/// How the parts of one cluster are called and where they are.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    name: String,
    nodes: usize,
}

impl Plan {
    pub(super) fn new(name: &str, nodes: usize) -> Result<Self> {
        ensure!(
            (1..=12).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
            "{name:?} is no name for a cluster: take up to 12 lower-case letters and digits"
        );
        ensure!((1..=8).contains(&nodes), "a cluster has 1 to 8 nodes, not {nodes}");
        Ok(Self { name: name.to_owned(), nodes })
    }

    /// The plan of a cluster that is there.
    pub(super) fn of_existing(name: &str) -> Result<Self> {
        let mut plan = Self::new(name, 1)?;
        let folder = plan.folder();
        ensure!(folder.is_dir(), "there is no cluster of the name {name:?}");
        let is_node = |number: &usize| folder.join(node_name(*number)).is_dir();
        plan.nodes = (1..).take_while(is_node).count();
        ensure!(plan.nodes > 0, "the cluster {name:?} was never finished; remove it");
        Ok(plan)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the cgroups of all machines are below, and what the names of their network namespaces begin with.
    pub(super) fn trace(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    pub(super) fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(self.trace())
    }

    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder().join(format!("{user}.kubeconfig"))
    }

    pub(super) fn control_plane(&self) -> String {
        CONTROL_PLANE.to_owned()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = String> + use<> {
        self.numbers().map(node_name)
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        1..=self.nodes
    }

    /// The name of a machine's network namespace.
    pub(super) fn netns(&self, machine: &str) -> String {
        format!("{}-{machine}", self.trace())
    }

    /// This file tells the components that the API server can be asked. Those that are started too early end, or wait longer
    /// each time that they ask.
    pub(super) fn api_server_mark(&self) -> PathBuf {
        self.folder().join("api-server-is-ready")
    }

    pub(super) fn announce_api_server(&self) -> Result<()> {
        let mark = self.api_server_mark();
        fs::write(&mark, "").with_context(|| format!("writing {}", mark.display()))
    }

    /// Both addresses of the cluster's DNS, as a list in JSON.
    pub(super) fn dns_addresses(&self) -> String {
        format!("[{:?}, {:?}]", DNS_SERVICE[0], DNS_SERVICE[1])
    }

    /// The DNS server that pods are told.
    pub(super) fn dns(&self) -> &'static str {
        DNS_SERVICE[0]
    }
}

pub(super) fn node_name(number: usize) -> String {
    format!("node{number}")
}

/// The addresses between the machines; the control plane has number 0.
pub(super) fn fabric_addresses(number: usize) -> (Ipv4Addr, Ipv6Addr) {
    let host = if number == 0 { 1 } else { 10 + number as u16 };
    (Ipv4Addr::new(10, 100, 0, host as u8), Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, host))
}

/// The ranges that a node's pods get addresses from.
pub(super) fn pod_ranges(number: usize) -> [String; 2] {
    [format!("10.244.{number}.0/24"), format!("fd00:244:{number}::/64")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_fit_a_trace_are_refused() {
        for name in ["", "a-b", "Upper", "../up", "thirteenchars"] {
            assert!(Plan::new(name, 2).is_err(), "{name:?}");
        }
        assert!(Plan::new("demo2", 2).is_ok());
        assert!(Plan::new("demo", 0).is_err() && Plan::new("demo", 9).is_err());
    }

    #[test]
    fn all_traces_carry_the_name() {
        let plan = Plan::new("shop", 2).unwrap();
        assert_eq!(plan.netns("node1"), "weft-k8s-shop-node1");
        assert!(plan.folder().ends_with("weft-k8s-shop"));
        assert_eq!(plan.nodes().collect::<Vec<_>>(), ["node1", "node2"]);
    }
}
