//! Controllers and agents beside a real API server, on the host's file system.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::cluster::Cluster;
use weft_tests::{Process, eventually_within, weft_binary};

use super::PATIENCE;

/// What a controller may do.
const RBAC: &str = include_str!("rbac.yaml");
/// The shop's namespace in the mesh, and on each node a pod whose token an agent shows.
const MESH: &str = include_str!("mesh.yaml");

/// Says of the shop's pods, as their agents would, that they are captured.
pub(super) fn announce(cluster: &Cluster) -> Result<()> {
    let annotation = "ambient.istio.io/redirection=enabled";
    cluster.kubectl(&["annotate", "pods", "--all", "--overwrite", annotation])?.success().map(drop)
}

/// The controllers of a cluster.
pub(super) struct ControlPlane<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    pub controllers: Vec<Process>,
}

impl<'a> ControlPlane<'a> {
    /// Starts so many controllers at once, and waits until all of them run. They may do what the chart's may, and are given
    /// `flags` besides.
    pub(super) fn start(cluster: &'a Cluster, count: u16, flags: &[&str]) -> Result<Self> {
        cluster.apply(RBAC)?;
        cluster.apply(MESH)?;
        eventually_within(PATIENCE, "the pods whose tokens are shown run", || {
            let wait = ["wait", "--namespace=weft-system", "--for=condition=Ready", "pod", "--all", "--timeout=1s"];
            Ok(cluster.kubectl(&wait)?.status.success().then_some(()))
        })?;
        let folder = cluster.folder().join("controller");
        fs::create_dir_all(&folder)?;
        let mut plane = Self { cluster, folder, controllers: Vec::new() };
        let token = cluster.kubectl(&["create", "token", "weft-controller", "--namespace=weft-system"])?.success()?;
        let mut kubeconfig: Value = serde_json::from_slice(&fs::read(cluster.kubeconfig())?)?;
        kubeconfig["users"][0]["user"]["token"] = token.trim().into();
        fs::write(plane.folder.join("kubeconfig"), kubeconfig.to_string())?;
        for index in 0..count {
            let controller = plane.controller(index, flags)?;
            plane.controllers.push(controller);
        }
        for index in 0..count {
            plane.wait_for_controller(index)?;
        }
        Ok(plane)
    }

    /// Starts one more, without waiting for it, and returns its number.
    pub(super) fn one_more(&mut self) -> Result<u16> {
        let index = u16::try_from(self.controllers.len())?;
        let controller = self.controller(index, &[])?;
        self.controllers.push(controller);
        Ok(index)
    }

    fn controller(&self, index: u16, flags: &[&str]) -> Result<Process> {
        let mut command = self.cluster.command(&weft_binary()?.to_string_lossy())?;
        command.args(["controller", "--kubernetes", "--names", "127.0.0.1", "--metrics", "off", "--readiness", "off"]);
        command.args(flags);
        command.arg("--listen").arg(format!("127.0.0.1:{}", port(index)));
        command.arg("--kubeconfig").arg(self.folder.join("kubeconfig")).process_group(0);
        Process::spawn_logging_to(command, &self.folder.join(controller_log(index)))
    }

    pub(super) fn wait_for_controller(&mut self, index: u16) -> Result<()> {
        let log = self.folder.join(controller_log(index));
        eventually_within(PATIENCE, "the controller runs", || {
            let text = fs::read_to_string(&log)?;
            ensure!(self.controllers[usize::from(index)].is_running()?, "the controller ended: {text}");
            Ok(text.contains("the controller runs").then_some(()))
        })
        .with_context(|| self.log(&controller_log(index)))
    }

    pub(super) fn log(&self, of: &str) -> String {
        fs::read_to_string(self.folder.join(of)).unwrap_or_default()
    }

    /// A token of the API server's, in a file.
    pub(super) fn token(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let token = self.cluster.kubectl(&[&["create", "token"], arguments].concat())?.success()?;
        let file = self.folder.join(name);
        fs::write(&file, token.trim())?;
        Ok(file)
    }

    /// The token of a node's agent.
    pub(super) fn token_of(&self, node: &str) -> Result<PathBuf> {
        let bound = format!("--bound-object-name=agent-{node}");
        let arguments =
            ["weft-agent", "--audience=istio-ca", "--bound-object-kind=Pod", &bound, "--namespace=weft-system"];
        self.token(&format!("token-{node}"), &arguments)
    }

