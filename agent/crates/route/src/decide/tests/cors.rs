use super::*;

fn cors(origins: &[&str], allow_credentials: bool, methods: &[&str], names: &[&str], exposed: &[&str]) -> Matched {
    let all = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
    let filter = Cors {
        allow_origins: all(origins),
        allow_credentials,
        allow_methods: all(methods),
        allow_headers: all(names),
        expose_headers: all(exposed),
        max_age: Duration::from_secs(5),
    };
    let edit = edits(&[("x-by", "mesh")], &[], &[]);
    matched(None, vec![Filter::ResponseHeaders(edit), Filter::Cors(filter)], vec![service(80, 1, Vec::new())])
}

const VARY: &str = "vary: origin, access-control-request-method, access-control-request-headers";

#[test]
fn preflights_are_answered_with_what_is_allowed() {
    let origin = "https://app.example.com";
    for (matched, asked_names, expected) in [
        (
            cors(&[origin], false, &["GET", "PUT"], &["x-a", "x-b"], &["x-c"]),
            Some("x-a"),
            vec![
                "access-control-allow-headers: x-a, x-b",
                "access-control-allow-methods: GET, PUT",
                "access-control-allow-origin: https://app.example.com",
                "access-control-max-age: 5",
                VARY,
            ],
        ),
        (
            cors(&["*"], false, &["*"], &["*"], &[]),
            Some("authorization, x-a"),
            vec![
                "access-control-allow-headers: authorization, x-a",
                "access-control-allow-methods: *",
                "access-control-allow-origin: *",
                "access-control-max-age: 5",
                VARY,
            ],
        ),
        (
            cors(&["*"], true, &["*"], &["*"], &[]),
            Some("authorization"),
            vec![
                "access-control-allow-credentials: true",
                "access-control-allow-headers: authorization",
                "access-control-allow-methods: PUT",
                "access-control-allow-origin: https://app.example.com",
                "access-control-max-age: 5",
                VARY,
            ],
        ),
        (
            cors(&["https://*.example.com"], false, &[], &["x-a"], &[]),
            None,
            vec!["access-control-allow-origin: https://app.example.com", "access-control-max-age: 5", VARY],
        ),
        // Not allowed: nothing is said.
        (cors(&["https://other.example.com"], true, &["*"], &["*"], &[]), Some("x-a"), vec![VARY]),
        (cors(&[], true, &["*"], &["*"], &[]), Some("x-a"), vec![VARY]),
    ] {
        let mut headers = vec![("origin", origin), ("access-control-request-method", "PUT")];
        headers.extend(asked_names.map(|names| ("access-control-request-headers", names)));
        let answer = answer(&matched, &mut parts("OPTIONS", "/", &headers));
        assert_eq!((answer.status, answer.cause), (StatusCode::NO_CONTENT, Cause::Preflight));
        assert_eq!(lines(&answer.headers), expected);
    }
}

#[test]
fn what_is_no_preflight_goes_on() {
    let matched = cors(&["*"], false, &["*"], &["*"], &[]);
    for (method, headers) in [
        ("OPTIONS", vec![("origin", "https://a.b")]),
        ("OPTIONS", vec![("access-control-request-method", "GET")]),
        ("GET", vec![("origin", "https://a.b"), ("access-control-request-method", "GET")]),
    ] {
        forward(&matched, &mut parts(method, "/", &headers));
    }
}

