use serde_json::{Value, json};
use weft_model::{Change, Identity, TunnelProtocol};

use super::*;
use crate::problem::Severity;
use crate::serve::{Caller, Grants, World};
use crate::source::Changes;

fn object(tree: Value) -> DynamicObject {
    serde_json::from_value(tree).expect("the object is well-formed")
}

/// As a watch brings it.
fn sent(object: DynamicObject) -> Box<Watched> {
    Box::new(Watched::of(&object).expect("the object is well-formed"))
}

fn namespace(name: &str) -> DynamicObject {
    object(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "istio.io/dataplane-mode": "ambient" } },
    }))
}

fn pod(name: &str, address: &str) -> DynamicObject {
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}") },
        "spec": { "nodeName": "n1", "serviceAccountName": "default", "containers": [{ "name": "c", "fieldOfTheFuture": 1 }] },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    }))
}

fn policy(action: &str) -> DynamicObject {
    object(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "shop" },
        "spec": { "action": action, "rules": [{ "from": [{ "source": { "namespaces": ["shop"] } }] }] },
    }))
}

/// All kinds were listed, these objects among them.
fn complete(contents: &mut Contents, objects: &[(Kind, DynamicObject)]) {
    for kind in Kind::ALL {
        list(contents, kind, objects.iter().filter(|(of, _)| *of == kind).map(|(_, object)| object.clone()));
    }
}

fn list(contents: &mut Contents, kind: Kind, objects: impl IntoIterator<Item = DynamicObject>) {
    contents.note(kind, News::Listing);
    for object in objects {
        contents.note(kind, News::Listed(sent(object)));
    }
    contents.note(kind, News::ListEnd);
}

fn workloads(changes: &[Change]) -> Vec<String> {
    let said = changes.iter().filter_map(|change| match change {
        Change::PutWorkload(workload) => Some(format!("+{}", workload.name)),
        Change::RemoveWorkload(uid) => Some(format!("-{}", uid.rsplit('/').next().unwrap_or_default())),
        _ => None,
    });
    let mut said: Vec<String> = said.collect();
    said.sort();
    said
}

#[test]
fn nothing_is_complete_before_every_kind_was_listed() {
    let mut contents = Contents::new(TranslationOptions::default(), Kind::ALL);
    for kind in Kind::ALL {
        assert!(!contents.is_complete(), "before {kind}");
        if kind == Kind::PeerAuthentication {
            // A cluster without Istio's kinds has none of them.
            contents.note(kind, News::Absent);
        } else {
            list(&mut contents, kind, []);
        }
    }
    assert!(contents.is_complete());
}

#[test]
fn a_new_list_removes_what_it_does_not_name() {
    let mut contents = Contents::new(TranslationOptions::default(), Kind::ALL);
    let pods = [("a", "10.0.0.1"), ("b", "10.0.0.2")].map(|(name, address)| (Kind::Pod, pod(name, address)));
    complete(&mut contents, &[vec![(Kind::Namespace, namespace("shop"))], pods.to_vec()].concat());
    assert_eq!(workloads(&contents.flush().0.changes), ["+a", "+b"]);
    // What was known stays while a list is under way, and when one breaks off.
    contents.note(Kind::Pod, News::Listing);
    assert_eq!(workloads(&contents.flush().0.changes), Vec::<String>::new());
    list(&mut contents, Kind::Pod, [pod("b", "10.0.0.2"), pod("c", "10.0.0.3")]);
    assert_eq!(workloads(&contents.flush().0.changes), ["+c", "-a"]);
    contents.note(Kind::Pod, News::Removed(sent(pod("b", "10.0.0.2"))));
    contents.note(Kind::Pod, News::Put(sent(pod("d", "10.0.0.4"))));
    assert_eq!(workloads(&contents.flush().0.changes), ["+d", "-b"]);
    contents.note(Kind::Pod, News::Absent);
    assert_eq!(workloads(&contents.flush().0.changes), ["-c", "-d"]);
}

