//! What is to be said before a namespace joins the mesh or leaves it.

use std::collections::{BTreeMap, BTreeSet};

use super::Agents;
use crate::object::{DATAPLANE_MODE, MtlsMode, PeerAuthentication, Pod, PodPhase};
use crate::translate::Membership;

/// The most names that one line has.
const MANY: usize = 8;

/// How much a [`Check`] weighs. The heaviest comes first in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weight {
    /// It cannot be done.
    Refusal,
    /// It would do harm, or nothing: it is done if the operator insists.
    Objection,
    /// Worth knowing.
    Note,
}

/// Something to be said before it is done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// How much it weighs.
    pub weight: Weight,
    /// What there is to say, and what to do.
    pub text: String,
}

/// What the checks look at.
#[derive(Debug, Default)]
pub(super) struct Situation<'a> {
    pub namespace: &'a str,
    /// It is to join the mesh, otherwise to leave it.
    pub joins: bool,
    /// The namespace's labels; `None`: there is no such namespace.
    pub labels: Option<BTreeMap<String, String>>,
    /// Where the agents are to be.
    pub agents_namespace: &'a str,
    /// `None`: there are none.
    pub agents: Option<Agents>,
    /// The namespace's pods.
    pub pods: Vec<Pod>,
    /// The PeerAuthentications of all namespaces.
    pub policies: Vec<PeerAuthentication>,
    pub root_namespace: &'a str,
}

