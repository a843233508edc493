//! Verdicts against the semantics written out naively, on text and bits.

use ipnet::IpNet;

use super::*;
use crate::Workload;

fn naive(policies: &[Policy], workload: &Workload, peer: &Peer<'_>) -> bool {
    let applies = |policy: &&Policy| {
        let is_referred = workload.policies.contains(&policy.key);
        let is_everywhere = match policy.scope {
            Mesh => true,
            Namespace => ["istio-system", &workload.namespace].contains(&&*policy.namespace),
            PolicyScope::Workload => false,
        };
        is_referred || is_everywhere
    };
    let of = |action| -> Vec<&Policy> {
        policies.iter().filter(applies).filter(|policy| policy.action == action && !policy.dry_run).collect()
    };
    let matches = |policy: &&Policy| naive_matches(policy, peer);
    let is_known = |key: &Arc<str>| policies.iter().any(|policy| policy.key == *key);
    let (allow, deny) = (of(Action::Allow), of(Action::Deny));
    workload.policies.iter().all(is_known)
        && !deny.iter().any(&matches)
        && (allow.is_empty() || allow.iter().any(matches))
}

fn naive_matches(policy: &Policy, peer: &Peer<'_>) -> bool {
    let mut matches = false;
    for rule in &policy.rules {
        let mut all = true;
        for clause in &rule.clauses {
            let mut any = clause.matches.is_empty();
            for conditions in &clause.matches {
                any |= naive_holds(conditions, policy.action, peer);
            }
            all &= any;
        }
        matches |= all;
    }
    matches
}

fn naive_holds(m: &Match, action: Action, peer: &Peer<'_>) -> bool {
    let mut lists: Vec<(bool, Vec<bool>)> = Vec::new();
    let text = peer.identity.map(ToString::to_string).unwrap_or_default();
    let parts: Vec<&str> = text.split('/').collect();
    let principal = text.strip_prefix("spiffe://").unwrap_or_default().to_owned();
    let namespace = parts.get(4).copied().unwrap_or_default().to_owned();
    let account = parts.get(6).copied().unwrap_or_default().to_owned();
    let string = |entry: &StringMatch, text: &str| {
        let (pattern, ignores_start, ignores_end) = match entry {
            StringMatch::Exact(pattern) => (&**pattern, false, false),
            StringMatch::Prefix(pattern) => (&**pattern, false, true),
            StringMatch::Suffix(pattern) => (&**pattern, true, false),
            StringMatch::Presence => ("", true, true),
        };
        let cut = text.len().checked_sub(pattern.len());
        let at = |start: usize| text.get(start..start + pattern.len()) == Some(pattern);
        !text.is_empty()
            && cut.is_some_and(|cut| {
                (0..=cut).any(|start| at(start) && (start == 0 || ignores_start) && (start == cut || ignores_end))
            })
    };
    for (is_positive, entries) in [(true, &m.principals), (false, &m.not_principals)] {
        lists.push((is_positive, entries.iter().map(|entry| string(entry, &principal)).collect()));
    }
    for (is_positive, entries) in [(true, &m.namespaces), (false, &m.not_namespaces)] {
        lists.push((is_positive, entries.iter().map(|entry| string(entry, &namespace)).collect()));
    }
    for (is_positive, entries) in [(true, &m.service_accounts), (false, &m.not_service_accounts)] {
        let matches = |entry: &ServiceAccountMatch| {
            !text.is_empty() && *entry.namespace == namespace && *entry.service_account == account
        };
        lists.push((is_positive, entries.iter().map(matches).collect()));
    }
    for (is_positive, entries, address) in [
        (true, &m.source_ips, peer.source),
        (false, &m.not_source_ips, peer.source),
        (true, &m.destination_ips, peer.destination.ip()),
        (false, &m.not_destination_ips, peer.destination.ip()),
    ] {
        lists.push((is_positive, entries.iter().map(|range| naive_contains(range, address)).collect()));
    }
    for (is_positive, entries) in [(true, &m.destination_ports), (false, &m.not_destination_ports)] {
        lists.push((is_positive, entries.iter().map(|port| *port == peer.destination.port()).collect()));
    }
    if lists.iter().all(|(_, entries)| entries.is_empty()) {
        return action == Action::Deny;
    }
    lists.iter().all(|(is_positive, entries)| entries.is_empty() || entries.contains(&true) == *is_positive)
}

