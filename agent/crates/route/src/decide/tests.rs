use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use super::*;
use crate::request::Request;
use crate::route::{Cors, HeaderEdits, PathRewrite, Redirect, Rewrite, Route, RouteKind};

mod cors;

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn service(port: u16, weight: u32, filters: Vec<Filter>) -> Backend {
    Backend { target: BackendTarget::Service { key: "shop/cart".into(), port }, weight, filters }
}

fn invalid(weight: u32) -> Backend {
    Backend { target: BackendTarget::Invalid { reason: "it is not there".into() }, weight, filters: Vec::new() }
}

fn matched(prefix: Option<&str>, filters: Vec<Filter>, backends: Vec<Backend>) -> Matched {
    let route = Route {
        key: "http/shop/it".into(),
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: "it".into(),
        created: 0,
        parents: Vec::new(),
        hostnames: Vec::new(),
        rules: vec![Rule { filters, backends, ..Rule::default() }],
    };
    Matched { route: Arc::new(route), rule: 0, prefix: prefix.map(Into::into) }
}

fn edits(
    set: &[(&'static str, &'static str)],
    add: &[(&'static str, &'static str)],
    remove: &[&'static str],
) -> HeaderEdits {
    let all = |edits: &[(&'static str, &'static str)]| {
        edits.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    };
    HeaderEdits { set: all(set), add: all(add), remove: remove.iter().copied().map(HeaderName::from_static).collect() }
}

fn forward(matched: &Matched, parts: &mut request::Parts) -> Forward {
    match decide(matched, parts, &mut |_| 0) {
        Decision::Forward(forward) => forward,
        Decision::Answer(answer) => panic!("it is answered: {answer:?}"),
    }
}

fn answer(matched: &Matched, parts: &mut request::Parts) -> Answer {
    match decide(matched, parts, &mut |_| 0) {
        Decision::Answer(answer) => answer,
        Decision::Forward(forward) => panic!("it goes on: {forward:?}"),
    }
}

/// `name: value` of each, in order of names.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    lines
}

fn edited_response(forward: &Forward, headers: &[(&str, &str)]) -> Vec<String> {
    let mut builder = http::Response::builder();
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let mut head = builder.body(()).unwrap().into_parts().0;
    forward.edit_response(&mut head);
    lines(&head.headers)
}

#[test]
fn headers_are_set_then_added_then_removed_by_the_rule_then_by_the_backend() {
    let of_rule = edits(&[("x-set", "rule"), ("x-gone", "1")], &[("x-add", "rule")], &["x-gone", "x-old"]);
    let of_backend = edits(&[("x-set", "backend")], &[("x-add", "backend")], &["x-rule"]);
    let both = |make: fn(HeaderEdits) -> Filter| (vec![make(of_rule.clone())], vec![make(of_backend.clone())]);
    let (rule, backend) = both(Filter::RequestHeaders);
    let mut parts =
        parts("GET", "/", &[("x-set", "1"), ("x-set", "2"), ("x-add", "client"), ("x-old", "1"), ("x-rule", "1")]);
    forward(&matched(None, rule, vec![service(80, 1, backend)]), &mut parts);
    assert_eq!(lines(&parts.headers), ["x-add: client", "x-add: rule", "x-add: backend", "x-set: backend"]);
    // Answers come the other way.
    let (rule, backend) = both(Filter::ResponseHeaders);
    let forward = forward(&matched(None, rule, vec![service(80, 1, backend)]), &mut parts);
    let headers = edited_response(&forward, &[("x-set", "1"), ("x-add", "server"), ("x-old", "1"), ("x-rule", "1")]);
    assert_eq!(headers, ["x-add: server", "x-add: backend", "x-add: rule", "x-set: rule"]);
}

