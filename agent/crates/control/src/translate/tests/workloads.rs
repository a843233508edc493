use weft_model::{Health, TunnelProtocol};

use super::*;

/// A pod with these fields under `metadata`, `spec` and `status`.
fn custom(metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: shop{metadata}}}\nspec: {{nodeName: n1{spec}}}\n\
         status: {{podIP: 10.0.0.1{status}}}\n"
    )
}

#[test]
fn a_pod_becomes_a_workload() {
    let mut mesh = Mesh::new();
    mesh.put(&custom(
        ", uid: u-1, labels: {app: web, version: v2}",
        ", serviceAccountName: seller",
        ", podIPs: [{ip: 10.0.0.1}, {ip: '::ffff:10.0.0.2'}, {ip: 'fd00::1'}], conditions: [{type: Ready, status: 'True'}]",
    ));
    let workload = mesh.pod("shop/a");
    assert_eq!(workload.instance, "u-1".into());
    assert_eq!(workload.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/seller");
    let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "fd00::1"]);
    assert_eq!((&*workload.node, &*workload.cluster, &*workload.network), ("n1", "Kubernetes", ""));
    assert_eq!((&*workload.workload_name, &*workload.workload_type), ("a", "pod"));
    assert_eq!((&*workload.canonical_service, &*workload.canonical_revision), ("web", "v2"));
    assert_eq!((&*workload.app, &*workload.version), ("web", "v2"));
    assert_eq!((workload.health, workload.protocol), (Health::Healthy, TunnelProtocol::None));
}

#[test]
fn the_owner_names_the_workload() {
    let owned =
        |kind: &str, name: &str| format!(", ownerReferences: [{{kind: {kind}, name: {name}, controller: true}}]");
    let hash = |label: &str| format!(", labels: {{{label}: 5d9c}}");
    let cases = [
        (owned("ReplicaSet", "web-5d9c") + &hash("pod-template-hash"), ("web", "deployment")),
        (owned("ReplicaSet", "web-5d9c") + &hash("rollouts-pod-template-hash"), ("web", "rollout")),
        (owned("ReplicaSet", "web-5d9c"), ("web-5d9c", "replicaset")),
        (owned("ReplicaSet", "web5d9c") + &hash("pod-template-hash"), ("web5d9c", "replicaset")),
        (owned("ReplicaSet", "x-5d9c") + &hash("other"), ("x-5d9c", "replicaset")),
        (owned("StatefulSet", "db"), ("db", "statefulset")),
        (owned("DaemonSet", "log"), ("log", "daemonset")),
        (owned("Job", "nightly-28912345"), ("nightly", "cronjob")),
        (owned("Job", "import-12"), ("import-12", "job")),
        (owned("Workflow", "w"), ("w", "workflow")),
        (owned("Node", "n1"), ("a", "static-pod")),
        (owned("ReplicaSet", "web-5d9c") + ", annotations: {kubernetes.io/config.mirror: '0c5f'}", ("a", "static-pod")),
        (", ownerReferences: [{kind: StatefulSet, name: db}]".to_owned(), ("a", "pod")),
        (String::new(), ("a", "pod")),
    ];
    for (metadata, expected) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&custom(&metadata, "", ""));
        let workload = mesh.pod("shop/a");
        assert_eq!((&*workload.workload_name, &*workload.workload_type), expected, "{metadata}");
    }
}

#[test]
fn labels_name_the_canonical_service_and_revision() {
    let cases = [
        ("", ("a", "latest")),
        ("app: w", ("w", "latest")),
        ("app: w, app.kubernetes.io/name: k, version: v1", ("k", "v1")),
        (
            "app: w, app.kubernetes.io/name: k, service.istio.io/canonical-name: i, version: v1, app.kubernetes.io/version: v2",
            ("i", "v2"),
        ),
        ("service.istio.io/canonical-revision: r, app.kubernetes.io/version: v2", ("a", "r")),
    ];
    for (labels, expected) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&custom(&format!(", labels: {{{labels}}}"), "", ""));
        let workload = mesh.pod("shop/a");
        assert_eq!((&*workload.canonical_service, &*workload.canonical_revision), expected, "{labels}");
    }
}

