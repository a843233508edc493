use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use weft_route::{Cors, HeaderEdits, PathMatch, PathRewrite, Redirect, Rewrite, SessionCarrier, ValueMatch};

use super::*;
use crate::manifest::{self, Format, Reading, Scrutiny};
use crate::object::Object;

/// A route of the namespace `shop`, with these rules, and severity and field of each problem.
fn read(kind: &str, rules: &str) -> (RouteObject, Vec<String>) {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    let hosts = if kind == "TLSRoute" { "hostnames: [db.example.com], " } else { "" };
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], {hosts}rules: [{rules}]}}\n"
    );
    let found = manifest::read(&Path::new("f").into(), Format::Yaml, yaml.as_bytes(), Scrutiny::Normal, 1);
    let problems =
        found.problems.iter().map(|problem| format!("{} {}", problem.severity, problem.field.as_deref().unwrap_or("")));
    let problems = problems.collect();
    match found.entries.into_iter().next().map(|entry| entry.reading) {
        Some(Reading::Valid(Object::Route(route))) => (*route, problems),
        other => panic!("{other:?} {problems:?}"),
    }
}

fn http(rule: &str) -> (RuleObject, Vec<String>) {
    let (route, problems) = read("HTTPRoute", rule);
    (route.rules[0].clone(), problems)
}

/// A rule that is right.
fn good(rule: &str) -> RuleObject {
    let (rule, problems) = http(rule);
    assert_eq!(problems, [""; 0]);
    assert_eq!(rule.fault, None);
    rule
}

