//! Who may still talk in clear.

use anyhow::{Context as _, Result};
use weft_tests::{Pod, PodSpec, eventually};

use crate::client::{Conversation, assert_answered, assert_refused, eventually_answered, eventually_refused};
use crate::pair::{NAMESPACE, Pair, peer_authentication};

const STRICT: &str = "  mtls:\n    mode: STRICT";
const PERMISSIVE: &str = "  mtls:\n    mode: PERMISSIVE";

/// A pair, and a pod outside the mesh, which talks in clear.
fn with_stranger() -> Result<(Pair, Pod)> {
    let pair = Pair::start()?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    Ok((pair, stranger))
}

#[test]
fn strict_refuses_clear_text_and_says_so() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let server = pair.echo(8080)?;
    assert_answered(&stranger, pair.server.at(8080))?;
    let mut open = Conversation::open(&stranger, pair.server.at(8080))?;
    let mut tunnelled = Conversation::open(&pair.client, pair.server.at(8080))?;
    let mark = pair.agent_b.log_length();
    pair.world.config().put("strict", &peer_authentication(NAMESPACE, "default", STRICT))?;
    eventually_refused(&stranger, pair.server.at(8080))?;
    assert_refused(&stranger, pair.server.at6(8080))?;
    open.wait_for_reset().context("a live connection in clear ends")?;
    tunnelled.exchange().context("a tunnelled one goes on")?;
    let before = server.count();
    assert_refused(&stranger, pair.server.at(8080))?;
    assert_eq!(server.count(), before, "the application is not reached");
    pair.agent_b.wait_for_log_since(mark, &["STRICT", &stranger.ip().to_string()])?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    pair.world.config().remove("strict")?;
    eventually_answered(&stranger, pair.server.at(8080))
}

#[test]
fn a_workloads_mode_beats_its_namespaces_which_beats_the_meshs() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let _echo = pair.echo(8080)?;
    let config = pair.world.config();
    let at = pair.server.at(8080);
    config.put("mesh", &peer_authentication("istio-system", "default", STRICT))?;
    eventually_refused(&stranger, at).context("STRICT for the mesh")?;
    config.put("namespace", &peer_authentication(NAMESPACE, "default", PERMISSIVE))?;
    eventually_answered(&stranger, at).context("PERMISSIVE for the namespace")?;
    let selected = |spec: &str| format!("  selector:\n    matchLabels:\n      app: server\n{spec}");
    config.put("workload", &peer_authentication(NAMESPACE, "server", &selected(STRICT)))?;
    eventually_refused(&stranger, at).context("STRICT for the workload")?;
    config.put("workload", &peer_authentication(NAMESPACE, "server", &selected("  mtls:\n    mode: UNSET")))?;
    eventually_answered(&stranger, at).context("UNSET inherits from the namespace")?;
    config.put("namespace", &peer_authentication(NAMESPACE, "default", "  mtls: {}"))?;
    eventually_refused(&stranger, at).context("UNSET inherits from the mesh")?;
    config.put("workload", &peer_authentication(NAMESPACE, "server", &selected("  mtls:\n    mode: DISABLE")))?;
    eventually_answered(&stranger, at).context("DISABLE is taken for PERMISSIVE")?;
    assert_answered(&pair.client, at)
}

#[test]
fn a_port_has_a_mode_of_its_own() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let _echoes = [pair.echo(8080)?, pair.echo(9090)?];
    let modes = |whole: &str, port: &str| {
        format!(
            "  selector:\n    matchLabels:\n      app: server\n  mtls:\n    mode: {whole}\n  portLevelMtls:\n    9090:\n      mode: {port}"
        )
    };
    pair.world.config().put("pa", &peer_authentication(NAMESPACE, "server", &modes("STRICT", "PERMISSIVE")))?;
    eventually_refused(&stranger, pair.server.at(8080))?;
    assert_answered(&stranger, pair.server.at(9090))?;
    pair.world.config().put("pa", &peer_authentication(NAMESPACE, "server", &modes("PERMISSIVE", "STRICT")))?;
    eventually_refused(&stranger, pair.server.at(9090))?;
    assert_answered(&stranger, pair.server.at(8080))?;
    assert_answered(&pair.client, pair.server.at(9090))
}

#[test]
fn of_two_for_one_scope_the_older_wins() -> Result<()> {
    let (pair, stranger) = with_stranger()?;
    let _echo = pair.echo(8080)?;
    let dated = |name: &str, date: &str, spec: &str| {
        peer_authentication(NAMESPACE, name, spec)
            .replace(&format!("  name: {name}\n"), &format!("  name: {name}\n  creationTimestamp: \"{date}\"\n"))
    };
    pair.world.config().put("younger", &dated("a", "2026-02-02T00:00:00Z", STRICT))?;
    eventually_refused(&stranger, pair.server.at(8080))?;
    pair.world.config().put("older", &dated("b", "2026-01-01T00:00:00Z", PERMISSIVE))?;
    eventually("the older one is in force", || Ok(assert_answered(&stranger, pair.server.at(8080)).ok()))
}
