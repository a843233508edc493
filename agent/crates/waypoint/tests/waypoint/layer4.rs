//! What is not HTTP.

use ::http::StatusCode;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::{Action, AppProtocol, Change, Policy, PolicyScope, Rule};

use crate::world::{World, listen};

#[tokio::test]
async fn a_server_may_speak_first_and_half_closed_connections_stay_half_open() {
    for is_mesh in [true, false] {
        let mut world = World::new().await;
        let address = world.service("db", AppProtocol::Tcp);
        let listener = listen(world.pod("db-1", "db", is_mesh));
        world.servers.spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            socket.write_all(b"welcome").await.expect("the client listens");
            let mut asked = Vec::new();
            socket.read_to_end(&mut asked).await.expect("the client ends");
            asked.reverse();
            socket.write_all(&asked).await.expect("the client still listens");
        });
        let mut socket = world.connect(address).await.expect("the waypoint takes it");
        let mut said = [0; 7];
        socket.read_exact(&mut said).await.expect("a welcome");
        assert_eq!(&said, b"welcome");
        socket.write_all(b"abc").await.expect("the server listens");
        socket.shutdown().await.expect("the server listens");
        let mut said = Vec::new();
        socket.read_to_end(&mut said).await.expect("an end in order");
        assert_eq!(said, b"cba");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let records = world.records.connections.lock().expect("no panic");
        let [record] = records.as_slice() else { panic!("one record: {records:?}") };
        assert_eq!((record.from_client, record.to_client, record.is_established), (3, 10, true));
        assert_eq!((&record.error, world.records.opened.load(Ordering::Relaxed)), (&None, 1));
    }
}

#[tokio::test]
async fn a_reset_stays_a_reset_and_comes_after_what_was_said() {
    let mut world = World::new().await;
    let address = world.service("db", AppProtocol::Tcp);
    let listener = listen(world.pod("db-1", "db", true));
    world.servers.spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut said = [0; 3];
        socket.read_exact(&mut said).await.expect("the client speaks");
        socket.write_all(&said).await.expect("the client listens");
        // So that what was said has left before the reset, which would overtake it in the kernel.
        tokio::time::sleep(Duration::from_millis(200)).await;
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
    });
    let mut socket = world.connect(address).await.expect("the waypoint takes it");
    socket.write_all(b"\x00ab").await.expect("the server listens");
    let mut said = [0; 3];
    socket.read_exact(&mut said).await.expect("what was said before the reset");
    let ended = socket.read(&mut said).await;
    assert!(matches!(&ended, Err(error) if error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
}

#[tokio::test]
async fn a_connection_that_policies_refuse_later_is_reset() {
    let mut world = World::new().await;
    let address = world.service("db", AppProtocol::Tcp);
    let listener = listen(world.pod("db-1", "db", true));
    world.servers.spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
    });
    let mut socket = world.connect(address).await.expect("the waypoint takes it");
    socket.write_all(b"\x00").await.expect("the server listens");
    while world.records.opened.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.change(vec![Change::PutPolicy(Policy {
        key: "shop/nobody".into(),
        namespace: "shop".into(),
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        dry_run: false,
        rules: vec![Rule { clauses: Vec::new() }],
    })]);
    let ended = socket.read(&mut [0; 1]).await;
    assert!(matches!(&ended, Err(error) if error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
}

#[tokio::test]
async fn only_what_is_behind_the_waypoint_is_reached_through_it() {
    let mut world = World::new().await;
    let address = world.service("db", AppProtocol::Tcp);
    let pod = world.pod("db-1", "db", true);
    let unknown = [
        format!("{}:9", pod.ip()),
        format!("{}:81", address.ip()),
        format!("{}:15008", address.ip()),
        "127.0.0.1:22".to_owned(),
        "localhost:22".to_owned(),
    ];
    for authority in unknown {
        assert_eq!(world.connect_to(&authority).await.err(), Some(StatusCode::BAD_REQUEST), "{authority}");
    }
    assert!(world.connect(address).await.is_ok());
    assert!(world.connect(pod).await.is_ok(), "a port of a pod that the service leads to is behind it too");
}

#[tokio::test]
async fn what_is_no_http_is_refused_where_http_is_declared() {
    let mut world = World::new().await;
    let address = world.service("web", AppProtocol::Http);
    world.pod("web-1", "web", true);
    let mut socket = world.connect(address).await.expect("the waypoint takes it");
    socket.write_all(b"\x00\x01\x02").await.expect("it takes bytes");
    assert!(socket.read(&mut [0; 1]).await.is_err(), "a reset");
}
