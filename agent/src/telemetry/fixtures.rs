//! A small mesh for unit tests: `curl` calls the service `web`.

use std::sync::Arc;

use weft_model::{
    Action, AppProtocol, Change, Clause, EndpointCondition, Health, Identity, Locality, Match, Membership, MeshOptions,
    Policy, PolicyScope, PortMapping, Rule, Service, ServicePort, Snapshot, Store, StringMatch, TunnelProtocol,
    Workload,
};

/// A pod of the deployment `name`, in the namespace `shop`, on node `node-a`, with the address 10.0.0.`host`.
pub(crate) fn workload(name: &str, host: u8) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}-1").into(),
        instance: "".into(),
        name: format!("{name}-1").into(),
        namespace: "shop".into(),
        identity: identity(name),
        cluster: "Kubernetes".into(),
        network: "".into(),
        node: "node-a".into(),
        addresses: vec![[10, 0, 0, host].into()],
        protocol: TunnelProtocol::Hbone,
        is_host_network: false,
        workload_name: name.into(),
        workload_type: "deployment".into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
        app: name.into(),
        version: "v1".into(),
        locality: Locality { region: "r1".into(), zone: "z1".into(), subzone: "".into() },
        health: Health::Healthy,
        policies: Vec::new(),
        services: Vec::new(),
        waypoint: None,
    }
}

/// The identity of the service account `name` in the namespace `shop`.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).expect("the parts are plain words")
}

/// The service `web`, port 80.
pub(crate) fn service() -> Service {
    Service {
        key: "shop/web.shop.svc.cluster.local".into(),
        name: "web".into(),
        namespace: "shop".into(),
        hostname: "web.shop.svc.cluster.local".into(),
        addresses: vec![[10, 1, 0, 1].into()],
        ports: vec![ServicePort { port: 80, name: "http".into(), app_protocol: AppProtocol::Http }],
        ..Service::default()
    }
}

/// `curl` on 10.0.0.1, `web` on 10.0.0.2 with its service, a policy that lets only curl in, and one pod of another
/// namespace.
pub(crate) fn snapshot() -> Arc<Snapshot> {
    let web = Workload {
        policies: vec!["shop/web-clients".into()],
        services: vec![Membership {
            service: service().key,
            ports: vec![PortMapping { service_port: 80, target_port: 8080 }],
            condition: EndpointCondition::Ready,
            waypoint: None,
        }],
        ..workload("web", 2)
    };
    let other = Workload {
        uid: "Kubernetes//Pod/other/idle-1".into(),
        namespace: "other".into(),
        protocol: TunnelProtocol::None,
        identity: Identity::new("cluster.local", "other", "default").expect("the parts are plain words"),
        ..workload("idle", 3)
    };
    let policy = Policy {
        key: "shop/web-clients".into(),
        namespace: "shop".into(),
        scope: PolicyScope::Workload,
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule {
            clauses: vec![Clause {
                matches: vec![Match {
                    principals: vec![StringMatch::Exact(identity("curl").principal().into())],
                    ..Match::default()
                }],
            }],
        }],
    };
    store(vec![
        Change::PutWorkload(workload("curl", 1)),
        Change::PutWorkload(web),
        Change::PutWorkload(other),
        Change::PutService(service()),
        Change::PutPolicy(policy),
    ])
}

/// A snapshot of a mesh that has seen only `changes`.
pub(crate) fn store(changes: Vec<Change>) -> Arc<Snapshot> {
    let mesh =
        MeshOptions { network: "".into(), root_namespace: "istio-system".into(), trust_domain: "cluster.local".into() };
    Store::new(mesh).apply(changes).snapshot
}
