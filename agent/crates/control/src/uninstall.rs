//! The order that a whole cluster's nodes are cleared by, while their agents still run.
//!
//! It is an annotation of each agent's own pod, [`ANNOTATION`] with the value [`REQUESTED`]. The agent takes its CNI plug-in out first, so that new pods start without
//! it, then lets go of its pods, removes capture and its files, and answers with the value [`DONE`]. An agent that is
//! started again finds the order still there. Nothing else has to be told, and whoever may not write to the agents' pods
//! cannot give the order.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_of};
use kube::{Api, Client};
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;

/// The annotation of an agent's pod.
pub const ANNOTATION: &str = "weft.dev/uninstall";
/// Its value that is the order.
pub const REQUESTED: &str = "requested";
/// Its value that says that the node is clear.
pub const DONE: &str = "done";

/// The agents: a DaemonSet of this name, whose pods have the label `app.kubernetes.io/name` with the same value.
const AGENTS: &str = "weft-agent";
/// How often is asked how far the agents are.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one question to the API server may take.
const ANSWER: Duration = Duration::from_secs(10);

/// Whether the order stands on an agent's own pod, carried out or not. An agent asks before it installs anything, for it may
/// have been started again.
///
/// # Errors
/// The API server cannot be reached, or refuses to say. [`ordered`] tells it later.
pub async fn is_ordered(client: &Client, namespace: &str, pod: &str) -> Result<bool, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    Ok(has_order(&pods.get_metadata(pod).await?.metadata))
}

/// Resolves when the order stands on an agent's own pod. It may be dropped and asked for again at any time.
pub async fn ordered(client: &Client, namespace: &str, pod: &str) {
    let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), namespace);
    let own = watcher::Config::default().fields(&format!("metadata.name={pod}"));
    let mut events = pin!(watch_of(pods, own).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(pod) | Event::Apply(pod)) if has_order(&pod.metadata) => return,
            Ok(_) => {}
            // The watches that the node lives by say so where somebody hears it.
            Err(error) => tracing::debug!(%error, "watching the agent's own pod failed; trying again"),
        }
    }
    // It never ends. Should it ever, that is no order.
    std::future::pending().await
}

fn has_order(metadata: &ObjectMeta) -> bool {
    let value = metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION));
    value.is_some_and(|value| value == REQUESTED || value == DONE)
}

/// Says that the node of an agent is clear, on the agent's own pod.
///
/// # Errors
/// The API server cannot be reached, or refuses it.
pub async fn acknowledge(client: &Client, namespace: &str, pod: &str) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.patch_status(pod, &PatchParams::default(), &annotate(DONE)).await.map(drop)
}

/// Gives the order to every agent of a namespace, to those as well that are started meanwhile, and waits until all nodes
/// are clear. Returns how many there are. `tell` hears how far it is, each time that this changes.
///
/// # Errors
/// Not all nodes are clear after `patience`: the error names those that are left, and why if that is known.
pub async fn order(
    client: &Client,
    namespace: &str,
    patience: Duration,
    mut tell: impl FnMut(&str),
) -> Result<usize, UninstallError> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let end = Instant::now() + patience;
    let mut said = String::new();
    loop {
        let news = match timeout(ANSWER, step(&sets, &pods)).await {
            Ok(Ok(Standing { nodes, left })) if left.is_empty() => return Ok(nodes),
            Ok(Ok(Standing { left, .. })) => format!("waiting for {}", left.join(", ")),
            // The API server may be away for a while, as everything may in an uninstallation.
            Ok(Err(error)) => format!("asking the API server: {error}"),
            Err(_) => format!("the API server has not answered within {} seconds", ANSWER.as_secs()),
        };
        if Instant::now() >= end {
            return Err(UninstallError { patience, standing: news });
        }
        if news != said {
            tell(&news);
            said = news;
        }
        sleep(PAUSE).await;
    }
}

/// Asks where all agents stand, and gives the order to those that do not have it yet.
async fn step(sets: &Api<DaemonSet>, pods: &Api<Pod>) -> Result<Standing, kube::Error> {
    let Some(set) = sets.get_opt(AGENTS).await? else {
        return Ok(Standing { nodes: 0, left: Vec::new() });
    };
    let selected = ListParams::default().labels(&format!("app.kubernetes.io/name={AGENTS}"));
    let agents: Vec<Agent> = pods.list(&selected).await?.items.iter().filter_map(Agent::of).collect();
    for agent in agents.iter().filter(|agent| agent.answer == Answer::None) {
        match pods.patch(&agent.pod, &PatchParams::default(), &annotate(REQUESTED)).await {
            // It is gone meanwhile, and its successor will be among the next.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            patched => drop(patched?),
        }
    }
    let status = set.status.unwrap_or_default();
    // Before its controller has seen it the set's status says nothing.
    let wanted = (status.observed_generation == set.metadata.generation).then_some(status.desired_number_scheduled);
    Ok(Standing::of(wanted.and_then(|wanted| usize::try_from(wanted).ok()), &agents))
}

