//! What was heard of a control plane, across its streams. Without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use weft_model::Change;
use weft_proto::discovery::{DeltaDiscoveryResponse, Resource, Status};
use weft_route::RouteChange;

use super::wants::{Named, Wanted};
use crate::istio::{self, ADDRESS, AUTHORIZATION, ConversionError, ROUTE};
use crate::problem::{Problem, Severity};
use crate::serve::PART;
use crate::source::Update;
use crate::translate::ObjectCounts;

/// Code of a refusal: the argument is not valid (google.rpc.Code).
const INVALID_ARGUMENT: i32 = 3;
/// Mistakes that one refusal names.
const MAX_REASONS: usize = 10;
/// Problems that one update names.
const MAX_PROBLEMS: usize = 50;

/// Everything that was heard, and what of it has not been handed over yet.
#[derive(Debug)]
pub(crate) struct Session {
    network: Arc<str>,
    on_demand: bool,
    with_routes: bool,
    addresses: Known,
    policies: Known,
    routes: Known,
    wanted: HashMap<Arc<str>, Wanted>,
    /// Wanted, and not answered yet.
    pending: HashSet<Arc<str>>,
    /// Wanted since before the stream began: answered by the first whole response.
    asked_first: HashSet<Arc<str>>,
    /// More follows that belongs to what has come: a service may be there, and its endpoints not yet.
    is_partial: bool,
    changes: Vec<Change>,
    route_changes: Vec<RouteChange>,
    answered: Vec<Wanted>,
    problems: BTreeMap<Arc<str>, Vec<Problem>>,
    has_new_problems: bool,
    has_told: bool,
    /// It goes by what was known before anybody spoke.
    is_remembering: bool,
}

/// The resources of one type.
#[derive(Debug, Default)]
struct Known {
    resources: HashMap<Arc<str>, Held>,
    /// A whole response has come.
    is_synced: bool,
    /// Those that nobody has confirmed yet.
    remembered: HashSet<Arc<str>>,
}

/// One resource.
#[derive(Debug)]
struct Held {
    version: Box<str>,
    kind: Kind,
    /// On demand: other names that it was asked for by.
    aliases: Box<[Box<str>]>,
    /// On demand: services that it is an endpoint of.
    services: Box<[Arc<str>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Workload,
    Service,
    Policy,
    Route,
}

impl Kind {
    /// `None`: it is no change of the model.
    fn removal(self, name: &Arc<str>) -> Option<Change> {
        let name = Arc::clone(name);
        match self {
            Self::Workload => Some(Change::RemoveWorkload(name)),
            Self::Service => Some(Change::RemoveService(name)),
            Self::Policy => Some(Change::RemovePolicy(name)),
            Self::Route => None,
        }
    }
}

impl Session {
    pub fn new(network: &str, on_demand: bool, with_routes: bool) -> Self {
        Self {
            network: network.into(),
            on_demand,
            with_routes,
            addresses: Known::default(),
            policies: Known::default(),
            routes: Known::default(),
            wanted: HashMap::new(),
            pending: HashSet::new(),
            asked_first: HashSet::new(),
            is_partial: false,
            changes: Vec::new(),
            route_changes: Vec::new(),
            answered: Vec::new(),
            problems: BTreeMap::new(),
            has_new_problems: false,
            has_told: false,
            is_remembering: false,
        }
    }

    /// Takes what was known before, for as long as nobody says otherwise. What has been said already counts for more. It is
    /// not told to the control plane, so that everything is sent anew; what is not sent then is no more.
    pub fn remember(&mut self, addresses: Vec<Resource>, policies: Vec<Resource>) {
        for (type_url, resources) in [(ADDRESS, addresses), (AUTHORIZATION, policies)] {
            for resource in resources {
                let name: Arc<str> = resource.name.as_str().into();
                if self.known(type_url).is_synced || self.known(type_url).resources.contains_key(&name) {
                    continue;
                }
                match self.put(type_url, resource) {
                    Ok(()) => drop(self.known(type_url).remembered.insert(name)),
                    Err(reason) => {
                        self.settle(&name);
                        tracing::warn!(reason, "something of the last state cannot be used");
                    }
                }
            }
        }
        self.is_remembering = true;
    }

