//! How much memory a control plane's connections take, and how soon all hear of a change.
//!
//! `cargo run -p weft-control --example subscribers -- 1000 100000`: that many streams of everything, in a process of
//! their own, and that many workloads. The figures are printed.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_control::discovery::{Discovery, DiscoveryOptions, NodeDescription};
use weft_control::serve::{
    Authenticating, Authenticator, Caller, Limits, Server, ServerParts, ServerTls, Signing, World,
};
use weft_model::{
    Change, EndpointCondition, Health, Identity, Locality, Membership, PortMapping, TunnelProtocol, Workload,
};
use weft_runtime::{SystemClock, Tasks};
use weft_transport::{CertificateAuthority, ControlPlane, ControlPlaneOptions};

/// Handshakes at one time.
const WAVE: usize = 32;

struct Anyone;

impl Authenticator for Anyone {
    fn authenticate<'a>(&'a self, _: &'a str) -> Authenticating<'a> {
        Box::pin(async { Ok(Caller { node: "n1".into(), ..Caller::default() }) })
    }
}

fn main() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum it is allowed");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match &words[..] {
        [role, port, dir, agents] if role == "agents" => {
            runtime.block_on(agents_of(port.parse().expect("a port"), dir.into(), agents.parse().expect("a number")));
        }
        [agents, workloads] => {
            runtime.block_on(serve(agents, workloads.parse().expect("a number")));
        }
        _ => eprintln!("usage: subscribers AGENTS WORKLOADS"),
    }
}

async fn serve(agents: &str, workloads: u32) {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("token"), "any").expect("a file");
    let tasks = Tasks::new();
    let authority = CertificateAuthority::open(&dir.path().join("ca"), "cluster.local", Arc::new(SystemClock));
    let authority = Arc::new(authority.expect("an authority"));
    let tls = ServerTls::start(Signing::fixed(authority), vec!["localhost".to_owned()], Arc::new(SystemClock), &tasks);
    let world = World::new("");
    let parts = ServerParts {
        world: Arc::clone(&world),
        authenticator: Arc::new(Anyone),
        certifier: None,
        tls: tls.expect("a certificate"),
        limits: Limits::default(),
    };
    let server = Server::start(([127, 0, 0, 1], 0).into(), parts, &tasks).await.expect("a free port");
    let before = resident();
    world.apply((0..workloads).map(workload).collect()).await;
    println!("{workloads} workloads: {} MiB, {} before", resident() >> 10, before >> 10);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["agents", &server.address().port().to_string(), &dir.path().to_string_lossy(), agents])
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let start = Instant::now();
    let mut line = move || lines.next().expect("a line").expect("a line");
    let before = resident();
    println!("{} after {:?}", line(), start.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count: usize = agents.parse().expect("a number");
    let after = resident();
    println!("{:?}", server.counts());
    println!("memory {} MiB, {} KiB for each agent", after >> 10, after.saturating_sub(before) / count);
    for number in 0..5 {
        let start = Instant::now();
        world.apply(vec![workload(workloads + number)]).await;
        println!("{} after {:?}", line(), start.elapsed());
    }
    let _ = child.stdin.take();
    let _ = child.kill();
    let _ = child.wait();
}

/// Agents that read what comes and drop it.
async fn agents_of(port: u16, dir: PathBuf, agents: usize) {
    let room = Arc::new(Semaphore::new(WAVE));
    let tasks = Tasks::new();
    let mut opening = JoinSet::new();
    let (news, mut heard) = tokio::sync::mpsc::channel(agents);
    for _ in 0..agents {
        let options = ControlPlaneOptions {
            url: format!("https://localhost:{port}"),
            roots: dir.join("ca/ca-cert.pem"),
            token: Some(dir.join("token")),
        };
        let options = DiscoveryOptions {
            control_plane: ControlPlane::new(options).expect("an address"),
            node: NodeDescription {
                address: [127, 0, 0, 1].into(),
                pod: "p".to_owned(),
                namespace: "n".to_owned(),
                node: "n1".to_owned(),
                cluster: "c".to_owned(),
                network: String::new(),
            },
            on_demand: false,
            with_routes: false,
        };
        let (room, tasks, news) = (Arc::clone(&room), tasks.clone(), news.clone());
        opening.spawn(async move {
            let _turn = room.acquire().await.expect("it is open");
            let (discovery, mut discovered) = Discovery::start(options, &tasks);
            discovered.news.recv().await.expect("everything");
            tokio::spawn(async move {
                let _discovery = discovery;
                while discovered.news.recv().await.is_some() {
                    let _ = news.send(()).await;
                }
            });
        });
    }
    opening.join_all().await;
    println!("{agents} agents have everything");
    std::io::stdout().flush().expect("a pipe");
    loop {
        for _ in 0..agents {
            heard.recv().await.expect("a change");
        }
        println!("all have heard");
        std::io::stdout().flush().expect("a pipe");
    }
}

fn workload(number: u32) -> Change {
    let [_, b, c, d] = number.to_be_bytes();
    let text = |text: &str| -> Arc<str> { text.into() };
    let service = format!("ns-{0}/svc-{1}.ns-{0}.svc.cluster.local", number % 100, number % 5000);
    let ports = vec![PortMapping { service_port: 80, target_port: 8080 }];
    Change::PutWorkload(Workload {
        uid: format!("Kubernetes//Pod/ns-{}/deployment-7d9f8b6c5-{number}", number % 100).into(),
        instance: format!("0ae5c03d-5fb3-4eb9-9de8-{number:012}").into(),
        name: format!("deployment-7d9f8b6c5-{number}").into(),
        namespace: format!("ns-{}", number % 100).into(),
        identity: Identity::new("cluster.local", &format!("ns-{}", number % 100), "default").expect("valid parts"),
        cluster: text("Kubernetes"),
        network: text(""),
        node: format!("node-{}", number % 1000).into(),
        addresses: vec![IpAddr::from([10, b, c, d])],
        protocol: TunnelProtocol::Hbone,
        is_host_network: false,
        workload_name: text("deployment"),
        workload_type: text("deployment"),
        canonical_service: text("deployment"),
        canonical_revision: text("latest"),
        app: text("deployment"),
        version: text("v1"),
        locality: Locality { region: text("r"), zone: text("z"), ..Locality::default() },
        health: Health::Healthy,
        policies: Vec::new(),
        services: vec![Membership {
            service: service.into(),
            ports,
            condition: EndpointCondition::Ready,
            waypoint: None,
        }],
        waypoint: None,
    })
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
