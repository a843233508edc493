use serde_json::{Value, json};

use super::*;
use crate::manifest::yaml::options;

/// Whatever can be written in the plain way.
const PLAIN: &str = r#"# comment
apiVersion: v1
kind: Pod
metadata:
  name: app-1
  labels:
    app.kubernetes.io/name: app
    "quoted key": 'x: y # z'
  annotations: {}
  empty:

  tilde: ~
spec:
  containers:
  - name: app
    command: []
    ports:
    - containerPort: 8080
      name:   http   
    -
      name: other
  -   name: second
      nested:
      - - a
        - b
      -
      - c
  enabled: true
  disabled: false
status:
    # one more
    podIP: 10.0.0.1
    podIPs:
        - ip: "fd00::1"
    hash: 6d4b5f
    time: 2026-01-01T00:00:00Z
    path: /run/netns/a
"#;

fn the_long_way(text: &str) -> Option<Value> {
    serde_saphyr::from_str_with_options(text, options()).ok()
}

#[test]
fn plain_documents_are_read_as_the_long_way_reads_them() {
    for text in [PLAIN, "- a\n- - b\n  - c: d\n", "a:\n- b\n- c\nd: 1", "\n\n  a: b\n", "- \n-\n"] {
        let found: Option<Value> = read(text);
        assert!(found.is_some(), "{text}");
        assert_eq!(found, the_long_way(text), "{text}");
    }
}

#[test]
fn nothing_is_read_in_another_way_than_the_long_way_reads_it() {
    const PIECES: &[&str] = &[
        "\n", "\n  ", "\n    ", "\n- ", ": ", ":", " ", "  ", "- ", "-", "#", " #", "'", "\"", "\\", "{}", "[]", "{",
        "]", "&a ", "*a", "!!str ", "|", ">", "~", "null", "true", "yes", "0", "1.5", "0x1", "1e3", ".", "%", "@", "?",
        "? ", "---", "...", "a: b", "\n# c\n", ",", "1:30", "<<", "=", "_", "+1", "\t", "\r", "\u{e9}",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut taken = 0;
    for _ in 0..10_000 {
        // A few lines, changed in a few places.
        let lines: Vec<&str> = PLAIN.lines().collect();
        let start = random.usize(..lines.len());
        let end = (start + random.usize(1..8)).min(lines.len());
        let mut text = lines[start..end].join("\n");
        for _ in 0..random.usize(..4) {
            let at = random.usize(..=text.len());
            let until = (at + random.usize(..4)).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(until) {
                text.replace_range(at..until, PIECES[random.usize(..PIECES.len())]);
            }
        }
        if let Some(found) = read::<Value>(&text) {
            taken += 1;
            assert_eq!(Some(found), the_long_way(&text), "{text:?}");
        }
    }
    assert!(taken > 1000, "only {taken} of the documents are plain");
}

#[test]
fn what_is_unusual_is_left_to_the_long_way() {
    let deep = "- ".repeat(40) + "a";
    let wide: String = (0..100).map(|i| format!("k{i}: x\n")).collect();
    for text in [
        "a: &a b\n",
        "a: *b\n",
        "a: !!str 1\n",
        "a: !local b\n",
        "<<: {a: 1}\n",
        "a: b\na: c\n",
        "a: {b: c, b: d}\n",
        "1: a\n",
        "true: a\n",
        "? [a]\n: b\n",
        "a: 1.5\n",
        "a: 0x1f\n",
        "a: 010\n",
        "a: 1_000\n",
        "a: +1\n",
        "a: -1\n",
        "a: .inf\n",
        "a: 1e5\n",
        "a: yes\n",
        "a: NULL\n",
        "a: 12345678901234567890\n",
        "a: b\n---\nc: d\n",
        "%YAML 1.2\n---\na: b\n",
        "a: [b\n",
        "a: b\n c: d\n",
        "a: b\n  c\n",
        "a:\n  text\n",
        "a: 'b' c\n",
        "a: 'b''c'\n",
        "a: \"b\\n\"\n",
        "a: b: c\n",
        "a: b #c\n",
        "a: |\n  b\n",
        "a: [b]\n",
        "a:b\n",
        "a : b\n",
        "- a\nb: c\n",
        "a: b\n- c\n",
        "a:\n    b: c\n  d: e\n",
        "a:\tb\n",
        "a: b\r\n",
        "a: \u{fc}\n",
        "just text\n",
        "",
        &deep,
        &wide,
    ] {
        assert_eq!(read::<Value>(text), None, "{text}");
    }
}

#[test]
fn a_string_is_not_taken_for_another_type() {
    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default)]
    struct View {
        text: String,
        number: u16,
        truth: bool,
        maybe: Option<String>,
        many: Vec<String>,
    }
    let found = read("text: a\nnumber: 8080\ntruth: true\nmaybe: ~\nmany:\n- a\n- '1'\nother:\n  a:\n  - 1.5\n");
    let many = vec!["a".to_owned(), "1".to_owned()];
    assert_eq!(found, Some(View { text: "a".to_owned(), number: 8080, truth: true, maybe: None, many }));
    for text in
        ["text: 1\n", "text: true\n", "text: ~\n", "number: '80'\n", "number: 70000\n", "truth: 'true'\n", "many: a\n"]
    {
        assert_eq!(read::<View>(text), None, "{text}");
    }
    assert_eq!(read::<Value>("a:\n- x\n- '1'"), Some(json!({"a": ["x", "1"]})));
}