    /// Whether anything has been handed over.
    pub fn has_told(&self) -> bool {
        self.has_told
    }

    /// On demand there may be no address to hear of: what is asked for is answered by itself.
    pub fn is_synced(&self) -> bool {
        let has_routes = self.routes.is_synced || !self.with_routes;
        self.policies.is_synced && has_routes && (self.on_demand || self.addresses.is_synced)
    }

    /// What is there of a type, for the first request of a stream.
    pub fn versions(&self, type_url: &str) -> BTreeMap<String, String> {
        let known = match type_url {
            ADDRESS => &self.addresses,
            ROUTE => &self.routes,
            _ => &self.policies,
        };
        let confirmed = known.resources.iter().filter(|(name, _)| !known.remembered.contains(*name));
        confirmed.map(|(name, held)| (name.to_string(), held.version.to_string())).collect()
    }

    /// A stream begins that asks for these first. Returns their names.
    pub fn begin(&mut self, all: Named) -> Vec<String> {
        let names = self.want(all);
        self.asked_first = self.pending.clone();
        names
    }

    /// Notes what is wanted from now on. Returns the names to ask for.
    pub fn want(&mut self, new: Named) -> Vec<String> {
        let mut names = Vec::with_capacity(new.len());
        for (name, wanted) in new {
            if !self.on_demand {
                // It comes with everything else, or is not there.
                self.answered.push(wanted);
                continue;
            }
            names.push(name.to_string());
            if self.wanted.insert(Arc::clone(&name), wanted).is_none() {
                self.pending.insert(name);
            }
        }
        names
    }

    /// Forgets what nothing leads to without these. Returns the names to ask for no more.
    pub fn release(&mut self, gone: &[Arc<str>]) -> Vec<String> {
        if gone.is_empty() || !self.on_demand {
            return Vec::new();
        }
        for name in gone {
            self.wanted.remove(name);
            self.pending.remove(name);
        }
        let is_named = |name: &str, held: Option<&Held>| {
            self.wanted.contains_key(name)
                || held.is_some_and(|held| held.aliases.iter().any(|alias| self.wanted.contains_key(&**alias)))
        };
        let resources = &self.addresses.resources;
        let is_unwanted = |(name, held): &(&Arc<str>, &Held)| {
            let leads = |service: &Arc<str>| is_named(service, resources.get(service));
            !is_named(name, Some(held)) && !held.services.iter().any(leads)
        };
        let dropped: Vec<Arc<str>> = resources.iter().filter(is_unwanted).map(|(name, _)| Arc::clone(name)).collect();
        for name in &dropped {
            self.remove(ADDRESS, name);
        }
        // A server of another kind goes on with what it sent for a name; ours does not need to be told.
        let names: BTreeSet<&Arc<str>> = gone.iter().chain(&dropped).collect();
        names.into_iter().map(|name| name.to_string()).collect()
    }

    /// Takes in what a response says; returns why some of it was refused, if it was. What was refused stays as it was.
    pub fn take(&mut self, response: DeltaDiscoveryResponse) -> Option<Status> {
        let DeltaDiscoveryResponse { system_version_info, resources, type_url, removed_resources, .. } = response;
        if type_url != ADDRESS && type_url != AUTHORIZATION && !(type_url == ROUTE && self.with_routes) {
            return Some(refusal(vec![format!("the type {type_url:.200} was not asked for")]));
        }
        let mut reasons = Vec::new();
        // Removals first: what is new may take over addresses.
        for name in removed_resources {
            self.answer(&type_url, &name);
            self.remove(&type_url, &name);
        }
        self.changes.reserve(resources.len());
        for resource in resources {
            if let Err(reason) = self.put(&type_url, resource) {
                reasons.push(reason);
            }
        }
        let is_partial = system_version_info.ends_with(PART);
        if type_url == ADDRESS {
            self.is_partial = is_partial;
        }
        if !is_partial {
            self.known(&type_url).is_synced = true;
            for name in std::mem::take(&mut self.known(&type_url).remembered) {
                self.remove(&type_url, &name);
            }
            if type_url == ADDRESS {
                for name in std::mem::take(&mut self.asked_first) {
                    self.answer(ADDRESS, &name);
                }
            }
        }
        (!reasons.is_empty()).then(|| refusal(reasons))
    }