#[test]
fn a_host_is_set_wherever_the_request_says_it() {
    let set = Filter::RequestHeaders(edits(&[("host", "new:81")], &[], &[]));
    let remove = Filter::RequestHeaders(edits(&[("x-a", "1")], &[], &["host"]));
    let bad = Filter::RequestHeaders(edits(&[("host", "no host")], &[], &[]));
    let rewrite = Filter::Rewrite(Rewrite { hostname: Some("new".into()), path: None });
    for (filter, uri, host, expected_uri, expected_host) in [
        (&set, "/a?b", Some("old:80"), "/a?b", Some("new:81")),
        (&set, "http://old:80/a?b", None, "http://new:81/a?b", None),
        (&set, "http://old:80/a?b", Some("old:80"), "http://new:81/a?b", Some("new:81")),
        (&remove, "/a", Some("old"), "/a", Some("old")),
        (&bad, "http://old/a", Some("old"), "http://old/a", Some("old")),
        (&rewrite, "/a", Some("old:80"), "/a", Some("new")),
        (&rewrite, "http://old:80/a?b", None, "http://new/a?b", None),
    ] {
        let mut parts = parts("GET", uri, &host.map(|host| ("host", host)).into_iter().collect::<Vec<_>>());
        forward(&matched(None, vec![filter.clone()], vec![service(80, 1, Vec::new())]), &mut parts);
        assert_eq!(parts.uri.to_string(), expected_uri, "{filter:?}");
        assert_eq!(parts.headers.get("host").map(|host| host.to_str().unwrap()), expected_host, "{filter:?}");
        // Whoever comes next asks for the same host.
        let said = parts.uri.host().into_iter().chain(parts.headers.get("host").map(|host| host.to_str().unwrap()));
        assert!(said.map(|host| host.split(':').next()).all(|host| host == Some(Request::of(&parts).host)));
    }
}

#[test]
fn prefixes_are_replaced_as_the_specification_shows() {
    for (path, prefix, new, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        // The whole path is below `/`.
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/foo/bar?a=/foo", "/foo", "/xyz", "/xyz/bar?a=/foo"),
        ("/foo/b%3Fr?q", "/foo", "/x y?z", "/x%20y%3Fz/b%3Fr?q"),
    ] {
        let filter = Filter::Rewrite(Rewrite { hostname: None, path: Some(PathRewrite::Prefix(new.into())) });
        for origin in ["", "http://cart:80"] {
            let mut parts = parts("GET", &format!("{origin}{path}"), &[]);
            forward(&matched(Some(prefix), vec![filter.clone()], vec![service(80, 1, Vec::new())]), &mut parts);
            assert_eq!(parts.uri.to_string(), format!("{origin}{expected}"), "{path} {prefix} {new}");
        }
    }
}

#[test]
fn paths_are_rewritten_from_the_requests_own() {
    let prefix = |new: &str| Filter::Rewrite(Rewrite { hostname: None, path: Some(PathRewrite::Prefix(new.into())) });
    let full = |new: &str| Filter::Rewrite(Rewrite { hostname: None, path: Some(PathRewrite::Full(new.into())) });
    for (matched_by, of_rule, of_backend, expected) in [
        (Some("/a"), full("/x"), Vec::new(), "/x?q=1"),
        (Some("/a"), full(""), Vec::new(), "/?q=1"),
        (Some("/a"), full("x?y#z"), Vec::new(), "/x%3Fy%23z?q=1"),
        (Some("/a"), full("/%41%2f"), Vec::new(), "/%41%2f?q=1"),
        (Some("/a"), prefix("/x"), vec![prefix("/y")], "/y/b?q=1"),
        (Some("/a"), full("/x"), vec![prefix("/y")], "/y/b?q=1"),
        // Matched by no prefix: there is nothing to replace.
        (None, prefix("/x"), Vec::new(), "/a/b?q=1"),
    ] {
        let mut parts = parts("GET", "/a/b?q=1", &[]);
        forward(&matched(matched_by, vec![of_rule], vec![service(80, 1, of_backend)]), &mut parts);
        assert_eq!(parts.uri.to_string(), expected);
    }
}

