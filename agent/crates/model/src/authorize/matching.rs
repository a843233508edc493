//! Whether a policy's rules match a peer.

use ipnet::IpNet;

use super::{Peer, Scope};
use crate::identity::Identity;
use crate::policy::{Action, Match, Policy, Rule, ServiceAccountMatch, StringMatch};

/// Whether any rule matches. The peer's addresses must be canonical, as the policy's ranges are.
pub(super) fn matches(policy: &Policy, peer: &Peer<'_>, scope: Scope) -> bool {
    policy.rules.iter().any(|rule| rule_matches(rule, policy.action, peer, scope))
}

fn rule_matches(rule: &Rule, action: Action, peer: &Peer<'_>, scope: Scope) -> bool {
    rule.clauses.iter().all(|clause| {
        clause.matches.is_empty() || clause.matches.iter().any(|conditions| holds(conditions, action, peer, scope))
    })
}

fn holds(conditions: &Match, action: Action, peer: &Peer<'_>, scope: Scope) -> bool {
    let Match {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
    } = conditions;
    if conditions.is_empty() {
        return action == Action::Deny;
    }
    let on_destination =
        both(destination_ips, not_destination_ips, |range: &IpNet| range.contains(&peer.destination.ip()))
            && both(destination_ports, not_destination_ports, |port| *port == peer.destination.port());
    if scope == Scope::Destination {
        let on_strings = [principals, not_principals, namespaces, not_namespaces];
        let on_accounts = [service_accounts, not_service_accounts];
        let on_addresses = [source_ips, not_source_ips];
        let has_source = on_strings.iter().any(|list| !list.is_empty())
            || on_accounts.iter().any(|list| !list.is_empty())
            || on_addresses.iter().any(|list| !list.is_empty());
        return on_destination && (action == Action::Allow || !has_source);
    }
    let principal = peer.identity.map(Identity::principal);
    let namespace = peer.identity.map(Identity::namespace);
    both(principals, not_principals, |entry| string_matches(entry, principal))
        && both(namespaces, not_namespaces, |entry| string_matches(entry, namespace))
        && both(service_accounts, not_service_accounts, |entry| service_account_matches(entry, peer.identity))
        && both(source_ips, not_source_ips, |range: &IpNet| range.contains(&peer.source))
        && on_destination
}

/// Whether a list and its negation both hold.
fn both<T>(entries: &[T], not_entries: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (entries.is_empty() || entries.iter().any(&matches)) && !not_entries.iter().any(&matches)
}

fn string_matches(entry: &StringMatch, text: Option<&str>) -> bool {
    let Some(text) = text else { return false };
    match entry {
        StringMatch::Exact(wanted) => text == &**wanted,
        StringMatch::Prefix(wanted) => text.starts_with(&**wanted),
        StringMatch::Suffix(wanted) => text.ends_with(&**wanted),
        StringMatch::Presence => !text.is_empty(),
    }
}

fn service_account_matches(entry: &ServiceAccountMatch, identity: Option<&Identity>) -> bool {
    identity.is_some_and(|identity| {
        identity.namespace() == &*entry.namespace && identity.service_account() == &*entry.service_account
    })
}
