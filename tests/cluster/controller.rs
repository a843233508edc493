//! A controller that watches a real API server, and an agent that follows it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::cluster::Cluster;
use weft_tests::{Process, eventually_within, weft_binary};

use super::{PATIENCE, shop};

/// The shop's namespace in the mesh, and a pod whose token the agent shows.
const MESH: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: weft-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: weft-agent, namespace: weft-system}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: weft-system}
spec:
  serviceAccountName: weft-agent
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{name: agent, image: "localhost/weft-test/client:1", args: ["sleep infinity"]}]
"#;

const DENY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-all, namespace: default}
spec: {}
"#;

/// A controller and an agent beside the API server, on the host's file system.
struct ControlPlane<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    _controller: Process,
}

impl<'a> ControlPlane<'a> {
    fn start(cluster: &'a Cluster) -> Result<Self> {
        let folder = cluster.folder().join("controller");
        std::fs::create_dir_all(folder.join("config"))?;
        let mut command = cluster.command(&weft_binary()?.to_string_lossy())?;
        command.args(["controller", "--kubernetes", "--names", "127.0.0.1", "--listen", "127.0.0.1:15012"]);
        command.arg("--kubeconfig").arg(cluster.kubeconfig());
        command.arg("--ca-dir").arg(folder.join("ca")).process_group(0);
        let mut controller = Process::spawn_logging_to(command, &folder.join("controller.log"))?;
        let log = folder.join("controller.log");
        eventually_within(PATIENCE, "the controller runs", || {
            ensure!(controller.is_running()?, "the controller ended: {}", std::fs::read_to_string(&log)?);
            Ok(std::fs::read_to_string(&log)?.contains("the controller runs").then_some(()))
        })?;
        Ok(Self { cluster, folder, _controller: controller })
    }

    fn log(&self, of: &str) -> String {
        std::fs::read_to_string(self.folder.join(of)).unwrap_or_default()
    }

    /// A token of the API server's, in a file.
    fn token(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let token = self.cluster.kubectl(&[&["create", "token"], arguments].concat())?.success()?;
        let file = self.folder.join(name);
        std::fs::write(&file, token.trim())?;
        Ok(file)
    }

    fn agent(&self, token: &Path) -> Result<Agent<'_>> {
        let folder = &self.folder;
        let pins = PathBuf::from("/sys/fs/bpf").join(format!("weft-{}", std::process::id()));
        let mut command = self.cluster.command(&weft_binary()?.to_string_lossy())?;
        command.args(["agent", "--node", "node1", "--admin", "off", "--metrics", "off", "--readiness", "off"]);
        command.args(["--discovery", "https://127.0.0.1:15012", "--ca", "https://127.0.0.1:15012"]);
        for (flag, path) in [
            ("--config", folder.join("config")),
            ("--state-dir", folder.join("state")),
            ("--bpf-dir", pins.clone()),
            ("--token", token.to_owned()),
            ("--root", folder.join("ca/ca-cert.pem")),
        ] {
            command.arg(flag).arg(path);
        }
        command.process_group(0);
        let process = Process::spawn_logging_to(command, &folder.join("agent.log"))?;
        Ok(Agent { plane: self, process, pins })
    }
}

struct Agent<'a> {
    plane: &'a ControlPlane<'a>,
    process: Process,
    pins: PathBuf,
}

impl Agent<'_> {
    /// What a command of the operator says, as JSON.
    fn json(&self, command: &str) -> Result<Vec<Value>> {
        let mut asked = self.plane.cluster.command(&weft_binary()?.to_string_lossy())?;
        asked.args([command, "--output", "json", "--state-dir"]).arg(self.plane.folder.join("state"));
        asked.process_group(0);
        let said = Process::spawn(asked)?.finish_within(Duration::from_secs(10))?;
        // It may not listen yet.
        let said: Value = said.success().ok().and_then(|said| serde_json::from_str(&said).ok()).unwrap_or_default();
        Ok(said[command].as_array().cloned().unwrap_or_default())
    }

    /// The names of the pods that it reaches by tunnel.
    fn enrolled(&self) -> Result<Vec<String>> {
        let workloads = self.json("workloads")?;
        let enrolled = workloads.iter().filter(|workload| workload["protocol"] == "hbone");
        let mut names: Vec<String> =
            enrolled.filter_map(|workload| Some(workload["name"].as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    fn wait_for_enrolled(&self, count: usize) -> Result<Vec<String>> {
        eventually_within(PATIENCE, &format!("the agent knows {count} enrolled pods"), || {
            let names = self.enrolled()?;
            Ok((names.len() == count).then_some(names))
        })
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

#[test]
fn an_agent_learns_of_a_controller_what_the_cluster_has() -> Result<()> {
    let cluster = shop()?;
    cluster.apply(MESH)?;
    eventually_within(PATIENCE, "the pod whose token is shown runs", || {
        let wait = ["wait", "--namespace=weft-system", "--for=condition=Ready", "pod/agent", "--timeout=1s"];
        Ok(cluster.kubectl(&wait)?.status.success().then_some(()))
    })?;
    let plane = ControlPlane::start(&cluster)?;

    // Tokens of others, and for others, are refused.
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=agent", "--namespace=weft-system"];
    let strangers = plane.token("stranger", &["default", "--audience=istio-ca"])?;
    let elsewhere = plane.token("elsewhere", &[&["weft-agent"], &bound[..]].concat())?;
    for (token, reason) in [(strangers, "is not that of an agent"), (elsewhere, "does not accept the token")] {
        let agent = plane.agent(&token)?;
        eventually_within(PATIENCE, &format!("the log says that a caller {reason}"), || {
            Ok(plane.log("controller.log").contains(reason).then_some(()))
        })?;
        ensure!(agent.enrolled()?.is_empty(), "a caller that was refused knows of {:?}", agent.enrolled()?);
    }

    let token = plane.token("token", &[&["weft-agent", "--audience=istio-ca"], &bound[..]].concat())?;
    let agent = plane.agent(&token)?;
    let names = agent.wait_for_enrolled(3)?;
    ensure!(names[0] == "client" && names[1].starts_with("server-"), "enrolled are {names:?}");

    // Kinds that the cluster did not have when the controller started.
    let definitions = std::fs::read_to_string(super::Kit::find()?.definitions().join("istio.yaml"))?;
    cluster.apply(&definitions)?;
    eventually_within(PATIENCE, "the policy is taken", || Ok(cluster.apply(DENY).is_ok().then_some(())))?;
    eventually_within(PATIENCE, "the agent has the policy", || {
        Ok(agent.json("policies")?.iter().any(|policy| policy["name"] == "deny-all").then_some(()))
    })?;

    // While the API server is away what was known stays, and then what has changed meanwhile is learned.
    let control = cluster.control_plane();
    control.stop_service("kube-apiserver")?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(agent.enrolled()? == names, "without the API server {:?} are left of {names:?}", agent.enrolled()?);
    control.start_service("kube-apiserver")?;
    eventually_within(PATIENCE, "the API server takes orders", || {
        Ok(cluster.kubectl(&["scale", "deployment/server", "--replicas=3"])?.status.success().then_some(()))
    })?;
    agent.wait_for_enrolled(4)?;
    cluster.kubectl(&["label", "namespace/default", "istio.io/dataplane-mode-"])?.success()?;
    agent.wait_for_enrolled(0)?;
    Ok(())
}
