//! The servers over real sockets, with an agent that is made up.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use weft_runtime::Tasks;

use super::*;
use crate::telemetry::{Direction, LineFormat, Logging, SinkCounters, fixtures};

/// An agent of which everything is made up.
pub(crate) struct FakeAgent {
    pub(crate) not_ready: Mutex<Vec<String>>,
}

fn at(seconds: u64) -> Timestamp {
    (UNIX_EPOCH + Duration::from_secs(seconds)).into()
}

impl AgentView for FakeAgent {
    fn status(&self) -> AgentStatus {
        AgentStatus {
            node: "node-a".into(),
            pod: Some("weft-agent-x".into()),
            cluster: "Kubernetes".into(),
            network: String::new(),
            trust_domain: "cluster.local".into(),
            workers: 2,
            configuration_source: "/etc/weft".into(),
            discovery: None,
            state: AgentState::Running,
            started: at(1_800_000_000),
            capture: CaptureStatus { is_active: true, detail: "pinned in /sys/fs/bpf/weft/node-a".into() },
            relaxations: vec![],
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        fixtures::snapshot()
    }

    fn certificates(&self) -> Vec<CertificateInfo> {
        let certificate = |name: &str, state, not_after| CertificateInfo {
            identity: fixtures::identity(name).to_string(),
            state,
            serial: Some("0a".into()),
            not_before: Some(at(1_800_000_000)),
            not_after,
            renewal: None,
            error: None,
            workloads: 1,
        };
        vec![
            certificate("web", CertificateState::Valid, Some(at(1_800_086_400))),
            certificate("curl", CertificateState::Pending, None),
        ]
    }

    fn connections(&self) -> Answer<'_, Vec<ConnectionInfo>> {
        let connection = |port: u16, age_milliseconds| ConnectionInfo {
            direction: Direction::Outbound,
            state: ConnectionState::Open,
            source: ConnectionEnd {
                address: ([10, 0, 0, 1], port).into(),
                namespace: Some("shop".into()),
                workload: Some("curl-1".into()),
                identity: Some(fixtures::identity("curl").to_string()),
            },
            destination: ConnectionEnd {
                address: ([10, 0, 0, 2], 8080).into(),
                namespace: None,
                workload: None,
                identity: None,
            },
            service: None,
            tunnel: None,
            bytes_from_client: 1,
            bytes_to_client: 2,
            age_milliseconds,
        };
        Box::pin(async move { vec![connection(1001, 5), connection(1000, 70)] })
    }

    fn older_connections(&self) -> Vec<OlderConnectionInfo> {
        let end = |address: [u8; 4], port: u16, workload: Option<&str>| ConnectionEnd {
            address: (address, port).into(),
            namespace: workload.map(|_| "shop".into()),
            workload: workload.map(str::to_owned),
            identity: None,
        };
        let connection = |port| OlderConnectionInfo {
            direction: Direction::Outbound,
            source: end([10, 0, 0, 1], port, Some("curl-1")),
            destination: end([192, 0, 2, 7], 5432, None),
        };
        vec![connection(40_001), connection(40_000)]
    }

    fn pods(&self) -> Vec<PodStatus> {
        vec![PodStatus {
            namespace: "shop".into(),
            name: "curl-1".into(),
            identity: fixtures::identity("curl").to_string(),
            addresses: vec![[10, 0, 0, 1].into()],
            netns: Some("/run/netns/curl".into()),
            state: PodState::Captured,
            detail: None,
            older_connections: None,
        }]
    }

