//! The objects of a large cluster, each from its number alone.
//!
//! They look as those of a real cluster do: what a controller reads over and over is their size, the label that nobody asks
//! for, and who wrote which field, which the API server adds itself.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Pods behind one service.
pub const PODS_OF_A_SERVICE: usize = 10;
/// Services of one namespace.
pub const SERVICES_OF_A_NAMESPACE: usize = 100;
/// The namespace of the service that every agent knows.
pub const POPULAR: &str = "popular";
/// Pods behind it.
pub const POPULAR_PODS: usize = 20;
/// The namespace of agents and controller.
pub const SYSTEM: &str = "weft-system";
/// The agents' service account.
pub const AGENT: &str = "weft-agent";
/// Whose policies hold for the whole mesh.
pub const ROOT: &str = "istio-system";

/// An object that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The path of the API that lists its kind, where it is.
    pub path: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub body: Value,
    /// Its status is written apart.
    pub has_status: bool,
}

/// A pod by what tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its service, its labels and its account.
    pub app: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Pod {
    /// The pod of a number, on one of so many nodes.
    pub fn numbered(number: usize, nodes: usize) -> Self {
        let service = number / PODS_OF_A_SERVICE;
        let app = format!("app-{service:05}");
        Self {
            namespace: namespace(service),
            name: format!("{app}-7d9f8b6c5-{number:06}"),
            app,
            node: node_name(number % nodes),
            address: Ipv4Addr::from_bits(0x0a80_0000 + number as u32),
        }
    }

    /// One of those that every agent knows.
    pub fn popular(number: usize, nodes: usize) -> Self {
        Self {
            namespace: POPULAR.to_owned(),
            app: POPULAR.to_owned(),
            name: format!("{POPULAR}-7d9f8b6c5-{number:06}"),
            node: node_name(number % nodes),
            address: Ipv4Addr::from_bits(0x0aff_0000 + number as u32),
        }
    }

    /// Its name in the mesh.
    pub fn uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace, self.name)
    }

    /// It, as a kubelet keeps it.
    pub fn object(&self, is_ready: bool) -> Object {
        let Self { namespace, app, name, node, address } = self;
        let time = "2026-01-01T00:00:00Z";
        let ready = if is_ready { "True" } else { "False" };
        let condition =
            |kind: &str, status: &str| json!({ "type": kind, "status": status, "lastTransitionTime": time });
        let body = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": { "app": app, "version": "v1", "pod-template-hash": "7d9f8b6c5" },
                "annotations": { "ambient.istio.io/redirection": "enabled" },
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-7d9f8b6c5"),
                    "uid": "0ae5c03d-5fb3-4eb9-9de8-2bd4b51606ba", "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {
                "nodeName": node,
                "serviceAccountName": app,
                "containers": [{
                    "name": "app",
                    "image": format!("registry.example.com/shop/{app}:1.4.2"),
                    "ports": [{ "name": "http", "containerPort": 8080 }],
                    "env": [
                        { "name": "LOG_LEVEL", "value": "info" },
                        { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    ],
                    "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
                    "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http" }, "periodSeconds": 10 },
                }],
            },
            "status": {
                "phase": "Running",
                "hostIP": "10.0.0.1",
                "podIP": address,
                "podIPs": [{ "ip": address }],
                "startTime": time,
                "conditions": [
                    condition("Initialized", "True"), condition("Ready", ready), condition("ContainersReady", ready),
                    condition("PodScheduled", "True"),
                ],
                "containerStatuses": [{
                    "name": "app",
                    "image": format!("registry.example.com/shop/{app}:1.4.2"),
                    "imageID": "registry.example.com/shop/app@sha256:6e38f40d628db3002f5617342c8872c935de530d867d0f709a2fbda1a302a562",
                    "containerID": "containerd://c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2",
                    "ready": is_ready, "started": true, "restartCount": 0,
                    "state": { "running": { "startedAt": time } },
                }],
            },
        });
        Object { path: format!("/api/v1/namespaces/{namespace}/pods"), name: name.clone(), body, has_status: true }
    }
}

