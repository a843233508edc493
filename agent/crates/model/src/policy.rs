//! Authorization policies at layer 4.

use std::sync::Arc;

use ipnet::IpNet;

use crate::address::canonical_range;

/// One authorization policy. A PeerAuthentication arrives as converted DENY policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `<namespace>/<name>`.
    pub key: Arc<str>,
    /// Namespace of the object.
    pub namespace: Arc<str>,
    /// Which workloads it applies to.
    pub scope: PolicyScope,
    /// What a match means.
    pub action: Action,
    /// It is never enforced, as if it did not exist (a workload may refer to it).
    pub dry_run: bool,
    /// ORed. An empty list never matches.
    pub rules: Vec<Rule>,
}

/// Which workloads a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyScope {
    /// All. A policy of the root namespace with [`Self::Namespace`] is mesh-wide as well.
    Mesh,
    /// Those in its namespace.
    Namespace,
    /// Those that list its key in [`Workload::policies`](crate::Workload::policies).
    Workload,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Some ALLOW policy must match once any applies.
    Allow,
    /// No DENY policy may match.
    Deny,
}

/// Clauses (`from`, `to`, `when`), ANDed. A rule without clauses matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// ANDed.
    pub clauses: Vec<Clause>,
}

/// Matches, ORed. A clause without matches says nothing and matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    /// ORed.
    pub matches: Vec<Match>,
}

/// Conditions on a connection. All lists that are not empty must hold (ANDed); the entries of a list are ORed; a
/// `not_` list holds when none of its entries matches.
///
/// A match without any condition is what is left of one whose conditions belong to layer 7. It fails closed: it holds
/// in a DENY policy and does not hold in an ALLOW policy. "Everything" is a rule without clauses.
///
/// A peer without an identity (plaintext) has no principal, namespace or service account: no entry on these matches
/// it, hence every `not_` list on these holds for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Identities of the peer, without `spiffe://`.
    pub principals: Vec<StringMatch>,
    /// Identities of the peer, negated.
    pub not_principals: Vec<StringMatch>,
    /// Namespaces of the peer's identity.
    pub namespaces: Vec<StringMatch>,
    /// Namespaces of the peer's identity, negated.
    pub not_namespaces: Vec<StringMatch>,
    /// Service accounts of the peer's identity.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// Service accounts of the peer's identity, negated.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Addresses of the client.
    pub source_ips: Vec<IpNet>,
    /// Addresses of the client, negated.
    pub not_source_ips: Vec<IpNet>,
    /// Addresses of the destination.
    pub destination_ips: Vec<IpNet>,
    /// Addresses of the destination, negated.
    pub not_destination_ips: Vec<IpNet>,
    /// Ports of the destination workload (target ports).
    pub destination_ports: Vec<u16>,
    /// Ports of the destination workload, negated.
    pub not_destination_ports: Vec<u16>,
}

impl Match {
    /// Whether it has no condition at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The lists of address ranges.
    pub(crate) fn ranges_mut(&mut self) -> impl Iterator<Item = &mut IpNet> {
        let source = self.source_ips.iter_mut().chain(&mut self.not_source_ips);
        source.chain(&mut self.destination_ips).chain(&mut self.not_destination_ips)
    }
}

impl Policy {
    /// The policy with IPv4-mapped ranges turned into IPv4 ones.
    pub(crate) fn canonical(mut self) -> Self {
        let clauses = self.rules.iter_mut().flat_map(|rule| &mut rule.clauses);
        for range in clauses.flat_map(|clause| &mut clause.matches).flat_map(Match::ranges_mut) {
            *range = canonical_range(*range);
        }
        self
    }
}

/// A condition on a string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The string itself.
    Exact(Arc<str>),
    /// What it starts with (`abc*`).
    Prefix(Arc<str>),
    /// What it ends with (`*abc`).
    Suffix(Arc<str>),
    /// Anything, provided that there is something (`*`).
    Presence,
}

/// A condition on a service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub service_account: Arc<str>,
}