    fn problems(&self) -> Vec<Problem> {
        let problem = |severity, message: &str| Problem {
            severity,
            file: Some("mesh.yaml".into()),
            line: Some(3),
            object: None,
            field: None,
            message: message.into(),
            suggestion: None,
        };
        vec![problem(Severity::Warning, "odd"), problem(Severity::Error, "wrong")]
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        let reasons = self.not_ready.lock().unwrap().clone();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

/// Running servers of a [`FakeAgent`].
pub(crate) struct Running {
    pub(crate) folder: TempDir,
    pub(crate) agent: Arc<FakeAgent>,
    metrics_address: SocketAddr,
    readiness_address: SocketAddr,
    pub(crate) admin_address: SocketAddr,
    tasks: Tasks,
    /// The filter lives as long as both.
    _logging: (Logging, tracing::Dispatch),
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    /// One that hands sandboxes on.
    pub(crate) fn with(sandboxes: Option<Arc<dyn Sandboxes>>) -> Self {
        let folder = TempDir::new().unwrap();
        let listeners = Listeners::bind(&options(&folder)).unwrap();
        let agent = Arc::new(FakeAgent { not_ready: Mutex::default() });
        let filter = "info".parse().unwrap();
        let (logging, dispatch) =
            Logging::build(&filter, LineFormat::Text, std::io::sink(), SinkCounters::default()).unwrap();
        let control = logging.control();
        let admin = Admin::new(agent.clone(), Arc::new(Metrics::new()), Some(control));
        let admin = Admin { sandboxes, ..admin };
        let tasks = Tasks::new();
        let running = Self {
            folder,
            agent,
            metrics_address: listeners.metrics_address().unwrap(),
            readiness_address: listeners.readiness_address().unwrap(),
            admin_address: listeners.admin_address().unwrap(),
            tasks: tasks.clone(),
            _logging: (logging, dispatch),
        };
        listeners.start(&admin, &tasks);
        running
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_path(self.folder.path())
    }

    pub(crate) async fn ask(&self, request: &str) -> (u16, Value) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (status, _, body) = exchange(stream, request).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(status, 200, "{value}");
        value
    }
}

fn options(folder: &TempDir) -> AdminOptions {
    let any_port = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    AdminOptions { socket: socket_path(folder.path()), admin: any_port, metrics: any_port, readiness: any_port }
}

pub(crate) async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

async fn get_tcp(address: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    exchange(stream, &request).await
}

#[tokio::test]
async fn the_status_has_its_documented_form() {
    let running = Running::start();
    running.agent.not_ready.lock().unwrap().push("waiting for a certificate".into());
    let mut status = running.get("/v1/status").await;
    assert_eq!(status["pid"].take(), std::process::id());
    assert_eq!(
        status,
        json!({
            "version": env!("CARGO_PKG_VERSION"), "pid": null, "pod": "weft-agent-x",
            "node": "node-a", "cluster": "Kubernetes",
            "network": "", "trust_domain": "cluster.local", "workers": 2, "configuration_source": "/etc/weft",
            "state": "running", "started": "2027-01-15T08:00:00Z",
            "capture": {"is_active": true, "detail": "pinned in /sys/fs/bpf/weft/node-a"},
            "relaxations": [], "is_ready": false, "not_ready": ["waiting for a certificate"], "generation": 1,
            "problems": [
                {"severity": "error", "file": "mesh.yaml", "line": 3, "message": "wrong"},
                {"severity": "warning", "file": "mesh.yaml", "line": 3, "message": "odd"},
            ],
            "objects": {"workloads": 3, "services": 1, "policies": 1},
            "pods": [{
                "namespace": "shop", "name": "curl-1", "identity": "spiffe://cluster.local/ns/shop/sa/curl",
                "addresses": ["10.0.0.1"], "netns": "/run/netns/curl", "state": "captured",
            }],
            "certificates": {"valid": 1, "pending": 1, "failing": {}, "next_expiry": "2027-01-16T08:00:00Z"},
            "connections": {"outbound": 0, "inbound": 0}, "tunnels": {"client": 0, "server": 0},
            "losses": {"access_records": 0, "log_lines": 0},
        })
    );
}

#[tokio::test]
async fn lists_are_sorted_and_have_their_documented_form() {
    let running = Running::start();
    assert_eq!(
        running.get("/v1/workloads?namespace=shop").await,
        json!({"workloads": [
            {
                "namespace": "shop", "name": "curl-1", "uid": "Kubernetes//Pod/shop/curl-1", "instance": "",
                "addresses": ["10.0.0.1"], "protocol": "hbone", "identity": "spiffe://cluster.local/ns/shop/sa/curl",
                "node": "node-a", "cluster": "Kubernetes", "network": "", "is_host_network": false,
                "workload_name": "curl", "workload_type": "deployment", "canonical_service": "curl",
                "canonical_revision": "v1", "region": "r1", "zone": "z1", "health": "healthy", "policies": [],
                "services": [],
            },
            {
                "namespace": "shop", "name": "web-1", "uid": "Kubernetes//Pod/shop/web-1", "instance": "",
                "addresses": ["10.0.0.2"], "protocol": "hbone", "identity": "spiffe://cluster.local/ns/shop/sa/web",
                "node": "node-a", "cluster": "Kubernetes", "network": "", "is_host_network": false,
                "workload_name": "web", "workload_type": "deployment", "canonical_service": "web",
                "canonical_revision": "v1", "region": "r1", "zone": "z1", "health": "healthy",
                "policies": ["shop/web-clients"],
                "services": [
                    {"service": "shop/web.shop.svc.cluster.local", "condition": "ready", "ports": [[80, 8080]]},
                ],
            },
        ]})
    );
    let all = running.get("/v1/workloads").await;
    let names: Vec<_> = all["workloads"].as_array().unwrap().iter().map(|workload| &workload["name"]).collect();
    assert_eq!(names, ["idle-1", "curl-1", "web-1"]);
    assert_eq!(
        running.get("/v1/services").await,
        json!({"services": [{
            "namespace": "shop", "name": "web", "hostname": "web.shop.svc.cluster.local",
            "addresses": ["10.1.0.1"], "ports": [{"port": 80, "name": "http", "protocol": "http"}],
            "endpoints": [
                {"namespace": "shop", "workload": "web-1", "addresses": ["10.0.0.2"], "condition": "ready"},
            ],
            "internal_traffic_policy": "Cluster", "publish_not_ready_addresses": false,
        }]})
    );
    assert_eq!(
        running.get("/v1/policies").await,
        json!({"policies": [{
            "namespace": "shop", "name": "web-clients", "action": "allow", "scope": "workload", "dry_run": false,
            "rules": [[[{"principals": ["cluster.local/ns/shop/sa/curl"]}]]], "selected_by": 1,
        }]})
    );
    assert_eq!(
        running.get("/v1/certificates").await,
        json!({"certificates": [
            {
                "identity": "spiffe://cluster.local/ns/shop/sa/curl", "state": "pending", "serial": "0a",
                "not_before": "2027-01-15T08:00:00Z", "workloads": 1,
            },
            {
                "identity": "spiffe://cluster.local/ns/shop/sa/web", "state": "valid", "serial": "0a",
                "not_before": "2027-01-15T08:00:00Z", "not_after": "2027-01-16T08:00:00Z", "workloads": 1,
            },
        ]})
    );
    let connections = running.get("/v1/connections").await;
    assert_eq!(
        connections["connections"][0],
        json!({
            "direction": "outbound", "state": "open",
            "source": {
                "address": "10.0.0.1:1000", "namespace": "shop", "workload": "curl-1",
                "identity": "spiffe://cluster.local/ns/shop/sa/curl",
            },
            "destination": {"address": "10.0.0.2:8080"},
            "bytes_from_client": 1, "bytes_to_client": 2, "age_milliseconds": 70,
        }),
        "the oldest first"
    );
    assert_eq!(
        running.get("/v1/older_connections?namespace=shop").await["older_connections"][0],
        json!({
            "direction": "outbound",
            "source": {"address": "10.0.0.1:40000", "namespace": "shop", "workload": "curl-1"},
            "destination": {"address": "192.0.2.7:5432"},
        })
    );
    for list in ["pods", "certificates", "connections", "older_connections", "policies", "services"] {
        let nothing = running.get(&format!("/v1/{list}?namespace=nowhere")).await;
        assert_eq!(nothing, json!({ list: [] }));
    }
    let dump = running.get("/config_dump").await;
    let keys: Vec<_> = dump.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["certificates", "connections", "older_connections", "policies", "services", "status", "workloads"]
    );
}