#[test]
fn answers_say_who_may_read_them_and_backends_do_not() {
    let origin = "https://app.example.com";
    let by_backend = [("access-control-allow-origin", "https://evil"), ("access-control-max-age", "9"), ("x-c", "1")];
    for (matched, origin, expected) in [
        (
            cors(&[origin], true, &[], &[], &["x-c", "x-d"]),
            Some(origin),
            vec![
                "access-control-allow-credentials: true",
                "access-control-allow-origin: https://app.example.com",
                "access-control-expose-headers: x-c, x-d",
                "vary: origin",
                "x-by: mesh",
                "x-c: 1",
            ],
        ),
        (
            cors(&["*"], false, &[], &[], &["*"]),
            Some(origin),
            vec!["access-control-allow-origin: *", "access-control-expose-headers: *", "x-by: mesh", "x-c: 1"],
        ),
        (
            cors(&["*"], true, &[], &[], &["*"]),
            Some(origin),
            vec![
                "access-control-allow-credentials: true",
                "access-control-allow-origin: https://app.example.com",
                "access-control-expose-headers: vary, x-by, x-c",
                "vary: origin",
                "x-by: mesh",
                "x-c: 1",
            ],
        ),
        (cors(&["https://other"], true, &[], &[], &["*"]), Some(origin), vec!["vary: origin", "x-by: mesh", "x-c: 1"]),
        // Of the same origin: the answer is the backend's affair.
        (
            cors(&[origin], true, &[], &[], &["*"]),
            None,
            vec![
                "access-control-allow-origin: https://evil",
                "access-control-max-age: 9",
                "vary: origin",
                "x-by: mesh",
                "x-c: 1",
            ],
        ),
    ] {
        let headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
        let forward = forward(&matched, &mut parts("GET", "/", &headers));
        assert_eq!(edited_response(&forward, &by_backend), expected);
    }
}

#[test]
fn origins_are_compared_by_scheme_host_and_port() {
    for (allowed, origin, expected) in [
        ("https://example.com", "https://example.com", true),
        ("https://example.com", "https://example.com:443", true),
        ("https://example.com:443", "https://example.com", true),
        ("http://example.com:80", "http://EXAMPLE.com", true),
        ("https://example.com", "http://example.com", false),
        ("https://example.com", "https://example.com:8443", false),
        ("https://example.com", "https://example.com.evil", false),
        ("https://example.com", "https://notexample.com", false),
        ("https://*.example.com", "https://a.b.example.com", true),
        ("https://*.example.com", "https://example.com", false),
        ("https://*.example.com", "https://.example.com", false),
        ("https://*.example.com", "https://a.example.com:8443", false),
        ("https://*.example.com:8443", "https://a.example.com:8443", true),
        ("https://*", "https://anything", true),
        ("https://*", "http://anything", false),
        ("https://*.example.com", "https://äx.example.com", false),
        ("*", "null", true),
        ("https://*", "null", false),
        ("https://example.com", "", false),
        ("https://[fd00::1]:81", "https://[fd00::1]:81", true),
    ] {
        let mut parts = parts("GET", "/", &[]);
        parts.headers.insert("origin", HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        let forward = forward(&cors(&[allowed], false, &[], &[], &[]), &mut parts);
        let says = edited_response(&forward, &[]).iter().any(|line| line.starts_with("access-control-allow-origin"));
        assert_eq!(says, expected, "{allowed} {origin}");
    }
}

#[test]
fn requests_are_judged_before_a_redirection_and_whatever_else_answers() {
    let redirect =
        Redirect { scheme: None, hostname: Some("b".into()), path: None, port: None, status: StatusCode::FOUND };
    let cors = cors(&["https://a"], false, &["PUT"], &[], &[]);
    let filters = [vec![Filter::Redirect(redirect)], cors.rule().filters.clone()].concat();
    let redirected = matched(None, filters, Vec::new());
    let preflight = [("origin", "https://a"), ("access-control-request-method", "PUT")];
    assert_eq!(answer(&redirected, &mut parts("OPTIONS", "/", &preflight)).cause, Cause::Preflight);
    let nowhere = matched(None, cors.rule().filters.clone(), Vec::new());
    for matched in [redirected, nowhere] {
        let answer = answer(&matched, &mut parts("PUT", "/", &preflight[..1]));
        assert_eq!(answer.headers["access-control-allow-origin"], "https://a");
        assert_eq!(answer.headers["x-by"], "mesh");
    }
}
