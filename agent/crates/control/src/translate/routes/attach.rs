//! What routes are attached to.

use std::sync::Arc;

use weft_route::{Hostname, Parent, ParentTarget, Route, RouteKind};

use super::super::Translator;
use super::backends::Unresolved;
use super::verdict::{Condition, ParentVerdict, Said, Verdict};
use super::{is_layer_7, key};
use crate::object::{Fault, GATEWAY_GROUP, Gateway, Listener, ParentRef, RouteObject, ServiceKind};

/// Where a route is attached, or why it is not: reason and words.
type Attachment = Result<Attached, (&'static str, String)>;

/// See [`Attachment`].
struct Attached {
    parent: Parent,
    /// Nothing applies it there.
    is_idle: bool,
    said: String,
}

impl Translator {
    /// A route as it is in force, unless nothing accepted it, and what is to be said of it.
    pub(super) fn judge(&self, object: &RouteObject) -> (Option<Route>, Verdict) {
        let mut unresolved: Unresolved = None;
        let rules = object.rules.iter().filter_map(|rule| self.rule(object, rule, &mut unresolved));
        let rules: Vec<_> = rules.collect();
        let faults: Vec<(usize, &Fault)> =
            object.rules.iter().enumerate().filter_map(|(i, rule)| Some((i, rule.fault.as_ref()?))).collect();
        let is_rejected = !faults.is_empty() && faults.len() == object.rules.len();
        let mut parents = Vec::new();
        let mut verdicts = Vec::new();
        for parent in &object.parents {
            let Some(attachment) = self.attach(object, parent) else { continue };
            let mut conditions = Vec::with_capacity(3);
            let mut idle = false;
            match attachment {
                Ok(Attached { parent: found, is_idle, said }) => {
                    idle = is_idle;
                    conditions.push(match faults.first().filter(|_| is_rejected) {
                        Some((_, fault)) => Condition::new("Accepted", false, fault.reason, words(&faults)),
                        None => Condition::new("Accepted", true, "Accepted", said),
                    });
                    if !parents.contains(&found) {
                        parents.push(found);
                    }
                }
                Err((reason, message)) => conditions.push(Condition::new("Accepted", false, reason, message)),
            }
            conditions.push(match &unresolved {
                None => Condition::new("ResolvedRefs", true, "ResolvedRefs", "all references lead somewhere"),
                Some((reason, message)) => {
                    let message = format!("{message}: its share of the requests is answered with 500");
                    Condition::new("ResolvedRefs", false, reason, message)
                }
            });
            if !is_rejected && !faults.is_empty() {
                conditions.push(Condition::new("PartiallyInvalid", true, "UnsupportedValue", words(&faults)));
            }
            verdicts.push(ParentVerdict { parent: parent.clone(), is_idle: idle, conditions });
        }
        // With all of its rules left out a route says nothing, and must not be taken for one that answers everything.
        let is_empty = rules.is_empty() && !object.rules.is_empty();
        let route = (!parents.is_empty() && !is_empty).then(|| Route {
            key: key(object),
            kind: object.kind,
            namespace: Arc::clone(&object.namespace),
            name: Arc::clone(&object.name),
            created: object.created,
            parents,
            hostnames: object.hostnames.to_vec(),
            rules,
        });
        (route, Verdict { generation: object.generation, said: Said::Route(verdicts) })
    }

    /// `None`: the parent is another controller's.
    fn attach(&self, route: &RouteObject, parent: &ParentRef) -> Option<Attachment> {
        if parent.is_service() {
            return Some(self.attach_to_service(route, parent));
        }
        let namespace = parent.namespace.as_ref().unwrap_or(&route.namespace);
        let gateway = parent.is_gateway().then(|| self.gateways.waypoint(namespace, &parent.name))??;
        Some(self.attach_to_gateway(route, parent, gateway))
    }

    fn attach_to_service(&self, route: &RouteObject, parent: &ParentRef) -> Attachment {
        let namespace = parent.namespace.as_ref().unwrap_or(&route.namespace);
        let name = &parent.name;
        let service = self.namespaces.find(namespace).and_then(|id| self.namespaces[id].services.get(name));
        let no_match = |message: String| ("NoMatchingParent", message);
        let Some(state) = service.map(|id| &self.services[*id]) else {
            return Err(no_match(format!("there is no Service {namespace}/{name}")));
        };
        let service = &state.service;
        if service.kind == ServiceKind::External {
            return Err(no_match(format!("the Service {namespace}/{name} is an alias (ExternalName)")));
        }
        let mut port = parent.port;
        if let Some(section) = &parent.section {
            let found = service.ports.iter().find(|known| known.name == *section);
            let found = found.filter(|found| port.is_none_or(|port| port == found.port));
            let Some(found) = found else {
                return Err(no_match(format!("the Service {namespace}/{name} has no such port named '{section}'")));
            };
            port = Some(found.port);
        }
        if let Some(port) = port.filter(|port| !service.ports.iter().any(|known| known.port == *port)) {
            return Err(no_match(format!("the Service {namespace}/{name} has no TCP port {port}")));
        }
        let is_consumers = *namespace != route.namespace;
        let waypoint = self.waypoint_of_service(state);
        let is_idle = waypoint.is_none();
        let said = match (waypoint, is_consumers) {
            (None, _) => format!(
                "attached; but the Service {namespace}/{name} has no waypoint: nothing applies the route until the label \
                 istio.io/use-waypoint names one"
            ),
            (Some(_), true) => format!("attached, for the clients in the namespace {}", route.namespace),
            (Some(_), false) => "attached".to_owned(),
        };
        let consumer = is_consumers.then(|| Arc::clone(&route.namespace));
        let parent = Parent { target: ParentTarget::Service(Arc::clone(&state.key)), port, consumer };
        Ok(Attached { parent, is_idle, said })
    }

    fn attach_to_gateway(&self, route: &RouteObject, parent: &ParentRef, gateway: &Gateway) -> Attachment {
        let Gateway { namespace, name, .. } = gateway;
        let is_meant = |listener: &&Listener| {
            parent.section.as_ref().is_none_or(|section| *section == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        };
        let meant: Vec<&Listener> = gateway.listeners.iter().filter(is_meant).collect();
        if meant.is_empty() {
            let message = format!("the Gateway {namespace}/{name} has no such listener");
            return Err(("NoMatchingParent", message));
        }
        let allowed: Vec<&Listener> =
            meant.into_iter().filter(|listener| self.allows(gateway, listener, route)).collect();
        if allowed.is_empty() {
            let kind = RouteObject::object_kind(route.kind);
            let message = format!(
                "no listener of the Gateway {namespace}/{name} allows a {kind} of the namespace {}: see its allowedRoutes",
                route.namespace
            );
            return Err(("NotAllowedByListeners", message));
        }
        let has_host = |listener: &&Listener| meet(listener.hostname.as_ref(), &route.hostnames);
        if route.kind != RouteKind::Tcp && !allowed.iter().any(has_host) {
            let message = format!("no listener of the Gateway {namespace}/{name} has any of the route's host names");
            return Err(("NoMatchingListenerHostname", message));
        }
        let target = ParentTarget::Gateway(format!("{namespace}/{name}").into());
        let parent = Parent { target, port: None, consumer: None };
        Ok(Attached { parent, is_idle: false, said: "attached".to_owned() })
    }

    /// Whether a listener lets a route attach, by its namespace and kind.
    pub(super) fn allows(&self, gateway: &Gateway, listener: &Listener, route: &RouteObject) -> bool {
        let kind = RouteObject::object_kind(route.kind).name();
        let takes_kind = listener
            .kinds
            .as_ref()
            .is_none_or(|kinds| kinds.iter().any(|(group, name)| **group == *GATEWAY_GROUP && **name == *kind));
        takes_kind && self.listener_takes(gateway, listener, &route.namespace)
    }

    /// Whether a listener has an accepted route.
    pub(super) fn is_attached(&self, gateway: &Gateway, listener: &Listener, route: &RouteObject) -> bool {
        route.parents.iter().any(|parent| {
            let namespace = parent.namespace.as_ref().unwrap_or(&route.namespace);
            parent.is_gateway()
                && *namespace == gateway.namespace
                && parent.name == gateway.name
                && parent.section.as_ref().is_none_or(|section| *section == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
                && self.allows(gateway, listener, route)
                && (!is_layer_7(route.kind) || meet(listener.hostname.as_ref(), &route.hostnames))
        })
    }
}

/// Whether a listener's host name and those of a route have any host in common.
fn meet(listener: Option<&Hostname>, route: &[Hostname]) -> bool {
    let is_below = |name: &str, domain: &str| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let Some(listener) = listener.filter(|_| !route.is_empty()) else { return true };
    route.iter().any(|name| match (listener, name) {
        (Hostname::Exact(a), Hostname::Exact(b)) => a == b,
        (Hostname::Below(domain), Hostname::Exact(name)) | (Hostname::Exact(name), Hostname::Below(domain)) => {
            is_below(name, domain)
        }
        (Hostname::Below(a), Hostname::Below(b)) => a == b || is_below(a, b) || is_below(b, a),
    })
}

/// What of a route is not in force, in the form that the specification asks for.
fn words(faults: &[(usize, &Fault)]) -> String {
    let faults = faults.iter().map(|(index, fault)| {
        let effect = if fault.is_dropped { "left out" } else { "answers with 500" };
        format!("rule {index} ({effect}): {}", fault.message)
    });
    format!("Dropped Rule: {}", faults.collect::<Vec<_>>().join("; "))
}