#[test]
fn a_pod_that_is_over_or_has_no_address_is_no_workload() {
    let mut mesh = Mesh::new();
    mesh.put(&custom("", "", ", phase: Running"));
    assert!(!mesh.workloads.is_empty());
    for status in [", phase: Succeeded", ", phase: Failed"] {
        mesh.put(&custom("", "", status));
        assert!(mesh.workloads.is_empty(), "{status}");
        mesh.put(&custom("", "", ", phase: Pending"));
        assert!(!mesh.workloads.is_empty());
    }
    mesh.put(&custom("", "", "").replace("10.0.0.1", "''"));
    assert!(mesh.workloads.is_empty());
}

#[test]
fn enrolment_follows_the_pods_label_before_its_namespaces() {
    let none = "istio.io/dataplane-mode: none";
    let ambient = "istio.io/dataplane-mode: ambient";
    let cases = [
        ("", "", "", false),
        (ambient, "", "", true),
        (ambient, none, "", false),
        (none, ambient, "", true),
        ("", ambient, "", true),
        (ambient, "istio.io/dataplane-mode: sidecar", "", true),
        (ambient, "", ", hostNetwork: true", false),
        ("", ambient, ", hostNetwork: true", false),
        (ambient, "", ", containers: [{name: istio-proxy}]", false),
        (ambient, "", ", initContainers: [{name: istio-proxy, restartPolicy: Always}]", false),
        (ambient, "sidecar.istio.io/status: x", "", false),
    ];
    for (of_namespace, of_pod, spec, expected) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&custom(&format!(", labels: {{{of_pod}}}"), spec, ""));
        mesh.put(&namespace("shop", of_namespace));
        let is_hbone = mesh.pod("shop/a").is_hbone();
        assert_eq!(is_hbone, expected, "namespace '{of_namespace}', pod '{of_pod}', spec '{spec}'");
    }
    let mut mesh = Mesh::new();
    mesh.put(&custom(", annotations: {sidecar.istio.io/status: '{}'}", "", ""));
    mesh.put(&namespace("shop", ambient));
    assert!(!mesh.pod("shop/a").is_hbone(), "a sidecar was injected");
}

#[test]
fn excluded_namespaces_are_never_enrolled() {
    let mut mesh = Mesh::new();
    mesh.put(&namespace("kube-system", "istio.io/dataplane-mode: ambient"));
    mesh.put(&pod("kube-system/dns", "istio.io/dataplane-mode: ambient", "10.0.0.9"));
    assert!(!mesh.pod("kube-system/dns").is_hbone());
    let mut mesh = Mesh::with(TranslationOptions { excluded_namespaces: Vec::new(), ..TranslationOptions::default() });
    mesh.put(&namespace("kube-system", "istio.io/dataplane-mode: ambient"));
    mesh.put(&pod("kube-system/dns", "", "10.0.0.9"));
    assert!(mesh.pod("kube-system/dns").is_hbone());
}

#[test]
fn a_namespace_that_changes_its_label_touches_its_pods_alone() {
    let mut mesh = Mesh::new();
    mesh.put(&[pod("shop/a", "", "10.0.0.1"), pod("bank/b", "", "10.0.0.2")].concat());
    let ambient = namespace("shop", "istio.io/dataplane-mode: ambient");
    assert_eq!(mesh.put(&ambient), ["a"]);
    assert_eq!(mesh.put(&ambient), [""; 0], "nothing changed");
    assert!(mesh.pod("shop/a").is_hbone() && !mesh.pod("bank/b").is_hbone());
    assert_eq!(mesh.remove("Namespace shop"), ["a"]);
    assert!(!mesh.pod("shop/a").is_hbone());
}