/// The one filter of a rule that is right.
fn filter(filter: &str) -> Filter {
    let rule = good(&format!("{{matches: [{{path: {{value: /a}}}}], filters: [{filter}]}}"));
    match &rule.filters[0] {
        FilterObject::Plain(filter) => filter.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_condition_on_a_request_is_read() {
    let rule = good(
        "{name: main, matches: [{path: {type: Exact, value: /a/}, method: POST, \
         headers: [{name: X-Who, value: me}, {name: x-v, type: RegularExpression, value: 'v[0-9]'}], \
         queryParams: [{name: q, value: '1'}]}, {path: {value: /b/}}, \
         {path: {type: RegularExpression, value: '/c/.*'}}, {headers: [{name: a, value: b}]}]}",
    );
    assert_eq!(rule.name.as_deref(), Some("main"));
    let [exact, prefix, regex, everywhere] = &rule.matches[..] else { panic!("{:?}", rule.matches) };
    assert_eq!(exact.path, Some(PathMatch::Exact("/a/".into())));
    assert_eq!(exact.method, Some(http::Method::POST));
    assert_eq!(exact.headers[0].name.as_str(), "x-who");
    assert_eq!(exact.headers[0].value, ValueMatch::Exact("me".into()));
    assert!(matches!(&exact.headers[1].value, ValueMatch::Regex(pattern) if pattern.is_match("v1")));
    assert_eq!((&*exact.query[0].name, &exact.query[0].value), ("q", &ValueMatch::Exact("1".into())));
    assert_eq!(prefix.path, Some(PathMatch::Prefix("/b".into())));
    assert!(matches!(&regex.path, Some(PathMatch::Regex(pattern)) if pattern.is_match("/c/d")));
    assert_eq!(everywhere.path, Some(PathMatch::Prefix("/".into())));
    // By the defaults of the API a rule, and a route, without conditions is for everything.
    assert_eq!(good("{}").matches[0].path, Some(PathMatch::Prefix("/".into())));
    assert_eq!(read("HTTPRoute", "").0.rules[0].matches[0].path, Some(PathMatch::Prefix("/".into())));
}

#[test]
fn a_rule_with_a_condition_that_is_not_understood_is_left_out() {
    let cases = [
        ("path: {value: a}", "path.value"),
        ("path: {value: /a//b}", "path.value"),
        ("path: {value: /a/../b}", "path.value"),
        ("path: {value: '/a%2Fb'}", "path.value"),
        ("path: {type: Exact, value: '/a?b'}", "path.value"),
        ("path: {type: Suffix, value: /a}", "path.type"),
        ("path: {type: RegularExpression, value: '('}", "path.value"),
        ("path: {type: RegularExpression, value: 'a)(b'}", "path.value"),
        ("method: FETCH", "method"),
        ("headers: [{name: 'a b', value: x}]", "headers[0].name"),
        ("headers: [{name: a, type: Is, value: x}]", "headers[0].type"),
        ("queryParams: [{value: x}]", "queryParams[0].name"),
        ("queryParams: [{name: q, type: RegularExpression, value: '*'}]", "queryParams[0].value"),
    ];
    for (condition, field) in cases {
        let (rule, problems) = http(&format!("{{matches: [{{{condition}}}]}}"));
        assert_eq!(problems, [format!("error spec.rules[0].matches[0].{field}")], "{condition}");
        assert!(rule.fault.is_some_and(|fault| fault.is_dropped), "{condition}");
    }
    let (route, problems) = read("HTTPRoute", "{matches: [{cookies: [{name: a}]}]}, {}");
    assert_eq!(problems, ["warning spec.rules[0].matches[0].cookies", "error spec.rules[0].matches"]);
    assert!(route.rules[0].fault.as_ref().is_some_and(|fault| fault.is_dropped), "nobody knows whom it is about");
    assert_eq!(route.rules[1].fault, None, "the others stay in force");
}

#[test]
fn of_conditions_on_one_header_the_first_counts() {
    let (rule, problems) = http("{matches: [{headers: [{name: A, value: x}, {name: a, value: z}]}]}");
    assert_eq!(problems, ["warning spec.rules[0].matches[0].headers[1].name"]);
    assert_eq!(rule.matches[0].headers.len(), 1);
    assert_eq!(rule.fault, None);
}

#[test]
fn methods_of_grpc_are_paths() {
    let path = |method: &str| {
        let (route, problems) = read("GRPCRoute", &format!("{{matches: [{{method: {{{method}}}}}]}}"));
        (route.rules[0].matches[0].path.clone(), problems.len())
    };
    assert_eq!(path("service: shop.Cart, method: Add"), (Some(PathMatch::Exact("/shop.Cart/Add".into())), 0));
    assert_eq!(path("service: shop.Cart"), (Some(PathMatch::Prefix("/shop.Cart".into())), 0));
    for (method, yes, no) in [
        ("method: Add", "/any.Service/Add", "/a/b/Add"),
        ("type: RegularExpression, service: 'shop[.].*'", "/shop.Cart/Any", "/shopCart/Any"),
        ("type: RegularExpression, method: 'Add|Get'", "/s/Get", "/s/GetAll"),
        ("type: RegularExpression, service: 'a|b', method: c", "/b/c", "/b"),
    ] {
        let (Some(PathMatch::Regex(pattern)), 0) = path(method) else { panic!("{method}") };
        assert!(pattern.is_match(yes) && !pattern.is_match(no), "{method} {}", pattern.source());
    }
    for wrong in ["", "service: 'a/b'", "type: RegularExpression, service: 'a)/(b'", "type: Is, service: a"] {
        assert_eq!(path(wrong), (None, 1), "{wrong}");
    }
    // Not for every request of HTTP, but for every one that is gRPC.
    assert!(read("GRPCRoute", "{}").0.rules[0].matches.is_empty());
}

#[test]
fn every_filter_is_read() {
    let pair = |name: &'static str, value: &'static str| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
    };
    let edits = "set: [{name: A, value: '1'}], add: [{name: b, value: '2'}], remove: [C]";
    let expected = HeaderEdits {
        set: vec![pair("a", "1")],
        add: vec![pair("b", "2")],
        remove: vec![http::HeaderName::from_static("c")],
    };
    assert_eq!(
        filter(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}}}")),
        Filter::RequestHeaders(expected.clone())
    );
    assert_eq!(
        filter(&format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {{{edits}}}}}")),
        Filter::ResponseHeaders(expected)
    );
    assert_eq!(
        filter(
            "{type: RequestRedirect, requestRedirect: {scheme: https, hostname: New.example.com, port: 8443, \
             statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}"
        ),
        Filter::Redirect(Redirect {
            scheme: Some("https".into()),
            hostname: Some("new.example.com".into()),
            path: Some(PathRewrite::Prefix("/b".into())),
            port: Some(8443),
            status: StatusCode::PERMANENT_REDIRECT,
        })
    );
    assert_eq!(
        filter("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}"),
        Filter::Rewrite(Rewrite { hostname: None, path: Some(PathRewrite::Full("/x".into())) })
    );
    assert_eq!(
        filter(
            "{type: CORS, cors: {allowOrigins: ['https://*.example.com', 'http://a:8080'], allowCredentials: true, \
             allowMethods: [GET], allowHeaders: ['*'], exposeHeaders: [x-a]}}"
        ),
        Filter::Cors(Cors {
            allow_origins: vec!["https://*.example.com".into(), "http://a:8080".into()],
            allow_credentials: true,
            allow_methods: vec!["GET".into()],
            allow_headers: vec!["*".into()],
            expose_headers: vec!["x-a".into()],
            max_age: Duration::from_secs(5),
        })
    );
    let backend = "backendRef: {name: copy, port: 80}";
    for (share, expected) in [
        ("", (1, 1)),
        (", percent: 10", (10, 100)),
        (", fraction: {numerator: 3}", (3, 100)),
        (", fraction: {numerator: 1, denominator: 1000}", (1, 1000)),
    ] {
        let rule = good(&format!("{{filters: [{{type: RequestMirror, requestMirror: {{{backend}{share}}}}}]}}"));
        let FilterObject::Mirror { backend, share } = &rule.filters[0] else { panic!("{:?}", rule.filters) };
        assert_eq!((&*backend.name, backend.port, *share), ("copy", Some(80), expected));
    }
}

