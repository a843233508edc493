use super::*;

fn read(spec: &str) -> (PeerAuthentication, Vec<String>) {
    let json = format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#);
    let manifest: PeerAuthenticationManifest = serde_json::from_str(&json).expect("the test's JSON is valid");
    let mut notes = Notes::default();
    let policy = PeerAuthentication::read(&manifest, &mut Interner::default(), &mut notes).expect("its name is valid");
    let fields = notes.fields().map(str::to_owned).collect();
    (policy, fields)
}

#[test]
fn mistakes_name_their_field_and_mean_strict() {
    let selector = r#""selector":{"matchLabels":{"app":"web"}}"#;
    let cases = [
        (r#"{"mtls":{"mode":"STRIKT"}}"#.to_owned(), "spec.mtls.mode"),
        (
            format!(r#"{{{selector},"mtls":{{"mode":"STRICT"}},"portLevelMtls":{{"http":{{}}}}}}"#),
            "spec.portLevelMtls[http]",
        ),
        (
            format!(r#"{{{selector},"mtls":{{"mode":"STRICT"}},"portLevelMtls":{{"80":{{"mode":"x"}}}}}}"#),
            "spec.portLevelMtls[80].mode",
        ),
        (r#"{"mtls":{"mode":"STRICT"},"portLevelMtls":{"80":{"mode":"PERMISSIVE"}}}"#.to_owned(), "spec.portLevelMtls"),
    ];
    for (spec, field) in cases {
        let (policy, fields) = read(&spec);
        assert_eq!(fields, [field], "{spec}");
        assert_eq!(policy.mode, MtlsMode::Strict, "{spec}");
        assert!(policy.ports.iter().all(|(_, mode)| *mode == MtlsMode::Strict), "{spec}");
    }
}

#[test]
fn disable_is_permissive_with_a_note() {
    let (policy, fields) = read(r#"{"mtls":{"mode":"DISABLE"}}"#);
    assert_eq!((policy.mode, fields), (MtlsMode::Permissive, vec!["spec.mtls.mode".to_owned()]));
    let (policy, fields) = read("{}");
    assert_eq!((policy.mode, fields), (MtlsMode::Unset, vec![]));
}
