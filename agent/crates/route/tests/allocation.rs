//! A waypoint finds a rule for each request: to find one must not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use weft_route::{
    HeaderMatch, Hostname, Parent, ParentTarget, PathMatch, Pattern, QueryMatch, Request, RequestMatch, Route,
    RouteChange, RouteKind, RouteStore, Rule, ValueMatch,
};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; counting in a constant-initialized thread-local without a
// destructor allocates nothing and cannot fail.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn route(name: &str, hostname: Hostname, path: PathMatch) -> RouteChange {
    let matches = RequestMatch {
        path: Some(path),
        method: Some(Method::GET),
        headers: vec![HeaderMatch { name: HeaderName::from_static("x-team"), value: ValueMatch::Exact("a,b".into()) }],
        query: vec![QueryMatch { name: "user name".into(), value: ValueMatch::Exact("ä b".into()) }],
    };
    RouteChange::Put(Arc::new(Route {
        key: format!("http/shop/{name}").into(),
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: name.into(),
        created: 0,
        parents: vec![Parent { target: ParentTarget::Gateway("shop/waypoint".into()), port: None, consumer: None }],
        hostnames: vec![hostname],
        rules: vec![Rule { matches: vec![matches], ..Rule::default() }],
    }))
}

#[test]
fn finding_a_rule_allocates_nothing() {
    let mut store = RouteStore::new();
    let routes = store.apply([
        route("exact", Hostname::Exact("cart.example.com".into()), PathMatch::Exact("/a/b/c".into())),
        route("prefix", Hostname::Below("example.com".into()), PathMatch::Prefix("/a/b".into())),
        route("pattern", Hostname::Below("com".into()), PathMatch::Regex(Pattern::new("/x/[0-9]+").unwrap())),
    ]);
    let mut headers = HeaderMap::new();
    for value in ["a", "b"] {
        headers.append("x-team", HeaderValue::from_static(value));
    }
    let find = |host: &str, path: &str| {
        let (method, query) = (Method::GET, Some("n=1&user+name=%C3%A4+b"));
        let request = Request { method: &method, host, path, query, headers: &headers };
        let table = routes.table("shop/cart", 80, Some("shop/waypoint"), Some("shop"));
        table.and_then(|table| table.find(&request)).map(|matched| matched.route.name.to_string())
    };
    for (host, path, expected) in [
        ("Cart.Example.com", "/a/b/c", Some("exact")),
        ("cart.example.com", "/a/b/c/d", Some("prefix")),
        ("cart.example.com.", "/x/17", Some("pattern")),
        ("cart.example.org", "/a/b", None),
    ] {
        // The first search with a pattern makes its caches.
        assert_eq!(find(host, path).as_deref(), expected, "{host} {path}");
        let (method, query) = (Method::GET, Some("n=1&user+name=%C3%A4+b"));
        let request = Request { method: &method, host, path, query, headers: &headers };
        let before = ALLOCATIONS.with(Cell::get);
        let table = routes.table("shop/cart", 80, Some("shop/waypoint"), Some("shop"));
        black_box(table.and_then(|table| table.find(black_box(&request))));
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0, "{host} {path}");
    }
}
