//! The policies, found by what they apply to.

use std::sync::Arc;

use crate::policy::{Action, Policy, PolicyScope};
use crate::sharded::{Keyed, ShardedMap};

/// Policies by key, and those that apply without being referred to by where they apply.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    by_key: ShardedMap<Arc<Policy>>,
    mesh: Arc<Enforced>,
    by_namespace: ShardedMap<Arc<NamespacePolicies>>,
}

/// Policies that are enforced on the same workloads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Enforced {
    pub(crate) deny: Vec<Arc<Policy>>,
    pub(crate) allow: Vec<Arc<Policy>>,
}

#[derive(Clone, Debug)]
struct NamespacePolicies {
    namespace: Arc<str>,
    enforced: Enforced,
}

impl Keyed for Arc<Policy> {
    type Key = str;

    fn key(&self) -> &str {
        &self.key
    }
}

impl Keyed for Arc<NamespacePolicies> {
    type Key = str;

    fn key(&self) -> &str {
        &self.namespace
    }
}

impl Enforced {
    /// Of two policies that apply, the one of the lower key is named in a denial, whatever the order of arrival.
    fn add(&mut self, policy: &Arc<Policy>) {
        let list = self.list(policy.action);
        let index = list.partition_point(|other| other.key < policy.key);
        list.insert(index, Arc::clone(policy));
    }

    fn remove(&mut self, policy: &Policy) {
        self.list(policy.action).retain(|other| other.key != policy.key);
    }

    fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    fn list(&mut self, action: Action) -> &mut Vec<Arc<Policy>> {
        match action {
            Action::Allow => &mut self.allow,
            Action::Deny => &mut self.deny,
        }
    }
}

impl Policies {
    pub(crate) fn new() -> Self {
        Self { by_key: ShardedMap::new(6), mesh: Arc::default(), by_namespace: ShardedMap::new(6) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Policy>> {
        self.by_key.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_key.iter()
    }

    /// Those of the mesh.
    pub(crate) fn mesh(&self) -> &Enforced {
        &self.mesh
    }

    /// Those of a namespace.
    pub(crate) fn namespace(&self, namespace: &str) -> Option<&Enforced> {
        self.by_namespace.get(namespace).map(|policies| &policies.enforced)
    }

    /// Makes room for that many more.
    pub(crate) fn reserve(&mut self, additional: usize) {
        self.by_key.reserve(additional);
    }

    /// Whether a result of authorization may have changed.
    pub(crate) fn put(&mut self, policy: Policy, root_namespace: &str) -> bool {
        if self.by_key.get(&policy.key).is_some_and(|known| **known == policy) {
            return false;
        }
        let policy = Arc::new(policy);
        let before = self.by_key.insert(Arc::clone(&policy));
        if let Some(before) = &before {
            self.edit(before, root_namespace, |enforced| enforced.remove(before));
        }
        self.edit(&policy, root_namespace, |enforced| enforced.add(&policy));
        // A policy that is not enforced still changes something when it appears: who refers to it is denied no more.
        !(policy.dry_run && before.is_some_and(|before| before.dry_run))
    }

    /// Whether there was one.
    pub(crate) fn remove(&mut self, key: &str, root_namespace: &str) -> bool {
        let Some(policy) = self.by_key.remove(key) else {
            return false;
        };
        self.edit(&policy, root_namespace, |enforced| enforced.remove(&policy));
        true
    }

    /// Changes the list that a policy belongs to, if it is enforced on anyone who does not refer to it.
    fn edit(&mut self, policy: &Policy, root_namespace: &str, change: impl FnOnce(&mut Enforced)) {
        if policy.dry_run {
            return;
        }
        match policy.scope {
            PolicyScope::Workload => {}
            PolicyScope::Namespace if *policy.namespace != *root_namespace => {
                if self.by_namespace.get(&policy.namespace).is_none() {
                    let namespace = Arc::clone(&policy.namespace);
                    self.by_namespace.insert(Arc::new(NamespacePolicies { namespace, enforced: Enforced::default() }));
                }
                let entry = self.by_namespace.get_mut(&policy.namespace).expect("it was inserted above");
                let policies = Arc::make_mut(entry);
                change(&mut policies.enforced);
                if policies.enforced.is_empty() {
                    self.by_namespace.remove(&policy.namespace);
                }
            }
            PolicyScope::Mesh | PolicyScope::Namespace => change(Arc::make_mut(&mut self.mesh)),
        }
    }
}
