//! The Kubernetes that tests run on, by itself: pods of two nodes, services, names, and that it goes as it came; and what
//! of Weft runs on it.
//!
//! Takes the kit that `cargo xtask cluster build` has built, or the one that `WEFT_CLUSTER_KIT` names. What installs Weft by its
//! chart takes the image that `cargo xtask image` has packed, or the one that `WEFT_IMAGE` names.

mod authority;
mod chart;
mod cni;
mod control_plane;
mod controller;
mod mesh;
mod operator;
mod outage;
mod policy;
mod rights;
mod rotation;
mod services;
mod standing;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::{Cluster, ClusterOptions, Kit};
use weft_tests::eventually_within;

/// A server on each node, a service of both families in front of them, and a client on the first node.
const SHOP: &str = include_str!("shop.yaml");

/// Long enough for pods to start on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

fn shop() -> Result<Cluster> {
    let options = ClusterOptions {
        on_phase: |phase, took| println!("{phase}: after {:.1} s", took.as_secs_f32()),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&Kit::find()?, &options)?;
    cluster.apply(SHOP)?;
    eventually_within(PATIENCE, "all pods of the shop are ready", || {
        let waiting = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=1s"];
        Ok(cluster.kubectl(&waiting)?.status.success().then_some(()))
    })?;
    Ok(cluster)
}

/// What a command line in the client's pod says.
fn in_client(cluster: &Cluster, line: &str) -> Result<String> {
    cluster.kubectl(&["exec", "client", "--", "bash", "-c", line])?.success()
}

/// Asks the service until a pod of each node has answered; the answers of both.
fn both_answer(cluster: &Cluster, curl: &str) -> Result<[String; 2]> {
    let listed = ["get", "pods", "--selector=app=server", "--output=jsonpath={.items[*].metadata.name}"];
    let names = cluster.kubectl(&listed)?.success()?;
    let names: Vec<&str> = names.split_whitespace().collect();
    let [one, other] = names[..] else { anyhow::bail!("two servers were asked for, and there are: {names:?}") };
    let mut seen = [String::new(), String::new()];
    eventually_within(PATIENCE, &format!("{one} and {other} answer"), || {
        for line in in_client(cluster, &format!("for i in 1 2 3 4 5 6; do {curl}; done"))?.lines() {
            for (name, seen) in [one, other].iter().zip(&mut seen) {
                if line.starts_with(name) {
                    *seen = line.to_owned();
                }
            }
        }
        Ok(seen.iter().all(|line| !line.is_empty()).then(|| seen.clone()))
    })
}

#[test]
fn a_cluster_serves_its_pods_bears_stops_and_losses_of_power_and_goes_without_a_trace() -> Result<()> {
    let cluster = shop()?;
    pods_of_both_nodes_answer_by_the_services_name_over_both_families(&cluster)?;
    a_service_that_is_stopped_stays_so_until_it_is_started(&cluster)?;
    a_node_comes_back_with_its_pods_after_a_loss_of_power(&cluster)?;
    a_removed_cluster_leaves_no_process_namespace_cgroup_mount_or_file(cluster)
}

fn pods_of_both_nodes_answer_by_the_services_name_over_both_families(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.kubectl(&["get", "pods", "--output=jsonpath={.items[*].spec.nodeName}"])?.success()?;
    ensure!(nodes.contains("node1") && nodes.contains("node2"), "the pods are on {nodes}");
    for (family, mark) in [("-4", "10.244."), ("-6", "fd00:244:")] {
        let answers = both_answer(cluster, &format!("curl -sS --max-time 5 {family} http://server.default.svc:8080"))?;
        for answer in answers {
            // The server sees the pod itself: nothing on the way takes the client's address.
            ensure!(answer.split(" answers ").nth(1).is_some_and(|client| client.starts_with(mark)), "{answer}");
        }
    }
    let logs = cluster.kubectl(&["logs", "--selector=app=server", "--tail=-1"])?.success()?;
    ensure!(logs.contains("GET / HTTP/1.1"), "the servers logged: {logs}");
    Ok(())
}

fn a_service_that_is_stopped_stays_so_until_it_is_started(cluster: &Cluster) -> Result<()> {
    let control = cluster.control_plane();
    control.stop_service("kube-apiserver")?;
    ensure!(!cluster.kubectl(&["get", "nodes", "--request-timeout=2s"])?.status.success(), "who answers?");
    control.start_service("kube-apiserver")?;
    eventually_within(PATIENCE, "the API server answers again", || {
        Ok(cluster.kubectl(&["get", "nodes", "--request-timeout=2s"])?.status.success().then_some(()))
    })
}

fn a_node_comes_back_with_its_pods_after_a_loss_of_power(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes()[1];
    let before = node.pid()?;
    node.reboot()?;
    ensure!(node.pid()? != before, "{} has the same first process as before", node.name());
    let started = eventually_within(PATIENCE, "the containers of the node's pods are started again", || {
        let path = "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let counts = cluster.kubectl(&["get", "pods", "--field-selector=spec.nodeName=node2", path])?.success()?;
        Ok((!counts.is_empty() && counts.split_whitespace().all(|count| count != "0")).then_some(counts))
    });
    started?;
    both_answer(cluster, "curl -sS --max-time 5 http://server:8080 || true").map(drop)
}

fn a_removed_cluster_leaves_no_process_namespace_cgroup_mount_or_file(cluster: Cluster) -> Result<()> {
    let trace = cluster.folder().file_name().context("it has a name")?.to_string_lossy().into_owned();
    ensure!(!traces(&trace)?.is_empty(), "no trace of a living cluster is found, so none of a dead one would be");
    drop(cluster);
    // The kernel takes the last mounts apart when the last process is gone, a moment later.
    let left = eventually_within(Duration::from_secs(10), "everything is gone", || {
        let left = traces(&trace)?;
        Ok(left.is_empty().then_some(left))
    });
    left.map(drop).with_context(|| format!("there is still: {:?}", traces(&trace)))
}

/// Everything on this machine whose name or content has `trace` in it.
fn traces(trace: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let hierarchies = fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path());
    let folders = ["/run/netns", "/sys/fs/cgroup", "/sys/fs/bpf"].map(PathBuf::from).into_iter().chain(hierarchies);
    for folder in folders.chain([std::env::temp_dir()]) {
        let listed = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(listed.filter(|path| path.to_string_lossy().contains(trace)));
    }
    for process in fs::read_dir("/proc")?.flatten().map(|entry| entry.path()) {
        let is_process = process.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        let own = process.ends_with(std::process::id().to_string());
        let has_trace = |file: &Path| fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(trace));
        if is_process && !own {
            let files = ["cgroup", "cmdline", "mountinfo"].map(|file| process.join(file));
            found.extend(files.into_iter().filter(|file| has_trace(file)));
        }
    }
    Ok(found)
}
