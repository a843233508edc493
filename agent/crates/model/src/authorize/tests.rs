use std::net::Ipv4Addr;

use super::*;
use crate::fixture::{from_namespace, ip, pod, policy, store};
use crate::policy::PolicyScope::{self, Mesh, Namespace};
use crate::policy::{Clause, Match, Rule, ServiceAccountMatch, StringMatch};
use crate::{Change, Snapshot};

mod oracle;

fn identity(namespace: &str, service_account: &str) -> Identity {
    Identity::new("cluster.local", namespace, service_account).expect("a valid identity")
}

/// A peer from 10.0.0.7, to 10.0.0.1:8080.
fn peer(identity: Option<&Identity>) -> Peer<'_> {
    let destination = SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), 8080);
    Peer { identity, source: ip("10.0.0.7"), destination }
}

fn snapshot(policies: Vec<Policy>) -> Arc<Snapshot> {
    store().apply(policies.into_iter().map(Change::PutPolicy).collect()).snapshot
}

/// The verdict on a peer of `frontend/web` in words, `allowed` or the name of the policy in the way.
fn judge(policies: Vec<Policy>, references: &[&str]) -> String {
    let frontend = identity("frontend", "web");
    let workload = pod("a", &["10.0.0.1"]).under(references);
    match snapshot(policies).authorize(&workload, &peer(Some(&frontend))) {
        Verdict::Allowed => "allowed".to_owned(),
        Verdict::Denied(denial) => denial.to_string(),
    }
}

fn from_frontend() -> Match {
    from_namespace("frontend")
}

fn from_elsewhere() -> Match {
    from_namespace("elsewhere")
}

#[test]
fn deny_precedes_allow_and_one_allow_must_match_if_there_is_any() {
    use Action::{Allow, Deny};
    let in_namespace =
        |name: &str, action, conditions| policy(&format!("default/{name}"), Namespace, action, conditions);
    for (policies, wanted) in [
        (vec![], "allowed"),
        (vec![in_namespace("a", Allow, from_frontend())], "allowed"),
        (
            vec![in_namespace("a", Allow, from_elsewhere())],
            "not allowed by default/a, the only ALLOW policy that applies",
        ),
        (
            vec![in_namespace("b", Allow, from_elsewhere()), in_namespace("a", Allow, from_elsewhere())],
            "allowed by none of the 2 ALLOW policies that apply, default/a among them",
        ),
        (vec![in_namespace("a", Allow, from_elsewhere()), in_namespace("b", Allow, from_frontend())], "allowed"),
        (vec![in_namespace("d", Deny, from_elsewhere())], "allowed"),
        (vec![in_namespace("d", Deny, from_frontend())], "denied by the DENY policy default/d"),
        (
            vec![in_namespace("a", Allow, from_frontend()), in_namespace("d", Deny, from_frontend())],
            "denied by the DENY policy default/d",
        ),
    ] {
        assert_eq!(judge(policies, &[]), wanted);
    }
}

#[test]
fn policies_apply_by_their_scope() {
    let deny = |key, scope: PolicyScope| policy(key, scope, Action::Deny, from_frontend());
    for (policy, references, wanted) in [
        (deny("istio-system/d", Mesh), &[][..], "denied by the DENY policy istio-system/d"),
        (deny("istio-system/d", Namespace), &[], "denied by the DENY policy istio-system/d"),
        (deny("default/d", Namespace), &[], "denied by the DENY policy default/d"),
        (deny("other/d", Namespace), &[], "allowed"),
        (deny("default/d", PolicyScope::Workload), &[], "allowed"),
        (deny("default/d", PolicyScope::Workload), &["default/d"], "denied by the DENY policy default/d"),
        (
            deny("istio-system/d", PolicyScope::Workload),
            &["istio-system/d"],
            "denied by the DENY policy istio-system/d",
        ),
    ] {
        assert_eq!(judge(vec![policy], references), wanted);
    }
}

#[test]
fn an_unknown_reference_denies_until_it_is_known() {
    let unknown = "denied because policy default/missing applies to the workload and is not known yet";
    assert_eq!(judge(vec![], &["default/missing"]), unknown);
    let allow = policy("default/a", Namespace, Action::Allow, from_frontend());
    assert_eq!(judge(vec![allow], &["default/missing"]), unknown);
    let arrived = policy("default/missing", PolicyScope::Workload, Action::Deny, from_elsewhere());
    assert_eq!(judge(vec![arrived], &["default/missing"]), "allowed");
}

