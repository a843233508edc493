//! What 10,000 workloads cost an agent: the time until it is ready, and memory.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::{Node, PodSpec, World, WorldOptions};

use crate::Options;
use crate::contender::{self, Kind};
use crate::figures::Required::AtMost;
use crate::figures::{Figure, Figures};
use crate::load::Memory;

/// The measurements of this part.
pub const NAMES: &[&str] = &["scale-10000-yaml", "scale-10000-json"];

const NAMESPACES: usize = 100;
const SERVICES: usize = 10;
const PODS: usize = 10;

const YAML_READY: Figure = Figure::new("scale-10000-yaml", "start to ready", "ms").requires(AtMost(120.0));
const YAML_MEMORY: Figure = Figure::new("scale-10000-yaml", "resident", "MB").requires(AtMost(25.0));
const YAML_SHARE: Figure = Figure::new("scale-10000-yaml", "proportional", "MB");
const JSON_READY: Figure = Figure::new("scale-10000-json", "start to ready", "ms");
const JSON_MEMORY: Figure = Figure::new("scale-10000-json", "resident", "MB");
const JSON_SHARE: Figure = Figure::new("scale-10000-json", "proportional", "MB");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Yaml,
    Json,
}

/// Starts an agent on a folder of 10,000 pods in 100 namespaces behind 1,000 services, a file for each namespace.
pub fn run(options: &Options, figures: &mut Figures) -> Result<()> {
    if !options.contenders.contains(&Kind::Weft) {
        return Ok(());
    }
    for (name, format, wanted) in [
        (NAMES[0], Format::Yaml, [YAML_READY, YAML_MEMORY, YAML_SHARE]),
        (NAMES[1], Format::Json, [JSON_READY, JSON_MEMORY, JSON_SHARE]),
    ] {
        if options.wants(name) {
            measure(options, figures, format, wanted)?;
        }
    }
    Ok(())
}

fn measure(options: &Options, figures: &mut Figures, format: Format, wanted: [Figure; 3]) -> Result<()> {
    let world = World::with(WorldOptions { shows_logs: false })?;
    let node = world.node("a")?;
    let mut bytes = 0;
    for namespace in 0..NAMESPACES {
        let text = match format {
            Format::Yaml => yaml(namespace),
            Format::Json => format!("{}\n", json(namespace)),
        };
        bytes += text.len();
        let extension = if format == Format::Yaml { "yaml" } else { "json" };
        world.config().put_file(&format!("team-{namespace:03}.{extension}"), &text)?;
    }
    // A pod of the node itself, so that being ready includes having captured something.
    let _pod = contender::pod(&node, PodSpec::new("local").namespace("team-000"), options)?;
    for round in 0..options.rounds {
        let (ready, memory) = start(&node, options)?;
        let [ready_figure, memory_figure, share_figure] = wanted;
        figures.add(ready_figure, Kind::Weft.column(), ready.as_secs_f64() * 1e3);
        figures.add(memory_figure, Kind::Weft.column(), memory.resident);
        figures.add(share_figure, Kind::Weft.column(), memory.proportional);
        let megabytes = bytes as f64 / 1e6;
        eprintln!("  {} ({megabytes:.1} MB of files): round {} of {}", ready_figure.line, round + 1, options.rounds);
    }
    Ok(())
}

/// Starts an agent without any state of an earlier one and returns when it was ready and what it holds some time later.
fn start(node: &Node, options: &Options) -> Result<(Duration, Memory)> {
    let arguments = options.agent_arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let agent = node.agent().with(&arguments);
    let state = agent.state_folder();
    let begun = Instant::now();
    let mut agent = agent.start_unready()?;
    while !agent.is_ready() {
        ensure!(agent.is_running()?, "the agent has ended; it logged:\n{}", agent.log());
        ensure!(begun.elapsed() < Duration::from_secs(30), "the agent is not ready after 30 s:\n{}", agent.log());
        thread::sleep(Duration::from_millis(1));
    }
    let ready = begun.elapsed();
    thread::sleep(Duration::from_millis(1500));
    let memory = Memory::of(agent.pid())?;
    drop(agent);
    fs::remove_dir_all(state)?;
    Ok((ready, memory))
}

/// The numbers of a pod, from which all else about it follows.
fn pods(namespace: usize) -> impl Iterator<Item = (usize, usize, String)> {
    (0..SERVICES).flat_map(move |service| {
        (0..PODS).map(move |pod| {
            let number = (namespace * SERVICES + service) * PODS + pod;
            (service, pod, format!("10.{}.{}.{}", 128 + number / 62_500, number / 250 % 250, number % 250 + 1))
        })
    })
}

fn yaml(namespace: usize) -> String {
    let mut text = String::new();
    let mut write = |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("writing to a string does not fail");
    write(format_args!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team-{namespace:03}\n  labels:\n    \
         istio.io/dataplane-mode: ambient\n"
    ));
    for service in 0..SERVICES {
        write(format_args!(
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: app-{service}\n  namespace: team-{namespace:03}\n\
             spec:\n  clusterIP: 10.97.{namespace}.{service}\n  clusterIPs:\n  - 10.97.{namespace}.{service}\n  \
             selector:\n    app: app-{service}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n    \
             protocol: TCP\n"
        ));
    }
    for (service, pod, address) in pods(namespace) {
        write(format_args!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: app-{service}-{pod}\n  namespace: team-{namespace:03}\n  \
             labels:\n    app: app-{service}\n    version: v1\nspec:\n  nodeName: far-{namespace}\n  \
             serviceAccountName: app-{service}\n  containers:\n  - name: app\n    ports:\n    - name: http\n      \
             containerPort: 8080\nstatus:\n  phase: Running\n  podIP: {address}\n  podIPs:\n  - ip: {address}\n  \
             conditions:\n  - type: Ready\n    status: \"True\"\n"
        ));
    }
    text
}

fn json(namespace: usize) -> Value {
    let name = format!("team-{namespace:03}");
    let mut items = vec![json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "istio.io/dataplane-mode": "ambient" } },
    })];
    items.extend((0..SERVICES).map(|service| {
        let address = format!("10.97.{namespace}.{service}");
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("app-{service}"), "namespace": name },
            "spec": {
                "clusterIP": address, "clusterIPs": [address], "selector": { "app": format!("app-{service}") },
                "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }],
            },
        })
    }));
    items.extend(pods(namespace).map(|(service, pod, address)| {
        let app = format!("app-{service}");
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{app}-{pod}"), "namespace": name, "labels": { "app": app, "version": "v1" },
            },
            "spec": {
                "nodeName": format!("far-{namespace}"), "serviceAccountName": app,
                "containers": [{ "name": "app", "ports": [{ "name": "http", "containerPort": 8080 }] }],
            },
            "status": {
                "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    }));
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_pod_has_an_address_of_its_own() {
        let addresses: HashSet<String> = (0..NAMESPACES).flat_map(pods).map(|(_, _, address)| address).collect();
        assert_eq!(addresses.len(), 10_000);
        assert!(addresses.iter().all(|address| address.parse::<std::net::Ipv4Addr>().is_ok()));
    }
}
