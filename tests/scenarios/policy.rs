//! Policies: what they end, what they leave alone, and what an operator is told.

use anyhow::{Result, ensure};
use weft_tests::server::Behaviour;
use weft_tests::{PodSpec, World};

use crate::client::{Conversation, assert_answered, assert_refused, eventually_answered, eventually_refused};
use crate::pair::{NAMESPACE, Pair, authorization, serve};

const ONLY_CLIENT: &str = "  action: ALLOW\n  rules:\n    - from:\n        - source:\n            principals: [\"cluster.local/ns/shop/sa/client\"]";
const NOT_CLIENT: &str = "  action: DENY\n  rules:\n    - from:\n        - source:\n            principals: [\"cluster.local/ns/shop/sa/client\"]";

#[test]
fn a_denied_connection_is_reset_and_the_log_names_the_policy() -> Result<()> {
    let pair = Pair::start()?;
    let server = pair.echo(8080)?;
    pair.apply_policy("not-client", &authorization("not-client", NOT_CLIENT))?;
    for to in [pair.server.at(8080), pair.server.at6(8080)] {
        assert_refused(&pair.client, to)?;
    }
    ensure!(server.count() == 0, "a denied connection reached the application");
    pair.agent_b.wait_for_log(&["shop/not-client", "sa/client", "8080"])?;
    let denied = [("response_flags", "DENY")];
    pair.agent_b.wait_for_metric("istio_tcp_connections_failed_total", &denied, 2.0)?;
    pair.agent_a.wait_for_metric("istio_tcp_connections_failed_total", &denied, 2.0)?;
    Ok(())
}

#[test]
fn with_an_allow_policy_all_others_are_denied() -> Result<()> {
    let pair = Pair::start()?;
    let other = pair.a.pod(PodSpec::new("other").namespace(NAMESPACE).service_account("other"))?;
    pair.agent_a.wait_enrolled(&other)?;
    let _echo = pair.echo(8080)?;
    assert_answered(&other, pair.server.at(8080))?;
    pair.apply_policy("only-client", &authorization("only-client", ONLY_CLIENT))?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    assert_refused(&other, pair.server.at(8080))?;
    // Plain text proves no identity.
    pair.world.namespace("outside", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("outside"))?;
    assert_refused(&stranger, pair.server.at(8080))?;
    pair.world.config().remove("policy")?;
    eventually_answered(&other, pair.server.at(8080))?;
    eventually_answered(&stranger, pair.server.at(8080))
}

#[test]
fn a_deny_beats_an_allow() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    pair.world.config().put("allow", &authorization("only-client", ONLY_CLIENT))?;
    pair.apply_policy("not-client", &authorization("not-client", NOT_CLIENT))?;
    pair.agent_b.wait_for_policy("shop/only-client")?;
    assert_refused(&pair.client, pair.server.at(8080))
}

#[test]
fn a_change_ends_the_live_connections_that_it_no_longer_allows_and_only_those() -> Result<()> {
    let pair = Pair::start()?;
    let other = pair.a.pod(PodSpec::new("other").namespace(NAMESPACE).service_account("other"))?;
    pair.world.namespace("outside", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("outside"))?;
    pair.agent_a.wait_enrolled(&other)?;
    let _echo = pair.echo(8080)?;
    let mut denied = Conversation::open(&pair.client, pair.server.at(8080))?;
    let mut allowed = Conversation::open(&other, pair.server.at(8080))?;
    let mut plain = Conversation::open(&stranger, pair.server.at(8080))?;
    // The other way round: the client is the destination here, and the policies below are about sources.
    let _on_client = serve(&pair.client, 8080, Behaviour::Echo)?;
    let mut back = Conversation::open(&pair.server, pair.client.at(8080))?;
    pair.apply_policy("not-client", &authorization("not-client", NOT_CLIENT))?;
    denied.wait_for_reset()?;
    for conversation in [&mut allowed, &mut plain, &mut back] {
        conversation.exchange()?;
    }
    pair.apply_policy("only-client", &authorization("only-client", ONLY_CLIENT))?;
    allowed.wait_for_reset()?;
    plain.wait_for_reset()?;
    // `back` goes to a pod that the same policy protects, from an identity that it does not allow.
    back.wait_for_reset()
}

