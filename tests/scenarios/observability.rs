//! What an operator sees.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use weft_tests::{Agent, PodSpec, Sample, ServiceSpec};

use crate::client::{Conversation, assert_answered, assert_refused};
use crate::pair::{NAMESPACE, Pair, Setup, authorization};

const LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "source_region",
    "source_zone",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_region",
    "destination_zone",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

/// The series of a metric that an agent has for connections to the pod `server`.
fn series(agent: &Agent, name: &str, reporter: &str) -> Result<Sample> {
    agent.wait_for_metric(name, &[("reporter", reporter), ("destination_workload", "server")], 1.0)?;
    let metrics = agent.metrics()?;
    let found = metrics.matching(name, &[("reporter", reporter), ("destination_workload", "server")]).next().cloned();
    found.with_context(|| format!("no {name} by {reporter}"))
}

#[test]
fn a_connection_is_counted_at_both_ends_with_all_labels() -> Result<()> {
    let pair = Pair::with(Setup {
        client: PodSpec::new("client").namespace(NAMESPACE).service_account("client").label("version", "v7"),
        ..Setup::default()
    })?;
    let _echo = pair.echo(8080)?;
    let addresses = pair.world.service(&ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080))?;
    pair.agent_a.wait_for_endpoints("server", &["ready"])?;
    pair.agent_b.wait_for_endpoints("server", &["ready"])?;
    let mut conversation = Conversation::open(&pair.client, SocketAddr::new(addresses[0], 80))?;
    conversation.exchange()?;
    conversation.finish()?;
    for (agent, reporter) in [(&pair.agent_a, "source"), (&pair.agent_b, "destination")] {
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1.0),
            ("istio_tcp_connections_closed_total", 1.0),
            // Two exchanges of five bytes.
            ("istio_tcp_sent_bytes_total", 10.0),
            ("istio_tcp_received_bytes_total", 10.0),
        ] {
            let sample = series(agent, name, reporter)?;
            assert_eq!(sample.value, value, "{name} by {reporter}");
            let mut found: Vec<&str> = sample.labels.keys().map(String::as_str).collect();
            let mut wanted = LABELS.to_vec();
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "the labels of {name} by {reporter}");
        }
        let sample = series(agent, "istio_tcp_connections_opened_total", reporter)?;
        for (label, value) in [
            ("source_workload", "client"),
            ("source_workload_namespace", NAMESPACE),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/client"),
            ("source_app", "client"),
            ("source_version", "v7"),
            ("destination_workload", "server"),
            ("destination_workload_namespace", NAMESPACE),
            ("destination_principal", "spiffe://cluster.local/ns/shop/sa/server"),
            ("destination_version", "unknown"),
            ("destination_service", "server.shop.svc.cluster.local"),
            ("destination_service_name", "server"),
            ("destination_service_namespace", NAMESPACE),
            ("request_protocol", "tcp"),
            ("response_flags", "-"),
            ("connection_security_policy", "mutual_tls"),
            ("source_region", "unknown"),
        ] {
            assert_eq!(sample.labels[label], value, "{label} by {reporter}");
        }
    }
    Ok(())
}

#[test]
fn a_connection_in_clear_is_counted_as_such() -> Result<()> {
    let pair = Pair::start()?;
    pair.world.namespace("other", &[])?;
    let stranger = pair.a.pod(PodSpec::new("stranger").namespace("other"))?;
    pair.agent_b.wait_for_protocol(&stranger, "tcp")?;
    let _echo = pair.echo(8080)?;
    assert_answered(&stranger, pair.server.at(8080))?;
    let sample = series(&pair.agent_b, "istio_tcp_connections_opened_total", "destination")?;
    assert_eq!(sample.labels["connection_security_policy"], "none");
    assert_eq!(sample.labels["source_workload"], "stranger");
    assert_eq!(sample.labels["source_principal"], "unknown");
    Ok(())
}

