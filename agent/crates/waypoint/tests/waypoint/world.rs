//! A mesh of one waypoint, on loopback: real TLS, real HTTP/2 tunnels, real servers. Pods are loopback addresses of their
//! own, each with the small end of a tunnel that an agent would have there.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use weft_model::{
    AppProtocol, Change, EndpointCondition, Health, Identity, Locality, Membership, MeshOptions, PortMapping, Service,
    ServicePort, Store, TunnelProtocol, Waypoint as WaypointRef, WaypointTarget, Workload,
};
use weft_route::{RouteChange, RouteStore};
use weft_runtime::{SystemClock, Tasks};
use weft_transport::{CertificateAuthority, CertificateOptions, Certificates, TlsIdentity};
use weft_waypoint::{
    ConnectionEnd, ConnectionRecord, Limits, Observe, RequestRecord, State, StateCell, Waypoint, WaypointOptions,
    WaypointParts,
};

pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The waypoint's own service.
const OWN: &str = "shop/gate.shop.svc.cluster.local";

/// Each world has a network of its own, so that all tests can run at once.
static NETWORK: AtomicU8 = AtomicU8::new(1);

/// What the waypoint tells.
#[derive(Default)]
pub struct Recorder {
    pub requests: Mutex<Vec<RequestRecord>>,
    pub connections: Mutex<Vec<ConnectionRecord>>,
    pub opened: AtomicUsize,
}

impl Observe for Recorder {
    fn request(&self, record: RequestRecord) {
        self.requests.lock().expect("no panic").push(record);
    }

    fn opened(&self, _: &ConnectionEnd) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn closed(&self, record: ConnectionRecord) {
        self.connections.lock().expect("no panic").push(record);
    }
}

/// Everything a test needs.
pub struct World {
    pub waypoint: Waypoint,
    pub records: Arc<Recorder>,
    pub servers: JoinSet<()>,
    network: u8,
    certificates: Arc<Certificates>,
    client: Arc<TlsIdentity>,
    state: Arc<StateCell>,
    store: Store,
    routes: RouteStore,
    pods: u8,
    _tasks: Tasks,
    _folder: tempfile::TempDir,
}

pub fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "shop", account).expect("an identity")
}

pub fn key(service: &str) -> Arc<str> {
    format!("shop/{service}.shop.svc.cluster.local").into()
}

