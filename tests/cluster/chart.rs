//! Weft's chart: what it renders, and what it does to a cluster.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::chart::{NAMESPACE, plain_manifests};
use weft_tests::cluster::{Cluster, ClusterOptions, Kit, Machine};
use weft_tests::{Process, eventually_within};

use super::operator::weft;
use super::{PATIENCE, shop};

/// Choices that together touch every template.
const CHOICES: [&[&str]; 4] = [
    &[],
    &["crds.install=true", "createNamespace=true", "criticalPodsQuota=true", "imagePullSecrets[0].name=registry"],
    &["controller.replicas=1", "agent.confineToNode=false", "agent.seLinuxType=", "agent.maxSurge=10%"],
    &[
        "image.digest=sha256:0123456789012345678901234567890123456789012345678901234567890123",
        "agent.extraArgs={--workers=2}",
    ],
];

#[test]
fn the_plain_manifests_are_what_the_chart_renders() -> Result<()> {
    let rendered = Kit::find()?.render_chart(&["createNamespace=true"])?;
    let file = plain_manifests();
    let kept = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(kept == rendered, "{} is not what the chart renders: run `cargo xtask manifests`", file.display());
    Ok(())
}

#[test]
fn values_that_the_chart_does_not_have_are_refused() -> Result<()> {
    let kit = Kit::find()?;
    for value in ["agent.typo=1", "controler.replicas=3", "image.pullPolicy=Sometimes", "agent.discovery=http://a:1"] {
        let name = value.split(['=', '.']).nth(1).unwrap_or_default();
        let refused = kit.render_chart(&[value]).err().with_context(|| format!("{value} is taken"))?;
        ensure!(format!("{refused:#}").contains(name), "{value} is refused without its name: {refused:#}");
    }
    Ok(())
}

#[test]
fn the_definitions_in_the_chart_are_istios_own() -> Result<()> {
    let theirs = fs::read_to_string(Kit::find()?.definitions().join("istio.yaml"))?;
    for name in ["authorizationpolicies", "peerauthentications"] {
        let file = weft_tests::cluster::chart::chart().join(format!("files/crds/{name}.yaml"));
        let ours = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        ensure!(theirs.contains(&ours), "{} is not what istio.io/api has", file.display());
    }
    Ok(())
}

#[test]
fn an_api_server_takes_whatever_the_chart_renders() -> Result<()> {
    let cluster = Cluster::start(&Kit::find()?, &ClusterOptions { nodes: 1, ..ClusterOptions::default() })?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?.success()?;
    for values in CHOICES {
        let file = cluster.folder().join("rendered.yaml");
        fs::write(&file, Kit::find()?.render_chart(values)?)?;
        let applied = ["apply", "--dry-run=server", "--validate=strict", "--filename", &file.to_string_lossy()];
        cluster.kubectl(&applied)?.success().with_context(|| format!("with {values:?}"))?;
    }
    Ok(())
}

