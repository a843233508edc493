//! The trust bundle: the roots of the mesh in a ConfigMap of every namespace.
//!
//! Written by one controller at a time, and again whenever it is not as it should be: in a new namespace, where it was
//! changed or deleted, and everywhere when the roots change.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_of};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::{Failure, answered};
use crate::serve::{Signing, pem_of};
use crate::source::kubernetes::{Retries, at};

/// The ConfigMap.
const NAME: &str = "weft-ca-root-cert";
/// Where in it the roots are.
const KEY: &str = "root-cert.pem";
/// Who writes it, for the API server.
const WRITER: &str = "weft-controller";
/// Writes at one time.
const AT_ONCE: usize = 8;
/// The least time between two writes to one namespace: whoever always undoes them is not fought over.
const PAUSE: Duration = Duration::from_secs(1);
/// A write that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps the bundle in every namespace until it is dropped.
pub(super) async fn keep(client: Client, mut signing: Signing) {
    let mut bundles = Bundles::default();
    let maps: Api<ConfigMap> = Api::all(client.clone());
    let named = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut maps = pin!(watch_of(maps, named).backoff(Retries::default()));
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let mut namespaces = pin!(watch_of(namespaces, watcher::Config::default()).backoff(Retries::default()));
    let mut writes = JoinSet::new();
    let mut signer = None;
    let mut said = HashMap::new();
    loop {
        bundles.begin(|namespace, roots| {
            let client = client.clone();
            writes.spawn(async move {
                let written = write(client, &namespace, &roots).await;
                (namespace, roots, written)
            });
        });
        let next = bundles.next();
        tokio::select! {
            biased;
            () = signing.differs_from(signer.as_ref()) => {
                signer = signing.current().ok();
                if let Some(authority) = &signer {
                    bundles.want(pem_of(authority.roots()).into());
                }
            }
            Some((namespace, roots, written)) = join(&mut writes) => bundles.written(&namespace, &roots, written),
            Some(event) = namespaces.next() => match event {
                Ok(event) => { said.remove("namespaces"); bundles.namespace(event); }
                Err(error) => say(&mut said, "namespaces", &error),
            },
            Some(event) = maps.next() => match event {
                Ok(event) => { said.remove("configmaps"); bundles.map(event); }
                Err(error) => say(&mut said, "configmaps", &error),
            },
            () = at(next) => {}
        }
    }
}

/// The next write that has ended.
async fn join<T: 'static>(writes: &mut JoinSet<T>) -> Option<T> {
    match writes.join_next().await {
        Some(Ok(ended)) => Some(ended),
        // A write that panicked; its namespace waits for the next leader.
        Some(Err(_)) => None,
        None => std::future::pending().await,
    }
}

fn say(said: &mut HashMap<&'static str, String>, kind: &'static str, error: &watcher::Error) {
    let text = error.to_string();
    if said.get(kind) != Some(&text) {
        tracing::warn!(kind, error = text, "watching failed; the trust bundle is kept where it is known to be needed");
        said.insert(kind, text);
    }
}

/// Writes the ConfigMap of one namespace. By server-side apply, whoever else has written to it.
async fn write(client: Client, namespace: &str, roots: &str) -> Result<(), Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": NAME, "labels": { "app.kubernetes.io/managed-by": "weft" } },
        "data": { KEY: roots },
    });
    answered(maps.patch(NAME, &PatchParams::apply(WRITER).force(), &Patch::Apply(map))).await.map(drop)
}

/// Where the bundle is as it should be, and where not.
#[derive(Default)]
struct Bundles {
    /// What it should be, once that is known.
    roots: Option<Arc<str>>,
    /// The namespaces that there are, without those that are being removed.
    namespaces: HashMap<String, State>,
    /// What the ConfigMaps hold, by namespace: those that hold anything.
    held: HashMap<String, Arc<str>>,
    /// What the lists under way have named so far.
    listed: Lists,
    /// Namespaces to be written to, and from when on.
    due: BTreeSet<(Instant, String)>,
    under_way: usize,
    /// Nothing is begun before then: the API server is away, or wants to be left alone.
    open_at: Option<Instant>,
    /// The status of the failure that was said last, until a write succeeds: thousands of namespaces may fail alike.
    said: Option<u16>,
}

#[derive(Default)]
struct Lists {
    namespaces: Option<HashSet<String>>,
    maps: Option<HashSet<String>>,
    /// All namespaces, and all ConfigMaps, were listed once. Before, much would be written that is there already.
    are_namespaces_known: bool,
    are_maps_known: bool,
}

/// How it stands with one namespace.
#[derive(Clone, Copy)]
enum State {
    /// It is as it should be, and was last written then.
    Right(Option<Instant>),
    /// It is to be written.
    Due(Instant),
    /// It is being written; since it began something else was seen.
    UnderWay { is_stale: bool },
}

impl Bundles {
    /// The roots from now on.
    fn want(&mut self, roots: Arc<str>) {
        if self.roots.as_ref() != Some(&roots) {
            self.roots = Some(roots);
            self.look_at_all();
        }
    }

    fn look_at_all(&mut self) {
        let all: Vec<String> = self.namespaces.keys().cloned().collect();
        all.iter().for_each(|namespace| self.look(namespace));
    }

