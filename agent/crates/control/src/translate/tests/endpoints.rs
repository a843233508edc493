use weft_model::{InternalTrafficPolicy, TrafficDistribution};

use super::*;

/// A slice of the service `shop/web`.
fn slice(name: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         ports: [{ports}]\nendpoints: [{endpoints}]\n"
    )
}

#[test]
fn a_service_is_published_with_its_settings() {
    let mut mesh = Mesh::new();
    mesh.put(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  clusterIPs: [10.1.0.1, 'fd01::1']\n  \
         ports:\n  - {name: http-web, port: 80, targetPort: 8080}\n  - {name: dns, port: 53, protocol: UDP}\n  - {name: x, port: 443, appProtocol: https}\n  \
         sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}\n  internalTrafficPolicy: Local\n  \
         trafficDistribution: PreferClose\n  publishNotReadyAddresses: true\n",
    );
    let service = &mesh.services["shop/web.shop.svc.cluster.local"];
    assert_eq!(&*service.hostname, "web.shop.svc.cluster.local");
    assert_eq!(service.addresses.len(), 2);
    let ports: Vec<String> =
        service.ports.iter().map(|port| format!("{} {} {:?}", port.port, port.name, port.app_protocol)).collect();
    assert_eq!(ports, ["80 http-web Http", "443 x Tls"]);
    assert_eq!(service.session_affinity.map(|affinity| affinity.timeout.as_secs()), Some(60));
    assert_eq!(service.internal_traffic_policy, InternalTrafficPolicy::Local);
    assert_eq!(service.traffic_distribution, TrafficDistribution::PreferSameZone);
    assert!(service.publish_not_ready_addresses);
}

#[test]
fn headless_services_have_no_address_and_aliases_are_no_services() {
    let mut mesh = Mesh::new();
    mesh.put(&service("shop/web", "app: web", "None"));
    mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
    let key = "shop/web.shop.svc.cluster.local";
    assert!(mesh.services[key].addresses.is_empty());
    assert_eq!(mesh.services_of("shop/a"), ["web:80>8080 Ready"]);
    mesh.put("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: ExternalName, externalName: example.com, selector: {app: web}}\n");
    assert!(mesh.services.is_empty());
    assert_eq!(mesh.services_of("shop/a"), [""; 0]);
    assert_eq!(mesh.translator.counts().services, 1);
}

#[test]
fn selectors_make_endpoints_in_their_own_namespace() {
    let mut mesh = Mesh::new();
    mesh.put(&service("shop/web", "app: web", "10.1.0.1"));
    mesh.put(&service("shop/all", "tier: front, app: web", "10.1.0.2"));
    mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
    mesh.put(&pod("shop/b", "app: web, tier: front", "10.0.0.2"));
    mesh.put(&pod("shop/c", "app: api", "10.0.0.3"));
    mesh.put(&pod("bank/d", "app: web", "10.0.0.4"));
    assert_eq!(mesh.services_of("shop/a"), ["web:80>8080 Ready"]);
    assert_eq!(mesh.services_of("shop/b"), ["all:80>8080 Ready", "web:80>8080 Ready"]);
    assert_eq!(mesh.services_of("shop/c"), [""; 0]);
    assert_eq!(mesh.services_of("bank/d"), [""; 0]);
    assert_eq!(mesh.put(&service("shop/web", "app: api", "10.1.0.1")), ["a", "b", "c"], "both old and new endpoints");
    assert_eq!(mesh.services_of("shop/a"), [""; 0]);
    assert_eq!(mesh.services_of("shop/c"), ["web:80>8080 Ready"]);
    assert_eq!(mesh.remove("Service shop/all"), ["b"]);
    assert_eq!(mesh.services_of("shop/b"), [""; 0]);
}

#[test]
fn target_ports_are_numbers_or_names_of_the_pods_ports() {
    let mut mesh = Mesh::new();
    mesh.put("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  selector: {app: web}\n  ports: [{port: 1}, {port: 2, targetPort: 22, name: b}, {port: 3, targetPort: http, name: c}, {port: 4, targetPort: none, name: d}]\n");
    mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
    mesh.put(&pod("shop/b", "app: web", "10.0.0.2").replace("8080", "9090"));
    assert_eq!(mesh.services_of("shop/a"), ["web:1>1,2>22,3>8080 Ready"]);
    assert_eq!(mesh.services_of("shop/b"), ["web:1>1,2>22,3>9090 Ready"]);
}

#[test]
fn readiness_and_deletion_decide_an_endpoints_condition() {
    let mut mesh = Mesh::new();
    mesh.put(&service("shop/web", "app: web", "10.1.0.1"));
    let ready = pod("shop/a", "app: web", "10.0.0.1");
    let unready = ready.replace("'True'", "'False'");
    let deleted = |text: &str| text.replace("name: a,", "name: a, deletionTimestamp: '2026-01-01T00:00:00Z',");
    for (text, condition) in [
        (ready.clone(), "Ready"),
        (unready.clone(), "NotReady"),
        (deleted(&ready), "Terminating"),
        (deleted(&unready), "NotReady"),
        (ready.replace("type: Ready", "type: Initialized"), "NotReady"),
    ] {
        mesh.put(&text);
        assert_eq!(mesh.services_of("shop/a"), [format!("web:80>8080 {condition}")]);
    }
}

