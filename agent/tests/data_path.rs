//! Two proxies with real sockets and real TLS between them. Capture is the boundary: a listener stands where captured
//! connections would arrive, and the original destination is told by the test.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weft::in_pod::PodSockets;
use weft::netns::Netns;
use weft::proxy::origin::Origin;
use weft::proxy::pod::Pod;
use weft::proxy::{HBONE_PORT, LearnOutside, PodListeners, Proxy, Shared};
use weft::telemetry::{AccessLog, Metrics};
use weft_model::{
    Action, Change, Health, Identity, Locality, MeshOptions, Policy, PolicyScope, SnapshotCell, Store, TunnelProtocol,
    Workload,
};
use weft_runtime::{SystemClock, Tasks};
use weft_transport::{CertificateAuthority, CertificateOptions, Certificates};

/// Each test has addresses of its own, so that tests can run at once.
#[derive(Clone, Copy)]
struct Addresses {
    client: IpAddr,
    server: IpAddr,
}

impl Addresses {
    fn new(test: u8) -> Self {
        Self {
            client: IpAddr::V4(Ipv4Addr::new(127, 77, test, 1)),
            server: IpAddr::V4(Ipv4Addr::new(127, 77, test, 2)),
        }
    }
}

#[derive(Debug)]
struct ToldOrigin(SocketAddr);

impl Origin for ToldOrigin {
    fn original_destination(&self, _: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
        Ok(Some(self.0))
    }

    fn tag_own(&self, _: BorrowedFd<'_>, _: Option<SocketAddr>) -> io::Result<()> {
        Ok(())
    }

    fn is_client_known(&self, _: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(true)
    }
}

struct Nobody;

impl LearnOutside for Nobody {
    fn outside(&self, _: IpAddr) {}
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).expect("a valid identity")
}

fn workload(name: &str, address: IpAddr) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}").into(),
        instance: "1".into(),
        name: name.into(),
        namespace: "shop".into(),
        identity: identity(name),
        cluster: "Kubernetes".into(),
        network: "".into(),
        node: "n1".into(),
        addresses: vec![address],
        protocol: TunnelProtocol::Hbone,
        is_host_network: false,
        workload_name: name.into(),
        workload_type: "pod".into(),
        canonical_service: name.into(),
        canonical_revision: "latest".into(),
        app: name.into(),
        version: "".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        policies: Vec::new(),
        services: Vec::new(),
        waypoint: None,
    }
}

/// Two agents' data paths over one configuration.
struct Mesh {
    _runtime: tokio::runtime::Runtime,
    _ca: tempfile::TempDir,
    store: Store,
    cell: Arc<SnapshotCell>,
    metrics: Arc<Metrics>,
    proxies: Vec<Proxy>,
    captured: SocketAddr,
}

impl Mesh {
    fn start(addresses: Addresses, application: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let ca = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(SystemClock);
        let authority = CertificateAuthority::open(ca.path(), "cluster.local", clock.clone()).expect("an authority");
        let options = CertificateOptions {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            lifetime: Duration::from_secs(3600),
            concurrency: 4,
            extra_roots: None,
            revocation_lists: None,
        };
        let tasks = Tasks::new();
        let certificates = runtime.block_on(async {
            let certificates = Certificates::start(Arc::new(authority), options, clock, &tasks).expect("certificates");
            for name in ["client", "server"] {
                certificates.want(&identity(name));
                certificates.ready(&identity(name)).await.expect("a certificate");
            }
            certificates
        });
        std::mem::forget(tasks);
        let mut store = Store::new(MeshOptions {
            network: "".into(),
            root_namespace: "istio-system".into(),
            trust_domain: "cluster.local".into(),
        });
        let applied = store.apply(vec![
            Change::PutWorkload(workload("client", addresses.client)),
            Change::PutWorkload(workload("server", addresses.server)),
        ]);
        let cell = Arc::new(SnapshotCell::new(applied.snapshot));
        let metrics = Arc::new(Metrics::new());
        let mut proxies = Vec::new();
        let captured = TcpListener::bind(SocketAddr::new(addresses.client, 0)).expect("a listener");
        let captured_at = captured.local_addr().expect("an address");
        let hbone = TcpListener::bind(SocketAddr::new(addresses.server, HBONE_PORT)).expect("15008 is free");
        for (name, address, listeners) in [
            ("client", addresses.client, PodListeners { outbound: vec![ready(captured)], ..Default::default() }),
            ("server", addresses.server, PodListeners { hbone: vec![ready(hbone)], ..Default::default() }),
        ] {
            let shared = Arc::new(Shared::new(
                cell.clone(),
                certificates.clone(),
                Arc::new(ToldOrigin(application)),
                metrics.clone(),
                AccessLog::off(),
                Box::new(Nobody),
            ));
            let proxy = Proxy::start(&shared, 1).expect("a worker");
            let netns = Arc::new(Netns::open(Path::new("/proc/self/ns/net")).expect("our own namespace"));
            let pod = Arc::new(Pod {
                uid: format!("Kubernetes//Pod/shop/{name}").into(),
                instance: "1".into(),
                identity: identity(name),
                addresses: vec![address],
                workload: Arc::new(workload(name, address)),
                sockets: PodSockets::new(netns).expect("our own namespace can be entered"),
                is_leaving: false.into(),
            });
            proxy.listen(&pod, [listeners]);
            proxies.push(proxy);
        }
        Self { _runtime: runtime, _ca: ca, store, cell, metrics, proxies, captured: captured_at }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.captured).expect("the captured listener accepts");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        stream
    }

    fn apply(&mut self, change: Change) {
        let applied = self.store.apply(vec![change]);
        self.cell.publish(applied.snapshot);
        for proxy in &self.proxies {
            proxy.wake();
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for proxy in &self.proxies {
            proxy.stop();
        }
    }
}

