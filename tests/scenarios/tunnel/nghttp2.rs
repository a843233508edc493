//! libnghttp2 at the other end of a tunnel, as a client and as a server: Node.js has it built in, and OpenSSL.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use weft_tests::server::{Behaviour, End};
use weft_tests::{Agent, Node, Pod, PodSpec, Process, World, pattern};

use crate::client::{Conversation, assert_refused};
use crate::pair::{NAMESPACE, Pair, serve};

/// Bytes on each of the streams that carry much.
const BULK: usize = 3_000_000;

/// How many of those there are at once.
const STREAMS: usize = 6;

/// A script of Node.js that runs in a pod, with a certificate for `identity` from the world's authority.
fn node(world: &World, pod: &Pod, script: &str, identity: &str, mut told: Value) -> Result<Process> {
    let ca = world.ca_folder();
    let (chain, key) = issue(&ca, identity, &pod.folder()?)?;
    told["ca"] = json!(ca.join("ca-cert.pem"));
    told["chain"] = json!(chain);
    told["key"] = json!(key);
    let mut command = pod.command("node")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/tunnel/nghttp2");
    command.arg(folder.join(script)).arg(told.to_string());
    Process::spawn(command).context("is Node.js installed (Debian: nodejs)?")
}

/// Writes a certificate for an identity and its key, and returns where they are.
fn issue(ca: &Path, identity: &str, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let read = |file: &str| fs::read_to_string(ca.join(file)).with_context(|| format!("reading {file}"));
    let issuer = Issuer::from_ca_cert_pem(&read("ca-cert.pem")?, KeyPair::from_pem(&read("ca-key.pem")?)?)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    let key = KeyPair::generate()?;
    let (chain_file, key_file) = (folder.join("chain.pem"), folder.join("key.pem"));
    fs::write(&chain_file, params.signed_by(&key, &issuer)?.pem())?;
    fs::write(&key_file, key.serialize_pem())?;
    Ok((chain_file, key_file))
}

#[test]
fn a_client_by_libnghttp2_is_served() -> Result<()> {
    let pair = Pair::start()?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    let echo = pair.echo(8080)?;
    let _verify = serve(&pair.server, 8081, Behaviour::Verify)?;
    let _reset = serve(&pair.server, 8082, Behaviour::Reset)?;
    let half_closing = serve(&pair.server, 8083, Behaviour::HalfClose)?;
    let cut = pair.echo(8084)?;
    let told = json!({
        "pod": pair.server.ip(),
        "identity": pair.server.identity(),
        "namespace": NAMESPACE,
        "streams": STREAMS,
        "bulk": BULK,
    });
    let friend = "spiffe://cluster.local/ns/shop/sa/friend";
    let client = node(&pair.world, &stranger, "client.mjs", friend, told)?;
    client.finish_within(Duration::from_secs(30))?.success()?;
    assert_eq!(echo.seen()[0].peer.ip().to_canonical(), stranger.ip());
    ensure!(echo.seen().iter().all(|seen| seen.end == Some(End::Fin)), "{:?}", echo.seen());
    assert_eq!(half_closing.received(), 1_000_000);
    assert_eq!(cut.wait_for_end(0)?, End::Error(ErrorKind::ConnectionReset));
    Ok(())
}

/// A node with an agent and a client, and a pod on another node that has none: what listens on its port 15008 is a
/// server by libnghttp2. It is told what a connection is to get by the port that is asked for.
struct Foreign {
    // In the order in which they are taken down.
    server: Process,
    _agent: Agent,
    client: Pod,
    pod: Pod,
    _nodes: [Node; 2],
    _world: World,
}

impl Foreign {
    /// `options` are those of Node.js' `http2.createSecureServer`.
    fn start(options: Value) -> Result<Self> {
        let world = World::new()?;
        world.namespace(NAMESPACE, &[])?;
        world.enrol(NAMESPACE)?;
        let (a, b) = (world.node("a")?, world.node("b")?);
        let client = a.pod(PodSpec::new("client").namespace(NAMESPACE).service_account("client"))?;
        let pod = b.pod(PodSpec::new("server").namespace(NAMESPACE).service_account("server"))?;
        let mut agent = a.agent().with(&["--workers", "1"]).start_unready()?;
        agent.wait_ready()?;
        agent.wait_enrolled(&client)?;
        agent.wait_for_protocol(&pod, "hbone")?;
        let told = json!({ "client": client.identity(), "pod": pod.ip(), "options": options });
        let mut server = node(&world, &pod, "server.mjs", &pod.identity(), told)?;
        server.wait_for_output("listening")?;
        Ok(Self { server, _agent: agent, client, pod, _nodes: [a, b], _world: world })
    }

    fn converse(&self, port: u16) -> Result<Conversation> {
        Conversation::open(&self.client, self.pod.at(port)).with_context(|| self.server_says())
    }