#[test]
fn a_pod_is_reached_by_tunnels_while_its_agent_says_that_it_is_captured() {
    let options = TranslationOptions { on_kubernetes: true, ..TranslationOptions::default() };
    let mut contents = Contents::new(options, Kind::ALL);
    complete(&mut contents, &[(Kind::Namespace, namespace("shop"))]);
    let mut protocol = |redirection: Option<&str>| {
        let mut pod = pod("a", "10.0.0.1");
        pod.metadata.annotations =
            redirection.map(|value| [("ambient.istio.io/redirection".to_owned(), value.to_owned())].into());
        contents.note(Kind::Pod, News::Put(sent(pod)));
        contents.flush().0.changes.into_iter().find_map(|change| match change {
            Change::PutWorkload(workload) => Some(workload.protocol),
            _ => None,
        })
    };
    assert_eq!(protocol(None), Some(TunnelProtocol::None), "only its label says that it is in the mesh");
    assert_eq!(protocol(Some("enabled")), Some(TunnelProtocol::Hbone));
    assert_eq!(protocol(Some("disabled")), Some(TunnelProtocol::None));

    // The annotation alone enrols nobody.
    let mut pod = pod("b", "10.0.0.2");
    pod.metadata.namespace = Some("elsewhere".to_owned());
    pod.metadata.annotations = Some([("ambient.istio.io/redirection".to_owned(), "enabled".to_owned())].into());
    contents.note(Kind::Pod, News::Put(sent(pod)));
    let changes = contents.flush().0.changes;
    assert!(
        matches!(&changes[..], [Change::PutWorkload(workload)] if workload.protocol == TunnelProtocol::None),
        "{changes:?}"
    );
}

#[tokio::test]
async fn a_node_may_have_the_certificate_of_a_pod_before_anybody_can_reach_it() {
    let options = TranslationOptions { on_kubernetes: true, ..TranslationOptions::default() };
    let mut contents = Contents::new(options, Kind::ALL);
    let mut scheduled = pod("a", "10.0.0.1");
    scheduled.data["status"] = json!({ "phase": "Pending" });
    complete(&mut contents, &[(Kind::Namespace, namespace("shop")), (Kind::Pod, scheduled.clone())]);
    let world = World::new("");
    world.apply(contents.flush().0.changes).await;
    let caller = Caller {
        namespace: "s".into(),
        service_account: "a".into(),
        pod: "p".into(),
        node: "n1".into(),
        is_waypoint: false,
    };
    let identity = Identity::new("cluster.local", "shop", "default").expect("valid parts");
    let is_told = || world.read().addresses.present().next().is_some();
    assert_eq!((world.may_have(&caller, &identity), is_told()), (Ok(()), false));

    contents.note(Kind::Pod, News::Put(sent(pod("a", "10.0.0.1"))));
    world.apply(contents.flush().0.changes).await;
    assert_eq!((world.may_have(&caller, &identity), is_told()), (Ok(()), true));

    scheduled.data["status"] = json!({ "phase": "Failed" });
    contents.note(Kind::Pod, News::Put(sent(scheduled)));
    world.apply(contents.flush().0.changes).await;
    assert!(world.may_have(&caller, &identity).is_err() && !is_told());
}

#[tokio::test]
async fn a_node_gives_itself_no_identity_by_the_mirror_of_a_static_pod() {
    let mut mirror = pod("mirror", "10.0.0.1");
    mirror.metadata.annotations = Some([("kubernetes.io/config.mirror".to_owned(), "0c5f".to_owned())].into());
    let mut owned = pod("owned", "10.0.0.2");
    let node = json!([{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true }]);
    owned.metadata.owner_references = serde_json::from_value(node).expect("the owner is well-formed");
    let mut without = pod("without", "10.0.0.3");
    without.data["spec"]["serviceAccountName"] = json!("");
    for pod in [mirror, owned, without] {
        let options = TranslationOptions { on_kubernetes: true, ..TranslationOptions::default() };
        let mut contents = Contents::new(options, Kind::ALL);
        complete(&mut contents, &[(Kind::Namespace, namespace("shop")), (Kind::Pod, pod.clone())]);
        let world = World::new("");
        world.apply(contents.flush().0.changes).await;
        assert!(world.read().addresses.present().next().is_some(), "the pod is there to be talked to");
        let caller = Caller {
            namespace: "s".into(),
            service_account: "a".into(),
            pod: "p".into(),
            node: "n1".into(),
            is_waypoint: false,
        };
        let identity = Identity::new("cluster.local", "shop", "default").expect("valid parts");
        assert!(world.may_have(&caller, &identity).is_err(), "{:?}", pod.metadata.name);
    }
}