    /// Notes a namespace for writing, if its ConfigMap is not as it should be.
    fn look(&mut self, namespace: &str) {
        let Some(roots) = &self.roots else { return };
        let is_right = self.held.get(namespace) == Some(roots);
        let now = Instant::now();
        let Some(state) = self.namespaces.get_mut(namespace) else { return };
        match (*state, is_right) {
            (State::Right(_), true) | (State::Due(_), false) => {}
            (State::Right(written), false) => {
                let due = written.map_or(now, |written| (written + PAUSE).max(now));
                *state = State::Due(due);
                self.due.insert((due, namespace.to_owned()));
            }
            (State::Due(due), true) => {
                self.due.remove(&(due, namespace.to_owned()));
                *state = State::Right(None);
            }
            (State::UnderWay { .. }, _) => *state = State::UnderWay { is_stale: !is_right },
        }
    }

    fn namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        match event {
            Event::Init => self.listed.namespaces = Some(HashSet::new()),
            Event::InitApply(namespace) => {
                if let (Some(listed), Some(name)) = (&mut self.listed.namespaces, &namespace.metadata.name) {
                    listed.insert(name.clone());
                }
                self.put_namespace(namespace);
            }
            Event::InitDone => {
                let listed = self.listed.namespaces.take().unwrap_or_default();
                let gone: Vec<String> =
                    self.namespaces.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.forget(name));
                self.listed.are_namespaces_known = true;
            }
            Event::Apply(namespace) => self.put_namespace(namespace),
            Event::Delete(namespace) => self.forget(&namespace.metadata.name.unwrap_or_default()),
        }
    }

    fn put_namespace(&mut self, namespace: PartialObjectMeta<Namespace>) {
        let Some(name) = namespace.metadata.name else { return };
        if namespace.metadata.deletion_timestamp.is_some() {
            // Nothing can be made in it any more.
            return self.forget(&name);
        }
        self.namespaces.entry(name.clone()).or_insert(State::Right(None));
        self.look(&name);
    }

    fn forget(&mut self, name: &str) {
        if let Some(State::Due(due)) = self.namespaces.remove(name) {
            self.due.remove(&(due, name.to_owned()));
        }
    }

    fn map(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.listed.maps = Some(HashSet::new()),
            Event::InitApply(map) => {
                if let (Some(listed), Some(namespace)) = (&mut self.listed.maps, &map.metadata.namespace) {
                    listed.insert(namespace.clone());
                }
                self.put_map(map);
            }
            Event::InitDone => {
                let listed = self.listed.maps.take().unwrap_or_default();
                self.held.retain(|namespace, _| listed.contains(namespace));
                self.listed.are_maps_known = true;
                self.look_at_all();
            }
            Event::Apply(map) => self.put_map(map),
            Event::Delete(map) => {
                let namespace = map.metadata.namespace.unwrap_or_default();
                self.held.remove(&namespace);
                self.look(&namespace);
            }
        }
    }

    fn put_map(&mut self, map: ConfigMap) {
        let Some(namespace) = map.metadata.namespace else { return };
        let held = map.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default();
        // Thousands of namespaces hold the same text: it is kept once.
        let held = match &self.roots {
            Some(roots) if **roots == *held => Arc::clone(roots),
            _ => held.into(),
        };
        self.held.insert(namespace.clone(), held);
        self.look(&namespace);
    }

    /// Begins what is due, as far as there is room.
    fn begin(&mut self, mut write: impl FnMut(String, Arc<str>)) {
        let Some(roots) = &self.roots else { return };
        if !(self.listed.are_namespaces_known && self.listed.are_maps_known) {
            return;
        }
        let now = Instant::now();
        if self.open_at.is_some_and(|open_at| open_at > now) {
            return;
        }
        while self.under_way < AT_ONCE && self.due.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, namespace)) = self.due.pop_first() else { return };
            if let Some(state) = self.namespaces.get_mut(&namespace) {
                *state = State::UnderWay { is_stale: false };
                self.under_way += 1;
                write(namespace, Arc::clone(roots));
            }
        }
    }

    /// When there is something to begin, if nothing else happens.
    fn next(&self) -> Option<Instant> {
        let is_open = self.listed.are_namespaces_known && self.listed.are_maps_known && self.under_way < AT_ONCE;
        let first = self.due.first().filter(|_| is_open && self.roots.is_some());
        first.map(|(due, _)| self.open_at.map_or(*due, |open_at| open_at.max(*due)))
    }

    /// Notes how a write has ended.
    fn written(&mut self, namespace: &str, roots: &Arc<str>, written: Result<(), Failure>) {
        self.under_way -= 1;
        let now = Instant::now();
        // It may have been removed meanwhile, and made anew.
        let Some(state) = self.namespaces.get_mut(namespace) else { return };
        let State::UnderWay { is_stale } = *state else { return };
        match written {
            Ok(()) => {
                self.said = None;
                *state = State::Right(Some(now));
                if is_stale || self.roots.as_ref() != Some(roots) {
                    self.look(namespace);
                } else {
                    // The watch says so later; until then it must not be taken for wrong.
                    self.held.insert(namespace.to_owned(), Arc::clone(roots));
                }
            }
            Err(failure) => {
                let error = failure.text;
                let is_leaving = failure.code == 404 || error.contains("is being terminated");
                let hint = match failure.code {
                    403 => "Its ClusterRole must allow create and patch of this ConfigMap",
                    _ => "Trying again",
                };
                if is_leaving {
                    tracing::debug!(namespace, error, "a namespace that is being removed gets no trust bundle");
                } else if self.said.replace(failure.code) == Some(failure.code) {
                    tracing::debug!(namespace, error, "the trust bundle could not be written here either");
                } else {
                    tracing::warn!(namespace, error, "the trust bundle could not be written. {hint}");
                }
                if matches!(failure.code, 0 | 429 | 500..) {
                    self.open_at = Some(now + PAUSE);
                }
                *state = State::Due(now + RETRY);
                self.due.insert((now + RETRY, namespace.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
