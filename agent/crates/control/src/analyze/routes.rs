//! Mistakes about routes, and about who asks for which waypoint.

use std::sync::Arc;

use weft_route::{Filter, RouteKind};

use super::Analysis;
use crate::object::{FilterObject, Kind, RouteObject, RuleObject, ServiceKind, WaypointChoice};
use crate::problem::Notes;
use crate::translate::namespaces::NamespaceId;
use crate::translate::routes::RouteState;

/// The label that names a waypoint, as the field of an object.
const LABEL: &str = "metadata.labels[istio.io/use-waypoint]";

impl Analysis<'_> {
    pub(super) fn routes(&mut self) {
        let translator = self.translator;
        for (id, state) in translator.routes.iter() {
            self.about(id.kind, &id.namespace, &id.name, |notes| {
                attachment(state, notes);
                for (index, rule) in state.object.rules.iter().enumerate() {
                    if rule.fault.is_some() {
                        // It was noted when the route was read.
                        continue;
                    }
                    backends(translator, &state.object, index, rule, notes);
                    unreachable(&state.object, index, rule, notes);
                }
            });
        }
    }

    /// Waypoints that are asked for and are not there.
    pub(super) fn waypoints(&mut self) {
        let translator = self.translator;
        for (id, namespace) in translator.namespaces.iter() {
            if let Some(object) = &namespace.object {
                self.waypoint(id, &object.waypoint, (Kind::Namespace, &Arc::default(), &object.name));
            }
        }
        for (_, state) in translator.services.iter() {
            let service = &state.service;
            if service.kind == ServiceKind::External {
                continue;
            }
            self.waypoint(state.namespace, &service.waypoint, (Kind::Service, &service.namespace, &service.name));
            if service.may_bypass_waypoint {
                self.about(Kind::Service, &service.namespace, &service.name, |notes| {
                    notes.info(
                        "metadata.annotations[weft.dev/waypoint-bypass]",
                        "connections that do not pass the waypoint are taken, too: no route or policy of it holds for them",
                        "remove the annotation to have every connection pass the waypoint",
                    );
                });
            }
        }
        for (_, template) in translator.namespaces.templates.iter() {
            // Pods of one template say the same.
            let pod = template.pods.iter().map(|id| &translator.pods.get(*id).pod).min_by_key(|pod| &pod.name);
            if let Some(pod) = pod {
                let choice = &template.template.waypoint;
                self.waypoint(template.namespace, choice, (Kind::Pod, &pod.namespace, &pod.name));
            }
        }
    }

    fn waypoint(&mut self, home: NamespaceId, own: &WaypointChoice, object: (Kind, &Arc<str>, &Arc<str>)) {
        let WaypointChoice::Named { .. } = own else { return };
        let translator = self.translator;
        let Some(asked) = translator.asked(home, own) else { return };
        let (namespace, name) = (asked.namespace, asked.name);
        let gateway = translator.gateways.find(namespace, name);
        self.about(object.0, object.1, object.2, |notes| match gateway {
            None => notes.error(
                LABEL,
                format!("there is no Gateway {namespace}/{name}: connections are refused"),
                "correct the name, or add the Gateway",
            ),
            Some(gateway) if !translator.takes_from(gateway, home) => notes.error(
                LABEL,
                format!("the Gateway {namespace}/{name} does not allow this namespace: connections are refused"),
                "let its allowedRoutes.namespaces take this namespace",
            ),
            Some(gateway) if translator.gateways.is_ours(&gateway.class) && translator.ready_pods(gateway) == 0 => {
                notes.warning(
                    LABEL,
                    format!("no pod of the waypoint {namespace}/{name} is ready: connections are refused"),
                    "look why the pods of the waypoint are not there, or not ready",
                )
            }
            Some(_) => {}
        });
    }
}