#[test]
fn the_access_log_has_one_record_for_each_connection() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--access-log", "json", "--log-format", "json"]))?;
    let _echo = pair.echo(8080)?;
    let mut conversation = Conversation::open(&pair.client, pair.server.at(8080))?;
    let source = conversation.stream().local_addr()?;
    conversation.finish()?;
    for (agent, direction) in [(&pair.agent_a, "outbound"), (&pair.agent_b, "inbound")] {
        let line = agent.wait_for_log(&["connection complete", &source.to_string(), direction])?;
        let record: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
        for (field, value) in [
            ("src.addr", json!(source.to_string())),
            ("src.workload", json!("client")),
            ("src.namespace", json!(NAMESPACE)),
            ("src.identity", json!("spiffe://cluster.local/ns/shop/sa/client")),
            ("dst.hbone_addr", json!(pair.server.at(8080).to_string())),
            ("dst.workload", json!("server")),
            ("dst.namespace", json!(NAMESPACE)),
            ("dst.identity", json!("spiffe://cluster.local/ns/shop/sa/server")),
            ("direction", json!(direction)),
            ("bytes_sent", json!(5)),
            ("bytes_recv", json!(5)),
        ] {
            assert_eq!(record[field], value, "{field} of the {direction} record {line}");
        }
        ensure!(record["duration"].as_str().is_some_and(|text| text.ends_with("ms")), "{line}");
        ensure!(record.get("error").is_none(), "{line}");
        let records = agent.log().matches(&source.to_string()).count();
        ensure!(records >= 1, "{records} records");
    }
    Ok(())
}

#[test]
fn a_failed_connection_is_logged_with_the_reason_in_words() -> Result<()> {
    let pair = Pair::with(Setup::arguments(&["--access-log", "json"]))?;
    let _echo = pair.echo(8080)?;
    assert_refused(&pair.client, pair.server.at(81))?;
    for agent in [&pair.agent_a, &pair.agent_b] {
        let line = agent.wait_for_log(&["connection failed", &pair.client.ip().to_string()])?;
        let record: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
        ensure!(record["error"].as_str().is_some_and(|text| text.len() > 10), "no reason: {line}");
    }
    let deny = "  action: DENY\n  rules: [{}]";
    pair.apply_policy("deny-all", &authorization("deny-all", deny))?;
    let mark = pair.agent_b.log_length();
    assert_refused(&pair.client, pair.server.at(8080))?;
    pair.agent_b.wait_for_log_since(mark, &["connection failed", "shop/deny-all"])?;
    Ok(())
}

#[test]
fn the_text_access_log_is_one_line_a_connection() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    let line = pair.agent_a.wait_for_log(&["access", "src.workload=\"client\"", "dst.workload=\"server\""])?;
    ensure!(line.contains("direction=\"outbound\"") && line.contains("bytes_sent="), "{line}");
    Ok(())
}

#[test]
fn every_command_answers_with_a_table_and_with_json() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    pair.world.service(&ServiceSpec::new("server").namespace(NAMESPACE).port(80, 8080))?;
    pair.agent_a.wait_for_endpoints("server", &["ready"])?;
    pair.world.config().put("policy", &authorization("allow-all", "  rules: [{}]"))?;
    pair.agent_a.wait_for_policy("shop/allow-all")?;
    let mut conversation = Conversation::open(&pair.client, pair.server.at(8080))?;
    for (command, word) in [
        ("pods", "client"),
        ("workloads", "server"),
        ("services", "server"),
        ("policies", "allow-all"),
        ("certificates", "spiffe://cluster.local/ns/shop/sa/client"),
        ("connections", "server"),
    ] {
        let table = pair.agent_a.cli(&[command])?.success()?;
        ensure!(table.contains(word), "weft {command} does not show {word}:\n{table}");
        ensure!(!table.contains('\x1b'), "weft {command} prints colours into a pipe:\n{table:?}");
        let columns: Vec<usize> = table.lines().next().map(column_starts).unwrap_or_default();
        for line in table.lines().skip(1) {
            for start in &columns {
                ensure!(
                    *start == 0 || line.chars().nth(start - 1).is_none_or(|before| before == ' '),
                    "weft {command} is not aligned:\n{table}"
                );
            }
        }
        let json = pair.agent_a.json(command)?;
        ensure!(json[command].as_array().is_some_and(|list| !list.is_empty()), "weft {command} -o json: {json}");
    }
    let status = pair.agent_a.cli(&["status"])?.success()?;
    for word in [pair.a.name(), "well"] {
        ensure!(status.contains(word), "weft status does not say {word:?}:\n{status}");
    }
    ensure!(status.lines().count() <= 40, "weft status takes more than one screen:\n{status}");
    conversation.exchange()
}

