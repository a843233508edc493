use http::Method;
use http::header::HeaderMap;

use super::*;
use crate::request::Request;
use crate::route::{Hostname, PathMatch, RequestMatch, RouteKind, Rule};

const CART: &str = "shop/cart.shop.svc.cluster.local";
const GATEWAY: &str = "shop/waypoint";

fn service(port: Option<u16>, consumer: Option<&str>) -> Parent {
    Parent { target: ParentTarget::Service(CART.into()), port, consumer: consumer.map(Into::into) }
}

fn gateway() -> Parent {
    Parent { target: ParentTarget::Gateway(GATEWAY.into()), port: None, consumer: None }
}

fn route(name: &str, kind: RouteKind, parents: Vec<Parent>, path: &str) -> Route {
    let path = Some(PathMatch::Prefix(path.into()));
    Route {
        key: format!("{kind:?}/shop/{name}").into(),
        kind,
        namespace: "shop".into(),
        name: name.into(),
        created: 0,
        parents,
        hostnames: Vec::new(),
        rules: vec![Rule { matches: vec![RequestMatch { path, ..RequestMatch::default() }], ..Rule::default() }],
    }
}

fn put(route: Route) -> RouteChange {
    RouteChange::Put(Arc::new(route))
}

/// The name of the route that takes a GET of `/x`.
fn found(routes: &Routes, port: u16, client: Option<&str>) -> Option<String> {
    let table = routes.table(CART, port, Some(GATEWAY), client)?;
    let headers = HeaderMap::new();
    let request = Request { method: &Method::GET, host: "cart", path: "/x", query: None, headers: &headers };
    Some(table.find(&request).map_or_else(|| "404".to_owned(), |matched| matched.route.name.to_string()))
}

#[test]
fn a_port_has_the_routes_for_it_and_those_for_all() {
    let mut store = RouteStore::new();
    let routes = store.apply([
        put(route("all", RouteKind::Http, vec![service(None, None)], "/")),
        put(route("one", RouteKind::Http, vec![service(Some(80), None)], "/x")),
    ]);
    assert_eq!(found(&routes, 80, None).as_deref(), Some("one"));
    assert_eq!(found(&routes, 81, None).as_deref(), Some("all"));
    let routes = store.apply([RouteChange::Remove("Http/shop/all".into())]);
    assert_eq!(found(&routes, 80, None).as_deref(), Some("one"));
    assert_eq!(found(&routes, 81, None), None, "no route is for this port");
}

#[test]
fn consumer_routes_take_the_place_of_the_services_and_those_of_the_gateways() {
    let mut store = RouteStore::new();
    let of_gateway = Route {
        hostnames: vec![Hostname::Exact("cart".into())],
        ..route("gateway", RouteKind::Http, vec![gateway()], "/")
    };
    let routes = store.apply([
        put(route("own", RouteKind::Http, vec![service(Some(80), None)], "/x")),
        put(route("consumer", RouteKind::Http, vec![service(Some(80), Some("till"))], "/y")),
        put(of_gateway),
    ]);
    for (port, client, expected) in [
        (80, None, "own"),
        (80, Some("shop"), "own"),
        // It does not match, and those that it replaces are not asked.
        (80, Some("till"), "404"),
        (81, Some("till"), "gateway"),
        (81, None, "gateway"),
    ] {
        assert_eq!(found(&routes, port, client).as_deref(), Some(expected), "{port} {client:?}");
    }
    let routes = store
        .apply(["Http/shop/consumer", "Http/shop/own", "Http/shop/gateway"].map(|key| RouteChange::Remove(key.into())));
    assert_eq!(found(&routes, 80, Some("till")), None);
    assert!(routes.services.is_empty() && routes.gateways.is_empty() && store.sites.is_empty());
}

#[test]
fn names_count_for_gateways_alone() {
    let mut store = RouteStore::new();
    let elsewhere = |route| Route { hostnames: vec![Hostname::Exact("elsewhere".into())], ..route };
    let routes = store.apply([put(elsewhere(route("a", RouteKind::Http, vec![gateway()], "/")))]);
    assert_eq!(found(&routes, 80, None).as_deref(), Some("404"));
    let routes = store.apply([put(elsewhere(route("a", RouteKind::Http, vec![service(None, None)], "/")))]);
    assert_eq!(found(&routes, 80, None).as_deref(), Some("a"));
}

#[test]
fn only_the_tables_that_a_change_concerns_are_compiled() {
    let mut store = RouteStore::new();
    let other = || Parent { target: ParentTarget::Service("shop/other".into()), port: None, consumer: None };
    let before = store.apply([
        put(route("a", RouteKind::Http, vec![service(None, None)], "/")),
        put(route("b", RouteKind::Http, vec![other()], "/")),
        put(route("c", RouteKind::Http, vec![service(None, Some("till"))], "/")),
    ]);
    let after = store.apply([put(route("a", RouteKind::Http, vec![service(None, None)], "/x"))]);
    let same = |service: &str, client: Option<&str>| {
        let of = |routes: &Routes| Arc::clone(routes.table(service, 80, None, client).expect("it has one"));
        Arc::ptr_eq(&of(&before), &of(&after))
    };
    assert!(!same(CART, None));
    assert!(same(CART, Some("till")));
    assert!(same("shop/other", None));
    let again = store.apply([put(route("a", RouteKind::Http, vec![service(None, None)], "/x"))]);
    assert!(Arc::ptr_eq(&after, &again), "nothing changed");
    let moved = store.apply([put(route("a", RouteKind::Http, vec![other()], "/x"))]);
    assert!(moved.table(CART, 80, None, None).is_none());
}

#[test]
fn connections_are_routed_by_server_name_or_by_the_oldest_route() {
    let mut store = RouteStore::new();
    let tls = |name: &str, names: Vec<Hostname>, created: i64| {
        let rules = vec![Rule { server_names: names, ..Rule::default() }];
        Route { rules, created, ..route(name, RouteKind::Tls, vec![service(None, None)], "/") }
    };
    let tcp =
        |name: &str, created: i64| Route { created, ..route(name, RouteKind::Tcp, vec![service(None, None)], "/") };
    let routes = store.apply([
        put(tls("exact", vec![Hostname::Exact("a.example.com".into())], 9)),
        put(tls("below", vec![Hostname::Below("example.com".into())], 1)),
        put(tls("newer", vec![Hostname::Below("example.com".into())], 2)),
        put(tcp("new", 9)),
        put(tcp("old", 8)),
    ]);
    let table = routes.table(CART, 443, None, None).unwrap();
    for (sni, expected) in [
        (Some("A.example.com"), Some("exact")),
        (Some("b.a.example.com"), Some("below")),
        (Some("example.com"), None),
        (Some("example.org"), None),
        (None, None),
    ] {
        let found = table.find_tls(sni).map(|matched| matched.route.name.to_string());
        assert_eq!(found.as_deref(), expected, "{sni:?}");
    }
    assert_eq!(&*table.find_tcp().unwrap().route.name, "old");
    assert!(table.has_tls() && !table.has_requests());
    let routes = store.apply([put(tls("any", Vec::new(), 9))]);
    let table = routes.table(CART, 443, None, None).unwrap();
    assert_eq!(&*table.find_tls(None).unwrap().route.name, "any");
    assert_eq!(&*table.find_tls(Some("example.org")).unwrap().route.name, "any");
}
