//! An address that is given to another pod never leads to the old pod's tunnel.

use anyhow::{Context as _, Result};
use weft_tests::PodSpec;
use weft_tests::server::Behaviour;

use crate::client::{Conversation, eventually_answered, greet};
use crate::pair::{NAMESPACE, Pair, authorization, serve};

#[test]
fn a_destinations_address_given_to_another_identity_gets_a_new_tunnel() -> Result<()> {
    let pair = Pair::start()?;
    let old = pair.b.pod(PodSpec::new("old").namespace(NAMESPACE).service_account("old").uid("uid-1"))?;
    pair.agent_b.wait_enrolled(&old)?;
    pair.agent_a.wait_for_protocol(&old, "hbone")?;
    let number = old.number();
    let echo = serve(&old, 8080, Behaviour::Echo)?;
    let mut open = Conversation::open(&pair.client, old.at(8080))?;
    drop((echo, old));
    let new =
        pair.b.pod(PodSpec::new("new").namespace(NAMESPACE).service_account("new").number(number).uid("uid-2"))?;
    let _echo = serve(&new, 8080, Behaviour::Echo)?;
    pair.agent_b.wait_enrolled(&new)?;
    pair.agent_a.wait_for_protocol(&new, "hbone")?;
    open.wait_for_end().context("the old pod's connection")?;
    eventually_answered(&pair.client, new.at(8080))?;
    let new_identity = new.identity();
    let mut fresh = Conversation::open(&pair.client, new.at(8080))?;
    pair.agent_a.wait_for("connections", "one to the new identity", |connection| {
        connection["destination"]["identity"] == *new_identity
    })?;
    fresh.exchange()
}

#[test]
fn a_sources_address_given_to_another_identity_is_judged_as_that() -> Result<()> {
    let pair = Pair::start()?;
    let policy = "  action: DENY\n  rules:\n    - from:\n        - source:\n            principals: [\"cluster.local/ns/shop/sa/villain\"]";
    pair.apply_policy("no-villain", &authorization("no-villain", policy))?;
    let _greeter = serve(&pair.server, 8080, Behaviour::Echo)?;
    let friend = pair.a.pod(PodSpec::new("friend").namespace(NAMESPACE).service_account("friend"))?;
    pair.agent_a.wait_enrolled(&friend)?;
    let number = friend.number();
    let mut open = Conversation::open(&friend, pair.server.at(8080))?;
    open.exchange()?;
    drop((open, friend));
    let villain = pair.a.pod(PodSpec::new("villain").namespace(NAMESPACE).service_account("villain").number(number))?;
    pair.agent_a.wait_enrolled(&villain)?;
    for _ in 0..20 {
        crate::client::assert_refused(&villain, pair.server.at(8080))?;
    }
    Ok(())
}

#[test]
fn a_pod_made_anew_under_the_same_name_is_another_pod() -> Result<()> {
    let pair = Pair::start()?;
    let spec = || PodSpec::new("web").namespace(NAMESPACE).service_account("web").number(50);
    for round in 0..3 {
        let pod = pair.b.pod(spec().uid(&format!("uid-{round}")))?;
        let greeter = serve(&pod, 8080, Behaviour::Greet)?;
        pair.agent_b.wait_enrolled(&pod)?;
        pair.agent_a.wait_for("workloads", "the new instance", |item| item["instance"] == format!("uid-{round}"))?;
        weft_tests::eventually("the new pod answers", || Ok(greet(&pair.client, pod.at(8080)).ok()))?;
        assert!(greeter.count() >= 1);
    }
    Ok(())
}
