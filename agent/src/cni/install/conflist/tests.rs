use serde_json::json;

use super::*;

fn entry() -> Entry {
    Entry(json!({ "type": "weft-cni", "adminSocket": "/s" }))
}

const WRITTEN: &str = r#"{"adminSocket":"/s","type":"weft-cni"}"#;

fn changed(edited: Edited) -> String {
    match edited {
        Edited::Changed(text) => text,
        Edited::Same => panic!("nothing changed"),
    }
}

/// Lists as they are met, and as nobody would write them.
const LISTS: [&str; 6] = [
    r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp"}]}"#,
    "{\n  \"name\": \"pods\",\n  \"plugins\": [\n    {\n      \"type\": \"ptp\"\n    },\n    {\"type\": \"portmap\"}\n  ],\n  \"cniVersion\": \"0.3.1\"\n}\n",
    // Fields that nobody knows, numbers that no float holds, escapes, and text that looks like structure.
    r#"{"x":{"plugins":[1]},"n":12345678901234567890.50,"name":"p\u00e9]}","plugins":[{"type":"a","s":"]},{\"type\":\"weft-cni\"}"}],"cniVersion":"0.4.0"}"#,
    "\t{\r\n\"cniVersion\":\"1.1.0\" ,\"plugins\" : [ { \"type\" : \"a\" } , { \"type\":\"b\",\"type2\":[] } ] , \"name\":\"p\"}\r\n\r\n",
    r#"{"cniVersion":"0.3.0","name":"日本","plugins":[{"type":"ä"},{"type":"b"},{"type":"c"}],"disableCheck":true}"#,
    r#"{"cniVersions":["1.0.0","1.1.0"],"name":"p","plugins":[{"type":"a"}]}"#,
];

#[test]
fn what_is_put_in_stands_last_and_taking_it_out_leaves_every_byte_as_it_was() {
    for list in LISTS {
        Form::List.check(list).expect("a network");
        let with = changed(insert(list, &entry()).expect("a list"));
        Form::List.check(&with).expect("still a network");
        let (before, after): (Value, Value) =
            (serde_json::from_str(list).unwrap(), serde_json::from_str(&with).unwrap());
        let mut expected = before;
        expected["plugins"].as_array_mut().unwrap().push(entry().0);
        assert_eq!(after, expected);
        assert_eq!(insert(&with, &entry()).expect("a list"), Edited::Same);
        assert_eq!(changed(remove(&with).expect("a list")), list);
        assert_eq!(remove(list).expect("a list"), Edited::Same);
    }
}

#[test]
fn the_entry_is_set_as_the_one_before_it() {
    let list = "{\"name\":\"p\",\"cniVersion\":\"1.0.0\",\"plugins\":[\n  {\"type\":\"a\"}\n]}";
    let expected =
        format!("{{\"name\":\"p\",\"cniVersion\":\"1.0.0\",\"plugins\":[\n  {{\"type\":\"a\"}},\n  {WRITTEN}\n]}}");
    assert_eq!(changed(insert(list, &entry()).expect("a list")), expected);
}