#[test]
fn redirections_say_where_by_the_rules_for_ports() {
    let redirect = |scheme: Option<&str>, hostname: Option<&str>, port: Option<u16>| Redirect {
        scheme: scheme.map(Into::into),
        hostname: hostname.map(Into::into),
        path: None,
        port,
        status: StatusCode::FOUND,
    };
    for (filter, uri, host, expected) in [
        (redirect(None, Some("example.org"), None), "/a?b=c", "cart", "http://example.org/a?b=c"),
        (redirect(None, Some("example.org"), None), "/a", "cart:8080", "http://example.org:8080/a"),
        (redirect(None, None, Some(8083)), "/a", "cart:8080", "http://cart:8083/a"),
        (redirect(None, None, Some(80)), "/a", "cart:8080", "http://cart/a"),
        (redirect(None, None, Some(443)), "/a", "cart", "http://cart:443/a"),
        (redirect(Some("https"), None, None), "/a", "cart:8080", "https://cart/a"),
        (redirect(Some("https"), None, Some(443)), "/a", "cart:8080", "https://cart/a"),
        (redirect(Some("https"), None, Some(8443)), "/a", "cart", "https://cart:8443/a"),
        (redirect(Some("https"), None, Some(80)), "/a", "cart", "https://cart:80/a"),
        (redirect(Some("http"), None, None), "/a", "cart:8080", "http://cart/a"),
        (redirect(Some("http"), None, Some(80)), "/a", "cart:8080", "http://cart/a"),
        (redirect(None, Some("example.org"), None), "https://cart:443/a", "x", "https://example.org/a"),
        (redirect(None, None, None), "/a", "[fd00::1]:8080", "http://[fd00::1]:8080/a"),
    ] {
        let mut parts = parts("GET", uri, &[("host", host)]);
        let answer = answer(&matched(None, vec![Filter::Redirect(filter.clone())], Vec::new()), &mut parts);
        assert_eq!((answer.status, answer.cause), (StatusCode::FOUND, Cause::Redirect));
        assert_eq!(answer.headers["location"], expected, "{filter:?} {uri} {host}");
    }
}

#[test]
fn redirections_have_their_path_status_and_headers() {
    let edit = Filter::ResponseHeaders(edits(&[("x-by", "mesh")], &[], &[]));
    let statuses = [301, 302, 303, 307, 308].map(|status| StatusCode::from_u16(status).unwrap());
    for (status, path, expected) in [
        (statuses[0], None, "http://cart/foo/bar?q"),
        (statuses[1], Some(PathRewrite::Full("/x".into())), "http://cart/x?q"),
        (statuses[2], Some(PathRewrite::Prefix("/x".into())), "http://cart/x/bar?q"),
        (statuses[3], Some(PathRewrite::Prefix("".into())), "http://cart/bar?q"),
        (statuses[4], Some(PathRewrite::Prefix("/x/".into())), "http://cart/x/bar?q"),
    ] {
        let redirect = Redirect { scheme: None, hostname: None, path, port: None, status };
        let filters = vec![Filter::Redirect(redirect), edit.clone()];
        let answer =
            answer(&matched(Some("/foo"), filters, Vec::new()), &mut parts("GET", "/foo/bar?q", &[("host", "cart")]));
        assert_eq!(answer.status, status);
        assert_eq!(lines(&answer.headers), [format!("location: {expected}"), "x-by: mesh".to_owned()]);
    }
}