#[test]
fn a_rule_of_which_something_cannot_be_done_answers_with_500() {
    let edits = |edits: &str| format!("type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}");
    let redirect = |spec: &str| format!("type: RequestRedirect, requestRedirect: {{{spec}}}");
    let mirror =
        |spec: &str| format!("type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 1}}, {spec}}}");
    let cases = [
        ("type: ExternalAuth".to_owned(), "type"),
        ("type: ExtensionRef, extensionRef: {name: a}".to_owned(), "type"),
        ("{}".to_owned().replace("{}", "cors: {}"), "type"),
        ("type: CORS".to_owned(), "cors"),
        (edits("set: [{name: 'a b', value: x}]"), "requestHeaderModifier.set[0].name"),
        (edits("add: [{name: a, value: \"x\\ny\"}]"), "requestHeaderModifier.add[0].value"),
        // Who changes where a message ends makes two of one.
        (edits("remove: [Content-Length]"), "requestHeaderModifier.remove[0]"),
        (edits("set: [{name: transfer-encoding, value: chunked}]"), "requestHeaderModifier.set[0].name"),
        (redirect("scheme: ftp"), "requestRedirect.scheme"),
        (redirect("statusCode: 200"), "requestRedirect.statusCode"),
        (redirect("port: 0"), "requestRedirect.port"),
        (redirect("hostname: '*.a'"), "requestRedirect.hostname"),
        (redirect("path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}"), "requestRedirect.path"),
        (redirect("path: {type: ReplaceFullPath, replacePrefixMatch: /b}"), "requestRedirect.path"),
        (redirect("path: {type: ReplaceAll}"), "requestRedirect.path.type"),
        (mirror("percent: 101"), "requestMirror.percent"),
        (mirror("percent: 1, fraction: {numerator: 1}"), "requestMirror"),
        (mirror("fraction: {numerator: 2, denominator: 1}"), "requestMirror.fraction"),
        (mirror("fraction: {numerator: 0, denominator: 0}"), "requestMirror.fraction"),
        ("type: RequestMirror, requestMirror: {backendRef: {name: a}}".to_owned(), "requestMirror.backendRef.port"),
        ("type: CORS, cors: {allowOrigins: ['*', 'http://a']}".to_owned(), "cors.allowOrigins[0]"),
        ("type: CORS, cors: {allowOrigins: [example.com]}".to_owned(), "cors.allowOrigins[0]"),
        ("type: CORS, cors: {allowMethods: [GET, '*']}".to_owned(), "cors.allowMethods"),
        ("type: CORS, cors: {maxAge: -1}".to_owned(), "cors.maxAge"),
    ];
    for (filter, field) in cases {
        let rule = format!("{{matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{{{filter}}}]}}");
        let (rule, problems) = http(&rule);
        assert_eq!(problems, [format!("error spec.rules[0].filters[0].{field}")], "{filter}");
        assert!(rule.fault.is_some_and(|fault| !fault.is_dropped && fault.reason == "UnsupportedValue"), "{filter}");
    }
    let twice = "{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}";
    let both = "{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {}}";
    for (filters, field) in [(twice, "filters[1]"), (both, "filters")] {
        let (rule, problems) = http(&format!("{{filters: [{filters}]}}"));
        assert_eq!(problems, [format!("error spec.rules[0].{field}")]);
        assert_eq!(rule.fault.map(|fault| fault.reason), Some("IncompatibleFilters"));
    }
}

#[test]
fn backends_have_weights_and_filters_and_a_mistake_in_one_leaves_the_others() {
    let (rule, problems) = http(
        "{backendRefs: [{name: a, port: 80, weight: 90}, {name: b, namespace: lab, port: 80}, \
         {name: c, port: 80, weight: -1}, {name: d}, {name: e, kind: Bucket, group: x.io}, \
         {name: f, port: 1, filters: [{type: ExternalAuth}]}]}",
    );
    let field = |rest: &str| format!("error spec.rules[0].backendRefs{rest}");
    assert_eq!(problems, [field("[2].weight"), field("[3].port"), field("[5].filters[0].type")]);
    assert_eq!(rule.fault, None);
    let weights: Vec<u32> = rule.backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [90, 1, 1, 1, 1, 1]);
    let faults: Vec<bool> = rule.backends.iter().map(|backend| backend.fault.is_some()).collect();
    assert_eq!(faults, [false, false, true, true, false, true]);
    assert_eq!(rule.backends[1].namespace.as_deref(), Some("lab"));
}

