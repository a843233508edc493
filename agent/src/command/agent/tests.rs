use std::ffi::OsString;

use clap::{CommandFactory, Parser};
use tempfile::TempDir;

use super::*;
use crate::command::{Cli, Command};

/// The options that these arguments stand for, with an existing `--config`.
fn options(arguments: &[&str]) -> Result<AgentOptions, String> {
    let folder = TempDir::new().unwrap();
    let config = folder.path().to_str().unwrap();
    parse(&[&["--config", config, "--node", "node-a"], arguments].concat())
}

fn parse(arguments: &[&str]) -> Result<AgentOptions, String> {
    let cli = Cli::try_parse_from([&["weft", "agent"], arguments].concat()).map_err(|error| error.to_string())?;
    let Command::Agent(arguments) = cli.command else {
        unreachable!("the command is agent");
    };
    arguments.into_options().map_err(|error| error.to_string())
}

#[test]
fn what_an_operator_has_relaxed_is_said_and_nothing_else() {
    let said = |arguments: &[&str]| options(arguments).expect("good flags").relaxations();
    assert_eq!(said(&["--older-connections", "end", "--certificate-lifetime", "1h"]), [""; 0]);
    let cases: [(&[&str], &str); 4] = [
        (&["--trust-domain-aliases", "old.example,older.example"], "old.example, older.example"),
        (&["--extra-roots", "/proc/version"], "/proc/version"),
        (&["--probe-cgroup", "/sys/fs/cgroup/kubelet"], "/sys/fs/cgroup/kubelet"),
        (&["--certificate-lifetime", "30days"], "30days"),
    ];
    for (arguments, expected) in cases {
        let said = said(arguments);
        assert!(said.len() == 1 && said[0].contains(expected), "{arguments:?}: {said:?}");
    }
    let of_a_cluster = ["--kubernetes", "--discovery", "https://a:1", "--ca", "https://a:1", "--root", "/r"];
    let roots = [&["--node", "n1", "--extra-roots", "/proc/version"], &of_a_cluster[..]].concat();
    assert_eq!(parse(&roots).expect("good flags").relaxations(), [""; 0], "the controllers' own bundle");
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let options = options(&[]).unwrap();
    assert_eq!(
        options,
        AgentOptions {
            source: options.source.clone(),
            node: "node-a".into(),
            state_dir: "/var/lib/weft".into(),
            ca_dir: "/var/lib/weft/ca".into(),
            workers: std::thread::available_parallelism().unwrap().get(),
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: vec![],
            extra_roots: None,
            revocation_lists: None,
            certificate_lifetime: Duration::from_secs(24 * 3600),
            cluster: "Kubernetes".into(),
            network: String::new(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            admin: Some("127.0.0.1:15000".parse().unwrap()),
            metrics: Some("[::]:15020".parse().unwrap()),
            readiness: Some("[::]:15021".parse().unwrap()),
            log: "info".parse().unwrap(),
            log_format: LineFormat::Text,
            access_log: AccessLogFormat::Text,
            older_connections: OlderConnections::Keep,
            probe_cgroup: None,
            loopback_congestion_control: LoopbackCongestionControl::Named(CongestionControl::RENO),
            bpf_dir: "/sys/fs/bpf/weft".into(),
            cgroup_root: None,
            drain_deadline: Duration::from_secs(20),
            take_over: false,
            control_planes: ControlPlanes::default(),
            cni: None,
        }
    );
    assert_eq!(options.admin_options().socket, PathBuf::from("/var/lib/weft/admin.sock"));
}

#[test]
fn flags_say_otherwise() {
    let options = options(&[
        "--workers=3",
        "--trust-domain=mesh.example",
        "--trust-domain-aliases=old.example,older.example",
        "--metrics=10.0.0.1:9090",
        "--readiness=off",
        "--admin=[::1]:9",
        "--log=warn,weft=debug",
        "--log-format=json",
        "--access-log=off",
        "--drain-deadline=1m 30s",
        "--older-connections=end",
        "--probe-cgroup=/sys/fs/cgroup/kubelet",
    ])
    .unwrap();
    assert_eq!(options.workers, 3);
    assert_eq!(options.trust_domain, "mesh.example");
    assert_eq!(options.trust_domain_aliases, ["old.example", "older.example"]);
    assert_eq!(options.metrics, Some("10.0.0.1:9090".parse().unwrap()));
    assert_eq!(options.readiness, None);
    assert_eq!(options.admin, Some("[::1]:9".parse().unwrap()));
    assert_eq!(options.log.as_str(), "warn,weft=debug");
    assert_eq!(options.log_format, LineFormat::Json);
    assert_eq!(options.access_log.line_format(), None);
    assert_eq!(options.drain_deadline, Duration::from_secs(90));
    assert_eq!(options.older_connections, OlderConnections::End);
    assert_eq!(options.probe_cgroup, Some("/sys/fs/cgroup/kubelet".into()));
}

#[test]
fn every_flag_has_its_variable_and_its_help() {
    let command = Cli::command();
    let agent = command.find_subcommand("agent").unwrap();
    for argument in agent.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
    {
        let flag = argument.get_long().unwrap();
        let variable = format!("WEFT_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(argument.get_env(), Some(OsString::from(&variable).as_os_str()), "--{flag}");
        assert!(argument.get_help().is_some(), "--{flag} has no help");
    }
    Cli::command().debug_assert();
}

#[test]
fn a_wrong_value_is_named_with_its_flag_and_what_would_be_right() {
    for (argument, expected) in [
        ("--admin=0.0.0.0:15000", "other hosts could reach it"),
        ("--metrics=localhost", "a port alone"),
        ("--workers=0", "not a number of at least 1"),
        ("--workers=100000", "at most 512"),
        ("--node=Node_A", "lower-case letters, digits and hyphens"),
        ("--trust-domain=spiffe://x", "trust domain"),
        ("--cluster=a/b", "slashes"),
        ("--root-namespace=a.b", "lower-case letters, digits and hyphens"),
        ("--log=verbose", "is not a level"),
        ("--log-format=xml", "text, json"),
        ("--drain-deadline=30", "time unit needed"),
        ("--older-connections=drop", "keep, end"),
        ("--loopback-congestion-control=a name of many letters", "1 to 15 letters"),
        ("--bpf-dir=bpf", "absolute"),
        ("--certificate-lifetime=1s", "at least 1m"),
        ("--extra-roots=/nonexistent.pem", "/nonexistent.pem"),
    ] {
        let error = match argument {
            "--node=Node_A" => parse(&[argument]).unwrap_err(),
            _ => options(&[argument]).unwrap_err(),
        };
        let flag = argument.split('=').next().unwrap();
        assert!(error.contains(flag) && error.contains(expected), "{argument}: {error}");
    }
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let error = parse(&["--config=/nonexistent", "--node=a", "--bpf-dir=x", "--cgroup-root=y"]).unwrap_err();
    for part in ["--config /nonexistent", "make the folder", "--bpf-dir x", "--cgroup-root y"] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
}

#[test]
fn a_plug_in_that_others_start_is_told_absolute_paths() {
    let cni = ["--cni-conf-dir", "/c", "--cni-bin-dir", "/b"];
    let mistake = options(&[&cni[..], &["--state-dir", "state"]].concat()).unwrap_err();
    assert!(mistake.contains("--state-dir state: must be an absolute path"), "{mistake}");
    assert!(options(&["--state-dir", "state"]).is_ok_and(|options| options.cni.is_none()));
    assert!(options(&cni).is_ok_and(|options| options.cni.is_some()));
}