/// Compares the leading bits as text, mapped addresses as the IPv4 ones that they are.
fn naive_contains(range: &IpNet, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (4, format!("{:032b}", v4.to_bits())),
        IpAddr::V6(v6) => (6, format!("{:0128b}", v6.to_bits())),
    };
    let is_mapped = range.addr().to_canonical() != range.addr() && range.prefix_len() >= 96;
    let (base, length) = match is_mapped {
        true => (range.addr().to_canonical(), range.prefix_len() - 96),
        false => (range.addr(), range.prefix_len()),
    };
    let ((base_family, base), (family, address)) = (bits(base), bits(address.to_canonical()));
    base_family == family && base[..usize::from(length)] == address[..usize::from(length)]
}

fn pick<T: Clone>(random: &mut fastrand::Rng, from: &[T]) -> Vec<T> {
    match random.u8(..8) {
        0 => (0..random.usize(1..3)).map(|_| from[random.usize(..from.len())].clone()).collect(),
        _ => Vec::new(),
    }
}

fn random_match(random: &mut fastrand::Rng) -> Match {
    use StringMatch::{Exact, Prefix, Presence, Suffix};
    let strings = [
        Presence,
        Exact("frontend".into()),
        Exact("cluster.local/ns/frontend/sa/web".into()),
        Prefix("front".into()),
        Prefix("cluster.local/ns/back".into()),
        Suffix("end".into()),
        Suffix("/sa/web".into()),
        Prefix("".into()),
    ];
    let accounts = [("frontend", "web"), ("backend", "web"), ("", "")].map(|(namespace, service_account)| {
        ServiceAccountMatch { namespace: namespace.into(), service_account: service_account.into() }
    });
    let ranges = ["10.0.0.0/8", "10.0.0.4/30", "::/0", "fd00::/16", "::ffff:10.0.0.0/112", "0.0.0.0/0"]
        .map(|range| range.parse::<IpNet>().expect("a valid range"));
    let ports = [80, 8080, 443];
    Match {
        principals: pick(random, &strings),
        not_principals: pick(random, &strings),
        namespaces: pick(random, &strings),
        not_namespaces: pick(random, &strings),
        service_accounts: pick(random, &accounts),
        not_service_accounts: pick(random, &accounts),
        source_ips: pick(random, &ranges),
        not_source_ips: pick(random, &ranges),
        destination_ips: pick(random, &ranges),
        not_destination_ips: pick(random, &ranges),
        destination_ports: pick(random, &ports),
        not_destination_ports: pick(random, &ports),
    }
}

fn random_policy(random: &mut fastrand::Rng, number: usize) -> Policy {
    let namespace = ["default", "istio-system", "other"][random.usize(..3)];
    let list = |random: &mut fastrand::Rng| 0..[0, 1, 1, 2][random.usize(..4)];
    let clause = |random: &mut fastrand::Rng| Clause { matches: list(random).map(|_| random_match(random)).collect() };
    let rule = |random: &mut fastrand::Rng| Rule { clauses: list(random).map(|_| clause(random)).collect() };
    Policy {
        key: format!("{namespace}/policy-{number}").into(),
        namespace: namespace.into(),
        scope: [Mesh, Namespace, PolicyScope::Workload][random.usize(..3)],
        action: if random.bool() { Action::Allow } else { Action::Deny },
        dry_run: random.u8(..8) == 0,
        rules: list(random).map(|_| rule(random)).collect(),
    }
}

#[test]
fn verdicts_are_those_of_the_naive_semantics() {
    let mut random = fastrand::Rng::with_seed(3);
    let identities = [identity("frontend", "web"), identity("backend", "web"), identity("frontend", "api")];
    let addresses = ["10.0.0.5", "::ffff:10.0.0.5", "192.168.1.1", "fd00::5", "fe80::5"].map(ip);
    let mut verdicts = [0, 0];
    for _ in 0..4000 {
        let policies: Vec<Policy> = (0..random.usize(..4)).map(|number| random_policy(&mut random, number)).collect();
        let mut workload = pod("a", &["10.0.0.1"]);
        for policy in &policies {
            if random.bool() {
                workload.policies.push(Arc::clone(&policy.key));
            }
        }
        if random.u8(..20) == 0 {
            workload.policies.push("default/unknown".into());
        }
        let snapshot = snapshot(policies.clone());
        for _ in 0..5 {
            let destination = SocketAddr::new(addresses[random.usize(..5)], [80, 8080][random.usize(..2)]);
            let identity = identities.get(random.usize(..4));
            let peer = Peer { identity, source: addresses[random.usize(..5)], destination };
            let wanted = naive(&policies, &workload, &peer);
            let found = snapshot.authorize(&workload, &peer);
            assert_eq!(found.is_allowed(), wanted, "{found:?} {peer:?} {:?} {policies:#?}", workload.policies);
            verdicts[usize::from(wanted)] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 2000), "the cases are lopsided: {verdicts:?}");
}
