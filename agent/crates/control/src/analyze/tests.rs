use std::fs;

use tempfile::TempDir;

use super::*;

/// What is found in one file, without its name.
fn found(options: &TranslationOptions, yaml: &str) -> Vec<String> {
    let dir = TempDir::new().expect("a temporary folder can be made");
    fs::write(dir.path().join("f.yaml"), yaml).expect("the file can be written");
    let report = analyze(dir.path(), options);
    assert_eq!(report.has_errors(), report.count(Severity::Error) > 0);
    let prefix = format!("{}/f.yaml:", dir.path().display());
    report.to_string().lines().map(|line| line.trim_start_matches(&prefix).to_owned()).collect()
}

const SHOP: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n";

/// A pod of the namespace `shop` with nothing wrong with it.
fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web}}, annotations: {{weft.dev/netns: /run/netns/{name}}}}}\n\
         spec: {{nodeName: n1, containers: [{{name: main, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
         status: {{podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "Service" | "ServiceAccount" => "v1",
        _ => "security.istio.io/v1",
    };
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let yaml = [
        SHOP,
        &pod("a", "10.0.0.1"),
        &object("Service", "web", "clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]"),
        &object(
            "AuthorizationPolicy",
            "p",
            "selector: {matchLabels: {app: web}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/default]}}]}]",
        ),
        &object("PeerAuthentication", "m", "mtls: {mode: STRICT}"),
    ];
    assert_eq!(found(&TranslationOptions::default(), &yaml.concat()), [""; 0]);
}

#[test]
fn what_does_not_fit_together_is_found() {
    let two = [SHOP, &pod("a", "10.0.0.1"), &pod("b", "10.0.0.2")].concat();
    let cases: Vec<(String, &str)> = vec![
        (pod("a", "10.0.0.1"), "2: warning: Pod shop/a: metadata.namespace: there is no Namespace shop, "),
        (
            two.replace("10.0.0.2", "10.0.0.1"),
            "11: error: Pod shop/b: status.podIPs: 10.0.0.1 is the address of pod shop/a as well; ",
        ),
        (
            two.replace("nodeName: n1,", "nodeName: n1, serviceAccountName: seller,"),
            "5: warning: Pod shop/a: spec.serviceAccountName: there is no ServiceAccount shop/seller; ",
        ),
        (
            two.replace("weft.dev/netns: /run/netns/b", ""),
            "11: error: Pod shop/b: metadata.annotations[weft.dev/netns]: is missing: ",
        ),
        (two.replacen("nodeName: n1, ", "", 1), "5: warning: Pod shop/a: spec.nodeName: is missing: "),
        (
            two.replacen("nodeName: n1,", "nodeName: n1, hostNetwork: true,", 1).replacen(
                "app: web",
                "istio.io/dataplane-mode: ambient",
                1,
            ),
            "5: warning: Pod shop/a: metadata.labels[istio.io/dataplane-mode]: has no effect: a pod on the host's network ",
        ),
        (
            two.replacen("name: main", "name: istio-proxy", 1),
            "5: warning: Pod shop/a: metadata.labels[istio.io/dataplane-mode]: has no effect: the pod has a sidecar",
        ),
        (two.replacen("[{ip: 10.0.0.1}]", "[]", 1), "5: warning: Pod shop/a: status.podIPs: is empty: "),
        (
            two.clone() + &object("Service", "w", "clusterIP: 10.1.0.1, selector: {app: api}, ports: [{port: 80}]"),
            "17: warning: Service shop/w: spec.selector: matches no pod of the namespace: ",
        ),
        (
            two.clone() + &object("Service", "w", "clusterIP: 10.1.0.1, ports: [{port: 80}]"),
            "17: warning: Service shop/w: spec.selector: is missing, and no EndpointSlice gives endpoints: ",
        ),
        (
            two.clone() + &object("Service", "w", "selector: {app: web}, ports: [{port: 80}]"),
            "17: warning: Service shop/w: spec.clusterIP: is missing: ",
        ),
        (
            two.clone() + &object("Service", "w", "clusterIP: 10.0.0.2, selector: {app: web}, ports: [{port: 80}]"),
            "17: error: Service shop/w: spec.clusterIPs: 10.0.0.2 is the address of pod shop/b as well; ",
        ),
        (
            two.replace("name: http, ", "")
                + &object(
                    "Service",
                    "w",
                    "clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]",
                ),
            "17: warning: Service shop/w: spec.ports[0].targetPort: none of its 2 pods has a container port named 'http'; ",
        ),
        (
            two.replacen("name: http, ", "", 1)
                + &object(
                    "Service",
                    "w",
                    "clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]",
                ),
            "17: warning: Service shop/w: spec.ports[0].targetPort: not every one of its 2 pods ",
        ),
        (
            two.replace("'True'", "'False'")
                + &object("Service", "w", "clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80}]"),
            "17: warning: Service shop/w: none of its 2 pods is ready: connections are refused; look why ",
        ),
        (
            two.clone()
                + "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: w}}\nendpoints: []\n",
            "17: warning: EndpointSlice shop/s: metadata.labels[kubernetes.io/service-name]: there is no Service shop/w; ",
        ),
        (
            two.clone() + &object("AuthorizationPolicy", "p", "selector: {matchLabels: {app: api}}, rules: [{}]"),
            "17: warning: AuthorizationPolicy shop/p: spec.selector.matchLabels: matches no pod: ",
        ),
        (
            two.replace("ambient", "none") + &object("AuthorizationPolicy", "p", "rules: [{}]"),
            "17: warning: AuthorizationPolicy shop/p: metadata.namespace: none of the 2 pods that it is about is enrolled: ",
        ),
        (
            two.clone()
                + &object(
                    "AuthorizationPolicy",
                    "p",
                    "rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/x]}}]}]",
                ),
            "17: warning: AuthorizationPolicy shop/p: spec.rules[0]: no pod has the identity 'cluster.local/ns/shop/sa/x'; ",
        ),
        (
            two.clone()
                + &object(
                    "AuthorizationPolicy",
                    "p",
                    "rules: [{from: [{source: {principals: [td/ns/shop/sa/default]}}]}]",
                ),
            "17: warning: AuthorizationPolicy shop/p: spec.rules[0]: the principal 'td/ns/shop/sa/default' is of the trust domain 'td', ",
        ),
        (
            two.clone() + &object("AuthorizationPolicy", "p", "rules: [{from: [{source: {namespaces: [shpo]}}]}]"),
            "17: warning: AuthorizationPolicy shop/p: spec.rules[0]: no pod is in the namespace 'shpo'; ",
        ),
        (
            two.clone() + &object("AuthorizationPolicy", "p", "targetRefs: [{kind: Service, name: w}], rules: [{}]"),
            "17: error: AuthorizationPolicy shop/p: spec.targetRefs: there is no Service shop/w; ",
        ),
        (
            two.clone() + &object("AuthorizationPolicy", "p", ""),
            "17: info: AuthorizationPolicy shop/p: spec.rules: no rule allows anything: ",
        ),
        (
            two.clone()
                + &pod("c", "10.0.0.3").replace("app: web", "istio.io/dataplane-mode: none")
                + &object("PeerAuthentication", "m", "mtls: {mode: STRICT}"),
            "23: warning: PeerAuthentication shop/m: spec.mtls.mode: STRICT refuses connections from what is not in the mesh, which 1 pod is not, shop/c among them; ",
        ),
        (
            two.clone()
                + &object("PeerAuthentication", "a", "mtls: {mode: STRICT}")
                + &object("PeerAuthentication", "b", "mtls: {mode: PERMISSIVE}"),
            "22: warning: PeerAuthentication shop/b: metadata.creationTimestamp: shop/a is about the same pods ",
        ),
        (
            two.clone()
                + &object("PeerAuthentication", "a", "selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}")
                    .replace("namespace: shop", "namespace: istio-system"),
            "17: warning: PeerAuthentication istio-system/a: spec.selector: has no effect: in the root namespace ",
        ),
    ];
    for (yaml, expected) in cases {
        let found = found(&TranslationOptions::default(), &yaml);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}\n{found:#?}\n{yaml}");
        assert!(found.iter().all(|line| line.contains("; ")), "each says what to do: {found:#?}");
    }
}

#[test]
fn with_a_node_only_its_own_pods_need_a_network_namespace() {
    let yaml = [SHOP, &pod("a", "10.0.0.1")].concat().replace("weft.dev/netns: /run/netns/a", "");
    for (node, count) in [("n1", 1), ("n2", 0), ("", 1)] {
        let options = TranslationOptions { node: node.to_owned(), ..TranslationOptions::default() };
        assert_eq!(found(&options, &yaml).len(), count, "{node}");
    }
}

#[test]
fn mistakes_of_all_files_are_in_one_report_in_their_order() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    fs::write(dir.path().join("b.yaml"), "kind: Pod\n---\n{\n").expect("the file can be written");
    fs::write(dir.path().join("a.json"), "{\"kind\": \"Pod\"}\nx").expect("the file can be written");
    let report = analyze(dir.path(), &TranslationOptions::default());
    let places: Vec<String> = report
        .problems
        .iter()
        .map(|problem| {
            format!(
                "{}:{}",
                problem.file.as_deref().and_then(Path::file_name).unwrap_or_default().display(),
                problem.line.unwrap_or(0)
            )
        })
        .collect();
    assert_eq!(places, ["a.json:1", "a.json:2", "b.yaml:1", "b.yaml:3"]);
    assert_eq!(report.files, 2);
    assert!(report.has_errors());
}

#[test]
fn a_folder_that_is_not_there_is_reported() {
    let report = analyze(Path::new("/nowhere/at/all"), &TranslationOptions::default());
    assert!(report.has_errors());
    assert!(report.to_string().starts_with("/nowhere/at/all: error: reading the folder "), "{report}");
}

/// What is found in a cluster of these objects, and of no PeerAuthentications at all.
fn found_in_cluster(objects: &[(Kind, serde_json::Value)]) -> Vec<String> {
    let of = |kind| {
        let of_kind = objects.iter().filter(move |(of, _)| *of == kind);
        of_kind.map(|(_, tree)| serde_json::from_value(tree.clone()).expect("an object")).collect()
    };
    let listed = Kind::ALL.map(|kind| (kind, (kind != Kind::PeerAuthentication).then(|| of(kind))));
    let options = TranslationOptions { on_kubernetes: true, ..TranslationOptions::default() };
    let (translator, problems) = read_once(listed.into(), options);
    let problems = look(&translator, &|_| Origin::default(), problems);
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_live_cluster_is_looked_at_like_a_folder_and_problems_name_the_object() {
    use serde_json::json;

    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}},
    });
    let pod = |is_captured: bool| {
        let annotations = if is_captured { json!({"ambient.istio.io/redirection": "enabled"}) } else { json!({}) };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        })
    };
    let shop = |is_captured| [(Kind::Namespace, namespace.clone()), (Kind::Pod, pod(is_captured))];
    assert_eq!(found_in_cluster(&shop(true)), [""; 0]);
    let found = found_in_cluster(&shop(false));
    let [problem] = &found[..] else { panic!("one problem was to be found: {found:?}") };
    assert!(problem.starts_with("warning: Pod shop/web: metadata.annotations[ambient"), "{problem}");
    assert!(problem.ends_with("see weft pods --kubernetes --node n1"), "{problem}");

    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"}, "spec": {"action": "PERHAPS"},
    });
    let [namespace, pod] = shop(true);
    let found = found_in_cluster(&[namespace, pod, (Kind::AuthorizationPolicy, policy)]);
    assert!(found.iter().any(|problem| problem.starts_with("error: AuthorizationPolicy shop/p: ")), "{found:?}");
}

