//! The shipped agent on a node, and its command line.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::Host;
use crate::metrics::Metrics;
use crate::process::{Finished, Journal, Process};
use crate::sweep;
use crate::wait::{eventually, eventually_within};
use crate::world::Shared;

mod view;

const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;
const READINESS_PORT: u16 = 15021;

/// An agent to be started.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    shared: Arc<Shared>,
    host: Arc<Host>,
    node: String,
    label: String,
    binary: Option<PathBuf>,
    config: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// A running agent. Dropping it kills it and removes its pinned eBPF objects.
#[derive(Debug)]
pub struct Agent {
    options: AgentOptions,
    process: Process,
    journal: Journal,
    leaves_pins: bool,
}

/// The `weft` binary: `WEFT_BIN`, or the one that cargo built into the target folder of the running program, a release
/// build before a debug build.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn weft_binary() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("WEFT_BIN").map(PathBuf::from) {
        ensure!(binary.exists(), "WEFT_BIN names {}, which does not exist", binary.display());
        return Ok(binary);
    }
    let program = env::current_exe().context("finding the running program")?;
    let built = program.ancestors().flat_map(|folder| ["release/weft", "debug/weft"].map(|file| folder.join(file)));
    built.into_iter().find(|file| file.is_file()).with_context(|| {
        format!("no weft binary above {}: run `cargo xtask build`, or set WEFT_BIN", program.display())
    })
}

/// Runs a command of `weft` that asks no agent, such as `["analyze", "DIR"]`, on a host.
///
/// # Errors
/// The binary is not there, or did not end in half a minute.
pub fn weft(host: &Host, arguments: &[&str]) -> Result<Finished> {
    let mut command = host.command(&weft_binary()?.to_string_lossy())?;
    command.args(arguments);
    Process::spawn(command)?.finish_within(Duration::from_secs(30))
}

