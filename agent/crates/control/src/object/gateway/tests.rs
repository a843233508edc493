use std::path::Path;

use super::*;
use crate::manifest::{self, Format, Reading, Scrutiny};
use crate::object::Object;

/// The one object of a manifest, and severity and field of each problem.
fn read(yaml: &str) -> (Option<Object>, Vec<String>) {
    let found = manifest::read(&Path::new("f").into(), Format::Yaml, yaml.as_bytes(), Scrutiny::Normal, 1);
    let problems =
        found.problems.iter().map(|problem| format!("{} {}", problem.severity, problem.field.as_deref().unwrap_or("")));
    let problems = problems.collect();
    let object = found.entries.into_iter().next().and_then(|entry| match entry.reading {
        Reading::Valid(object) => Some(object),
        Reading::Invalid(_) => None,
    });
    (object, problems)
}

fn gateway(labels: &str, listeners: &str) -> (Gateway, Vec<String>) {
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: edge, namespace: shop, labels: {{{labels}}}}}\n\
         spec: {{gatewayClassName: weft-waypoint, listeners: [{listeners}]}}\n"
    );
    match read(&yaml) {
        (Some(Object::Gateway(gateway)), problems) => (gateway, problems),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_waypoint_has_one_listener_and_says_what_it_is_for() {
    let (found, problems) = gateway(
        "istio.io/waypoint-for: all",
        "{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}",
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!((&*found.class, found.waypoint_for), ("weft-waypoint", Some(WaypointFor::All)));
    let listener = &found.listeners[0];
    assert_eq!((&*listener.name, listener.port, &*listener.protocol), ("mesh", 15008, "HBONE"));
    assert_eq!((&listener.from, &listener.kinds), (&AllowedNamespaces::All, &None));
}

#[test]
fn every_mistake_in_a_gateway_is_named_and_nothing_is_allowed_by_it() {
    let cases = [
        ("{name: a, port: 0, protocol: HBONE}", "error spec.listeners[0].port"),
        ("{port: 1, protocol: HBONE}", "error spec.listeners[0].name"),
        ("{name: a, port: 1}, {name: a, port: 2}", "error spec.listeners[1].name"),
        ("{name: a, port: 1, hostname: '-'}", "error spec.listeners[0].hostname"),
        ("{name: a, port: 1, colour: red}", "warning spec.listeners[0].colour"),
        (
            "{name: a, port: 1, allowedRoutes: {namespaces: {from: Selector}}}",
            "error spec.listeners[0].allowedRoutes.namespaces.selector",
        ),
        (
            "{name: a, port: 1, allowedRoutes: {namespaces: {from: Everyone}}}",
            "error spec.listeners[0].allowedRoutes.namespaces.from",
        ),
        (
            "{name: a, port: 1, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: Is}]}}}}",
            "error spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].operator",
        ),
    ];
    for (listener, expected) in cases {
        let (found, problems) = gateway("", listener);
        assert_eq!(problems, [expected], "{listener}");
        if expected.contains("namespaces") {
            assert_eq!(found.listeners[0].from, AllowedNamespaces::None, "{listener}");
        }
    }
    assert_eq!(gateway("istio.io/waypoint-for: some", "").1, ["warning metadata.labels[istio.io/waypoint-for]"]);
}

#[test]
fn namespaces_are_selected_by_labels_and_expressions() {
    let cases = [
        ("matchLabels: {a: x}", "a=x,b=y", true),
        ("matchLabels: {a: x}", "a=z", false),
        ("matchLabels: {}", "", true),
        ("matchExpressions: [{key: a, operator: In, values: [x, z]}]", "a=z", true),
        ("matchExpressions: [{key: a, operator: In, values: [x]}]", "", false),
        ("matchExpressions: [{key: a, operator: NotIn, values: [x]}]", "a=x", false),
        ("matchExpressions: [{key: a, operator: NotIn, values: [x]}]", "", true),
        ("matchExpressions: [{key: a, operator: Exists}]", "a=x", true),
        ("matchExpressions: [{key: a, operator: Exists}]", "b=x", false),
        ("matchExpressions: [{key: a, operator: DoesNotExist}]", "b=x", true),
        ("matchLabels: {a: x}, matchExpressions: [{key: b, operator: Exists}]", "a=x", false),
    ];
    for (selector, labels, expected) in cases {
        let listener = format!(
            "{{name: a, port: 1, allowedRoutes: {{namespaces: {{from: Selector, selector: {{{selector}}}}}}}}}"
        );
        let (found, problems) = gateway("", &listener);
        assert_eq!(problems, [""; 0], "{selector}");
        let AllowedNamespaces::Selected(selector) = &found.listeners[0].from else { panic!("{selector}") };
        let pairs: Vec<(String, String)> = labels
            .split_terminator(',')
            .map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("written as k=v"))
            .collect();
        let labels = Labels::new(pairs.iter().map(|(k, v)| (k, v)), &mut Interner::default());
        assert_eq!(selector.matches(&labels), expected, "{selector:?} {labels:?}");
    }
}

#[test]
fn a_class_names_its_controller_and_a_grant_who_may_refer_to_what() {
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: w}\n\
                 spec: {controllerName: weft.dev/gateway-controller, description: waypoints}\n";
    let (Some(Object::GatewayClass(class)), problems) = read(class) else { panic!("a class") };
    assert_eq!((&*class.controller, problems), (CONTROLLER_NAME, Vec::new()));
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: bank}\n\
                 spec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]\n\
                 \x20 to: [{group: '', kind: Service, name: vault}]\n";
    let (Some(Object::ReferenceGrant(grant)), problems) = read(grant) else { panic!("a grant") };
    assert_eq!(problems, [""; 0]);
    assert!(grant.lets("HTTPRoute", "shop", "vault"));
    for (kind, namespace, service) in
        [("GRPCRoute", "shop", "vault"), ("HTTPRoute", "lab", "vault"), ("HTTPRoute", "shop", "safe")]
    {
        assert!(!grant.lets(kind, namespace, service), "{kind} {namespace} {service}");
    }
}
