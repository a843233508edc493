//! PeerAuthentications for whole namespaces: of several for one namespace only the oldest is in force.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube::api::DynamicObject;

use crate::object::ObjectId;

/// Those that there are, by namespace and name. A namespace has one as a rule.
#[derive(Default)]
pub(super) struct Wide(HashMap<Arc<str>, BTreeMap<Arc<str>, DynamicObject>>);

impl Wide {
    /// Notes one.
    pub fn put(&mut self, id: &ObjectId, object: DynamicObject) {
        self.0.entry(Arc::clone(&id.namespace)).or_default().insert(Arc::clone(&id.name), object);
    }

    /// Forgets one, and says whether it was one.
    pub fn remove(&mut self, id: &ObjectId) -> bool {
        let Some(all) = self.0.get_mut(&id.namespace) else { return false };
        let was_one = all.remove(&id.name).is_some();
        if all.is_empty() {
            self.0.remove(&id.namespace);
        }
        was_one
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The name of the one that is in force in place of this one, as the translation has it.
    pub fn senior_of(&self, id: &ObjectId) -> Option<Arc<str>> {
        let all = self.0.get(&id.namespace)?;
        let oldest = all.iter().min_by_key(|(name, object)| {
            let created = &object.metadata.creation_timestamp;
            (created.is_none(), created.clone(), Arc::clone(name))
        });
        oldest.map(|(name, _)| Arc::clone(name)).filter(|oldest| *oldest != id.name && all.contains_key(&id.name))
    }

    /// The others of the same namespace.
    pub fn others(&self, id: &ObjectId) -> Vec<DynamicObject> {
        let all = self.0.get(&id.namespace).into_iter().flatten();
        all.filter(|(name, _)| **name != id.name).map(|(_, object)| object.clone()).collect()
    }
}
