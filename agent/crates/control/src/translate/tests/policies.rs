use weft_model::{Action, PolicyScope};

use super::*;

/// An AuthorizationPolicy, `namespace/name`, with this spec.
fn policy(name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a policy has a namespace");
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn selector_and_namespace_decide_the_scope() {
    let cases = [
        ("shop/p", "", PolicyScope::Namespace),
        ("shop/p", "selector: {matchLabels: {}}", PolicyScope::Namespace),
        ("shop/p", "selector: {matchLabels: {app: web}}", PolicyScope::Workload),
        ("istio-system/p", "", PolicyScope::Mesh),
        ("istio-system/p", "selector: {matchLabels: {app: web}}", PolicyScope::Workload),
        ("shop/p", "targetRefs: [{kind: Service, name: web, group: ''}]", PolicyScope::Workload),
    ];
    for (name, spec, expected) in cases {
        let mut mesh = Mesh::new();
        mesh.put(&policy(name, spec));
        assert_eq!(mesh.policies[name].scope, expected, "{name} {spec}");
    }
}

#[test]
fn pods_list_the_policies_that_select_them() {
    let mut mesh = Mesh::new();
    mesh.put(&policy("shop/web", "selector: {matchLabels: {app: web}}"));
    mesh.put(&policy("istio-system/everywhere", "selector: {matchLabels: {app: web}}"));
    mesh.put(&policy("shop/all", ""));
    mesh.put(
        &[pod("shop/a", "app: web", "10.0.0.1"), pod("shop/b", "", "10.0.0.2"), pod("bank/c", "app: web", "10.0.0.3")]
            .concat(),
    );
    assert_eq!(mesh.policies_of("shop/a"), ["istio-system/everywhere", "shop/web"]);
    assert_eq!(mesh.policies_of("shop/b"), [""; 0]);
    assert_eq!(mesh.policies_of("bank/c"), ["istio-system/everywhere"]);
    assert_eq!(mesh.put(&policy("shop/web", "selector: {matchLabels: {app: api}}")), ["a"]);
    assert_eq!(mesh.policies_of("shop/a"), ["istio-system/everywhere"]);
    assert_eq!(mesh.remove("AuthorizationPolicy istio-system/everywhere"), ["a", "c"]);
    assert_eq!(mesh.policies_of("bank/c"), [""; 0]);
    assert_eq!(mesh.policies.len(), 2);
}

#[test]
fn a_rule_that_changes_touches_no_pod() {
    let mut mesh = Mesh::new();
    mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
    mesh.put(&policy("shop/p", "selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]"));
    assert_eq!(mesh.put(&policy("shop/p", "selector: {matchLabels: {app: web}}, action: ALLOW, rules: [{}]")), [""; 0]);
    assert_eq!(mesh.policies["shop/p"].action, Action::Allow);
}

#[test]
fn a_policy_for_a_service_is_that_of_its_endpoints() {
    let mut mesh = Mesh::new();
    mesh.put(&policy("shop/p", "targetRefs: [{kind: Service, name: web, group: ''}]"));
    mesh.put(&pod("shop/a", "app: web", "10.0.0.1"));
    mesh.put(&pod("shop/b", "app: api", "10.0.0.2"));
    assert_eq!(mesh.policies_of("shop/a"), [""; 0]);
    mesh.put(&service("shop/web", "app: web", "10.1.0.1"));
    assert_eq!(mesh.policies_of("shop/a"), ["shop/p"]);
    assert_eq!(mesh.policies_of("shop/b"), [""; 0]);
    mesh.put(&service("shop/web", "app: api", "10.1.0.1"));
    assert_eq!(mesh.policies_of("shop/a"), [""; 0]);
    assert_eq!(mesh.policies_of("shop/b"), ["shop/p"]);
    mesh.remove("AuthorizationPolicy shop/p");
    assert_eq!(mesh.policies_of("shop/b"), [""; 0]);
}

#[test]
fn a_policy_on_trial_says_so() {
    let mut mesh = Mesh::new();
    mesh.put(
        &policy("shop/p", "").replace("namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: 'true'}"),
    );
    assert!(mesh.policies["shop/p"].dry_run);
}
