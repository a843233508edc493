use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::admin::tests::{Running, exchange};
use crate::sandbox::{BoxFuture, Verdict};

/// Notes what it is told. A pod called "slow" is never captured, one called "broken" cannot be.
#[derive(Default)]
struct Noted(Mutex<Vec<Value>>);

/// Notes that a question was dropped before its answer.
struct Dropped<'a>(&'a Noted);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.note(json!("dropped"));
    }
}

impl Noted {
    fn note(&self, what: Value) {
        self.0.lock().unwrap().push(what);
    }
}

impl Sandboxes for Noted {
    fn add(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>> {
        self.note(json!({ "add": sandbox }));
        Box::pin(async move {
            match sandbox.name.as_str() {
                "slow" => {
                    let _dropped = Dropped(self);
                    std::future::pending().await
                }
                "broken" => Err("its network namespace is gone".to_owned()),
                _ => Ok(Verdict::Enrolled),
            }
        })
    }

    fn remove<'a>(&'a self, uid: &'a str, container: &'a str) -> BoxFuture<'a, ()> {
        self.note(json!({ "remove": [uid, container] }));
        Box::pin(std::future::ready(()))
    }

    fn check(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>> {
        self.note(json!({ "check": sandbox.name }));
        Box::pin(std::future::ready(Ok(Verdict::NotInMesh)))
    }

    fn retain(&self, containers: BTreeSet<String>) -> BoxFuture<'_, ()> {
        self.note(json!({ "retain": containers }));
        Box::pin(std::future::ready(()))
    }
}

fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn sandbox(name: &str) -> Value {
    json!({
        "namespace": "shop", "name": name, "uid": "u-1", "container": "c1", "netns": "/run/netns/c1",
        "addresses": ["10.0.0.1", "fd00::1"],
    })
}

#[tokio::test]
async fn what_the_plug_in_says_reaches_whoever_looks_after_sandboxes() {
    let noted = Arc::new(Noted::default());
    let running = Running::with(Some(noted.clone()));
    let questions = [
        ("add", sandbox("web"), json!({ "verdict": "enrolled" })),
        ("check", sandbox("web"), json!({ "verdict": "not_in_mesh" })),
        ("remove", json!({ "uid": "u-1", "container": "c1" }), json!({})),
        ("retain", json!({ "containers": ["c2", "c1"] }), json!({})),
    ];
    for (path, question, expected) in questions {
        let (status, answer) = running.ask(&post(&format!("/v1/cni/{path}"), &question)).await;
        assert_eq!((status, answer), (200, expected), "{path}");
    }
    let expected = [
        json!({ "add": sandbox("web") }),
        json!({ "check": "web" }),
        json!({ "remove": ["u-1", "c1"] }),
        json!({ "retain": ["c1", "c2"] }),
    ];
    assert_eq!(*noted.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_reason_comes_back_and_what_is_no_question_is_refused() {
    let running = Running::with(Some(Arc::new(Noted::default())));
    let large = json!({ "containers": ["c".repeat(MAX_QUESTION)] });
    let get = "GET /v1/cni/add HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned();
    let cases = [
        (post("/v1/cni/add", &sandbox("broken")), 503, "its network namespace is gone"),
        (post("/v1/cni/add", &json!({ "name": "web" })), 400, "not understood"),
        (post("/v1/cni/retain", &large), 400, "limit"),
        (post("/v1/cni/eat", &json!({})), 404, "add, check, remove and retain"),
        (get, 405, "POST"),
    ];
    for (request, status, words) in cases {
        let (answered, answer) = running.ask(&request).await;
        assert_eq!(answered, status, "{answer}");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(words)), "{answer} for {words}");
    }
}

#[tokio::test]
async fn an_agent_that_looks_after_no_pods_says_so() {
    let (status, answer) = Running::start().ask(&post("/v1/cni/add", &sandbox("web"))).await;
    assert_eq!(status, 501);
    assert!(answer["error"].as_str().is_some_and(|error| error.contains("--kubernetes")), "{answer}");
}

#[tokio::test]
async fn nobody_can_tell_of_sandboxes_over_tcp() {
    let noted = Arc::new(Noted::default());
    let running = Running::with(Some(noted.clone()));
    let stream = TcpStream::connect(running.admin_address).await.unwrap();
    let (status, _, _) = exchange(stream, &post("/v1/cni/add", &sandbox("web"))).await;
    assert_eq!(status, 405);
    assert!(noted.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_node_full_of_pods_that_wait_leaves_room_for_an_operator() {
    use tokio::io::AsyncWriteExt as _;

    let noted = Arc::new(Noted::default());
    let running = Running::with(Some(noted.clone()));
    let mut waiting = Vec::new();
    for _ in 0..250 {
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        stream.write_all(post("/v1/cni/add", &sandbox("slow")).as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    while noted.0.lock().unwrap().len() < waiting.len() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, _) = running.ask("GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_runtime_that_gives_up_is_no_longer_waited_for() {
    use tokio::io::AsyncWriteExt as _;

    let noted = Arc::new(Noted::default());
    let running = Running::with(Some(noted.clone()));
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    stream.write_all(post("/v1/cni/add", &sandbox("slow")).as_bytes()).await.unwrap();
    for (expected, stream) in [(1, Some(stream)), (2, None)] {
        while noted.0.lock().unwrap().len() < expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(stream);
    }
    assert_eq!(noted.0.lock().unwrap()[1], json!("dropped"));
}
