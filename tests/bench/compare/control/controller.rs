//! The shipped controller, and shipped agents that follow it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::{Families, Node, Pod, PodSpec, Process, World, weft_binary};

use super::objects;
use super::subscribers::{Target, token_file};
use crate::load::Memory;

/// Where agents find it on its node.
const PORT: u16 = 15012;
/// Where it says that it is ready.
const READINESS: u16 = 15016;
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time for what a start leaves behind to be given back, or not.
const SETTLE: Duration = Duration::from_secs(3);

/// The namespace of the pods that really run.
pub const LIVING: &str = "living";

/// A controller that is ready.
#[derive(Debug)]
pub struct Controller {
    process: Process,
    /// From its start.
    pub ready_after: Duration,
}

impl Controller {
    /// Starts one on a node.
    pub fn start(node: &Node, kubeconfig: &Path, log: &Path) -> Result<Self> {
        let mut command = node.command(&weft_binary()?.to_string_lossy())?;
        let address = node.addresses()[0];
        command.args(["controller", "--kubernetes", "--kubeconfig"]).arg(kubeconfig);
        command.args(["--namespace", objects::SYSTEM, "--root-namespace", objects::ROOT]);
        command.args(["--listen", &SocketAddr::new(address, PORT).to_string(), "--names", &address.to_string()]);
        command.args(["--metrics", "127.0.0.1:15014", "--readiness", &format!("127.0.0.1:{READINESS}")]);
        let start = Instant::now();
        let mut process = Process::spawn_logging_to(command, log)?;
        while !is_ready(node) {
            ensure!(process.is_running()?, "the controller has ended:\n{}", process.stderr());
            ensure!(
                start.elapsed() < PATIENCE,
                "the controller is not ready after {PATIENCE:?}:\n{}",
                process.stderr()
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { process, ready_after: start.elapsed() })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it holds, some time after what happened last.
    pub fn memory(&self) -> Result<Memory> {
        thread::sleep(SETTLE);
        Memory::of(self.pid())
    }

    /// The most that it ever held, in MB.
    pub fn peak(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().context("parsing VmHWM")?;
        Ok(kilobytes * 1024.0 / 1e6)
    }
}

/// The address that agents are told.
pub fn url(node: &Node) -> String {
    format!("https://{}", SocketAddr::new(node.addresses()[0], PORT))
}

fn is_ready(node: &Node) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, READINESS))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /healthz/ready HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    node.enter(ask).is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}

/// A node on which an agent and a pod really run.
pub struct Living {
    /// The node.
    pub node: Node,
    pod: Pod,
}

impl Living {
    /// Makes a node with one pod. Agents read from the world's folder which pods are on their node.
    pub fn create(world: &World, label: &str) -> Result<Self> {
        world.enrol(LIVING)?;
        let node = world.node(label)?;
        let spec = PodSpec::new(&format!("app-{label}")).namespace(LIVING).service_account(LIVING);
        let pod = node.pod(spec.families(Families::V4))?;
        Ok(Self { node, pod })
    }

    /// The pod as the API server has it.
    pub fn object(&self) -> Result<objects::Object> {
        let std::net::IpAddr::V4(address) = self.pod.ip() else { anyhow::bail!("the pod has no IPv4 address") };
        let pod = objects::Pod {
            namespace: LIVING.to_owned(),
            app: LIVING.to_owned(),
            name: self.pod.name().to_owned(),
            node: self.node.name().to_owned(),
            address,
        };
        Ok(pod.object(true))
    }

    /// Runs an agent until it has captured its pod and has been idle for a while. Returns what it holds then.
    pub fn agent_memory(&self, target: &Target, is_wildcard: bool) -> Result<Memory> {
        let roots = target.roots.display().to_string();
        let token = token_file(&target.tokens, self.node.name()).display().to_string();
        let mode = if is_wildcard { "wildcard" } else { "on-demand" };
        let mut agent = self.node.agent().with(&["--discovery", &target.url, "--ca", &target.url]);
        agent = agent.with(&["--token", &token, "--root", &roots, "--discovery-mode", mode]);
        let state = agent.state_folder();
        let start = Instant::now();
        let mut agent = agent.start_unready()?;
        while !agent.is_ready() {
            ensure!(agent.is_running()?, "the agent has ended; it logged:\n{}", agent.log());
            ensure!(start.elapsed() < PATIENCE, "the agent is not ready after {PATIENCE:?}:\n{}", agent.log());
            thread::sleep(Duration::from_millis(5));
        }
        agent.wait_enrolled(&self.pod)?;
        thread::sleep(SETTLE);
        let memory = Memory::of(agent.pid())?;
        drop(agent);
        fs::remove_dir_all(&state).with_context(|| format!("removing {}", state.display()))?;
        Ok(memory)
    }
}
