//! What of each policy and route is in force, said in its status.
//!
//! AuthorizationPolicies and PeerAuthentications get the condition `WeftAccepted`. It is `True` when all that the policy
//! says is in force, and else `False`, with what is not in its message. Conditions of others are left as they are. Of
//! routes, Gateways and their classes the source of the cluster's objects says what is to be said: see [`routes`].
//!
//! A status is written only when it should be another one, at a moderate pace. Where the kind has no subresource for
//! statuses nothing is written: for that the controller would have to be allowed to change the policies themselves.

mod routes;
mod verdict;
mod wide;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_of};
use kube::{Api, Client};
pub use routes::Verdicts;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_stream::{StreamExt, StreamMap};
use verdict::Verdict;
use wide::Wide;

use super::{Failure, answered};
use crate::manifest::{Reading, read_object};
use crate::object::{Interner, Kind, Object, ObjectId};
use crate::source::kubernetes::{Retries, at, resource_of};

/// The type of the condition.
const CONDITION: &str = "WeftAccepted";
/// Kinds that get it.
const POLICIES: [Kind; 2] = [Kind::AuthorizationPolicy, Kind::PeerAuthentication];
/// Kinds of which the source says what is to be said.
const ROUTED: [Kind; 6] =
    [Kind::GatewayClass, Kind::Gateway, Kind::HttpRoute, Kind::GrpcRoute, Kind::TlsRoute, Kind::TcpRoute];
/// The least time between two writes …
const PACE: Duration = Duration::from_millis(50);
/// … and between two of one object: whoever always undoes them is not fought over.
const PACE_OF_ONE: Duration = Duration::from_secs(10);
/// How long a kind is left alone whose statuses cannot be written.
const LEFT_ALONE: Duration = Duration::from_secs(300);

/// Keeps the statuses of all policies, and those of `verdicts`, until it is dropped.
pub(super) async fn keep(client: Client, root_namespace: String, verdicts: Verdicts) {
    let mut watches = StreamMap::new();
    for kind in POLICIES.into_iter().chain(ROUTED) {
        for version in versions(kind) {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource_of(kind, version));
            let events = watch_of(api, watcher::Config::default()).backoff(Retries::default());
            watches.insert((kind, *version), Box::pin(events));
        }
    }
    let mut news = verdicts.news();
    let mut statuses = Statuses::new(root_namespace, verdicts);
    loop {
        let next = statuses.next();
        tokio::select! {
            biased;
            () = at(next) => {
                if let Some((id, due)) = statuses.begin() {
                    let written = write(&client, &id, &due).await;
                    statuses.written(id, due, written);
                }
            }
            changed = news.changed() => match changed {
                Ok(()) => statuses.look_at_changed(),
                // Its owner is part of `statuses`.
                Err(_) => return,
            },
            Some(((kind, version), event)) = watches.next() => match event {
                Ok(event) => statuses.note(kind, version, event),
                // The source of the mesh's description watches the same, and says what is wrong.
                Err(error) => tracing::debug!(%kind, %error, "watching for statuses failed"),
            },
        }
    }
}

/// The versions of a kind that are watched: kinds that have become stable only lately may be there in an older one alone.
fn versions(kind: Kind) -> &'static [&'static str] {
    let versions = kind.api_versions();
    if matches!(kind, Kind::TlsRoute | Kind::TcpRoute) { versions } else { &versions[..1] }
}