impl Situation<'_> {
    /// Everything that is to be said, the heaviest first.
    pub fn checks(&self) -> Vec<Check> {
        let mut said = Said::default();
        let Some(labels) = &self.labels else {
            said.add(Weight::Refusal, format!("there is no namespace {}", self.namespace));
            return said.0;
        };
        if self.joins && (self.namespace == "kube-system" || self.namespace == self.agents_namespace) {
            let text =
                format!("pods of {} are never captured: the cluster, or the mesh, lives by them", self.namespace);
            said.add(Weight::Refusal, text);
            return said.0;
        }
        let was_member = labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == "ambient");
        // What changes nothing can do no harm.
        let objection = if was_member == self.joins { Weight::Note } else { Weight::Objection };
        self.agents(objection, &mut said);
        if self.joins {
            self.left_outside(labels, &mut said);
            self.clients_cut_off(objection, &mut said);
        } else {
            self.left_inside(&mut said);
            self.servers_cut_off(objection, &mut said);
        }
        said.0.sort();
        said.0
    }

    /// The pods that use addresses, or are about to.
    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.phase != PodPhase::Over && !pod.is_terminating)
    }

    fn agents(&self, objection: Weight, said: &mut Said) {
        // A node that leaves without its agent is served when the agent comes back.
        let weight = if self.joins { objection } else { Weight::Note };
        let Some(agents) = &self.agents else {
            let text = format!(
                "there is no DaemonSet weft-agent in the namespace {}: install Weft, or say where it is with \
                 --agents-namespace",
                self.agents_namespace
            );
            return said.add(weight, text);
        };
        let concerned = self.pods().filter(|pod| !pod.template.is_host_network && !pod.node.is_empty());
        let nodes: BTreeSet<&str> = concerned.map(|pod| &*pod.node).filter(|node| !agents.is_ready(node)).collect();
        if !nodes.is_empty() {
            let then = if self.joins {
                "its pods there stay outside the mesh until one is, and new ones do not start"
            } else {
                "its pods there stay in the mesh until one is"
            };
            said.add(weight, format!("no agent is ready on {}: {then}", named(nodes)));
        }
    }

    /// What stays outside although the namespace joins.
    fn left_outside(&self, labels: &BTreeMap<String, String>, said: &mut Said) {
        let mut stay = |is: &dyn Fn(&Pod) -> bool, why: &str| {
            let names: BTreeSet<&str> = self.pods().filter(|pod| is(pod)).map(|pod| &*pod.name).collect();
            if !names.is_empty() {
                said.add(Weight::Note, format!("stay outside the mesh, {why}: {}", named(names)));
            }
        };
        stay(&|pod| pod.template.is_host_network, "being on the host's network");
        stay(&|pod| pod.template.has_sidecar && !pod.template.is_host_network, "having a sidecar");
        stay(&|pod| pod.template.is_static() && !pod.template.is_host_network, "being static");
        stay(
            &|pod| {
                let template = &pod.template;
                !template.is_host_network
                    && !template.has_sidecar
                    && !template.is_static()
                    && !Membership::of_template(template).is_member(Membership::Member)
            },
            "by their own label",
        );
        let injected = labels.get("istio-injection").is_some_and(|value| value == "enabled");
        if injected || labels.contains_key("istio.io/rev") {
            said.add(
                Weight::Note,
                "the namespace asks for sidecars by its labels: pods that get one stay outside the mesh".to_owned(),
            );
        }
    }

    /// Policies that hold for the namespace once it has joined, and refuse those outside.
    fn clients_cut_off(&self, objection: Weight, said: &mut Said) {
        let wide = self.wide(self.namespace).filter(|policy| policy.mode != MtlsMode::Unset);
        let wide = wide.or_else(|| self.wide(self.root_namespace));
        let selecting = self.policies.iter().filter(|policy| {
            *policy.namespace == *self.namespace && policy.selector.is_some() && self.namespace != self.root_namespace
        });
        let strict: BTreeSet<String> =
            wide.into_iter().chain(selecting).filter(|policy| is_strict(policy)).map(name).collect();
        if !strict.is_empty() {
            let text = format!(
                "STRICT by PeerAuthentication {}: clients outside the mesh are refused as soon as the pods have joined; \
                 make it PERMISSIVE until all clients have",
                named(strict.iter().map(String::as_str))
            );
            said.add(objection, text);
        }
    }

    /// What stays in the mesh although the namespace leaves.
    fn left_inside(&self, said: &mut Said) {
        let own = self.pods().filter(|pod| Membership::of_template(&pod.template) == Membership::Member);
        let names: BTreeSet<&str> = own.map(|pod| &*pod.name).collect();
        if !names.is_empty() {
            said.add(Weight::Note, format!("stay in the mesh, by their own label: {}", named(names)));
        }
    }

    /// Policies that refuse the namespace's pods once they are outside, and those that no longer guard them.
    fn servers_cut_off(&self, objection: Weight, said: &mut Said) {
        let (own, others): (Vec<_>, Vec<_>) = self
            .policies
            .iter()
            .filter(|policy| is_strict(policy))
            .partition(|policy| *policy.namespace == *self.namespace && self.namespace != self.root_namespace);
        let others: BTreeSet<String> = others.into_iter().map(name).collect();
        if !others.is_empty() {
            let text = format!(
                "STRICT by PeerAuthentication {}: pods of the mesh that it is about will refuse those of {}",
                named(others.iter().map(String::as_str)),
                self.namespace
            );
            said.add(objection, text);
        }
        let own: BTreeSet<String> = own.into_iter().map(name).collect();
        if !own.is_empty() {
            let text = format!(
                "outside the mesh nothing enforces PeerAuthentication {}: whoever speaks in clear will be served",
                named(own.iter().map(String::as_str))
            );
            said.add(Weight::Note, text);
        }
    }

    /// The policy for all pods of a namespace: the oldest.
    fn wide(&self, namespace: &str) -> Option<&PeerAuthentication> {
        let policies = self.policies.iter();
        policies
            .filter(|policy| *policy.namespace == *namespace && policy.selector.is_none())
            .min_by(|a, b| a.seniority().cmp(&b.seniority()))
    }
}

#[derive(Default)]
struct Said(Vec<Check>);

impl Said {
    fn add(&mut self, weight: Weight, text: String) {
        self.0.push(Check { weight, text });
    }
}

fn is_strict(policy: &PeerAuthentication) -> bool {
    policy.mode == MtlsMode::Strict || policy.ports.iter().any(|(_, mode)| *mode == MtlsMode::Strict)
}

fn name(policy: &PeerAuthentication) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

/// Names in one line, the first ones of many.
pub(super) fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.len().checked_sub(MANY) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MANY].join(", ")),
    }
}

#[cfg(test)]
mod tests;
