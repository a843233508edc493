//! Namespaces, and the templates of their pods.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use weft_model::Identity;

use super::Translator;
use super::pods::PodId;
use super::services::ServiceId;
use super::slab::{Id, Slab};
use crate::object::{AuthorizationPolicy, Namespace, PeerAuthentication, PodTemplate};

pub(crate) type NamespaceId = Id<NamespaceState>;
pub(crate) type TemplateId = Id<TemplateState>;

/// All namespaces that any object names.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    slab: Slab<NamespaceState>,
    by_name: HashMap<Arc<str>, NamespaceId>,
    pub templates: Slab<TemplateState>,
}

/// What lives in one namespace.
#[derive(Debug, Default)]
pub(crate) struct NamespaceState {
    pub name: Arc<str>,
    /// The object, if there is one.
    pub object: Option<Namespace>,
    pub accounts: HashSet<Arc<str>>,
    /// Identities of its pods, by service account.
    pub identities: HashMap<Arc<str>, Identity>,
    pub templates: HashMap<TemplateKey, TemplateId>,
    pub services: HashMap<Arc<str>, ServiceId>,
    pub authorization: BTreeMap<Arc<str>, AuthorizationPolicy>,
    /// Keys of the policies that name a service as their target, by the service's name.
    pub policies_of_service: HashMap<Arc<str>, Vec<Arc<str>>>,
    pub peer_authentication: BTreeMap<Arc<str>, PeerAuthentication>,
    /// How many EndpointSlices it has.
    pub slices: usize,
}

/// Pods of one template in one namespace.
#[derive(Debug)]
pub(crate) struct TemplateState {
    pub template: Arc<PodTemplate>,
    pub namespace: NamespaceId,
    pub pods: Vec<PodId>,
    /// The services whose selectors match.
    pub services: Vec<ServiceId>,
    /// The policies that select it.
    pub policies: Vec<Arc<str>>,
    /// [`Self::policies`] must be looked for again.
    pub is_stale: bool,
}

/// A template by its address: equal ones are the same.
#[derive(Clone, Debug)]
pub(crate) struct TemplateKey(Arc<PodTemplate>);

impl PartialEq for TemplateKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TemplateKey {}

impl std::hash::Hash for TemplateKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Namespaces {
    pub fn find(&self, name: &str) -> Option<NamespaceId> {
        self.by_name.get(name).copied()
    }

    /// The namespace of this name; from now on it is known.
    pub fn enter(&mut self, name: &Arc<str>) -> NamespaceId {
        *self
            .by_name
            .entry_ref(name)
            .or_insert_with(|| self.slab.insert(NamespaceState { name: Arc::clone(name), ..NamespaceState::default() }))
    }

    pub fn iter(&self) -> impl Iterator<Item = (NamespaceId, &NamespaceState)> {
        self.slab.iter()
    }

    /// Forgets a namespace in which nothing is left.
    pub fn forget_if_empty(&mut self, id: NamespaceId) {
        let is_empty = self.slab.get(id).is_some_and(|state| {
            state.object.is_none()
                && state.accounts.is_empty()
                && state.templates.is_empty()
                && state.services.is_empty()
                && state.authorization.is_empty()
                && state.peer_authentication.is_empty()
                && state.slices == 0
        });
        if is_empty {
            let state = self.slab.remove(id);
            self.by_name.remove(&state.name);
        }
    }

    /// Where pods of this template stand.
    pub fn template(&mut self, namespace: NamespaceId, template: &Arc<PodTemplate>) -> Option<TemplateId> {
        self[namespace].templates.get(&TemplateKey(Arc::clone(template))).copied()
    }

    pub fn add_template(&mut self, state: TemplateState) -> TemplateId {
        let (namespace, key) = (state.namespace, TemplateKey(Arc::clone(&state.template)));
        let id = self.templates.insert(state);
        self[namespace].templates.insert(key, id);
        id
    }

    pub fn remove_template(&mut self, id: TemplateId) {
        let state = self.templates.remove(id);
        let namespace = &mut self[state.namespace];
        namespace.templates.remove(&TemplateKey(state.template));
    }
}

impl Index<NamespaceId> for Namespaces {
    type Output = NamespaceState;

    fn index(&self, id: NamespaceId) -> &NamespaceState {
        &self.slab[id]
    }
}

impl IndexMut<NamespaceId> for Namespaces {
    fn index_mut(&mut self, id: NamespaceId) -> &mut NamespaceState {
        &mut self.slab[id]
    }
}

impl Translator {
    pub(crate) fn put_namespace(&mut self, namespace: Namespace) {
        let id = self.namespace(&namespace.name);
        match self.namespaces[id].object.replace(namespace) {
            Some(old) if self.namespaces[id].object.as_ref() == Some(&old) => return,
            Some(_) => {}
            None => self.counts.namespaces += 1,
        }
        self.touch_namespace(id);
    }

    pub(crate) fn remove_namespace(&mut self, id: NamespaceId) {
        if self.namespaces[id].object.take().is_some() {
            self.counts.namespaces -= 1;
            self.touch_namespace(id);
        }
    }

    /// Its labels and locality count for all of its pods, services and routes.
    fn touch_namespace(&mut self, id: NamespaceId) {
        let services = self.namespaces[id].services.values().copied();
        let services: Vec<ServiceId> = services.collect();
        for service in services {
            let state = &self.services[service];
            self.routes.touch_service((&state.service.namespace, &state.service.name));
            self.pending.services.push(service);
        }
        // Listeners select namespaces by their labels.
        self.routes.touch_of_gateways();
        self.gateways_are_stale = true;
        let templates: Vec<TemplateId> = self.namespaces[id].templates.values().copied().collect();
        templates.into_iter().for_each(|template| self.touch_template(template));
    }

    /// All pods of a template are looked at again.
    pub(crate) fn touch_template(&mut self, id: TemplateId) {
        for i in 0..self.namespaces.templates[id].pods.len() {
            self.touch_pod(self.namespaces.templates[id].pods[i]);
        }
    }
}
