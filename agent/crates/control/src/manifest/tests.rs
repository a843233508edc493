use super::*;
use crate::object::Kind;

fn parse(format: Format, text: &str) -> Manifest {
    read(&Path::new("f").into(), format, text.as_bytes(), Scrutiny::Full, 2)
}

/// `Kind namespace/name@line`, with `!` when invalid and `?` when nothing stands in for it.
fn entries(manifest: &Manifest) -> Vec<String> {
    let state = |reading: &Reading| match reading {
        Reading::Valid(_) => "",
        Reading::Invalid(Some(_)) => "!",
        Reading::Invalid(None) => "?",
    };
    manifest.entries.iter().map(|e| format!("{}@{}{}", e.id, e.line, state(&e.reading))).collect()
}

fn problems(manifest: &Manifest) -> Vec<String> {
    manifest.problems.iter().map(ToString::to_string).collect()
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n";

#[test]
fn yaml_has_any_number_of_documents() {
    let text = format!(
        "# shop\n\n{POD}---\n# nothing\n---\n{}---\n---\n{}",
        POD.replace("name: a", "name: b"),
        "kind: Namespace\napiVersion: v1\nmetadata:\n  name: shop\n"
    );
    let found = parse(Format::Yaml, &text);
    assert_eq!(entries(&found), ["Pod shop/a@3", "Pod shop/b@9", "Namespace shop@14"]);
    assert_eq!(problems(&found), [""; 0]);
    assert!(found.is_whole);
}

#[test]
fn yaml_in_flow_style_with_aliases_and_merges_is_read() {
    let text = "metadata: &m {name: a, labels: &l {app: x}}\nkind: &k Pod\napiVersion: v1\nspec:\n  containers:\n  - {<<: *m}\n---\n{kind: Pod, apiVersion: v1, metadata: {name: b}}\n";
    let found = parse(Format::Yaml, text);
    assert_eq!(entries(&found), ["Pod default/a@1", "Pod default/b@8"]);
}

#[test]
fn json_has_objects_one_after_another_and_lists() {
    let text = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}
        { "metadata": {"name":"b"},
          "kind": "Pod", "apiVersion": "v1" }
        {"kind":"List","apiVersion":"v1","items":[
          {"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"}},

          {"apiVersion":"v1","kind":"Service","metadata":{"name":"d"}}]}
        {"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"e"}}], "metadata": {}}"#;
    let found = parse(Format::Json, text);
    let expected = ["Namespace shop@1", "Pod default/b@2", "Pod default/c@5", "Service default/d@7", "Pod default/e@8"];
    assert_eq!(entries(&found), expected);
    assert_eq!(problems(&found), [""; 0]);
}

#[test]
fn yaml_has_lists() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n---\nkind: PodList\napiVersion: v1\nitems:\n- metadata: {name: c}\n- metadata: {name: d, labels: {a: 1}}\n";
    let found = parse(Format::Yaml, text);
    assert_eq!(entries(&found), ["Pod default/a@1", "Service default/b@1", "Pod default/c@11", "Pod default/d@11?"]);
    assert_eq!(
        problems(&found),
        [
            "f:15: error: Pod default/d: metadata.labels.a: invalid type: integer `1`, expected a string; put the value into quotes"
        ]
    );
}

#[test]
fn large_lists_are_divided_without_losing_order() {
    let items: Vec<String> =
        (0..1500).map(|i| format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p{i}"}}}}"#)).collect();
    let text = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, items.join(",\n"));
    let found = read(&Path::new("f").into(), Format::Json, text.as_bytes(), Scrutiny::Normal, 4);
    let expected: Vec<String> = (0..1500).map(|i| format!("Pod default/p{i}@{}", i + 1)).collect();
    assert_eq!(entries(&found), expected);
}

