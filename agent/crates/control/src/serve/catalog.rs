//! All resources of one type, in the order of their last changes.
//!
//! The order is what streams are served by: each remembers how far it is, and what lies behind that is what it has yet
//! to hear of, every resource once, however often it changed. No stream has a queue, and none holds up another.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use prost::Message;
use prost_types::Any;
use smallvec::SmallVec;
use weft_model::{Policy, Service, Workload};
use weft_proto::discovery::Resource;
use weft_route::Route;

use crate::istio;

/// Removals that are remembered. A stream that is further behind than these begins anew.
const MAX_REMOVALS: usize = 1 << 16;

/// One resource since its last change.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: Arc<str>,
    /// Its place in the order of changes, counted from 1.
    pub place: u64,
    /// `None`: it was removed.
    pub content: Option<Content>,
}

/// What a resource is, encoded once for all streams.
#[derive(Debug)]
pub(crate) struct Content {
    /// A [`Resource`].
    pub bytes: Bytes,
    pub version: Version,
    /// The other names that it answers to: its addresses.
    pub aliases: Box<[Box<str>]>,
    /// Of a workload: the services that it is an endpoint of.
    pub services: Box<[Arc<str>]>,
}

/// A digest of what a resource says, the same for every replica and after a restart. Clients have it as sixteen
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(u64);

/// A resource on its way into a catalog.
#[derive(Debug)]
pub(crate) struct Encoded {
    name: Arc<str>,
    content: Content,
}

/// All resources of one type.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    places: HashMap<Arc<str>, u64>,
    changes: BTreeMap<u64, Arc<Entry>>,
    head: u64,
    /// Places of removals, oldest first. Some may be overtaken: what was removed is there again.
    removals: VecDeque<u64>,
    /// Up to here removals may have been forgotten.
    floor: u64,
    /// Hardly any address is that of several.
    by_alias: HashMap<Box<str>, SmallVec<[Arc<str>; 1]>>,
    members: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Encoded {
    pub fn workload(workload: &Workload, network: &str) -> Self {
        // Several share a host's address: none is meant by it.
        let addresses = if workload.is_host_network { &[][..] } else { &workload.addresses };
        let services = workload.services.iter().map(|membership| Arc::clone(&membership.service));
        let network = if workload.network.is_empty() { network } else { &workload.network };
        let content = istio::encode_workload(workload);
        Self::new(&workload.uid, istio::ADDRESS, content, aliases(network, addresses), services.collect())
    }

    pub fn service(service: &Service, network: &str) -> Self {
        let content = istio::encode_service(service, network);
        Self::new(&service.key, istio::ADDRESS, content, aliases(network, &service.addresses), Box::default())
    }

    pub fn policy(policy: &Policy) -> Self {
        Self::new(&policy.key, istio::AUTHORIZATION, istio::encode_policy(policy), Box::default(), Box::default())
    }

    pub fn route(route: &Route) -> Self {
        Self::new(&route.key, istio::ROUTE, istio::encode_route(route), Box::default(), Box::default())
    }

    fn new(
        name: &Arc<str>,
        type_url: &str,
        content: Vec<u8>,
        aliases: Box<[Box<str>]>,
        services: Box<[Arc<str>]>,
    ) -> Self {
        let version = Version::of(&content);
        let resource = Resource {
            version: version.to_string(),
            resource: Some(Any { type_url: type_url.to_owned(), value: content }),
            name: name.to_string(),
            aliases: aliases.iter().map(|alias| alias.to_string()).collect(),
        };
        let bytes = resource.encode_to_vec().into();
        Self { name: Arc::clone(name), content: Content { bytes, version, aliases, services } }
    }
}

