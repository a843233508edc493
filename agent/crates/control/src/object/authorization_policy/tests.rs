use weft_model::{Clause, Match, ServiceAccountMatch, StringMatch};

use super::*;
use crate::manifest::{Format, Reading, Scrutiny};
use crate::object::Object;

/// Reads a policy of the namespace `shop` with this spec, and the problems with their severities.
fn read(spec: &str) -> (AuthorizationPolicy, Vec<String>) {
    let text = format!(
        "{{\"apiVersion\":\"security.istio.io/v1\",\"kind\":\"AuthorizationPolicy\",\
         \"metadata\":{{\"name\":\"p\",\"namespace\":\"shop\"}},\"spec\":{spec}}}"
    );
    let path = std::path::Path::new("f").into();
    let found = crate::manifest::read(&path, Format::Json, text.as_bytes(), Scrutiny::Normal, 1);
    let problems = found
        .problems
        .iter()
        .map(|problem| format!("{} {}", problem.severity, problem.field.as_deref().unwrap_or_default()));
    let problems = problems.collect();
    match found.entries.into_iter().next().map(|entry| entry.reading) {
        Some(
            Reading::Valid(Object::AuthorizationPolicy(policy))
            | Reading::Invalid(Some(Object::AuthorizationPolicy(policy))),
        ) => (policy, problems),
        other => panic!("{other:?} {problems:?}"),
    }
}

fn rule(clauses: Vec<Vec<Match>>) -> Rule {
    Rule { clauses: clauses.into_iter().map(|matches| Clause { matches }).collect() }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

#[test]
fn every_condition_of_layer_4_is_read() {
    let account = |name: &str| ServiceAccountMatch { namespace: "shop".into(), service_account: name.into() };
    let net = |text: &str| text.parse().expect("a network");
    let source = Match {
        principals: vec![exact("td/ns/a/sa/b"), StringMatch::Presence],
        not_principals: vec![StringMatch::Suffix("/sa/c".into())],
        namespaces: vec![exact("a")],
        not_namespaces: vec![StringMatch::Prefix("b".into())],
        service_accounts: vec![account("x")],
        not_service_accounts: vec![account("y")],
        source_ips: vec![net("10.0.0.0/8")],
        not_source_ips: vec![net("10.0.0.1/32")],
        ..Match::default()
    };
    let operation = Match { destination_ports: vec![80, 443], not_destination_ports: vec![443], ..Match::default() };
    let spec = r#"{"action":"DENY","rules":[{
        "from":[{"source":{"principals":["td/ns/a/sa/b","*"],"notPrincipals":["*/sa/c"],"namespaces":["a"],
            "notNamespaces":["b*"],"serviceAccounts":["x"],"notServiceAccounts":["shop/y"],
            "ipBlocks":["10.0.0.0/8"],"notIpBlocks":["10.0.0.1"]}},{"source":{"namespaces":["a"]}}],
        "to":[{"operation":{"ports":["80","443"],"notPorts":["443"]}}]}]}"#;
    let (policy, problems) = read(spec);
    assert_eq!(problems, [""; 0]);
    assert_eq!(policy.action, Action::Deny);
    let second = Match { namespaces: vec![exact("a")], ..Match::default() };
    assert_eq!(policy.rules, [rule(vec![vec![source, second], vec![operation]])]);
}