    /// What has not been handed over yet, once policies and addresses are both there. On demand only whole answers are,
    /// since connections wait for them: a service without its endpoints would refuse these.
    pub fn update(&mut self) -> Option<Update> {
        let has_changes = !self.changes.is_empty() || !self.route_changes.is_empty();
        let has_news = !self.has_told || has_changes || self.has_new_problems;
        if !self.can_tell() || !has_news {
            return None;
        }
        (self.has_told, self.has_new_problems) = (true, false);
        let count = |kind| self.addresses.resources.values().filter(|held| held.kind == kind).count();
        Some(Update {
            changes: std::mem::take(&mut self.changes),
            routes: std::mem::take(&mut self.route_changes),
            problems: self.problems.values().flatten().take(MAX_PROBLEMS).cloned().collect(),
            objects: ObjectCounts {
                pods: count(Kind::Workload),
                services: count(Kind::Service),
                authorization_policies: self.policies.resources.len(),
                ..ObjectCounts::default()
            },
            ..Update::default()
        })
    }

    /// What was wanted, and has been answered by what was handed over.
    pub fn answered(&mut self) -> Vec<Wanted> {
        if self.can_tell() { std::mem::take(&mut self.answered) } else { Vec::new() }
    }

    fn can_tell(&self) -> bool {
        (self.is_synced() || self.is_remembering) && !(self.on_demand && self.is_partial)
    }

    fn known(&mut self, type_url: &str) -> &mut Known {
        match type_url {
            ADDRESS => &mut self.addresses,
            ROUTE => &mut self.routes,
            _ => &mut self.policies,
        }
    }

    fn answer(&mut self, type_url: &str, name: &str) {
        if type_url == ADDRESS && self.pending.remove(name) {
            self.answered.extend(self.wanted.get(name).cloned());
        }
    }

    fn remove(&mut self, type_url: &str, name: &str) {
        self.settle(name);
        let known = self.known(type_url);
        known.remembered.remove(name);
        if let Some((name, held)) = known.resources.remove_entry(name) {
            match held.kind.removal(&name) {
                Some(change) => self.changes.push(change),
                None => self.route_changes.push(RouteChange::Remove(name)),
            }
        }
    }

    /// Nothing is wrong with a resource (any more).
    fn settle(&mut self, name: &str) {
        self.has_new_problems |= self.problems.remove(name).is_some();
    }

    fn put(&mut self, type_url: &str, resource: Resource) -> Result<(), String> {
        let Resource { version, resource: content, name, aliases } = resource;
        let bytes = content.as_ref().map_or(&[][..], |content| &content.value);
        if type_url == ROUTE {
            let route = istio::decode_route(&name, bytes).map_err(|error| self.refuse(&name, error))?;
            self.settle(&name);
            let key = Arc::clone(&route.key);
            let held =
                Held { version: version.into(), kind: Kind::Route, aliases: Box::default(), services: Box::default() };
            self.routes.resources.insert(key, held);
            self.route_changes.push(RouteChange::Put(Arc::new(route)));
            return Ok(());
        }
        let decoded = match istio::decode(type_url, &name, bytes, &self.network) {
            Ok(decoded) => decoded,
            Err(error) => {
                let reason = self.refuse(&name, error);
                // Something is there, and nobody knows what: not to be taken for an answer that there is nothing.
                for alias in aliases.iter().chain([&name]) {
                    self.asked_first.remove(&**alias);
                }
                return Err(reason);
            }
        };
        let ignored = decoded.ignored.iter().map(|field| {
            let message = "asks for something that this agent does not do; the rest is in force".to_owned();
            problem(Severity::Warning, format!("{name}: {field}"), message, "do not rely on it")
        });
        let ignored: Vec<Problem> = ignored.collect();
        if ignored.is_empty() {
            self.settle(&name)
        } else {
            self.report(&name, ignored)
        }
        let (name, kind, services) = match &decoded.change {
            Change::PutWorkload(workload) => {
                let services = workload.services.iter().map(|membership| Arc::clone(&membership.service));
                let services = if self.on_demand { services.collect() } else { Box::default() };
                (Arc::clone(&workload.uid), Kind::Workload, services)
            }
            Change::PutService(service) => (Arc::clone(&service.key), Kind::Service, Box::default()),
            Change::PutPolicy(policy) => (Arc::clone(&policy.key), Kind::Policy, Box::default()),
            Change::RemoveWorkload(_) | Change::RemoveService(_) | Change::RemovePolicy(_) => {
                return Err(format!("{name}: is a removal"));
            }
        };
        for alias in aliases.iter().map(String::as_str).chain([&*name]) {
            self.answer(type_url, alias);
        }
        let aliases = match self.on_demand && kind != Kind::Policy {
            true => aliases.into_iter().map(String::into_boxed_str).collect(),
            false => Box::default(),
        };
        let held = Held { version: version.into(), kind, aliases, services };
        let known = self.known(type_url);
        known.remembered.remove(&name);
        let before = known.resources.insert(Arc::clone(&name), held);
        if let Some(before) = before.filter(|before| before.kind != kind) {
            self.changes.extend(before.kind.removal(&name));
        }
        self.changes.push(decoded.change);
        Ok(())
    }