#[test]
fn a_mistake_names_line_object_field_and_what_to_do() {
    let cases = [
        (
            Format::Yaml,
            format!("{POD}spec:\n  hostNetwork: maybe\n"),
            vec!["Pod shop/a@1?"],
            "f:5: error: Pod shop/a: spec.hostNetwork: ",
        ),
        (
            Format::Yaml,
            format!("{POD}spec:\n  containers:\n  - name: web\n    ports:\n    - containerPort: 70000\n"),
            vec!["Pod shop/a@1?"],
            "f:8: error: Pod shop/a: spec.containers[0].ports[0].containerPort: ",
        ),
        (
            Format::Json,
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\",\n\"labels\":{\"x\":1}}}".to_owned(),
            vec!["Pod default/a@1?"],
            "f:2: error: Pod default/a: metadata.labels.x: invalid type: integer `1`, expected a string; ",
        ),
        (
            Format::Yaml,
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - port: http\n".to_owned(),
            vec!["Service default/web@1?"],
            "f:7: error: Service default/web: spec.ports[0].port: ",
        ),
        (
            Format::Yaml,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\nspec:\n  rules:\n  - to:\n    - operation:\n        ports: [80]\n".to_owned(),
            vec!["AuthorizationPolicy default/p@1!"],
            "f:9: error: AuthorizationPolicy default/p: spec.rules[0].to[0].operation.ports[0]: ",
        ),
        (
            Format::Yaml,
            "apiVersion: security.istio.io/v1alpha1\nkind: PeerAuthentication\nmetadata:\n  name: p\n".to_owned(),
            vec!["PeerAuthentication default/p@1!"],
            "f:1: error: PeerAuthentication default/p: apiVersion: 'security.istio.io/v1alpha1' is not a version of \
             PeerAuthentication that is read here; write security.istio.io/v1 or security.istio.io/v1beta1",
        ),
    ];
    for (format, text, expected, problem) in cases {
        let found = parse(format, &text);
        assert_eq!(entries(&found), expected, "{text}");
        let listed = problems(&found);
        assert!(listed[0].starts_with(problem), "{text}\n{listed:#?}");
        assert!(listed[0].contains("; "), "says what to do: {listed:?}");
        assert!(found.is_whole, "{text}");
    }
}

#[test]
fn what_cannot_be_told_apart_makes_the_file_incomplete() {
    let cases = [
        (Format::Yaml, "a: [1\n", "f:"),
        (Format::Yaml, "kind: Pod\napiVersion: v1\nmetadata:\n  name: a\n   b: c\n", "f:5: error: "),
        (Format::Yaml, "just text\n", "f:1: error: "),
        (Format::Yaml, "- a\n", "f:1: error: "),
        (Format::Yaml, "kind: Pod\nkind: Service\napiVersion: v1\n", "f:2: error: "),
        (Format::Yaml, "apiVersion: v1\n", "f:1: error: the object has no kind; "),
        (Format::Yaml, "kind: Pod\n", "f:1: error: the object has no apiVersion; "),
        (Format::Yaml, "apiVersion: v1\nkind: Pod\nmetadata: {}\n", "f:3: error: metadata.name: is missing; "),
        (
            Format::Yaml,
            "apiVersion: v1\nkind: Pod\nmetadata: {name: A/b}\n",
            "f:3: error: metadata.name: 'A/b' is not a name; ",
        ),
        (Format::Json, "{\n\"kind\": \"Pod\",}", "f:2: error: "),
        (Format::Json, "{\"kind\": \"Pod\"", "f:1: error: "),
        (Format::Json, "[]", "f:1: error: "),
        (Format::Json, "{\"kind\": 1}", "f:1: error: "),
        (Format::Json, "nul", "f:1: error: "),
    ];
    for (format, text, problem) in cases {
        let found = parse(format, text);
        assert_eq!(entries(&found), [""; 0], "{text}");
        let listed = problems(&found);
        assert!(listed.first().is_some_and(|first| first.starts_with(problem)), "{text}\n{listed:#?}");
        assert!(!found.is_whole, "{text}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = format!("{POD}---\n}}\n---\n{}---\nkind: Pod\n", POD.replace("{name: a,", "{name: b, labels: 3,"));
    let found = parse(Format::Yaml, &text);
    assert_eq!(entries(&found), ["Pod shop/a@1", "Pod shop/b@7?"]);
    let lines: Vec<Option<u32>> = found.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(5), Some(9), Some(11)]);
}

#[test]
fn other_kinds_are_noted_and_left_alone() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: fn}\n";
    let found = parse(Format::Yaml, text);
    assert_eq!(entries(&found), [""; 0]);
    assert_eq!(
        problems(&found),
        [
            "f:1: warning: Deployment web (apps/v1): is not read, and nothing here makes pods of it; write the Pods themselves",
            "f:5: info: Service fn (serving.knative.dev/v1): is not used",
        ]
    );
    assert!(found.is_whole);
}

