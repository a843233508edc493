//! Every condition that an `AuthorizationPolicy` has at layer 4, one by one, on real connections.

use anyhow::{Context as _, Result};

use crate::client::{assert_answered, assert_refused};
use crate::pair::{Pair, authorization};

/// A condition, and whether it matches a connection of `client` (10.244.1.2, fd00:244:0:1::2) to port 8080 of `server`.
struct Case {
    rule: &'static str,
    matches: bool,
}

const fn case(rule: &'static str, matches: bool) -> Case {
    Case { rule, matches }
}

const SOURCE: &[Case] = &[
    case("principals: [\"cluster.local/ns/shop/sa/client\"]", true),
    case("principals: [\"cluster.local/ns/shop/sa/clien\"]", false),
    case("principals: [\"cluster.local/ns/shop/*\"]", true),
    case("principals: [\"*/sa/client\"]", true),
    case("principals: [\"*\"]", true),
    case("principals: [\"cluster.local/ns/other/*\", \"*/sa/client\"]", true),
    case("notPrincipals: [\"cluster.local/ns/shop/sa/client\"]", false),
    case("notPrincipals: [\"cluster.local/ns/shop/sa/other\"]", true),
    case("notPrincipals: [\"*\"]", false),
    case("namespaces: [\"shop\"]", true),
    case("namespaces: [\"sho*\"]", true),
    case("namespaces: [\"*op\"]", true),
    case("namespaces: [\"other\"]", false),
    case("notNamespaces: [\"shop\"]", false),
    case("notNamespaces: [\"other\"]", true),
    case("serviceAccounts: [\"shop/client\"]", true),
    case("serviceAccounts: [\"client\"]", true),
    case("serviceAccounts: [\"other/client\"]", false),
    case("notServiceAccounts: [\"shop/client\"]", false),
    case("notServiceAccounts: [\"shop/other\"]", true),
    case("ipBlocks: [\"10.244.1.2\"]", true),
    case("ipBlocks: [\"10.244.1.0/24\"]", true),
    case("ipBlocks: [\"10.244.2.0/24\"]", false),
    case("ipBlocks: [\"10.244.2.0/24\", \"10.0.0.0/8\"]", true),
    case("notIpBlocks: [\"10.244.1.2\"]", false),
    case("notIpBlocks: [\"10.244.2.0/24\"]", true),
    case("ipBlocks: [\"0.0.0.0/0\"]", true),
    case("principals: [\"*/sa/client\"]\n            namespaces: [\"other\"]", false),
    case("principals: [\"*/sa/client\"]\n            notIpBlocks: [\"10.9.0.0/16\"]", true),
];

const OPERATION: &[Case] = &[
    case("ports: [\"8080\"]", true),
    case("ports: [\"80\", \"8080\"]", true),
    case("ports: [\"80\"]", false),
    case("notPorts: [\"8080\"]", false),
    case("notPorts: [\"80\"]", true),
];

const WHEN: &[Case] = &[
    case("key: source.principal\n          values: [\"cluster.local/ns/shop/sa/client\"]", true),
    case("key: source.principal\n          notValues: [\"cluster.local/ns/shop/sa/client\"]", false),
    case("key: source.namespace\n          values: [\"shop\"]", true),
    case("key: source.namespace\n          values: [\"other\"]", false),
    case("key: source.ip\n          values: [\"10.244.1.0/24\"]", true),
    case("key: source.ip\n          notValues: [\"10.244.1.0/24\"]", false),
    case("key: destination.ip\n          values: [\"10.244.2.2\"]", true),
    case("key: destination.ip\n          values: [\"10.244.2.3\"]", false),
    case("key: destination.port\n          values: [\"8080\"]", true),
    case("key: destination.port\n          notValues: [\"8080\"]", false),
];

/// Applies a policy for each case, once as DENY and once as ALLOW, and connects.
fn check(cases: &[Case], rule: impl Fn(&str) -> String) -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    for (number, case) in cases.iter().enumerate() {
        for action in ["DENY", "ALLOW"] {
            let name = format!("case-{number}-{}", action.to_lowercase());
            let spec = format!("  action: {action}\n  rules:\n{}", rule(case.rule));
            pair.apply_policy(&name, &authorization(&name, &spec))?;
            let is_allowed = (action == "ALLOW") == case.matches;
            let expect = if is_allowed { assert_answered } else { assert_refused };
            expect(&pair.client, pair.server.at(8080)).with_context(|| format!("{action} with {}", case.rule))?;
        }
    }
    Ok(())
}

#[test]
fn conditions_on_the_source() -> Result<()> {
    check(SOURCE, |condition| format!("    - from:\n        - source:\n            {condition}"))
}

#[test]
fn conditions_on_the_operation() -> Result<()> {
    check(OPERATION, |condition| format!("    - to:\n        - operation:\n            {condition}"))
}

#[test]
fn conditions_by_key() -> Result<()> {
    check(WHEN, |condition| format!("    - when:\n        - {condition}"))
}

#[test]
fn parts_of_a_rule_must_all_match_and_one_rule_is_enough() -> Result<()> {
    const RULES: &[Case] = &[
        case("    - from: [{source: {namespaces: [shop]}}]\n      to: [{operation: {ports: [\"8080\"]}}]", true),
        case("    - from: [{source: {namespaces: [shop]}}]\n      to: [{operation: {ports: [\"80\"]}}]", false),
        case("    - from: [{source: {namespaces: [other]}}, {source: {namespaces: [shop]}}]", true),
        case("    - from: [{source: {namespaces: [other]}}]\n    - to: [{operation: {ports: [\"8080\"]}}]", true),
        case(
            "    - from: [{source: {namespaces: [shop]}}]\n      when: [{key: destination.port, values: [\"80\"]}]",
            false,
        ),
        case("    - from: [{source: {namespaces: [other]}}]\n    - from: [{source: {namespaces: [third]}}]", false),
    ];
    check(RULES, str::to_owned)
}
