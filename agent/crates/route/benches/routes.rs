//! What it costs to find the rule for a request among 1, 100 and 10,000 rules, and to change a route among them.
//!
//! `cargo bench -p weft-route`. Times are processor time of the one thread, so that what else runs on the machine
//! disturbs them little, and the best of several runs; a request is another one each time, of as many as there are
//! rules. Finding must not allocate: it is counted, and the benchmark fails if it does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use weft_route::{
    HeaderMatch, Hostname, Parent, ParentTarget, PathMatch, Pattern, Request, RequestMatch, Route, RouteChange,
    RouteKind, RouteStore, Routes, Rule, ValueMatch,
};

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; an atomic counter beside it cannot fail.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

/// Measures the processor time of this thread.
struct Stopwatch(Duration);

impl Stopwatch {
    fn start() -> Self {
        Self(Self::now())
    }

    fn elapsed(&self) -> Duration {
        Self::now() - self.0
    }

    fn now() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec that lives through the call.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(result, 0, "clock_gettime(CLOCK_THREAD_CPUTIME_ID) failed");
        let seconds = u64::try_from(time.tv_sec).expect("time is not negative");
        Duration::new(seconds, u32::try_from(time.tv_nsec).expect("it is less than a second"))
    }
}

const GATEWAY: &str = "shop/waypoint";
/// Rules of one route.
const PER_ROUTE: usize = 10;
/// Requests of a run.
const REQUESTS: usize = 100_000;
const RUNS: usize = 7;

/// What rules differ in.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    hostname: fn(usize) -> Option<Hostname>,
    conditions: fn(usize) -> RequestMatch,
    /// A host and a path of a request that the rule takes.
    request: fn(usize) -> (String, String),
    /// Whether any rule takes it.
    is_found: bool,
}

fn path(path: PathMatch) -> RequestMatch {
    RequestMatch { path: Some(path), ..RequestMatch::default() }
}

fn prefix(n: usize) -> RequestMatch {
    path(PathMatch::Prefix(format!("/api/v{}/service-{n}", n % 3).into()))
}

fn below_prefix(n: usize) -> (String, String) {
    ("cart.shop.svc".to_owned(), format!("/api/v{}/service-{n}/orders/17", n % 3))
}

const SHAPES: [Shape; 6] = [
    Shape {
        name: "exact paths",
        hostname: |_| None,
        conditions: |n| path(PathMatch::Exact(format!("/api/v{}/service-{n}", n % 3).into())),
        request: |n| ("cart.shop.svc".to_owned(), format!("/api/v{}/service-{n}", n % 3)),
        is_found: true,
    },
    Shape { name: "prefixes", hostname: |_| None, conditions: prefix, request: below_prefix, is_found: true },
    Shape {
        name: "prefixes, a method and a header as well",
        hostname: |_| None,
        conditions: |n| RequestMatch {
            method: Some(Method::GET),
            headers: vec![HeaderMatch {
                name: HeaderName::from_static("x-team"),
                value: ValueMatch::Exact("blue".into()),
            }],
            ..prefix(n)
        },
        request: below_prefix,
        is_found: true,
    },
    Shape {
        name: "patterns below a prefix",
        hostname: |_| None,
        conditions: |n| {
            let source = format!("/api/v{}/service-{n}/orders/[0-9]+", n % 3);
            path(PathMatch::Regex(Pattern::new(&source).expect("it is a pattern")))
        },
        request: below_prefix,
        is_found: true,
    },
    Shape {
        name: "hosts",
        hostname: |n| Some(Hostname::Exact(format!("shop-{n}.example.com").into())),
        conditions: |_| path(PathMatch::Prefix("/".into())),
        request: |n| (format!("shop-{n}.example.com"), "/orders/17".to_owned()),
        is_found: true,
    },
    Shape {
        name: "prefixes, none of which is the request's",
        hostname: |_| None,
        conditions: prefix,
        request: |n| ("cart.shop.svc".to_owned(), format!("/web/v{}/service-{n}/orders/17", n % 3)),
        is_found: false,
    },
];