impl AgentOptions {
    pub(crate) fn new(shared: Arc<Shared>, host: Arc<Host>, node: &str, label: &str) -> Self {
        let config = shared.config.path().to_owned();
        Self {
            shared,
            host,
            node: node.into(),
            label: label.into(),
            binary: None,
            config,
            arguments: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// Adds arguments of `weft agent`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Reads another folder than the one that the world's agents share.
    #[must_use]
    pub fn config(mut self, folder: &Path) -> Self {
        self.config = folder.to_owned();
        self
    }

    /// Runs another build of the agent.
    #[must_use]
    pub fn binary(mut self, binary: &Path) -> Self {
        self.binary = Some(binary.to_owned());
        self
    }

    /// Starts the agent and waits until it says that it is ready.
    ///
    /// # Errors
    /// There is no binary, or it was not ready in 20 seconds; its log is in the message.
    pub fn start(self) -> Result<Agent> {
        let mut agent = self.start_unready()?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts the agent and does not wait.
    ///
    /// # Errors
    /// There is no binary.
    pub fn start_unready(self) -> Result<Agent> {
        let journal = Journal::File(self.log_file().into());
        self.shared.journals.lock().expect("no journal panics").push((self.label.clone(), journal.clone()));
        let process = self.spawn(&journal)?;
        Ok(Agent { options: self, process, journal, leaves_pins: false })
    }

    /// The folder of the agent's state and of its Unix socket.
    pub fn state_folder(&self) -> PathBuf {
        self.shared.folder.join(format!("state-{}", self.label))
    }

    /// The file that its log and its access log are appended to.
    pub fn log_file(&self) -> PathBuf {
        self.shared.folder.join(format!("agent-{}.log", self.label))
    }

    /// The folder in bpffs where it pins its links and maps.
    pub fn pins(&self) -> PathBuf {
        Path::new(sweep::PINS).join(&self.node)
    }

    fn spawn(&self, journal: &Journal) -> Result<Process> {
        let binary = self.binary.clone().map_or_else(weft_binary, Ok)?;
        let state = self.state_folder();
        fs::create_dir_all(&state).with_context(|| format!("making {}", state.display()))?;
        let mut command = self.host.command(&binary.to_string_lossy())?;
        command.arg("agent").arg("--config").arg(&self.config).args(["--node", &self.node]);
        command.arg("--state-dir").arg(&state).arg("--ca-dir").arg(self.shared.folder.join("ca"));
        command.args(["--admin", &format!("127.0.0.1:{ADMIN_PORT}")]);
        command.args(["--metrics", &format!("0.0.0.0:{METRICS_PORT}")]);
        command.args(["--readiness", &format!("0.0.0.0:{READINESS_PORT}")]);
        command.args(&self.arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Process::spawn_into(command, journal.clone(), journal.clone())
    }

    fn get(&self, port: u16, path: &str) -> Result<(u16, String)> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let mut stream = self.host.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.with_context(|| format!("no HTTP status in {head:?}"))?, body.to_owned()))
    }
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The folder of its state and of its Unix socket.
    pub fn state_folder(&self) -> PathBuf {
        self.options.state_folder()
    }

    /// The folder in bpffs where it pins its links and maps.
    pub fn pins(&self) -> PathBuf {
        self.options.pins()
    }

    /// The file that its log and its access log are appended to.
    pub fn log_file(&self) -> PathBuf {
        self.options.log_file()
    }

    /// Everything it has logged, over all its starts.
    pub fn log(&self) -> String {
        self.journal.text()
    }

    /// What it has logged since the `start`th byte; see [`log_length`](Self::log_length).
    pub fn log_since(&self, start: usize) -> String {
        self.journal.text_from(start)
    }

    /// How much it has logged so far, in bytes.
    pub fn log_length(&self) -> usize {
        self.journal.length()
    }

    /// Waits until a line with all these words is logged after the `start`th byte of the log, and returns the line.
    ///
    /// # Errors
    /// None was in 20 seconds.
    pub fn wait_for_log_since(&self, start: usize, words: &[&str]) -> Result<String> {
        let what = format!("a line with {words:?} in the log of {}", self.options.label);
        let waited = eventually(&what, || {
            let text = self.log_since(start);
            Ok(text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned))
        });
        waited.with_context(|| format!("it logged:\n{}", self.log_since(start)))
    }

    /// [`wait_for_log_since`](Self::wait_for_log_since) the very start.
    ///
    /// # Errors
    /// No such line was logged in 20 seconds.
    pub fn wait_for_log(&self, words: &[&str]) -> Result<String> {
        self.wait_for_log_since(0, words)
    }

    /// Whether it answers that it is ready.
    pub fn is_ready(&self) -> bool {
        matches!(self.options.get(READINESS_PORT, "/healthz/ready"), Ok((200, _)))
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended, or was not ready in 20 seconds.
    pub fn wait_ready(&mut self) -> Result<()> {
        let waited = eventually(&format!("the agent of {} is ready", self.options.label), || {
            if !self.process.is_running()? {
                bail!("the agent of {} has ended", self.options.label);
            }
            Ok(self.is_ready().then_some(()))
        });
        waited.with_context(|| format!("it logged:\n{}", self.log()))
    }

    /// Whether its process is there.
    ///
    /// # Errors
    /// The kernel does not know it as a child of ours.
    pub fn is_running(&mut self) -> Result<bool> {
        self.process.is_running()
    }

    /// SIGKILL, as the kernel's out-of-memory killer would.
    ///
    /// # Errors
    /// It is no child of ours any more.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().context("killing the agent")?;
        Ok(())
    }

