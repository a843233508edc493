use super::*;

const STRICT: &str = "istio-system/istio_converted_static_strict";

/// A PeerAuthentication, `namespace/name`, with this spec.
fn mtls(name: &str, spec: &str) -> String {
    aged(name, spec, "")
}

fn aged(name: &str, spec: &str, created: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a policy has a namespace");
    let created = if created.is_empty() { String::new() } else { format!(", creationTimestamp: '{created}'") };
    format!(
        "---\napiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}{created}}}\nspec: {{{spec}}}\n"
    )
}

fn mode(mode: &str) -> String {
    format!("mtls: {{mode: {mode}}}")
}

fn select(rest: &str) -> String {
    format!("selector: {{matchLabels: {{app: web}}}}{rest}")
}

/// What `shop/a` (app: web) refers to under these policies.
fn effective(policies: &[String]) -> Vec<String> {
    let mut mesh = Mesh::new();
    mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
    mesh.put(&policies.concat());
    let found: Vec<String> = mesh.policies_of("shop/a").into_iter().map(str::to_owned).collect();
    for key in &found {
        assert!(mesh.policies.contains_key(key.as_str()), "{key} is referred to and must be there");
    }
    found
}

#[test]
fn the_narrowest_level_that_says_anything_holds() {
    let mesh = |m: &str| mtls("istio-system/m", &mode(m));
    let space = |m: &str| mtls("shop/space", &mode(m));
    let narrow = |m: &str| mtls("shop/w", &select(&format!(", {}", mode(m))));
    let other = mtls("shop/o", "selector: {matchLabels: {app: api}}, mtls: {mode: PERMISSIVE}");
    let cases: Vec<(Vec<String>, bool)> = vec![
        (vec![], false),
        (vec![mesh("STRICT")], true),
        (vec![mesh("PERMISSIVE")], false),
        (vec![mesh("STRICT"), space("PERMISSIVE")], false),
        (vec![mesh("STRICT"), space("DISABLE")], false),
        (vec![mesh("STRICT"), space("UNSET")], true),
        (vec![mesh("PERMISSIVE"), space("STRICT")], true),
        (vec![space("STRICT"), narrow("PERMISSIVE")], false),
        (vec![space("STRICT"), narrow("UNSET")], true),
        (vec![narrow("STRICT")], true),
        (vec![space("STRICT"), other], true),
        (vec![mtls("bank/space", &mode("STRICT"))], false),
        (vec![mtls("istio-system/w", &select(&format!(", {}", mode("STRICT"))))], false),
    ];
    for (policies, is_strict) in cases {
        let expected = if is_strict { vec![STRICT] } else { vec![] };
        assert_eq!(effective(&policies), expected, "{policies:#?}");
    }
}

#[test]
fn the_oldest_of_several_holds() {
    let old = |name, m: &str| aged(name, &mode(m), "2025-01-01T00:00:00Z");
    let new = |name, m: &str| aged(name, &mode(m), "2026-01-01T00:00:00Z");
    let ageless = |name, m: &str| mtls(name, &mode(m));
    for (policies, is_strict) in [
        ([new("shop/a", "PERMISSIVE"), old("shop/b", "STRICT")], true),
        ([old("shop/a", "PERMISSIVE"), new("shop/b", "STRICT")], false),
        ([ageless("shop/a", "PERMISSIVE"), new("shop/b", "STRICT")], true),
        ([ageless("shop/b", "STRICT"), ageless("shop/a", "PERMISSIVE")], false),
    ] {
        assert_eq!(effective(&policies).len(), usize::from(is_strict), "{policies:#?}");
    }
}

#[test]
fn ports_that_differ_make_a_policy_of_their_own() {
    let cases = [
        // The mode of the namespace, that of the pods, the ports, and what is denied to peers without an identity.
        ("", "STRICT", "8080: {mode: PERMISSIVE}", Some(("not", vec![8080]))),
        ("", "STRICT", "8080: {mode: DISABLE}, 9090: {mode: STRICT}", Some(("not", vec![8080]))),
        ("", "PERMISSIVE", "8080: {mode: STRICT}, 9090: {mode: PERMISSIVE}", Some(("only", vec![8080]))),
        ("STRICT", "UNSET", "8080: {mode: PERMISSIVE}", Some(("not", vec![8080]))),
        ("PERMISSIVE", "UNSET", "'8080': {mode: STRICT}, 7070: {mode: STRICT}", Some(("only", vec![7070, 8080]))),
        ("STRICT", "UNSET", "8080: {mode: UNSET}", None),
        ("", "STRICT", "8080: {mode: STRICT}", None),
    ];
    let key = "shop/converted_peer_authentication_w";
    for (of_namespace, of_pods, ports, expected) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
        if !of_namespace.is_empty() {
            mesh.put(&mtls("shop/space", &mode(of_namespace)));
        }
        mesh.put(&mtls("shop/w", &select(&format!(", mtls: {{mode: {of_pods}}}, portLevelMtls: {{{ports}}}"))));
        let Some((which, ports)) = expected else {
            assert_eq!(mesh.policies_of("shop/a"), [STRICT], "{of_namespace} {of_pods}");
            assert!(!mesh.policies.contains_key(key));
            continue;
        };
        assert_eq!(mesh.policies_of("shop/a"), [key], "{of_namespace} {of_pods} {ports:?}");
        let clauses = &mesh.policies[key].rules[0].clauses;
        assert_eq!(clauses[0].matches[0].not_principals.len(), 1);
        let found = &clauses[1].matches[0];
        let found = match which {
            "not" => &found.not_destination_ports,
            _ => &found.destination_ports,
        };
        assert_eq!(*found, ports, "{of_namespace} {of_pods}");
    }
}

#[test]
fn a_wider_policy_that_changes_changes_what_narrower_ones_come_to() {
    let mut mesh = Mesh::new();
    mesh.put(&[pod("shop/a", "app: web", "10.0.0.1"), pod("bank/b", "", "10.0.0.2")].concat());
    mesh.put(&mtls("shop/w", &select(", portLevelMtls: {8080: {mode: PERMISSIVE}}")));
    assert_eq!(mesh.policies_of("shop/a"), [""; 0]);
    assert!(mesh.policies.is_empty());
    assert_eq!(mesh.put(&mtls("istio-system/m", &mode("STRICT"))), ["a", "b"]);
    assert_eq!(mesh.policies_of("shop/a"), ["shop/converted_peer_authentication_w"]);
    assert_eq!(mesh.policies_of("bank/b"), [STRICT]);
    assert_eq!(mesh.remove("PeerAuthentication istio-system/m"), ["a", "b"]);
    assert!(mesh.policies.is_empty());
    assert_eq!(mesh.policies_of("bank/b"), [""; 0]);
}
