use weft_model::{TunnelProtocol, WaypointTarget};

use super::*;

fn gateway(name: &str, labels: &str, from: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a Gateway has a namespace");
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{gatewayClassName: weft-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, \
         allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}\n"
    )
}

/// A service with labels.
fn labelled(name: &str, labels: &str) -> String {
    service(name, "app: web", "10.1.0.1").replacen("metadata: {", &format!("metadata: {{labels: {{{labels}}}, "), 1)
}

fn waypoint_of(mesh: &Mesh, service: &str) -> Option<String> {
    let (namespace, name) = service.split_once('/').expect("a service has a namespace");
    let key = format!("{namespace}/{name}.{namespace}.svc.cluster.local");
    mesh.services[&*key].waypoint.as_deref().map(show)
}

fn waypoint_of_pod(mesh: &Mesh, pod: &str) -> Option<String> {
    mesh.workloads[&*format!("Kubernetes//Pod/{pod}")].waypoint.as_deref().map(show)
}

fn show(waypoint: &weft_model::Waypoint) -> String {
    assert_eq!(waypoint.port, 15008);
    let optional = if waypoint.is_optional { " optional" } else { "" };
    match &waypoint.target {
        WaypointTarget::Service(key) => format!("{key}{optional}"),
        WaypointTarget::Address(address) => panic!("{address}"),
    }
}

const EDGE: &str = "shop/edge.shop.svc.cluster.local";
const USE: &str = "istio.io/use-waypoint: edge";

#[test]
fn the_label_of_a_service_beats_that_of_its_namespace() {
    let cases = [
        ("", "", None),
        (USE, "", Some(EDGE)),
        ("", USE, Some(EDGE)),
        ("istio.io/use-waypoint: none", USE, None),
        ("istio.io/use-waypoint: other", USE, Some("shop/other.shop.svc.cluster.local")),
    ];
    for (own, of_namespace, expected) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&namespace("shop", of_namespace));
        mesh.put(&gateway("shop/edge", "", "Same"));
        mesh.put(&labelled("shop/web", own));
        assert_eq!(waypoint_of(&mesh, "shop/web").as_deref(), expected, "{own} in {of_namespace}");
    }
}

#[test]
fn waypoints_come_and_go_with_their_labels_and_a_missing_one_is_not_passed_by() {
    let mut mesh = Mesh::new();
    mesh.put(&namespace("shop", ""));
    mesh.put(&labelled("shop/web", ""));
    assert_eq!(waypoint_of(&mesh, "shop/web"), None);
    mesh.put(&namespace("shop", USE));
    assert_eq!(waypoint_of(&mesh, "shop/web").as_deref(), Some(EDGE), "its Gateway is missing");
    mesh.put(&gateway("shop/edge", "", "Same"));
    assert_eq!(waypoint_of(&mesh, "shop/web").as_deref(), Some(EDGE));
    mesh.put(&gateway("shop/edge", "istio.io/waypoint-for: workload", "Same"));
    assert_eq!(waypoint_of(&mesh, "shop/web"), None);
    mesh.remove("Gateway shop/edge");
    assert_eq!(waypoint_of(&mesh, "shop/web").as_deref(), Some(EDGE));
    mesh.remove("Namespace shop");
    assert_eq!(waypoint_of(&mesh, "shop/web"), None);
}

#[test]
fn what_a_waypoint_is_for_is_said_by_it_or_by_its_class() {
    let class = |labels: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n\
             metadata: {{name: weft-waypoint, labels: {{{labels}}}}}\nspec: {{controllerName: weft.dev/gateway-controller}}\n"
        )
    };
    let cases = [
        ("", "", true, false),
        ("istio.io/waypoint-for: service", "", true, false),
        ("istio.io/waypoint-for: workload", "", false, true),
        ("istio.io/waypoint-for: all", "", true, true),
        ("istio.io/waypoint-for: none", "", false, false),
        ("", "istio.io/waypoint-for: all", true, true),
        ("istio.io/waypoint-for: none", "istio.io/waypoint-for: all", false, false),
    ];
    for (own, of_class, services, workloads) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&namespace("shop", USE));
        mesh.put(&labelled("shop/web", ""));
        mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
        mesh.put(&gateway("shop/edge", own, "Same"));
        mesh.put(&class(of_class));
        assert_eq!(waypoint_of(&mesh, "shop/web").is_some(), services, "{own} {of_class}");
        assert_eq!(waypoint_of_pod(&mesh, "shop/a").is_some(), workloads, "{own} {of_class}");
    }
}

