//! A root that is replaced while traffic goes on.
//!
//! The agents run on the host, beside the cluster: network namespaces stand in for their pods, with the pods' names and
//! addresses, so that the controller certifies them and says where they are.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
use serde_json::{Value, json};
use weft_tests::cluster::{Cluster, Kit};
use weft_tests::server::{Behaviour, Server};
use weft_tests::{Netns, eventually_within};

use super::control_plane::{Agent, ControlPlane, announce, controller_log};
use super::{PATIENCE, shop};

/// What is not in a tunnel is refused.
const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
"#;

/// Where the server listens.
const PORT: u16 = 9000;
/// Where agents of peers dial in.
const TUNNEL_PORT: u16 = 15008;

/// A pod of the cluster, as `kubectl` knows it, and the network namespace that stands in for it.
struct StandIn {
    pod: Value,
    address: IpAddr,
    netns: Netns,
}

impl StandIn {
    fn new(cluster: &Cluster, pod: &Value, name: &str) -> Result<Self> {
        let cluster = cluster.folder().file_name().context("it has a name")?.to_string_lossy().into_owned();
        let address = pod["status"]["podIP"].as_str().context("the pod has an address")?.parse()?;
        Ok(Self { pod: pod.clone(), address, netns: Netns::create(&format!("{cluster}-{name}"))? })
    }

    /// What the agent of its node is told of it.
    fn manifest(&self) -> Value {
        let metadata = &self.pod["metadata"];
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "annotations": { "weft.dev/netns": self.netns.path() },
            },
            "spec": {
                "nodeName": self.pod["spec"]["nodeName"], "serviceAccountName": self.pod["spec"]["serviceAccountName"],
                "containers": [{ "name": "c" }],
            },
            "status": {
                "phase": "Running", "podIP": self.address, "podIPs": [{ "ip": self.address }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    }

    /// Joins it with another one.
    fn wire(&self, other: &Self, link: &str) -> Result<()> {
        let names = [self.netns.name(), other.netns.name()];
        ip(&["link", "add", link, "netns", names[0], "type", "veth", "peer", "name", link, "netns", names[1]])?;
        for (name, own, peer) in [(names[0], self.address, other.address), (names[1], other.address, self.address)] {
            ip(&["-n", name, "address", "replace", &format!("{own}/32"), "dev", link])?;
            ip(&["-n", name, "link", "set", link, "up"])?;
            ip(&["-n", name, "route", "add", &format!("{peer}/32"), "dev", link, "src", &own.to_string()])?;
        }
        Ok(())
    }

    /// Sends a word to the server of another one, and hears it again.
    fn talk_to(&self, other: &Self) -> Result<()> {
        let address = SocketAddr::new(other.address, PORT);
        self.netns.enter(|| {
            let mut tcp = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
            tcp.write_all(b"word")?;
            tcp.shutdown(Shutdown::Write)?;
            let mut heard = String::new();
            tcp.read_to_string(&mut heard)?;
            ensure!(heard == "word", "heard {heard:?}");
            Ok(())
        })
    }

    /// Whether the certificate that its agent shows peers chains to `root`.
    fn chains_to(&self, root: &CertificateDer<'static>) -> Result<bool> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone())?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut tls = ClientConnection::new(Arc::new(config), self.address.into())?;
        let mut tcp = self.netns.enter(|| TcpStream::connect((self.address, TUNNEL_PORT)))?;
        tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
        let error = match tls.complete_io(&mut tcp) {
            Ok(_) => bail!("a certificate without any host's name is accepted for one"),
            Err(error) => error,
        };
        // The chain is judged before the name, which is an identity and no address.
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(true),
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Ok(false),
            _ => Err(error).context("asking for the certificate"),
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("starting ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {error}", arguments.join(" "));
    Ok(())
}

/// Tells the agent of a node about its pods.
fn tell(plane: &ControlPlane<'_>, node: &str, pods: &[&StandIn]) -> Result<()> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "default", "labels": { "istio.io/dataplane-mode": "ambient" } },
    });
    let folder = plane.config_of(node);
    fs::create_dir_all(&folder)?;
    let objects: Vec<Value> = [namespace].into_iter().chain(pods.iter().map(|pod| pod.manifest())).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(folder.join("partial"), list.to_string())?;
    fs::rename(folder.join("partial"), folder.join("pods.json")).map_err(Into::into)
}

/// The serial number of the agent's certificate, once it has one.
fn serial(agent: &Agent<'_>) -> Result<String> {
    eventually_within(PATIENCE, "the agent has a certificate", || {
        let certificates = agent.json("certificates")?;
        Ok(certificates.first().and_then(|found| Some(found["serial"].as_str()?.to_owned())))
    })
}

/// An authority below a root of its own, in the layout of the Secret.
struct NewAuthority {
    root: String,
    secret: Value,
}

impl NewAuthority {
    fn new() -> Result<Self> {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params
        };
        let root = CertifiedIssuer::self_signed(params("new root"), KeyPair::generate()?)?;
        let issuer = CertifiedIssuer::signed_by(params("new issuer"), KeyPair::generate()?, &root)?;
        let secret = json!({
            "ca-cert.pem": issuer.pem(),
            "ca-key.pem": issuer.key().serialize_pem(),
            "cert-chain.pem": issuer.pem() + &root.pem(),
        });
        Ok(Self { root: root.pem(), secret })
    }
}