    /// Sends SIGTERM and returns at once.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal_termination(&self) -> io::Result<()> {
        self.process.signal(libc::SIGTERM)
    }

    /// Stops it as a node does that is out of breath: its sockets live on and nobody serves them. Returns when no thread of
    /// it runs any more.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&self) -> Result<()> {
        self.process.pause()
    }

    /// Lets it go on after [`Agent::pause`].
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> io::Result<()> {
        self.process.resume()
    }

    /// SIGTERM, and waits until it has drained and ended by itself with status 0.
    ///
    /// # Errors
    /// It did not within `limit`, or ended with another status.
    pub fn terminate(&mut self, limit: Duration) -> Result<()> {
        self.signal_termination()?;
        eventually_within(limit, "the agent ends after SIGTERM", || Ok((!self.is_running()?).then_some(())))?;
        let status = self.process.kill()?;
        ensure!(status.success(), "after SIGTERM the agent of {} ended with {status}", self.options.label);
        Ok(())
    }

    /// Another agent of the node has taken over: this one is killed, if it still runs, and leaves what it pinned to the other.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn replace(&mut self, next: Self) -> Result<()> {
        std::mem::replace(self, next).abandon()
    }

    /// Kills it, and leaves what is pinned to another agent of the node.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn abandon(mut self) -> Result<()> {
        self.leaves_pins = true;
        self.kill()
    }

    /// Starts it again after it ended, and waits until it is ready.
    ///
    /// # Errors
    /// It still runs, or does not come up.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.process.is_running()?, "the agent of {} still runs", self.options.label);
        self.process = self.options.spawn(&self.journal)?;
        self.wait_ready()
    }

    /// Scrapes its metrics.
    ///
    /// # Errors
    /// It does not answer, or not in Prometheus' format.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, body) = self.options.get(METRICS_PORT, "/metrics")?;
        ensure!(status == 200, "/metrics answered {status}: {body}");
        Metrics::parse(&body)
    }

    /// Waits until the sum of the samples called `name` with these labels is at least `least`.
    ///
    /// # Errors
    /// It is not in 20 seconds.
    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) -> Result<f64> {
        let waited = eventually(&format!("{name}{labels:?} reaches {least}"), || {
            let sum = self.metrics()?.sum(name, labels);
            Ok((sum >= least).then_some(sum))
        });
        waited.with_context(|| {
            let metrics = self.metrics().unwrap_or_default();
            let lines: Vec<_> = metrics.matching(name, &[]).map(|sample| format!("{sample:?}")).collect();
            format!("the agent of {} has:\n{}", self.options.label, lines.join("\n"))
        })
    }

    /// Asks the admin server on the node's loopback interface.
    ///
    /// # Errors
    /// It does not answer.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        self.options.get(ADMIN_PORT, path)
    }

    /// Runs an operator's command that asks an agent, such as `["status", "-o", "json"]`, against this agent.
    ///
    /// # Errors
    /// The binary is not there, or did not end in time.
    pub fn cli(&self, arguments: &[&str]) -> Result<Finished> {
        let binary = self.options.binary.clone().map_or_else(weft_binary, Ok)?;
        let mut command = self.options.host.command(&binary.to_string_lossy())?;
        command.args(arguments).arg("--state-dir").arg(self.state_folder());
        Process::spawn(command)?.finish_within(Duration::from_secs(30))
    }

    /// Runs an operator's command with `-o json` and parses what it prints. (`weft status` says by its exit code that
    /// something is wrong, and prints what all the same.)
    ///
    /// # Errors
    /// It did not print JSON.
    pub fn json(&self, command: &str) -> Result<Value> {
        let finished = self.cli(&[command, "-o", "json"])?;
        serde_json::from_str(&finished.stdout)
            .with_context(|| format!("weft {command} -o json: {}{}", finished.stdout, finished.stderr))
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).context("reading its memory")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().context("parsing VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// How many descriptors it has open.
    ///
    /// # Errors
    /// It is gone.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid())).context("listing its descriptors")?.count())
    }

    /// The CPU time that it has used, user and system.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).context("reading its CPU time")?;
        // The second field is the command in brackets and may hold spaces; user and system time are 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("no command in /proc/PID/stat")?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).context("no CPU time");
        let total = ticks()? + ticks()?;
        // SAFETY: sysconf takes no pointers.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
        Ok(Duration::from_millis(total * 1000 / per_second))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        if !self.leaves_pins {
            let _ = fs::remove_dir_all(self.pins());
        }
    }
}
