use std::net::IpAddr;

use weft_model::{Identity, Workload};

use super::processes::Found;
use super::*;

const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

fn pod(addresses: &[&str], enrolled: bool, is_announced: bool) -> LocalPod {
    LocalPod {
        uid: "Kubernetes//Pod/shop/web".into(),
        instance: UID.into(),
        name: "web".into(),
        namespace: "shop".into(),
        identity: Identity::new("cluster.local", "shop", "web").expect("valid parts"),
        netns: None,
        addresses: self::addresses(addresses),
        enrolled,
        is_announced,
        workload: Arc::new(crate::telemetry::fixtures::workload("web", 1)),
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn sandbox(uid: &str, of: &[&str]) -> Sandbox {
    Sandbox {
        namespace: "shop".into(),
        name: "web".into(),
        uid: uid.into(),
        container: "c1".into(),
        netns: "/run/netns/cni-1".into(),
        addresses: addresses(of),
    }
}

fn state(pods: Vec<LocalPod>, sandboxes: Vec<Sandbox>, found: &[&str]) -> Census {
    let found = found.iter().map(|uid| ((*uid).to_owned(), Found { path: "/proc/7/ns/net".into(), inode: (1, 2) }));
    Census {
        said: Some(Update { local_pods: pods, ..Update::default() }),
        sandboxes: sandboxes.into_iter().map(|sandbox| (sandbox.container.clone(), sandbox)).collect(),
        found: found.collect(),
        ended: HashSet::new(),
        members: HashMap::new(),
        known: Known::default(),
        is_leaving: false,
        stands_aside: false,
    }
}

#[test]
fn a_pod_that_was_only_just_scheduled_has_what_its_runtime_says() {
    let scheduled = pod(&[], true, false);
    assert_eq!(state(vec![scheduled.clone()], vec![], &[]).fill_in(&scheduled), None, "it has no sandbox yet");
    for uid in [UID, ""] {
        let state = state(vec![scheduled.clone()], vec![sandbox(uid, &["10.0.0.1", "fd00::1"])], &[]);
        let filled_in = state.fill_in(&scheduled).expect("it has a sandbox");
        assert_eq!(filled_in.netns, Some("/run/netns/cni-1".into()));
        assert_eq!(filled_in.addresses, addresses(&["10.0.0.1", "fd00::1"]));
        assert!(state.missing().is_empty());
    }
    let other = state(vec![scheduled.clone()], vec![sandbox("another", &["10.0.0.1"])], &[]);
    assert_eq!(other.fill_in(&scheduled), None, "that is the sandbox of an earlier pod of this name");
}

#[test]
fn a_static_pod_is_known_by_its_name_and_no_other_pod_is() {
    let workload = crate::telemetry::fixtures::workload("web", 1);
    let mirror = LocalPod {
        workload: Arc::new(Workload { workload_type: "static-pod".into(), ..workload }),
        ..pod(&["10.0.0.1"], false, false)
    };
    // What runs has the uid of the file.
    let of_file = sandbox("0c5f", &["10.0.0.1"]);
    assert!(state(vec![mirror.clone()], vec![], &[]).is_static(&of_file));
    let other = Sandbox { name: "other".into(), ..of_file.clone() };
    assert!(!state(vec![mirror], vec![], &[]).is_static(&other));
    assert!(
        !state(vec![pod(&["10.0.0.1"], false, false)], vec![], &[]).is_static(&of_file),
        "an earlier pod of this name"
    );
}

/// A pod with this label `app` in this namespace.
fn labelled(app: &str, namespace: &str) -> LocalPod {
    let workload = Workload { app: app.into(), ..crate::telemetry::fixtures::workload("web", 1) };
    LocalPod { workload: Arc::new(workload), namespace: namespace.into(), ..pod(&["10.0.0.9"], false, true) }
}

#[test]
fn another_agent_is_believed_only_where_pods_of_the_mesh_are_not() {
    let administered = ["kube-system".to_owned(), "istio-system".to_owned()];
    let is_found = |app, namespace| another::agent(&[labelled(app, namespace)], &administered).is_some();
    assert!(is_found("ztunnel", "istio-system") && is_found("ztunnel", "kube-system"));
    assert!(!is_found("ztunnel", "shop"), "anybody could label a pod so");
    assert!(!is_found("istiod", "istio-system"));
}

#[test]
fn who_stands_aside_has_no_pods_and_holds_up_none() {
    let member = pod(&["10.0.0.1"], true, true);
    let mut state = state(vec![member.clone()], vec![sandbox(UID, &["10.0.0.1"])], &[]);
    state.members.insert(UID.into(), member.clone());
    assert!(!state.is_others(&sandbox(UID, &[])));
    state.stands_aside = true;
    assert!(state.is_others(&sandbox(UID, &[])));
    assert!(state.pods().iter().all(|pod| !pod.enrolled));
    assert!(!state.fill_in(&member).expect("it has an address").enrolled);
}

#[test]
fn nothing_is_missing_of_a_pod_whose_sandbox_was_removed() {
    let ending = pod(&["10.0.0.1"], true, true);
    let mut state = state(vec![ending.clone()], vec![], &[]);
    state.ended.insert(UID.to_owned());
    assert!(state.missing().is_empty());
    assert_eq!(state.fill_in(&ending), None);
}

#[test]
fn a_pod_whose_object_is_gone_stays_until_its_sandbox_is() {
    let member = pod(&["10.0.0.1"], true, true);
    let mut state = state(vec![], vec![sandbox(UID, &["10.0.0.1"])], &[]);
    state.members.insert(UID.into(), member.clone());
    assert_eq!(state.left_behind(), std::slice::from_ref(&member));
    state.ended.insert(UID.to_owned());
    assert_eq!(state.left_behind(), []);
    let mut state = self::state(vec![], vec![], &[]);
    state.members.insert(UID.into(), member.clone());
    assert_eq!(state.left_behind(), [], "its namespace is no more");
    let mut state = self::state(vec![pod(&["10.0.0.1"], false, true)], vec![], &[UID]);
    state.members.insert(UID.into(), member);
    assert_eq!(state.left_behind(), [], "its label was taken away");
}

#[test]
fn a_namespace_counts_once_it_was_heard_of() {
    let mut state = state(vec![], vec![], &[]);
    state.said = Some(Update { namespaces: vec![("a".into(), true), ("c".into(), false)], ..Update::default() });
    assert!(state.knows_namespace("a") && state.knows_namespace("c") && !state.knows_namespace("b"));
}

#[test]
fn addresses_that_the_api_server_tells_in_another_order_are_the_same() {
    let told = pod(&["fd00::1", "10.0.0.1"], true, false);
    let same = state(vec![told.clone()], vec![sandbox(UID, &["10.0.0.1", "fd00::1"])], &[]);
    assert_eq!(same.fill_in(&told).expect("it has one").addresses, addresses(&["10.0.0.1", "fd00::1"]));
    let moved = pod(&["10.0.0.9"], true, false);
    assert_eq!(same.fill_in(&moved).expect("it has one").addresses, addresses(&["10.0.0.9"]));
}

#[test]
fn namespaces_are_looked_for_of_pods_of_the_mesh_that_have_addresses_and_no_known_one() {
    let running = pod(&["10.0.0.1"], true, false);
    assert_eq!(state(vec![running.clone()], vec![], &[]).missing(), HashSet::from([UID.to_owned()]));
    assert!(state(vec![running.clone()], vec![], &[UID]).missing().is_empty());
    assert!(state(vec![pod(&["10.0.0.1"], false, false)], vec![], &[]).missing().is_empty());
    let unknown = state(vec![running.clone()], vec![], &[]).fill_in(&running).expect("it has addresses");
    assert_eq!(unknown.netns, None, "it is told of, to be reported");
    let found = state(vec![running.clone()], vec![], &[UID]).fill_in(&running).expect("it has addresses");
    assert_eq!(found.netns, Some("/proc/7/ns/net".into()));
}

#[test]
fn a_pod_is_announced_once_it_is_captured_and_until_it_is_to_leave() {
    let stands = |state| PodStatus {
        uid: "Kubernetes//Pod/shop/web".into(),
        namespace: "shop".into(),
        name: "web".into(),
        identity: Identity::new("cluster.local", "shop", "web").expect("valid parts"),
        addresses: Vec::new(),
        netns: None,
        state,
        older: Arc::new([]),
        older_problem: None,
    };
    let (captured, failed) = (stands(PodState::Enrolled), stands(PodState::Failed("no".to_owned())));
    let told = |pod: &LocalPod, status: &PodStatus| {
        let due = due(std::slice::from_ref(pod), std::slice::from_ref(status));
        due.into_iter().map(|(_, is_captured)| is_captured).collect::<Vec<_>>()
    };
    assert_eq!(told(&pod(&["10.0.0.1"], true, false), &captured), [true]);
    assert_eq!(told(&pod(&["10.0.0.1"], true, true), &captured), [] as [bool; 0]);
    assert_eq!(told(&pod(&["10.0.0.1"], true, false), &failed), [] as [bool; 0]);
    assert_eq!(told(&pod(&["10.0.0.1"], true, true), &failed), [] as [bool; 0], "peers are to be refused");
    assert_eq!(told(&pod(&["10.0.0.1"], false, true), &failed), [false]);
}