#[test]
fn slices_take_the_place_of_a_selector() {
    let mut mesh = Mesh::new();
    mesh.put(&service("shop/web", "app: web", "10.1.0.1"));
    mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
    mesh.put(&pod("shop/b", "app: api", "10.0.0.2"));
    let by_name = "{addresses: [10.0.0.2], targetRef: {kind: Pod, name: b, namespace: shop}}";
    mesh.put(&slice("s1", "{name: web, port: 9000}, {name: other, port: 1}", by_name));
    assert_eq!(mesh.services_of("shop/a"), [""; 0]);
    assert_eq!(mesh.services_of("shop/b"), ["web:80>9000 Ready"]);
    mesh.put(&slice(
        "s2",
        "{name: web, port: 9000}",
        "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}",
    ));
    assert_eq!(mesh.services_of("shop/a"), ["web:80>9000 Terminating"]);
    mesh.remove("EndpointSlice shop/s1");
    mesh.remove("EndpointSlice shop/s2");
    assert_eq!(mesh.services_of("shop/a"), ["web:80>8080 Ready"], "without a slice the selector counts");
    assert_eq!(mesh.services_of("shop/b"), [""; 0]);
    assert_eq!(mesh.workloads.len(), 2);
}

#[test]
fn an_address_that_is_no_pods_becomes_a_plain_workload() {
    let mut mesh = Mesh::new();
    mesh.put(&service("shop/web", "", "10.1.0.1"));
    let endpoint = "{addresses: [192.0.2.1], nodeName: n9, zone: z}";
    mesh.put(&slice("s1", "{name: web, port: 9000}", endpoint));
    let bare = mesh.workloads["Kubernetes//EndpointSlice/shop/192.0.2.1"].clone();
    assert_eq!(memberships(&bare), ["web:80>9000 Ready"]);
    assert!(!bare.is_hbone());
    assert_eq!((&*bare.workload_name, &*bare.node, &*bare.locality.zone), ("web", "n9", "z"));
    // A pod takes the address over, and gives it back.
    mesh.put(&pod("shop/a", "", "192.0.2.1"));
    assert_eq!(mesh.workloads.len(), 1);
    assert_eq!(mesh.services_of("shop/a"), ["web:80>9000 Ready"]);
    mesh.put(&pod("shop/a", "", "10.0.0.1"));
    assert_eq!(mesh.services_of("shop/a"), [""; 0]);
    assert_eq!(mesh.workloads.len(), 2);
    mesh.put(&slice("s1", "{name: web, port: 9000}", "{addresses: [192.0.2.2], conditions: {ready: false}}"));
    let names: Vec<&str> = mesh.workloads.values().map(|workload| &*workload.name).collect();
    assert_eq!(names, ["192.0.2.2", "a"]);
    mesh.remove("EndpointSlice shop/s1");
    assert_eq!(mesh.workloads.len(), 1);
}

#[test]
fn several_slices_of_one_service_are_one_membership() {
    let mut mesh = Mesh::new();
    mesh.put("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  ports: [{port: 80, name: a}, {port: 81, name: b}]\n");
    mesh.put(&pod("shop/a", "", "10.0.0.1"));
    mesh.put(&slice("s1", "{name: a, port: 8000}", "{addresses: [10.0.0.1], conditions: {ready: false}}"));
    mesh.put(&slice("s2", "{name: b, port: 8001}", "{addresses: [10.0.0.1]}"));
    mesh.put(&slice("s3", "{name: b, port: 8001}", "{addresses: [10.0.0.1]}"));
    assert_eq!(mesh.services_of("shop/a"), ["web:80>8000,81>8001 Ready"]);
}

#[test]
fn pods_on_the_hosts_network_are_endpoints_by_name_only() {
    let mut mesh = Mesh::new();
    mesh.put(&service("shop/web", "", "10.1.0.1"));
    let host = pod("shop/a", "", "192.0.2.1").replace("spec:\n", "spec:\n  hostNetwork: true\n");
    mesh.put(&host);
    mesh.put(&slice("s1", "{name: web, port: 9000}", "{addresses: [192.0.2.1]}"));
    assert_eq!(mesh.services_of("shop/a"), [""; 0]);
    assert_eq!(mesh.workloads.len(), 2);
    mesh.put(&slice("s1", "{name: web, port: 9000}", "{addresses: [192.0.2.1], targetRef: {kind: Pod, name: a}}"));
    assert_eq!(mesh.services_of("shop/a"), ["web:80>9000 Ready"]);
    assert_eq!(mesh.workloads.len(), 1);
}
