use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::route::{HeaderMatch, Hostname, PathMatch, Pattern, QueryMatch, RouteKind, ValueMatch};

fn prefix(path: &str) -> RequestMatch {
    RequestMatch { path: Some(PathMatch::Prefix(path.into())), ..RequestMatch::default() }
}

fn exact(path: &str) -> RequestMatch {
    RequestMatch { path: Some(PathMatch::Exact(path.into())), ..RequestMatch::default() }
}

fn regex(source: &str) -> RequestMatch {
    RequestMatch { path: Some(PathMatch::Regex(Pattern::new(source).unwrap())), ..RequestMatch::default() }
}

fn with_headers(mut conditions: RequestMatch, names: &[&'static str]) -> RequestMatch {
    let is_one =
        |name: &&'static str| HeaderMatch { name: HeaderName::from_static(name), value: ValueMatch::Exact("1".into()) };
    conditions.headers = names.iter().map(is_one).collect();
    conditions
}

fn with_query(mut conditions: RequestMatch, names: &[&str]) -> RequestMatch {
    let is_one = |name: &&str| QueryMatch { name: (*name).into(), value: ValueMatch::Exact("1".into()) };
    conditions.query = names.iter().map(is_one).collect();
    conditions
}

fn with_method(mut conditions: RequestMatch, method: Method) -> RequestMatch {
    conditions.method = Some(method);
    conditions
}

/// A route with a rule for each of the conditions.
fn route(kind: RouteKind, name: &str, created: i64, conditions: Vec<RequestMatch>) -> Arc<Route> {
    Arc::new(Route {
        key: format!("{kind:?}/shop/{name}").into(),
        kind,
        namespace: "shop".into(),
        name: name.into(),
        created,
        parents: Vec::new(),
        hostnames: Vec::new(),
        rules: conditions.into_iter().map(|matched| Rule { matches: vec![matched], ..Rule::default() }).collect(),
    })
}

fn at(hostnames: Vec<Hostname>, route: Arc<Route>) -> Arc<Route> {
    Arc::new(Route { hostnames, ..Route::clone(&route) })
}

/// The route and rule for a request with the headers `x-a` and `x-b` and the parameters `p` and `q`, all 1.
fn found(routes: &[Arc<Route>], method: Method, host: &str, path: &str, kind: &'static str) -> Option<(String, usize)> {
    let table = Table::compile(routes, Names::Count).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for name in ["x-a", "x-b"] {
        headers.insert(name, HeaderValue::from_static("1"));
    }
    let request = Request { method: &method, host, path, query: Some("p=1&q=1"), headers: &headers };
    table.find(&request).map(|matched| (matched.route.name.to_string(), matched.rule))
}

#[test]
fn the_most_specific_match_wins_whatever_the_order_of_rules() {
    use RouteKind::Http;
    // Each is more specific than those before it, by the criteria of the specification.
    let ladder = [
        prefix("/"),
        prefix("/a"),
        prefix("/a/b"),
        with_query(prefix("/a/b"), &["p"]),
        with_query(prefix("/a/b"), &["p", "q"]),
        with_headers(prefix("/a/b"), &["x-a"]),
        with_query(with_headers(prefix("/a/b"), &["x-a"]), &["p"]),
        with_headers(prefix("/a/b"), &["x-a", "x-b"]),
        with_method(prefix("/a/b"), Method::GET),
        with_headers(with_method(prefix("/a/b"), Method::GET), &["x-a"]),
        regex("/a.*"),
        regex("/a/.*"),
        exact("/a/b/c"),
        with_query(exact("/a/b/c"), &["p"]),
    ];
    for length in 1..=ladder.len() {
        let routes = [route(Http, "it", 0, ladder[..length].to_vec())];
        let winner = found(&routes, Method::GET, "cart", "/a/b/c", "text/plain");
        assert_eq!(winner, Some(("it".to_owned(), length - 1)), "{:?}", ladder[length - 1]);
        // The same when each is a route of its own, and the least specific is the oldest.
        let routes: Vec<_> = (0..length)
            .map(|index| route(Http, &format!("r{index:02}"), index as i64, vec![ladder[index].clone()]))
            .collect();
        let winner = found(&routes, Method::GET, "cart", "/a/b/c", "text/plain");
        assert_eq!(winner, Some((format!("r{:02}", length - 1), 0)), "{:?}", ladder[length - 1]);
    }
}

#[test]
fn among_equals_the_oldest_wins_then_the_first_by_name_then_the_first_rule() {
    use RouteKind::Http;
    let equal = || vec![prefix("/a"), prefix("/a/")];
    let winner = |routes: &[Arc<Route>]| found(routes, Method::GET, "cart", "/a", "text/plain").unwrap();
    assert_eq!(winner(&[route(Http, "a", 2, equal()), route(Http, "b", 1, equal())]), ("b".to_owned(), 0));
    assert_eq!(winner(&[route(Http, "b", 1, equal()), route(Http, "a", 1, equal())]), ("a".to_owned(), 0));
    let early = Arc::new(Route { namespace: "bank".into(), ..Route::clone(&route(Http, "z", 1, equal())) });
    assert_eq!(winner(&[route(Http, "a", 1, equal()), early]), ("z".to_owned(), 0));
}

#[test]
fn prefixes_are_of_whole_elements() {
    let routes = [route(RouteKind::Http, "it", 0, vec![prefix("/abc"), prefix("/abc/def/")])];
    for (path, expected) in [
        ("/abc", Some(0)),
        ("/abc/", Some(0)),
        ("/abc/d", Some(0)),
        ("/abc/def", Some(1)),
        ("/abc/def/ghi/jkl", Some(1)),
        ("/abc/defg", Some(0)),
        ("/abcd", None),
        ("/ab", None),
        ("/", None),
        ("/ABC", None),
    ] {
        let found = found(&routes, Method::GET, "cart", path, "text/plain").map(|(_, rule)| rule);
        assert_eq!(found, expected, "{path}");
    }
}

#[test]
fn a_rule_without_conditions_takes_everything_and_says_so() {
    let routes = [route(RouteKind::Http, "it", 0, vec![RequestMatch::default(), prefix("/a%7Eb/")])];
    let table = Table::compile(&routes, Names::Count).unwrap();
    let headers = HeaderMap::new();
    for (path, rule, prefix) in [("/x", 0, "/"), ("*", 0, "/"), ("/a~b/c", 1, "/a~b")] {
        let request = Request { method: &Method::OPTIONS, host: "", path, query: None, headers: &headers };
        let matched = table.find(&request).unwrap();
        assert_eq!((matched.rule, matched.prefix.as_deref()), (rule, Some(prefix)), "{path}");
    }
    assert!(Table::compile(&[], Names::Count).is_none());
}

#[test]
fn the_most_specific_host_wins_and_a_wider_one_takes_what_it_leaves() {
    use Hostname::{Below, Exact};
    use RouteKind::Http;
    let routes = [
        at(vec![Exact("a.example.com".into())], route(Http, "exact", 3, vec![prefix("/x")])),
        at(vec![Below("a.example.com".into())], route(Http, "longer", 2, vec![prefix("/")])),
        at(vec![Below("example.com".into()), Exact("example.org".into())], route(Http, "below", 1, vec![prefix("/")])),
        route(Http, "any", 0, vec![exact("/x")]),
    ];
    for (host, path, expected) in [
        ("a.example.com", "/x", Some("exact")),
        ("A.EXAMPLE.COM.", "/x", Some("exact")),
        ("a.example.com", "/y", Some("below")),
        ("b.a.example.com", "/x", Some("longer")),
        ("c.b.a.example.com", "/x", Some("longer")),
        ("b.example.com", "/x", Some("below")),
        ("example.org", "/x", Some("below")),
        ("example.com", "/x", Some("any")),
        (".example.com", "/x", Some("any")),
        ("notexample.com", "/y", None),
        ("", "/x", Some("any")),
    ] {
        let found = found(&routes, Method::GET, host, path, "text/plain").map(|(name, _)| name);
        assert_eq!(found.as_deref(), expected, "{host}{path}");
    }
    let long = "a.".repeat(200) + "example.com";
    assert_eq!(found(&routes, Method::GET, &long, "/x", "text/plain").unwrap().0, "any", "no name is so long");
}

#[test]
fn grpc_routes_take_requests_of_grpc_before_http_routes_by_service_then_method() {
    use RouteKind::{Grpc, Http};
    let routes = [
        route(Http, "http", 0, vec![exact("/shop.Cart/Add"), prefix("/")]),
        route(
            Grpc,
            "grpc",
            9,
            vec![
                RequestMatch::default(),
                regex("/[^/]+/Add"),
                prefix("/shop.Cart"),
                exact("/shop.Cart/Add"),
                with_headers(exact("/shop.Cart/Add"), &["x-a"]),
            ],
        ),
    ];
    for (path, kind, expected) in [
        ("/shop.Cart/Add", "application/grpc", ("grpc", 4)),
        ("/shop.Cart/Remove", "application/grpc+proto", ("grpc", 2)),
        ("/shop.Till/Add", "application/grpc", ("grpc", 1)),
        ("/shop.Till/Open", "application/grpc", ("grpc", 0)),
        ("/shop.Cart/Add", "application/json", ("http", 0)),
    ] {
        let found = found(&routes, Method::POST, "cart", path, kind).unwrap();
        assert_eq!((found.0.as_str(), found.1), expected, "{path} {kind}");
    }
    // What no GRPCRoute takes is left to HTTPRoutes.
    let routes = [routes[0].clone(), route(Grpc, "grpc", 0, vec![prefix("/shop.Cart")])];
    let found = found(&routes, Method::POST, "cart", "/shop.Till/Open", "application/grpc").unwrap();
    assert_eq!((found.0.as_str(), found.1), ("http", 1));
}