    /// The roots that a namespace's ConfigMap has, once it is there.
    pub(super) fn bundle(&self, namespace: &str) -> Result<String> {
        let get = [
            "get",
            "configmap",
            "weft-ca-root-cert",
            "--namespace",
            namespace,
            r"--output=jsonpath={.data.root-cert\.pem}",
        ];
        eventually_within(PATIENCE, &format!("the trust bundle is in the namespace {namespace}"), || {
            let found = self.cluster.kubectl(&get)?;
            Ok(found.status.success().then_some(found.stdout).filter(|roots| !roots.is_empty()))
        })
    }

    /// The agent of a node whose pods are in a folder of its own, `config-NODE`, if there is one. It follows the first
    /// controller, and trusts what is in `roots-NODE` now.
    pub(super) fn agent(&self, node: &str, token: &Path) -> Result<Agent<'_>> {
        let folder = &self.folder;
        let (config, roots) = (self.config_of(node), self.roots_of(node));
        fs::create_dir_all(&config)?;
        if !roots.exists() {
            fs::write(&roots, self.bundle("weft-system")?)?;
        }
        let pins = PathBuf::from("/sys/fs/bpf").join(format!("weft-{}-{node}", std::process::id()));
        let state = folder.join(format!("state-{node}"));
        let mut command = self.cluster.command(&weft_binary()?.to_string_lossy())?;
        command.args(["agent", "--node", node, "--admin", "off", "--metrics", "off", "--readiness", "off"]);
        let address = format!("https://127.0.0.1:{}", port(0));
        command.args(["--discovery", &address, "--ca", &address]);
        // Whoever looks at what it knows wants to see all that it was told.
        command.args(["--discovery-mode", "wildcard"]);
        for (flag, path) in [
            ("--config", &config),
            ("--state-dir", &state),
            ("--bpf-dir", &pins),
            ("--token", &token.to_owned()),
            ("--root", &roots),
            ("--extra-roots", &roots),
        ] {
            command.arg(flag).arg(path);
        }
        command.process_group(0);
        let process = Process::spawn_logging_to(command, &folder.join(format!("agent-{node}.log")))?;
        Ok(Agent { plane: self, process, pins, state })
    }

    /// The folder of the pods of a node's agent.
    pub(super) fn config_of(&self, node: &str) -> PathBuf {
        self.folder.join(format!("config-{node}"))
    }

    /// The file of the roots that a node's agent trusts.
    pub(super) fn roots_of(&self, node: &str) -> PathBuf {
        self.folder.join(format!("roots-{node}.pem"))
    }
}

fn port(index: u16) -> u16 {
    15_112 + index
}

pub(super) fn controller_log(index: u16) -> String {
    format!("controller-{index}.log")
}

/// An agent that runs.
pub(super) struct Agent<'a> {
    plane: &'a ControlPlane<'a>,
    process: Process,
    pins: PathBuf,
    state: PathBuf,
}

impl Agent<'_> {
    /// What a command of the operator says, as JSON.
    pub(super) fn json(&self, command: &str) -> Result<Vec<Value>> {
        let mut asked = self.plane.cluster.command(&weft_binary()?.to_string_lossy())?;
        asked.args([command, "--output", "json", "--state-dir"]).arg(&self.state);
        asked.process_group(0);
        let said = Process::spawn(asked)?.finish_within(Duration::from_secs(10))?;
        // It may not listen yet.
        let said: Value = said.success().ok().and_then(|said| serde_json::from_str(&said).ok()).unwrap_or_default();
        Ok(said[command].as_array().cloned().unwrap_or_default())
    }

    /// The names of the pods that it reaches by tunnel.
    pub(super) fn enrolled(&self) -> Result<Vec<String>> {
        let workloads = self.json("workloads")?;
        let enrolled = workloads.iter().filter(|workload| workload["protocol"] == "hbone");
        let mut names: Vec<String> =
            enrolled.filter_map(|workload| Some(workload["name"].as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn wait_for_enrolled(&self, count: usize) -> Result<Vec<String>> {
        eventually_within(PATIENCE, &format!("the agent knows {count} enrolled pods"), || {
            let names = self.enrolled()?;
            Ok((names.len() == count).then_some(names))
        })
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = fs::remove_dir_all(&self.pins);
    }
}
