//! What routes refer to.

use std::sync::Arc;

use weft_route::{Backend, BackendTarget, Filter, Mirror, Rule};

use super::super::Translator;
use crate::object::{BackendRef, Fault, FilterObject, RouteObject, RuleObject, ServiceKind};

/// The first reference that leads nowhere: reason of a condition, and words.
pub(super) type Unresolved = Option<(&'static str, Arc<str>)>;

impl Translator {
    /// A rule as it is in force; `None`: it is left out.
    pub(super) fn rule(&self, route: &RouteObject, rule: &RuleObject, unresolved: &mut Unresolved) -> Option<Rule> {
        let mut found = Rule {
            name: rule.name.clone(),
            matches: rule.matches.clone(),
            server_names: match route.kind {
                weft_route::RouteKind::Tls => route.hostnames.to_vec(),
                _ => Vec::new(),
            },
            ..Rule::default()
        };
        // References of a rule that is not in force count as well: they are to be corrected, too.
        let filters = self.filters(route, &rule.filters, unresolved);
        let backends: Vec<Backend> = rule
            .backends
            .iter()
            .map(|backend| Backend {
                target: match &backend.fault {
                    Some(reason) => BackendTarget::Invalid { reason: Arc::clone(reason) },
                    None => self.target(route, backend, unresolved),
                },
                weight: backend.weight,
                filters: self.filters(route, &backend.filters, unresolved),
            })
            .collect();
        match &rule.fault {
            Some(Fault { is_dropped: true, .. }) => return None,
            Some(Fault { message, .. }) => {
                let target = BackendTarget::Invalid { reason: Arc::clone(message) };
                found.backends = vec![Backend { target, weight: 1, filters: Vec::new() }];
                return Some(found);
            }
            None => {}
        }
        found.filters = filters;
        found.backends = backends;
        found.timeouts = rule.timeouts;
        found.retry = rule.retry.clone();
        found.session = rule.session.clone();
        Some(found)
    }

    fn filters(&self, route: &RouteObject, filters: &[FilterObject], unresolved: &mut Unresolved) -> Vec<Filter> {
        let filters = filters.iter().map(|filter| match filter {
            FilterObject::Plain(filter) => filter.clone(),
            FilterObject::Mirror { backend, share } => {
                Filter::Mirror(Mirror { backend: self.target(route, backend, unresolved), share: *share })
            }
        });
        filters.collect()
    }

    fn target(&self, route: &RouteObject, backend: &BackendRef, unresolved: &mut Unresolved) -> BackendTarget {
        match self.resolve(route, backend) {
            Ok((key, port)) => BackendTarget::Service { key, port },
            Err((reason, message)) => {
                let message: Arc<str> = message.into();
                unresolved.get_or_insert_with(|| (reason, Arc::clone(&message)));
                BackendTarget::Invalid { reason: message }
            }
        }
    }

    /// The service and port that a route's reference leads to, or why it leads nowhere: reason of a condition, and words.
    pub(crate) fn resolve(
        &self,
        route: &RouteObject,
        backend: &BackendRef,
    ) -> Result<(Arc<str>, u16), (&'static str, String)> {
        let name = &backend.name;
        if (&*backend.group, &*backend.kind) != ("", "Service") {
            let BackendRef { group, kind, .. } = backend;
            return Err(("InvalidKind", format!("a {kind} of the group '{group}' cannot take requests here")));
        }
        let namespace = backend.namespace.as_ref().unwrap_or(&route.namespace);
        let kind = RouteObject::object_kind(route.kind).name();
        if *namespace != route.namespace && !self.gateways.lets(kind, &route.namespace, namespace, name) {
            let route_namespace = &route.namespace;
            let message = format!(
                "no ReferenceGrant in {namespace} lets a {kind} of {route_namespace} refer to the Service {name}"
            );
            return Err(("RefNotPermitted", message));
        }
        let service = self.namespaces.find(namespace).and_then(|id| self.namespaces[id].services.get(name));
        let Some(state) = service.map(|id| &self.services[*id]) else {
            return Err(("BackendNotFound", format!("there is no Service {namespace}/{name}")));
        };
        if state.service.kind == ServiceKind::External {
            let message = format!("the Service {namespace}/{name} is an alias (ExternalName) and has no endpoints");
            return Err(("UnsupportedProtocol", message));
        }
        match backend.port.filter(|port| state.service.ports.iter().any(|known| known.port == *port)) {
            Some(port) => Ok((Arc::clone(&state.key), port)),
            None => {
                let port = backend.port.unwrap_or_default();
                Err(("BackendNotFound", format!("the Service {namespace}/{name} has no TCP port {port}")))
            }
        }
    }
}