    /// Notes a resource that cannot be used, and returns why.
    fn refuse(&mut self, name: &str, error: ConversionError) -> String {
        let reason = error.to_string();
        let field = format!("{}: {}", error.resource, error.field);
        let suggestion = "the control plane sent it: is it of a version that can be followed here?";
        self.report(name, vec![problem(Severity::Error, field, error.reason, suggestion)]);
        reason
    }

    fn report(&mut self, name: &str, problems: Vec<Problem>) {
        let before = self.problems.insert(name.into(), problems);
        self.has_new_problems |= before.as_ref() != self.problems.get(name);
    }
}

fn refusal(mut reasons: Vec<String>) -> Status {
    let more = reasons.len().saturating_sub(MAX_REASONS);
    reasons.truncate(MAX_REASONS);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    Status { code: INVALID_ARGUMENT, message: reasons.join("; ") }
}

fn problem(severity: Severity, field: String, message: String, suggestion: &str) -> Problem {
    let suggestion = Some(suggestion.to_owned());
    Problem { severity, file: None, line: None, object: None, field: Some(field), message, suggestion }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use prost_types::Any;

    use super::*;
    use crate::istio::arbitrary;

    fn response(type_url: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    #[test]
    fn who_asks_for_routes_waits_for_them_and_goes_on_with_what_can_be_read() {
        let route = Arc::new(arbitrary::route(&mut Rng::with_seed(1)));
        let content = |value| Some(Any { type_url: ROUTE.to_owned(), value });
        let resource = Resource {
            name: route.key.to_string(),
            version: "1".to_owned(),
            resource: content(istio::encode_route(&route)),
            aliases: Vec::new(),
        };
        let mut session = Session::new("net", false, true);
        assert_eq!(session.take(response(AUTHORIZATION, Vec::new(), &[])), None);
        assert_eq!(session.take(response(ADDRESS, Vec::new(), &[])), None);
        assert!(session.update().is_none(), "what routes filter must not be reached without them");
        assert_eq!(session.take(response(ROUTE, vec![resource.clone()], &[])), None);
        let update = session.update().expect("all is there");
        assert_eq!(update.routes, [RouteChange::Put(Arc::clone(&route))]);
        assert_eq!(session.versions(ROUTE).get(&*route.key).map(String::as_str), Some("1"));

        let broken = Resource { resource: content(vec![0xff]), ..resource };
        assert!(session.take(response(ROUTE, vec![broken], &[])).is_some(), "it is refused");
        let update = session.update().expect("there is a problem");
        assert_eq!((update.routes.len(), update.problems.len()), (0, 1));

        assert_eq!(session.take(response(ROUTE, Vec::new(), &[&*route.key])), None);
        let update = session.update().expect("it is gone");
        assert_eq!(update.routes, [RouteChange::Remove(Arc::clone(&route.key))]);
        assert_eq!(update.problems, []);

        let mut agent = Session::new("net", false, false);
        assert!(agent.take(response(ROUTE, Vec::new(), &[])).is_some(), "it was not asked for");
    }
}
