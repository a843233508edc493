use std::time::UNIX_EPOCH;

use serde_json::json;

use super::*;

pub(in crate::command) fn report(change: impl FnOnce(&mut StatusReport)) -> StatusReport {
    let mut report = decode(json!({
        "version": env!("CARGO_PKG_VERSION"), "pid": 42, "node": "node-a", "cluster": "Kubernetes", "network": "",
        "trust_domain": "cluster.local", "workers": 2, "configuration_source": "/etc/weft", "state": "running",
        "started": "2027-01-15T08:00:00Z", "capture": {"is_active": true, "detail": "pinned in /sys/fs/bpf/weft/node-a"},
        "relaxations": [], "is_ready": true, "not_ready": [], "generation": 7, "problems": [],
        "objects": {"workloads": 3, "services": 1, "policies": 1},
        "pods": [{
            "namespace": "shop", "name": "curl-1", "identity": "spiffe://cluster.local/ns/shop/sa/curl",
            "addresses": ["10.0.0.1"], "state": "captured",
        }],
        "certificates": {"valid": 2, "pending": 0, "failing": {}, "next_expiry": "2027-01-16T08:00:00Z"},
        "connections": {"outbound": 34, "inbound": 21}, "tunnels": {"client": 4, "server": 3},
        "losses": {"access_records": 0, "log_lines": 0},
    }))
    .unwrap();
    change(&mut report);
    report
}

/// Three hours and two minutes after the start.
pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + 3 * 3600 + 120)
}

fn screen(report: &StatusReport) -> String {
    render(report, &findings(report, now()), now(), false)
}

#[test]
fn when_all_is_well_it_says_so() {
    assert_eq!(
        screen(&report(|_| {})),
        format!(
            "Node node-a: ready\n\n\
             \x20 agent         version {}, process 42, 2 workers, up 3h2m\n\
             \x20 mesh          trust domain cluster.local, cluster Kubernetes\n\
             \x20 capture       active, pinned in /sys/fs/bpf/weft/node-a\n\
             \x20 pods          1 captured\n\
             \x20 configuration /etc/weft, generation 7, no problems\n\
             \x20 known         3 workloads, 1 service, 1 policy\n\
             \x20 certificates  2 valid, the next one ends 2027-01-16T08:00:00Z\n\
             \x20 connections   34 outbound, 21 inbound, in 7 tunnels\n\n\
             All is well.\n",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn a_control_plane_is_shown_and_what_its_absence_means() {
    let discovery = DiscoveryStatus {
        last_state: None,
        control_plane: "https://mesh.example:15012".into(),
        mode: DiscoveryMode::OnDemand,
        is_connected: true,
        is_synced: true,
        last_error: None,
        streams: 1,
        refusals: 0,
        wanted: 12,
        held: 0,
    };
    let with = |discovery: DiscoveryStatus| screen(&report(|report| report.agent.discovery = Some(discovery)));
    let shown = with(discovery.clone());
    assert!(shown.contains("  control plane connected, on demand, 12 asked for, 0 connections held\n"), "{shown}");
    assert!(shown.ends_with("All is well.\n"), "{shown}");
    let away = DiscoveryStatus { is_connected: false, last_error: Some("refused".into()), ..discovery };
    let shown = with(DiscoveryStatus { held: 1, ..away.clone() });
    assert!(shown.contains("not connected, on demand, 12 asked for, 1 connection held\n"), "{shown}");
    assert!(
        shown.contains("Needs attention:\n  - The control plane https://mesh.example:15012 is not connected: refused")
    );
    let shown = with(DiscoveryStatus { mode: DiscoveryMode::Wildcard, ..away.clone() });
    assert!(shown.contains("All works. To be known:"), "{shown}");
    let shown = with(DiscoveryStatus { is_synced: false, mode: DiscoveryMode::Wildcard, ..away });
    assert!(shown.contains("Needs attention:") && shown.contains("has not said all yet"), "{shown}");
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let report = report(|report| {
        report.is_ready = false;
        report.not_ready = vec!["capture is not active".into()];
        report.agent.capture.is_active = false;
        report.agent.capture.detail = "the kernel lacks sk_lookup (5.9)".into();
        report.pods[0].state = PodState::Failed;
        report.pods[0].detail = Some("no such network namespace".into());
        report.certificates.failing.insert("spiffe://cluster.local/ns/shop/sa/web".into(), "refused".into());
        report.problems = vec![
            decode(json!({"severity": "error", "file": "a.yaml", "line": 2, "message": "not YAML\u{1b}[2J"})).unwrap(),
            decode(json!({"severity": "warning", "message": "odd"})).unwrap(),
        ];
    });
    let screen = screen(&report);
    let (_, conclusion) = screen.split_once("Needs attention:\n").unwrap();
    assert_eq!(
        conclusion,
        "  - Not ready: capture is not active\n\
         \x20 - Capture is not active: the kernel lacks sk_lookup (5.9)\n\
         \x20   no pod of this node is in the mesh; the agent's log says more\n\
         \x20 - Pod shop/curl-1 cannot be enrolled: no such network namespace\n\
         \x20 - No certificate for spiffe://cluster.local/ns/shop/sa/web: refused\n\
         \x20   connections of its pods fail; see \"weft certificates\"\n\
         \x20 - Configuration: a.yaml:2: error: not YAML\u{fffd}[2J\n\
         \x20 - Configuration: warning: odd\n"
    );
    assert!(screen.starts_with("Node node-a: not ready\n"), "{screen}");
    assert!(screen.contains("pods          0 captured, 1 failed\n"), "{screen}");
    assert!(screen.contains("generation 7, 1 error, 1 warning\n"), "{screen}");
}

#[test]
fn what_works_and_should_be_known_is_not_a_failure() {
    let report = report(|report| {
        report.agent.relaxations = vec!["destinations outside the mesh are reached in clear".into()];
        report.losses.access_records = 3;
        report.pods[0].older_connections = Some(1);
        report.pods[0].detail = Some("connections from before cannot be ended: this kernel lacks SOCK_DESTROY".into());
        report.certificates.next_expiry = Some((now() + Duration::from_secs(60)).into());
        report.version = "0.0.1".into();
    });
    let findings = findings(&report, now());
    assert!(findings.iter().all(|finding| finding.tone == Tone::Doubtful), "{findings:?}");
    let screen = screen(&report);
    assert!(screen.contains("All works. To be known:\n"), "{screen}");
    for words in [
        "By choice: destinations outside",
        "3 access records",
        "has not been renewed",
        "The agent is version 0.0.1",
        "Pod shop/curl-1: connections from before cannot be ended: this kernel lacks SOCK_DESTROY\n",
        "In clear until they end: 1 connection from before enrolment.\n    see \"weft older-connections\"",
    ] {
        assert!(screen.contains(words), "{words} is missing in:\n{screen}");
    }
}

#[test]
fn an_agent_that_ends_needs_attention() {
    let report = report(|report| report.agent.state = AgentState::Draining);
    assert!(screen(&report).contains("The agent is ending"));
    assert!(screen(&report).starts_with("Node node-a: draining\n"));
}

#[test]
fn a_long_list_is_cut_and_counted() {
    let report = report(|report| report.not_ready = (0..20).map(|number| format!("reason {number}")).collect());
    let screen = screen(&report);
    assert!(screen.contains("reason 7\n") && !screen.contains("reason 8\n"), "{screen}");
    assert!(screen.contains("and 12 more that need attention"), "{screen}");
}
