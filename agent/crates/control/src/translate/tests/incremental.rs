//! Whatever the order in which objects come and go, the model is the one that the objects that are there make.

use super::*;

/// A small generator of numbers: the same ones in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Some version of some object. There are few names, labels and addresses, so that objects meet.
fn any_object(numbers: &mut Numbers) -> String {
    let mut pick = |from: &[&str]| from[numbers.below(from.len())].to_owned();
    let namespaces = ["shop", "bank", "istio-system"];
    let (space, label, other) = (pick(&namespaces), pick(&["a", "b", "c"]), pick(&["x", "z"]));
    let address = pick(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    let name = pick(&["p", "q", "r"]);
    let mode = pick(&["STRICT", "PERMISSIVE", "UNSET"]);
    let labels = format!("app: {label}, tier: {other}");
    let selector = pick(&["", "selector: {matchLabels: {app: a}}, ", "selector: {matchLabels: {app: b, tier: x}}, "]);
    match pick(&["pod", "pod", "pod", "service", "service", "slice", "policy", "mtls", "namespace", "node"]).as_str() {
        "pod" => {
            let change = pick(&["", "host", "over", "node", "none"]);
            let text = pod(&format!("{space}/{name}"), &labels, &address);
            match change.as_str() {
                "host" => text.replace("spec:\n", "spec:\n  hostNetwork: true\n"),
                "over" => text.replace("status: {", "status: {phase: Failed, "),
                "node" => text.replace("spec:\n", "spec:\n  nodeName: n1\n"),
                "none" => text.replace(&format!("podIPs: [{{ip: {address}}}]"), "podIPs: []"),
                _ => text,
            }
        }
        "service" => {
            let text = service(&format!("{space}/{name}"), &format!("app: {label}"), "10.1.0.1");
            if other == "x" { text } else { text.replace("clusterIP: 10.1.0.1", "type: ExternalName") }
        }
        "slice" => {
            let target = if other == "x" { format!(", targetRef: {{kind: Pod, name: {name}}}") } else { String::new() };
            let service = pick(&["p", "q"]);
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
                 metadata: {{name: s{label}, namespace: {space}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
                 ports: [{{name: web, port: 9000}}]\nendpoints: [{{addresses: [{address}], nodeName: n1{target}}}]\n"
            )
        }
        "policy" => {
            let target =
                if mode == "UNSET" { format!("targetRefs: [{{kind: Service, name: {name}}}], ") } else { selector };
            format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: {name}, namespace: {space}}}\nspec: {{{target}rules: [{{}}]}}\n"
            )
        }
        "mtls" => {
            let ports =
                if selector.is_empty() { "" } else { ", portLevelMtls: {80: {mode: STRICT}, 81: {mode: PERMISSIVE}}" };
            format!(
                "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{name: {name}, namespace: {space}}}\nspec: {{{selector}mtls: {{mode: {mode}}}{ports}}}\n"
            )
        }
        "namespace" => {
            namespace(&space, &format!("istio.io/dataplane-mode: {}", if other == "x" { "ambient" } else { "none" }))
        }
        _ => format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{topology.kubernetes.io/zone: {other}}}}}\n"
        ),
    }
}

/// The model as lines of text, without the order of what has none.
fn lines(mesh: &Mesh) -> Vec<String> {
    let workloads = mesh.workloads.values().map(|workload| {
        let mut workload = workload.clone();
        workload.services.sort_by(|a, b| a.service.cmp(&b.service));
        format!("{workload:?}")
    });
    let services = mesh.services.values().map(|service| format!("{service:?}"));
    workloads.chain(services).chain(mesh.policies.values().map(|policy| format!("{policy:?}"))).collect()
}

#[test]
fn changes_lead_to_what_a_fresh_start_leads_to() {
    for seed in 0..40 {
        let mut numbers = Numbers(seed);
        let mut mesh = Mesh::new();
        let mut present: BTreeMap<ObjectId, Object> = BTreeMap::new();
        for step in 0..60 {
            for _ in 0..=numbers.below(4) {
                if numbers.below(4) == 0 && !present.is_empty() {
                    let id = present.keys().nth(numbers.below(present.len())).cloned().expect("the index is in range");
                    present.remove(&id);
                    mesh.translator.remove(&id);
                } else {
                    for object in objects(&any_object(&mut numbers)) {
                        present.insert(object.id(), object.clone());
                        mesh.translator.put(object);
                    }
                }
            }
            mesh.flush();
            let mut fresh = Mesh::new();
            present.values().for_each(|object| fresh.translator.put(object.clone()));
            fresh.flush();
            let (changed, started) = (lines(&mesh), lines(&fresh));
            let differences: Vec<_> = changed
                .iter()
                .filter(|line| !started.contains(line))
                .map(|line| format!("- {line}"))
                .chain(started.iter().filter(|line| !changed.contains(line)).map(|line| format!("+ {line}")))
                .collect();
            assert!(differences.is_empty(), "seed {seed}, step {step}: {differences:#?}\n{:#?}", present.values());
            assert_eq!(mesh.translator.counts(), fresh.translator.counts());
        }
        for id in present.keys() {
            mesh.translator.remove(id);
        }
        mesh.flush();
        assert!(mesh.workloads.is_empty() && mesh.services.is_empty() && mesh.policies.is_empty());
        assert_eq!(mesh.translator.namespaces.iter().count(), 0, "nothing is kept of what is gone");
    }
}

#[test]
fn one_changed_pod_touches_itself_alone() {
    let mut mesh = Mesh::new();
    let mut all = service("shop/web", "app: web", "10.1.0.1");
    for i in 0..50 {
        all += &pod(&format!("shop/p{i}"), "app: web", &format!("10.0.0.{i}"));
    }
    mesh.put(&all);
    let unready = pod("shop/p7", "app: web", "10.0.0.7").replace("'True'", "'False'");
    assert_eq!(mesh.put(&unready), ["p7"]);
    assert_eq!(mesh.put(&unready), [""; 0]);
    assert_eq!(mesh.remove("Pod shop/p7"), ["-p7"]);
}
