//! What is said in the statuses of routes, Gateways and their classes.
//!
//! The source of the cluster's objects judges them, since it knows what they refer to; whoever leads writes what it said.
//! In a route's status each controller answers for the parents that it knows: entries of others are left as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::object::{CONTROLLER_NAME, GATEWAY_GROUP, ObjectId, ParentRef};
use crate::translate::StatusChange;
use crate::translate::routes::{Condition, ListenerVerdict, ParentVerdict, Said, Verdict};

/// What is to be said in the statuses of routes, Gateways and their classes: from the source of a cluster's objects to
/// whoever writes it.
#[derive(Clone, Debug)]
pub struct Verdicts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<ObjectId, Arc<Verdict>>,
    /// Those that have changed since somebody asked.
    changed: BTreeSet<ObjectId>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), news: watch::Sender::new(()) }))
    }
}

impl Verdicts {
    /// Takes in what a source has said, all of it in order.
    pub fn note(&self, changes: Vec<StatusChange>) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.state();
        for StatusChange { object, verdict } in changes {
            match verdict {
                Some(verdict) => state.known.insert(object.clone(), verdict),
                None => state.known.remove(&object),
            };
            state.changed.insert(object);
        }
        drop(state);
        self.0.news.send_replace(());
    }

    pub(super) fn get(&self, id: &ObjectId) -> Option<Arc<Verdict>> {
        self.state().known.get(id).cloned()
    }

    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    /// Those that have changed since the last time.
    pub(super) fn take_changed(&self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.state().changed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be changed in an object's status so that it says this, if anything is.
pub(super) fn status_with(status: &Value, verdict: &Verdict) -> Option<Value> {
    let generation = verdict.generation;
    let mut patch = Map::new();
    let mut set = |field: &str, value: Value| {
        if status[field] != value {
            patch.insert(field.to_owned(), value);
        }
    };
    match &verdict.said {
        Said::Route(parents) => {
            let known = list(&status["parents"]);
            let (own, others): (Vec<&Value>, Vec<&Value>) =
                known.iter().partition(|entry| entry["controllerName"] == CONTROLLER_NAME);
            let wanted: Vec<Value> = parents.iter().map(|parent| parent_status(parent, &own, generation)).collect();
            if own.len() != wanted.len() || own.iter().zip(&wanted).any(|(own, wanted)| *own != wanted) {
                set("parents", others.into_iter().cloned().chain(wanted).collect());
            }
        }
        Said::Gateway { conditions, listeners, addresses } => {
            let known = list(&status["listeners"]);
            let listeners: Vec<Value> =
                listeners.iter().map(|listener| listener_status(listener, known, generation)).collect();
            let addresses: Vec<Value> =
                addresses.iter().map(|address| json!({ "type": "IPAddress", "value": **address })).collect();
            set("listeners", listeners.into());
            if !(addresses.is_empty() && list(&status["addresses"]).is_empty()) {
                set("addresses", addresses.into());
            }
            set("conditions", beside_others(list(&status["conditions"]), conditions, generation));
        }
        Said::Class(conditions) => {
            set("conditions", beside_others(list(&status["conditions"]), conditions, generation));
        }
    }
    (!patch.is_empty()).then(|| patch.into())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn parent_status(verdict: &ParentVerdict, own: &[&Value], generation: Option<i64>) -> Value {
    let reference = parent_ref(&verdict.parent);
    let known = own.iter().find(|entry| entry["parentRef"] == reference);
    let known = known.map_or(&[][..], |entry| list(&entry["conditions"]));
    json!({
        "parentRef": reference,
        "controllerName": CONTROLLER_NAME,
        "conditions": conditions(known, &verdict.conditions, generation),
    })
}

/// A reference as it stands in the specification: what is not said there is not said here.
fn parent_ref(parent: &ParentRef) -> Value {
    let mut reference = Map::new();
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            reference.insert(field.to_owned(), value);
        }
    };
    let text = |text: &Option<Arc<str>>| text.as_deref().map(Value::from);
    set("group", text(&parent.group));
    set("kind", text(&parent.kind));
    set("namespace", text(&parent.namespace));
    set("name", Some((*parent.name).into()));
    set("sectionName", text(&parent.section));
    set("port", parent.port.map(Value::from));
    reference.into()
}

fn listener_status(verdict: &ListenerVerdict, known: &[Value], generation: Option<i64>) -> Value {
    let known = known.iter().find(|listener| listener["name"] == *verdict.name);
    let known = known.map_or(&[][..], |listener| list(&listener["conditions"]));
    let kinds = verdict.kinds.iter().map(|kind| json!({ "group": GATEWAY_GROUP, "kind": **kind }));
    json!({
        "name": *verdict.name,
        "supportedKinds": kinds.collect::<Vec<Value>>(),
        "attachedRoutes": verdict.attached,
        "conditions": conditions(known, &verdict.conditions, generation),
    })
}

/// These conditions in the place of those of the same types, and the others as they are.
fn beside_others(known: &[Value], wanted: &[Condition], generation: Option<i64>) -> Value {
    let is_other = |condition: &&Value| !wanted.iter().any(|wanted| condition["type"] == wanted.kind);
    let others: Vec<Value> = known.iter().filter(is_other).cloned().collect();
    others.into_iter().chain(conditions(known, wanted, generation)).collect()
}

