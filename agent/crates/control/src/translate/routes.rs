//! Routes, and what became of them.
//!
//! A route is looked at again when it, or something that it refers to, has changed; only what differs from what was
//! said before is said.

mod attach;
mod backends;
mod gateways;
mod verdict;

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use hashbrown::HashMap;
pub use verdict::StatusChange;
pub(crate) use verdict::{Condition, ListenerVerdict, ParentVerdict, Said, Verdict};
use weft_route::{Route, RouteChange, RouteKind};

use super::Translator;
use crate::object::{BackendRef, FilterObject, Kind, ObjectId, RouteObject};

/// All routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    all: std::collections::BTreeMap<ObjectId, RouteState>,
    /// Those that refer to a service, by its namespace and name.
    by_service: HashMap<(Arc<str>, Arc<str>), BTreeSet<ObjectId>>,
    touched: BTreeSet<ObjectId>,
    removals: Vec<RouteChange>,
    statuses: Vec<StatusChange>,
}

/// One route.
#[derive(Debug)]
pub(crate) struct RouteState {
    pub object: RouteObject,
    /// As it was said last.
    pub published: Option<Arc<Route>>,
    pub verdict: Option<Arc<Verdict>>,
}

impl Routes {
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectId, &RouteState)> {
        self.all.iter()
    }

    /// Those that refer to a service are looked at again.
    pub fn touch_service(&mut self, (namespace, name): (&Arc<str>, &Arc<str>)) {
        if self.by_service.is_empty() {
            return;
        }
        let concerned = self.by_service.get(&(Arc::clone(namespace), Arc::clone(name)));
        self.touched.extend(concerned.into_iter().flatten().cloned());
    }

    /// Those that are attached to Gateways are looked at again.
    pub fn touch_of_gateways(&mut self) {
        self.touch_where(|route| route.parents.iter().any(|parent| parent.is_gateway()));
    }

    /// Those that refer to other namespaces are looked at again.
    pub fn touch_abroad(&mut self) {
        self.touch_where(|route| {
            backends(route).any(|backend| backend.namespace.as_ref().is_some_and(|other| *other != route.namespace))
        });
    }

    fn touch_where(&mut self, is_concerned: impl Fn(&RouteObject) -> bool) {
        let concerned = self.all.iter().filter(|(_, state)| is_concerned(&state.object)).map(|(id, _)| id.clone());
        self.touched.extend(concerned);
    }

    fn index(&mut self, id: &ObjectId, object: &RouteObject) {
        for service in services(object) {
            self.by_service.entry(service).or_default().insert(id.clone());
        }
    }

    fn forget(&mut self, id: &ObjectId, object: &RouteObject) {
        for service in services(object) {
            if let Some(routes) = self.by_service.get_mut(&service) {
                routes.remove(id);
                if routes.is_empty() {
                    self.by_service.remove(&service);
                }
            }
        }
    }
}

impl Translator {
    pub(crate) fn put_route(&mut self, object: RouteObject) {
        let id = object.id();
        match self.routes.all.get_mut(&id) {
            Some(state) if state.object == object => return,
            Some(state) => {
                let old = mem::replace(&mut state.object, object.clone());
                self.routes.forget(&id, &old);
            }
            None => {
                *self.route_count(id.kind) += 1;
                let state = RouteState { object: object.clone(), published: None, verdict: None };
                self.routes.all.insert(id.clone(), state);
            }
        }
        self.routes.index(&id, &object);
        self.routes.touched.insert(id);
    }

    pub(crate) fn remove_route(&mut self, id: &ObjectId) {
        let Some(state) = self.routes.all.remove(id) else { return };
        *self.route_count(id.kind) -= 1;
        self.routes.forget(id, &state.object);
        self.routes.touched.remove(id);
        if let Some(published) = state.published {
            self.routes.removals.push(RouteChange::Remove(Arc::clone(&published.key)));
        }
        self.routes.statuses.push(StatusChange { object: id.clone(), verdict: None });
        self.gateways_are_stale = true;
    }

