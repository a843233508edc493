//! Which rule takes a request, by definition: every alternative of every rule is tried, and of those that match, the
//! first by precedence is chosen. Slow, and without any index; what the tables say must be the same.
//!
//! The fuzz target `routes` includes this file: what is random comes from the caller.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use weft_route::{
    HeaderMatch, Hostname, Parent, ParentTarget, PathMatch, Pattern, QueryMatch, Request, RequestMatch, Route,
    RouteChange, RouteKind, RouteStore, Rule, ValueMatch,
};

/// Gives one of `0..n`.
pub type Roll<'a> = &'a mut dyn FnMut(u32) -> u32;

/// A request that owns its parts, and where it goes.
#[derive(Debug)]
struct Case {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    port: u16,
    gateway: Option<&'static str>,
    client: Option<&'static str>,
}

/// Applies random changes to a store, and after each batch asks it and the definition for random requests.
pub fn check(roll: Roll<'_>) {
    let mut store = RouteStore::new();
    let mut known: BTreeMap<Arc<str>, Arc<Route>> = BTreeMap::new();
    for _ in 0..1 + roll(3) {
        let changes: Vec<RouteChange> = (0..1 + roll(6)).map(|_| change(roll)).collect();
        for change in &changes {
            match change {
                RouteChange::Put(route) => drop(known.insert(Arc::clone(&route.key), Arc::clone(route))),
                RouteChange::Remove(key) => drop(known.remove(key)),
            }
        }
        let routes = store.apply(changes);
        for _ in 0..8 {
            let case = case(roll);
            let request = Request {
                method: &case.method,
                host: &case.host,
                path: &case.path,
                query: case.query.as_deref(),
                headers: &case.headers,
            };
            let table = routes.table(SERVICE, case.port, case.gateway, case.client);
            let found =
                table.map(|table| table.find(&request).map(|matched| (matched.route.key.clone(), matched.rule)));
            let expected = attached(&known, &case).map(|(routes, names)| find(&routes, names, &case));
            assert_eq!(found, expected, "{case:#?}\n{known:#?}");
        }
    }
}

const SERVICE: &str = "shop/cart.shop.svc.cluster.local";

/// The routes for a request, and whether their names count: those of the client's namespace, or the service's, or the
/// Gateway's.
fn attached<'a>(known: &'a BTreeMap<Arc<str>, Arc<Route>>, case: &Case) -> Option<(Vec<&'a Route>, bool)> {
    let to_service = |consumer: Option<&'static str>| {
        known.values().map(|route| &**route).filter(move |route| {
            route.parents.iter().any(|parent| {
                matches!(&parent.target, ParentTarget::Service(key) if **key == *SERVICE)
                    && parent.port.is_none_or(|port| port == case.port)
                    && parent.consumer.as_deref() == consumer
            })
        })
    };
    let is_at = |route: &&Route, gateway: &str| {
        let is_it = |parent: &Parent| matches!(&parent.target, ParentTarget::Gateway(key) if **key == *gateway);
        route.parents.iter().any(is_it)
    };
    let consumers: Vec<_> = case.client.map(|client| to_service(Some(client)).collect()).unwrap_or_default();
    let own: Vec<_> = to_service(None).collect();
    let gateways: Vec<_> = known
        .values()
        .map(|route| &**route)
        .filter(|route| case.gateway.is_some_and(|gateway| is_at(route, gateway)))
        .collect();
    [(consumers, false), (own, false), (gateways, true)].into_iter().find(|(routes, _)| !routes.is_empty())
}

