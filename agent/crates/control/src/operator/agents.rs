//! The agents of a cluster: where they are, and how to reach them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use super::{ClusterError, asked};

/// The agents' DaemonSet; their pods have the label `app.kubernetes.io/name` with the same value.
const AGENTS: &str = "weft-agent";

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its node.
    pub node: String,
    /// Its pod.
    pub pod: String,
    /// The cluster holds it to be ready.
    pub is_ready: bool,
}

/// All agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// Those that have a node, in the order of the nodes: one for each.
    pub there: Vec<Agent>,
    /// How many nodes are to have one, as far as the DaemonSet's status says.
    pub wanted: Option<usize>,
}

impl Agents {
    /// Asks for the agents in a namespace. `None`: there is no DaemonSet of that name.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn find(client: &Client, namespace: &str) -> Result<Option<Self>, ClusterError> {
        let what = format!("looking for the agents in the namespace {namespace}");
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
        let Some(set) = asked(&what, sets.get_opt(AGENTS)).await? else { return Ok(None) };
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let selected = ListParams::default().labels(&format!("app.kubernetes.io/name={AGENTS}"));
        let listed = asked(&what, pods.list(&selected)).await?;
        let status = set.status.unwrap_or_default();
        // Before its controller has seen it the set's status says nothing.
        let wanted = (status.observed_generation == set.metadata.generation).then_some(status.desired_number_scheduled);
        let wanted = wanted.and_then(|wanted| usize::try_from(wanted).ok());
        Ok(Some(Self { there: by_node(&listed.items), wanted }))
    }

    /// Whether the agent of a node is ready.
    pub(super) fn is_ready(&self, node: &str) -> bool {
        self.there.iter().any(|agent| agent.node == node && agent.is_ready)
    }
}

/// One agent for each node: while one is replaced by another, the one that is ready.
fn by_node(pods: &[Pod]) -> Vec<Agent> {
    let mut agents: BTreeMap<String, Agent> = BTreeMap::new();
    for pod in pods {
        let status = pod.status.as_ref();
        let is_over = status.and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase == "Failed");
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let (Some(node), Some(name), false) = (node, pod.metadata.name.clone(), is_over) else { continue };
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let says_ready = conditions.into_iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True");
        let agent = Agent { node, pod: name, is_ready: says_ready && pod.metadata.deletion_timestamp.is_none() };
        match agents.get(&agent.node) {
            Some(other) if other.is_ready => {}
            _ => drop(agents.insert(agent.node.clone(), agent)),
        }
    }
    agents.into_values().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: Option<&str>, ready: &str, deleted: Option<&str>) -> Pod {
        let pod: Value = json!({
            "metadata": {"name": name, "deletionTimestamp": deleted},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_node_has_one_agent_the_ready_one_if_there_is_one() {
        let pods = [
            pod("new", Some("n2"), "True", None),
            pod("old", Some("n2"), "True", Some("2026-01-01T00:00:00Z")),
            pod("only", Some("n1"), "False", None),
            pod("unscheduled", None, "False", None),
        ];
        let agents = by_node(&pods);
        let found: Vec<_> = agents.iter().map(|agent| (&*agent.node, &*agent.pod, agent.is_ready)).collect();
        assert_eq!(found, [("n1", "only", false), ("n2", "new", true)]);
        let agents = Agents { there: agents, wanted: None };
        assert!(agents.is_ready("n2") && !agents.is_ready("n1") && !agents.is_ready("n3"));
    }
}