#[test]
fn locality_comes_from_node_then_pod_then_namespace() {
    let zone = |zone: &str| format!("topology.kubernetes.io/region: r, topology.kubernetes.io/zone: {zone}");
    let node = format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{{}}}}}\n", zone("of-node"));
    let mut mesh = Mesh::new();
    mesh.put(&custom("", "", ""));
    assert_eq!(&*mesh.pod("shop/a").locality.zone, "");
    mesh.put(&namespace("shop", &zone("of-namespace")));
    assert_eq!(&*mesh.pod("shop/a").locality.zone, "of-namespace");
    mesh.put(&custom(&format!(", labels: {{{}}}", zone("of-pod")), "", ""));
    assert_eq!(&*mesh.pod("shop/a").locality.zone, "of-pod");
    assert_eq!(mesh.put(&node), ["a"]);
    assert_eq!(&*mesh.pod("shop/a").locality.zone, "of-node");
    assert_eq!(mesh.remove("Node n1"), ["a"]);
    assert_eq!(&*mesh.pod("shop/a").locality.zone, "of-pod");
}

#[test]
fn local_pods_have_a_network_namespace_and_addresses() {
    let mut mesh = Mesh::with(TranslationOptions { node: "n1".to_owned(), ..TranslationOptions::default() });
    let annotated = ", annotations: {weft.dev/netns: /run/netns/a}";
    mesh.put(&namespace("shop", "istio.io/dataplane-mode: ambient"));
    mesh.put(&custom(&format!(", uid: u{annotated}"), "", ""));
    let (pods, problems) = mesh.translator.local_pods();
    assert_eq!(problems, []);
    let [local] = &pods[..] else { panic!("{pods:?}") };
    assert_eq!(&*local.uid, "Kubernetes//Pod/shop/a");
    assert_eq!(
        (&*local.instance, local.netns.as_deref(), local.enrolled),
        ("u", Some(Path::new("/run/netns/a")), true)
    );
    assert_eq!(*local.workload, *mesh.pod("shop/a"), "it is what the model has of it");
    for (metadata, spec, status) in [
        (annotated, ", hostNetwork: true", ""),
        (annotated, "", ", phase: Failed"),
        (", labels: {istio.io/dataplane-mode: none}", "", ""),
    ] {
        mesh.put(&custom(metadata, spec, status));
        assert_eq!(mesh.translator.local_pods(), (vec![], vec![]), "{metadata} {spec} {status}");
    }
    mesh.put(&custom(&format!("{annotated}, labels: {{istio.io/dataplane-mode: none}}"), "", ""));
    let (pods, problems) = mesh.translator.local_pods();
    assert_eq!((pods.len(), problems.len()), (1, 0));
    assert!(!pods[0].enrolled);
    mesh.put(&custom("", "", ""));
    let (pods, problems) = mesh.translator.local_pods();
    assert_eq!(pods, []);
    assert_eq!(problems[0].0.to_string(), "Pod shop/a");
    assert_eq!(problems[0].1.field, "metadata.annotations[weft.dev/netns]");
    mesh.put(&custom("", "", "").replace("n1", "n2"));
    assert_eq!(mesh.translator.local_pods(), (vec![], vec![]), "it runs elsewhere");
}

#[test]
fn a_pod_created_anew_is_another_instance_of_one_workload() {
    let mut mesh = Mesh::new();
    mesh.put(&custom(", uid: u1", "", ""));
    mesh.translator.remove(&ObjectId { kind: Kind::Pod, namespace: "shop".into(), name: "a".into() });
    mesh.put(&custom(", uid: u2", "", "").replace("10.0.0.1", "10.0.0.2"));
    assert_eq!(mesh.workloads.len(), 1);
    assert_eq!(&*mesh.pod("shop/a").instance, "u2");
}