#[test]
fn a_network_namespace_that_a_pod_of_a_cluster_names_is_not_looked_at() {
    for named in ["/proc/1/ns/net", "relative"] {
        let options = TranslationOptions { node: "n1".to_owned(), ..TranslationOptions::default() };
        let mut contents = Contents::new(options, Kind::ALL);
        let mut pod = pod("a", "10.0.0.1");
        pod.metadata.annotations = Some([("weft.dev/netns".to_owned(), named.to_owned())].into());
        complete(&mut contents, &[(Kind::Namespace, namespace("shop")), (Kind::Pod, pod)]);
        let (Changes { changes, .. }, state) = contents.flush();
        assert!(changes.iter().any(|change| matches!(change, Change::PutWorkload(_))), "{changes:?}");
        let said: Vec<String> = state.problems.iter().map(ToString::to_string).collect();
        assert!(!said.iter().any(|problem| problem.contains(named)), "{said:?}");
        assert!(state.local_pods.iter().all(|pod| pod.netns.is_none()), "{:?}", state.local_pods);
    }
}

#[test]
fn an_object_that_becomes_invalid_stays_as_it_was_and_is_reported_until_it_is_corrected() {
    let mut contents = Contents::new(TranslationOptions::default(), Kind::ALL);
    complete(&mut contents, &[(Kind::Namespace, namespace("shop")), (Kind::AuthorizationPolicy, policy("DENY"))]);
    let (Changes { changes, .. }, state) = contents.flush();
    assert!(changes.iter().any(|change| matches!(change, Change::PutPolicy(_))), "{changes:?}");
    assert_eq!(state.problems, []);

    contents.note(Kind::AuthorizationPolicy, News::Put(sent(policy("PERHAPS"))));
    let (Changes { changes, .. }, state) = contents.flush();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(state.problems.len(), 1, "{:?}", state.problems);
    assert_eq!(state.problems[0].severity, Severity::Error);
    assert_eq!(state.problems[0].field.as_deref(), Some("spec.action"));

    contents.note(Kind::AuthorizationPolicy, News::Removed(sent(policy("PERHAPS"))));
    let (Changes { changes, .. }, state) = contents.flush();
    assert!(changes.iter().any(|change| matches!(change, Change::RemovePolicy(_))), "{changes:?}");
    assert_eq!(state.problems, []);
}

#[test]
fn what_stands_in_for_a_policy_that_was_never_valid_follows_its_selector() {
    let mut contents = Contents::new(TranslationOptions::default(), Kind::ALL);
    let app = |name: &str| json!({ "matchLabels": { "app": name } });
    let selecting = |selector: Value| {
        let mut policy = policy("PERHAPS");
        policy.data["spec"]["selector"] = selector;
        policy
    };
    complete(&mut contents, &[(Kind::AuthorizationPolicy, selecting(app("a")))]);
    let put = |changes: Vec<Change>| changes.iter().any(|change| matches!(change, Change::PutPolicy(_)));
    assert!(put(contents.flush().0.changes), "nothing stands in for a policy that cannot be read");
    contents.note(Kind::AuthorizationPolicy, News::Put(sent(selecting(Value::Null))));
    assert!(
        put(contents.flush().0.changes),
        "what stands in for it is still about one app, and the policy is about all"
    );
}

#[test]
fn a_condition_of_a_policy_that_is_not_known_here_does_not_make_it_allow_more() {
    let mut contents = Contents::new(TranslationOptions::default(), Kind::ALL);
    let mut policy = policy("ALLOW");
    policy.data["spec"]["rules"][0]["from"][0]["source"]["conditionOfTheFuture"] = json!(["x"]);
    complete(&mut contents, &[(Kind::AuthorizationPolicy, policy)]);
    let (Changes { changes, .. }, state) = contents.flush();
    let rules = changes.iter().find_map(|change| match change {
        Change::PutPolicy(policy) => Some(policy.rules.len()),
        _ => None,
    });
    assert_eq!(rules, Some(0), "{changes:?}");
    assert_eq!(state.problems.len(), 1, "{:?}", state.problems);
}

#[test]
fn fields_that_only_the_api_server_knows_are_no_problem() {
    let mut contents = Contents::new(TranslationOptions::default(), Kind::ALL);
    let mut service = object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] },
    }));
    service.data["spec"]["fieldOfTheFuture"] = json!(true);
    complete(&mut contents, &[(Kind::Service, service), (Kind::Pod, pod("a", "10.0.0.1"))]);
    let (Changes { changes, .. }, state) = contents.flush();
    assert_eq!(state.problems, []);
    assert!(changes.iter().any(|change| matches!(change, Change::PutService(_))), "{changes:?}");
}