/// An object of the Gateway API in the namespace `shop`.
fn gateway_object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn mistakes_about_routes_and_waypoints_are_found() {
    let mesh = [
        SHOP.replace("ambient}", "ambient, istio.io/use-waypoint: edge}"),
        pod("a", "10.0.0.1"),
        object("Service", "web", "clusterIP: 10.1.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]"),
    ]
    .concat();
    let gateway = gateway_object(
        "Gateway",
        "edge",
        "gatewayClassName: weft-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]",
    );
    let waypoint = pod("edge-1", "10.0.0.9").replace(
        "labels: {app: web}",
        "labels: {gateway.networking.k8s.io/gateway-name: edge, gateway.networking.k8s.io/gateway-class-name: weft-waypoint}",
    );
    let whole = [&*mesh, &gateway, &waypoint].concat();
    let parent = "parentRefs: [{group: '', kind: Service, name: web}]";
    let route = |spec: &str| gateway_object("HTTPRoute", "r", spec);
    let to_web = "backendRefs: [{name: web, port: 80}]";
    assert_eq!(
        found(&TranslationOptions::default(), &[&*whole, &route(&format!("{parent}, rules: [{{{to_web}}}]"))].concat()),
        [""; 0]
    );
    let cases = [
        (mesh.clone(), "error: Namespace shop: metadata.labels[istio.io/use-waypoint]: there is no Gateway shop/edge"),
        (
            [&*mesh, &gateway].concat(),
            "warning: Namespace shop: metadata.labels[istio.io/use-waypoint]: no pod of the waypoint",
        ),
        (
            [&*whole, &route(&format!("{parent}, rules: [{{backendRefs: [{{name: web, port: 81}}]}}]"))].concat(),
            "error: HTTPRoute shop/r: spec.rules[0].backendRefs[0]: the Service shop/web has no TCP port 81",
        ),
        (
            [&*whole, &route(&format!("{parent}, rules: [{{backendRefs: [{{name: gone, port: 80}}]}}]"))].concat(),
            "error: HTTPRoute shop/r: spec.rules[0].backendRefs[0]: there is no Service shop/gone",
        ),
        (
            [&*whole, &route(&format!("{parent}, rules: [{{backendRefs: [{{name: web, port: 80, weight: 0}}]}}]"))]
                .concat(),
            "error: HTTPRoute shop/r: spec.rules[0].backendRefs: the weight of every backend is 0",
        ),
        (
            [&*whole, &route(&format!("{parent}, rules: [{{}}]"))].concat(),
            "warning: HTTPRoute shop/r: spec.rules[0].backendRefs: is empty",
        ),
        (
            [&*whole, &route(&format!("{parent}, rules: [{{{to_web}}}, {{{to_web}}}]"))].concat(),
            "warning: HTTPRoute shop/r: spec.rules[1]: no request reaches this rule: rule 0",
        ),
        (
            [&*whole, &route(&format!("parentRefs: [{{name: other}}], rules: [{{{to_web}}}]"))].concat(),
            "warning: HTTPRoute shop/r: spec.parentRefs: names no Service",
        ),
        (
            [
                &*whole,
                &route(&format!("parentRefs: [{{group: '', kind: Service, name: gone}}], rules: [{{{to_web}}}]")),
            ]
            .concat(),
            "error: HTTPRoute shop/r: spec.parentRefs[0]: there is no Service shop/gone",
        ),
        (
            [
                &*whole.replace(", istio.io/use-waypoint: edge}", "}"),
                &route(&format!("{parent}, rules: [{{{to_web}}}]")),
            ]
            .concat(),
            "warning: HTTPRoute shop/r: spec.parentRefs[0]: attached; but the Service shop/web has no waypoint",
        ),
    ];
    for (yaml, expected) in cases {
        let found = found(&TranslationOptions::default(), &yaml);
        assert_eq!(found.len(), 1, "{expected}: {found:#?}");
        let (_, said) = found[0].split_once(": ").expect("a line comes first");
        assert!(said.starts_with(expected), "{expected}: {found:#?}");
    }
}
