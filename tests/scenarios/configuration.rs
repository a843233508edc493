//! Manifests: read while they change, and reported where they are wrong.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_tests::{Host, World, weft};

use crate::client::{assert_refused, eventually_answered, eventually_refused};
use crate::pair::{Pair, authorization};

const WRONG: &[(&str, &str, &str, &[&str])] = &[
    ("no-mapping.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: [\n", "no YAML", &["no-mapping.yaml"]),
    (
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: broken\n  namespace: shop\nspec:\n  nodeName: x\nstatus:\n  podIPs:\n    - ip: not-an-address\n",
        "an address that is none",
        &["pod.yaml", "shop/broken", "podIPs", "not-an-address"],
    ),
    (
        "policy.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: typo\n  namespace: shop\nspec:\n  action: DENNY\n",
        "an action that is none",
        &["policy.yaml", "shop/typo", "action", "DENNY"],
    ),
    (
        "blocks.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: blocks\n  namespace: shop\nspec:\n  rules:\n    - from:\n        - source:\n            ipBlocks: [\"10.0.0.0/99\"]\n",
        "a range that is none",
        &["blocks.yaml", "shop/blocks", "ipBlocks", "10.0.0.0/99"],
    ),
    (
        "service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: ports\n  namespace: shop\nspec:\n  clusterIP: 10.96.0.9\n  ports:\n    - port: 123456\n",
        "a port that is none",
        &["service.yaml", "shop/ports", "port", "123456"],
    ),
];

#[test]
fn a_mistake_is_reported_and_the_last_good_state_stays() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let deny = "  action: DENY\n  rules: [{}]";
    pair.apply_policy("deny", &authorization("deny", deny))?;
    assert_refused(&pair.client, pair.server.at(8080))?;
    let mark = pair.agent_b.log_length();
    // The file that held a good policy holds a wrong one now: the good one stays in force.
    pair.world.config().put("policy", &authorization("deny", "  action: DENNY\n  rules: [{}]"))?;
    pair.agent_b.wait_for_log_since(mark, &["policy.yaml", "deny", "action", "DENNY"])?;
    assert_refused(&pair.client, pair.server.at(8080))?;
    let status = pair.agent_b.json("status")?;
    let problem = status["problems"]
        .as_array()
        .and_then(|problems| problems.iter().find(|problem| problem.to_string().contains("DENNY")));
    let problem = problem.with_context(|| format!("weft status does not show it: {status}"))?;
    for field in ["file", "object", "field", "message"] {
        ensure!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "the problem has no {field}: {problem}");
    }
    ensure!(!pair.agent_b.cli(&["status"])?.status.success(), "weft status says that all is well");
    // Everything else goes on being read.
    pair.world.config().put("other", &authorization("other", deny))?;
    pair.agent_b.wait_for_policy("shop/other")?;
    pair.world.config().remove("other")?;
    pair.world.config().remove("policy")?;
    eventually_answered(&pair.client, pair.server.at(8080))?;
    weft_tests::eventually("weft status is content again", || {
        Ok(pair.agent_b.cli(&["status"])?.status.success().then_some(()))
    })
}

#[test]
fn analyze_prints_all_mistakes_at_once_and_exits_with_1() -> Result<()> {
    let world = World::new()?;
    let (host, _) = world.outside("somewhere")?;
    let folder = world.folder().join("manifests");
    fs::create_dir_all(&folder)?;
    for (file, text, _, _) in WRONG {
        fs::write(folder.join(file), text)?;
    }
    let path = folder.to_string_lossy().into_owned();
    let finished = weft(&host, &["analyze", &path])?;
    assert_eq!(finished.code(), 1, "{}{}", finished.stdout, finished.stderr);
    for (_, _, what, words) in WRONG {
        let is_reported = finished.stdout.lines().any(|line| words.iter().all(|word| line.contains(word)))
            || words.iter().all(|word| finished.stdout.contains(word));
        ensure!(is_reported, "{what}: {words:?} are not in:\n{}", finished.stdout);
    }
    let json = weft(&host, &["analyze", &path, "-o", "json"])?;
    assert_eq!(json.code(), 1);
    serde_json::from_str::<Value>(&json.stdout).context("analyze -o json prints JSON")?;
    Ok(())
}

