//! An operator's commands against a cluster, from outside it, with a kubeconfig.

use std::fs;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::cluster::Cluster;
use weft_tests::{Finished, Process, eventually_within, weft_binary};

use super::{PATIENCE, shop};

/// The namespace asks for tunnels, and has a policy about nothing, and a pod that can never be in the mesh.
const SPECIAL: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: only-tunnels, namespace: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: for-nobody, namespace: default}
spec: {selector: {matchLabels: {app: nobody}}, mtls: {mode: PERMISSIVE}}
---
apiVersion: v1
kind: Pod
metadata: {name: on-the-host}
spec:
  hostNetwork: true
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
    - name: client
      image: localhost/weft-test/client:1
      args: ["sleep infinity"]
"#;

/// What the chart's README says that a person needs who looks at the agents, and no more.
const LOOKER: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: looker, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: looker, namespace: weft-system}
rules:
  - {apiGroups: [apps], resources: [daemonsets], verbs: [get]}
  - {apiGroups: [""], resources: [pods], verbs: [list]}
  - {apiGroups: [""], resources: [pods/portforward], verbs: [get, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: looker, namespace: weft-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: looker}
subjects: [{kind: ServiceAccount, name: looker, namespace: default}]
"#;

/// Runs `weft` where the API server can be reached, with the administrator's kubeconfig unless the arguments have another.
pub(super) fn weft(cluster: &Cluster, arguments: &[&str]) -> Result<Finished> {
    let mut command = cluster.command(&weft_binary()?.to_string_lossy())?;
    command.args(arguments).env_remove("WEFT_KUBECONFIG").env_remove("WEFT_POD_NAMESPACE").process_group(0);
    Process::spawn(command)?.finish_within(PATIENCE * 2)
}

#[track_caller]
fn says(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    let Finished { name, stdout, stderr, .. } = finished;
    let said = format!("{stdout}{stderr}");
    let is_as_expected = finished.code() == code && words.iter().all(|word| said.contains(word));
    ensure!(is_as_expected, "{name}: {code} and {words:?} were expected, and it was {}:\n{said}", finished.code());
    Ok(())
}

/// The value of the label of the shop's namespace.
fn label(cluster: &Cluster) -> Result<String> {
    let path = r"--output=jsonpath={.metadata.labels.istio\.io/dataplane-mode}";
    cluster.kubectl(&["get", "namespace/default", path])?.success()
}

/// A kubeconfig of somebody who may do no more than the chart's README says.
fn kubeconfig_of_a_looker(cluster: &Cluster) -> Result<String> {
    cluster.apply(LOOKER)?;
    let config = cluster.kubectl(&["config", "view", "--raw", "--output=json"])?.success()?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["users"][0]["user"]["as"] = "system:serviceaccount:default:looker".into();
    let file = cluster.folder().join("looker.json");
    fs::write(&file, config.to_string()).with_context(|| file.display().to_string())?;
    Ok(file.display().to_string())
}

#[test]
fn a_namespace_is_enrolled_looked_at_and_let_go_from_outside_the_cluster() -> Result<()> {
    let cluster = shop()?;
    says(&weft(&cluster, &["enroll", "nowhere"])?, 1, &["there is no namespace nowhere", "cannot be done"])?;
    says(&weft(&cluster, &["enroll", "default"])?, 1, &["no DaemonSet weft-agent", "--force"])?;
    says(&weft(&cluster, &["status", "--kubernetes"])?, 1, &["no DaemonSet weft-agent"])?;
    ensure!(label(&cluster)?.is_empty(), "it was labelled although a check objected");
    cluster.install_weft(&["crds.install=true"])?;
    cluster.apply(SPECIAL)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/on-the-host", "--timeout=55s"])?.success()?;

    says(&weft(&cluster, &["enroll", "kube-system", "--force"])?, 1, &["never captured"])?;
    let objected = weft(&cluster, &["enroll", "default"])?;
    says(&objected, 1, &["objection: STRICT", "default/only-tunnels", "host's network: on-the-host", "--force"])?;
    ensure!(label(&cluster)?.is_empty(), "it was labelled although a check objected");
    says(&weft(&cluster, &["enroll", "default", "--force"])?, 0, &["default is in the mesh, with 3 pods."])?;
    ensure!(label(&cluster)? == "ambient", "the label is {}", label(&cluster)?);

    looked_at(&cluster, &["--kubernetes"])?;
    looked_at(&cluster, &["--kubernetes", "--kubeconfig", &kubeconfig_of_a_looker(&cluster)?])?;
    says(&weft(&cluster, &["analyze", "--kubernetes"])?, 0, &["PeerAuthentication default/for-nobody", " objects: "])?;

    an_agent_that_cannot_be_asked_is_named(&cluster)?;

    let left = weft(&cluster, &["unenroll", "default"])?;
    says(&left, 0, &["nothing enforces PeerAuthentication default/only-tunnels", "default is outside the mesh"])?;
    ensure!(label(&cluster)?.is_empty(), "the label is {}", label(&cluster)?);
    // Capture goes a moment after the announcement.
    eventually_within(PATIENCE, "no pod is captured", || {
        let pods = weft(&cluster, &["pods", "--kubernetes", "--namespace", "default"])?;
        Ok((!pods.stdout.contains("captured")).then_some(()))
    })
}

/// Every list of all nodes, and of one.
fn looked_at(cluster: &Cluster, cluster_flags: &[&str]) -> Result<()> {
    let ask = |arguments: &[&str]| weft(cluster, &[arguments, cluster_flags].concat());
    says(&ask(&["status"])?, 0, &["NODE ", "node1  ", "node2  "])?;
    let pods = ask(&["pods", "--namespace", "default"])?;
    says(&pods, 0, &["NODE ", "captured"])?;
    for node in ["node1", "node2"] {
        let is_of_node = |line: &&str| line.starts_with(node) && line.contains("server-") && line.contains("captured");
        ensure!(pods.stdout.lines().find(is_of_node).is_some(), "the server of {node} is missing: {}", pods.stdout);
    }
    let one = ask(&["pods", "--node", "node2"])?;
    ensure!(one.code() == 0 && !one.stdout.contains("node1"), "{}{}", one.stdout, one.stderr);
    says(&ask(&["status", "--node", "node9"])?, 1, &["The agent of node9 does not answer: there is none"])?;
    for list in ["workloads", "services", "policies", "certificates", "connections", "older-connections"] {
        says(&ask(&[list])?, 0, &[])?;
    }
    let json: Value = serde_json::from_str(&ask(&["status", "--output", "json"])?.stdout)?;
    let nodes = json["nodes"].as_object().context("there are nodes")?;
    ensure!(nodes.len() == 2 && nodes["node1"]["is_ready"] == true, "{json:#}");
    Ok(())
}

/// Without its kubelet nobody reaches a node's agent through the API server.
fn an_agent_that_cannot_be_asked_is_named(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes()[1];
    node.stop_service("kubelet")?;
    let status = weft(cluster, &["status", "--kubernetes"])?;
    says(&status, 1, &["node1  ready", "node2  no-answer", "The agent of node2 does not answer: "])?;
    let lists = weft(cluster, &["certificates", "--kubernetes", "--output", "json"])?;
    says(&lists, 1, &["\"unanswered\"", "The agent of node2 does not answer: "])?;
    node.start_service("kubelet")?;
    eventually_within(PATIENCE, "the agent of node2 can be asked again", || {
        Ok((weft(cluster, &["status", "--kubernetes"])?.code() == 0).then_some(()))
    })
}
