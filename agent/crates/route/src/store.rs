//! All routes, and the tables that were compiled of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::route::{Parent, ParentTarget, Route, RouteChange};
use crate::table::{Names, Table};

/// Where tables are kept apart: a route's parent, its port aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Site {
    target: ParentTarget,
    consumer: Option<Arc<str>>,
}

impl Site {
    fn of(parent: &Parent) -> Self {
        Self { target: parent.target.clone(), consumer: parent.consumer.clone() }
    }
}

/// All routes that a waypoint knows.
#[derive(Debug, Default)]
pub struct RouteStore {
    routes: HashMap<Arc<str>, Arc<Route>>,
    /// The keys of the routes at each site.
    sites: HashMap<Site, BTreeSet<Arc<str>>>,
    current: Arc<Routes>,
}

/// What requests and connections are looked up in: immutable, each batch of changes makes another.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    services: HashMap<Arc<str>, Service>,
    gateways: HashMap<Arc<str>, Arc<Table>>,
}

/// The tables of a service.
#[derive(Clone, Debug, Default)]
struct Service {
    own: Ports,
    /// By the namespace of the client.
    consumers: HashMap<Arc<str>, Ports>,
}

/// Tables by port.
#[derive(Clone, Debug, Default)]
struct Ports {
    /// Of ports that a route names; routes for all ports are in each of them, too.
    named: Vec<(u16, Arc<Table>)>,
    others: Option<Arc<Table>>,
}

impl Ports {
    fn get(&self, port: u16) -> Option<&Arc<Table>> {
        let named = self.named.iter().find(|(named, _)| *named == port).map(|(_, table)| table);
        named.or(self.others.as_ref())
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.others.is_none()
    }
}

impl Routes {
    /// The routes that are for a service's port. The first of these that there are: those of the client's own namespace
    /// (consumer routes), the service's, the waypoint's Gateway's. `None`: no route concerns it, requests go to the
    /// service itself.
    #[must_use]
    pub fn table(
        &self,
        service: &str,
        port: u16,
        gateway: Option<&str>,
        client_namespace: Option<&str>,
    ) -> Option<&Arc<Table>> {
        let of_service = self.services.get(service).and_then(|service| {
            let consumer = client_namespace.and_then(|namespace| service.consumers.get(namespace));
            consumer.and_then(|ports| ports.get(port)).or_else(|| service.own.get(port))
        });
        of_service.or_else(|| self.gateways.get(gateway?))
    }
}

impl RouteStore {
    /// A store without routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The routes as they are.
    #[must_use]
    pub fn current(&self) -> &Arc<Routes> {
        &self.current
    }

    /// Applies changes, and compiles anew the tables that they concern; the others are shared with what was before.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = RouteChange>) -> Arc<Routes> {
        let mut changed = HashSet::new();
        for change in changes {
            match change {
                RouteChange::Put(route) => {
                    if self.routes.get(&route.key).is_some_and(|known| *known == route) {
                        continue;
                    }
                    self.take_out(&route.key, &mut changed);
                    for site in route.parents.iter().map(Site::of) {
                        self.sites.entry(site.clone()).or_default().insert(Arc::clone(&route.key));
                        changed.insert(site);
                    }
                    self.routes.insert(Arc::clone(&route.key), route);
                }
                RouteChange::Remove(key) => self.take_out(&key, &mut changed),
            }
        }
        if !changed.is_empty() {
            let mut next = Routes::clone(&self.current);
            for site in changed {
                self.compile(site, &mut next);
            }
            self.current = Arc::new(next);
        }
        Arc::clone(&self.current)
    }

    fn take_out(&mut self, key: &str, changed: &mut HashSet<Site>) {
        let Some(route) = self.routes.remove(key) else { return };
        for site in route.parents.iter().map(Site::of) {
            if let Some(keys) = self.sites.get_mut(&site) {
                keys.remove(key);
                if keys.is_empty() {
                    self.sites.remove(&site);
                }
            }
            changed.insert(site);
        }
    }

    fn compile(&self, site: Site, next: &mut Routes) {
        let routes: Vec<&Arc<Route>> =
            self.sites.get(&site).into_iter().flatten().filter_map(|key| self.routes.get(key)).collect();
        let Site { target, consumer } = site;
        match target {
            ParentTarget::Gateway(gateway) => {
                // A waypoint's Gateway has one listener, whose port is that of the tunnels: it selects no service's.
                let routes: Vec<Arc<Route>> = routes.into_iter().map(Arc::clone).collect();
                match Table::compile(&routes, Names::Count) {
                    Some(table) => next.gateways.insert(gateway, Arc::new(table)),
                    None => next.gateways.remove(&gateway),
                };
            }
            ParentTarget::Service(key) => {
                let of_site = |parent: &&Parent| {
                    parent.consumer == consumer
                        && matches!(&parent.target, ParentTarget::Service(service) if *service == key)
                };
                let compiled = ports(&routes, of_site);
                let service = next.services.entry(Arc::clone(&key)).or_default();
                match consumer {
                    None => service.own = compiled,
                    Some(namespace) if compiled.is_empty() => drop(service.consumers.remove(&namespace)),
                    Some(namespace) => drop(service.consumers.insert(namespace, compiled)),
                }
                if service.own.is_empty() && service.consumers.is_empty() {
                    next.services.remove(&key);
                }
            }
        }
    }
}

/// Compiles the routes of one site, by the ports of those of their parents that are the site.
fn ports(routes: &[&Arc<Route>], of_site: impl Fn(&&Parent) -> bool) -> Ports {
    let parents = |route: &Route| route.parents.iter().filter(&of_site).map(|parent| parent.port).collect::<Vec<_>>();
    let routes: Vec<(&Arc<Route>, Vec<Option<u16>>)> = routes.iter().map(|route| (*route, parents(route))).collect();
    let with = |port: Option<u16>| {
        let is_for = |ports: &[Option<u16>]| ports.iter().any(|named| named.is_none() || *named == port);
        let here: Vec<Arc<Route>> =
            routes.iter().filter(|(_, ports)| is_for(ports)).map(|(route, _)| Arc::clone(route)).collect();
        Table::compile(&here, Names::AreIgnored).map(Arc::new)
    };
    let named: BTreeSet<u16> = routes.iter().flat_map(|(_, ports)| ports).flatten().copied().collect();
    let named = named.into_iter().filter_map(|port| Some((port, with(Some(port))?))).collect();
    Ports { named, others: with(None) }
}

#[cfg(test)]
mod tests;
