use super::*;

fn read(json: &str) -> (Option<Pod>, Vec<String>) {
    let view: PodView<'_> = serde_json::from_str(json).expect("the test's JSON is valid");
    let mut notes = Notes::default();
    let pod = Pod::read(&view, &mut Interner::default(), &mut notes);
    (pod, notes.fields().map(str::to_owned).collect())
}

#[test]
fn mistakes_name_their_field() {
    let cases = [
        (r#"{"metadata":{"name":"a"},"status":{"podIPs":[{"ip":"10.0.0.1"},{"ip":"x"}]}}"#, "status.podIPs[1].ip"),
        (r#"{"metadata":{"name":"a"},"status":{"podIP":"127.0.0.1"}}"#, "status.podIP"),
        (r#"{"metadata":{"name":"a","annotations":{"weft.dev/netns":"x"}}}"#, "metadata.annotations[weft.dev/netns]"),
        (r#"{"metadata":{"name":"a"},"spec":{"serviceAccountName":"a b"}}"#, "spec.serviceAccountName"),
        (r#"{"metadata":{}}"#, "metadata.name"),
        (r#"{"metadata":{"name":"a","namespace":"a.b"}}"#, "metadata.namespace"),
        (
            r#"{"metadata":{"name":"a","labels":{"istio.io/dataplane-mode":"sidecar"}}}"#,
            "metadata.labels[istio.io/dataplane-mode]",
        ),
    ];
    for (json, field) in cases {
        assert_eq!(read(json).1, [field], "{json}");
    }
}

#[test]
fn null_is_absent() {
    let json = r#"{"metadata":{"name":"a","labels":null,"annotations":null,"ownerReferences":null,"uid":null},
        "spec":{"nodeName":null,"containers":null,"hostNetwork":null},"status":{"podIPs":null,"conditions":null}}"#;
    let (pod, notes) = read(json);
    assert_eq!(notes, [""; 0]);
    assert_eq!(pod.map(|pod| (pod.addresses.len(), pod.ready)), Some((0, None)));
}

#[test]
fn pods_of_one_workload_share_their_template() {
    let mut interner = Interner::default();
    let mut template = |name: &str, labels: &str| {
        let json = format!(r#"{{"metadata":{{"name":"{name}","labels":{{{labels}}}}}}}"#);
        let view: PodView<'_> = serde_json::from_str(&json).expect("the test's JSON is valid");
        Pod::read(&view, &mut interner, &mut Notes::default()).expect("the pod is valid").template
    };
    let first = template("a", r#""app":"web","version":"v1""#);
    assert!(Arc::ptr_eq(&first, &template("b", r#""version":"v1","app":"web""#)), "order does not count");
    assert!(!Arc::ptr_eq(&first, &template("c", r#""app":"web""#)));
}

#[test]
fn named_ports_are_those_of_tcp_in_containers_that_run() {
    let json = r#"{"metadata":{"name":"a"},"spec":{
        "containers":[{"ports":[{"name":"dns","containerPort":53,"protocol":"UDP"},{"containerPort":1}]},
                      {"ports":[{"name":"http","containerPort":80,"protocol":"TCP"},{"name":"dns","containerPort":5353}]}],
        "initContainers":[{"ports":[{"name":"setup","containerPort":9}]},
                          {"restartPolicy":"Always","ports":[{"name":"side","containerPort":10}]}]}}"#;
    let (pod, _) = read(json);
    let template = pod.expect("the pod is valid").template;
    let ports = ["dns", "http", "setup", "side"].map(|name| template.port_named(name));
    assert_eq!(ports, [Some(5353), Some(80), None, Some(10)]);
}
