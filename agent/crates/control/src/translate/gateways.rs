//! Gateways, and which of them is whose waypoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use weft_model::{Waypoint, WaypointTarget};

use super::Translator;
use super::namespaces::{NamespaceId, TemplateId};
use super::pods::PodState;
use super::services::{ServiceId, ServiceState};
use crate::object::{
    AllowedNamespaces, CONTROLLER_NAME, GATEWAY_NAME, Gateway, GatewayClass, HBONE, HBONE_PORT, Listener,
    ReferenceGrant, WAYPOINT_CLASS, WaypointChoice, WaypointFor,
};

/// All Gateways, their classes, and what lets routes refer to other namespaces. They are few.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    by_namespace: HashMap<Arc<str>, BTreeMap<Arc<str>, Gateway>>,
    pub classes: BTreeMap<Arc<str>, GatewayClass>,
    grants: HashMap<Arc<str>, BTreeMap<Arc<str>, ReferenceGrant>>,
}

/// Which waypoint an object asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked<'t> {
    pub namespace: &'t Arc<str>,
    pub name: &'t Arc<str>,
    /// It asks for it itself, and not its namespace for all.
    pub is_own: bool,
}

impl Gateways {
    pub fn find(&self, namespace: &str, name: &str) -> Option<&Gateway> {
        self.by_namespace.get(namespace)?.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Gateway> {
        self.by_namespace.values().flat_map(BTreeMap::values)
    }

    /// Whether its Gateways are waypoints of Weft. Where nothing describes the class, its name says it.
    pub fn is_ours(&self, class: &str) -> bool {
        match self.classes.get(class) {
            Some(class) => *class.controller == *CONTROLLER_NAME,
            None => class == WAYPOINT_CLASS,
        }
    }

    /// The Gateway of this name, if it is a waypoint of Weft.
    pub fn waypoint(&self, namespace: &str, name: &str) -> Option<&Gateway> {
        self.find(namespace, name).filter(|gateway| self.is_ours(&gateway.class))
    }

    /// What a Gateway is a waypoint for: what it says, else its class, else services.
    pub fn waypoint_for(&self, gateway: &Gateway) -> WaypointFor {
        let of_class = || self.classes.get(&gateway.class)?.waypoint_for;
        gateway.waypoint_for.or_else(of_class).unwrap_or(WaypointFor::Service)
    }

    /// Whether a route of this kind and namespace may refer to a service of another namespace.
    pub fn lets(&self, route_kind: &str, route_namespace: &str, namespace: &str, service: &str) -> bool {
        let grants = self.grants.get(namespace).into_iter().flat_map(BTreeMap::values);
        grants.into_iter().any(|grant| grant.lets(route_kind, route_namespace, service))
    }
}

impl Translator {
    pub(crate) fn put_gateway(&mut self, gateway: Gateway) {
        let all = self.gateways.by_namespace.entry(Arc::clone(&gateway.namespace)).or_default();
        match all.insert(Arc::clone(&gateway.name), gateway.clone()) {
            Some(old) if old == gateway => return,
            Some(_) => {}
            None => self.counts.gateways += 1,
        }
        self.touch_gateway(&gateway.namespace, &gateway.name);
    }

    pub(crate) fn remove_gateway(&mut self, namespace: &str, name: &str) {
        let Some(all) = self.gateways.by_namespace.get_mut(namespace) else { return };
        if all.remove(name).is_none() {
            return;
        }
        if all.is_empty() {
            self.gateways.by_namespace.remove(namespace);
        }
        self.counts.gateways -= 1;
        self.touch_gateway(namespace, name);
    }

    pub(crate) fn put_gateway_class(&mut self, class: GatewayClass) {
        let name = Arc::clone(&class.name);
        match self.gateways.classes.insert(Arc::clone(&name), class) {
            Some(old) if self.gateways.classes[&name] == old => return,
            Some(_) => {}
            None => self.counts.gateway_classes += 1,
        }
        self.touch_class(&name);
    }

    pub(crate) fn remove_gateway_class(&mut self, name: &str) {
        if self.gateways.classes.remove(name).is_some() {
            self.counts.gateway_classes -= 1;
            self.touch_class(name);
        }
    }

    pub(crate) fn put_grant(&mut self, grant: ReferenceGrant) {
        let all = self.gateways.grants.entry(Arc::clone(&grant.namespace)).or_default();
        match all.insert(Arc::clone(&grant.name), grant.clone()) {
            Some(old) if old == grant => return,
            Some(_) => {}
            None => self.counts.reference_grants += 1,
        }
        self.routes.touch_abroad();
    }

    pub(crate) fn remove_grant(&mut self, namespace: &str, name: &str) {
        let Some(all) = self.gateways.grants.get_mut(namespace) else { return };
        if all.remove(name).is_none() {
            return;
        }
        if all.is_empty() {
            self.gateways.grants.remove(namespace);
        }
        self.counts.reference_grants -= 1;
        self.routes.touch_abroad();
    }

    fn touch_class(&mut self, class: &str) {
        let gateways = self.gateways.iter().filter(|gateway| *gateway.class == *class);
        let gateways: Vec<_> =
            gateways.map(|gateway| (Arc::clone(&gateway.namespace), Arc::clone(&gateway.name))).collect();
        gateways.iter().for_each(|(namespace, name)| self.touch_gateway(namespace, name));
        self.gateways_are_stale = true;
    }