fn main() {
    let counts = [1, 100, 10_000];
    println!("{:<44}{}", "rules", counts.map(|count| format!("{count:>12}")).concat());
    for shape in SHAPES {
        let times = counts.map(|count| format!("{:>9} ns", find(shape, count)));
        println!("{:<44}{}", format!("find: {}", shape.name), times.concat());
    }
    let times = counts.map(|count| format!("{:>9.3} ms", load(count).as_secs_f64() * 1e3));
    println!("{:<44}{}", "load all, prefixes of one Gateway", times.concat());
    for (name, is_shared) in
        [("change one route, of one Gateway", true), ("change one route, a service for each", false)]
    {
        let times = counts.map(|count| format!("{:>9.3} ms", change(count, is_shared).as_secs_f64() * 1e3));
        println!("{name:<44}{}", times.concat());
    }
}

/// Routes of so many rules; all of one Gateway, or each of a service of its own.
fn routes(shape: Shape, count: usize, is_shared: bool) -> Vec<RouteChange> {
    let per_route = if (shape.hostname)(0).is_some() || !is_shared { 1 } else { PER_ROUTE };
    let rules: Vec<usize> = (0..count).collect();
    let route = |rules: &[usize]| {
        let target = match is_shared {
            true => ParentTarget::Gateway(GATEWAY.into()),
            false => ParentTarget::Service(format!("shop/service-{}", rules[0]).into()),
        };
        let rule = |n: &usize| Rule { matches: vec![(shape.conditions)(*n)], ..Rule::default() };
        RouteChange::Put(Arc::new(Route {
            key: format!("http/shop/route-{}", rules[0]).into(),
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: format!("route-{}", rules[0]).into(),
            created: 0,
            parents: vec![Parent { target, port: None, consumer: None }],
            hostnames: (shape.hostname)(rules[0]).into_iter().collect(),
            rules: rules.iter().map(rule).collect(),
        }))
    };
    rules.chunks(per_route).map(route).collect()
}

/// Nanoseconds to find the table and the rule of a request.
fn find(shape: Shape, count: usize) -> u128 {
    let routes: Arc<Routes> = RouteStore::new().apply(routes(shape, count, true));
    let headers = HeaderMap::from_iter([
        (HeaderName::from_static("user-agent"), HeaderValue::from_static("curl/8.14.1")),
        (HeaderName::from_static("accept"), HeaderValue::from_static("*/*")),
        (HeaderName::from_static("x-team"), HeaderValue::from_static("blue")),
    ]);
    let mut random = fastrand::Rng::with_seed(1);
    let asked: Vec<_> = (0..count.min(1_000)).map(|_| (shape.request)(random.usize(0..count))).collect();
    let run = || {
        for n in 0..REQUESTS {
            let (host, path) = &asked[n % asked.len()];
            let request = Request { method: &Method::GET, host, path, query: Some("q=1"), headers: &headers };
            let table = routes.table("shop/cart.shop.svc", 80, Some(GATEWAY), Some("web")).expect("there is one");
            let found = black_box(table.find(black_box(&request)));
            assert_eq!(found.is_some(), shape.is_found);
        }
    };
    // The first run makes the caches of patterns.
    run();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let runs = [(); RUNS].map(|()| {
        let start = Stopwatch::start();
        run();
        start.elapsed()
    });
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "finding a rule allocates: {}", shape.name);
    runs.into_iter().min().expect("there are some").as_nanos() / REQUESTS as u128
}

/// The time to compile all rules of one Gateway.
fn load(count: usize) -> Duration {
    let run = |_| {
        let changes = routes(SHAPES[1], count, true);
        let mut store = RouteStore::new();
        let start = Stopwatch::start();
        store.apply(changes);
        start.elapsed()
    };
    (0..RUNS).map(run).min().expect("there are some")
}

/// The time to apply a change of one route.
fn change(count: usize, is_shared: bool) -> Duration {
    let changes = routes(SHAPES[1], count, is_shared);
    let Some(RouteChange::Put(one)) = changes.first().cloned() else { panic!("there is one route at least") };
    let mut store = RouteStore::new();
    store.apply(changes);
    let run = |created: usize| {
        let changed = RouteChange::Put(Arc::new(Route { created: 1 + created as i64, ..Route::clone(&one) }));
        let start = Stopwatch::start();
        store.apply([changed]);
        start.elapsed()
    };
    (0..RUNS).map(run).min().expect("there are some")
}