/// What a route is attached to, if to anything.
fn attachment(state: &RouteState, notes: &mut Notes) {
    let object = &state.object;
    let Some(verdict) = &state.verdict else { return };
    let mut is_anywhere = false;
    for (index, verdict) in verdict.parents().iter().enumerate() {
        is_anywhere = true;
        let position = object.parents.iter().position(|parent| *parent == verdict.parent).unwrap_or(index);
        let field = format!("spec.parentRefs[{position}]");
        let Some(accepted) = verdict.conditions.iter().find(|condition| condition.kind == "Accepted") else { continue };
        match (accepted.is_true, accepted.reason) {
            // Rules that are not in force were noted when the route was read.
            (false, "UnsupportedValue" | "IncompatibleFilters") => {}
            (false, _) => notes.error(field, &*accepted.message, "correct the reference, or add what it names"),
            (true, _) if verdict.is_idle => {
                notes.warning(field, &*accepted.message, "label the service or its namespace");
            }
            (true, _) => {}
        }
    }
    if !is_anywhere && !object.parents.is_empty() {
        notes.warning(
            "spec.parentRefs",
            "names no Service, and no Gateway that is a waypoint here: the route is attached to nothing",
            "name a Service (group \"\"), or a Gateway of the class weft-waypoint",
        );
    }
}

fn backends(
    translator: &crate::translate::Translator,
    route: &RouteObject,
    index: usize,
    rule: &RuleObject,
    notes: &mut Notes,
) {
    let field = format!("spec.rules[{index}]");
    for (i, backend) in rule.backends.iter().enumerate() {
        if backend.fault.is_none()
            && let Err((_, message)) = translator.resolve(route, backend)
        {
            notes.error(
                format!("{field}.backendRefs[{i}]"),
                format!("{message}: its share of the requests is answered with 500"),
                "correct the reference, or add what it names",
            );
        }
    }
    for (i, filter) in rule.filters.iter().enumerate() {
        if let FilterObject::Mirror { backend, .. } = filter
            && let Err((_, message)) = translator.resolve(route, backend)
        {
            notes.error(
                format!("{field}.filters[{i}].requestMirror.backendRef"),
                format!("{message}: nothing is mirrored"),
                "correct the reference, or add what it names",
            );
        }
    }
    let is_redirect = |filter: &FilterObject| matches!(filter, FilterObject::Plain(Filter::Redirect(_)));
    let effect = match route.kind {
        RouteKind::Http | RouteKind::Grpc => "every request is answered with 500",
        RouteKind::Tls | RouteKind::Tcp => "every connection is refused",
    };
    if rule.backends.is_empty() && !rule.filters.iter().any(is_redirect) {
        notes.warning(format!("{field}.backendRefs"), format!("is empty: {effect}"), "name a Service and its port");
    } else if !rule.backends.is_empty() && rule.backends.iter().all(|backend| backend.weight == 0) {
        notes.error(
            format!("{field}.backendRefs"),
            format!("the weight of every backend is 0: {effect}"),
            "give a backend a weight",
        );
    }
}

/// Of rules with the same conditions the first counts.
fn unreachable(route: &RouteObject, index: usize, rule: &RuleObject, notes: &mut Notes) {
    let earlier = || route.rules[..index].iter().enumerate().filter(|(_, rule)| rule.fault.is_none());
    let taken = match rule.matches.is_empty() {
        // Without conditions a rule is for everything.
        true => earlier().find(|(_, other)| other.matches.is_empty()).map(|(other, _)| other),
        false => {
            let is_taken = |found| earlier().find(|(_, other)| other.matches.contains(found)).map(|(other, _)| other);
            let taken: Option<Vec<usize>> = rule.matches.iter().map(is_taken).collect();
            taken.and_then(|taken| taken.first().copied())
        }
    };
    if let Some(other) = taken {
        notes.warning(
            format!("spec.rules[{index}]"),
            format!("no request reaches this rule: rule {other} has the same conditions and comes first"),
            "give it conditions of its own, or remove it",
        );
    }
}