fn conditions(known: &[Value], wanted: &[Condition], generation: Option<i64>) -> Vec<Value> {
    let condition = |wanted: &Condition| {
        let status = if wanted.is_true { "True" } else { "False" };
        let before = known.iter().find(|condition| condition["type"] == wanted.kind && condition["status"] == status);
        let since = before.map(|before| before["lastTransitionTime"].clone()).filter(Value::is_string);
        let since = since.or_else(|| serde_json::to_value(Time(Timestamp::now())).ok());
        json!({
            "type": wanted.kind,
            "status": status,
            "reason": wanted.reason,
            "message": *wanted.message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        })
    };
    wanted.iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(name: &str) -> ParentRef {
        let (group, kind) = (Some("".into()), Some("Service".into()));
        ParentRef { group, kind, namespace: None, name: name.into(), section: None, port: Some(80) }
    }

    fn accepted(is_true: bool) -> Vec<Condition> {
        vec![Condition::new("Accepted", is_true, if is_true { "Accepted" } else { "NoMatchingParent" }, "said")]
    }

    fn route(parents: &[(&str, bool)]) -> Verdict {
        let parents = parents.iter().map(|(name, is_true)| ParentVerdict {
            parent: parent(name),
            is_idle: false,
            conditions: accepted(*is_true),
        });
        Verdict { generation: Some(3), said: Said::Route(parents.collect()) }
    }

    #[test]
    fn a_route_is_told_of_its_parents_once_and_those_of_others_stay() {
        let other = json!({ "parentRef": { "name": "edge" }, "controllerName": "x.io/other", "conditions": [] });
        let before = json!({ "parents": [other] });
        let patch = status_with(&before, &route(&[("web", true)])).expect("it has none");
        let parents = list(&patch["parents"]);
        assert_eq!((parents.len(), &parents[0]), (2, &other));
        assert_eq!(parents[1]["parentRef"], json!({ "group": "", "kind": "Service", "name": "web", "port": 80 }));
        assert_eq!(parents[1]["controllerName"], CONTROLLER_NAME);
        let condition = &parents[1]["conditions"][0];
        assert_eq!((&condition["status"], &condition["observedGeneration"]), (&json!("True"), &json!(3)));
        assert_eq!(status_with(&patch, &route(&[("web", true)])), None, "it says so already");

        // In whatever order the others stand.
        let turned = json!({ "parents": [parents[1], other] });
        assert_eq!(status_with(&turned, &route(&[("web", true)])), None);

        // A parent that is named no more is answered for no more.
        let patch = status_with(&turned, &route(&[])).expect("one too many");
        assert_eq!(patch, json!({ "parents": [other] }));
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut status = status_with(&json!({}), &route(&[("web", true)])).expect("it has none");
        status["parents"][0]["conditions"][0]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
        let next = Verdict { generation: Some(4), ..route(&[("web", true)]) };
        let time = |patch: &Value| patch["parents"][0]["conditions"][0]["lastTransitionTime"].clone();
        let patch = status_with(&status, &next).expect("it is about another generation");
        assert_eq!(time(&patch), "2020-01-01T00:00:00Z");
        let patch = status_with(&status, &route(&[("web", false)])).expect("it is another");
        assert_ne!(time(&patch), "2020-01-01T00:00:00Z");
    }

    #[test]
    fn a_gateway_is_told_of_its_listeners_and_addresses() {
        let listeners = vec![ListenerVerdict {
            name: "mesh".into(),
            kinds: vec!["HTTPRoute".into()],
            attached: 2,
            conditions: accepted(true),
        }];
        let said = Said::Gateway { conditions: accepted(true), listeners, addresses: vec!["10.1.0.5".into()] };
        let verdict = Verdict { generation: Some(1), said };
        // What the API server has before any controller has come.
        let pending = json!({ "type": "Accepted", "status": "Unknown", "reason": "Pending" });
        let before = json!({ "conditions": [pending, { "type": "Other", "status": "True" }] });
        let patch = status_with(&before, &verdict).expect("it has none");
        assert_eq!(patch["addresses"], json!([{ "type": "IPAddress", "value": "10.1.0.5" }]));
        assert_eq!(patch["listeners"][0]["attachedRoutes"], 2);
        let kinds = json!([{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute" }]);
        assert_eq!(patch["listeners"][0]["supportedKinds"], kinds);
        let types: Vec<&Value> = list(&patch["conditions"]).iter().map(|condition| &condition["type"]).collect();
        assert_eq!(types, ["Other", "Accepted"]);
        assert_eq!(status_with(&patch, &verdict), None);
    }

    #[test]
    fn what_changed_is_told_once() {
        let verdicts = Verdicts::default();
        let id = ObjectId { kind: crate::object::Kind::HttpRoute, namespace: "shop".into(), name: "r".into() };
        let verdict = Arc::new(route(&[]));
        verdicts.note(vec![StatusChange { object: id.clone(), verdict: Some(Arc::clone(&verdict)) }]);
        assert_eq!(verdicts.take_changed().into_iter().collect::<Vec<_>>(), std::slice::from_ref(&id));
        assert!(verdicts.take_changed().is_empty());
        assert_eq!(verdicts.get(&id), Some(verdict));
        verdicts.note(vec![StatusChange { object: id.clone(), verdict: None }]);
        assert_eq!(verdicts.get(&id), None);
    }
}
