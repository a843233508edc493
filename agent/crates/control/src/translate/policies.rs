//! AuthorizationPolicies, and which of them select which pods.

use std::sync::Arc;

use weft_model::{Change, Policy, PolicyScope};

use super::Translator;
use super::namespaces::{NamespaceId, TemplateId};
use crate::object::{AuthorizationPolicy, PolicyTarget, Selector};

impl Translator {
    pub(crate) fn put_policy(&mut self, policy: AuthorizationPolicy) {
        let namespace = self.namespace(&policy.namespace);
        let name = Arc::clone(&policy.name);
        if self.namespaces[namespace].authorization.get(&name) == Some(&policy) {
            return;
        }
        let key = key(&policy);
        match self.namespaces[namespace].authorization.remove(&name) {
            Some(old) => self.drop_policy(namespace, &old, policy.target == PolicyTarget::Nothing),
            None => self.counts.authorization_policies += 1,
        }
        self.touch_target(namespace, &policy.target);
        if let PolicyTarget::Services(services) = &policy.target {
            for service in services {
                let keys = self.namespaces[namespace].policies_of_service.entry(Arc::clone(service)).or_default();
                keys.push(Arc::clone(&key));
            }
        }
        if policy.target != PolicyTarget::Nothing {
            self.pending.policies.push(Change::PutPolicy(Policy {
                key,
                namespace: Arc::clone(&policy.namespace),
                scope: match &policy.target {
                    PolicyTarget::Namespace if self.is_root(namespace) => PolicyScope::Mesh,
                    PolicyTarget::Namespace => PolicyScope::Namespace,
                    _ => PolicyScope::Workload,
                },
                action: policy.action,
                dry_run: policy.is_dry_run,
                rules: policy.rules.clone(),
            }));
        }
        self.namespaces[namespace].authorization.insert(name, policy);
    }

    pub(crate) fn remove_policy(&mut self, namespace: NamespaceId, name: &str) {
        if let Some(old) = self.namespaces[namespace].authorization.remove(name) {
            self.counts.authorization_policies -= 1;
            self.drop_policy(namespace, &old, true);
        }
    }

    /// Undoes what a policy did. `from_model`: nothing takes its place there.
    fn drop_policy(&mut self, namespace: NamespaceId, old: &AuthorizationPolicy, from_model: bool) {
        let key = key(old);
        self.touch_target(namespace, &old.target);
        if let PolicyTarget::Services(services) = &old.target {
            let by_service = &mut self.namespaces[namespace].policies_of_service;
            for service in services {
                if let Some(keys) = by_service.get_mut(service) {
                    keys.retain(|other| *other != key);
                    if keys.is_empty() {
                        by_service.remove(service);
                    }
                }
            }
        }
        if from_model && old.target != PolicyTarget::Nothing {
            self.pending.policies.push(Change::RemovePolicy(key));
        }
    }

    /// The pods that a policy names are looked at again.
    fn touch_target(&mut self, namespace: NamespaceId, target: &PolicyTarget) {
        match target {
            PolicyTarget::Pods(selector) => self.stale_selected(namespace, selector),
            PolicyTarget::Services(services) => {
                for service in services {
                    if let Some(id) = self.namespaces[namespace].services.get(service).copied() {
                        self.touch_service(id);
                    }
                }
            }
            PolicyTarget::Namespace | PolicyTarget::Nothing => {}
        }
    }

    pub(crate) fn is_root(&self, namespace: NamespaceId) -> bool {
        *self.namespaces[namespace].name == *self.options.root_namespace
    }

    /// The templates that a selector of this namespace may match.
    pub(crate) fn templates_in_reach(&self, namespace: NamespaceId) -> Vec<TemplateId> {
        if self.is_root(namespace) {
            self.namespaces.templates.iter().map(|(id, _)| id).collect()
        } else {
            self.namespaces[namespace].templates.values().copied().collect()
        }
    }

    fn stale_selected(&mut self, namespace: NamespaceId, selector: &Selector) {
        for id in self.templates_in_reach(namespace) {
            let template = &self.namespaces.templates[id].template;
            if selector.matches(&template.labels, template.signature) {
                self.stale_template(id);
            }
        }
    }

    /// The next flush finds the policies of this template.
    pub(crate) fn stale_template(&mut self, id: TemplateId) {
        let state = &mut self.namespaces.templates[id];
        if !state.is_stale {
            state.is_stale = true;
            self.pending.templates.push(id);
        }
    }

    /// Finds the policies of the templates that need it.
    pub(crate) fn select_policies(&mut self) {
        for id in std::mem::take(&mut self.pending.templates) {
            let policies = self.policies_selecting(id);
            let state = &mut self.namespaces.templates[id];
            state.is_stale = false;
            if state.policies != policies {
                state.policies = policies;
                self.touch_template(id);
            }
        }
    }

    /// Keys of the policies that select pods of a template, sorted: those of its namespace and of the root namespace,
    /// and those that stand for PeerAuthentications.
    fn policies_selecting(&self, id: TemplateId) -> Vec<Arc<str>> {
        let state = &self.namespaces.templates[id];
        let template = &state.template;
        let root = self.namespaces.find(&self.options.root_namespace).filter(|root| *root != state.namespace);
        let mut found = Vec::new();
        for namespace in root.into_iter().chain([state.namespace]) {
            for policy in self.namespaces[namespace].authorization.values() {
                if let PolicyTarget::Pods(selector) = &policy.target
                    && selector.matches(&template.labels, template.signature)
                {
                    found.push(key(policy));
                }
            }
        }
        found.extend(self.converted_for(id));
        found.sort_unstable();
        found.shrink_to_fit();
        found
    }
}

fn key(policy: &AuthorizationPolicy) -> Arc<str> {
    format!("{}/{}", policy.namespace, policy.name).into()
}
