//! Routes, attempts, mirrors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_model::{Action, AppProtocol, Change, Clause, Match, Policy, PolicyScope, Rule as PolicyRule, StringMatch};
use weft_route::{
    Backend, BackendTarget, Filter, Mirror, Parent, ParentTarget, PathMatch, PathRewrite, Redirect, RequestMatch,
    Retry, Route, RouteKind, Rule, Timeouts,
};

use crate::http::{echo, text};
use crate::world::{World, count, key};

fn to(service: &str, weight: u32) -> Backend {
    Backend { target: BackendTarget::Service { key: key(service), port: 80 }, weight, filters: Vec::new() }
}

fn route(service: &str, rules: Vec<Rule>) -> Route {
    Route {
        key: format!("HTTPRoute/shop/{service}").into(),
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: service.into(),
        created: 0,
        parents: vec![Parent { target: ParentTarget::Service(key(service)), port: None, consumer: None }],
        hostnames: Vec::new(),
        rules,
    }
}

fn below(prefix: &str) -> Vec<RequestMatch> {
    vec![RequestMatch { path: Some(PathMatch::Prefix(prefix.into())), ..RequestMatch::default() }]
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn weights_rewrites_redirects_and_missing_routes() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    for name in ["old", "new"] {
        world.service(name, AppProtocol::Http);
        world.http(&format!("{name}-1"), name, false, move |request: Request<Incoming>| async move {
            Response::new(text(format!("{name} {}", request.uri())))
        });
    }
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: None,
        path: Some(PathRewrite::Full("/there".into())),
        port: None,
        status: StatusCode::FOUND,
    };
    let invalid = BackendTarget::Invalid { reason: "there is no such service".into() };
    world.route(route(
        "web",
        vec![
            Rule { matches: below("/split"), backends: vec![to("old", 3), to("new", 1)], ..Rule::default() },
            Rule { matches: below("/moved"), filters: vec![Filter::Redirect(redirect)], ..Rule::default() },
            Rule {
                matches: below("/bad"),
                backends: vec![Backend { target: invalid, weight: 1, filters: Vec::new() }],
                ..Rule::default()
            },
            Rule { matches: below("/gone"), backends: vec![to("nobody", 1)], ..Rule::default() },
        ],
    ));
    let mut answers = Vec::new();
    for _ in 0..60 {
        let answer = world.raw(address, &get("/split")).await;
        answers.push(answer.rsplit("\r\n\r\n").next().expect("a body").to_owned());
    }
    let counts = count(answers);
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!(counts["old /split"] > counts["new /split"], "{counts:?}");
    let moved = world.raw(address, &get("/moved/a")).await;
    assert!(moved.starts_with("HTTP/1.1 302 Found\r\n") && moved.contains("location: https://a"), "{moved}");
    for (path, status) in [("/bad", "500"), ("/gone", "500"), ("/else", "404")] {
        let answer = world.raw(address, &get(path)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn retries_hide_an_endpoint_that_fails() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    let failed = Arc::new(AtomicUsize::new(0));
    let failing = Arc::clone(&failed);
    world.http("bad", "web", false, move |_| {
        failing.fetch_add(1, Ordering::Relaxed);
        async { Response::builder().status(503).body(text("")).expect("an answer") }
    });
    world.http("good", "web", false, echo);
    // And one where nobody listens.
    world.pod("silent", "web", true);
    let retry = Retry { codes: vec![StatusCode::SERVICE_UNAVAILABLE], attempts: 5, backoff: None };
    world.route(route("web", vec![Rule { backends: vec![to("web", 1)], retry: Some(retry), ..Rule::default() }]));
    let mut bad = 0;
    for _ in 0..6 {
        let asked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
        let answer = world.raw(address, asked).await;
        // The budget allows three further attempts each second, whatever the load: this is slower.
        tokio::time::sleep(Duration::from_millis(700)).await;
        bad += usize::from(!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello")));
    }
    assert_eq!(bad, 0);
    assert!(failed.load(Ordering::Relaxed) > 0, "the failing one was asked");
}

#[tokio::test]
async fn time_outs_are_504_and_no_endpoint_is_503_with_a_reason() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    let empty = world.service("empty", AppProtocol::Http);
    world.http("web-1", "web", false, |_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(text(""))
    });
    let timeouts = Timeouts { request: Some(Duration::from_millis(200)), backend: None };
    world.route(route("web", vec![Rule { backends: vec![to("web", 1)], timeouts, ..Rule::default() }]));
    let answer = world.raw(address, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(world.record().await.flags, "UT");
    world.records.requests.lock().expect("no panic").clear();
    let answer = world.raw(empty, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let error = world.record().await.error.expect("a reason");
    assert!(error.contains("has no ready endpoint for port 80"), "{error}");
}

#[tokio::test]
async fn a_mirror_gets_a_copy_with_its_body_and_holds_nothing_up() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.service("shadow", AppProtocol::Http);
    world.http("web-1", "web", false, echo);
    let (seen, mut sees) = tokio::sync::mpsc::unbounded_channel();
    world.http("shadow-1", "shadow", false, move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            use http_body_util::BodyExt;
            let body = request.into_body().collect().await.expect("a whole body").to_bytes();
            seen.send(body).expect("the test waits");
            tokio::time::sleep(Duration::from_secs(60)).await;
            Response::new(text(""))
        }
    });
    let mirror = Mirror { backend: BackendTarget::Service { key: key("shadow"), port: 80 }, share: (1, 1) };
    let filters = vec![Filter::Mirror(mirror)];
    world.route(route("web", vec![Rule { filters, backends: vec![to("web", 1)], ..Rule::default() }]));
    let asked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    let answer = world.raw(address, asked).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    assert_eq!(sees.recv().await.expect("a copy"), "hello");
}

#[tokio::test]
async fn a_policy_is_judged_by_the_clients_identity() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.http("web-1", "web", false, echo);
    let principals = vec![StringMatch::Exact("cluster.local/ns/shop/sa/cart".into())];
    let matches = vec![Match { principals, ..Match::default() }];
    world.change(vec![Change::PutPolicy(Policy {
        key: "shop/no-cart".into(),
        namespace: "shop".into(),
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        dry_run: false,
        rules: vec![PolicyRule { clauses: vec![Clause { matches }] }],
    })]);
    let answer = world.raw(address, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("no-cart"), "clients are not told which policy: {answer}");
    let error = world.record().await.error.expect("a reason");
    assert!(error.contains("shop/no-cart"), "{error}");
}

#[tokio::test]
async fn nobody_gets_past_routes_by_saying_something_else_or_nothing() {
    let mut world = World::new().await;
    // Nothing is declared of this port: that requests are routed there is enough.
    let address = world.service("web", AppProtocol::Tcp);
    world.pod("web-1", "web", true);
    world
        .route(route("web", vec![Rule { matches: below("/public"), backends: vec![to("web", 1)], ..Rule::default() }]));
    let mut odd = world.connect(address).await.expect("the waypoint takes it");
    odd.write_all(b"\x00\x01\x02").await.expect("it takes bytes");
    assert!(odd.read(&mut [0; 1]).await.is_err(), "a reset");
    let mut slow = world.connect(address).await.expect("the waypoint takes it");
    tokio::time::sleep(Duration::from_millis(400)).await;
    slow.write_all(get("/secret").as_bytes()).await.expect("it takes bytes");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}