#[test]
fn an_older_entry_is_replaced_and_of_several_one_stays() {
    let head = r#"{"name":"p","cniVersion":"1.0.0","plugins":["#;
    let old = r#"{"type":"weft-cni","adminSocket":"/old"}"#;
    let (a, b) = (r#"{"type":"a"}"#, r#"{"type":"b"}"#);
    let cases = [
        (format!("{head}{a},{old}]}}"), format!("{head}{a}")),
        (format!("{head}{old},{a}]}}"), format!("{head}{a}")),
        (format!("{head}{old}, {old},{a} , {old},{b},{old}]}}"), format!("{head}{a},{b}")),
        (format!("{head}{a},{WRITTEN},{b},{WRITTEN}]}}"), format!("{head}{a},{b}")),
    ];
    for (list, expected) in cases {
        let with = changed(insert(&list, &entry()).expect("a list"));
        assert_eq!(with, format!("{expected},{WRITTEN}]}}"), "{list}");
        assert_eq!(changed(remove(&list).expect("a list")), format!("{expected}]}}"), "{list}");
    }
}

#[test]
fn one_that_another_plug_in_came_behind_stays_where_it_is() {
    let list = format!(r#"{{"name":"p","cniVersion":"1.0.0","plugins":[{{"type":"a"}},{WRITTEN},{{"type":"late"}}]}}"#);
    assert_eq!(insert(&list, &entry()).expect("a list"), Edited::Same);
}

#[test]
fn what_configures_no_network_is_left_alone() {
    let lists = [
        "",
        "{",
        "[]",
        "null",
        "{\"name\":\"p\"}",
        r#"{"name":"p","cniVersion":"1.0.0","plugins":null}"#,
        r#"{"name":"p","cniVersion":"1.0.0","plugins":{}}"#,
        r#"{"name":"p","cniVersion":"1.0.0","plugins":[]}"#,
        r#"{"name":"p","cniVersion":"1.0.0","plugins":[{}]}"#,
        r#"{"name":"p","cniVersion":"1.0.0","plugins":["a"]}"#,
        r#"{"name":"p","cniVersion":"1.0.0","plugins":[{"type":"weft-cni"}]}"#,
        r#"{"name":"p","cniVersion":"1.0.0","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}"#,
        r#"{"name":"p","cniVersion":"1.0.0","plugins":[{"type":"a"}]} x"#,
        r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#,
        r#"{"name":7,"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#,
        // The plug-in would refuse every pod.
        r#"{"name":"p","plugins":[{"type":"a"}]}"#,
        r#"{"name":"p","cniVersion":"0.2.0","plugins":[{"type":"a"}]}"#,
        r#"{"name":"p","cniVersion":"1.0.0","cniVersions":["1.0.0","9.0.0"],"plugins":[{"type":"a"}]}"#,
    ];
    for list in lists {
        assert!(Form::List.check(list).is_err(), "{list}");
    }
    for single in [
        "",
        "{}",
        r#"{"name":"p","cniVersion":"1.0.0"}"#,
        r#"{"type":"a","cniVersion":"1.0.0"}"#,
        r#"{"type":"weft-cni","name":"p","cniVersion":"1.0.0"}"#,
    ] {
        assert!(Form::Single.check(single).is_err(), "{single}");
    }
}

#[test]
fn a_single_plug_in_becomes_the_first_of_a_list() {
    let single = r#"{"cniVersion":"0.4.0","name":"p\"q","type":"ptp","mtu":1e3,"ipam":{"type":"host-local"}}"#;
    Form::Single.check(single).expect("a network");
    let list = wrap(&format!("{single}\n"), &entry()).expect("a list");
    Form::List.check(&list).expect("a network");
    assert!(list.contains(single), "as it was, with all that it says");
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&list["name"], &list["cniVersion"]), (&json!("p\"q"), &json!("0.4.0")));
    assert_eq!(list["plugins"][1], entry().0);
}

/// Texts that are nearly lists: bytes of the ones above changed, doubled, left out. The same ones each time.
fn nearly_lists() -> impl Iterator<Item = String> {
    let mut state = 1_u64;
    let mut draw = move |below: usize| {
        // Knuth's MMIX generator: its upper bits are good enough to choose a byte.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    let entry = format!(",{WRITTEN}");
    (0..20_000).filter_map(move |_| {
        let mut bytes = LISTS[draw(LISTS.len())].as_bytes().to_vec();
        for _ in 0..=draw(3) {
            let at = draw(bytes.len());
            match draw(4) {
                0 => bytes[at] = b"{}[],:\" \\n1a"[draw(12)],
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[],:\" \\n1a"[draw(12)]),
                _ => drop(bytes.splice(at..at, entry.bytes())),
            }
        }
        String::from_utf8(bytes).ok()
    })
}

#[test]
fn whatever_a_file_holds_it_is_edited_rightly_or_refused() {
    let mut edited = 0;
    for text in nearly_lists() {
        let Ok(with) = insert(&text, &entry()) else {
            continue;
        };
        edited += 1;
        let clean = match remove(&text).expect("what can be edited") {
            Edited::Same => text.clone(),
            Edited::Changed(clean) => clean,
        };
        match with {
            Edited::Same => assert_ne!(clean, text),
            Edited::Changed(with) => {
                let list: Value = serde_json::from_str(&with).expect("JSON");
                assert_eq!(list["plugins"].as_array().and_then(|plugins| plugins.last()), Some(&entry().0), "{text}");
                assert_eq!(remove(&with).expect("a list"), Edited::Changed(clean), "{text}");
            }
        }
    }
    assert!(edited > 1000, "only {edited} of the texts were lists");
}