    /// Services and pods that ask for a Gateway are looked at again. Gateways change so seldom that no index pays.
    fn touch_gateway(&mut self, namespace: &str, name: &str) {
        let is_it = |asked: Asked<'_>| **asked.namespace == *namespace && **asked.name == *name;
        let services: Vec<ServiceId> = self.services.iter().map(|(id, _)| id).collect();
        for id in services {
            let state = &self.services[id];
            let is_its_own = *state.service.name == *name && *state.service.namespace == *namespace;
            if is_its_own || self.asked(state.namespace, &state.service.waypoint).is_some_and(is_it) {
                self.pending.services.push(id);
                self.routes.touch_service(namespace_name(state));
            }
        }
        let templates: Vec<TemplateId> = self.namespaces.templates.iter().map(|(id, _)| id).collect();
        for id in templates {
            let state = &self.namespaces.templates[id];
            if self.asked(state.namespace, &state.template.waypoint).is_some_and(is_it) {
                self.touch_template(id);
            }
        }
        self.routes.touch_of_gateways();
        self.gateways_are_stale = true;
    }

    /// The waypoint that an object of a namespace asks for, by itself or with the whole namespace.
    pub(crate) fn asked<'t>(&'t self, namespace: NamespaceId, own: &'t WaypointChoice) -> Option<Asked<'t>> {
        let home = &self.namespaces[namespace];
        let (choice, is_own) = match own {
            WaypointChoice::Unsaid => (&home.object.as_ref()?.waypoint, false),
            own => (own, true),
        };
        match choice {
            WaypointChoice::Unsaid | WaypointChoice::None => None,
            WaypointChoice::Named { namespace, name } => {
                Some(Asked { namespace: namespace.as_ref().unwrap_or(&home.name), name, is_own })
            }
        }
    }

    /// What connections to a service must pass.
    pub(crate) fn waypoint_of_service(&self, state: &ServiceState) -> Option<Waypoint> {
        let service = &state.service;
        let asked = self.asked(state.namespace, &service.waypoint)?;
        // A waypoint is reached without one; a service that is merely called like a Gateway is none.
        let is_itself = asked.namespace == &service.namespace && asked.name == &service.name;
        let selects_a_waypoint =
            service.selector.as_ref().is_some_and(|selector| selector.names(GATEWAY_NAME, &service.name));
        if is_itself || selects_a_waypoint && self.gateways.waypoint(&service.namespace, &service.name).is_some() {
            return None;
        }
        if let Some(gateway) = self.gateways.find(asked.namespace, asked.name)
            && !self.gateways.waypoint_for(gateway).takes_services()
        {
            return None;
        }
        Some(self.waypoint(asked, state.namespace, service.may_bypass_waypoint))
    }

    /// What connections to a pod by its own addresses must pass.
    pub(crate) fn waypoint_of_pod(&self, state: &PodState) -> Option<Waypoint> {
        let template = &state.pod.template;
        let asked = self.asked(state.namespace, &template.waypoint).filter(|_| !template.is_waypoint)?;
        match self.gateways.find(asked.namespace, asked.name) {
            Some(gateway) if !self.gateways.waypoint_for(gateway).takes_workloads() => return None,
            Some(_) => {}
            // By default a waypoint is for services; who asks for one on a pod means the pod.
            None if !asked.is_own => return None,
            None => {}
        }
        Some(self.waypoint(asked, state.namespace, state.pod.may_bypass_waypoint))
    }

    fn waypoint(&self, asked: Asked<'_>, home: NamespaceId, is_optional: bool) -> Waypoint {
        let Asked { namespace, name, .. } = asked;
        let gateway = self.gateways.find(namespace, name);
        let key = match gateway.is_none_or(|gateway| self.takes_from(gateway, home)) {
            // While the Gateway is missing nothing answers there, and connections are refused.
            true => format!("{namespace}/{name}.{namespace}.svc.{}", self.options.cluster_domain),
            // No service can have this name: connections are refused, and the refusal says why.
            false => format!("{namespace}/{name} (which does not allow the namespace {})", self.namespaces[home].name),
        };
        let key = weft_model::intern(&key);
        Waypoint { target: WaypointTarget::Service(key), port: HBONE_PORT, is_optional }
    }

    /// Whether objects of a namespace may use a Gateway as their waypoint.
    pub(crate) fn takes_from(&self, gateway: &Gateway, home: NamespaceId) -> bool {
        if *gateway.namespace == *self.namespaces[home].name {
            return true;
        }
        let is_mesh = |listener: &&Listener| *listener.protocol == *HBONE;
        let has_mesh = gateway.listeners.iter().any(|listener| is_mesh(&listener));
        let listeners = gateway.listeners.iter().filter(|listener| !has_mesh || is_mesh(listener));
        listeners.into_iter().any(|listener| self.listener_takes(gateway, listener, &self.namespaces[home].name))
    }

    /// Whether objects of a namespace may use a listener.
    pub(crate) fn listener_takes(&self, gateway: &Gateway, listener: &Listener, namespace: &str) -> bool {
        match &listener.from {
            AllowedNamespaces::Same => *gateway.namespace == *namespace,
            AllowedNamespaces::All => true,
            AllowedNamespaces::None => false,
            AllowedNamespaces::Selected(selector) => {
                let namespace = self.namespaces.find(namespace).and_then(|id| self.namespaces[id].object.as_ref());
                namespace.is_some_and(|namespace| selector.matches(&namespace.labels))
            }
        }
    }
}

fn namespace_name(state: &ServiceState) -> (&Arc<str>, &Arc<str>) {
    (&state.service.namespace, &state.service.name)
}