/// The name of a node.
pub fn node_name(number: usize) -> String {
    format!("node-{number:04}")
}

/// The namespace of a service.
pub fn namespace(service: usize) -> String {
    format!("team-{:03}", service / SERVICES_OF_A_NAMESPACE)
}

/// The virtual address of a service.
pub fn service_address(service: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a60_0100 + service as u32)
}

/// The virtual address of the service that every agent knows.
pub fn popular_address() -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a6f_0001)
}

/// A namespace whose pods are in the mesh, or not.
pub fn namespace_object(name: &str, is_in_mesh: bool) -> Object {
    let mode = if is_in_mesh { "ambient" } else { "none" };
    let metadata = json!({ "name": name, "labels": { "istio.io/dataplane-mode": mode } });
    plain("/api/v1/namespaces", name, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))
}

/// A node in one of three zones.
pub fn node_object(name: &str, number: usize) -> Object {
    let zone = format!("zone-{}", ["a", "b", "c"][number % 3]);
    let labels = json!({
        "kubernetes.io/hostname": name, "topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": zone,
    });
    let metadata = json!({ "name": name, "labels": labels });
    plain("/api/v1/nodes", name, json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata }))
}

/// A service account.
pub fn account_object(namespace: &str, name: &str) -> Object {
    let body = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace },
    });
    plain(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), name, body)
}

/// A service with a virtual address.
pub fn service_object(namespace: &str, name: &str, address: Ipv4Addr) -> Object {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
        "spec": {
            "clusterIP": address,
            "selector": { "app": name },
            "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
        },
    });
    plain(&format!("/api/v1/namespaces/{namespace}/services"), name, body)
}

/// The endpoints of a service, as its controller would write them.
pub fn slice_object(namespace: &str, service: &str, pods: &[Pod]) -> Object {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({
                "addresses": [pod.address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": pod.node,
                "targetRef": { "kind": "Pod", "namespace": pod.namespace, "name": pod.name },
            })
        })
        .collect();
    let name = format!("{service}-x7k2p");
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": namespace, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints,
    });
    plain(&format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"), &name, body)
}

/// The pod of an agent: what its token is bound to.
pub fn agent_object(name: &str, node: &str) -> Object {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": SYSTEM },
        "spec": {
            "nodeName": node, "serviceAccountName": AGENT, "hostNetwork": true,
            "containers": [{ "name": "agent", "image": "localhost/weft" }],
        },
    });
    plain(&format!("/api/v1/namespaces/{SYSTEM}/pods"), name, body)
}

/// A policy of the whole mesh that nobody's traffic matches.
pub fn policy_object(name: &str) -> Object {
    let body = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": ROOT },
        "spec": { "action": "DENY", "rules": [{ "from": [{ "source": { "namespaces": ["nobody"] } }] }] },
    });
    plain(&format!("/apis/security.istio.io/v1/namespaces/{ROOT}/authorizationpolicies"), name, body)
}

fn plain(path: &str, name: &str, body: Value) -> Object {
    Object { path: path.to_owned(), name: name.to_owned(), body, has_status: false }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_pod_and_service_has_an_address_of_its_own() {
        let pods = (0..100_000).map(|number| Pod::numbered(number, 1000));
        let popular = (0..100).map(|number| Pod::popular(number, 1000));
        let addresses: HashSet<Ipv4Addr> = pods.chain(popular).map(|pod| pod.address).collect();
        assert_eq!(addresses.len(), 100_100);
        let services: HashSet<Ipv4Addr> = (0..10_000).map(service_address).chain([popular_address()]).collect();
        assert_eq!(services.len(), 10_001);
        assert!(services.iter().all(|address| address.octets()[1] & 0xf0 == 96), "in the API server's range");
    }
}
