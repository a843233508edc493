//! Asking the agents of a cluster, through its API server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_control::kubernetes::Client;
use weft_control::operator::{Agents, forward};

use super::client::{self, ANSWER};
use super::cluster::{self, AGENTS_NAMESPACE};
use super::measure::count;
use super::{agent, table};

/// Agents that are asked at the same time.
const AT_ONCE: usize = 32;

/// How long to wait, when a connection was of no use, for the reason that the node gives.
const REASON: Duration = Duration::from_millis(300);

/// Which agents to ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "The nodes of a cluster")]
pub(super) struct ClusterArgs {
    /// Ask the agents of all nodes of a cluster, through its API server, instead of the one that runs here
    #[arg(long)]
    pub(super) kubernetes: bool,

    /// File that says where the API server is and who you are to it [env: WEFT_KUBECONFIG] [default: as for kubectl]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Only the agents of these nodes, separated by commas
    #[arg(long = "node", value_name = "NAMES", value_delimiter = ',', value_parser = agent::node_name, requires = "kubernetes")]
    nodes: Vec<String>,

    /// Namespace of the agents
    #[arg(long, env = "WEFT_POD_NAMESPACE", value_name = "NAME", default_value = AGENTS_NAMESPACE, value_parser = agent::namespace)]
    agents_namespace: String,

    /// Port of the agents' admin interface, on the loopback of their nodes
    #[arg(long, value_name = "PORT", default_value = "15000")]
    admin_port: u16,
}

/// What agents answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// By node.
    pub(super) answered: BTreeMap<String, Value>,
    /// The nodes whose agents did not answer, and why.
    pub(super) silent: BTreeMap<String, String>,
    /// Further nodes that are to have an agent and have none yet.
    pub(super) missing: usize,
}

impl Answers {
    /// Every agent that should has answered.
    pub(super) fn is_whole(&self) -> bool {
        self.silent.is_empty() && self.missing == 0
    }

    /// All answers in one.
    pub(super) fn to_json(&self) -> Value {
        json!({ "nodes": self.answered, "unanswered": self.silent, "missing_agents": self.missing })
    }

    /// Those that did not answer, one a line.
    pub(super) fn complaints(&self) -> Vec<String> {
        let silent = self
            .silent
            .iter()
            .map(|(node, reason)| table::single_line(&format!("The agent of {node} does not answer: {reason}")));
        let missing = (self.missing > 0).then(|| format!("{} without an agent yet.", count(self.missing, "node")));
        silent.chain(missing).collect()
    }
}

impl ClusterArgs {
    /// `GET path` of all agents, with the parameter `namespace` if there is one.
    pub(super) fn get(&self, path: &str, namespace: Option<&str>) -> anyhow::Result<Answers> {
        let path = client::with_namespace(path, namespace);
        cluster::block_on(async {
            let client = cluster::connect(self.kubeconfig.as_deref()).await?;
            let Some(agents) = Agents::find(&client, &self.agents_namespace).await? else {
                bail!(
                    "there is no DaemonSet weft-agent in the namespace {}: install Weft, or say where it is with \
                     --agents-namespace",
                    self.agents_namespace
                );
            };
            Ok(self.ask(&client, &agents, &path).await)
        })
    }

    async fn ask(&self, client: &Client, agents: &Agents, path: &str) -> Answers {
        let (pods, mut answers) = chosen(agents, &self.nodes);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut asking = JoinSet::new();
        for (node, pod) in pods {
            let (client, places, path) = (client.clone(), Arc::clone(&places), path.to_owned());
            let (namespace, port) = (self.agents_namespace.clone(), self.admin_port);
            asking.spawn(async move {
                // It is never closed.
                let _place = places.acquire().await;
                let late = || anyhow!("no answer within {} seconds", ANSWER.as_secs());
                let answer = timeout(ANSWER, ask_one(&client, &namespace, &pod, port, &path)).await;
                (node, answer.unwrap_or_else(|_| Err(late())))
            });
        }
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok((node, Ok(answer))) => drop(answers.answered.insert(node, answer)),
                Ok((node, Err(error))) => drop(answers.silent.insert(node, format!("{error:#}"))),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        answers
    }
}

/// The node and pod of each agent to ask, and the answer so far: who of those that were named is not there.
fn chosen(agents: &Agents, nodes: &[String]) -> (Vec<(String, String)>, Answers) {
    let mut answers = Answers::default();
    if nodes.is_empty() {
        answers.missing = agents.wanted.unwrap_or_default().saturating_sub(agents.there.len());
    }
    for node in nodes {
        if !agents.there.iter().any(|agent| agent.node == *node) {
            answers.silent.insert(node.clone(), "there is none".to_owned());
        }
    }
    let chosen = agents.there.iter().filter(|agent| nodes.is_empty() || nodes.contains(&agent.node));
    (chosen.map(|agent| (agent.node.clone(), agent.pod.clone())).collect(), answers)
}

async fn ask_one(client: &Client, namespace: &str, pod: &str, port: u16, path: &str) -> anyhow::Result<Value> {
    let (stream, refusal) = forward(client, namespace, pod, port).await?;
    match client::talk(stream, Method::GET, path, Bytes::new()).await {
        Ok((status, body)) => client::understood(status, &body),
        Err(error) => match timeout(REASON, refusal).await {
            Ok(Some(reason)) => Err(anyhow!("{}", reason.trim())),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use weft_control::operator::Agent;

    use super::*;

    fn agents() -> Agents {
        let agent = |node: &str| Agent { node: node.to_owned(), pod: format!("weft-agent-{node}"), is_ready: true };
        Agents { there: vec![agent("n1"), agent("n2")], wanted: Some(3) }
    }

    #[test]
    fn all_agents_are_asked_unless_nodes_are_named() {
        let (pods, answers) = chosen(&agents(), &[]);
        assert_eq!(pods.len(), 2);
        assert_eq!((answers.is_whole(), answers.missing), (false, 1));
        assert_eq!(answers.complaints(), ["1 node without an agent yet."]);

        let (pods, answers) = chosen(&agents(), &["n2".to_owned()]);
        assert_eq!(pods, [("n2".to_owned(), "weft-agent-n2".to_owned())]);
        assert!(answers.is_whole(), "{answers:?}");
    }

    #[test]
    fn a_named_node_without_an_agent_is_complained_about() {
        let (pods, answers) = chosen(&agents(), &["n9".to_owned()]);
        assert!(pods.is_empty() && !answers.is_whole());
        assert_eq!(answers.complaints(), ["The agent of n9 does not answer: there is none"]);
        assert_eq!(answers.to_json(), json!({"nodes": {}, "unanswered": {"n9": "there is none"}, "missing_agents": 0}));
    }
}
