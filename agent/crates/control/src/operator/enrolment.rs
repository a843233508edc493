//! A namespace joins the mesh, or leaves it: its label, with checks before and a look at its pods after.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::checks::{Situation, named};
use super::{Agents, Check, ClusterError, asked, list};
use crate::manifest::{Reading, read_object};
use crate::object::{DATAPLANE_MODE, Interner, Kind, Object, Pod, PodPhase};
use crate::translate::Membership;

/// How often is asked how far the pods are.
const PAUSE: Duration = Duration::from_millis(500);

/// A namespace that is to join or to leave.
#[derive(Clone, Copy, Debug)]
pub struct Enrolment<'a> {
    /// Its name.
    pub namespace: &'a str,
    /// It is to join the mesh, otherwise to leave it.
    pub joins: bool,
    /// The namespace of the agents.
    pub agents_namespace: &'a str,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: &'a str,
}

/// Not all pods are where they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "after {patience:?} not all is done: {standing}. The label is set, and agents go on; \"weft pods --kubernetes\" and \
     the agents' logs say why"
)]
pub struct Unfinished {
    patience: Duration,
    /// What was waited for at last.
    standing: String,
}

impl Enrolment<'_> {
    /// What is to be said before it is done, the heaviest first.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn checks(&self, client: &Client) -> Result<Vec<Check>, ClusterError> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let what = format!("looking for the namespace {}", self.namespace);
        let found = asked(&what, namespaces.get_opt(self.namespace)).await?;
        let mut situation = Situation {
            namespace: self.namespace,
            joins: self.joins,
            labels: found.map(|namespace| namespace.metadata.labels.unwrap_or_default()),
            agents_namespace: self.agents_namespace,
            root_namespace: self.root_namespace,
            ..Situation::default()
        };
        if situation.labels.is_some() {
            situation.agents = Agents::find(client, self.agents_namespace).await?;
            situation.pods = self.pods(client).await?;
            let policies = list(client, Kind::PeerAuthentication, None).await?.unwrap_or_default();
            situation.policies = objects(Kind::PeerAuthentication, policies)
                .filter_map(|object| match object {
                    Object::PeerAuthentication(policy) => Some(policy),
                    _ => None,
                })
                .collect();
        }
        Ok(situation.checks())
    }

    /// Sets the label, or takes it away.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn label(&self, client: &Client) -> Result<(), ClusterError> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let patch = json!({"metadata": {"labels": {DATAPLANE_MODE: self.joins.then_some("ambient")}}});
        let what = format!("labelling the namespace {}", self.namespace);
        asked(&what, namespaces.patch(self.namespace, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }

    /// Waits until the agents have said, by the pods' annotation, that all of them are captured that are to be, and no
    /// others. Returns how many joined, or left. `tell` hears how far it is, each time that this changes.
    ///
    /// # Errors
    /// Not all are after `patience`: the error names them.
    pub async fn wait(
        &self,
        client: &Client,
        patience: Duration,
        mut tell: impl FnMut(&str),
    ) -> Result<usize, Unfinished> {
        let end = Instant::now() + patience;
        let mut said = String::new();
        loop {
            let standing = match self.pods(client).await {
                Ok(pods) => match Standing::of(&pods, self.joins) {
                    Standing { done, left } if left.is_empty() => return Ok(done),
                    Standing { done, left } => {
                        let names = named(left.iter().map(String::as_str));
                        format!("{done} of {} pods; waiting for {names}", done + left.len())
                    }
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() >= end {
                return Err(Unfinished { patience, standing });
            }
            if standing != said {
                tell(&standing);
                said = standing;
            }
            sleep(PAUSE).await;
        }
    }

    async fn pods(&self, client: &Client) -> Result<Vec<Pod>, ClusterError> {
        let listed = list(client, Kind::Pod, Some(self.namespace)).await?.unwrap_or_default();
        let pods = objects(Kind::Pod, listed).filter_map(|object| match object {
            Object::Pod(pod) => Some(pod),
            _ => None,
        });
        Ok(pods.collect())
    }
}

/// What objects of a cluster say. What of them cannot be read is as strict as it might be.
fn objects(kind: Kind, listed: Vec<DynamicObject>) -> impl Iterator<Item = Object> {
    let mut interner = Interner::default();
    listed.into_iter().filter_map(move |object| {
        let tree = serde_json::to_value(object).ok()?;
        match read_object(kind, &tree, &mut interner).0?.reading {
            Reading::Valid(object) => Some(object),
            Reading::Invalid(substitute) => substitute,
        }
    })
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    /// Pods that have joined, or left.
    done: usize,
    /// Pods that are to.
    left: Vec<String>,
}

impl Standing {
    fn of(pods: &[Pod], joins: bool) -> Self {
        let mut standing = Self { done: 0, left: Vec::new() };
        let namespace = if joins { Membership::Member } else { Membership::Unsaid };
        for pod in pods {
            // One without a node is nobody's yet, and one that ends changes no more.
            if pod.phase == PodPhase::Over || pod.is_terminating || pod.node.is_empty() {
                continue;
            }
            let says = Membership::of_template(&pod.template);
            let is_member = says.is_member(namespace);
            if is_member != pod.is_redirected {
                standing.left.push(format!("{} on {}", pod.name, pod.node));
            } else if says == Membership::Unsaid || (joins && is_member) {
                standing.done += 1;
            }
        }
        standing.left.sort();
        standing
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pods(pods: &[Value]) -> Vec<Pod> {
        let listed = pods.iter().map(|pod| serde_json::from_value(pod.clone()).expect("an object")).collect();
        let pods = objects(Kind::Pod, listed).map(|object| match object {
            Object::Pod(pod) => pod,
            other => panic!("{other:?} is no pod"),
        });
        pods.collect()
    }

    fn pod(name: &str, is_captured: bool, label: Option<&str>, host: bool) -> Value {
        let annotations = json!({"ambient.istio.io/redirection": is_captured.then_some("enabled")});
        let annotations = if is_captured { annotations } else { json!({}) };
        let labels = label.map_or(json!({}), |label| json!({DATAPLANE_MODE: label}));
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": labels, "annotations": annotations},
            "spec": {"nodeName": "n1", "hostNetwork": host, "containers": [{"name": "c"}]},
            "status": {"phase": "Running"},
        })
    }

    #[test]
    fn a_namespace_has_joined_when_every_pod_that_can_be_is_captured() {
        let mut all = [
            pod("a", true, None, false),
            pod("b", false, None, false),
            pod("host", false, None, true),
            pod("not", false, Some("none"), false),
        ];
        let standing = Standing::of(&pods(&all), true);
        assert_eq!(standing, Standing { done: 1, left: vec!["b on n1".to_owned()] });
        all[1] = pod("b", true, None, false);
        assert_eq!(Standing::of(&pods(&all), true), Standing { done: 2, left: Vec::new() });
    }

    #[test]
    fn a_namespace_has_left_when_no_pod_is_captured_that_does_not_ask_for_it_itself() {
        let mut all = [pod("a", true, None, false), pod("own", true, Some("ambient"), false)];
        assert_eq!(Standing::of(&pods(&all), false), Standing { done: 0, left: vec!["a on n1".to_owned()] });
        all[0] = pod("a", false, None, false);
        assert_eq!(Standing::of(&pods(&all), false), Standing { done: 1, left: Vec::new() });
    }

    #[test]
    fn pods_that_are_over_or_go_or_have_no_node_are_not_waited_for() {
        let mut over = pod("over", false, None, false);
        over["status"]["phase"] = "Succeeded".into();
        let mut going = pod("going", false, None, false);
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let mut nowhere = pod("nowhere", false, None, false);
        nowhere["spec"]["nodeName"] = Value::Null;
        assert_eq!(Standing::of(&pods(&[over, going, nowhere]), true), Standing { done: 0, left: Vec::new() });
    }
}