#[test]
fn time_outs_retries_and_sessions_are_read() {
    let rule = good(
        "{timeouts: {request: 10s, backendRequest: 500ms}, retry: {codes: [502, 503], attempts: 3, backoff: 100ms}, \
         sessionPersistence: {sessionName: basket, type: Cookie, absoluteTimeout: 1h, idleTimeout: 5m, \
         cookieConfig: {lifetimeType: Permanent}}}",
    );
    let seconds = Duration::from_secs;
    assert_eq!(rule.timeouts, Timeouts { request: Some(seconds(10)), backend: Some(Duration::from_millis(500)) });
    assert_eq!(
        rule.retry,
        Some(Retry {
            codes: vec![StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE],
            attempts: 3,
            backoff: Some(Duration::from_millis(100)),
        })
    );
    assert_eq!(
        rule.session,
        Some(SessionPersistence {
            name: "basket".into(),
            carrier: SessionCarrier::PermanentCookie,
            absolute_timeout: Some(seconds(3600)),
            idle_timeout: Some(seconds(300)),
        })
    );
    assert_eq!(good("{timeouts: {request: 0s}}").timeouts, Timeouts::default());
    assert_eq!(good("{retry: {}}").retry, Some(Retry { codes: Vec::new(), attempts: 2, backoff: None }));
    let session = |rule: &RuleObject| rule.session.as_ref().map(|session| (session.name.to_string(), session.carrier));
    let (two, _) = read("HTTPRoute", "{sessionPersistence: {}}, {sessionPersistence: {type: Header}}");
    let (first, second) = (session(&two.rules[0]).expect("one"), session(&two.rules[1]).expect("one"));
    assert_eq!((first.1, second.1), (SessionCarrier::SessionCookie, SessionCarrier::Header));
    assert_ne!(first.0, second.0, "sessions of two rules must not meet");
    for (rule, field) in [
        ("timeouts: {request: 10}", ""),
        ("timeouts: {request: '10'}", "timeouts.request"),
        ("timeouts: {request: 1s, backendRequest: 2s}", "timeouts.backendRequest"),
        ("retry: {codes: [200]}", "retry.codes[0]"),
        ("retry: {attempts: -1}", "retry.attempts"),
        ("retry: {backoff: soon}", "retry.backoff"),
        ("sessionPersistence: {type: Memory}", "sessionPersistence.type"),
        ("sessionPersistence: {sessionName: 'a b'}", "sessionPersistence.sessionName"),
        ("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}", "sessionPersistence.absoluteTimeout"),
    ] {
        if field.is_empty() {
            // The type of a value is a matter of the whole object: what was right before stays.
            let yaml = format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{rules: [{{{rule}}}]}}\n"
            );
            let found = manifest::read(&Path::new("f").into(), Format::Yaml, yaml.as_bytes(), Scrutiny::Normal, 1);
            assert!(matches!(found.entries[0].reading, Reading::Invalid(None)), "{rule}");
            assert_eq!(found.problems[0].field.as_deref(), Some("spec.rules[0].timeouts.request"));
            continue;
        }
        let (found, problems) = http(&format!("{{{rule}}}"));
        assert_eq!(problems, [format!("error spec.rules[0].{field}")], "{rule}");
        assert!(found.fault.is_some_and(|fault| !fault.is_dropped), "{rule}");
    }
}

#[test]
fn routes_of_bytes_have_backends_and_no_filters() {
    let (tcp, problems) = read("TCPRoute", "{backendRefs: [{name: db, port: 5432}]}");
    assert_eq!((tcp.kind, problems), (RouteKind::Tcp, Vec::new()));
    assert_eq!(tcp.rules[0].backends[0].port, Some(5432));
    let (tls, problems) =
        read("TLSRoute", "{backendRefs: [{name: db, port: 5432, filters: [{type: CORS, cors: {}}]}]}");
    assert_eq!(problems, ["error spec.rules[0].backendRefs[0].filters"]);
    assert_eq!(&*tls.hostnames, [Hostname::Exact("db.example.com".into())]);
    assert!(tls.rules[0].fault.is_some());
}

#[test]
fn host_names_are_names_and_may_begin_with_a_wildcard() {
    let cases = [
        ("Shop.Example.com", Some(Hostname::Exact("shop.example.com".into()))),
        ("*.example.com", Some(Hostname::Below("example.com".into()))),
        ("*", None),
        ("a.*.com", None),
        ("10.0.0.1", None),
        ("a b", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(hostname(text, String::new, &mut Notes::default()), expected, "{text}");
    }
}