/// The first rule by precedence among all that match.
fn find(routes: &[&Route], names_count: bool, case: &Case) -> Option<(Arc<str>, usize)> {
    let mut all = Vec::new();
    for route in routes {
        let is_grpc = route.kind == RouteKind::Grpc;
        let asks_grpc = case.method == Method::POST
            && case
                .headers
                .get(CONTENT_TYPE)
                .is_some_and(|kind| kind == "application/grpc" || kind == "application/grpc+proto");
        if is_grpc && !asks_grpc || !matches!(route.kind, RouteKind::Http | RouteKind::Grpc) {
            continue;
        }
        let Some(host) = host(route, names_count, &case.host) else { continue };
        for (index, rule) in route.rules.iter().enumerate() {
            let every = [RequestMatch::default()];
            let matches = if rule.matches.is_empty() { &every } else { rule.matches.as_slice() };
            for conditions in matches.iter().filter(|conditions| meets(conditions, case)) {
                let (class, length) = match (&conditions.path, is_grpc) {
                    (Some(PathMatch::Exact(path)), _) => (0, path.len()),
                    (Some(PathMatch::Regex(pattern)), false) => (1, pattern.source().len()),
                    (Some(PathMatch::Prefix(path)), false) => (2, path.trim_end_matches('/').len()),
                    (None, false) => (2, 0),
                    (Some(PathMatch::Prefix(path)), true) if path.len() > 1 => (1, path.len()),
                    (Some(PathMatch::Regex(pattern)), true) => (2, pattern.source().len()),
                    (Some(PathMatch::Prefix(_)) | None, true) => (3, 0),
                };
                let conditions = (
                    Reverse(!is_grpc && conditions.method.is_some()),
                    Reverse(conditions.headers.len()),
                    Reverse(if is_grpc { 0 } else { conditions.query.len() }),
                );
                let seniority = (route.created, &route.namespace, &route.name, &route.key);
                all.push(((!is_grpc, Reverse(host), class, Reverse(length), conditions, seniority, index), route));
            }
        }
    }
    let (weight, route) = all.into_iter().min_by(|(a, _), (b, _)| a.cmp(b))?;
    Some((route.key.clone(), weight.6))
}

/// How long a matching name without a wildcard is, and a matching name at all.
fn host(route: &Route, names_count: bool, asked: &str) -> Option<(usize, usize)> {
    if !names_count || route.hostnames.is_empty() {
        return Some((0, 0));
    }
    let asked = asked.to_ascii_lowercase();
    let asked = asked.trim_end_matches('.');
    let lengths = route.hostnames.iter().filter_map(|name| match name {
        Hostname::Exact(name) => (**name == *asked).then_some((name.len(), name.len())),
        Hostname::Below(name) => {
            let labels = asked.strip_suffix(&**name)?.strip_suffix('.')?;
            (!labels.is_empty()).then_some((0, name.len() + 2))
        }
    });
    lengths.max()
}

fn meets(conditions: &RequestMatch, case: &Case) -> bool {
    let is_path = match &conditions.path {
        None => true,
        Some(PathMatch::Exact(path)) => **path == case.path,
        Some(PathMatch::Regex(pattern)) => pattern.is_match(&case.path),
        Some(PathMatch::Prefix(prefix)) => {
            let elements = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
            let prefix = elements(prefix.trim_end_matches('/'));
            elements(&case.path).starts_with(&prefix)
        }
    };
    let is = |condition: &ValueMatch, value: &str| match condition {
        ValueMatch::Exact(wanted) => **wanted == *value,
        ValueMatch::Regex(pattern) => pattern.is_match(value),
    };
    let has_header = |condition: &HeaderMatch| {
        let values: Vec<_> =
            case.headers.get_all(&condition.name).iter().map(|value| value.to_str().unwrap()).collect();
        !values.is_empty() && is(&condition.value, &values.join(","))
    };
    let has_parameter = |condition: &QueryMatch| {
        let parameters = case.query.as_deref().unwrap_or_default().split('&');
        let mut values = parameters.filter_map(|parameter| parameter.split_once('='));
        let value = values.find(|(name, _)| name.replace("%71", "q") == *condition.name);
        value.is_some_and(|(_, value)| is(&condition.value, &value.replace("%31", "1").replace('+', " ")))
    };
    is_path
        && conditions.method.as_ref().is_none_or(|method| *method == case.method)
        && conditions.headers.iter().all(has_header)
        && conditions.query.iter().all(has_parameter)
}

fn pick<T: Clone>(roll: Roll<'_>, of: &[T]) -> T {
    of[roll(of.len() as u32) as usize].clone()
}

fn change(roll: Roll<'_>) -> RouteChange {
    let kind = pick(roll, &[RouteKind::Http, RouteKind::Http, RouteKind::Http, RouteKind::Grpc]);
    let (namespace, name) = (pick(roll, &["m", "n"]), pick(roll, &["a", "b", "c"]));
    let key: Arc<str> = format!("{kind:?}/{namespace}/{name}").into();
    if roll(8) == 0 {
        return RouteChange::Remove(key);
    }
    let names = [
        Hostname::Exact("example.com".into()),
        Hostname::Exact("a.example.com".into()),
        Hostname::Below("example.com".into()),
        Hostname::Below("a.example.com".into()),
        Hostname::Below("com".into()),
    ];
    RouteChange::Put(Arc::new(Route {
        key,
        kind,
        namespace: namespace.into(),
        name: name.into(),
        created: i64::from(roll(2)),
        parents: (0..1 + roll(2)).map(|_| parent(roll)).collect(),
        hostnames: (0..roll(3)).map(|_| pick(roll, &names)).collect(),
        rules: (0..roll(4))
            .map(|_| Rule { matches: (0..roll(3)).map(|_| conditions(roll, kind)).collect(), ..Rule::default() })
            .collect(),
    }))
}