#[test]
fn every_key_of_a_condition_is_read() {
    let net = |text: &str| text.parse().expect("a network");
    let none = Match::default;
    let cases = [
        ("source.ip", "10.0.0.0/8", Match { source_ips: vec![net("10.0.0.0/8")], ..none() }),
        ("source.namespace", "a", Match { namespaces: vec![exact("a")], ..none() }),
        ("source.principal", "*", Match { principals: vec![StringMatch::Presence], ..none() }),
        ("destination.ip", "10.0.0.1", Match { destination_ips: vec![net("10.0.0.1/32")], ..none() }),
        ("destination.port", "80", Match { destination_ports: vec![80], ..none() }),
    ];
    for (key, value, expected) in cases {
        let (policy, problems) = read(&format!(r#"{{"rules":[{{"when":[{{"key":"{key}","values":["{value}"]}}]}}]}}"#));
        assert_eq!(problems, [""; 0], "{key}");
        assert_eq!(policy.rules, [rule(vec![vec![expected]])], "{key}");
    }
    let (policy, _) = read(
        r#"{"rules":[{"when":[{"key":"source.namespace","values":["a"],"notValues":["b"]},{"key":"destination.port","notValues":["80"]}]}]}"#,
    );
    let first = Match { namespaces: vec![exact("a")], not_namespaces: vec![exact("b")], ..none() };
    let second = Match { not_destination_ports: vec![80], ..none() };
    assert_eq!(policy.rules, [rule(vec![vec![first], vec![second]])]);
}

#[test]
fn no_rules_and_an_empty_rule_differ() {
    assert_eq!(read("{}").0.rules, []);
    assert_eq!(read(r#"{"rules":[]}"#).0.rules, []);
    assert_eq!(read(r#"{"rules":[{}]}"#).0.rules, [Rule::default()]);
    assert_eq!(read(r#"{"action":"DENY"}"#).1, ["warning spec.rules"]);
}

#[test]
fn layer_7_drops_the_rule_of_an_allow_policy_and_the_condition_of_a_deny_policy() {
    let ports = Match { destination_ports: vec![80], ..Match::default() };
    // The rule, the field that needs layer 7, and what is left of the rule in a DENY policy.
    let cases = [
        (r#"{"to":[{"operation":{"paths":["/a"]}}]}"#, "spec.rules[0].to[0].operation.paths", vec![]),
        (
            r#"{"to":[{"operation":{"ports":["80"],"methods":["GET"]}}]}"#,
            "spec.rules[0].to[0].operation.methods",
            vec![vec![ports.clone()]],
        ),
        (
            r#"{"to":[{"operation":{"ports":["80"]}},{"operation":{"notHosts":["h"]}}]}"#,
            "spec.rules[0].to[1].operation.notHosts",
            vec![],
        ),
        (
            r#"{"from":[{"source":{"requestPrincipals":["*"]}}],"to":[{"operation":{"ports":["80"]}}]}"#,
            "spec.rules[0].from[0].source.requestPrincipals",
            vec![vec![ports.clone()]],
        ),
        (
            r#"{"from":[{"source":{"remoteIpBlocks":["10.0.0.1"]}}]}"#,
            "spec.rules[0].from[0].source.remoteIpBlocks",
            vec![],
        ),
        (
            r#"{"when":[{"key":"request.headers[x]","values":["1"]},{"key":"destination.port","values":["80"]}]}"#,
            "spec.rules[0].when[0].key",
            vec![vec![ports]],
        ),
        (r#"{"when":[{"key":"remote.ip","values":["10.0.0.1"]}]}"#, "spec.rules[0].when[0].key", vec![]),
    ];
    for (text, field, left) in cases {
        let (allow, problems) = read(&format!(r#"{{"rules":[{text},{{}}]}}"#));
        assert_eq!(problems, [format!("warning {field}")], "{text}");
        assert_eq!(allow.rules, [Rule::default()], "the other rule stays: {text}");
        let (deny, problems) = read(&format!(r#"{{"action":"DENY","rules":[{text}]}}"#));
        assert_eq!(problems, [format!("warning {field}")], "{text}");
        assert_eq!(deny.rules, [rule(left)], "{text}");
    }
}

#[test]
fn mistakes_are_all_reported_and_never_make_a_policy_less_strict() {
    let cases = [
        (r#"{"from":[]}"#, "error spec.rules[0].from"),
        (r#"{"from":[{}]}"#, "error spec.rules[0].from[0].source"),
        (r#"{"from":[{"source":{}}]}"#, "error spec.rules[0].from[0].source"),
        (r#"{"from":[{"source":{"principals":[]}}]}"#, "error spec.rules[0].from[0].source"),
        (r#"{"from":[{"source":{"principal":["x"]}}]}"#, "warning spec.rules[0].from[0].source.principal"),
        (r#"{"from":[{"source":{"ipBlocks":["10.0.0.0/33"]}}]}"#, "error spec.rules[0].from[0].source.ipBlocks[0]"),
        (
            r#"{"from":[{"source":{"principals":["spiffe://a/ns/b/sa/c"]}}]}"#,
            "error spec.rules[0].from[0].source.principals[0]",
        ),
        (r#"{"from":[{"source":{"serviceAccounts":["*"]}}]}"#, "error spec.rules[0].from[0].source.serviceAccounts[0]"),
        (r#"{"from":[{"source":{"namespaces":[""]}}]}"#, "error spec.rules[0].from[0].source.namespaces[0]"),
        (r#"{"to":[{}]}"#, "error spec.rules[0].to[0].operation"),
        (r#"{"to":[{"operation":{"notPorts":["http"]}}]}"#, "error spec.rules[0].to[0].operation.notPorts[0]"),
        (r#"{"when":[{"key":"source.port","values":["1"]}]}"#, "error spec.rules[0].when[0].key"),
        (r#"{"when":[{"key":"source.ip"}]}"#, "error spec.rules[0].when[0]"),
        (r#"{"when":[{"key":"destination.port","values":["x"]}]}"#, "error spec.rules[0].when[0].values[0]"),
    ];
    for (text, problem) in cases {
        let (allow, problems) = read(&format!(r#"{{"rules":[{text}]}}"#));
        assert_eq!(problems, [problem], "{text}");
        assert_eq!(allow.rules, [], "{text}");
        let (deny, problems) = read(&format!(r#"{{"action":"DENY","rules":[{text}]}}"#));
        assert_eq!(problems, [problem], "{text}");
        assert_eq!(deny.rules, [Rule::default()], "it denies everything: {text}");
    }
    let (policy, problems) = read(
        r#"{"action":"DENY","rules":[{"from":[{"source":{"ipBlocks":["x","10.0.0.1","y"],"namespaces":["a"]}}]}]}"#,
    );
    assert_eq!(problems.len(), 2);
    let left = Match { namespaces: vec![exact("a")], ..Match::default() };
    assert_eq!(policy.rules, [rule(vec![vec![left]])], "the list with mistakes says nothing any more");
}

#[test]
fn actions_that_are_not_supported_are_mistakes() {
    for (action, target) in
        [("AUDIT", PolicyTarget::Nothing), ("CUSTOM", PolicyTarget::Namespace), ("allow", PolicyTarget::Namespace)]
    {
        let (policy, problems) = read(&format!(r#"{{"action":"{action}","provider":{{"name":"x"}},"rules":[{{}}]}}"#));
        assert_eq!(problems, ["error spec.action"], "{action}");
        assert_eq!(policy.action, Action::Deny, "{action}");
        assert_eq!(policy.target, target, "{action}");
    }
}

#[test]
fn targets_are_services_of_the_same_namespace() {
    let cases = [
        (r#"{"kind":"Service","group":"","name":"web"}"#, Some("web"), "warning spec.targetRefs[0]"),
        (r#"{"kind":"Service","name":"web","namespace":"bank"}"#, None, "error spec.targetRefs[0]"),
        (r#"{"kind":"Gateway","group":"gateway.networking.k8s.io","name":"g"}"#, None, "error spec.targetRefs[0]"),
        (r#"{"kind":"Pod","name":"web"}"#, None, "error spec.targetRefs[0]"),
    ];
    for (target, service, problem) in cases {
        let (policy, problems) = read(&format!(r#"{{"targetRefs":[{target}],"rules":[{{}}]}}"#));
        assert_eq!(problems, [problem], "{target}");
        let expected = match service {
            Some(service) => PolicyTarget::Services([Arc::from(service)].into()),
            None => PolicyTarget::Nothing,
        };
        assert_eq!(policy.target, expected, "{target}");
    }
}
