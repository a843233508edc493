//! The machine that measures, and what else it is busy with.

use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What figures depend on.
#[derive(Debug)]
pub struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    memory_gb: f64,
    congestion_control: String,
}

impl Machine {
    /// Reads it from `/proc`; what is not there is called unknown.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let cpus = read("/proc/cpuinfo");
        let processor = cpus.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
        let memory = read("/proc/meminfo");
        let kilobytes = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
        let setting = |path: &str| Some(read(path).trim().to_owned()).filter(|text| !text.is_empty());
        Self {
            kernel: setting("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            congestion_control: setting("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_else(unknown),
            processor: processor.map_or_else(unknown, str::to_owned),
            cores: cores(),
            memory_gb: kilobytes.unwrap_or_default() * 1024.0 / 1e9,
        }
    }

    /// One line.
    pub fn to_text(&self) -> String {
        let Self { kernel, processor, cores, memory_gb, congestion_control } = self;
        format!(
            "Linux {kernel}, {cores} cores, {processor}, {memory_gb:.0} GB, TCP congestion control {congestion_control}"
        )
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "processor": self.processor,
            "cores": self.cores,
            "memory_gb": self.memory_gb,
            "congestion_control": self.congestion_control,
        })
    }
}

/// CPU time that was used up to a moment.
#[derive(Debug)]
pub struct CpuUse {
    at: Instant,
    machine: f64,
    own: f64,
}

impl CpuUse {
    /// Of the whole machine, and of the processes in `cgroup` and below it, with this one; a folder that is none has used
    /// nothing.
    pub fn take(cgroup: &Path) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let all = stat.lines().next().context("/proc/stat is empty")?;
        // user nice system idle iowait irq softirq steal; guest times are contained in the first two.
        let ticks: Vec<f64> = all.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
        let busy: f64 =
            ticks.iter().enumerate().filter(|(field, _)| ![3, 4].contains(field)).map(|(_, tick)| tick).sum();
        // SAFETY: sysconf takes no pointers.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let own = match fs::read_to_string(cgroup.join("cpu.stat")) {
            Ok(text) => {
                let used = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok());
                used.context("no usage_usec in cpu.stat")? / 1e6
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0.0,
            Err(error) => return Err(error).with_context(|| format!("reading {}/cpu.stat", cgroup.display())),
        };
        let this = cpu_time(std::process::id()).context("reading the CPU time of this process")?.as_secs_f64();
        Ok(Self { at: Instant::now(), machine: busy / per_second, own: own + this })
    }

    /// The share of the machine's CPU time since `before` that went to anything outside the cgroup.
    pub fn foreign_since(&self, before: &Self) -> f64 {
        let total = (self.at - before.at).as_secs_f64() * cores() as f64;
        let foreign = (self.machine - before.machine) - (self.own - before.own);
        (foreign / total).clamp(0.0, 1.0)
    }
}

/// The CPU time of all threads of a process, those that have ended included, as the scheduler counts it: in nanoseconds,
/// where `/proc/PID/stat` has hundredths of a second.
pub fn cpu_time(process: u32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the call writes one clock id to `clock`, which outlives it.
    let error = unsafe { libc::clock_getcpuclockid(process as libc::pid_t, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes one timespec to `time`, which outlives it.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, hence wrote the value.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