fn parent(roll: Roll<'_>) -> Parent {
    if roll(3) == 0 {
        return Parent { target: ParentTarget::Gateway("shop/waypoint".into()), port: None, consumer: None };
    }
    let service = pick(roll, &[SERVICE, SERVICE, SERVICE, "shop/other.shop.svc.cluster.local"]);
    Parent {
        target: ParentTarget::Service(service.into()),
        port: pick(roll, &[None, None, Some(80), Some(81)]),
        consumer: pick(roll, &[None, None, Some("client".into())]),
    }
}

fn conditions(roll: Roll<'_>, kind: RouteKind) -> RequestMatch {
    let path = match (roll(4), kind) {
        (0, _) => None,
        (1, RouteKind::Grpc) => Some(PathMatch::Prefix(format!("/{}", pick(roll, ELEMENTS)).into())),
        (1, _) => Some(PathMatch::Prefix(path(roll).into())),
        (2, _) => Some(PathMatch::Exact(path(roll).into())),
        _ => Some(PathMatch::Regex(pick(roll, patterns()))),
    };
    let values = |roll: Roll<'_>| match roll(3) {
        0 => ValueMatch::Regex(patterns()[0].clone()),
        _ => ValueMatch::Exact(pick(roll, &["1", "2", "1,2", ""]).into()),
    };
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for _ in 0..roll(3) {
        let name = HeaderName::from_static(pick(roll, &["x-a", "x-b"]));
        if headers.iter().all(|known| known.name != name) {
            headers.push(HeaderMatch { name, value: values(roll) });
        }
    }
    let query =
        (0..roll(2)).map(|_| QueryMatch { name: pick(roll, &["q", "r"]).into(), value: values(roll) }).collect();
    RequestMatch { path, method: pick(roll, &[None, None, Some(Method::GET), Some(Method::POST)]), headers, query }
}

const ELEMENTS: &[&str] = &["a", "b", "ab", "a.b", "c"];

fn path(roll: Roll<'_>) -> String {
    let elements: String = (0..roll(4)).map(|_| format!("/{}", pick(roll, ELEMENTS))).collect();
    match roll(6) {
        0 => elements + "/",
        1 => elements + "//b",
        _ if elements.is_empty() => "/".to_owned(),
        _ => elements,
    }
}

/// Compiled once: to compile them takes longer than all else.
fn patterns() -> &'static [Pattern] {
    static PATTERNS: OnceLock<Vec<Pattern>> = OnceLock::new();
    PATTERNS.get_or_init(|| {
        let sources = [
            "[12]",
            "/a/[ab]+",
            "/a(/.*)?",
            ".*b",
            "(?i)/A/.*",
            "/(a|ab)/b",
            "/a/b|/b/a",
            "/[^/]+/a",
            "(/a/b.*){1,2}",
            "/a.b/.",
        ];
        sources.iter().map(|source| Pattern::new(source).expect("it is a pattern")).collect()
    })
}

fn case(roll: Roll<'_>) -> Case {
    let mut headers = HeaderMap::new();
    for _ in 0..roll(3) {
        let value = HeaderValue::from_static(pick(roll, &["1", "2", ""]));
        headers.append(HeaderName::from_static(pick(roll, &["x-a", "x-b"])), value);
    }
    if let Some(kind) =
        pick(roll, &[None, Some("application/grpc"), Some("application/grpc+proto"), Some("application/grpc-web")])
    {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    let hosts = ["example.com", "A.Example.com", "b.a.example.com.", "b.example.com", "example.org", "", ".com", "::1"];
    let queries = [None, Some("q=1"), Some("q=2&q=1"), Some("%71=%31&r=2"), Some("q=1+2"), Some("r=&q=1")];
    Case {
        method: pick(roll, &[Method::GET, Method::POST, Method::POST, Method::PUT]),
        host: pick(roll, &hosts).to_owned(),
        path: path(roll),
        query: pick(roll, &queries).map(str::to_owned),
        headers,
        port: pick(roll, &[80, 81, 82]),
        gateway: pick(roll, &[None, Some("shop/waypoint"), Some("shop/waypoint")]),
        client: pick(roll, &[None, Some("client"), Some("else")]),
    }
}
