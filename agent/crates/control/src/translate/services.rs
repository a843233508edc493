//! Services.

use std::sync::Arc;

use weft_model::{Change, Service as ModelService, ServicePort as ModelPort, Waypoint};

use super::Translator;
use super::namespaces::{NamespaceId, TemplateId};
use super::slab::Id;
use crate::object::{PodTemplate, Service, ServiceKind};

pub(crate) type ServiceId = Id<ServiceState>;

/// One service.
#[derive(Debug)]
pub(crate) struct ServiceState {
    pub service: Service,
    /// `<namespace>/<hostname>`.
    pub key: Arc<str>,
    pub namespace: NamespaceId,
    /// Its waypoint, as it was published last.
    pub waypoint: Option<Arc<Waypoint>>,
    /// The model has it.
    is_published: bool,
}

impl ServiceState {
    /// Whether its selector matches pods of this template.
    pub fn selects(&self, template: &PodTemplate) -> bool {
        self.service.selector.as_ref().is_some_and(|selector| selector.matches(&template.labels, template.signature))
    }
}

impl Translator {
    pub(crate) fn put_service(&mut self, service: Service) {
        let namespace = self.namespace(&service.namespace);
        let known = self.namespaces[namespace].services.get(&service.name).copied();
        let id = match known {
            Some(id) if self.services[id].service == service => return,
            Some(id) => {
                // Endpoints are looked at as they were, and again as they will be.
                self.touch_service(id);
                if self.services[id].service.selector != service.selector {
                    self.deselect(id);
                }
                self.services[id].service = service;
                id
            }
            None => {
                let hostname = format!("{}.{}.svc.{}", service.name, service.namespace, self.options.cluster_domain);
                let name = Arc::clone(&service.name);
                let id = self.services.insert(ServiceState {
                    key: format!("{}/{hostname}", service.namespace).into(),
                    service,
                    namespace,
                    waypoint: None,
                    is_published: false,
                });
                self.namespaces[namespace].services.insert(name, id);
                self.counts.services += 1;
                id
            }
        };
        self.select(id);
        self.touch_service(id);
        self.touch_routes_of(id);
        self.pending.services.push(id);
    }

    /// Routes that refer to it are looked at again, and the Gateway that it may be the service of.
    fn touch_routes_of(&mut self, id: ServiceId) {
        let service = &self.services[id].service;
        self.gateways_are_stale |= self.gateways.find(&service.namespace, &service.name).is_some();
        self.routes.touch_service((&service.namespace, &service.name));
    }

    pub(crate) fn remove_service(&mut self, namespace: NamespaceId, name: &str) {
        let Some(id) = self.namespaces[namespace].services.remove(name) else {
            return;
        };
        self.touch_service(id);
        self.deselect(id);
        self.touch_routes_of(id);
        self.pending.services.retain(|other| *other != id);
        let state = self.services.remove(id);
        if state.is_published {
            self.pending.removals.push(Change::RemoveService(state.key));
        }
        self.counts.services -= 1;
    }

    /// All of its endpoints are looked at again.
    pub(crate) fn touch_service(&mut self, id: ServiceId) {
        let state = &self.services[id];
        let (namespace, name) = (state.namespace, Arc::clone(&state.service.name));
        let templates = self.namespaces[namespace].templates.values().copied();
        let selected: Vec<TemplateId> =
            templates.filter(|template| self.namespaces.templates[*template].services.contains(&id)).collect();
        selected.into_iter().for_each(|template| self.touch_template(template));
        self.touch_slices_of(namespace, &name);
    }

    /// Finds the templates that its selector matches.
    fn select(&mut self, id: ServiceId) {
        let state = &self.services[id];
        let templates: Vec<TemplateId> = self.namespaces[state.namespace].templates.values().copied().collect();
        for template in templates {
            let template = &mut self.namespaces.templates[template];
            if state.selects(&template.template) && !template.services.contains(&id) {
                template.services.push(id);
            }
        }
    }

    fn deselect(&mut self, id: ServiceId) {
        let namespace = self.services[id].namespace;
        let templates: Vec<TemplateId> = self.namespaces[namespace].templates.values().copied().collect();
        for template in templates {
            self.namespaces.templates[template].services.retain(|service| *service != id);
        }
    }

    pub(crate) fn publish_services(&mut self, changes: &mut Vec<Change>) {
        let mut pending = std::mem::take(&mut self.pending.services);
        pending.sort_unstable();
        pending.dedup();
        for id in pending {
            let waypoint = self.waypoint_of_service(&self.services[id]);
            if waypoint.as_ref() != self.services[id].waypoint.as_deref() {
                // Its endpoints say it, too.
                self.services[id].waypoint = waypoint.map(Arc::new);
                self.touch_service(id);
            }
            let state = &mut self.services[id];
            let is_wanted = state.service.kind != ServiceKind::External;
            if is_wanted {
                changes.push(Change::PutService(state.to_model()));
            } else if state.is_published {
                changes.push(Change::RemoveService(Arc::clone(&state.key)));
            }
            state.is_published = is_wanted;
        }
    }
}

impl ServiceState {
    fn to_model(&self) -> ModelService {
        let service = &self.service;
        let hostname = self.key.split_once('/').map_or(&*self.key, |(_, hostname)| hostname);
        ModelService {
            key: Arc::clone(&self.key),
            name: Arc::clone(&service.name),
            namespace: Arc::clone(&service.namespace),
            hostname: hostname.into(),
            addresses: service.addresses.to_vec(),
            ports: service
                .ports
                .iter()
                .map(|port| ModelPort {
                    port: port.port,
                    name: Arc::clone(&port.name),
                    app_protocol: port.app_protocol,
                })
                .collect(),
            session_affinity: service.session_affinity,
            internal_traffic_policy: service.internal_traffic_policy,
            traffic_distribution: service.traffic_distribution,
            publish_not_ready_addresses: service.publish_not_ready_addresses,
            subject_alt_names: Vec::new(),
            waypoint: self.waypoint.clone(),
        }
    }
}