fn column_starts(header: &str) -> Vec<usize> {
    let characters: Vec<char> = header.chars().collect();
    (0..characters.len())
        .filter(|i| {
            characters[*i] != ' ' && (*i == 0 || (*i >= 2 && characters[*i - 1] == ' ' && characters[*i - 2] == ' '))
        })
        .collect()
}

#[test]
fn live_connections_are_listed_while_they_live() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    let mut conversation = Conversation::open(&pair.client, pair.server.at(8080))?;
    let source = conversation.stream().local_addr()?.to_string();
    for (agent, direction) in [(&pair.agent_a, "outbound"), (&pair.agent_b, "inbound")] {
        let listed = agent.wait_for("connections", "this one", |item| item["source"]["address"] == *source)?;
        assert_eq!(listed["direction"], direction);
        assert_eq!(listed["destination"]["workload"], "server");
        assert_eq!(listed["state"], "open");
    }
    conversation.exchange()?;
    conversation.finish()?;
    for agent in [&pair.agent_a, &pair.agent_b] {
        weft_tests::eventually("it is listed no more", || Ok(agent.list("connections")?.is_empty().then_some(())))?;
    }
    Ok(())
}

#[test]
fn the_log_level_can_be_changed_while_it_runs() -> Result<()> {
    let pair = Pair::start()?;
    let _echo = pair.echo(8080)?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    ensure!(!pair.agent_a.log().contains("\tdebug\t"), "debug lines at level info");
    pair.agent_a.cli(&["log", "debug"])?.success()?;
    ensure!(pair.agent_a.cli(&["log"])?.success()?.contains("debug"));
    let mark = pair.agent_a.log_length();
    pair.world.namespace("nudge", &[])?;
    assert_answered(&pair.client, pair.server.at(8080))?;
    pair.agent_a.wait_for_log_since(mark, &["debug"])?;
    pair.agent_a.cli(&["log", "info"])?.success()?;
    ensure!(!pair.agent_a.cli(&["log", "no=such=filter"])?.status.success(), "a wrong filter was taken");
    Ok(())
}

#[test]
fn metrics_are_there_under_both_paths_and_the_admin_server_on_loopback_alone() -> Result<()> {
    let pair = Pair::start()?;
    let get = |from: &weft_tests::Host, url: &str| -> Result<i32> {
        Ok(from.run(&["curl", "-sS", "-f", "--max-time", "3", "-o", "/dev/null", url])?.code())
    };
    for path in ["metrics", "stats/prometheus"] {
        assert_eq!(
            get(&pair.b, &format!("http://{}:15020/{path}", pair.a.addresses()[0]))?,
            0,
            "/{path} from another node"
        );
    }
    assert_eq!(get(&pair.b, &format!("http://{}:15021/healthz/ready", pair.a.addresses()[0]))?, 0);
    assert_eq!(get(&pair.a, "http://127.0.0.1:15000/v1/status")?, 0);
    ensure!(
        get(&pair.b, &format!("http://{}:15000/v1/status", pair.a.addresses()[0]))? != 0,
        "admin is open to others"
    );
    Ok(())
}
