//! A control plane of a test.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tempfile::TempDir;
use weft_model::{
    Action, Change, EndpointCondition, Health, Identity, Locality, Membership, Policy, PolicyScope, PortMapping,
    Service, TunnelProtocol, Workload,
};
use weft_runtime::{Clock, SystemClock, Tasks};
use weft_transport::{CertificateAuthority, ControlPlane, ControlPlaneOptions};

use super::super::{DiscoveryOptions, NodeDescription};
use super::LONG;
use crate::serve::{
    Authenticating, Authenticator, Caller, Certifier, Grants, Limits, Server, ServerParts, ServerTls, Signing,
    TokenFile, World,
};

/// The token of the node `n1`.
pub(super) const TOKEN: &str = "a secret of n1";

/// The token of a waypoint.
pub(super) const WAYPOINT_TOKEN: &str = "a secret of a/edge";

/// Nodes by a file of tokens, and one waypoint.
struct Callers(TokenFile);

impl Authenticator for Callers {
    fn authenticate<'a>(&'a self, token: &'a str) -> Authenticating<'a> {
        if token != WAYPOINT_TOKEN {
            return self.0.authenticate(token);
        }
        let (namespace, service_account) = ("a".into(), "edge".into());
        Box::pin(async move { Ok(Caller { namespace, service_account, is_waypoint: true, ..Caller::default() }) })
    }
}

pub(super) struct Plane {
    pub dir: TempDir,
    pub world: Arc<World>,
    pub server: Server,
    pub authority: Arc<CertificateAuthority>,
    tasks: Tasks,
}

impl Plane {
    pub async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let digest = digest::digest(&digest::SHA256, TOKEN.as_bytes());
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(dir.path().join("tokens"), format!("n1 {digest}\n")).expect("a file");
        std::fs::write(dir.path().join("token"), TOKEN).expect("a file");
        Self::at(dir, ([127, 0, 0, 1], 0).into(), limits).await
    }

    async fn at(dir: TempDir, address: SocketAddr, limits: Limits) -> Self {
        let tasks = Tasks::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let authority = CertificateAuthority::open(&dir.path().join("ca"), "cluster.local", Arc::clone(&clock));
        let authority = Arc::new(authority.expect("an authority"));
        let names = vec!["localhost".to_owned()];
        let tls =
            ServerTls::start(Signing::fixed(Arc::clone(&authority)), names, clock, &tasks).expect("a certificate");
        let world = World::new("net");
        let parts = ServerParts {
            world: Arc::clone(&world),
            authenticator: Arc::new(Callers(TokenFile::open(&dir.path().join("tokens")).expect("tokens"))),
            certifier: Some(Certifier::new(
                Signing::fixed(Arc::clone(&authority)),
                Arc::clone(&world) as Arc<dyn Grants>,
                Duration::from_secs(3600),
            )),
            tls,
            limits,
        };
        let server = Server::start(address, parts, &tasks).await.expect("a free port");
        Self { dir, world, server, authority, tasks }
    }

    /// Ends it, and starts another on the same port that has the same root and knows nothing yet.
    pub async fn restart(self) -> Self {
        let Self { dir, server, tasks, .. } = self;
        let drained = tasks.drain(LONG).await;
        assert!(drained.aborted.is_empty(), "it ends in order: {drained:?}");
        Self::at(dir, server.address(), Limits::default()).await
    }

    pub async fn say(&self, changes: Vec<Change>) {
        self.world.apply(changes).await;
    }

    pub fn port(&self) -> u16 {
        self.server.address().port()
    }

    pub fn roots(&self) -> PathBuf {
        self.dir.path().join("ca/ca-cert.pem")
    }

    pub fn control_plane(&self) -> ControlPlane {
        let url = format!("https://localhost:{}", self.port());
        let token = Some(self.dir.path().join("token"));
        ControlPlane::new(ControlPlaneOptions { url, roots: self.roots(), token }).expect("an address")
    }
}

pub(super) fn options(plane: &Plane, on_demand: bool) -> DiscoveryOptions {
    let node = NodeDescription {
        address: IpAddr::from([127, 0, 0, 1]),
        pod: "weft-x".to_owned(),
        namespace: "weft-system".to_owned(),
        node: "n1".to_owned(),
        cluster: "c".to_owned(),
        network: "net".to_owned(),
    };
    DiscoveryOptions { control_plane: plane.control_plane(), node, on_demand, with_routes: false }
}

/// Waits until something is so.
pub(super) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("{what}: in vain"));
}

pub(super) fn uid(number: u32) -> Arc<str> {
    format!("c//Pod/a/{number}").into()
}

/// A pod on the node `n1` with the account `sa-<number>` and the address 10.0.x.y, an endpoint of services in `a`.
pub(super) fn workload(number: u32, services: &[&str]) -> Change {
    let [_, b, c, d] = number.to_be_bytes();
    let text = |text: &str| -> Arc<str> { text.into() };
    let ports = vec![PortMapping { service_port: 80, target_port: 8080 }];
    let membership = |service: &&str| Membership {
        service: format!("a/{service}").into(),
        ports: ports.clone(),
        condition: EndpointCondition::Ready,
        waypoint: None,
    };
    Change::PutWorkload(Workload {
        uid: uid(number),
        instance: text("i"),
        name: number.to_string().into(),
        namespace: text("a"),
        identity: Identity::new("cluster.local", "a", &format!("sa-{number}")).expect("valid parts"),
        cluster: text("c"),
        network: text("net"),
        node: text("n1"),
        addresses: vec![IpAddr::from([10, b, c, d])],
        protocol: TunnelProtocol::Hbone,
        is_host_network: false,
        workload_name: text("cart"),
        workload_type: text("deployment"),
        canonical_service: text("cart"),
        canonical_revision: text("latest"),
        app: text("cart"),
        version: text("v1"),
        locality: Locality { zone: text("z"), ..Locality::default() },
        health: Health::Healthy,
        policies: Vec::new(),
        services: services.iter().map(membership).collect(),
        waypoint: None,
    })
}

pub(super) fn with_address(workload: Change, address: IpAddr) -> Change {
    match workload {
        Change::PutWorkload(workload) => Change::PutWorkload(Workload { addresses: vec![address], ..workload }),
        other => other,
    }
}

/// A service in `a` with the address 10.1.0.x.
pub(super) fn service(name: &str, last: u8) -> Change {
    Change::PutService(Service {
        key: format!("a/{name}").into(),
        namespace: "a".into(),
        hostname: name.into(),
        addresses: vec![IpAddr::from([10, 1, 0, last])],
        ..Service::default()
    })
}

pub(super) fn policy(name: &str) -> Change {
    Change::PutPolicy(Policy {
        key: format!("a/{name}").into(),
        namespace: "a".into(),
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        dry_run: false,
        rules: Vec::new(),
    })
}