#[test]
fn a_dry_run_is_never_enforced_but_known() {
    let dry = |policy| Policy { dry_run: true, ..policy };
    let deny = policy("default/d", Namespace, Action::Deny, from_frontend());
    let allow = policy("default/a", PolicyScope::Workload, Action::Allow, from_elsewhere());
    assert_eq!(judge(vec![dry(deny), dry(allow)], &["default/a", "default/d"]), "allowed");
}

#[test]
fn a_policy_that_changes_its_scope_or_action_leaves_nothing_behind() {
    let workload = pod("a", &["10.0.0.1"]);
    let frontend = identity("frontend", "web");
    let mut store = store();
    for (scope, action, dry_run, is_allowed) in [
        (Mesh, Action::Deny, false, false),
        (PolicyScope::Workload, Action::Deny, false, true),
        (Namespace, Action::Deny, false, false),
        (Namespace, Action::Deny, true, true),
        (Namespace, Action::Deny, false, false),
        (Namespace, Action::Allow, false, true),
        (Mesh, Action::Deny, true, true),
    ] {
        let changed = Policy { dry_run, ..policy("default/p", scope, action, from_frontend()) };
        let snapshot = store.put_policies([changed]).snapshot;
        assert_eq!(snapshot.authorize(&workload, &peer(Some(&frontend))).is_allowed(), is_allowed);
    }
    let snapshot = store.apply(vec![Change::RemovePolicy("default/p".into())]).snapshot;
    assert_eq!((snapshot.policies().count(), snapshot.policy("default/p")), (0, None));
    assert!(snapshot.authorize(&workload, &peer(Some(&frontend))).is_allowed());
}

#[test]
fn what_is_empty_fails_closed() {
    let with = |action, rules: Vec<Rule>| Policy { rules, ..policy("default/p", Namespace, action, Match::default()) };
    let rule = |clauses: Vec<Clause>| Rule { clauses };
    let clause = |matches: Vec<Match>| Clause { matches };
    for (rules, deny_matches, allow_matches) in [
        (vec![], false, false),
        (vec![rule(vec![])], true, true),
        (vec![rule(vec![clause(vec![])])], true, true),
        (vec![rule(vec![clause(vec![Match::default()])])], true, false),
        (vec![rule(vec![clause(vec![Match::default(), from_frontend()])])], true, true),
        (vec![rule(vec![clause(vec![from_frontend()]), clause(vec![Match::default()])])], true, false),
        (vec![rule(vec![clause(vec![from_frontend()]), clause(vec![from_elsewhere()])])], false, false),
        (vec![rule(vec![clause(vec![from_elsewhere()])]), rule(vec![clause(vec![from_frontend()])])], true, true),
    ] {
        let denied = judge(vec![with(Action::Deny, rules.clone())], &[]) != "allowed";
        assert_eq!(denied, deny_matches, "DENY {rules:?}");
        let allowed = judge(vec![with(Action::Allow, rules.clone())], &[]) == "allowed";
        assert_eq!(allowed, allow_matches, "ALLOW {rules:?}");
    }
}

/// Whether one match holds for a peer, judged through an ALLOW policy.
fn holds(conditions: Match, peer: &Peer<'_>) -> bool {
    let policy = policy("default/p", Namespace, Action::Allow, conditions);
    snapshot(vec![policy]).authorize(&pod("a", &["10.0.0.1"]), peer).is_allowed()
}

#[test]
fn strings_are_compared_exactly_by_prefix_by_suffix_and_for_presence() {
    let frontend = identity("frontend", "web");
    let exact = |text: &str| StringMatch::Exact(text.into());
    let prefix = |text: &str| StringMatch::Prefix(text.into());
    let suffix = |text: &str| StringMatch::Suffix(text.into());
    for (entry, wanted) in [
        (exact("cluster.local/ns/frontend/sa/web"), true),
        (exact("spiffe://cluster.local/ns/frontend/sa/web"), false),
        (exact("cluster.local/ns/frontend/sa/we"), false),
        (exact("cluster.local/ns/Frontend/sa/web"), false),
        (prefix("cluster.local/ns/front"), true),
        (prefix("local/ns/frontend"), false),
        (suffix("/sa/web"), true),
        (suffix("/sa/we"), false),
        (StringMatch::Presence, true),
    ] {
        let (principals, not_principals) = (vec![entry.clone()], vec![entry.clone()]);
        let peer = peer(Some(&frontend));
        assert_eq!(holds(Match { principals, ..Match::default() }, &peer), wanted, "{entry:?}");
        assert_eq!(holds(Match { not_principals, ..Match::default() }, &peer), !wanted, "not {entry:?}");
    }
    for (entry, wanted) in [(exact("frontend"), true), (prefix("front"), true), (suffix("web"), false)] {
        let namespaces = vec![entry.clone()];
        assert_eq!(holds(Match { namespaces, ..Match::default() }, &peer(Some(&frontend))), wanted, "{entry:?}");
    }
}