impl Version {
    /// Of a quarter of a SHA-256: two states of one resource never have the same by chance.
    fn of(content: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, content);
        Self(digest.as_ref().iter().take(8).fold(0, |version, byte| version << 8 | u64::from(*byte)))
    }

    /// Whether a client has this one.
    pub fn is(self, text: &str) -> bool {
        text.len() == 16 && u64::from_str_radix(text, 16) == Ok(self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn aliases(network: &str, addresses: &[IpAddr]) -> Box<[Box<str>]> {
    addresses.iter().map(|address| istio::address_name(network, *address).into()).collect()
}

impl Catalog {
    /// The place of the last change; 0 before the first.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Whether a stream that has heard of everything up to `place` can be told what came after.
    pub fn reaches_back_to(&self, place: u64) -> bool {
        place >= self.floor
    }

    /// The resource of a name, if it is there.
    pub fn get(&self, name: &str) -> Option<(&Arc<Entry>, &Content)> {
        let entry = self.changes.get(self.places.get(name)?)?;
        Some((entry, entry.content.as_ref()?))
    }

    /// What changed after `place`, in order.
    pub fn after(&self, place: u64) -> impl Iterator<Item = &Arc<Entry>> {
        self.changes.range(place + 1..).map(|(_, entry)| entry)
    }

    /// What changed last at `place`, unless it has changed again.
    pub fn at(&self, place: u64) -> Option<&Arc<Entry>> {
        self.changes.get(&place)
    }

    /// All that is there.
    pub fn present(&self) -> impl Iterator<Item = (&Arc<Entry>, &Content)> {
        self.changes.values().filter_map(|entry| Some((entry, entry.content.as_ref()?)))
    }

    /// Names of the resources that answer to a name: the resource itself, or those that have the address.
    pub fn answering<'c>(&'c self, name: &'c str) -> impl Iterator<Item = &'c Arc<str>> {
        let itself = self.get(name).map(|(entry, _)| &entry.name);
        itself.into_iter().chain(self.by_alias.get(name).into_iter().flatten())
    }

    /// Names of the workloads that are endpoints of a service.
    pub fn members(&self, service: &str) -> impl Iterator<Item = &Arc<str>> {
        self.members.get(service).into_iter().flatten()
    }

    /// Adds a resource, or replaces the one of its name. One that is as it was is left where it was.
    pub fn put(&mut self, Encoded { name, content }: Encoded) {
        if self.get(&name).is_some_and(|(_, known)| known.bytes == content.bytes) {
            return;
        }
        self.forget(&name);
        for alias in &content.aliases {
            self.by_alias.entry(alias.clone()).or_default().push(Arc::clone(&name));
        }
        for service in &content.services {
            self.members.entry(Arc::clone(service)).or_default().insert(Arc::clone(&name));
        }
        self.append(name, Some(content));
    }

    /// Removes the resource of a name, if it is there.
    pub fn remove(&mut self, name: &str) {
        let Some(name) = self.get(name).map(|(entry, _)| Arc::clone(&entry.name)) else {
            return;
        };
        self.forget(&name);
        self.append(name, None);
        self.removals.push_back(self.head);
        if self.removals.len() > MAX_REMOVALS {
            self.drop_removals();
        }
    }

    fn append(&mut self, name: Arc<str>, content: Option<Content>) {
        self.head += 1;
        self.places.insert(Arc::clone(&name), self.head);
        self.changes.insert(self.head, Arc::new(Entry { name, place: self.head, content }));
    }

    /// Takes the last state of a name out of the order and of the indices.
    fn forget(&mut self, name: &str) {
        let Some(entry) = self.places.get(name).and_then(|place| self.changes.remove(place)) else {
            return;
        };
        let Some(content) = &entry.content else {
            return;
        };
        for alias in &content.aliases {
            if let Some(names) = self.by_alias.get_mut(alias) {
                names.retain(|other| **other != *name);
                if names.is_empty() {
                    self.by_alias.remove(alias);
                }
            }
        }
        for service in &content.services {
            if let Some(members) = self.members.get_mut(service) {
                members.remove(name);
                if members.is_empty() {
                    self.members.remove(service);
                }
            }
        }
    }

    /// Forgets the older half of the removals.
    fn drop_removals(&mut self) {
        for place in self.removals.drain(..MAX_REMOVALS / 2) {
            self.floor = place;
            if self.changes.get(&place).is_some_and(|entry| entry.content.is_none())
                && let Some(entry) = self.changes.remove(&place)
            {
                self.places.remove(&entry.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::istio::arbitrary;

    fn names<'c>(entries: impl Iterator<Item = &'c Arc<Entry>>) -> Vec<(String, bool)> {
        entries.map(|entry| (entry.name.to_string(), entry.content.is_some())).collect()
    }

    fn policy(name: &str, dry_run: bool) -> Encoded {
        let (scope, action) = (weft_model::PolicyScope::Mesh, weft_model::Action::Deny);
        let key = format!("a/{name}").into();
        Encoded::policy(&Policy { key, namespace: "a".into(), scope, action, dry_run, rules: Vec::new() })
    }

    #[test]
    fn what_changed_often_is_told_once_and_last() {
        let mut catalog = Catalog::default();
        for name in ["x", "y", "z"] {
            catalog.put(policy(name, false));
        }
        let place = catalog.head();
        for round in 0..10 {
            catalog.put(policy("x", round % 2 == 0));
        }
        catalog.remove("a/y");
        assert_eq!(names(catalog.after(place)), [("a/x".to_owned(), true), ("a/y".to_owned(), false)]);
        assert_eq!(names(catalog.after(0)).len(), 3);
        assert_eq!(catalog.present().count(), 2);
    }

    #[test]
    fn what_is_put_unchanged_changes_nothing() {
        let mut catalog = Catalog::default();
        catalog.put(policy("x", false));
        let head = catalog.head();
        catalog.put(policy("x", false));
        catalog.remove("a/none");
        assert_eq!(catalog.head(), head);
    }

    #[test]
    fn resources_are_found_by_address_and_services_by_their_endpoints() {
        let mut rng = Rng::with_seed(3);
        let mut catalog = Catalog::default();
        let mut workload = arbitrary::workload(&mut rng);
        workload.is_host_network = false;
        workload.network = "".into();
        workload.addresses = vec!["10.0.0.1".parse().expect("an address"), "fd00::1".parse().expect("an address")];
        workload.services.truncate(0);
        workload.services.push(weft_model::Membership {
            service: "a/s".into(),
            ports: Vec::new(),
            condition: weft_model::EndpointCondition::Ready,
            waypoint: None,
        });
        catalog.put(Encoded::workload(&workload, "net"));
        for name in ["net/10.0.0.1", "net/fd00::1", &*workload.uid] {
            assert_eq!(catalog.answering(name).collect::<Vec<_>>(), [&workload.uid], "{name}");
        }
        assert_eq!(catalog.members("a/s").collect::<Vec<_>>(), [&workload.uid]);
        catalog.remove(&workload.uid);
        assert_eq!(catalog.answering("net/10.0.0.1").count() + catalog.members("a/s").count(), 0);
        assert!(catalog.by_alias.is_empty() && catalog.members.is_empty());
    }

    #[test]
    fn removals_are_remembered_up_to_a_number() {
        let mut catalog = Catalog::default();
        let start = catalog.head();
        for number in 0..=MAX_REMOVALS {
            let name = number.to_string();
            catalog.put(policy(&name, false));
            catalog.remove(&format!("a/{name}"));
        }
        assert!(!catalog.reaches_back_to(start));
        assert!(catalog.reaches_back_to(catalog.head()));
        assert_eq!(catalog.changes.len(), MAX_REMOVALS / 2 + 1);
        assert_eq!(catalog.places.len(), catalog.changes.len());
    }
}