#[tokio::test]
async fn the_log_level_is_shown_and_changed() {
    let running = Running::start();
    assert_eq!(running.get("/v1/log").await, json!({"filter": "info"}));
    let put = |body: &str| {
        format!("PUT /v1/log HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let (status, answer) = running.ask(&put("{\"filter\":\"debug\"}")).await;
    assert_eq!((status, answer), (200, json!({"filter": "debug"})));
    let (status, answer) = running.ask(&put("{\"filter\":\"loud\"}")).await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("is not a level"), "{answer}");
    let (status, _) = running.ask(&put(&format!("{{\"filter\":\"{}\"}}", "x".repeat(5000)))).await;
    assert_eq!(status, 400, "too large");
    assert_eq!(running.get("/v1/log").await, json!({"filter": "debug"}));
}

#[tokio::test]
async fn what_there_is_not_is_said_so() {
    let running = Running::start();
    for (request, expected) in [("GET /v1/nothing", 404), ("DELETE /v1/status", 405), ("GET /v1/status?name=x", 400)] {
        let (status, answer) =
            running.ask(&format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(status, expected, "{request}");
        assert!(answer["error"].is_string());
    }
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let running = Running::start();
    for path in ["/metrics", "/stats/prometheus"] {
        let (status, head, body) = get_tcp(running.metrics_address, path, "").await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        for line in [
            "weft_capture_active 1",
            "weft_pods{state=\"captured\"} 1",
            "weft_configuration_problems{severity=\"error\"} 1",
            "weft_certificate_expiry_timestamp_seconds{identity=\"spiffe://cluster.local/ns/shop/sa/web\"} 1800086400",
        ] {
            assert!(body.lines().any(|found| found == line), "{line} is missing in:\n{body}");
        }
    }
    let accept = "accept: application/openmetrics-text; version=1.0.0\r\n";
    let (_, head, body) = get_tcp(running.metrics_address, "/metrics", accept).await;
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"));
    assert_eq!(get_tcp(running.metrics_address, "/v1/status", "").await.0, 404, "metrics are all there is");
}

#[tokio::test]
async fn readiness_says_what_is_waited_for() {
    let running = Running::start();
    assert_eq!(get_tcp(running.readiness_address, "/healthz/ready", "").await.0, 200);
    running.agent.not_ready.lock().unwrap().push("no certificate yet".into());
    let (status, _, body) = get_tcp(running.readiness_address, "/healthz/ready", "").await;
    assert_eq!((status, body.as_str()), (503, "no certificate yet\n"));
}

#[tokio::test]
async fn the_admin_interface_over_tcp_answers_local_names_only() {
    let running = Running::start();
    assert_eq!(get_tcp(running.admin_address, "/v1/log", "").await.0, 200);
    let stream = TcpStream::connect(running.admin_address).await.unwrap();
    let rebound = "GET /v1/status HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(stream, rebound).await.0, 403);
}

#[tokio::test]
async fn the_admin_interface_refuses_to_listen_where_others_could_reach_it() {
    let folder = TempDir::new().unwrap();
    let admin = Some(SocketAddr::from(([0, 0, 0, 0], 0)));
    let error = Listeners::bind(&AdminOptions { admin, ..options(&folder) }).err().unwrap();
    assert!(matches!(error, AdminError::NotLoopback(_)), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_flag() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = Some(taken.local_addr().unwrap());
    let error = Listeners::bind(&AdminOptions { metrics, ..options(&folder) }).err().unwrap().to_string();
    assert!(error.contains("--metrics") && error.contains("is another one running"), "{error}");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_goes_with_its_server() {
    let running = Running::start();
    let mode = std::fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    running.tasks.drain(Duration::from_secs(5)).await;
    assert!(!running.socket().exists());
}

#[tokio::test]
async fn a_new_agent_takes_the_socket_over_and_the_old_one_leaves_it_alone() {
    let running = Running::start();
    let successor = Listeners::bind(&AdminOptions { socket: running.socket(), ..options(&running.folder) }).unwrap();
    running.tasks.drain(Duration::from_secs(5)).await;
    assert!(running.socket().exists(), "it is the successor's");
    let files = std::fs::read_dir(running.folder.path()).unwrap().count();
    assert_eq!(files, 1, "nothing is left behind");
    drop(successor);
    assert!(!running.socket().exists());
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_dropped() {
    let running = Running::start();
    tokio::time::pause();
    let mut silent = UnixStream::connect(running.socket()).await.unwrap();
    let mut endless = UnixStream::connect(running.socket()).await.unwrap();
    endless.write_all(b"GET /v1/status HTTP/1.1\r\nx: ").await.unwrap();
    let mut bytes = Vec::new();
    silent.read_to_end(&mut bytes).await.unwrap();
    endless.read_to_end(&mut bytes).await.unwrap();
}

#[tokio::test]
async fn a_head_that_never_ends_is_refused() {
    let running = Running::start();
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nx: ").await;
    let _ = stream.write_all(&vec![b'x'; 64 * 1024]).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}
