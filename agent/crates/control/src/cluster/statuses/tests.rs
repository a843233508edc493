use super::*;

const V1: &str = "security.istio.io/v1";

/// The conditions that are to be written.
fn conditions(due: &Due) -> Vec<Value> {
    due.status["conditions"].as_array().cloned().unwrap_or_default()
}

fn policy(spec: Value, conditions: Value) -> DynamicObject {
    let tree = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "shop", "generation": 3, "resourceVersion": "17" },
        "spec": spec, "status": { "conditions": conditions },
    });
    serde_json::from_value(tree).expect("the object is well-formed")
}

/// What is to be written about a policy now.
fn due(statuses: &mut Statuses, object: DynamicObject) -> Option<Due> {
    statuses.note(Kind::AuthorizationPolicy, V1, Event::Apply(object));
    statuses.begin().map(|(_, due)| due)
}

fn statuses() -> Statuses {
    Statuses::new("istio-system".to_owned(), Verdicts::default())
}

fn rule() -> Value {
    json!({ "from": [{ "source": { "namespaces": ["shop"] } }] })
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_told_whether_it_is_in_force_and_what_in_it_cannot_be() {
    let layer_7 = json!({ "to": [{ "operation": { "paths": ["/admin"] } }] });
    for (spec, status, reason, part) in [
        (json!({ "rules": [rule()] }), "True", "Accepted", "in force"),
        (
            json!({ "rules": [rule(), layer_7] }),
            "False",
            "PartlyInForce",
            "spec.rules[1].to[0].operation.paths 'paths' needs layer 7",
        ),
        (json!({ "action": "PERHAPS" }), "False", "Invalid", "spec.action 'PERHAPS' is not an action"),
        (json!({ "action": "AUDIT" }), "False", "Invalid", "without one nothing is: spec.action AUDIT"),
        (json!({ "rules": 7 }), "False", "Invalid", "not in force as it is written"),
    ] {
        let due = due(&mut statuses(), policy(spec.clone(), json!([]))).unwrap_or_else(|| panic!("{spec}: nothing"));
        let [condition] = &conditions(&due)[..] else { panic!("{due:?}") };
        assert_eq!((&condition["status"], &condition["reason"]), (&json!(status), &json!(reason)), "{spec}");
        assert!(condition["message"].as_str().is_some_and(|message| message.contains(part)), "{condition}");
        assert_eq!((&condition["observedGeneration"], &*due.version), (&json!(3), "17"));
        assert!(condition["lastTransitionTime"].is_string(), "{condition}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_only_when_it_should_be_another_and_those_of_others_stay() {
    let other = json!({ "type": "ZtunnelAccepted", "status": "True", "whatever": 1 });
    let spec = json!({ "rules": [rule()] });
    let first = due(&mut statuses(), policy(spec.clone(), json!([other]))).expect("it has none");
    assert_eq!((conditions(&first).len(), &conditions(&first)[0]), (2, &other));
    let written = policy(spec, json!(conditions(&first)));
    assert_eq!(due(&mut statuses(), written), None);

    // While the status stays, so does the time since when it is so.
    let mut since = conditions(&first);
    since[1]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
    since[1]["message"] = json!("another");
    let again = due(&mut statuses(), policy(json!({ "rules": [rule()] }), json!(since))).expect("it is another");
    assert_eq!(conditions(&again)[1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    let changed = due(&mut statuses(), policy(json!({ "action": "PERHAPS" }), json!(since))).expect("it is another");
    assert_ne!(conditions(&changed)[1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
}

#[tokio::test(start_paused = true)]
async fn writes_keep_a_pace_and_a_kind_without_statuses_is_left_alone() {
    let mut statuses = statuses();
    let spec = || policy(json!({ "rules": [rule()] }), json!([]));
    let first = due(&mut statuses, spec()).expect("it has none");
    let id = ObjectId { kind: Kind::AuthorizationPolicy, namespace: "shop".into(), name: "p".into() };
    statuses.written(id.clone(), first, Ok(()));
    assert_eq!(due(&mut statuses, spec()), None, "somebody has undone it");
    assert_eq!(statuses.next(), Some(Instant::now() + PACE_OF_ONE));
    tokio::time::advance(PACE_OF_ONE).await;
    let (id, again) = statuses.begin().expect("it is time");
    let failure = Failure { code: 404, is_object: false, text: "no such thing".to_owned() };
    statuses.written(id, again, Err(failure));
    assert_eq!(statuses.next(), Some(Instant::now() + LEFT_ALONE));

    // An object that is gone is no reason to leave its kind alone.
    tokio::time::advance(LEFT_ALONE).await;
    let (id, again) = statuses.begin().expect("it is time");
    let failure = Failure { code: 404, is_object: true, text: "no such object".to_owned() };
    statuses.written(id, again, Err(failure));
    assert_eq!(statuses.next(), None);
}

#[test]
fn a_peer_authentication_that_cannot_count_is_told_so() {
    let tree = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "p", "namespace": "istio-system" },
        "spec": { "selector": { "matchLabels": { "app": "a" } }, "mtls": { "mode": "STRICT" } },
    });
    let (entry, problems) = read_object(Kind::PeerAuthentication, &tree, &mut Interner::default());
    let entry = entry.expect("it has a name");
    let of = |root: &str| Verdict::of(&entry.id, &entry.reading, &problems, root, None);
    assert_eq!((of("istio-system").is_accepted, of("istio-system").reason), (false, "NoEffect"));
    assert_eq!((of("mesh").is_accepted, of("mesh").reason), (true, "Accepted"));
}

#[tokio::test(start_paused = true)]
async fn of_several_peer_authentications_for_a_namespace_only_the_oldest_is_in_force() {
    let policy = |name: &str, year: u32| -> DynamicObject {
        let tree = json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {
                "name": name, "namespace": "shop", "generation": 1, "resourceVersion": format!("{name}-{year}"),
                "creationTimestamp": format!("{year}-01-01T00:00:00Z"),
            },
            "spec": { "mtls": { "mode": "STRICT" } },
        });
        serde_json::from_value(tree).expect("the object is well-formed")
    };
    let mut statuses = statuses();
    let note = |statuses: &mut Statuses, event| statuses.note(Kind::PeerAuthentication, V1, event);
    let due = |statuses: &Statuses| -> Vec<String> {
        let reason = |due: &Due| conditions(due)[0]["reason"].as_str().map(str::to_owned).unwrap_or_default();
        statuses.due.iter().map(|(id, due)| format!("{} {}", id.name, reason(due))).collect()
    };
    note(&mut statuses, Event::Init);
    note(&mut statuses, Event::InitApply(policy("a", 2025)));
    assert_eq!((statuses.next(), statuses.begin()), (None, None), "what overrides it is not known yet");
    note(&mut statuses, Event::InitApply(policy("b", 2024)));
    note(&mut statuses, Event::InitDone);
    assert_eq!(due(&statuses), ["a Overridden", "b Accepted"]);
    assert!(statuses.next().is_some());
    note(&mut statuses, Event::Apply(policy("c", 2023)));
    assert_eq!(due(&statuses), ["a Overridden", "b Overridden", "c Accepted"]);
    note(&mut statuses, Event::Delete(policy("c", 2023)));
    note(&mut statuses, Event::Delete(policy("b", 2024)));
    assert_eq!(due(&statuses), ["a Accepted"]);
    // With a selector it is about other pods, as far as anybody knows here.
    let mut narrow = policy("b", 2024);
    narrow.data["spec"]["selector"] = json!({ "matchLabels": { "app": "b" } });
    note(&mut statuses, Event::Apply(policy("b", 2024)));
    note(&mut statuses, Event::Apply(narrow));
    assert_eq!(due(&statuses), ["a Accepted", "b Accepted"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_source_says_of_a_route_is_written_once_both_are_of_one_generation() {
    use crate::translate::StatusChange;
    use crate::translate::routes::{Condition, ParentVerdict, Said, Verdict};

    const VERSION: &str = "gateway.networking.k8s.io/v1";
    let route = |generation: i64, status: Value| -> DynamicObject {
        let tree = json!({
            "apiVersion": VERSION, "kind": "HTTPRoute",
            "metadata": { "name": "r", "namespace": "shop", "generation": generation, "resourceVersion": "5" },
            "spec": {}, "status": status,
        });
        serde_json::from_value(tree).expect("the object is well-formed")
    };
    let id = ObjectId { kind: Kind::HttpRoute, namespace: "shop".into(), name: "r".into() };
    let verdicts = Verdicts::default();
    let say = |generation: i64| {
        let parent = crate::object::ParentRef {
            group: Some("".into()),
            kind: Some("Service".into()),
            namespace: None,
            name: "web".into(),
            section: None,
            port: None,
        };
        let conditions = vec![Condition::new("Accepted", true, "Accepted", "attached")];
        let said = Said::Route(vec![ParentVerdict { parent, is_idle: false, conditions }]);
        let verdict = Some(Verdict { generation: Some(generation), said }.into());
        verdicts.note(vec![StatusChange { object: id.clone(), verdict }]);
    };
    let mut statuses = Statuses::new("istio-system".to_owned(), verdicts.clone());
    statuses.note(Kind::HttpRoute, VERSION, Event::Apply(route(1, Value::Null)));
    assert_eq!(statuses.next(), None, "nobody has judged it");
    say(1);
    statuses.look_at_changed();
    let (found, due) = statuses.begin().expect("it has no status");
    assert_eq!((&found, &*due.version, due.api_version), (&id, "5", VERSION));
    assert_eq!(due.status["parents"][0]["conditions"][0]["reason"], "Accepted");
    let status = due.status.clone();
    statuses.written(found, due, Ok(()));
    statuses.note(Kind::HttpRoute, VERSION, Event::Apply(route(1, status.clone())));
    assert_eq!(statuses.next(), None, "it says so");
    statuses.note(Kind::HttpRoute, VERSION, Event::Apply(route(2, status)));
    assert_eq!(statuses.next(), None, "what was said is about the one before");
    say(2);
    statuses.look_at_changed();
    assert_eq!(statuses.next(), Some(Instant::now() + PACE_OF_ONE));
}
