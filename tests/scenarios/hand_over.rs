//! An agent takes over from the one that runs, and no connection is refused.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{Agent, AgentOptions, Host, eventually, server::Behaviour};

use crate::client::{Conversation, Outcome, assert_answered, eventually_answered, ping};
use crate::control_plane::{Mesh, Mode, join};
use crate::pair::{Pair, Setup, serve};

/// Connections at one time.
const CLIENTS: usize = 4;
/// New connections before, between and after the steps: enough that each step meets some.
const SOME: usize = 300;

/// New connections without a pause, each with a question and its answer.
struct Load {
    is_over: AtomicBool,
    answered: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

impl Load {
    /// Runs `story` under the load from `client` to `server`. Returns how many connections were answered; that one was
    /// not is an error.
    fn during(client: &Host, server: SocketAddr, story: impl FnOnce(&Self) -> Result<()>) -> Result<usize> {
        let load = Self { is_over: AtomicBool::new(false), answered: AtomicUsize::new(0), failed: Mutex::default() };
        let told = thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| load.run(client, server));
            }
            let told = story(&load);
            load.is_over.store(true, Ordering::Relaxed);
            told
        });
        let failed = load.failed.into_inner().expect("no client panics");
        let answered = load.answered.into_inner();
        ensure!(failed.is_empty(), "{} of {} connections failed: {failed:?}", failed.len(), failed.len() + answered);
        told.map(|()| answered)
    }

    fn run(&self, client: &Host, server: SocketAddr) {
        while !self.is_over.load(Ordering::Relaxed) {
            match ping(client, server) {
                Ok(Outcome::Answered(answer)) if answer == "ping" => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                other => self.failed.lock().expect("no client panics").push(format!("{other:?}")),
            }
        }
    }

    /// Waits until some more have been answered.
    fn go_on(&self) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("new connections are answered", || {
            Ok((self.answered.load(Ordering::Relaxed) >= before + SOME).then_some(()))
        })
    }
}

/// Whether this agent, and not another one of its node, answers. In between nobody does.
fn answers(agent: &Agent) -> bool {
    agent.json("status").is_ok_and(|status| status["pid"] == agent.pid())
}

/// Starts the agent that takes over, and waits until it has.
fn take_over(options: AgentOptions) -> Result<Agent> {
    let start = Instant::now();
    let next = options.with(&["--take-over"]).start_unready()?;
    next.wait_for_log(&["took over from the agent before this one"])?;
    eventually("the next agent answers, and is ready", || Ok((answers(&next) && next.is_ready()).then_some(())))?;
    println!("taken over after {:?}", start.elapsed());
    Ok(next)
}

#[test]
fn an_agent_takes_over_from_the_living_one_and_no_connection_fails() -> Result<()> {
    let mut pair = Pair::with(Setup::arguments(&["--drain-deadline", "6s"]))?;
    let _echo = pair.echo(8080)?;
    let at = pair.server.at(8080);
    let mut long = Conversation::open(&pair.client, at)?;
    // The agent of the clients, then that of the servers.
    for side in ["client", "server"] {
        let (node, old) = match side {
            "client" => (&pair.a, &mut pair.agent_a),
            _ => (&pair.b, &mut pair.agent_b),
        };
        let mut next = None;
        let answered = Load::during(&pair.client, at, |load| {
            load.go_on()?;
            next = Some(take_over(node.agent())?);
            load.go_on()?;
            long.exchange().context("a connection that the old agent carries")?;
            old.signal_termination()?;
            load.go_on()?;
            if side == "client" {
                // The long connection goes on until the deadline of the drain.
                long.exchange().context("a connection while the old agent drains")?;
                ensure!(old.is_running()?, "the old agent did not wait for the connection that it carries");
                long.wait_for_reset()?;
                long = Conversation::open(&pair.client, at)?;
            }
            old.terminate(Duration::from_secs(10))?;
            load.go_on()?;
            // Tunnels of peers go on until the old one drains; what comes then, the new one takes.
            let carried = next.as_ref().map(Agent::metrics).transpose()?;
            let carried = carried.map_or(0.0, |metrics| metrics.sum("istio_tcp_connections_opened_total", &[]));
            ensure!(carried >= SOME as f64, "the new agent carried {carried} connections");
            Ok(())
        })?;
        println!("{answered} connections answered and none failed while the agent of the {side} was replaced");
        let next = next.context("it was started")?;
        match side {
            "client" => pair.agent_a.replace(next)?,
            _ => pair.agent_b.replace(next)?,
        }
    }
    Ok(())
}