#[test]
fn helm_installs_weft_and_leaves_each_node_as_it_was() -> Result<()> {
    let cluster = shop()?;
    let before = Traces::of(&cluster)?;
    ensure!(before.pinned.is_empty(), "before it is installed nodes have {:?}", before.pinned);
    cluster.install_weft(&["crds.install=true"])?;
    let count = |what: &str, path: &str| -> Result<String> {
        cluster.kubectl(&["get", what, "--namespace", NAMESPACE, &format!("--output=jsonpath={{{path}}}")])?.success()
    };
    ensure!(count("daemonset/weft-agent", ".status.numberReady")? == "2", "an agent on each node is ready");
    ensure!(count("deployment/weft-controller", ".status.readyReplicas")? == "2", "two controllers are ready");
    for node in cluster.nodes() {
        let conflist = fs::read_to_string(node.folder().join("cni-conf/10-pods.conflist"))?;
        ensure!(conflist.contains("\"weft-cni\""), "{} has no CNI plug-in: {conflist}", node.name());
    }

    // A node that has another ambient agent is left to it, and anybody who asks is told.
    cluster.apply(ANOTHER_AGENT)?;
    let named = "is another ambient agent on this node: Weft leaves the node's pods to it";
    eventually_within(PATIENCE, "the agent of node2 says that there is another one", || {
        Ok(weft(&cluster, &["status", "--kubernetes", "--node", "node2"])?.stdout.contains(named).then_some(()))
    })?;
    cluster.kubectl(&["label", "namespace/default", "istio.io/dataplane-mode=ambient"])?.success()?;
    let enrolled_on = |node: &str| -> Result<usize> {
        let path = r"--output=jsonpath={.items[*].metadata.annotations.ambient\.istio\.io/redirection}";
        let listed = ["get", "pods", &format!("--field-selector=spec.nodeName={node}"), path];
        Ok(cluster.kubectl(&listed)?.success()?.split_whitespace().filter(|said| *said == "enabled").count())
    };
    eventually_within(PATIENCE, "the pods of node1 are enrolled", || Ok((enrolled_on("node1")? == 2).then_some(())))?;
    ensure!(enrolled_on("node2")? == 0, "a pod was captured on a node that has another agent");
    // New pods start there, and nobody waits for Weft.
    cluster.kubectl(&["delete", "pods", "--selector=app=server", "--field-selector=spec.nodeName=node2"])?.success()?;
    cluster.kubectl(&["rollout", "status", "deployment/server", "--timeout=55s"])?.success()?;
    ensure!(enrolled_on("node2")? == 0, "a new pod was captured on a node that has another agent");
    cluster.kubectl(&["delete", "namespace/istio-system", "--timeout=50s"])?.success()?;
    eventually_within(PATIENCE, "the pod of node2 is enrolled", || Ok((enrolled_on("node2")? == 1).then_some(())))?;
    super::both_answer(&cluster, "curl -sS --max-time 5 http://server:8080")?;

    cluster.uninstall_weft()?;
    let after = Traces::of(&cluster)?;
    ensure!(after == before, "a node is not as it was: {before:#?}\n{after:#?}");
    for node in cluster.nodes() {
        // Before, nodes see what this host has there, from Weft in other use.
        let files = listed_on(node, "/var/lib/weft")?;
        ensure!(files.is_empty(), "agents have left {files:?}");
    }
    eventually_within(PATIENCE, "no pod of Weft's is left", || {
        let left = cluster.kubectl(&["get", "pods", "--namespace", NAMESPACE, "--output=name"])?.success()?;
        Ok(left.is_empty().then_some(()))
    })?;
    super::both_answer(&cluster, "curl -sS --max-time 5 http://server:8080").map(drop)
}

/// What Istio's agent looks like to the API server.
const ANOTHER_AGENT: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-x, namespace: istio-system, labels: {app: ztunnel}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers: [{name: istio-proxy, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
"#;

/// What Weft could leave on nodes.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    pinned: Vec<String>,
    plug_ins: Vec<String>,
    /// The files of the container network's configuration, with their text.
    network: Vec<(String, String)>,
}

impl Traces {
    fn of(cluster: &Cluster) -> Result<Self> {
        let each = |list: &dyn Fn(&Machine) -> Result<Vec<String>>| -> Result<Vec<String>> {
            Ok(cluster.nodes().iter().map(list).collect::<Result<Vec<_>>>()?.concat())
        };
        let mut network = Vec::new();
        for node in cluster.nodes() {
            for entry in fs::read_dir(node.folder().join("cni-conf"))? {
                let path = entry?.path();
                network.push((path.display().to_string(), fs::read_to_string(&path)?));
            }
        }
        network.sort();
        Ok(Self {
            pinned: each(&|node| listed_on(node, "/sys/fs/bpf/weft"))?,
            plug_ins: each(&|node| listed(&node.folder().join("cni-bin")))?,
            network,
        })
    }
}

/// The names of what is in a folder; none where there is no such folder.
fn listed(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names = entries.map(|entry| Ok(entry?.path().display().to_string())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The same as a machine sees it.
fn listed_on(node: &Machine, folder: &str) -> Result<Vec<String>> {
    let mut find = node.command("find")?;
    find.args([folder, "-mindepth", "1"]);
    let found = Process::spawn(find)?.finish_within(PATIENCE)?;
    // It fails where there is no such folder.
    Ok(found.stdout.lines().map(|line| format!("{}: {line}", node.name())).collect())
}