    fn server_says(&self) -> String {
        format!("the server says:\n{}{}", self.server.stdout(), self.server.stderr())
    }

    /// Sends much on several connections at once while it comes back, and compares.
    fn echo_in_bulk(&self) -> Result<()> {
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let each: Vec<_> = (0..STREAMS).map(|index| scope.spawn(move || self.echo(8080, BULK + index))).collect();
            each.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        results.into_iter().collect::<Result<()>>().with_context(|| self.server_says())
    }

    fn echo(&self, port: u16, length: usize) -> Result<()> {
        let mut connection = self.client.connect(self.pod.at(port))?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut sent = vec![0; length];
        pattern::fill(length as u64, &mut sent);
        let mut writer = connection.try_clone()?;
        let bytes = sent.clone();
        let writing = thread::spawn(move || -> Result<()> {
            writer.write_all(&bytes)?;
            Ok(writer.shutdown(Shutdown::Write)?)
        });
        let mut received = Vec::new();
        connection.read_to_end(&mut received).context("receiving")?;
        writing.join().expect("it does not panic").context("sending")?;
        let same = received.iter().zip(&sent).take_while(|(one, other)| one == other).count();
        ensure!(received == sent, "{} of {length} bytes came back, which differ from the {same}th on", received.len());
        Ok(())
    }
}

#[test]
fn a_server_by_libnghttp2_is_a_destination() -> Result<()> {
    let mut foreign = Foreign::start(json!({}))?;
    let mut first = foreign.converse(8080)?;
    foreign.server.wait_for_output(&format!("CONNECT {}:8080\n", foreign.pod.ip()))?;
    foreign.server.wait_for_output("k8s.namespace.name=shop")?;
    foreign.server.wait_for_output(&format!("for=\"{}:", foreign.client.ip()))?;
    foreign.echo_in_bulk()?;

    // A refusal, and a reset each way.
    assert_refused(&foreign.client, foreign.pod.at(8081))?;
    let mut cut = foreign.client.connect(foreign.pod.at(8082))?;
    cut.set_read_timeout(Some(Duration::from_secs(10)))?;
    cut.write_all(b"hello")?;
    assert_eq!(cut.read(&mut [0; 16]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    let mut resetting = foreign.converse(8085)?;
    socket2::SockRef::from(&*resetting.stream()).set_linger(Some(Duration::ZERO))?;
    drop(resetting);
    foreign.server.wait_for_output("8085 was reset")?;

    // The server ends first.
    let mut half = foreign.client.connect(foreign.pod.at(8083))?;
    half.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut said = String::new();
    half.read_to_string(&mut said).context("the server's end arrives while the client's side is open")?;
    assert_eq!(said, "bye");
    half.write_all(&vec![7; 1_000_000])?;
    half.shutdown(Shutdown::Write)?;
    foreign.server.wait_for_output("8083 received 1000000")?;

    // The server goes away: what is open goes on, what is new takes another tunnel.
    let mut last = foreign.converse(8084)?;
    foreign.server.wait_for_output("going away")?;
    let mut next = foreign.converse(8080)?;
    for conversation in [&mut first, &mut last, &mut next] {
        conversation.exchange().with_context(|| foreign.server_says())?;
    }
    for conversation in [first, last, next] {
        conversation.finish()?;
    }
    foreign.server.wait_for_output("session 2")
}

#[test]
fn a_server_by_libnghttp2_with_small_windows_and_padded_frames_is_a_destination() -> Result<()> {
    let settings = json!({ "initialWindowSize": 5000, "headerTableSize": 0 });
    let foreign = Foreign::start(json!({ "settings": settings, "paddingStrategy": 2 }))?;
    foreign.echo_in_bulk()
}

#[test]
fn a_server_by_libnghttp2_that_takes_few_streams_gets_more_tunnels() -> Result<()> {
    let mut foreign = Foreign::start(json!({ "settings": { "maxConcurrentStreams": 3 } }))?;
    // The first ones cannot know the limit, so some of them are refused.
    foreign.echo_in_bulk()?;
    let mut open = (0..10).map(|_| foreign.converse(8080)).collect::<Result<Vec<_>>>()?;
    for conversation in &mut open {
        conversation.exchange().with_context(|| foreign.server_says())?;
    }
    foreign.server.wait_for_output("session 4")?;
    open.into_iter().try_for_each(Conversation::finish)
}

#[test]
fn what_was_said_on_a_stream_that_libnghttp2_refuses_is_all_said_again() -> Result<()> {
    let foreign = Foreign::start(json!({}))?;
    // A tunnel of which the settings are known.
    let open = foreign.converse(8080)?;
    foreign.echo(8086, 20_000).with_context(|| foreign.server_says())?;
    open.finish()
}