#[test]
fn backends_have_their_share_and_what_is_invalid_is_answered_with_500() {
    for (backends, expected) in [
        (vec![], vec![(None, 10)]),
        (vec![(80, 1)], vec![(Some(80), 10)]),
        (vec![(80, 0)], vec![(None, 10)]),
        (vec![(80, 0), (81, 0)], vec![(None, 10)]),
        (vec![(80, 9), (81, 1)], vec![(Some(80), 9), (Some(81), 1)]),
        (vec![(80, 0), (81, 3), (82, 0), (83, 7)], vec![(Some(81), 3), (Some(83), 7)]),
        // Port 0 is the one that is invalid.
        (vec![(0, 2), (80, 8)], vec![(None, 2), (Some(80), 8)]),
        (vec![(0, 1)], vec![(None, 10)]),
    ] {
        let all = backends.iter().map(|(port, weight)| match port {
            0 => invalid(*weight),
            port => service(*port, *weight, Vec::new()),
        });
        let matched = matched(None, Vec::new(), all.collect());
        let mut seen: Vec<(Option<u16>, u32)> = Vec::new();
        for rolled in 0..10 {
            let decision = decide(&matched, &mut parts("GET", "/", &[]), &mut |below| rolled % below);
            let port = match decision {
                Decision::Forward(forward) => match forward.backend().target {
                    BackendTarget::Service { port, .. } => Some(port),
                    BackendTarget::Invalid { .. } => panic!("it cannot go there"),
                },
                Decision::Answer(answer) => {
                    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
                    let invalid = Cause::InvalidBackend("it is not there".into());
                    assert_eq!(
                        answer.cause,
                        if backends.iter().any(|(port, _)| *port == 0) { invalid } else { Cause::NoBackend }
                    );
                    None
                }
            };
            match seen.iter_mut().find(|(known, _)| *known == port) {
                Some((_, count)) => *count += 1,
                None => seen.push((port, 1)),
            }
        }
        assert_eq!(seen, expected, "{backends:?}");
    }
}

#[test]
fn weights_beyond_any_sum_keep_their_proportions() {
    let rule = Rule { backends: vec![service(80, u32::MAX, Vec::new()); 4], ..Rule::default() };
    for (share, expected) in [(0.0, 0), (0.26, 1), (0.51, 2), (0.76, 3), (1.0, 3)] {
        let chosen = choose(&rule, &mut |below| ((f64::from(below) * share) as u32).min(below - 1));
        assert_eq!(chosen, Some(expected), "{share}");
    }
}

#[test]
fn a_session_keeps_its_backend_whatever_the_weights_are() {
    let matched = matched(None, Vec::new(), vec![service(80, 1, Vec::new()), service(81, 0, Vec::new()), invalid(0)]);
    for (backend, expected) in [(None, Some(0)), (Some(1), Some(1)), (Some(9), Some(0)), (Some(2), None)] {
        let index = match decide_in_session(&matched, &mut parts("GET", "/", &[]), backend, &mut |_| 0) {
            Decision::Forward(forward) => Some(forward.index()),
            Decision::Answer(_) => None,
        };
        assert_eq!(index, expected, "{backend:?}");
    }
}

#[test]
fn copies_are_made_of_a_share_of_requests() {
    let mirror = |port, share| {
        let backend = BackendTarget::Service { key: "shop/copy".into(), port };
        Filter::Mirror(Mirror { backend, share })
    };
    let filters = vec![mirror(1, (100, 100)), mirror(2, (0, 100)), mirror(3, (1, 4)), mirror(4, (3, 2))];
    let matched = matched(None, filters, vec![service(80, 1, vec![mirror(5, (1, 2))])]);
    for (rolled, expected) in [(0, vec![1, 3, 4, 5]), (1, vec![1, 4]), (2, vec![1, 4, 5]), (4, vec![1, 3, 4, 5])] {
        let decision = decide(&matched, &mut parts("GET", "/", &[]), &mut |below| rolled % below);
        let Decision::Forward(forward) = decision else { panic!("it goes on") };
        let ports = forward.mirrors().map(|mirror| match mirror.backend {
            BackendTarget::Service { port, .. } => port,
            BackendTarget::Invalid { .. } => 0,
        });
        assert_eq!(ports.collect::<Vec<_>>(), expected, "{rolled}");
    }
}
