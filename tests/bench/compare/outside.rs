//! What the mesh costs connections that have nothing to do with it.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use weft_tests::{Agent, Node, Pod, PodSpec, World, WorldOptions};

use crate::Options;
use crate::contender::{self, Kind, NAMESPACE};
use crate::figures::Required::{LossAtMost, RatioAtMost};
use crate::figures::{Figure, Figures};
use crate::load::{Load, Server};

/// The measurements of this part.
pub const NAMES: &[&str] = &["outside-unenrolled", "outside-enrolled"];

/// The column of a node without an agent, which the other one is compared with.
pub const WITHOUT: &str = "without";
/// The column of a node with an agent.
pub const WITH: &str = "with";

/// The figures of connections of one pod.
struct Lines {
    rate: Figure,
    p50: Figure,
    throughput: Figure,
}

const fn lines(name: &'static str) -> Lines {
    Lines {
        rate: Figure::new(name, "new connections", "1/s").requires(LossAtMost(1.02)),
        p50: Figure::new(name, "new connection, p50", "us").requires(RatioAtMost(1.02)),
        throughput: Figure::new(name, "bulk", "Gb/s").requires(LossAtMost(1.02)),
    }
}

const UNENROLLED: Lines = lines(NAMES[0]);
const ENROLLED: Lines = lines(NAMES[1]);

/// Measures from a pod that is not of the mesh and from one that is, to a host outside it, while the node has no trace of
/// an agent and while one runs.
pub fn run(options: &Options, figures: &mut Figures) -> Result<()> {
    if !options.contenders.contains(&Kind::Weft) {
        return Ok(());
    }
    let world = World::with(WorldOptions { shows_logs: false })?;
    let node = world.node("a")?;
    let (outside, addresses) = world.outside("server")?;
    contender::tune(&outside, options)?;
    let server = Server::start(&outside, addresses[0], &world.folder().join("control"))?;
    world.enrol(NAMESPACE)?;
    world.namespace("plain", &[])?;
    let pods = [
        (&UNENROLLED, contender::pod(&node, PodSpec::new("client").namespace("plain"), options)?),
        (&ENROLLED, contender::pod(&node, PodSpec::new("client").namespace(NAMESPACE), options)?),
    ];
    // What is looked for is so small that it takes more rounds than elsewhere to tell it from noise.
    for round in 0..options.rounds * 2 {
        let mut states = [WITHOUT, WITH];
        states.rotate_left(round % 2);
        for state in states {
            let agent = if state == WITH { Some(start(&node, options, &pods[1].1)?) } else { None };
            for (lines, pod) in pods.iter().filter(|(lines, _)| options.wants(lines.rate.line)) {
                measure(options, figures, lines, (pod, &server, &node), state)?;
            }
            // Kills it and unpins what it attached; the kernel takes a moment to detach it.
            drop(agent);
            thread::sleep(Duration::from_millis(300));
        }
        eprintln!("  outside: round {} of {}", round + 1, options.rounds * 2);
    }
    Ok(())
}

fn start(node: &Node, options: &Options, enrolled: &Pod) -> Result<Agent> {
    let arguments = options.agent_arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let agent = node.agent().with(&arguments).start()?;
    agent.wait_enrolled(enrolled)?;
    Ok(agent)
}

fn measure(
    options: &Options,
    figures: &mut Figures,
    lines: &Lines,
    (pod, server, node): (&Pod, &Server, &Node),
    state: &'static str,
) -> Result<()> {
    let cgroup = contender::world_cgroup(node);
    let connected = Load::Connect(4).run(options, pod, server, &[], &cgroup)?;
    figures.add(lines.rate, state, connected.rate);
    figures.add(lines.p50, state, connected.p50);
    if connected.failed > 0 {
        let error = connected.error.unwrap_or_default();
        figures.note(format!("{} {state}: {} connections failed: {error}", lines.rate.line, connected.failed));
    }
    let sent = Load::Bulk(1).run(options, pod, server, &[], &cgroup)?;
    figures.add(lines.throughput, state, sent.rate * 8.0 / 1e9);
    figures.add_foreign(connected.foreign);
    figures.add_foreign(sent.foreign);
    Ok(())
}
