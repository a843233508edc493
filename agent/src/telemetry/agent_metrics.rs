//! The metrics of the agent itself, under `weft_`.
//!
//! | name | type | labels | meaning |
//! | --- | --- | --- | --- |
//! | `weft_build_info` | gauge, always 1 | `version` | which build runs |
//! | `weft_connections_open` | gauge | `direction` | connections being carried |
//! | `weft_tunnels_open` | gauge | `role` (`client`, `server`) | HBONE tunnels that stand |
//! | `weft_capture_active` | gauge, 0 or 1 | | the eBPF programs are attached |
//! | `weft_pods` | gauge | `state` | this node's pods by state of enrolment |
//! | `weft_configuration_generation` | gauge | | number of the snapshot in force |
//! | `weft_configuration_problems` | gauge | `severity` | mistakes found in the configuration |
//! | `weft_certificate_expiry_timestamp_seconds` | gauge | `identity` | when its certificate ends, Unix time |
//! | `weft_access_log_records_total` | counter | | access records written |
//! | `weft_access_log_dropped_total` | counter | | access records lost: the output is too slow, or failed |
//! | `weft_log_lines_total`, `weft_log_dropped_total` | counter | | the same of diagnostics |
//! | `weft_worker_stalls_total` | counter | `worker` | turns of a worker's loop that took over 50 ms |
//! | `weft_tcp_series`, `weft_tcp_series_overflowed_total` | | | size of the `istio_tcp_*` families |
//! | `process_*` | | | CPU, memory and descriptors, as in every Prometheus client |

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::access_log::Direction;
use super::process;
use super::sink::SinkCounters;

/// A turn of a worker's loop that takes longer than this holds up every other connection of that worker noticeably.
pub const STALL: Duration = Duration::from_millis(50);

/// One label and its value.
type OneLabel = [(&'static str, String); 1];

/// What the agent counts of itself. The fields are shared handles onto atomics: clone them into whoever counts.
#[derive(Debug)]
pub struct AgentMetrics {
    /// Connections that pods opened and that are being carried.
    pub outbound_open: Gauge,
    /// Connections to pods that are being carried.
    pub inbound_open: Gauge,
    /// Tunnels that this agent opened and that stand.
    pub client_tunnels_open: Gauge,
    /// Tunnels that were opened to this agent and stand.
    pub server_tunnels_open: Gauge,
    /// Records of the access log.
    pub access_log: SinkCounters,
    /// Lines of the diagnostics.
    pub log: SinkCounters,
    stalls: Family<OneLabel, Counter>,
    observed: Arc<Observed>,
}

/// The state of an agent that its metrics show. Read where it lives, right before each scrape.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The eBPF programs are attached.
    pub is_capture_active: bool,
    /// Number of the snapshot in force.
    pub generation: u64,
    /// States of enrolment, and how many pods of this node are in each.
    pub pods: Vec<(&'static str, usize)>,
    /// Severities, and how many problems the configuration has of each.
    pub problems: Vec<(&'static str, usize)>,
    /// Identities, and when their certificates end.
    pub certificates: Vec<(String, SystemTime)>,
}

impl AgentMetrics {
    /// Makes the metrics, visible in `registry`.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let weft = registry.sub_registry_with_prefix("weft");
        process::register_build(weft);

        let open: Family<OneLabel, Gauge> = Family::default();
        let direction =
            |direction: Direction| open.get_or_create_owned(&[("direction", direction.as_str().to_owned())]);
        let (outbound_open, inbound_open) = (direction(Direction::Outbound), direction(Direction::Inbound));
        weft.register("connections_open", "Connections being carried", open);

        let tunnels: Family<OneLabel, Gauge> = Family::default();
        let role = |role: &str| tunnels.get_or_create_owned(&[("role", role.to_owned())]);
        let (client_tunnels_open, server_tunnels_open) = (role("client"), role("server"));
        weft.register("tunnels_open", "HBONE tunnels that stand", tunnels);

        let (access_log, log) = (SinkCounters::default(), SinkCounters::default());
        access_log.register(weft, ["access_log_records", "access_log_dropped"], "Access records");
        log.register(weft, ["log_lines", "log_dropped"], "Lines of diagnostics");

        let stalls: Family<OneLabel, Counter> = Family::default();
        weft.register("worker_stalls", "Turns of a worker's loop that took over 50 ms", stalls.clone());
        let observed = Arc::<Observed>::default();
        weft.register_collector(Box::new(Arc::clone(&observed)));
        Self {
            outbound_open,
            inbound_open,
            client_tunnels_open,
            server_tunnels_open,
            access_log,
            log,
            stalls,
            observed,
        }
    }

    /// What one worker counts of its own loop.
    pub fn worker(&self, index: usize) -> WorkerMetrics {
        WorkerMetrics { stalls: self.stalls.get_or_create_owned(&[("worker", index.to_string())]) }
    }

    /// Replaces what the gauges of the agent's state show.
    pub fn observe(&self, observation: Observation) {
        *self.observed.0.lock().unwrap_or_else(PoisonError::into_inner) = observation;
    }
}

/// The counters of one worker's loop.
#[derive(Debug, Clone)]
pub struct WorkerMetrics {
    stalls: Counter,
}

impl WorkerMetrics {
    /// Notes how long one turn of the loop took, from the kernel's readiness to the next wait. True if it was a stall.
    pub fn turn(&self, took: Duration) -> bool {
        let is_stall = took > STALL;
        if is_stall {
            self.stalls.inc();
        }
        is_stall
    }
}

/// The gauges of the agent's state.
#[derive(Debug, Default)]
struct Observed(Mutex<Observation>);

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut gauge = |name: &str, help: &str, label: &'static str, values: &[(String, i64)]| -> fmt::Result {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (value, number) in values {
                if label.is_empty() {
                    gauge.encode_gauge(number)?;
                } else {
                    gauge.encode_family(&[(label, value.as_str())])?.encode_gauge(number)?;
                }
            }
            Ok(())
        };
        let single = |number: i64| [(String::new(), number)];
        let counted = |counts: &[(&'static str, usize)]| -> Vec<_> {
            counts.iter().map(|&(name, count)| (name.to_owned(), saturate(count))).collect()
        };
        gauge("capture_active", "Whether the eBPF programs are attached", "", &single(state.is_capture_active.into()))?;
        gauge("configuration_generation", "Number of the snapshot in force", "", &single(saturate(state.generation)))?;
        gauge("pods", "Pods of this node by state of enrolment", "state", &counted(&state.pods))?;
        gauge("configuration_problems", "Mistakes found in the configuration", "severity", &counted(&state.problems))?;
        let ends: Vec<_> = state
            .certificates
            .into_iter()
            .map(|(identity, end)| {
                let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                (identity, saturate(seconds))
            })
            .collect();
        gauge(
            "certificate_expiry_timestamp_seconds",
            "When the certificate of an identity ends, Unix time",
            "identity",
            &ends,
        )
    }
}

pub(super) fn saturate(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
