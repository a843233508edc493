//! Policies.
//!
//! A condition that cannot be expressed must not let more in than it was meant to: a match with an extension that is
//! not known never holds in an ALLOW policy, and holds without that condition in a DENY policy.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::{Action, Clause, Match, Policy, PolicyScope, Rule, ServiceAccountMatch, StringMatch};
use weft_proto::security as proto;
use weft_proto::security::string_match::MatchType;

use super::{ConversionError, Reading, octets, shared};

pub(super) fn encode(policy: &Policy) -> proto::Authorization {
    let name = policy.key.strip_prefix(&*policy.namespace).and_then(|rest| rest.strip_prefix('/'));
    proto::Authorization {
        name: name.unwrap_or(&policy.key).to_owned(),
        namespace: policy.namespace.to_string(),
        scope: match policy.scope {
            PolicyScope::Mesh => proto::Scope::Global,
            PolicyScope::Namespace => proto::Scope::Namespace,
            PolicyScope::Workload => proto::Scope::WorkloadSelector,
        }
        .into(),
        action: match policy.action {
            Action::Allow => proto::Action::Allow,
            Action::Deny => proto::Action::Deny,
        }
        .into(),
        rules: policy
            .rules
            .iter()
            .map(|rule| proto::Rule {
                clauses: rule
                    .clauses
                    .iter()
                    .map(|clause| proto::Clause { matches: clause.matches.iter().map(encode_match).collect() })
                    .collect(),
            })
            .collect(),
        dry_run: policy.dry_run,
        extensions: Vec::new(),
    }
}

