//! Whether a policy is in force.

use crate::manifest::Reading;
use crate::object::{Object, ObjectId, PolicyTarget};
use crate::problem::{Problem, Severity};

/// Longest message, in bytes; the API server would take 32 times that, nobody would read it.
const LONGEST: usize = 1000;

/// What is said of one policy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// All of it is in force.
    pub is_accepted: bool,
    /// In one word, as conditions have it.
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    /// Judges a policy by how it was read. `senior` is one that is in force in its place.
    pub fn of(
        id: &ObjectId,
        reading: &Reading,
        problems: &[Problem],
        root_namespace: &str,
        senior: Option<&str>,
    ) -> Self {
        let new = |is_accepted, reason, message: &str| Self { is_accepted, reason, message: said(message, problems) };
        let object = match reading {
            Reading::Valid(object) => object,
            Reading::Invalid(substitute) => {
                let message = match substitute {
                    Some(Object::AuthorizationPolicy(policy)) if policy.target == PolicyTarget::Nothing => {
                        "not in force as it is written: a version from before that was valid stays in force, and without \
                         one nothing is"
                    }
                    Some(Object::PeerAuthentication(_)) => {
                        "not in force as it is written: a version from before that was valid stays in force, and without \
                         one plaintext is refused where this may be about"
                    }
                    _ => {
                        "not in force as it is written: a version from before that was valid stays in force, and without \
                         one it counts at its strictest"
                    }
                };
                return new(false, "Invalid", message);
            }
        };
        if let Some(senior) = senior {
            let message = format!("not in force: {}/{senior} is about the same pods and is older", id.namespace);
            return new(false, "Overridden", &message);
        }
        match object {
            Object::AuthorizationPolicy(policy) if policy.is_dry_run => {
                new(true, "DryRun", "on trial by the annotation istio.io/dry-run: nothing of it is enforced")
            }
            Object::PeerAuthentication(policy) if policy.selector.is_some() && *id.namespace == *root_namespace => new(
                false,
                "NoEffect",
                "not in force: in the root namespace only policies without a selector count; put it into the namespace of \
                 the pods",
            ),
            // A rule or a part of one that layer 4 cannot judge. Other warnings are about what is in force as written.
            _ if problems.iter().any(is_about_a_rule) => {
                new(false, "PartlyInForce", "in force but for what cannot be judged at layer 4")
            }
            _ => new(true, "Accepted", "in force"),
        }
    }
}

fn is_about_a_rule(problem: &Problem) -> bool {
    let field = problem.field.as_deref().unwrap_or_default();
    problem.severity <= Severity::Warning && field.starts_with("spec.rules[")
}

/// The message, with what was found.
fn said(message: &str, problems: &[Problem]) -> String {
    let mut said = message.to_owned();
    for (index, problem) in problems.iter().enumerate() {
        let before = said.len();
        said.push_str(if index == 0 { ": " } else { "; " });
        if let Some(field) = &problem.field {
            said.push_str(field);
            said.push(' ');
        }
        said.push_str(&problem.message);
        if said.len() > LONGEST {
            said.truncate(before);
            let more = problems.len() - index;
            said.push_str(&format!("{} {more} more", if index == 0 { ":" } else { "; and" }));
            break;
        }
    }
    said
}