#[test]
fn with_a_control_plane_an_agent_takes_over_when_it_has_its_configuration() -> Result<()> {
    let mut mesh = Mesh::with(Mode::OnDemand, &["--drain-deadline", "4s"])?;
    let _echo = serve(&mesh.server, 8080, Behaviour::Echo)?;
    let at = mesh.server.at(8080);
    assert_answered(&mesh.client, at)?;
    for index in [0, 1] {
        let options = join(&mesh.world, &mesh.nodes[index], mesh.address);
        let mut next = None;
        let answered = Load::during(&mesh.client, at, |load| {
            load.go_on()?;
            next = Some(take_over(options)?);
            load.go_on()?;
            mesh.agents[index].terminate(Duration::from_secs(10))?;
            load.go_on()
        })?;
        println!("{answered} connections answered and none failed while agent {index} was replaced");
        mesh.agents[index].replace(next.context("it was started")?)?;
    }
    // Without a configuration the next one waits, and the old one serves.
    mesh.controller.kill()?;
    let mut next = join(&mesh.world, &mesh.nodes[0], mesh.address).with(&["--take-over"]).start_unready()?;
    next.wait_for_log(&["getting ready to take over"])?;
    thread::sleep(Duration::from_secs(3));
    assert_answered(&mesh.client, at)?;
    ensure!(answers(&mesh.agents[0]), "it has yielded to one that knows nothing");
    mesh.restart_controller()?;
    eventually("it takes over", || Ok(answers(&next).then_some(())))?;
    next.wait_ready()?;
    eventually_answered(&mesh.client, at)?;
    mesh.agents[0].replace(next)
}

#[test]
fn when_the_next_agent_dies_the_one_before_goes_on() -> Result<()> {
    let mut pair = Pair::with(Setup::arguments(&["--drain-deadline", "3s"]))?;
    let _echo = pair.echo(8080)?;
    let at = pair.server.at(8080);
    let mut long = Conversation::open(&pair.client, at)?;
    // Before it has asked for anything, and once it has everything.
    for has_taken_over in [false, true] {
        let next = pair.a.agent().with(&["--take-over"]).start_unready()?;
        let words = if has_taken_over { "took over from the agent before" } else { "getting ready to take over" };
        let start = next.log_length();
        eventually("the next agent is that far", || Ok(next.log().contains(words).then_some(())))?;
        next.abandon()?;
        eventually("the agent before acts again", || Ok(answers(&pair.agent_a).then_some(())))?;
        eventually_answered(&pair.client, at)?;
        for _ in 0..20 {
            assert_answered(&pair.client, at)?;
            long.exchange()?;
        }
        ensure!(pair.agent_a.is_ready(), "it is not ready: {}", pair.agent_a.log_since(start));
    }
    // What comes into the mesh now is enrolled by it.
    let late = pair.a.pod(weft_tests::PodSpec::new("late").namespace(crate::pair::NAMESPACE))?;
    pair.agent_a.wait_enrolled(&late)?;
    eventually_answered(&late, at)?;
    // And a third one takes over from it.
    let answered = Load::during(&pair.client, at, |load| {
        load.go_on()?;
        let next = take_over(pair.a.agent())?;
        load.go_on()?;
        long.exchange()?;
        pair.agent_a.signal_termination()?;
        long.exchange()?;
        pair.agent_a.terminate(Duration::from_secs(30))?;
        pair.agent_a.replace(next)?;
        load.go_on()
    })?;
    println!("{answered} connections answered and none failed");
    Ok(())
}

#[test]
fn an_agent_that_ends_while_another_gets_ready_waits_for_it() -> Result<()> {
    let mut pair = Pair::with(Setup::arguments(&["--drain-deadline", "10s"]))?;
    let _echo = pair.echo(8080)?;
    let at = pair.server.at(8080);
    let mut next = None;
    let answered = Load::during(&pair.client, at, |load| {
        load.go_on()?;
        let agent = pair.a.agent().with(&["--take-over"]).start_unready()?;
        agent.wait_for_log(&["getting ready to take over"])?;
        pair.agent_a.terminate(Duration::from_secs(15))?;
        next = Some(agent);
        load.go_on()
    })?;
    println!("{answered} connections answered and none failed");
    pair.agent_a.replace(next.context("it was started")?)
}

#[test]
fn without_being_told_to_take_over_a_second_agent_does_not_start() -> Result<()> {
    let pair = Pair::start()?;
    let mut second = pair.a.agent().start_unready()?;
    eventually("it ends", || Ok((!second.is_running()?).then_some(())))?;
    second.wait_for_log(&["another agent runs with the state directory", "--take-over"])?;
    second.abandon()?;
    let _echo = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))
}
