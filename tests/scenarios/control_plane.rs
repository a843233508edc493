//! Agents that follow a controller instead of a folder, and get their certificates from it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{Agent, Metrics, Node, Pod, PodSpec, Process, World, eventually, weft_binary};

use crate::client::{Conversation, assert_answered, assert_refused, eventually_answered, eventually_refused};
use crate::pair::{NAMESPACE, authorization, serve};

/// What agents ask the controller for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    OnDemand,
    Wildcard,
}

/// What holds whatever is asked for.
const BOTH: [Mode; 2] = [Mode::OnDemand, Mode::Wildcard];

/// A controller on the first node, two nodes whose agents follow it, and a pod on each.
pub(crate) struct Mesh {
    pub(crate) agents: [Agent; 2],
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) controller: Process,
    pub(crate) address: SocketAddr,
    pub(crate) nodes: [Node; 2],
    pub(crate) world: World,
}

impl Mesh {
    pub(crate) fn start(mode: Mode) -> Result<Self> {
        Self::with(mode, &[])
    }

    /// Both agents get these arguments as well.
    pub(crate) fn with(mode: Mode, arguments: &[&str]) -> Result<Self> {
        let world = World::new()?;
        world.namespace(NAMESPACE, &[])?;
        world.enrol(NAMESPACE)?;
        let nodes = [world.node("a")?, world.node("b")?];
        let client = nodes[0].pod(PodSpec::new("client").namespace(NAMESPACE).service_account("client"))?;
        let server = nodes[1].pod(PodSpec::new("server").namespace(NAMESPACE).service_account("server"))?;
        let address = SocketAddr::new(nodes[0].addresses()[0], 15012);
        let mut tokens = String::new();
        for node in &nodes {
            let token = token_file(&world, node.label());
            fs::write(&token, format!("the token of {}", node.name()))?;
            tokens += &format!("{} {}\n", node.name(), digest(&token)?);
        }
        fs::write(world.folder().join("tokens"), tokens)?;
        let controller = start_controller(&world, &nodes[0], address)?;
        // On demand is what an agent does that is not told otherwise.
        let mode_arguments: &[&str] = if mode == Mode::Wildcard { &["--discovery-mode", "wildcard"] } else { &[] };
        let agent = |node: &Node| join(&world, node, address).with(mode_arguments).with(arguments).start();
        let mesh =
            Self { agents: [agent(&nodes[0])?, agent(&nodes[1])?], client, server, controller, address, nodes, world };
        mesh.agents[0].wait_enrolled(&mesh.client)?;
        mesh.agents[1].wait_enrolled(&mesh.server)?;
        let knowing = if mode == Mode::Wildcard { &mesh.agents[..] } else { &mesh.agents[1..] };
        for agent in knowing {
            agent.wait_for_protocol(&mesh.server, "hbone")?;
        }
        Ok(mesh)
    }

    /// Starts the controller again after it was killed.
    pub(crate) fn restart_controller(&mut self) -> Result<()> {
        self.controller = start_controller(&self.world, &self.nodes[0], self.address)?;
        Ok(())
    }
}

fn token_file(world: &World, node: &str) -> PathBuf {
    world.folder().join(format!("token-{node}"))
}

/// The SHA-256 of a file, as an operator would take it.
fn digest(file: &PathBuf) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("running sha256sum")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().context("sha256sum said nothing")?.to_owned())
}

pub(crate) fn start_controller(world: &World, host: &Node, address: SocketAddr) -> Result<Process> {
    let binary = weft_binary()?;
    let mut controller = host.spawn(&[
        &binary.to_string_lossy(),
        "controller",
        "--config",
        &world.config().path().to_string_lossy(),
        "--listen",
        &address.to_string(),
        "--names",
        &address.ip().to_string(),
        "--ca-dir",
        &world.folder().join("controller-ca").to_string_lossy(),
        "--tokens",
        &world.folder().join("tokens").to_string_lossy(),
    ])?;
    controller.wait_for_output("the controller runs")?;
    Ok(controller)
}

/// An agent that follows the controller; its folder only says which pods run on its node.
pub(crate) fn join(world: &World, node: &Node, controller: SocketAddr) -> weft_tests::AgentOptions {
    let url = format!("https://{controller}");
    let token = token_file(world, node.label());
    let root = world.folder().join("controller-ca/ca-cert.pem");
    node.agent().with(&[
        "--discovery",
        &url,
        "--ca",
        &url,
        "--token",
        &token.to_string_lossy(),
        "--root",
        &root.to_string_lossy(),
    ])
}