fn encode_match(conditions: &Match) -> proto::Match {
    let strings = |list: &[StringMatch]| list.iter().map(encode_string).collect();
    let accounts = |list: &[ServiceAccountMatch]| {
        let encode = |account: &ServiceAccountMatch| proto::ServiceAccountMatch {
            namespace: account.namespace.to_string(),
            service_account: account.service_account.to_string(),
        };
        list.iter().map(encode).collect()
    };
    let ranges = |list: &[IpNet]| {
        let encode =
            |range: &IpNet| proto::Address { address: octets(range.addr()), length: range.prefix_len().into() };
        list.iter().map(encode).collect()
    };
    let ports = |list: &[u16]| list.iter().copied().map(u32::from).collect();
    proto::Match {
        namespaces: strings(&conditions.namespaces),
        not_namespaces: strings(&conditions.not_namespaces),
        principals: strings(&conditions.principals),
        not_principals: strings(&conditions.not_principals),
        source_ips: ranges(&conditions.source_ips),
        not_source_ips: ranges(&conditions.not_source_ips),
        destination_ips: ranges(&conditions.destination_ips),
        not_destination_ips: ranges(&conditions.not_destination_ips),
        destination_ports: ports(&conditions.destination_ports),
        not_destination_ports: ports(&conditions.not_destination_ports),
        service_accounts: accounts(&conditions.service_accounts),
        not_service_accounts: accounts(&conditions.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn encode_string(condition: &StringMatch) -> proto::StringMatch {
    let kind = match condition {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(()),
    };
    proto::StringMatch { match_type: Some(kind) }
}

pub(super) fn decode(
    message: &proto::Authorization,
    reading: Reading<'_>,
) -> Result<(Policy, Vec<&'static str>), ConversionError> {
    if message.name.is_empty() {
        return Err(reading.fail("name", "is empty"));
    }
    let scope = match reading.value("scope", message.scope)? {
        proto::Scope::Global => PolicyScope::Mesh,
        proto::Scope::Namespace => PolicyScope::Namespace,
        proto::Scope::WorkloadSelector => PolicyScope::Workload,
    };
    let action = match reading.value("action", message.action)? {
        proto::Action::Allow => Action::Allow,
        proto::Action::Deny => Action::Deny,
    };
    let mut ignored = Vec::new();
    let mut rules = Vec::with_capacity(message.rules.len());
    for (r, rule) in message.rules.iter().enumerate() {
        let mut clauses = Vec::with_capacity(rule.clauses.len());
        for (c, clause) in rule.clauses.iter().enumerate() {
            let mut matches = Vec::with_capacity(clause.matches.len());
            for (m, conditions) in clause.matches.iter().enumerate() {
                let is_extended = !conditions.extensions.is_empty();
                if is_extended && !ignored.contains(&"rules.clauses.matches.extensions") {
                    ignored.push("rules.clauses.matches.extensions");
                }
                let path = || format!("rules[{r}].clauses[{c}].matches[{m}]");
                let conditions = decode_match(conditions, &path, reading)?;
                let never = is_extended && action == Action::Allow;
                // Without any condition it does not hold in an ALLOW policy.
                matches.push(if never { Match::default() } else { conditions });
            }
            clauses.push(Clause { matches });
        }
        rules.push(Rule { clauses });
    }
    let policy = Policy {
        key: shared(&format!("{}/{}", message.namespace, message.name)),
        namespace: shared(&message.namespace),
        scope,
        action,
        dry_run: message.dry_run,
        rules,
    };
    Ok((policy, ignored))
}

fn decode_match(
    conditions: &proto::Match,
    path: &dyn Fn() -> String,
    reading: Reading<'_>,
) -> Result<Match, ConversionError> {
    let at = |field: &str, index: usize| format!("{}.{field}[{index}]", path());
    let strings = |field: &str, list: &[proto::StringMatch]| -> Result<Vec<StringMatch>, ConversionError> {
        let decode = |(index, condition)| {
            decode_string(condition).ok_or_else(|| reading.fail(at(field, index), "is of no kind that is known"))
        };
        list.iter().enumerate().map(decode).collect()
    };
    let ranges = |field: &str, list: &[proto::Address]| -> Result<Vec<IpNet>, ConversionError> {
        let decode = |(index, range): (usize, &proto::Address)| {
            let address: IpAddr = reading.address(at(field, index), &range.address)?;
            let length = u8::try_from(range.length).ok();
            length.and_then(|length| IpNet::new(address, length).ok()).ok_or_else(|| {
                let reason = format!("{address} cannot have a prefix of {} bits", range.length);
                reading.fail(at(field, index), reason)
            })
        };
        list.iter().enumerate().map(decode).collect()
    };
    let ports = |field: &str, list: &[u32]| -> Result<Vec<u16>, ConversionError> {
        list.iter().enumerate().map(|(index, port)| reading.port(at(field, index), *port)).collect()
    };
    let accounts = |list: &[proto::ServiceAccountMatch]| {
        let decode = |account: &proto::ServiceAccountMatch| ServiceAccountMatch {
            namespace: shared(&account.namespace),
            service_account: shared(&account.service_account),
        };
        list.iter().map(decode).collect()
    };
    Ok(Match {
        principals: strings("principals", &conditions.principals)?,
        not_principals: strings("not_principals", &conditions.not_principals)?,
        namespaces: strings("namespaces", &conditions.namespaces)?,
        not_namespaces: strings("not_namespaces", &conditions.not_namespaces)?,
        service_accounts: accounts(&conditions.service_accounts),
        not_service_accounts: accounts(&conditions.not_service_accounts),
        source_ips: ranges("source_ips", &conditions.source_ips)?,
        not_source_ips: ranges("not_source_ips", &conditions.not_source_ips)?,
        destination_ips: ranges("destination_ips", &conditions.destination_ips)?,
        not_destination_ips: ranges("not_destination_ips", &conditions.not_destination_ips)?,
        destination_ports: ports("destination_ports", &conditions.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &conditions.not_destination_ports)?,
    })
}

fn decode_string(condition: &proto::StringMatch) -> Option<StringMatch> {
    Some(match condition.match_type.as_ref()? {
        MatchType::Exact(text) => StringMatch::Exact(shared(text)),
        MatchType::Prefix(text) => StringMatch::Prefix(shared(text)),
        MatchType::Suffix(text) => StringMatch::Suffix(shared(text)),
        MatchType::Presence(()) => StringMatch::Presence,
    })
}