#[test]
fn pods_have_waypoints_of_their_own() {
    let mut mesh = Mesh::new();
    mesh.put(&namespace("shop", USE));
    mesh.put(&pod("shop/a", USE, "10.0.0.1"));
    mesh.put(&pod("shop/b", "", "10.0.0.2"));
    assert_eq!(waypoint_of_pod(&mesh, "shop/a").as_deref(), Some(EDGE), "it asks for it, and it may come yet");
    assert_eq!(waypoint_of_pod(&mesh, "shop/b"), None, "by default a waypoint is for services");
    assert_eq!(mesh.put(&gateway("shop/edge", "istio.io/waypoint-for: all", "Same")).len(), 2);
    assert_eq!(waypoint_of_pod(&mesh, "shop/b").as_deref(), Some(EDGE));
    assert_eq!(mesh.put(&gateway("shop/other", "", "Same")), [""; 0], "others have nothing to do with it");
}

#[test]
fn a_waypoint_elsewhere_has_to_allow_it_and_one_that_does_not_is_not_passed_by() {
    let abroad = "istio.io/use-waypoint: edge, istio.io/use-waypoint-namespace: infra";
    let allowed = "infra/edge.infra.svc.cluster.local";
    let refused = "infra/edge (which does not allow the namespace shop)";
    let cases = [
        ("All", "", allowed),
        ("Same", "", refused),
        ("None", "", refused),
        ("Selector, selector: {matchLabels: {team: a}}", "", refused),
        ("Selector, selector: {matchLabels: {team: a}}", "team: a", allowed),
    ];
    for (from, labels, expected) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&namespace("shop", ""));
        mesh.put(&labelled("shop/web", abroad));
        mesh.put(&gateway("infra/edge", "", from));
        mesh.put(&namespace("shop", labels));
        assert_eq!(waypoint_of(&mesh, "shop/web").as_deref(), Some(expected), "{from} {labels}");
    }
}

#[test]
fn a_waypoint_has_none_and_takes_tunnels_by_itself() {
    let mut mesh = Mesh::new();
    mesh.put(&namespace("shop", "istio.io/use-waypoint: edge, istio.io/dataplane-mode: ambient"));
    let labels =
        "gateway.networking.k8s.io/gateway-name: edge, gateway.networking.k8s.io/gateway-class-name: weft-waypoint";
    mesh.put(&pod("shop/edge-1", labels, "10.0.0.7"));
    mesh.put(&service("shop/edge", "gateway.networking.k8s.io/gateway-name: edge", "10.1.0.5"));
    mesh.put(&service("shop/second", "app: x", "10.1.0.6"));
    mesh.put(&gateway("shop/edge", "istio.io/waypoint-for: all", "Same"));
    let workload = &mesh.workloads["Kubernetes//Pod/shop/edge-1"];
    assert_eq!((workload.protocol, &workload.waypoint), (TunnelProtocol::Hbone, &None));
    assert_eq!(waypoint_of(&mesh, "shop/edge"), None);
    assert_eq!(waypoint_of(&mesh, "shop/second").as_deref(), Some(EDGE));
    // Another waypoint in the same namespace.
    mesh.put(&gateway("shop/second", "", "Same"));
    assert_eq!(waypoint_of(&mesh, "shop/second").as_deref(), Some(EDGE), "it is merely called like one");
    mesh.put(&service("shop/second", "gateway.networking.k8s.io/gateway-name: second", "10.1.0.6"));
    assert_eq!(waypoint_of(&mesh, "shop/second"), None);
    let (_, notes) = mesh.translator.local_pods();
    assert_eq!(notes, []);
}

#[test]
fn an_annotation_lets_traffic_pass_by() {
    let mut mesh = Mesh::new();
    mesh.put(&namespace("shop", USE));
    mesh.put(&gateway("shop/edge", "istio.io/waypoint-for: all", "Same"));
    let allowed = "annotations: {weft.dev/waypoint-bypass: allowed}, ";
    let annotate = |yaml: &str| yaml.replacen("metadata: {", &format!("metadata: {{{allowed}"), 1);
    mesh.put(&annotate(&service("shop/web", "app: web", "10.1.0.1")));
    mesh.put(&annotate(&pod("shop/a", "app: web", "10.0.0.1")));
    let expected = format!("{EDGE} optional");
    assert_eq!(waypoint_of(&mesh, "shop/web"), Some(expected.clone()));
    assert_eq!(waypoint_of_pod(&mesh, "shop/a"), Some(expected));
}