#[test]
fn a_policy_with_a_selector_applies_to_the_pods_it_selects() -> Result<()> {
    let pair = Pair::start()?;
    let db = pair.b.pod(PodSpec::new("db").namespace(NAMESPACE).label("tier", "data"))?;
    pair.agent_b.wait_enrolled(&db)?;
    pair.agent_a.wait_for_protocol(&db, "hbone")?;
    let _echo = pair.echo(8080)?;
    let _on_db = serve(&db, 8080, Behaviour::Echo)?;
    let spec = format!("  selector:\n    matchLabels:\n      tier: data\n{NOT_CLIENT}");
    pair.apply_policy("data", &authorization("data", &spec))?;
    assert_refused(&pair.client, db.at(8080))?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    // A pod that gets the label comes under the policy.
    pair.server.set_label("tier", Some("data"))?;
    eventually_refused(&pair.client, pair.server.at(8080))
}

#[test]
fn a_policy_of_the_root_namespace_applies_everywhere_and_one_of_another_namespace_does_not() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let elsewhere = authorization("elsewhere", NOT_CLIENT).replace("namespace: shop", "namespace: other");
    pair.world.config().put("elsewhere", &elsewhere)?;
    pair.agent_b.wait_for_policy("other/elsewhere")?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    let everywhere = authorization("everywhere", NOT_CLIENT).replace("namespace: shop", "namespace: istio-system");
    pair.world.config().put("everywhere", &everywhere)?;
    pair.agent_b.wait_for_policy("istio-system/everywhere")?;
    assert_refused(&pair.client, pair.server.at(8080))
}

#[test]
fn an_empty_rule_matches_all_and_no_rule_matches_none() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    for (name, spec, is_allowed) in [
        ("allow-nothing", "  action: ALLOW", false),
        ("allow-everything", "  action: ALLOW\n  rules: [{}]", true),
        ("deny-nothing", "  action: DENY\n  rules: []", true),
        ("deny-everything", "  action: DENY\n  rules: [{}]", false),
        ("default-is-allow", "  rules: [{}]", true),
    ] {
        pair.apply_policy(name, &authorization(name, spec))?;
        let check = if is_allowed { assert_answered } else { assert_refused };
        check(&pair.client, pair.server.at(8080)).map_err(|error| error.context(name))?;
    }
    Ok(())
}

#[test]
fn a_deny_policy_with_conditions_on_requests_fails_closed_and_says_so() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let spec = "  action: DENY\n  rules:\n    - to:\n        - operation:\n            methods: [\"DELETE\"]";
    pair.apply_policy("no-delete", &authorization("no-delete", spec))?;
    assert_refused(&pair.client, pair.server.at(8080))?;
    let status = pair.agent_b.json("status")?;
    let problems = status["problems"].to_string();
    ensure!(problems.contains("no-delete"), "weft status says nothing of it: {problems}");
    let spec = "  action: ALLOW\n  rules:\n    - to:\n        - operation:\n            methods: [\"GET\"]\n    - to:\n        - operation:\n            ports: [\"9090\"]";
    pair.apply_policy("only-get", &authorization("only-get", spec))?;
    assert_refused(&pair.client, pair.server.at(8080))
}

#[test]
fn policies_do_not_judge_pods_outside_the_mesh() -> Result<()> {
    let world = World::new()?;
    world.namespace("plain", &[])?;
    let a = world.node("a")?;
    let (client, server) =
        (a.pod(PodSpec::new("client").namespace("plain"))?, a.pod(PodSpec::new("server").namespace("plain"))?);
    let agent = a.agent().start()?;
    let policy =
        authorization("deny-all", "  action: DENY\n  rules: [{}]").replace("namespace: shop", "namespace: plain");
    world.config().put("policy", &policy)?;
    agent.wait_for_policy("plain/deny-all")?;
    let _echo = serve(&server, 8080, Behaviour::Echo)?;
    assert_answered(&client, server.at(8080))
}
