//! PeerAuthentications, converted to DENY policies.
//!
//! The model knows no modes: what STRICT refuses is what a policy denies to peers without an identity. Istio's control
//! plane converts in the same way and under the same names.

use std::sync::Arc;

use weft_model::{Action, Change, Clause, Match, Policy, PolicyScope, Rule, StringMatch};

use super::Translator;
use super::namespaces::{NamespaceId, NamespaceState, TemplateId};
use crate::object::{MtlsMode, PeerAuthentication};

/// The policy that denies all plaintext, in the root namespace.
const STATIC_STRICT: &str = "istio_converted_static_strict";

/// What a PeerAuthentication for some pods comes to.
struct Converted {
    /// Plaintext is refused, except on some ports, or accepted, except on some ports.
    is_strict: bool,
    /// The ports on which it is the other way round.
    exceptions: Vec<u16>,
}

impl Translator {
    pub(crate) fn put_peer_authentication(&mut self, policy: PeerAuthentication) {
        let namespace = self.namespace(&policy.namespace);
        let name = Arc::clone(&policy.name);
        let all = &mut self.namespaces[namespace].peer_authentication;
        match all.insert(name, policy.clone()) {
            Some(old) if old == policy => return,
            Some(old) => self.stale_reach(namespace, &old),
            None => self.counts.peer_authentications += 1,
        }
        self.stale_reach(namespace, &policy);
    }

    pub(crate) fn remove_peer_authentication(&mut self, namespace: NamespaceId, name: &str) {
        if let Some(old) = self.namespaces[namespace].peer_authentication.remove(name) {
            self.counts.peer_authentications -= 1;
            self.stale_reach(namespace, &old);
        }
    }

    fn stale_reach(&mut self, namespace: NamespaceId, policy: &PeerAuthentication) {
        self.pending.mtls = true;
        for id in self.templates_in_reach(namespace) {
            let template = &self.namespaces.templates[id].template;
            if policy.selector.as_ref().is_none_or(|selector| selector.matches(&template.labels, template.signature)) {
                self.stale_template(id);
            }
        }
    }

    /// Whether plaintext is refused in a namespace, before any policy for some of its pods.
    pub(crate) fn is_strict_by_default(&self, namespace: NamespaceId) -> bool {
        let root = self.namespaces.find(&self.options.root_namespace);
        let of_mesh = root.and_then(|root| wide(&self.namespaces[root]));
        let of_namespace = wide(&self.namespaces[namespace]).filter(|_| root != Some(namespace));
        let modes = [of_namespace, of_mesh].into_iter().flatten().map(|policy| policy.mode);
        modes.into_iter().find(|mode| *mode != MtlsMode::Unset) == Some(MtlsMode::Strict)
    }

    /// The policy for some pods that holds for a template. Those of the root namespace select nothing.
    pub(crate) fn narrow(&self, id: TemplateId) -> Option<&PeerAuthentication> {
        let state = &self.namespaces.templates[id];
        if self.is_root(state.namespace) {
            return None;
        }
        let all = self.namespaces[state.namespace].peer_authentication.values();
        let matching = all.filter(|policy| {
            let selector = policy.selector.as_ref();
            selector.is_some_and(|selector| selector.matches(&state.template.labels, state.template.signature))
        });
        matching.min_by(|a, b| a.seniority().cmp(&b.seniority()))
    }

    fn convert(&self, namespace: NamespaceId, policy: &PeerAuthentication) -> Converted {
        let is_strict = match policy.mode {
            MtlsMode::Strict => true,
            MtlsMode::Permissive => false,
            MtlsMode::Unset => self.is_strict_by_default(namespace),
        };
        let other = if is_strict { MtlsMode::Permissive } else { MtlsMode::Strict };
        let exceptions = policy.ports.iter().filter(|(_, mode)| *mode == other).map(|(port, _)| *port).collect();
        Converted { is_strict, exceptions }
    }

    /// Keys of the converted policies that hold for a template.
    pub(crate) fn converted_for(&self, id: TemplateId) -> Option<Arc<str>> {
        let namespace = self.namespaces.templates[id].namespace;
        let is_strict = match self.narrow(id) {
            Some(policy) => {
                let converted = self.convert(namespace, policy);
                if !converted.exceptions.is_empty() {
                    return Some(converted_key(policy));
                }
                converted.is_strict
            }
            None => self.is_strict_by_default(namespace),
        };
        is_strict.then(|| self.static_strict_key())
    }

    fn static_strict_key(&self) -> Arc<str> {
        format!("{}/{STATIC_STRICT}", self.options.root_namespace).into()
    }

    /// Brings the converted policies of the model up to date. They are few, and all are made anew.
    pub(crate) fn convert_peer_authentications(&mut self) {
        if !std::mem::take(&mut self.pending.mtls) {
            return;
        }
        let mut wanted: Vec<Policy> = Vec::new();
        let mut is_strict_anywhere = false;
        for (id, namespace) in self.namespaces.iter() {
            for policy in namespace.peer_authentication.values() {
                is_strict_anywhere |= policy.mode == MtlsMode::Strict;
                if policy.selector.is_none() || self.is_root(id) {
                    continue;
                }
                let Converted { is_strict, exceptions } = self.convert(id, policy);
                if !exceptions.is_empty() {
                    let ports = match is_strict {
                        true => Match { not_destination_ports: exceptions, ..Match::default() },
                        false => Match { destination_ports: exceptions, ..Match::default() },
                    };
                    wanted.push(deny_plaintext(converted_key(policy), &namespace.name, Some(ports)));
                }
            }
        }
        if is_strict_anywhere {
            wanted.push(deny_plaintext(self.static_strict_key(), &self.options.root_namespace, None));
        }
        let keys = wanted.iter().map(|policy| Arc::clone(&policy.key)).collect();
        let gone = std::mem::replace(&mut self.converted, keys);
        let gone = gone.into_iter().filter(|key| !self.converted.contains(key));
        self.pending.policies.extend(gone.map(Change::RemovePolicy));
        self.pending.policies.extend(wanted.into_iter().map(Change::PutPolicy));
    }
}

/// The policy for all pods of a namespace that holds: the oldest.
pub(crate) fn wide(namespace: &NamespaceState) -> Option<&PeerAuthentication> {
    let all = namespace.peer_authentication.values().filter(|policy| policy.selector.is_none());
    all.min_by(|a, b| a.seniority().cmp(&b.seniority()))
}

fn converted_key(policy: &PeerAuthentication) -> Arc<str> {
    format!("{}/converted_peer_authentication_{}", policy.namespace, policy.name).into()
}

/// Denies peers without an identity, on some ports.
fn deny_plaintext(key: Arc<str>, namespace: &str, ports: Option<Match>) -> Policy {
    let without_identity = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    let clauses = [Some(without_identity), ports].into_iter().flatten();
    Policy {
        key,
        namespace: namespace.into(),
        scope: PolicyScope::Workload,
        action: Action::Deny,
        dry_run: false,
        rules: vec![Rule { clauses: clauses.map(|found| Clause { matches: vec![found] }).collect() }],
    }
}
