//! What is compared: the same small cluster, with and without something between its pods.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use weft_tests::{Agent, Families, Host, Node, Pod, PodSpec, Process, World, WorldOptions};

use crate::Options;
use crate::load::{self, Server};

/// What connections go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Nothing.
    Direct,
    /// Two plain relays.
    Relay,
    /// Two agents.
    Weft,
}

/// The namespace of all pods that are in the mesh.
pub const NAMESPACE: &str = "bench";

/// The pods' addresses, as the harness gives them.
const RANGE: &str = "10.244.0.0/16";

/// Two nodes with a client and a server on each. The load goes from the first node's client to the second one's server.
pub struct Contender {
    /// Which one it is.
    pub kind: Kind,
    between: Between,
    server: Server,
    pods: Vec<Pod>,
    nodes: Vec<Node>,
    // Last, since dropping it removes what all the others live in.
    _world: World,
}

enum Between {
    Nothing,
    Relays(Vec<Process>),
    Agents(Vec<Agent>),
}

impl Kind {
    /// The column of its figures.
    pub fn column(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Weft => "weft",
        }
    }
}

impl Contender {
    /// Builds its cluster and starts what is in it.
    pub fn build(kind: Kind, options: &Options) -> Result<Self> {
        Self::try_build(kind, options).with_context(|| format!("setting up {}", kind.column()))
    }

    fn try_build(kind: Kind, options: &Options) -> Result<Self> {
        let world = World::with(WorldOptions { shows_logs: false })?;
        world.namespace(NAMESPACE, &[])?;
        let nodes = vec![world.node("a")?, world.node("b")?];
        let mut pods = Vec::new();
        for node in &nodes {
            for role in ["client", "server"] {
                let name = format!("{role}-{}", node.label());
                pods.push(pod(node, PodSpec::new(&name).namespace(NAMESPACE).service_account(&name), options)?);
            }
        }
        let server = Server::start(&pods[3], pods[3].ip(), &world.folder().join("control"))?;
        let between = match kind {
            Kind::Direct => Between::Nothing,
            Kind::Relay => Between::Relays(relays(&nodes, &pods)?),
            Kind::Weft => {
                world.enrol(NAMESPACE)?;
                Between::Agents(agents(&nodes, &pods, options)?)
            }
        };
        Ok(Self { kind, between, server, pods, nodes, _world: world })
    }

    /// Where the load starts.
    pub fn client(&self) -> &Pod {
        &self.pods[0]
    }

    /// Where it goes to.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The processes between the two.
    pub fn processes(&self) -> Vec<u32> {
        match &self.between {
            Between::Nothing => Vec::new(),
            Between::Relays(relays) => relays.iter().map(Process::pid).collect(),
            Between::Agents(agents) => agents.iter().map(Agent::pid).collect(),
        }
    }

    /// The folder of the cgroup that holds every process of this cluster.
    pub fn cgroup(&self) -> PathBuf {
        world_cgroup(&self.nodes[0])
    }

    /// What its agents have logged, for a message about a failure.
    pub fn log(&self) -> String {
        match &self.between {
            Between::Agents(agents) => agents.iter().map(Agent::log).collect::<Vec<_>>().join("\n"),
            Between::Relays(relays) => relays.iter().map(Process::stderr).collect::<Vec<_>>().join("\n"),
            Between::Nothing => String::new(),
        }
    }
}

/// Makes a pod that can open connections as fast as the load wants to.
pub fn pod(node: &Node, spec: PodSpec, options: &Options) -> Result<Pod> {
    let pod = node.pod(spec.families(Families::V4))?;
    tune(&pod, options)?;
    Ok(pod)
}

/// Lets a host reuse ports in TIME_WAIT after a second and gives it 45,000 of them: some ten thousand new connections a
/// second use up the default range within seconds.
pub fn tune(host: &Host, options: &Options) -> Result<()> {
    tune_ports(host)?;
    match &options.congestion_control {
        Some(name) => host.netns().sysctl("ipv4/tcp_congestion_control", name),
        None => Ok(()),
    }
}

/// The part of it that concerns ports.
pub fn tune_ports(host: &Host) -> Result<()> {
    host.netns().sysctl("ipv4/tcp_tw_reuse", "1")?;
    host.netns().sysctl("ipv4/ip_local_port_range", "20000 65535")
}

/// The folder of the cgroup that holds every process of the node's world.
pub fn world_cgroup(node: &Node) -> PathBuf {
    // A node's own is WORLD/NODE/system.
    node.cgroup().path().ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}

fn relays(nodes: &[Node], pods: &[Pod]) -> Result<Vec<Process>> {
    let binary = load::sibling("weft-relay")?;
    let mut relays = Vec::new();
    for node in nodes {
        let mut command = node.command(&binary.to_string_lossy())?;
        command.args(["--node", node.name(), "--range", RANGE]);
        for pod in pods.iter().filter(|pod| pod.node() == node.name()) {
            command.arg("--pod").arg(format!("{}={}", pod.netns().path().display(), pod.ip()));
        }
        let mut relay = Process::spawn(command)?;
        relay.wait_for_output("relaying")?;
        relays.push(relay);
    }
    Ok(relays)
}

fn agents(nodes: &[Node], pods: &[Pod], options: &Options) -> Result<Vec<Agent>> {
    let arguments = options.agent_arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut agents = Vec::new();
    for node in nodes {
        let agent = node.agent().with(&arguments).start()?;
        for pod in pods.iter().filter(|pod| pod.node() == node.name()) {
            agent.wait_enrolled(pod)?;
        }
        agents.push(agent);
    }
    Ok(agents)
}