impl World {
    pub async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        let network = NETWORK.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(SystemClock);
        let authority =
            CertificateAuthority::open(folder.path(), "cluster.local", clock.clone()).expect("an authority");
        let tasks = Tasks::new();
        let certificates =
            Certificates::start(Arc::new(authority), CertificateOptions::default(), clock, &tasks).expect("no files");
        for account in ["gate", "cart", "server"] {
            certificates.want(&identity(account));
            certificates.ready(&identity(account)).await.expect("a certificate");
        }
        let client = certificates.current(&identity("cart")).expect("it is ready");
        let mesh = MeshOptions {
            network: "".into(),
            root_namespace: "istio-system".into(),
            trust_domain: "cluster.local".into(),
        };
        let (store, routes) = (Store::new(mesh), RouteStore::new());
        let state = StateCell::new(State { snapshot: store.snapshot().clone(), routes: routes.current().clone() });
        let records = Arc::<Recorder>::default();
        let options = WaypointOptions {
            address: SocketAddr::new(Ipv4Addr::new(127, 90, network, 1).into(), 15008),
            namespace: "shop".into(),
            name: "gate".into(),
            service: OWN.into(),
            identity: identity("gate"),
            workers: 2,
            limits,
        };
        let parts =
            WaypointParts { state: state.clone(), certificates: certificates.clone(), observer: records.clone() };
        let waypoint = Waypoint::start(options, parts).expect("the address is free");
        Self {
            waypoint,
            records,
            servers: JoinSet::new(),
            network,
            certificates,
            client,
            state,
            store,
            routes,
            pods: 10,
            _tasks: tasks,
            _folder: folder,
        }
    }

    pub fn change(&mut self, changes: Vec<Change>) {
        self.store.apply(changes);
        self.publish();
    }

    pub fn route(&mut self, route: weft_route::Route) {
        self.routes.apply([RouteChange::Put(Arc::new(route))]);
        self.publish();
    }

    fn publish(&self) {
        self.state.publish(State { snapshot: self.store.snapshot().clone(), routes: self.routes.current().clone() });
    }

    /// A service behind the waypoint, its port 80 leading to 8080. Returns where it is.
    pub fn service(&mut self, name: &str, protocol: AppProtocol) -> SocketAddr {
        let last = 100 + u8::try_from(self.store.snapshot().services().count()).expect("few");
        let address: IpAddr = Ipv4Addr::new(127, 90, self.network, last).into();
        let waypoint = WaypointRef { target: WaypointTarget::Service(OWN.into()), port: 15008, is_optional: false };
        let service = Service {
            key: key(name),
            name: name.into(),
            namespace: "shop".into(),
            hostname: format!("{name}.shop.svc.cluster.local").into(),
            addresses: vec![address],
            ports: vec![ServicePort { port: 80, name: "".into(), app_protocol: protocol }],
            waypoint: Some(waypoint.into()),
            ..Service::default()
        };
        self.change(vec![Change::PutService(service)]);
        SocketAddr::new(address, 80)
    }

    /// A pod that is an endpoint of a service, in the mesh or not, and the address of its application.
    pub fn pod(&mut self, name: &str, service: &str, is_mesh: bool) -> SocketAddr {
        self.pods += 1;
        let address: IpAddr = Ipv4Addr::new(127, 90, self.network, self.pods).into();
        let ports = vec![PortMapping { service_port: 80, target_port: 8080 }];
        let membership =
            Membership { service: key(service), ports, condition: EndpointCondition::Ready, waypoint: None };
        let workload = Workload {
            uid: format!("Kubernetes//Pod/shop/{name}").into(),
            instance: "".into(),
            name: name.into(),
            namespace: "shop".into(),
            identity: identity("server"),
            cluster: "Kubernetes".into(),
            network: "".into(),
            node: "node-1".into(),
            addresses: vec![address],
            protocol: if is_mesh { TunnelProtocol::Hbone } else { TunnelProtocol::None },
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
            services: vec![membership],
            waypoint: None,
        };
        self.change(vec![Change::PutWorkload(workload)]);
        if is_mesh {
            let tls = self.certificates.current(&identity("server")).expect("it is ready");
            self.servers.spawn(take_tunnels(address, tls));
        }
        SocketAddr::new(address, 8080)
    }

    /// A pod with an HTTP server.
    pub fn http<F, Answering>(&mut self, name: &str, service: &str, is_http2: bool, handle: F)
    where
        F: Fn(Request<Incoming>) -> Answering + Clone + Send + Sync + 'static,
        Answering: Future<Output = Response<Body>> + Send + 'static,
    {
        let address = self.pod(name, service, true);
        let listener = listen(address);
        self.servers.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let handle = handle.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let answering = handle(request);
                        async move { Ok::<_, Infallible>(answering.await) }
                    });
                    let io = TokioIo::new(socket);
                    if is_http2 {
                        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = http2.serve_connection(io, service).await;
                    } else {
                        let http1 = hyper::server::conn::http1::Builder::new();
                        let _ = http1.serve_connection(io, service).with_upgrades().await;
                    }
                });
            }
        });
    }

    /// A connection of the client's to `address`, through the waypoint.
    pub async fn connect(&mut self, address: SocketAddr) -> Result<TcpStream, StatusCode> {
        self.connect_to(&address.to_string()).await
    }

    pub async fn connect_to(&mut self, authority: &str) -> Result<TcpStream, StatusCode> {
        // From an address of its own, so that it can be told apart.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(Ipv4Addr::new(127, 90, self.network, 2).into(), 0)).expect("an address");
        let socket = socket.connect(self.waypoint.address()).await.expect("the waypoint listens");
        let secured = self.client.connect_stream(socket, vec![identity("gate")]).await.expect("the waypoint");
        let (mut sender, http2) = h2::client::handshake(secured.stream).await.expect("HTTP/2");
        self.servers.spawn(async move { drop(http2.await) });
        let request = Request::builder().method(Method::CONNECT).uri(authority).body(()).expect("a request");
        let (response, send) = sender.send_request(request, false).expect("a stream");
        let response = response.await.expect("an answer");
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        // Through a pair of sockets, so that ends and resets are those that an application would see.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        let (far, _) = listener.accept().await.expect("a connection");
        self.servers.spawn(join(far, send, response.into_body()));
        Ok(near)
    }

    /// Sends bytes on a connection of its own and returns all that comes back until the end.
    pub async fn raw(&mut self, address: SocketAddr, text: &str) -> String {
        let mut socket = self.connect(address).await.expect("the waypoint takes it");
        socket.write_all(text.as_bytes()).await.expect("it takes bytes");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The record of the only request so far.
    pub async fn record(&self) -> RequestRecord {
        for _ in 0..500 {
            if let [record] = self.records.requests.lock().expect("no panic").as_slice() {
                return record.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("there is not one record: {:?}", self.records.requests.lock().expect("no panic"));
    }
}

pub fn listen(address: SocketAddr) -> TcpListener {
    let listener = std::net::TcpListener::bind(address).expect("a free address");
    listener.set_nonblocking(true).expect("a socket");
    TcpListener::from_std(listener).expect("a runtime")
}

/// What an agent does for its pod: takes tunnels, and hands what is in them to the application.
async fn take_tunnels(address: IpAddr, tls: Arc<TlsIdentity>) {
    let listener = listen(SocketAddr::new(address, 15008));
    let mut tunnels = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        let tls = tls.clone();
        tunnels.spawn(async move {
            let Ok(secured) = tls.accept_stream(socket).await else { return };
            assert_eq!(secured.peer, identity("gate"), "the waypoint comes under its own name");
            let mut http2 = h2::server::handshake(secured.stream).await.expect("HTTP/2");
            let mut streams = JoinSet::new();
            while let Some(Ok((request, mut respond))) = http2.accept().await {
                streams.spawn(async move {
                    let authority = request.uri().authority().expect("a CONNECT has one").to_string();
                    let Ok(socket) = TcpStream::connect(authority).await else {
                        let refusal = Response::builder().status(503).body(()).expect("an answer");
                        respond.send_response(refusal, true).expect("the waypoint waits");
                        return;
                    };
                    let send = respond.send_response(Response::new(()), false).expect("the waypoint waits");
                    join(socket, send, request.into_body()).await;
                });
            }
        });
    }
}

/// Joins a socket and a stream of a tunnel: ends are ends, resets are resets.
async fn join(socket: TcpStream, mut send: SendStream<Bytes>, mut receive: RecvStream) {
    let (mut read, mut write) = socket.into_split();
    let out = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) => break send.send_data(Bytes::new(), true).is_ok(),
                Ok(length) => {
                    let mut rest = Bytes::copy_from_slice(&buffer[..length]);
                    while !rest.is_empty() {
                        send.reserve_capacity(rest.len());
                        let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                        let Some(Ok(room)) = room else { return false };
                        let piece = rest.split_to(room.min(rest.len()));
                        if send.send_data(piece, false).is_err() {
                            return false;
                        }
                    }
                }
                Err(_) => {
                    send.send_reset(h2::Reason::CANCEL);
                    break false;
                }
            }
        }
    };
    let back = async move {
        loop {
            match receive.data().await {
                Some(Ok(data)) => {
                    let _ = receive.flow_control().release_capacity(data.len());
                    if write.write_all(&data).await.is_err() {
                        return;
                    }
                }
                Some(Err(_)) => {
                    reset(write.as_ref());
                    // Dropped, it would end in order.
                    return write.forget();
                }
                None => return drop(write.shutdown().await),
            }
        }
    };
    tokio::join!(out, back);
}

/// Closing the socket is a reset from now on, and reading from it ends.
fn reset(socket: &TcpStream) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_linger(Some(Duration::ZERO));
    let _ = socket.shutdown(std::net::Shutdown::Read);
}

/// How often each of several answers came.
pub fn count(answers: impl IntoIterator<Item = String>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for answer in answers {
        *counts.entry(answer).or_default() += 1;
    }
    counts
}
