//! The load generator, as processes in pods.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::{Host, Process};

use crate::Options;
use crate::machine::CpuUse;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// So many streams send as much as is taken.
    Bulk(usize),
    /// So many connections exchange requests and responses of 1 KB.
    Request(usize),
    /// So many connections at a time are opened for one exchange each.
    Connect(usize),
}

/// What one run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Bytes or exchanges a second.
    pub rate: f64,
    /// CPU seconds of the watched processes for each byte or exchange.
    pub cpu: f64,
    /// Median time of an exchange in microseconds, 0 for bulk.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Connections that failed.
    pub failed: u64,
    /// Why the first of them did.
    pub error: Option<String>,
    /// The share of the machine that other processes took.
    pub foreign: f64,
}

/// The servers of the load generator.
#[derive(Debug)]
pub struct Server {
    _process: Process,
    control: PathBuf,
    /// Echoes.
    pub echo: SocketAddr,
    /// Swallows.
    pub sink: SocketAddr,
}

impl Server {
    /// Starts them.
    pub fn start(host: &Host, address: IpAddr, control: &Path) -> Result<Self> {
        let [echo, sink] = [9000, 9001].map(|port| SocketAddr::new(address, port));
        let mut command = host.command(&sibling("weft-load")?.to_string_lossy())?;
        command.args(["serve", "--echo", &echo.to_string(), "--sink", &sink.to_string(), "--control"]).arg(control);
        let mut process = Process::spawn(command)?;
        process.wait_for_output("serving")?;
        Ok(Self { _process: process, control: control.to_owned(), echo, sink })
    }
}

impl Load {
    /// Runs it once from `host`, while the CPU time of `watched` is counted; `cgroup` is that of all that belongs to it.
    pub fn run(
        self,
        options: &Options,
        host: &Host,
        server: &Server,
        watched: &[u32],
        cgroup: &Path,
    ) -> Result<Outcome> {
        wait_for_silence(options.patience);
        let mut command = host.command(&sibling("weft-load")?.to_string_lossy())?;
        let (mode, to, number) = match self {
            Self::Bulk(streams) => ("bulk", server.sink, ["--streams".to_owned(), streams.to_string()]),
            Self::Request(number) => ("request", server.echo, ["--connections".to_owned(), number.to_string()]),
            Self::Connect(parallel) => ("connect", server.echo, ["--parallel".to_owned(), parallel.to_string()]),
        };
        command.args([mode, "--to", &to.to_string(), "--seconds", &options.seconds.to_string()]).args(number);
        watched.iter().for_each(|pid| {
            command.args(["--watch", &pid.to_string()]);
        });
        if matches!(self, Self::Bulk(_)) {
            command.arg("--control").arg(&server.control);
        }
        let before = CpuUse::take(cgroup)?;
        let printed =
            Process::spawn(command)?.finish_within(Duration::from_secs_f64(options.seconds + 30.0))?.success()?;
        let foreign = CpuUse::take(cgroup)?.foreign_since(&before);
        let result: Value = serde_json::from_str(&printed).with_context(|| format!("weft-load printed {printed:?}"))?;
        Outcome::parse(&result, foreign).with_context(|| format!("weft-load printed {result}"))
    }
}

impl Outcome {
    fn parse(result: &Value, foreign: f64) -> Result<Self> {
        let number = |value: &Value| value.as_f64();
        let (rate, amount) = match number(&result["bytes_per_second"]) {
            Some(rate) => (Some(rate), number(&result["bytes"])),
            None => (number(&result["rate"]), number(&result["latency"]["count"])),
        };
        let amount = amount.context("no count")?;
        ensure!(amount > 0.0, "nothing went through");
        let cpu: f64 = result["cpu_seconds"].as_array().context("no CPU time")?.iter().filter_map(number).sum();
        Ok(Self {
            rate: rate.context("no rate")?,
            cpu: cpu / amount,
            p50: number(&result["latency"]["p50_us"]).unwrap_or_default(),
            p99: number(&result["latency"]["p99_us"]).unwrap_or_default(),
            failed: result["failed"].as_u64().unwrap_or_default(),
            error: result["error"].as_str().map(str::to_owned),
            foreign,
        })
    }
}

/// Opens connections from `host` and keeps them until the returned process is dropped.
pub fn hold(host: &Host, server: &Server, connections: usize) -> Result<Process> {
    let mut command = host.command(&sibling("weft-load")?.to_string_lossy())?;
    command.args([
        "hold",
        "--to",
        &server.echo.to_string(),
        "--connections",
        &connections.to_string(),
        "--burst",
        "50",
    ]);
    let mut process = Process::spawn(command)?;
    process.wait_for_output("holding")?;
    Ok(process)
}

/// Another program of the benchmark: they are built into one folder.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("finding the running program")?.with_file_name(name);
    ensure!(path.is_file(), "{} is missing: run `cargo xtask bench`, which builds it", path.display());
    Ok(path)
}

/// Returns when the machine has been almost idle for a while, or after `patience` seconds.
fn wait_for_silence(patience: f64) {
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < patience {
        let Ok(before) = CpuUse::take(Path::new("/")) else { return };
        std::thread::sleep(Duration::from_millis(300));
        if CpuUse::take(Path::new("/")).is_ok_and(|now| now.foreign_since(&before) < 0.04) {
            return;
        }
    }
}

/// The memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident, in MB of 10^6 bytes.
    pub resident: f64,
    /// The same with shared pages counted by their share.
    pub proportional: f64,
}

impl Memory {
    /// Of a process now.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
            kilobytes.map(|kilobytes| kilobytes * 1024.0 / 1e6).with_context(|| format!("no {name} in {path}"))
        };
        Ok(Self { resident: field("Rss:")?, proportional: field("Pss:")? })
    }
}