fn annotate(value: &str) -> Patch<serde_json::Value> {
    Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: value}}}))
}

/// A pod of an agent, one that is not about to go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Agent {
    pod: String,
    node: String,
    answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It has not been asked.
    None,
    Requested,
    Done,
}

impl Agent {
    fn of(pod: &Pod) -> Option<Self> {
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let annotations = pod.metadata.annotations.as_ref();
        let answer = match annotations.and_then(|annotations| annotations.get(ANNOTATION)).map(String::as_str) {
            Some(REQUESTED) => Answer::Requested,
            Some(DONE) => Answer::Done,
            _ => Answer::None,
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        // One that has no node yet has done nothing on any; the set's status still waits for it.
        Some(Self { pod: pod.metadata.name.clone()?, node: node?, answer })
    }
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    /// How many nodes are clear.
    nodes: usize,
    /// What is waited for, in words; nothing: all is done.
    left: Vec<String>,
}

impl Standing {
    /// Of so many agents that the DaemonSet wants, if that is known, these are there.
    fn of(wanted: Option<usize>, agents: &[Agent]) -> Self {
        let mut left: Vec<String> = agents
            .iter()
            .filter(|agent| agent.answer != Answer::Done)
            .map(|agent| format!("node {} (pod {})", agent.node, agent.pod))
            .collect();
        left.sort();
        let nodes: BTreeSet<&str> =
            agents.iter().filter(|agent| agent.answer == Answer::Done).map(|agent| agent.node.as_str()).collect();
        match wanted {
            None => left.push("the DaemonSet's status".to_owned()),
            Some(wanted) if agents.len() < wanted => {
                left.push(format!("{} agents that have not started yet", wanted - agents.len()));
            }
            Some(_) => {}
        }
        Self { nodes: nodes.len(), left }
    }
}

/// Not all nodes are clear.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "not all nodes are clear after {patience:?}: {standing}. Their agents' logs say why; on a node without an agent run \
     `weft uninstall --node NAME`"
)]
pub struct UninstallError {
    patience: Duration,
    /// What was waited for at last.
    standing: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: serde_json::Value) -> Option<Agent> {
        Agent::of(&serde_json::from_value(text).unwrap())
    }

    fn agent(node: &str, answer: Answer) -> Agent {
        Agent { pod: format!("weft-agent-{node}"), node: node.to_owned(), answer }
    }

    #[test]
    fn an_agent_says_by_its_annotation_whether_it_is_done() {
        for (value, answer) in [("requested", Answer::Requested), ("done", Answer::Done), ("what", Answer::None)] {
            let metadata = json!({"name": "weft-agent-n1", "annotations": {ANNOTATION: value}});
            let pod = pod(json!({"metadata": metadata, "spec": {"nodeName": "n1", "containers": []}}));
            assert_eq!(pod, Some(agent("n1", answer)), "{value}");
        }
    }

    #[test]
    fn pods_that_go_and_pods_without_a_node_are_not_asked() {
        let going = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(pod(json!({"metadata": going, "spec": {"nodeName": "n1", "containers": []}})), None);
        assert_eq!(pod(json!({"metadata": {"name": "a"}, "spec": {"containers": []}})), None);
    }

    #[test]
    fn all_is_done_when_every_wanted_agent_is() {
        let both = [agent("n1", Answer::Done), agent("n2", Answer::Done)];
        assert_eq!(Standing::of(Some(2), &both), Standing { nodes: 2, left: Vec::new() });
        // A node that joins meanwhile.
        assert_eq!(Standing::of(Some(3), &both).left, ["1 agents that have not started yet"]);
        assert_eq!(Standing::of(None, &both).left, ["the DaemonSet's status"]);
        let one = [agent("n2", Answer::Requested), agent("n1", Answer::None), agent("n3", Answer::Done)];
        let standing = Standing::of(Some(3), &one);
        assert_eq!((standing.nodes, standing.left.len()), (1, 2));
        assert_eq!(standing.left[0], "node n1 (pod weft-agent-n1)");
    }

    #[test]
    fn an_order_that_was_carried_out_is_not_forgotten_by_a_restart() {
        let with = |annotations: serde_json::Value| {
            has_order(&serde_json::from_value(json!({"annotations": annotations})).unwrap())
        };
        assert!(with(json!({ANNOTATION: "requested"})) && with(json!({ANNOTATION: "done"})));
        assert!(!with(json!({ANNOTATION: ""})) && !with(json!({"another": "requested"})) && !with(json!(null)));
    }
}
