//! Mistakes about AuthorizationPolicies.

use std::sync::Arc;

use weft_model::{Action, Match, StringMatch};

use super::{Analysis, counted};
use crate::object::{AuthorizationPolicy, Kind, PolicyTarget, Selector};
use crate::problem::Notes;
use crate::translate::namespaces::{NamespaceId, TemplateState};

/// How many pods a policy is about.
pub(super) struct Reach {
    pub pods: usize,
    /// Of those, the ones whose connections the mesh carries: only these enforce anything.
    pub enrolled: usize,
}

impl Reach {
    /// Notes a policy that nothing enforces. `field` says whom it is about.
    pub fn note(&self, field: &str, notes: &mut Notes) {
        if self.pods == 0 {
            notes.warning(field, "matches no pod: the policy has no effect", "compare it with the labels of the pods");
        } else if self.enrolled == 0 {
            notes.warning(
                field,
                format!("none of the {} that it is about is enrolled: nothing enforces it", counted(self.pods, "pod")),
                "label the pods or their namespace with istio.io/dataplane-mode: ambient",
            );
        }
    }
}

impl Analysis<'_> {
    pub(super) fn policies(&mut self) {
        let translator = self.translator;
        for (id, namespace) in translator.namespaces.iter() {
            for policy in namespace.authorization.values() {
                self.policy(id, policy);
            }
        }
    }

    fn policy(&mut self, namespace: NamespaceId, policy: &AuthorizationPolicy) {
        let translator = self.translator;
        let reach = match &policy.target {
            PolicyTarget::Namespace => Some(("metadata.namespace", self.reach(namespace, None))),
            PolicyTarget::Pods(selector) => Some(("spec.selector.matchLabels", self.reach(namespace, Some(selector)))),
            PolicyTarget::Services(_) | PolicyTarget::Nothing => None,
        };
        let mut notes = Notes::default();
        match (&policy.target, reach) {
            (PolicyTarget::Services(services), _) => {
                let known = &translator.namespaces[namespace].services;
                for service in services.iter().filter(|service| !known.contains_key(*service)) {
                    notes.error(
                        "spec.targetRefs",
                        format!("there is no Service {}/{service}", policy.namespace),
                        "correct the name, or add the Service",
                    );
                }
            }
            // A policy for a namespace or for the mesh may well come before its pods.
            (_, Some((field, reach))) if reach.pods > 0 || field != "metadata.namespace" => {
                reach.note(field, &mut notes)
            }
            _ => {}
        }
        if policy.is_dry_run {
            notes.info(
                "metadata.annotations[istio.io/dry-run]",
                "this policy is not enforced",
                "remove the annotation to enforce it",
            );
        }
        if policy.action == Action::Allow && policy.rules.is_empty() {
            notes.info(
                "spec.rules",
                "no rule allows anything: what no other policy allows is refused",
                "nothing is to be done if that is meant",
            );
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            for found in rule.clauses.iter().flat_map(|clause| &clause.matches) {
                self.names(i, found, &mut notes);
            }
        }
        let notes = notes.into_vec();
        self.about(Kind::AuthorizationPolicy, &policy.namespace, &policy.name, |collected| {
            for note in notes {
                collected.add(note.severity, note.field, note.message, note.suggestion);
            }
        });
    }

    /// Names in a rule that nothing has.
    fn names(&self, rule: usize, found: &Match, notes: &mut Notes) {
        let translator = self.translator;
        let field = format!("spec.rules[{rule}]");
        let trust_domain = &translator.options().trust_domain;
        let has_pods = |namespace: &str, account: Option<&str>| {
            let namespace = translator.namespaces.find(namespace).map(|id| &translator.namespaces[id]);
            let templates = namespace.into_iter().flat_map(|namespace| namespace.templates.values());
            let mut templates = templates.map(|id| &translator.namespaces.templates[*id].template);
            templates.any(|template| account.is_none_or(|account| account == &*template.service_account))
        };
        for principal in found.principals.iter().chain(&found.not_principals) {
            let StringMatch::Exact(text) = principal else {
                continue;
            };
            let parts: Vec<&str> = text.split('/').collect();
            match parts[..] {
                [found, "ns", _, "sa", _] if found != trust_domain => notes.warning(
                    &field,
                    format!(
                        "the principal '{text}' is of the trust domain '{found}', and this mesh's is '{trust_domain}'"
                    ),
                    "correct the trust domain, unless peers of another mesh are meant",
                ),
                [_, "ns", namespace, "sa", account] if !has_pods(namespace, Some(account)) => notes.warning(
                    &field,
                    format!("no pod has the identity '{text}'"),
                    "correct the namespace or the service account",
                ),
                [_, "ns", _, "sa", _] => {}
                _ => notes.warning(
                    &field,
                    format!("'{text}' is not the form of an identity, and matches none"),
                    "write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, or use '*'",
                ),
            }
        }
        for namespace in found.namespaces.iter().chain(&found.not_namespaces) {
            if let StringMatch::Exact(name) = namespace
                && !has_pods(name, None)
            {
                notes.warning(&field, format!("no pod is in the namespace '{name}'"), "correct the name");
            }
        }
        for account in found.service_accounts.iter().chain(&found.not_service_accounts) {
            if !has_pods(&account.namespace, Some(&account.service_account)) {
                notes.warning(
                    &field,
                    format!("no pod has the service account {}/{}", account.namespace, account.service_account),
                    "correct the name",
                );
            }
        }
    }

    /// How many pods a selector of a namespace is about, or the whole namespace.
    pub(super) fn reach(&self, namespace: NamespaceId, selector: Option<&Selector>) -> Reach {
        let translator = self.translator;
        let templates = translator.templates_in_reach(namespace);
        self.reach_of(templates.into_iter().map(|id| &translator.namespaces.templates[id]).filter(|state| {
            let template: &Arc<_> = &state.template;
            selector.is_none_or(|selector| selector.matches(&template.labels, template.signature))
        }))
    }

    fn reach_of<'a>(&self, templates: impl Iterator<Item = &'a TemplateState>) -> Reach {
        let translator = self.translator;
        let mut reach = Reach { pods: 0, enrolled: 0 };
        for id in templates.flat_map(|state| &state.pods) {
            let state = translator.pods.get(*id);
            if state.pod.is_live() {
                reach.pods += 1;
                reach.enrolled += usize::from(translator.is_enrolled(state));
            }
        }
        reach
    }
}