#[test]
fn agents_carry_traffic_by_what_the_controller_says_and_under_its_certificates() -> Result<()> {
    for mode in BOTH {
        let mesh = Mesh::start(mode)?;
        let server = serve(&mesh.server, 8080, weft_tests::server::Behaviour::Echo)?;
        let tap = mesh.nodes[1].tap()?;
        assert_answered(&mesh.client, mesh.server.at(8080))?;
        tap.stop()?.is_only_tls(mesh.client.ip(), mesh.server.ip(), 15008)?;
        assert_eq!(server.seen()[0].peer.ip().to_canonical(), mesh.client.ip());
        ensure!(!mesh.world.ca_folder().join("ca-key.pem").exists(), "an agent has made an authority of its own");
        eventually("the grants are on record", || {
            let log = mesh.controller.stderr();
            Ok((log.contains("audit")
                && log.contains(&mesh.client.identity())
                && log.contains(&mesh.server.identity()))
            .then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_controller_says_how_it_fares() -> Result<()> {
    let mesh = Mesh::start(Mode::OnDemand)?;
    let ask = |url: &str| mesh.nodes[0].run(&["curl", "--silent", "--show-error", "--fail", url])?.success();
    ensure!(ask("http://127.0.0.1:15016/healthz/ready")? == "ready\n", "the controller is not ready");
    let metrics = Metrics::parse(&ask("http://127.0.0.1:15014/metrics")?)?;
    for (name, labels, least) in [
        ("weft_controller_streams_open", &[][..], 2.0),
        ("weft_controller_resources_total", &[], 2.0),
        ("weft_controller_certificates_total", &[("result", "granted")], 2.0),
        ("weft_controller_objects", &[("kind", "Pod")], 2.0),
    ] {
        let found = metrics.sum(name, labels);
        ensure!(found >= least, "{name} {labels:?} is {found}");
    }
    let before = metrics.sum("weft_controller_unauthenticated_total", &[]);
    ensure!(before == 0.0, "{before} requests had no good token before one was spoiled");
    let third = mesh.world.node("c")?;
    fs::write(token_file(&mesh.world, third.label()), "made up")?;
    let _stranger = join(&mesh.world, &third, mesh.address).start_unready()?;
    eventually("a request without a good token is counted", || {
        let metrics = Metrics::parse(&ask("http://127.0.0.1:15014/metrics")?)?;
        Ok((metrics.sum("weft_controller_unauthenticated_total", &[]) > 0.0).then_some(()))
    })
}

#[test]
fn a_change_of_policy_reaches_the_agents_and_ends_the_connections_that_it_forbids() -> Result<()> {
    for mode in BOTH {
        let mesh = Mesh::start(mode)?;
        let _echo = serve(&mesh.server, 8080, weft_tests::server::Behaviour::Echo)?;
        let mut live = Conversation::open(&mesh.client, mesh.server.at(8080))?;
        let deny = "  action: DENY\n  rules:\n    - from:\n        - source:\n            principals: [\"cluster.local/ns/shop/sa/client\"]";
        mesh.world.config().put("policy", &authorization("deny", deny))?;
        live.wait_for_reset()?;
        eventually_refused(&mesh.client, mesh.server.at(8080))?;
        mesh.world.config().remove("policy")?;
        eventually_answered(&mesh.client, mesh.server.at(8080))?;
    }
    Ok(())
}

#[test]
fn without_the_controller_agents_go_on_with_what_they_know_and_catch_up_when_it_is_back() -> Result<()> {
    for mode in BOTH {
        let mut mesh = Mesh::start(mode)?;
        let _echo = serve(&mesh.server, 8080, weft_tests::server::Behaviour::Echo)?;
        let mut live = Conversation::open(&mesh.client, mesh.server.at(8080))?;
        mesh.controller.kill()?;
        live.exchange()?;
        assert_answered(&mesh.client, mesh.server.at(8080)).context("while the controller is away")?;
        // What changes meanwhile is learnt when it is back.
        let late = mesh.nodes[1].pod(PodSpec::new("late").namespace(NAMESPACE))?;
        let _late_echo = serve(&late, 8080, weft_tests::server::Behaviour::Echo)?;
        mesh.restart_controller()?;
        if mode == Mode::Wildcard {
            mesh.agents[0].wait_for_protocol(&late, "hbone")?;
        }
        mesh.agents[1].wait_enrolled(&late)?;
        eventually_answered(&mesh.client, late.at(8080))?;
        live.exchange()?;
    }
    Ok(())
}

#[test]
fn an_agent_with_a_wrong_token_gets_nothing_and_the_log_says_why() -> Result<()> {
    let mesh = Mesh::start(Mode::OnDemand)?;
    let third = mesh.world.node("c")?;
    fs::write(token_file(&mesh.world, third.label()), "made up")?;
    let mut stranger = join(&mesh.world, &third, mesh.address).start_unready()?;
    stranger.wait_for_log(&["token"]).context("the agent says what is wrong")?;
    ensure!(!stranger.is_ready() && stranger.is_running()?, "it goes on trying, and is not ready");
    std::thread::sleep(Duration::from_millis(200));
    ensure!(!stranger.log().contains("made up"), "the token is shown");
    Ok(())
}

#[test]
fn an_agent_that_starts_without_its_controller_serves_by_what_was_known_before() -> Result<()> {
    for (mode, is_killed) in [(Mode::OnDemand, true), (Mode::Wildcard, false)] {
        let mut mesh = Mesh::start(mode)?;
        let _echo = serve(&mesh.server, 8080, weft_tests::server::Behaviour::Echo)?;
        // Nobody of the mesh: on the way out it is spoken to in clear, and on the way in it speaks so.
        mesh.world.namespace("other", &[])?;
        let outside = mesh.nodes[1].pod(PodSpec::new("outside").namespace("other"))?;
        let _clear = serve(&outside, 8080, weft_tests::server::Behaviour::Echo)?;
        let _inner = serve(&mesh.client, 9090, weft_tests::server::Behaviour::Echo)?;
        let deny = "  selector:\n    matchLabels: {app: client}\n  action: DENY\n  rules:\n    - to:\n        - operation:\n            ports: [\"9091\"]";
        mesh.world.config().put("policy", &authorization("deny", deny))?;
        let _denied = serve(&mesh.client, 9091, weft_tests::server::Behaviour::Echo)?;
        eventually_answered(&mesh.client, mesh.server.at(8080))?;
        eventually_answered(&mesh.client, outside.at(8080))?;
        eventually_answered(&outside, mesh.client.at(9090))?;
        eventually_refused(&outside, mesh.client.at(9091))?;
        let file = mesh.agents[0].state_folder().join("last-state");
        eventually("what is known is written down", || {
            let bytes = fs::read(&file).unwrap_or_default();
            let has = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
            Ok((has(b"shop/deny") && has(b"/Pod/shop/server")).then_some(()))
        })?;

        mesh.controller.kill()?;
        if is_killed {
            mesh.agents[0].kill()?;
        } else {
            mesh.agents[0].terminate(Duration::from_secs(25))?;
        }
        let start = mesh.agents[0].log_length();
        mesh.agents[0].restart()?;
        mesh.agents[0].wait_for_log_since(start, &["serving by what was known before"])?;
        let status = mesh.agents[0].json("status")?;
        ensure!(status["discovery"]["last_state"].is_string(), "{status}");
        ensure!(mesh.agents[0].cli(&["status"])?.stdout.contains("serving by what was known"), "{status}");
        mesh.agents[0].wait_enrolled(&mesh.client)?;
        // What needs no certificate works, and is judged.
        eventually_answered(&mesh.client, outside.at(8080))?;
        eventually_answered(&outside, mesh.client.at(9090))?;
        assert_refused(&outside, mesh.client.at(9091))?;
        // What needs one waits, and is refused: never in clear.
        let tap = mesh.nodes[1].tap()?;
        let start = mesh.agents[0].log_length();
        assert_refused(&mesh.client, mesh.server.at(8080))?;
        mesh.agents[0].wait_for_log_since(start, &["there is no valid certificate", "none came within 5 s"])?;
        ensure!(!tap.stop()?.contains(b"ping"), "in clear");

        mesh.restart_controller()?;
        eventually_answered(&mesh.client, mesh.server.at(8080))?;
        eventually("it serves by what the controller says", || {
            Ok(mesh.agents[0].json("status")?["discovery"]["last_state"].is_null().then_some(()))
        })?;
        assert_answered(&outside, mesh.client.at(9090))?;
        // Nothing that was only remembered stays.
        mesh.world.config().remove("policy")?;
        eventually_answered(&outside, mesh.client.at(9091))?;
    }
    Ok(())
}