#[test]
fn service_accounts_are_compared_with_their_namespace() {
    for (namespace, service_account, wanted) in
        [("frontend", "web", true), ("frontend", "api", false), ("backend", "web", false)]
    {
        let frontend = identity("frontend", "web");
        let entry =
            || vec![ServiceAccountMatch { namespace: namespace.into(), service_account: service_account.into() }];
        let peer = peer(Some(&frontend));
        assert_eq!(holds(Match { service_accounts: entry(), ..Match::default() }, &peer), wanted);
        assert_eq!(holds(Match { not_service_accounts: entry(), ..Match::default() }, &peer), !wanted);
    }
}

#[test]
fn a_peer_without_identity_matches_no_identity_and_every_negation_of_one() {
    let any = || vec![StringMatch::Presence, StringMatch::Prefix("".into()), StringMatch::Exact("".into())];
    let account = || vec![ServiceAccountMatch { namespace: "".into(), service_account: "".into() }];
    let none = Match::default;
    for (conditions, wanted) in [
        (Match { principals: any(), ..none() }, false),
        (Match { namespaces: any(), ..none() }, false),
        (Match { service_accounts: account(), ..none() }, false),
        (Match { not_principals: any(), ..none() }, true),
        (Match { not_namespaces: any(), ..none() }, true),
        (Match { not_service_accounts: account(), ..none() }, true),
    ] {
        assert_eq!(holds(conditions.clone(), &peer(None)), wanted, "{conditions:?}");
    }
}

#[test]
fn strict_mutual_tls_is_a_deny_policy_for_peers_without_identity() {
    let not_principals = vec![StringMatch::Presence];
    let conditions = Match { not_principals, ..Match::default() };
    let strict = policy("istio-system/istio_converted_static_strict", PolicyScope::Workload, Action::Deny, conditions);
    let snapshot = snapshot(vec![strict]);
    let workload = pod("a", &["10.0.0.1"]).under(&["istio-system/istio_converted_static_strict"]);
    let frontend = identity("frontend", "web");
    assert!(snapshot.authorize(&workload, &peer(Some(&frontend))).is_allowed());
    let Verdict::Denied(denial) = snapshot.authorize(&workload, &peer(None)) else { panic!("plaintext is allowed") };
    assert_eq!(denial.policy(), Some("istio-system/istio_converted_static_strict"));
}

#[test]
fn ranges_match_addresses_of_their_family_and_mapped_ones_as_ipv4() {
    for (range, address, wanted) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
        ("0.0.0.0/0", "fd00::1", false),
        ("::/0", "10.0.0.1", false),
        ("::/0", "fd00::1", true),
        ("fd00::/8", "fd12::1", true),
        ("fd00::/8", "fe80::1", false),
        ("10.0.0.1/32", "10.0.0.1", true),
        ("10.9.9.9/8", "10.0.0.1", true),
    ] {
        let ranges = || vec![range.parse().expect("a valid range")];
        let from = Peer { source: ip(address), ..peer(None) };
        let to = Peer { destination: SocketAddr::new(ip(address), 8080), ..peer(None) };
        let none = Match::default;
        for (conditions, peer, wanted) in [
            (Match { source_ips: ranges(), ..none() }, &from, wanted),
            (Match { not_source_ips: ranges(), ..none() }, &from, !wanted),
            (Match { destination_ips: ranges(), ..none() }, &to, wanted),
            (Match { not_destination_ips: ranges(), ..none() }, &to, !wanted),
        ] {
            assert_eq!(holds(conditions.clone(), peer), wanted, "{address} {conditions:?}");
        }
    }
}

#[test]
fn ports_are_the_destinations() {
    for (ports, wanted) in [(vec![8080], true), (vec![80], false), (vec![80, 8080], true)] {
        let positive = Match { destination_ports: ports.clone(), ..Match::default() };
        let negative = Match { not_destination_ports: ports, ..Match::default() };
        assert_eq!((holds(positive, &peer(None)), holds(negative, &peer(None))), (wanted, !wanted));
    }
}

#[test]
fn all_lists_of_a_match_must_hold() {
    let frontend = identity("frontend", "web");
    let peer = peer(Some(&frontend));
    let base = Match { destination_ports: vec![8080], ..from_frontend() };
    assert!(holds(base.clone(), &peer));
    assert!(!holds(Match { destination_ports: vec![80], ..base.clone() }, &peer));
    assert!(!holds(Match { not_namespaces: base.namespaces.clone(), ..base.clone() }, &peer));
    assert!(holds(Match { not_namespaces: from_elsewhere().namespaces, ..base }, &peer));
}
