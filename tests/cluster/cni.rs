//! The CNI plug-in under a real container runtime, while its agent is away.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::{Cluster, ClusterOptions, Kit};
use weft_tests::{eventually_within, weft_binary};

use super::PATIENCE;

/// What the plug-in may read, a namespace in the mesh, one outside, and a pod in each.
const WORLD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: weft-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: weft-agent, namespace: weft-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: weft-cni}
rules: [{apiGroups: [""], resources: [pods, namespaces], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: weft-cni}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-cni}
subjects: [{kind: ServiceAccount, name: weft-agent, namespace: weft-system}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: bank}
"#;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers: [{name: web, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: bank}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers: [{name: web, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
"#;

/// Puts the plug-in where an agent would, with the right to look, and no agent.
fn install(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes()[0];
    let folder = node.folder();
    let binary = folder.join("cni-bin/weft-cni");
    fs::copy(weft_binary()?, &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;

    let token = cluster.kubectl(&["create", "token", "weft-agent", "--namespace=weft-system"])?.success()?;
    let address = ["get", "service", "kubernetes", "--output=jsonpath={.spec.clusterIP}"];
    let address = cluster.kubectl(&address)?.success()?;
    let view =
        ["config", "view", "--raw", "--flatten", "--output=jsonpath={.clusters[0].cluster.certificate-authority-data}"];
    let roots = cluster.kubectl(&view)?.success()?;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}", address.trim()), "certificate-authority-data": roots.trim(),
        }}],
        "users": [{"name": "c", "user": {"token": token.trim()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    fs::write(folder.join("cni-state/kubeconfig"), kubeconfig.to_string())?;

    let path = folder.join("cni-conf/10-pods.conflist");
    let mut list: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    list["plugins"].as_array_mut().context("there are no plug-ins")?.push(json!({
        "type": "weft-cni",
        "adminSocket": "/var/lib/cni/admin.sock",
        "kubeconfig": "/var/lib/cni/kubeconfig",
        "namespaces": ["kube-system", "weft-system"],
        "logFile": "/var/lib/cni/weft-cni.log",
    }));
    fs::write(folder.join("cni-conf/new"), list.to_string())?;
    Ok(fs::rename(folder.join("cni-conf/new"), path)?)
}

fn log(cluster: &Cluster) -> String {
    fs::read_to_string(cluster.nodes()[0].folder().join("cni-state/weft-cni.log")).unwrap_or_default()
}

fn wait_ready(cluster: &Cluster, namespace: &str) -> Result<()> {
    let namespace = format!("--namespace={namespace}");
    let ready = ["wait", &namespace, "--for=condition=Ready", "pod/web", "--timeout=1s"];
    eventually_within(PATIENCE, "the pod starts", || Ok(cluster.kubectl(&ready)?.status.success().then_some(())))
        .with_context(|| format!("the plug-in's log:\n{}", log(cluster)))
}

/// How many times a pod of the shop was refused so far.
fn refusals(cluster: &Cluster) -> usize {
    log(cluster).lines().filter(|line| line.contains("ADD pod shop/web: the Weft agent of this node")).count()
}

fn assert_waits(cluster: &Cluster) -> Result<()> {
    let before = refusals(cluster);
    eventually_within(PATIENCE, "the kubelet tries again", || Ok((refusals(cluster) > before).then_some(())))
        .with_context(|| format!("the plug-in's log:\n{}", log(cluster)))?;
    let started = ["get", "pod", "web", "--namespace=shop", "--output=jsonpath={.status.containerStatuses[*].started}"];
    let started = cluster.kubectl(&started)?.success()?;
    ensure!(started == "false", "a pod of the mesh runs without an agent: {started:?}");
    Ok(())
}

#[test]
fn with_the_agent_away_only_pods_of_the_mesh_wait_and_their_events_say_why() -> Result<()> {
    let cluster = Cluster::start(&Kit::find()?, &ClusterOptions { nodes: 1, ..ClusterOptions::default() })?;
    cluster.apply(WORLD)?;
    install(&cluster)?;
    cluster.apply(PODS)?;
    wait_ready(&cluster, "bank")?;
    assert_waits(&cluster)?;
    let events = ["get", "events", "--namespace=shop", "--output=jsonpath={.items[*].message}"];
    let why = "the Weft agent of this node is not running: pod shop/web belongs to the mesh";
    eventually_within(Duration::from_secs(20), "an event says why", || {
        Ok(cluster.kubectl(&events)?.success()?.contains(why).then_some(()))
    })?;

    // The same after a loss of power, with nothing of Weft alive.
    cluster.nodes()[0].reboot()?;
    assert_waits(&cluster)?;
    wait_ready(&cluster, "bank")?;

    // Once it is outside it starts by itself.
    cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"])?.success()?;
    wait_ready(&cluster, "shop")?;
    for namespace in ["--namespace=shop", "--namespace=bank"] {
        cluster.kubectl(&["delete", "pod", "web", namespace, "--timeout=50s"])?.success()?;
    }
    Ok(())
}
