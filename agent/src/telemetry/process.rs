//! `process_*`: CPU, memory and descriptors of this process, under the names that every Prometheus client uses.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Ticks a second of the times in `/proc/<pid>/stat`. The kernel's interface fixes `USER_HZ` at 100 on every
/// architecture that Weft runs on.
const USER_HZ: f64 = 100.0;

/// `weft_build_info`.
pub(super) fn register_build(weft: &mut Registry) {
    weft.register("build", "Which build runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
}

/// Reads the figures at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    started: f64,
}

impl ProcessCollector {
    /// For a process that has started just now.
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: started.as_secs_f64() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(seconds) = cpu_seconds() {
            encoder
                .encode_descriptor("process_cpu_seconds", "CPU time of this process", None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
        }
        let gauges = [
            ("process_resident_memory_bytes", "Memory in use", memory_in_use()),
            ("process_open_fds", "Open descriptors", open_descriptors()),
            ("process_max_fds", "Limit of open descriptors", descriptor_limit()),
            ("process_start_time_seconds", "When this process started, Unix time", Some(self.started)),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name in parentheses, may contain spaces. User and system time are the 14th and 15th.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / USER_HZ)
}

fn memory_in_use() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    // Since Linux 6.2 the size of the folder is the number of descriptors; before that it is 0, and all must be listed.
    let count = match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        size => size,
    };
    Some(count as f64)
}

fn descriptor_limit() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_this_process_are_plausible() {
        let memory = memory_in_use().unwrap();
        assert!((1e6..1e11).contains(&memory), "{memory} bytes");
        let descriptors = open_descriptors().unwrap();
        assert!((3.0..1e6).contains(&descriptors), "{descriptors} descriptors");
        assert!(descriptor_limit().unwrap() >= descriptors);
        assert!(cpu_seconds().unwrap() >= 0.0);
    }
}
