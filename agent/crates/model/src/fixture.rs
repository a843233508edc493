//! Workloads, services and policies for the unit tests of this crate, reduced to what a test says about them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{
    Action, Applied, Change, Clause, EndpointCondition, Health, Identity, Locality, Match, Membership, MeshOptions,
    Policy, PolicyScope, PortMapping, Rule, Service, ServicePort, Store, StringMatch, TunnelProtocol, Workload,
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("a valid address")
}

pub(crate) fn uid(name: &str) -> Arc<str> {
    format!("Kubernetes//Pod/default/{name}").into()
}

pub(crate) fn key(name: &str) -> Arc<str> {
    format!("default/{name}.default.svc.cluster.local").into()
}

/// A store of the network `""`, the root namespace `istio-system` and the trust domain `cluster.local`.
pub(crate) fn store() -> Store {
    let root_namespace = "istio-system".into();
    Store::new(MeshOptions { network: "".into(), root_namespace, trust_domain: "cluster.local".into() })
}

/// An HBONE pod in namespace `default`, on node `node-1` in zone `zone-1`.
pub(crate) fn pod(name: &str, addresses: &[&str]) -> Workload {
    Workload {
        uid: uid(name),
        instance: "".into(),
        name: name.into(),
        namespace: "default".into(),
        identity: Identity::new("cluster.local", "default", "default").expect("a valid identity"),
        cluster: "Kubernetes".into(),
        network: "".into(),
        node: "node-1".into(),
        addresses: addresses.iter().copied().map(ip).collect(),
        protocol: TunnelProtocol::Hbone,
        is_host_network: false,
        workload_name: name.into(),
        workload_type: "pod".into(),
        canonical_service: name.into(),
        canonical_revision: "latest".into(),
        app: name.into(),
        version: "".into(),
        locality: Locality { region: "".into(), zone: "zone-1".into(), subzone: "".into() },
        health: Health::Healthy,
        policies: Vec::new(),
        services: Vec::new(),
        waypoint: None,
    }
}

impl Workload {
    /// The pod as an endpoint of a service; port 80 leads to 8080.
    pub(crate) fn of(mut self, service: &str, condition: EndpointCondition) -> Self {
        let ports = vec![PortMapping { service_port: 80, target_port: 8080 }];
        self.services.push(Membership { service: key(service), ports, condition, waypoint: None });
        self
    }

    pub(crate) fn at(mut self, node: &str, zone: &str) -> Self {
        self.node = node.into();
        self.locality.zone = zone.into();
        self
    }

    pub(crate) fn plain(mut self) -> Self {
        self.protocol = TunnelProtocol::None;
        self
    }

    pub(crate) fn instance(mut self, instance: &str) -> Self {
        self.instance = instance.into();
        self
    }

    pub(crate) fn under(mut self, policies: &[&str]) -> Self {
        self.policies = policies.iter().map(|&key| key.into()).collect();
        self
    }
}

/// A service in namespace `default` with port 80.
pub(crate) fn service(name: &str, addresses: &[&str]) -> Service {
    Service {
        key: key(name),
        name: name.into(),
        namespace: "default".into(),
        hostname: format!("{name}.default.svc.cluster.local").into(),
        addresses: addresses.iter().copied().map(ip).collect(),
        ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
        ..Service::default()
    }
}

/// A policy with one rule of one match.
pub(crate) fn policy(key: &str, scope: PolicyScope, action: Action, conditions: Match) -> Policy {
    let (namespace, _) = key.split_once('/').expect("a key has a namespace");
    let rules = vec![Rule { clauses: vec![Clause { matches: vec![conditions] }] }];
    Policy { key: key.into(), namespace: namespace.into(), scope, action, dry_run: false, rules }
}

pub(crate) fn from_namespace(namespace: &str) -> Match {
    Match { namespaces: vec![StringMatch::Exact(namespace.into())], ..Match::default() }
}

impl Store {
    pub(crate) fn put<const N: usize>(&mut self, workloads: [Workload; N]) -> Applied {
        self.apply(workloads.into_iter().map(Change::PutWorkload).collect())
    }

    pub(crate) fn put_services<const N: usize>(&mut self, services: [Service; N]) -> Applied {
        self.apply(services.into_iter().map(Change::PutService).collect())
    }

    pub(crate) fn put_policies<const N: usize>(&mut self, policies: [Policy; N]) -> Applied {
        self.apply(policies.into_iter().map(Change::PutPolicy).collect())
    }

    pub(crate) fn remove(&mut self, pod: &str) -> Applied {
        self.apply(vec![Change::RemoveWorkload(uid(pod))])
    }
}
