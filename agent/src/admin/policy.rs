//! Policies.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_model::{Action, Match, Policy, PolicyScope, ServiceAccountMatch, Snapshot, StringMatch};

/// A policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: String,
    /// `allow` or `deny`.
    pub action: String,
    /// What it applies to: `mesh`, `namespace` or `workload` (those that select it).
    pub scope: String,
    /// It is judged by nobody.
    pub dry_run: bool,
    /// ORed; each rule is a list of clauses, ANDed; each clause a list of matches, ORed. Without rules it never
    /// matches; a rule without clauses matches everything.
    pub rules: Vec<Vec<Vec<MatchInfo>>>,
    /// How many workloads select it. For those of scope `workload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_by: Option<usize>,
}

/// Conditions on a connection, ANDed; the entries of each are ORed. What is absent is no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MatchInfo {
    /// The peer's identity, without `spiffe://`; `*` at the start or the end stands for anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// The same, negated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<String>,
    /// The peer's namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// The same, negated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<String>,
    /// The peer's service account, `<namespace>/<name>`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
    /// The same, negated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<String>,
    /// The client's address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    /// The same, negated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<String>,
    /// The destination's address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<String>,
    /// The same, negated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<String>,
    /// The destination's port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    /// The same, negated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
}

impl PolicyInfo {
    /// The policies of a namespace, or all, by namespace and name.
    pub fn list(snapshot: &Snapshot, namespace: Option<&str>) -> Vec<Self> {
        let mut policies: Vec<_> = snapshot
            .policies()
            .filter(|policy| namespace.is_none_or(|namespace| *policy.namespace == *namespace))
            .collect();
        policies.sort_by(|a, b| a.key.cmp(&b.key));
        let mut selections: HashMap<&str, usize> = HashMap::new();
        for key in snapshot.workloads().flat_map(|workload| &workload.policies) {
            *selections.entry(key).or_default() += 1;
        }
        policies
            .into_iter()
            .map(|policy| Self::new(policy, selections.get(&*policy.key).copied().unwrap_or(0)))
            .collect()
    }

    fn new(policy: &Policy, selected_by: usize) -> Self {
        Self {
            namespace: Arc::clone(&policy.namespace),
            name: policy.key.split_once('/').map_or(&*policy.key, |(_, name)| name).to_owned(),
            action: match policy.action {
                Action::Allow => "allow".to_owned(),
                Action::Deny => "deny".to_owned(),
            },
            scope: match policy.scope {
                PolicyScope::Mesh => "mesh".to_owned(),
                PolicyScope::Namespace => "namespace".to_owned(),
                PolicyScope::Workload => "workload".to_owned(),
            },
            dry_run: policy.dry_run,
            rules: policy
                .rules
                .iter()
                .map(|rule| {
                    let clauses = rule.clauses.iter();
                    clauses.map(|clause| clause.matches.iter().map(MatchInfo::new).collect()).collect()
                })
                .collect(),
            selected_by: (policy.scope == PolicyScope::Workload).then_some(selected_by),
        }
    }
}

impl MatchInfo {
    fn new(conditions: &Match) -> Self {
        let strings = |list: &[StringMatch]| list.iter().map(pattern).collect();
        let accounts = |list: &[ServiceAccountMatch]| {
            list.iter().map(|account| format!("{}/{}", account.namespace, account.service_account)).collect()
        };
        let ranges = |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect();
        Self {
            principals: strings(&conditions.principals),
            not_principals: strings(&conditions.not_principals),
            namespaces: strings(&conditions.namespaces),
            not_namespaces: strings(&conditions.not_namespaces),
            service_accounts: accounts(&conditions.service_accounts),
            not_service_accounts: accounts(&conditions.not_service_accounts),
            source_ips: ranges(&conditions.source_ips),
            not_source_ips: ranges(&conditions.not_source_ips),
            destination_ips: ranges(&conditions.destination_ips),
            not_destination_ips: ranges(&conditions.not_destination_ips),
            destination_ports: conditions.destination_ports.clone(),
            not_destination_ports: conditions.not_destination_ports.clone(),
        }
    }
}

/// A condition on a string as policies spell it.
fn pattern(condition: &StringMatch) -> String {
    match condition {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(start) => format!("{start}*"),
        StringMatch::Suffix(end) => format!("*{end}"),
        StringMatch::Presence => "*".to_owned(),
    }
}
