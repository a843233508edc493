//! Whether a peer may connect.
//!
//! The policies of the mesh, those of the workload's namespace and those that the workload refers to are one set. Any
//! DENY policy that matches denies. A reference to a policy that is not known denies. If there is an ALLOW policy,
//! one must match. Policies in dry run are not in the set. Allowing a peer allocates nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::identity::Identity;
use crate::policies::{Enforced, Policies};
use crate::policy::{Action, Policy};
use crate::workload::Workload;

mod matching;

use matching::matches;

/// Who connects, and to what. Addresses may be IPv4-mapped.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The identity in its certificate; `None` for plaintext.
    pub identity: Option<&'a Identity>,
    /// The client's own address.
    pub source: IpAddr,
    /// Address and port of the workload that it connects to.
    pub destination: SocketAddr,
}

/// The answer to "may this peer connect?".
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may not, for this reason.
    Denied(Denial),
}

impl Verdict {
    /// Whether the peer may connect.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed)
    }
}

/// Why a peer may not connect. Displayed in plain words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A DENY policy matched.
    ByPolicy {
        /// Key of the policy.
        policy: Arc<str>,
    },
    /// ALLOW policies apply, and none matched.
    NotAllowed {
        /// Key of the first of them.
        policy: Arc<str>,
        /// How many there are beside it.
        others: usize,
    },
    /// The workload refers to a policy that is not known (yet).
    UnknownPolicy {
        /// Key of the policy.
        policy: Arc<str>,
    },
    /// Connections to this port must pass a waypoint, and this one has not.
    PastWaypoint {
        /// The waypoint: the key of its service, or its address.
        waypoint: Arc<str>,
    },
}

impl Denial {
    /// Key of the policy that the denial names.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        match self {
            Self::ByPolicy { policy } | Self::NotAllowed { policy, .. } | Self::UnknownPolicy { policy } => {
                Some(policy)
            }
            Self::PastWaypoint { .. } => None,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByPolicy { policy } if is_converted(policy) => {
                write!(f, "clear text is refused: a PeerAuthentication with mode STRICT applies ({policy})")
            }
            Self::ByPolicy { policy } => write!(f, "denied by the DENY policy {policy}"),
            Self::NotAllowed { policy, others: 0 } => {
                write!(f, "not allowed by {policy}, the only ALLOW policy that applies")
            }
            Self::NotAllowed { policy, others } => {
                write!(f, "allowed by none of the {} ALLOW policies that apply, {policy} among them", others + 1)
            }
            Self::UnknownPolicy { policy } => {
                write!(f, "denied because policy {policy} applies to the workload and is not known yet")
            }
            Self::PastWaypoint { waypoint } => {
                write!(f, "connections to this port must pass the waypoint {waypoint}, and this one did not")
            }
        }
    }
}

impl std::error::Error for Denial {}

/// PeerAuthentications travel as DENY policies with names that Istio's control plane gives them: no operator wrote
/// such a policy, and none would find it.
fn is_converted(key: &str) -> bool {
    key.split_once('/').is_some_and(|(_, name)| {
        name == "istio_converted_static_strict" || name.starts_with("converted_peer_authentication_")
    })
}

/// Which conditions of policies are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All.
    Whole,
    /// Those on the destination: the workload's waypoint has judged those on the source. An ALLOW policy's conditions on the
    /// source count as fulfilled; a DENY policy that has some did not match there.
    Destination,
}

/// Judges `peer` by all policies that apply to `workload`.
pub(crate) fn authorize(policies: &Policies, workload: &Workload, peer: &Peer<'_>, scope: Scope) -> Verdict {
    let peer = &Peer {
        identity: peer.identity,
        source: peer.source.to_canonical(),
        destination: crate::address::canonical(peer.destination),
    };
    let everywhere = [Some(policies.mesh()), policies.namespace(&workload.namespace)];
    let everywhere = || everywhere.into_iter().flatten();
    let referred = |action| {
        let known = workload.policies.iter().filter_map(|key| policies.get(key));
        known.filter(move |policy| policy.action == action && !policy.dry_run)
    };

    let deny = everywhere().flat_map(|enforced: &Enforced| &enforced.deny).chain(referred(Action::Deny));
    if let Some(policy) = first_match(deny, peer, scope) {
        return Verdict::Denied(Denial::ByPolicy { policy: Arc::clone(&policy.key) });
    }
    if let Some(key) = workload.policies.iter().find(|key| policies.get(key).is_none()) {
        return Verdict::Denied(Denial::UnknownPolicy { policy: Arc::clone(key) });
    }
    let allow = || everywhere().flat_map(|enforced: &Enforced| &enforced.allow).chain(referred(Action::Allow));
    let Some(first) = allow().next() else {
        return Verdict::Allowed;
    };
    if first_match(allow(), peer, scope).is_some() {
        return Verdict::Allowed;
    }
    Verdict::Denied(Denial::NotAllowed { policy: Arc::clone(&first.key), others: allow().count() - 1 })
}

fn first_match<'p>(
    mut policies: impl Iterator<Item = &'p Arc<Policy>>,
    peer: &Peer<'_>,
    scope: Scope,
) -> Option<&'p Arc<Policy>> {
    policies.find(|policy| matches(policy, peer, scope))
}

#[cfg(test)]
mod tests;
