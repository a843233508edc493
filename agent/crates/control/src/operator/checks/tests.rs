//! What is said in which situation.

use serde_json::{Value, json};

use super::super::Agent;
use super::*;
use crate::manifest::{Reading, read_object};
use crate::object::{Interner, Kind, Object};

fn read(kind: Kind, tree: &Value) -> Object {
    match read_object(kind, tree, &mut Interner::default()).0.expect("it has a name").reading {
        Reading::Valid(object) => object,
        Reading::Invalid(_) => panic!("{tree} is not valid"),
    }
}

fn pod(name: &str, node: &str, spec: &Value, labels: &Value) -> Pod {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {"phase": "Running"},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    match read(Kind::Pod, &pod) {
        Object::Pod(pod) => pod,
        other => panic!("{other:?} is no pod"),
    }
}

fn policy(namespace: &str, name: &str, spec: &Value) -> PeerAuthentication {
    let tree = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    match read(Kind::PeerAuthentication, &tree) {
        Object::PeerAuthentication(policy) => policy,
        other => panic!("{other:?} is no policy"),
    }
}

fn strict() -> Value {
    json!({"mtls": {"mode": "STRICT"}})
}

/// A namespace with one pod on n1, where a ready agent is, and n2, where one is not ready.
fn shop(joins: bool) -> Situation<'static> {
    let agent = |node: &str, is_ready| Agent { node: node.to_owned(), pod: format!("weft-agent-{node}"), is_ready };
    let mode = if joins { None } else { Some((DATAPLANE_MODE.to_owned(), "ambient".to_owned())) };
    Situation {
        namespace: "shop",
        joins,
        labels: Some(mode.into_iter().collect()),
        agents_namespace: "weft-system",
        agents: Some(Agents { there: vec![agent("n1", true), agent("n2", false)], wanted: Some(2) }),
        pods: vec![pod("web", "n1", &json!({}), &json!({}))],
        policies: Vec::new(),
        root_namespace: "istio-system",
    }
}

fn said(situation: &Situation<'_>) -> Vec<(Weight, String)> {
    situation.checks().into_iter().map(|check| (check.weight, check.text)).collect()
}

#[track_caller]
fn only(situation: &Situation<'_>, weight: Weight, words: &[&str]) {
    let said = said(situation);
    let [(found, text)] = &said[..] else { panic!("one thing was to be said: {said:?}") };
    assert_eq!(*found, weight, "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn where_all_is_well_nothing_is_said() {
    assert_eq!(said(&shop(true)), []);
    assert_eq!(said(&shop(false)), []);
}

#[test]
fn what_is_not_there_and_what_the_cluster_lives_by_is_refused() {
    only(&Situation { labels: None, ..shop(true) }, Weight::Refusal, &["no namespace shop"]);
    for namespace in ["kube-system", "weft-system"] {
        only(&Situation { namespace, ..shop(true) }, Weight::Refusal, &[namespace, "never captured"]);
        // Whoever labelled it can be helped.
        assert_eq!(said(&Situation { namespace, ..shop(false) }), []);
    }
}

#[test]
fn without_a_ready_agent_where_its_pods_run_a_namespace_does_not_join_unasked() {
    only(&Situation { agents: None, ..shop(true) }, Weight::Objection, &["weft-agent", "weft-system"]);
    let elsewhere = |joins| {
        let mut shop = shop(joins);
        shop.pods.push(pod("other", "n2", &json!({}), &json!({})));
        shop.pods.push(pod("third", "n3", &json!({}), &json!({})));
        shop
    };
    only(&elsewhere(true), Weight::Objection, &["on n2, n3:", "stay outside"]);
    only(&elsewhere(false), Weight::Note, &["on n2, n3:", "stay in the mesh"]);
}

#[test]
fn pods_that_stay_outside_are_named_with_the_reason() {
    let mut shop = shop(true);
    shop.pods.push(pod("host", "n2", &json!({"hostNetwork": true}), &json!({})));
    shop.pods.push(pod("side", "n1", &json!({"containers": [{"name": "istio-proxy"}]}), &json!({})));
    shop.pods.push(pod("not", "n1", &json!({}), &json!({DATAPLANE_MODE: "none"})));
    let mut gone = pod("gone", "n1", &json!({"hostNetwork": true}), &json!({}));
    gone.phase = PodPhase::Over;
    shop.pods.push(gone);
    let said = said(&shop);
    assert_eq!(said.len(), 3, "{said:?}");
    for (name, why) in [("host", "host's network"), ("side", "sidecar"), ("not", "own label")] {
        let is_said = |(weight, text): &(Weight, String)| {
            *weight == Weight::Note && text.ends_with(&format!(": {name}")) && text.contains(why)
        };
        assert!(said.iter().any(is_said), "{name}: {said:?}");
    }
}

#[test]
fn a_namespace_that_asks_for_sidecars_is_told_what_comes_of_it() {
    let labels = Some(BTreeMap::from([("istio-injection".to_owned(), "enabled".to_owned())]));
    only(&Situation { labels, ..shop(true) }, Weight::Note, &["sidecars"]);
}

#[test]
fn a_strict_policy_that_will_hold_is_objected_to() {
    let with = |policies| Situation { policies, ..shop(true) };
    only(&with(vec![policy("shop", "default", &strict())]), Weight::Objection, &["shop/default", "PERMISSIVE"]);
    only(&with(vec![policy("istio-system", "mesh", &strict())]), Weight::Objection, &["istio-system/mesh"]);
    let selector = json!({"matchLabels": {"app": "web"}});
    let port = json!({"selector": selector, "portLevelMtls": {"8080": {"mode": "STRICT"}}});
    only(&with(vec![policy("shop", "port", &port)]), Weight::Objection, &["shop/port"]);
    // The namespace's own policy beats the mesh's, and those of other namespaces are about others.
    let permissive = policy("shop", "default", &json!({"mtls": {"mode": "PERMISSIVE"}}));
    let quiet = vec![permissive, policy("istio-system", "mesh", &strict()), policy("other", "default", &strict())];
    assert_eq!(said(&with(quiet)), []);
}

#[test]
fn one_that_has_joined_already_is_told_and_not_stopped() {
    let labels = Some(BTreeMap::from([(DATAPLANE_MODE.to_owned(), "ambient".to_owned())]));
    let policies = vec![policy("shop", "default", &strict())];
    only(&Situation { labels, policies, ..shop(true) }, Weight::Note, &["shop/default"]);
}

#[test]
fn one_that_leaves_is_told_who_will_refuse_it_and_what_guards_it_no_longer() {
    let others = vec![policy("other", "default", &strict())];
    only(&Situation { policies: others, ..shop(false) }, Weight::Objection, &["other/default", "refuse those of shop"]);
    let own = vec![policy("shop", "default", &strict())];
    only(&Situation { policies: own, ..shop(false) }, Weight::Note, &["shop/default", "in clear"]);
    let mut shop = shop(false);
    shop.pods.push(pod("own", "n1", &json!({}), &json!({DATAPLANE_MODE: "ambient"})));
    only(&shop, Weight::Note, &["stay in the mesh", "own"]);
}

#[test]
fn of_many_names_the_first_ones_are_said() {
    let names: Vec<String> = (0..11).map(|i| i.to_string()).collect();
    assert_eq!(named(names.iter().map(String::as_str)), "0, 1, 2, 3, 4, 5, 6, 7 and 3 more");
    assert_eq!(named(names[..8].iter().map(String::as_str)), "0, 1, 2, 3, 4, 5, 6, 7");
}