/// Changes parts of the authority's Secret.
fn change_secret(cluster: &Cluster, parts: &Value) -> Result<()> {
    let file = cluster.folder().join("secret-patch.json");
    fs::write(&file, json!({ "stringData": parts }).to_string())?;
    let patch = format!("--patch-file={}", file.display());
    cluster.kubectl(&["patch", "secret", "weft-ca", "--namespace=weft-system", &patch])?.success().map(drop)
}

/// Waits until the trust bundle is `roots`, and gives it to agents, as a kubelet does with a mounted ConfigMap.
fn hand_out(plane: &ControlPlane<'_>, roots: &str, nodes: &[&str]) -> Result<()> {
    eventually_within(PATIENCE, "the trust bundle has changed", || {
        Ok((plane.bundle("weft-system")? == roots).then_some(()))
    })?;
    for node in nodes {
        let file = plane.roots_of(node);
        let partial = file.with_extension("partial");
        fs::write(&partial, roots)?;
        fs::rename(partial, file)?;
    }
    Ok(())
}

#[test]
fn a_root_is_replaced_while_traffic_goes_on() -> Result<()> {
    let cluster = shop()?;
    let plane = ControlPlane::start(&cluster, 1, &["--certificate-lifetime", "3m"])?;
    announce(&cluster)?;
    cluster.apply(&fs::read_to_string(Kit::find()?.definitions().join("istio.yaml"))?)?;
    eventually_within(PATIENCE, "the policy is taken", || Ok(cluster.apply(STRICT).is_ok().then_some(())))?;
    let listed = cluster.kubectl(&["get", "pods", "--output=json"])?.success()?;
    let listed: Value = serde_json::from_str(&listed)?;
    let find = |is: &dyn Fn(&str, &str) -> bool| {
        let mut pods = listed["items"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        pods.find(|pod| is(&text(&pod["metadata"]["name"]), &text(&pod["spec"]["nodeName"]))).context("no such pod")
    };
    let client = StandIn::new(&cluster, find(&|name, _| name == "client")?, "client")?;
    let late = StandIn::new(&cluster, find(&|name, node| name.starts_with("server-") && node == "node1")?, "late")?;
    let server = StandIn::new(&cluster, find(&|name, node| name.starts_with("server-") && node == "node2")?, "server")?;
    client.wire(&server, "client")?;
    late.wire(&server, "late")?;
    let listener = server.netns.enter(|| TcpListener::bind((server.address, PORT)))?;
    let _echo = Server::serve(listener, Behaviour::Echo)?;

    // Before: one root, and an agent with a certificate of it.
    let old = plane.bundle("weft-system")?;
    let old_root = CertificateDer::from_pem_slice(old.as_bytes())?;
    tell(&plane, "node1", &[&client])?;
    let first = plane.agent("node1", &plane.token_of("node1")?)?;
    let before = serial(&first)?;
    let renewed = Instant::now();
    ensure!(client.chains_to(&old_root)?, "the certificate is of another root than the bundle's");

    // 1. The new root is trusted beside the old one.
    let new = NewAuthority::new()?;
    let new_root = CertificateDer::from_pem_slice(new.root.as_bytes())?;
    let both = format!("{old}{}", new.root);
    change_secret(&cluster, &json!({ "root-cert.pem": both }))?;
    hand_out(&plane, &both, &["node1", "node2"])?;
    eventually_within(PATIENCE, "the agent trusts both roots", || {
        Ok(plane.log("agent-node1.log").contains("read again what to trust").then_some(()))
    })?;

    // 2. The new authority signs, without a restart. An agent that comes now has a certificate of it, and talks with the
    //    one that has an old one.
    change_secret(&cluster, &new.secret)?;
    eventually_within(PATIENCE, "the new authority signs", || {
        let signs = plane.log(&controller_log(0)).matches("this authority signs").count();
        Ok((signs == 3).then_some(()))
    })?;
    tell(&plane, "node2", &[&server])?;
    let second = plane.agent("node2", &plane.token_of("node2")?)?;
    serial(&second)?;
    eventually_within(PATIENCE, "the server's agent has the policy", || {
        Ok((!second.json("policies")?.is_empty()).then_some(()))
    })?;
    eventually_within(PATIENCE, "the server's agent shows a certificate of the new root", || {
        // It may not listen yet.
        Ok(server.chains_to(&new_root).unwrap_or(false).then_some(()))
    })?;
    eventually_within(PATIENCE, "the client reaches the server", || Ok(client.talk_to(&server).is_ok().then_some(())))?;
    ensure!(serial(&first)? == before, "renewed too early, {:?} after it was issued", renewed.elapsed());
    let talked = |count: &mut u32| -> Result<()> {
        client.talk_to(&server).with_context(|| format!("after {count} times that went well"))?;
        *count += 1;
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    let mut count = 0;

    // The first agent's certificate is renewed by the new root; from then on the old one is needed no more.
    let deadline = Instant::now() + PATIENCE;
    while serial(&first)? == before {
        ensure!(Instant::now() < deadline, "the certificate is not renewed");
        talked(&mut count)?;
    }
    ensure!(client.chains_to(&new_root)? && !client.chains_to(&old_root)?, "it is renewed by the old root");

    // 3. The old root goes. Traffic goes on, tunnels that are made only now among it.
    change_secret(&cluster, &json!({ "root-cert.pem": new.root }))?;
    hand_out(&plane, &new.root, &["node1", "node2"])?;
    tell(&plane, "node1", &[&client, &late])?;
    eventually_within(PATIENCE, "a pod that came last reaches the server", || {
        talked(&mut count)?;
        Ok(late.talk_to(&server).is_ok().then_some(()))
    })?;
    ensure!(count > 20, "traffic went on only {count} times");
    Ok(())
}