#[test]
fn unknown_fields_are_warned_of() {
    let text = format!(
        "{POD}spec:\n  contaners: []\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  selektor: {{}}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: a}}\nspec:\n  mtls: {{mod: STRICT}}\n"
    );
    let found = parse(Format::Yaml, &text);
    assert_eq!(
        problems(&found),
        [
            "f:5: warning: Pod shop/a: spec.contaners: is not a field, and has no effect; correct its name or indentation",
            "f:11: warning: Service default/a: spec.selektor: is not a field, and has no effect; correct its name or indentation",
            "f:17: warning: PeerAuthentication default/a: spec.mtls.mod: is not a field, and has no effect; correct its name or indentation",
        ][..]
    );
}

#[test]
fn hostile_files_end_in_a_problem() {
    let bomb = {
        let mut text = "a: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            text += &format!("b{i}: &a{i} [{}]\n", [alias.as_str(); 9].join(", "));
        }
        text + "kind: Pod\napiVersion: v1\n"
    };
    let cases = [
        (Format::Yaml, "[".repeat(100_000)),
        (Format::Yaml, "{a: ".repeat(100_000)),
        (Format::Yaml, "- ".repeat(100_000)),
        (Format::Yaml, bomb),
        (Format::Yaml, "a: *nothing\n".to_owned()),
        (Format::Yaml, "&a [*a]\n".to_owned()),
        (Format::Yaml, "!!binary |\n  %%%\n".to_owned()),
        (Format::Yaml, "\u{0}".to_owned()),
        (Format::Json, "[".repeat(1_000_000)),
        (Format::Json, "{\"a\":".repeat(1_000_000)),
        (Format::Json, format!("{{\"kind\":\"List\",\"items\":[{}", "[".repeat(1_000_000))),
        (
            Format::Json,
            format!("{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"spec\":{}1{}}}", "[".repeat(5000), "]".repeat(5000)),
        ),
    ];
    for (format, text) in cases {
        let found = parse(format, &text);
        assert!(!found.problems.is_empty(), "{}", &text[..text.len().min(40)]);
    }
    let found = read(&Path::new("f").into(), Format::Yaml, b"a: 1\nb: \xff\n", Scrutiny::Normal, 1);
    assert_eq!(problems(&found), ["f:2: error: is not UTF-8; save the file as UTF-8"]);
}

#[test]
fn a_flood_of_problems_is_cut() {
    let found = parse(Format::Yaml, &"kind: Pod\n---\n".repeat(3000));
    assert_eq!(found.problems.len(), MAX_PROBLEMS + 1);
    assert_eq!(
        found.problems.last().map(|problem| problem.message.as_str()),
        Some("2000 more problems in this file are not listed")
    );
}

#[test]
fn a_policy_that_cannot_be_read_refuses_what_it_may_be_about() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n  rules: everything\n";
    let found = parse(Format::Yaml, text);
    let Reading::Invalid(Some(Object::AuthorizationPolicy(policy))) = &found.entries[0].reading else {
        panic!("the policy is invalid and something stands in for it: {:?}", found.entries);
    };
    assert_eq!(policy.action, weft_model::Action::Deny);
    assert_eq!(policy.rules, [weft_model::Rule::default()]);
    assert!(matches!(policy.target, crate::object::PolicyTarget::Pods(_)));
}

#[test]
fn names_of_files_decide_how_they_are_read() {
    for (name, expected) in [
        ("a.yaml", Some(Format::Yaml)),
        ("a.yml", Some(Format::Yaml)),
        ("a.json", Some(Format::Json)),
        (".a.yaml", None),
        ("..data", None),
        ("a.yaml~", None),
        ("a.yaml.swp", None),
        ("yaml", None),
        ("a.txt", None),
    ] {
        assert_eq!(Format::of(&Path::new("/dir").join(name)), expected, "{name}");
    }
}

#[test]
fn every_kind_is_known_by_its_name() {
    for kind in Kind::ALL {
        assert_eq!(Kind::named(kind.name()), Some(kind));
    }
    assert_eq!(Kind::named("Deployment"), None);
}
