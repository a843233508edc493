//! The shop: who is in it and where.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use weft_tests::{Agent, Finished, Nginx, Node, Pod, PodSpec, ServiceSpec, World, WorldOptions, nginx};

/// The namespace of the shop.
pub(super) const NAMESPACE: &str = "shop";

/// What the catalogue serves. The first line is what a listener on the network would like to read.
const PRICES: &str = "purchase price of apples: 0.31 a kilo\napples 1.20\npears 1.80\n";

/// Two nodes with an agent each. The frontend and the visitor are on the first; two pods of the catalogue, which are
/// nginx, on the second.
pub(super) struct Shop {
    // In the order in which they are taken down: agents first, the world last.
    pub(super) agent_a: Agent,
    pub(super) agent_b: Agent,
    pub(super) servers: Vec<Nginx>,
    pub(super) frontend: Pod,
    pub(super) visitor: Pod,
    pub(super) outsider: Pod,
    pub(super) catalogue: Vec<Pod>,
    pub(super) service: SocketAddr,
    pub(super) a: Node,
    pub(super) b: Node,
    pub(super) world: World,
}

impl Shop {
    /// Builds it, outside the mesh, with agents that have nothing to do yet.
    pub(super) fn open(agent: &Path) -> Result<Self> {
        let world = World::with(WorldOptions { shows_logs: false })?;
        world.namespace(NAMESPACE, &[])?;
        world.namespace("elsewhere", &[])?;
        let (a, b) = (world.node("a")?, world.node("b")?);
        let pod = |node: &Node, name: &str, app: &str, namespace: &str| {
            node.pod(PodSpec::new(name).namespace(namespace).label("app", app).service_account(app))
        };
        let frontend = pod(&a, "frontend", "frontend", NAMESPACE)?;
        let visitor = pod(&a, "visitor", "visitor", NAMESPACE)?;
        let outsider = pod(&a, "outsider", "outsider", "elsewhere")?;
        let catalogue =
            vec![pod(&b, "catalogue-1", "catalogue", NAMESPACE)?, pod(&b, "catalogue-2", "catalogue", NAMESPACE)?];
        let servers = catalogue
            .iter()
            .map(|pod| {
                let root = pod.folder()?.join("www");
                fs::create_dir_all(&root)?;
                fs::write(root.join("prices.txt"), format!("{PRICES}served by {}\n", pod.name()))?;
                nginx(pod, 80, &root)
            })
            .collect::<Result<Vec<_>>>()
            .context("starting the catalogue")?;
        let addresses = world.service(&ServiceSpec::new("catalogue").namespace(NAMESPACE).port(80, 80))?;
        let service = SocketAddr::new(addresses[0], 80);
        let mut agent_a = a.agent().binary(agent).start_unready()?;
        let mut agent_b = b.agent().binary(agent).start_unready()?;
        agent_a.wait_ready()?;
        agent_b.wait_ready()?;
        Ok(Self { agent_a, agent_b, servers, frontend, visitor, outsider, catalogue, service, a, b, world })
    }

    /// The command by which a pod asks for the prices.
    pub(super) fn curl(at: SocketAddr) -> String {
        format!("curl -sS --max-time 5 http://{at}/prices.txt")
    }

    /// Asks for the prices from a pod.
    pub(super) fn ask(&self, from: &Pod, at: SocketAddr) -> Result<Finished> {
        from.run(&Self::curl(at).split(' ').collect::<Vec<_>>())
    }

    /// Waits until both agents have captured the shop's pods and know of each other.
    pub(super) fn wait_in_mesh(&self) -> Result<()> {
        for pod in [&self.frontend, &self.visitor] {
            self.agent_a.wait_enrolled(pod)?;
        }
        for pod in &self.catalogue {
            self.agent_b.wait_enrolled(pod)?;
            self.agent_a.wait_for_protocol(pod, "hbone")?;
        }
        self.agent_b.wait_for_protocol(&self.frontend, "hbone")?;
        self.agent_b.wait_for_protocol(&self.visitor, "hbone")
    }
}
