//! What the API server lets agents do, by the rules that the chart brings.

use std::fs;
use std::os::unix::process::CommandExt as _;

use anyhow::{Result, ensure};
use weft_tests::Process;
use weft_tests::cluster::chart::NAMESPACE;

use super::PATIENCE;
use super::standing::in_the_mesh;

/// A pod on each node, outside the mesh, so that no agent has a reason to change it.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: here, namespace: NAMESPACE, labels: {istio.io/dataplane-mode: none}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: NAMESPACE, labels: {istio.io/dataplane-mode: none}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
"#;

#[test]
fn an_agent_may_change_only_its_annotation_and_on_pods_of_its_own_node() -> Result<()> {
    in_the_mesh("rights", PODS, |place| {
        let cluster = place.cluster;
        let within = ["--namespace", NAMESPACE];
        let path = "--output=jsonpath={.items[?(@.spec.nodeName==\"node1\")].metadata.name}";
        let named = [&["get", "pods", "--selector=app.kubernetes.io/name=weft-agent", path], &within[..]].concat();
        let agent = cluster.kubectl(&named)?.success()?;
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", &agent];
        let token = cluster.kubectl(&[&["create", "token", "weft-agent"], &bound[..], &within].concat())?.success()?;
        let header = cluster.folder().join("agent.header");
        fs::write(&header, format!("Authorization: Bearer {}\n", token.trim()))?;

        let server = ["config", "view", "--output=jsonpath={.clusters[0].cluster.server}"];
        let server = cluster.kubectl(&server)?.success()?;
        let patch = |pod: &str, body: &str| -> Result<String> {
            let mut curl = cluster.command("curl")?;
            curl.args(["--silent", "--insecure", "--request", "PATCH", "--data", body]);
            curl.args(["--header", &format!("@{}", header.display())]);
            curl.args(["--header", "Content-Type: application/merge-patch+json"]);
            curl.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
            curl.arg(format!("{server}/api/v1/namespaces/{}/pods/{pod}/status", place.namespace)).process_group(0);
            Process::spawn(curl)?.finish_within(PATIENCE)?.success()
        };
        let own = r#"{"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}}"#;
        let code = patch("elsewhere", own)?;
        ensure!(code == "422", "a pod of another node was answered with {code}");
        ensure!(patch("here", own)? == "200", "its own annotation on a pod of its own node");
        for body in [
            r#"{"metadata": {"annotations": {"another": "one"}}}"#,
            r#"{"metadata": {"labels": {"app": "server"}}}"#,
            r#"{"metadata": {"finalizers": ["weft.dev/never"]}}"#,
            r#"{"status": {"phase": "Failed"}}"#,
        ] {
            let code = patch("here", body)?;
            ensure!(code == "422", "{body} was answered with {code}");
        }
        ensure!(patch("here", &own.replace("\"enabled\"", "null"))? == "200", "and takes it away again");
        Ok(())
    })
}