fn ready(listener: TcpListener) -> OwnedFd {
    listener.set_nonblocking(true).expect("non-blocking mode");
    listener.into()
}

/// An application that answers each connection with `serve`.
fn application(addresses: Addresses, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::new(addresses.server, 0)).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().expect("a clone");
    let _ = io::copy(&mut reader, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) >> 3) as u8 ^ index as u8).collect()
}

#[test]
fn bytes_pass_both_ways_and_end_with_fin() {
    let addresses = Addresses::new(1);
    let mesh = Mesh::start(addresses, application(addresses, echo));
    let mut stream = mesh.connect();
    let sent = pattern(3_000_000);
    let mut writer = stream.try_clone().expect("a clone");
    let expected = sent.clone();
    let feeder = std::thread::spawn(move || {
        writer.write_all(&sent).expect("all is taken");
        writer.shutdown(Shutdown::Write).expect("FIN is sent");
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the stream ends in order");
    feeder.join().expect("the feeder ends");
    assert!(received == expected, "{} bytes came back of {}", received.len(), expected.len());
}

#[test]
fn many_connections_share_a_tunnel_and_keep_their_bytes_apart() {
    let addresses = Addresses::new(2);
    let mesh = Mesh::start(addresses, application(addresses, echo));
    std::thread::scope(|scope| {
        for number in 0..50_usize {
            let mesh = &mesh;
            scope.spawn(move || {
                let mut stream = mesh.connect();
                for round in 0..20 {
                    let request = pattern(1000 + number * 7 + round);
                    stream.write_all(&request).expect("the request is taken");
                    let mut answer = vec![0; request.len()];
                    stream.read_exact(&mut answer).expect("the answer comes");
                    assert_eq!(answer, request);
                }
            });
        }
    });
}

#[test]
fn a_reset_by_the_application_reaches_the_client_as_a_reset() {
    let addresses = Addresses::new(3);
    let reset = |mut stream: TcpStream| {
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger can be set");
    };
    let mesh = Mesh::start(addresses, application(addresses, reset));
    let mut stream = mesh.connect();
    stream.write_all(b"x").expect("a byte is taken");
    let error = stream.read(&mut [0]).expect_err("the connection is reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_port_without_an_application_is_a_reset_for_the_client() {
    let addresses = Addresses::new(4);
    let closed =
        TcpListener::bind(SocketAddr::new(addresses.server, 0)).expect("a listener").local_addr().expect("one");
    let mesh = Mesh::start(addresses, closed);
    let mut stream = mesh.connect();
    let error = stream.read(&mut [0]).expect_err("the connection is reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_policy_that_starts_to_deny_ends_the_live_connection() {
    let addresses = Addresses::new(5);
    let mut mesh = Mesh::start(addresses, application(addresses, echo));
    let mut stream = mesh.connect();
    stream.write_all(b"hello").expect("it is taken");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("it is allowed");
    // An ALLOW policy without rules allows nobody.
    mesh.apply(Change::PutPolicy(Policy {
        key: "shop/nobody".into(),
        namespace: "shop".into(),
        scope: PolicyScope::Namespace,
        action: Action::Allow,
        dry_run: false,
        rules: Vec::new(),
    }));
    let error = stream.read(&mut [0]).expect_err("the connection is reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let text = mesh.metrics.render(weft::telemetry::Exposition::Prometheus);
    assert!(text.contains("response_flags=\"DENY\""), "the denial is counted:\n{text}");
}

#[test]
fn a_reader_that_stops_holds_up_its_sender_and_nobody_else() {
    let addresses = Addresses::new(6);
    let stall = |stream: TcpStream| {
        let mut first = [0];
        let mut reader = &stream;
        if reader.read(&mut first).is_ok() && first[0] == b's' {
            std::thread::sleep(Duration::from_secs(4));
        } else {
            echo(stream);
        }
    };
    let mesh = Mesh::start(addresses, application(addresses, stall));
    let mut taken = Vec::new();
    let stalled: Vec<TcpStream> = (0..4).map(|_| mesh.connect()).collect();
    for mut stream in &stalled {
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
        let chunk = vec![b's'; 64 * 1024];
        let mut total = 0_usize;
        while total < 64 * 1024 * 1024 {
            match stream.write(&chunk) {
                Ok(written) => total += written,
                Err(_) => break,
            }
        }
        taken.push(total);
    }
    assert!(taken.iter().all(|total| *total < 48 * 1024 * 1024), "senders are held up: {taken:?}");
    let mut fifth = mesh.connect();
    fifth.write_all(b"xhello").expect("it is taken");
    let mut answer = [0; 5];
    fifth.read_exact(&mut answer).expect("the fifth stream flows");
    assert_eq!(&answer, b"hello");
}