/// Writes the status of one object, unless it was changed meanwhile.
async fn write(client: &Client, id: &ObjectId, due: &Due) -> Result<(), Failure> {
    let resource = resource_of(id.kind, due.api_version);
    let api: Api<DynamicObject> = match id.kind.is_namespaced() {
        true => Api::namespaced_with(client.clone(), &id.namespace, &resource),
        false => Api::all_with(client.clone(), &resource),
    };
    let patch = json!({ "metadata": { "resourceVersion": due.version }, "status": due.status });
    answered(api.patch_status(&id.name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

/// A status that is to be written.
#[derive(Debug, PartialEq)]
struct Due {
    not_before: Instant,
    /// The version of the object that it is about.
    version: String,
    /// The version of the API by which it was read.
    api_version: &'static str,
    /// What is changed in it: lists are whole, with what others have in them.
    status: Value,
}

/// A route, Gateway or class, as it was seen last.
struct Routed {
    generation: Option<i64>,
    version: String,
    api_version: &'static str,
    status: Value,
}

/// The statuses that are to be written.
struct Statuses {
    root_namespace: String,
    interner: Interner,
    wide: Wide,
    verdicts: Verdicts,
    routed: HashMap<ObjectId, Routed>,
    /// Kinds whose list is under way: what overrides what is known when it ends.
    listing: HashSet<Kind>,
    due: BTreeMap<ObjectId, Due>,
    /// When objects were written to lately.
    written: HashMap<ObjectId, Instant>,
    /// Kinds that are left alone, until then.
    left_alone: HashMap<Kind, Instant>,
    /// No write before then.
    open_at: Instant,
}

impl Statuses {
    fn new(root_namespace: String, verdicts: Verdicts) -> Self {
        Self {
            root_namespace,
            interner: Interner::default(),
            wide: Wide::default(),
            verdicts,
            routed: HashMap::new(),
            listing: HashSet::new(),
            due: BTreeMap::new(),
            written: HashMap::new(),
            left_alone: HashMap::new(),
            open_at: Instant::now(),
        }
    }

    fn note(&mut self, kind: Kind, version: &'static str, event: Event<DynamicObject>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) if ROUTED.contains(&kind) => {
                self.look_at_routed(kind, version, object);
            }
            Event::Apply(object) | Event::InitApply(object) => self.look(kind, object),
            Event::Delete(object) => {
                let text = |text: Option<String>| text.unwrap_or_default().into();
                let (namespace, name) = (text(object.metadata.namespace), text(object.metadata.name));
                let id = ObjectId { kind, namespace, name };
                self.due.remove(&id);
                self.routed.remove(&id);
                if kind == Kind::PeerAuthentication && self.wide.remove(&id) {
                    self.look_at_others(&id);
                }
            }
            Event::Init => {
                self.listing.insert(kind);
                if kind == Kind::PeerAuthentication {
                    self.wide.clear();
                }
            }
            Event::InitDone => {
                self.listing.remove(&kind);
                // Of what was deleted unseen that is found out by writing to it.
                self.interner.forget_unused();
            }
        }
    }

    fn look_at_routed(&mut self, kind: Kind, api_version: &'static str, object: DynamicObject) {
        let DynamicObject { metadata, data, .. } = object;
        let text = |text: Option<String>| text.unwrap_or_default().into();
        let namespace = metadata.namespace.filter(|_| kind.is_namespaced());
        let id = ObjectId { kind, namespace: text(namespace), name: text(metadata.name) };
        let status = data.get("status").cloned().unwrap_or_default();
        let version = metadata.resource_version.unwrap_or_default();
        let routed = Routed { generation: metadata.generation, version, api_version, status };
        self.routed.insert(id.clone(), routed);
        self.judge_routed(id);
    }

    /// Looks at what the source judges otherwise by now.
    fn look_at_changed(&mut self) {
        for id in self.verdicts.take_changed() {
            self.judge_routed(id);
        }
    }

    /// Notes a route, Gateway or class whose status should be another.
    fn judge_routed(&mut self, id: ObjectId) {
        let verdict = self.verdicts.get(&id);
        let due = self.routed.get(&id).zip(verdict).and_then(|(routed, verdict)| {
            // The source hears of a change by itself, and will judge it.
            let is_of_this = verdict.generation == routed.generation;
            let status = routes::status_with(&routed.status, &verdict).filter(|_| is_of_this)?;
            Some((routed.version.clone(), routed.api_version, status))
        });
        match due {
            Some((version, api_version, status)) => {
                let not_before = self.not_before(&id);
                self.due.insert(id, Due { not_before, version, api_version, status });
            }
            None => {
                self.due.remove(&id);
            }
        }
    }

    /// When an object may be written to.
    fn not_before(&self, id: &ObjectId) -> Instant {
        let now = Instant::now();
        let of_one = self.written.get(id).map_or(now, |written| *written + PACE_OF_ONE);
        let of_kind = self.left_alone.get(&id.kind).copied().unwrap_or(now);
        of_one.max(of_kind).max(now)
    }

    /// Looks at an object, and at those that it overrides.
    fn look(&mut self, kind: Kind, mut object: DynamicObject) {
        object.metadata.managed_fields = None;
        let kept = (kind == Kind::PeerAuthentication).then(|| object.clone());
        let Some((id, is_wide)) = self.judge(kind, object) else { return };
        let Some(object) = kept else { return };
        let was_wide = self.wide.remove(&id);
        if is_wide {
            self.wide.put(&id, object.clone());
            if self.wide.senior_of(&id).is_some() {
                self.judge(kind, object);
            }
        }
        if is_wide || was_wide {
            self.look_at_others(&id);
        }
    }

    fn look_at_others(&mut self, id: &ObjectId) {
        for other in self.wide.others(id) {
            self.judge(id.kind, other);
        }
    }

    /// Notes an object whose status should be another. Returns which it is, and whether it is a PeerAuthentication for a
    /// whole namespace.
    fn judge(&mut self, kind: Kind, object: DynamicObject) -> Option<(ObjectId, bool)> {
        let (generation, version) = (object.metadata.generation, object.metadata.resource_version.clone());
        let tree = serde_json::to_value(object).ok()?;
        let (entry, problems) = read_object(kind, &tree, &mut self.interner);
        let entry = entry?;
        let id = entry.id;
        let (Reading::Valid(read) | Reading::Invalid(Some(read))) = &entry.reading else { return None };
        let is_wide = matches!(read, Object::PeerAuthentication(policy) if policy.selector.is_none());
        let senior = self.wide.senior_of(&id).filter(|_| is_wide);
        let verdict = Verdict::of(&id, &entry.reading, &problems, &self.root_namespace, senior.as_deref());
        let conditions = tree.pointer("/status/conditions").and_then(Value::as_array);
        let conditions = conditions_with(conditions.map_or(&[][..], Vec::as_slice), &verdict, generation);
        match (conditions, version) {
            (Some(conditions), Some(version)) => {
                let (api_version, status) = (kind.api_versions()[0], json!({ "conditions": conditions }));
                let due = Due { not_before: self.not_before(&id), version, api_version, status };
                self.due.insert(id.clone(), due);
            }
            _ => {
                self.due.remove(&id);
            }
        }
        Some((id, is_wide))
    }

    /// When there is something to write, if nothing else happens.
    fn next(&self) -> Option<Instant> {
        let open = self.due.iter().filter(|(id, _)| !self.listing.contains(&id.kind));
        open.map(|(_, due)| due.not_before.max(self.open_at)).min()
    }

    /// Takes out what is to be written now.
    fn begin(&mut self) -> Option<(ObjectId, Due)> {
        let now = Instant::now();
        let is_due =
            |id: &ObjectId, due: &Due| due.not_before.max(self.open_at) <= now && !self.listing.contains(&id.kind);
        let (id, _) = self.due.iter().find(|(id, due)| is_due(id, due))?;
        let id = id.clone();
        self.due.remove_entry(&id)
    }

    /// Notes how a write has ended.
    fn written(&mut self, id: ObjectId, due: Due, written: Result<(), Failure>) {
        let now = Instant::now();
        self.open_at = now + PACE;
        self.written.retain(|_, written| *written + PACE_OF_ONE > now);
        match written {
            Ok(()) => {
                self.written.insert(id, now);
            }
            // It was changed or removed meanwhile; the watch says what is to be done now.
            Err(failure) if failure.code == 409 || (failure.code == 404 && failure.is_object) => {}
            Err(failure) if matches!(failure.code, 403..=405) => {
                let hint = match failure.code {
                    403 => "the ClusterRole must allow patch of its status",
                    _ => "its CustomResourceDefinition has no subresource for the status",
                };
                let kind = id.kind;
                if !self.left_alone.contains_key(&kind) {
                    tracing::warn!(%kind, error = failure.text, "statuses cannot be written: {hint}");
                }
                let until = now + LEFT_ALONE;
                self.left_alone.insert(kind, until);
                self.due.insert(id, due);
                let same_kind = self.due.iter_mut().filter(|(id, _)| id.kind == kind);
                same_kind.for_each(|(_, due)| due.not_before = until);
            }
            Err(failure) => {
                tracing::debug!(object = %id, error = failure.text, "a status could not be written; trying again");
                self.due.entry(id).or_insert(Due { not_before: now + PACE_OF_ONE, ..due });
            }
        }
    }
}

/// The conditions that an object should have, if they are other than those that it has.
fn conditions_with(conditions: &[Value], verdict: &Verdict, generation: Option<i64>) -> Option<Vec<Value>> {
    let is_own = |condition: &&Value| condition["type"] == CONDITION;
    let own = conditions.iter().find(is_own);
    let status = if verdict.is_accepted { "True" } else { "False" };
    let has_status = |condition: &Value| condition["status"] == status;
    if let Some(own) = own
        && conditions.iter().filter(is_own).count() == 1
        && has_status(own)
        && own["reason"] == verdict.reason
        && own["message"] == *verdict.message
        && own["observedGeneration"].as_i64() == generation
    {
        return None;
    }
    let since = own.filter(|own| has_status(own)).map(|own| own["lastTransitionTime"].clone());
    let since = since.filter(Value::is_string).or_else(|| serde_json::to_value(Time(Timestamp::now())).ok());
    let mut wanted: Vec<Value> = conditions.iter().filter(|condition| !is_own(condition)).cloned().collect();
    wanted.push(json!({
        "type": CONDITION,
        "status": status,
        "reason": verdict.reason,
        "message": verdict.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }));
    Some(wanted)
}

#[cfg(test)]
mod tests;
