//! Many agents, and slow ones.

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tonic::Streaming;
use weft_proto::discovery::DeltaDiscoveryResponse;
use weft_transport::Connection;

use super::plane::{Plane, workload};
use super::*;
use crate::serve::Limits;

/// One stream, read by hand.
struct Reader {
    _requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    _connection: Connection,
}

impl Reader {
    /// Asks for everything, or for one workload only.
    async fn open(plane: &Plane, only: Option<&str>) -> Self {
        let connection = plane.control_plane().connect().await.expect("a connection");
        let (requests, receiver) = mpsc::channel(4);
        for type_url in [AUTHORIZATION, ADDRESS] {
            let names = only.filter(|_| type_url == ADDRESS).map(str::to_owned);
            let request = DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                resource_names_subscribe: names.into_iter().collect(),
                ..Default::default()
            };
            requests.send(request).await.expect("room");
        }
        let mut client = AggregatedDiscoveryServiceClient::new(connection.clone()).max_decoding_message_size(1 << 30);
        let response = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.expect("a stream");
        Self { _requests: requests, responses: response.into_inner(), _connection: connection }
    }

    /// Reads until a resource has come.
    async fn until(&mut self, name: &str) {
        loop {
            let response = self.responses.message().await.expect("no error").expect("no end");
            if response.resources.iter().any(|resource| resource.name == name) {
                return;
            }
        }
    }
}

fn allow_descriptors(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum it is allowed");
    assert!(limit.maximum.is_none_or(|maximum| maximum >= wanted), "this test needs {wanted} open files (ulimit -Hn)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_agents_hear_of_a_change_and_those_that_do_not_read_hold_up_nobody() {
    const AGENTS: usize = 1000;
    const SLOW: usize = 10;
    /// Handshakes at one time: they are the test's work as well.
    const WAVE: usize = 16;
    allow_descriptors(3000);
    let plane = Arc::new(Plane::start().await);
    // Far more than what is made ready for one that does not read.
    plane.say((0..4000).map(|number| workload(number, &["s"])).collect()).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(Reader::open(&plane, None).await);
    }
    let mut opening = JoinSet::new();
    let mut readers = Vec::new();
    for number in 0..AGENTS {
        if number >= WAVE {
            readers.push(opening.join_next().await.expect("some are opening").expect("none panics"));
        }
        let plane = Arc::clone(&plane);
        opening.spawn(async move { Reader::open(&plane, Some("c//Pod/a/7")).await });
    }
    readers.extend(opening.join_all().await);
    for reader in &mut readers {
        tokio::time::timeout(LONG, reader.until("c//Pod/a/7")).await.expect("it is told at the start");
    }
    assert_eq!(plane.server.counts().streams, (AGENTS + SLOW) as u64);
    plane.say(vec![workload(7, &[])]).await;
    for reader in &mut readers {
        tokio::time::timeout(LONG, reader.until("c//Pod/a/7")).await.expect("it is told");
    }
    // Those that did not read miss nothing either.
    plane.say(vec![workload(100_000, &[])]).await;
    for reader in &mut slow {
        tokio::time::timeout(LONG, reader.until("c//Pod/a/100000")).await.expect("it is told in the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_a_row_come_together_for_one_that_was_not_reading() {
    let plane = Plane::start().await;
    plane.say((0..4000).map(|number| workload(number, &["s"])).collect()).await;
    let mut reader = Reader::open(&plane, None).await;
    plane::eventually("the stream is served", || plane.server.counts().pushes == 2).await;
    for round in 0..200 {
        plane.say(vec![workload(50_000 + round % 10, if round % 2 == 0 { &["s"] } else { &[] })]).await;
    }
    let before = plane.server.counts().pushes;
    reader.until(&plane::uid(50_009)).await;
    let pushes = plane.server.counts().pushes - before;
    assert!(pushes <= 2, "200 changes of ten resources came in {pushes} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_ended_from_time_to_time_and_agents_come_back() {
    let limits = Limits { stream_age: Duration::from_millis(50), ..Limits::default() };
    let plane = Plane::with_limits(limits).await;
    plane.say(vec![workload(1, &[])]).await;
    let mut agent = Agent::start(options(&plane, false));
    agent.until("everything", |snapshot| snapshot.workload_count() == 1).await;
    plane::eventually("it has come back twice", || agent.discovery.status().streams >= 3).await;
    assert_eq!(agent.discovery.status().last_error, None, "that is no failure");
    assert_eq!(plane.server.counts().resources, 1, "and nothing is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_good_token_is_closed() {
    let limits = Limits { handshake: Duration::from_millis(500), ..Limits::default() };
    let plane = Plane::with_limits(limits).await;
    let url = format!("https://localhost:{}", plane.port());
    let options = ControlPlaneOptions { url, roots: plane.roots(), token: None };
    let connection = ControlPlane::new(options).expect("an address").connect().await.expect("a connection");
    plane::eventually("it is closed", || connection.is_closed()).await;
    let mut silent = tokio::net::TcpStream::connect(plane.server.address()).await.expect("a connection");
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut silent, &mut byte);
    assert!(matches!(tokio::time::timeout(LONG, read).await, Ok(Ok(0) | Err(_))), "it is closed");
}
