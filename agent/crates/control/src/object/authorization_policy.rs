//! AuthorizationPolicies.

mod rules;
pub(crate) mod spec;
mod values;

use std::sync::Arc;

use rules::Rules;
use spec::{PolicyManifest, PolicySpec, SelectorSpec, TargetRefSpec};
use weft_model::{Action, Rule};

use super::metadata::{excerpt, identify_by};
use super::{Interner, Kind, Labels, ObjectId, Selector};
use crate::problem::Notes;

/// The annotation that puts a policy on trial.
const DRY_RUN: &str = "istio.io/dry-run";

/// An AuthorizationPolicy at layer 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthorizationPolicy {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub target: PolicyTarget,
    pub action: Action,
    pub is_dry_run: bool,
    pub rules: Vec<Rule>,
}

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PolicyTarget {
    /// All pods of its namespace; of the mesh, when that is the root namespace.
    Namespace,
    /// Pods with these labels, in its namespace; in the mesh, when that is the root namespace.
    Pods(Selector),
    /// The endpoints of these services of its namespace.
    Services(Box<[Arc<str>]>),
    /// Nothing, yet.
    Nothing,
}

impl AuthorizationPolicy {
    /// Reads a policy. With errors in `notes` it is what it means at its strictest, for want of a better one.
    pub fn read(manifest: &PolicyManifest, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::AuthorizationPolicy, &manifest.metadata, interner, notes)?;
        let spec = &manifest.spec;
        let Some(action) = action(spec, notes) else {
            // An AUDIT policy decides nothing, so that without it nothing is less strict.
            return Some(Self {
                target: PolicyTarget::Nothing,
                action: Action::Deny,
                is_dry_run: false,
                rules: Vec::new(),
                name: id.name,
                namespace: id.namespace,
            });
        };
        if action == Action::Deny && spec.rules.is_empty() {
            notes.warning(
                "spec.rules",
                "is empty: this policy denies nothing",
                "write '- {}' as the only rule to deny everything",
            );
        }
        let target = target(spec, &id.namespace, interner, notes);
        let mut reader = Rules::new(action, &id.namespace, notes);
        let rules = spec.rules.iter().enumerate().filter_map(|(i, rule)| reader.rule(i, rule)).collect();
        let annotations = manifest.metadata.annotations.as_ref();
        Some(Self {
            target,
            action,
            is_dry_run: annotations.and_then(|all| all.get(DRY_RUN)).is_some_and(|value| value == "true"),
            rules,
            name: id.name,
            namespace: id.namespace,
        })
    }

    /// What stands for a policy that cannot be read at all while no good version of it is known: everything that it
    /// may be about is refused. `selector` is what could be read of its selector.
    pub fn refuse_all(id: &ObjectId, selector: Option<&SelectorSpec>, interner: &mut Interner) -> Self {
        Self {
            name: Arc::clone(&id.name),
            namespace: Arc::clone(&id.namespace),
            target: selected(selector, interner),
            action: Action::Deny,
            is_dry_run: false,
            rules: vec![Rule::default()],
        }
    }
}

/// `spec.action`; `None` for one that has no effect.
fn action(spec: &PolicySpec, notes: &mut Notes) -> Option<Action> {
    match spec.action.as_deref() {
        None | Some("ALLOW") => Some(Action::Allow),
        Some("DENY") => Some(Action::Deny),
        Some("AUDIT") => {
            notes.error(
                "spec.action",
                "AUDIT is not supported, and this policy has no effect",
                "remove it; every connection is in the access log",
            );
            None
        }
        Some("CUSTOM") => {
            notes.error(
                "spec.action",
                "CUSTOM needs an external authorizer, which is not supported at layer 4: what it selects is denied",
                "write an ALLOW or DENY policy in its place",
            );
            Some(Action::Deny)
        }
        Some(other) => {
            notes.error(
                "spec.action",
                format!("'{}' is not an action: what the rules select is denied", excerpt(other)),
                "write ALLOW or DENY",
            );
            Some(Action::Deny)
        }
    }
}

fn target(spec: &PolicySpec, namespace: &str, interner: &mut Interner, notes: &mut Notes) -> PolicyTarget {
    let refs: Vec<(String, &TargetRefSpec)> = spec
        .target_ref
        .iter()
        .map(|found| ("spec.targetRef".to_owned(), found))
        .chain(spec.target_refs.iter().enumerate().map(|(i, found)| (format!("spec.targetRefs[{i}]"), found)))
        .collect();
    if refs.is_empty() {
        return selected(spec.selector.as_ref(), interner);
    }
    if spec.selector.is_some() {
        notes.error(
            "spec.targetRefs",
            "cannot be combined with a selector: both are taken as if the selector were not there",
            "keep one of the two",
        );
    }
    let mut services: Vec<Arc<str>> = Vec::new();
    for (path, found) in refs {
        let is_local = found.namespace.as_deref().is_none_or(|other| other == namespace);
        match (found.group.as_str(), found.kind.as_str()) {
            ("", "Service") if is_local => {
                notes.warning(
                    path,
                    format!(
                        "the service '{}' has no waypoint: its pods enforce the policy at layer 4, however they are \
                         addressed",
                        excerpt(&found.name)
                    ),
                    "use a selector to say so in the policy",
                );
                services.push(interner.text(&found.name));
            }
            ("", "Service") => {
                notes.error(
                    path,
                    "names a service of another namespace",
                    "put the policy into the service's namespace",
                );
            }
            ("gateway.networking.k8s.io", "Gateway" | "GatewayClass") => {
                notes.error(
                    path,
                    format!(
                        "there is no waypoint or gateway here to enforce this on {} '{}'",
                        found.kind,
                        excerpt(&found.name)
                    ),
                    "use a selector for the pods that it is about",
                );
            }
            (group, kind) => {
                notes.error(
                    path,
                    format!("a {} of group '{}' cannot be the target of a policy", excerpt(kind), excerpt(group)),
                    "name a Service, or use a selector",
                );
            }
        }
    }
    if services.is_empty() { PolicyTarget::Nothing } else { PolicyTarget::Services(services.into_boxed_slice()) }
}

fn selected(selector: Option<&SelectorSpec>, interner: &mut Interner) -> PolicyTarget {
    match selector {
        Some(selector) if !selector.match_labels.is_empty() => {
            PolicyTarget::Pods(Selector::new(Labels::new(&selector.match_labels, interner)))
        }
        _ => PolicyTarget::Namespace,
    }
}

#[cfg(test)]
mod tests;