    fn route_count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::GrpcRoute => &mut self.counts.grpc_routes,
            Kind::TlsRoute => &mut self.counts.tls_routes,
            Kind::TcpRoute => &mut self.counts.tcp_routes,
            _ => &mut self.counts.http_routes,
        }
    }

    /// What changed of the routes since the last time. To be asked for behind [`Self::flush`].
    pub fn flush_routes(&mut self) -> Vec<RouteChange> {
        let mut changes = mem::take(&mut self.routes.removals);
        for id in mem::take(&mut self.routes.touched) {
            let Some(state) = self.routes.all.get(&id) else { continue };
            let (route, verdict) = self.judge(&state.object);
            let key = route.as_ref().map(|route| Arc::clone(&route.key));
            let Some(state) = self.routes.all.get_mut(&id) else { continue };
            if state.verdict.as_deref() != Some(&verdict) {
                let verdict = Arc::new(verdict);
                state.verdict = Some(Arc::clone(&verdict));
                self.routes.statuses.push(StatusChange { object: id, verdict: Some(verdict) });
                self.gateways_are_stale = true;
            }
            if state.published.as_deref() == route.as_ref() {
                continue;
            }
            let before = mem::replace(&mut state.published, route.map(Arc::new));
            match (&state.published, before, key) {
                (Some(route), ..) => changes.push(RouteChange::Put(Arc::clone(route))),
                (None, Some(before), _) => changes.push(RouteChange::Remove(Arc::clone(&before.key))),
                (None, None, _) => {}
            }
        }
        changes
    }

    /// What is to be said in the statuses of routes, Gateways and their classes, where it changed since the last time. To
    /// be asked for behind [`Self::flush_routes`].
    pub fn flush_statuses(&mut self) -> Vec<StatusChange> {
        let mut changes = mem::take(&mut self.routes.statuses);
        if mem::take(&mut self.gateways_are_stale) {
            let verdicts = self.judge_gateways();
            for (id, verdict) in &verdicts {
                if self.gateway_verdicts.get(id) != Some(verdict) {
                    changes.push(StatusChange { object: id.clone(), verdict: Some(Arc::clone(verdict)) });
                }
            }
            let gone = self.gateway_verdicts.keys().filter(|id| !verdicts.contains_key(*id));
            changes.extend(gone.map(|id| StatusChange { object: id.clone(), verdict: None }));
            self.gateway_verdicts = verdicts;
        }
        changes
    }
}

/// All backends that a route names, those of mirrors as well.
pub(crate) fn backends(route: &RouteObject) -> impl Iterator<Item = &BackendRef> {
    route.rules.iter().flat_map(|rule| {
        let of_backends = rule.backends.iter().flat_map(|backend| mirrors(&backend.filters));
        rule.backends.iter().chain(mirrors(&rule.filters)).chain(of_backends)
    })
}

fn mirrors(filters: &[FilterObject]) -> impl Iterator<Item = &BackendRef> {
    filters.iter().filter_map(|filter| match filter {
        FilterObject::Mirror { backend, .. } => Some(backend),
        FilterObject::Plain(_) => None,
    })
}

/// The services that a route refers to.
fn services(route: &RouteObject) -> Vec<(Arc<str>, Arc<str>)> {
    let named = |namespace: &Option<Arc<str>>, name: &Arc<str>| {
        (Arc::clone(namespace.as_ref().unwrap_or(&route.namespace)), Arc::clone(name))
    };
    let parents = route.parents.iter().filter(|parent| parent.is_service());
    let parents = parents.map(|parent| named(&parent.namespace, &parent.name));
    parents.chain(backends(route).map(|backend| named(&backend.namespace, &backend.name))).collect()
}

/// What a route is known by.
fn key(route: &RouteObject) -> Arc<str> {
    format!("{}/{}/{}", RouteObject::object_kind(route.kind), route.namespace, route.name).into()
}

/// Whether requests, and not bytes, are what a kind of routes is about.
fn is_layer_7(kind: RouteKind) -> bool {
    matches!(kind, RouteKind::Http | RouteKind::Grpc)
}