#[test]
fn analyze_is_content_with_what_the_world_is_made_of() -> Result<()> {
    let pair = Pair::start()?;
    let finished = weft(&pair.a, &["analyze", &pair.world.config().path().to_string_lossy()])?;
    assert_eq!(finished.code(), 0, "{}{}", finished.stdout, finished.stderr);
    assert_eq!(weft(&pair.a, &["analyze", "/nowhere"])?.code(), 1);
    Ok(())
}

#[test]
fn documents_of_one_file_come_and_go_by_themselves() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let deny = |name: &str, port: u16| {
        authorization(
            name,
            &format!("  action: DENY\n  rules:\n    - to:\n        - operation:\n            ports: [\"{port}\"]"),
        )
    };
    let _other = pair.echo(9090)?;
    pair.world.config().put("policy", &[deny("one", 8080), deny("two", 9090)].join("---\n"))?;
    pair.agent_b.wait_for_policy("shop/one")?;
    pair.agent_b.wait_for_policy("shop/two")?;
    assert_refused(&pair.client, pair.server.at(8080))?;
    assert_refused(&pair.client, pair.server.at(9090))?;
    pair.world.config().put("policy", &deny("two", 9090))?;
    eventually_answered(&pair.client, pair.server.at(8080))?;
    assert_refused(&pair.client, pair.server.at(9090))?;
    // A file that is removed takes its objects with it.
    pair.world.config().remove("policy")?;
    eventually_answered(&pair.client, pair.server.at(9090))?;
    pair.world.config().put("again", &deny("two", 9090))?;
    eventually_refused(&pair.client, pair.server.at(9090))
}

#[test]
fn an_agent_whose_manifests_are_wrong_from_the_start_says_so_and_runs() -> Result<()> {
    let world = World::new()?;
    let node = world.node("a")?;
    for (file, text, _, _) in WRONG {
        world.config().put_file(file, text)?;
    }
    let agent = node.agent().start()?;
    for (_, _, what, words) in WRONG {
        agent.wait_for_log(words).context(*what)?;
    }
    Ok(())
}

#[test]
fn wrong_arguments_are_refused_with_what_to_do() -> Result<()> {
    let world = World::new()?;
    let (host, _) = world.outside("somewhere")?;
    let refused = |arguments: &[&str], words: &[&str]| -> Result<()> {
        let finished = weft(&host as &Host, arguments)?;
        ensure!(!finished.status.success(), "weft {arguments:?} succeeded");
        for word in words {
            ensure!(finished.stderr.contains(word), "weft {arguments:?} does not say {word:?}: {}", finished.stderr);
        }
        Ok(())
    };
    refused(&["agent", "--config", "/nowhere", "--node", "x"], &["/nowhere"])?;
    refused(&["agent", "--admin", "0.0.0.0:1"], &["--admin", "127.0.0.1"])?;
    refused(&["agent", "--workers", "0"], &["workers"])?;
    refused(&["status", "--state-dir", "/nowhere"], &["/nowhere"])?;
    let help = weft(&host, &["agent", "--help"])?.success()?;
    for flag in [
        "config",
        "node",
        "state-dir",
        "ca-dir",
        "workers",
        "trust-domain",
        "admin",
        "metrics",
        "readiness",
        "log",
        "log-format",
        "bpf-dir",
        "probe-cgroup",
    ] {
        let variable = format!("WEFT_{}", flag.to_uppercase().replace('-', "_"));
        ensure!(
            help.contains(&format!("--{flag}")) && help.contains(&variable),
            "--{flag} or {variable} is missing:\n{help}"
        );
    }
    Ok(())
}

#[test]
fn flags_are_taken_from_the_environment_and_a_flag_beats_its_variable() -> Result<()> {
    let world = World::new()?;
    let node = world.node("a")?;
    let agent = node
        .agent()
        .variable("WEFT_TRUST_DOMAIN", "variable.example")
        .variable("WEFT_WORKERS", "7")
        .with(&["--workers", "3"])
        .start()?;
    let status = agent.json("status")?;
    assert_eq!(status["trust_domain"], "variable.example");
    assert_eq!(status["workers"], 3);
    Ok(())
}
