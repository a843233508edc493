//! The world that most scenarios start from: a client on one node, a server on another, an agent on each.

use anyhow::Result;
use weft_tests::server::{Behaviour, Server};
use weft_tests::{Agent, Node, Pod, PodSpec, World};

/// The namespace of client and server.
pub(crate) const NAMESPACE: &str = "shop";

/// Two nodes with an agent each; the pod `client` on the first, the pod `server` on the second.
pub(crate) struct Pair {
    // In the order in which they are taken down: agents first, the world last.
    pub(crate) agent_a: Agent,
    pub(crate) agent_b: Agent,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) world: World,
}

/// What can differ.
pub(crate) struct Setup {
    pub(crate) client: PodSpec,
    pub(crate) server: PodSpec,
    /// The namespace is in the mesh from the start.
    pub(crate) is_enrolled: bool,
    /// Arguments of both agents.
    pub(crate) arguments: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            client: PodSpec::new("client").namespace(NAMESPACE).service_account("client"),
            server: PodSpec::new("server").namespace(NAMESPACE).service_account("server"),
            is_enrolled: true,
            arguments: Vec::new(),
        }
    }
}

impl Setup {
    /// Gives both agents these arguments.
    pub(crate) fn arguments(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(), ..Self::default() }
    }
}

impl Pair {
    /// Client and server are in the mesh, and both agents know it.
    pub(crate) fn start() -> Result<Self> {
        Self::with(Setup::default())
    }

    /// The same with some things different.
    pub(crate) fn with(setup: Setup) -> Result<Self> {
        let world = World::new()?;
        world.namespace(NAMESPACE, &[])?;
        if setup.is_enrolled {
            world.enrol(NAMESPACE)?;
        }
        let (a, b) = (world.node("a")?, world.node("b")?);
        let (client, server) = (a.pod(setup.client)?, b.pod(setup.server)?);
        let arguments: Vec<&str> = setup.arguments.iter().map(String::as_str).collect();
        let mut agent_a = a.agent().with(&arguments).start_unready()?;
        let mut agent_b = b.agent().with(&arguments).start_unready()?;
        agent_a.wait_ready()?;
        agent_b.wait_ready()?;
        let pair = Self { agent_a, agent_b, client, server, a, b, world };
        if setup.is_enrolled {
            pair.wait_in_mesh()?;
        }
        Ok(pair)
    }

    /// Puts the namespace into the mesh and waits until both agents have done it and know of the other.
    pub(crate) fn enrol(&self) -> Result<()> {
        self.world.enrol(NAMESPACE)?;
        self.wait_in_mesh()
    }

    /// An echo server in the server's pod, on this port of every address.
    pub(crate) fn echo(&self, port: u16) -> Result<Server> {
        serve(&self.server, port, Behaviour::Echo)
    }

    /// Writes a manifest, to be replaced by the next one, and waits until the server's agent knows the policy
    /// `shop/NAME` in it.
    pub(crate) fn apply_policy(&self, name: &str, manifest: &str) -> Result<()> {
        self.world.config().put("policy", manifest)?;
        self.agent_b.wait_for_policy(&format!("{NAMESPACE}/{name}"))
    }

    fn wait_in_mesh(&self) -> Result<()> {
        self.agent_a.wait_enrolled(&self.client)?;
        self.agent_b.wait_enrolled(&self.server)?;
        for agent in [&self.agent_a, &self.agent_b] {
            agent.wait_for_protocol(&self.client, "hbone")?;
            agent.wait_for_protocol(&self.server, "hbone")?;
        }
        Ok(())
    }
}

/// A server on this port of every address of a pod.
pub(crate) fn serve(pod: &Pod, port: u16, behaviour: Behaviour) -> Result<Server> {
    Server::start(pod, format!("[::]:{port}").parse()?, behaviour)
}

/// An `AuthorizationPolicy` of the namespace `shop`; `spec` is its specification, indented by two.
pub(crate) fn authorization(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\nspec:\n{spec}\n"
    )
}

/// A `PeerAuthentication`; `spec` is its specification, indented by two.
pub(crate) fn peer_authentication(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n{spec}\n"
    )
}
