//! What the agent tells of its work: metrics, access records, diagnostics.
//!
//! Everything here is made so that a worker never waits: counters are atomics that a worker has at hand, records and
//! lines go through bounded queues to threads of their own, and what they cannot take is dropped and counted.

pub mod access_log;
pub mod agent_metrics;
pub mod controller_metrics;
mod exposition;
#[cfg(test)]
pub(crate) mod fixtures;
mod line;
pub mod logging;
mod process;
pub mod requests;
mod sink;
pub mod tcp;
pub mod waypoint_log;

use std::fmt;
use std::sync::Arc;

use prometheus_client::registry::Registry;

pub use access_log::{AccessEnd, AccessLog, AccessRecord, Direction};
pub use agent_metrics::{AgentMetrics, Observation, WorkerMetrics};
pub use controller_metrics::{ControllerMetrics, ControllerObservation};
pub use exposition::Exposition;
pub use line::LineFormat;
pub use logging::{LogControl, LogFilter, Logging};
pub use requests::RequestMetrics;
pub use sink::SinkCounters;
pub use tcp::{ConnectionLabels, ConnectionSecurity, Reporter, ResponseFlags, SeriesCache, TcpMetrics, TcpSeries};
pub use waypoint_log::WaypointLog;

/// All metrics of an agent.
pub struct Metrics {
    /// Connections and bytes by who talks to whom.
    pub tcp: Arc<TcpMetrics>,
    /// The agent itself.
    pub agent: AgentMetrics,
    registry: Registry,
}

impl Metrics {
    /// The metrics of this process, which has just started.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same, and what `register` adds to the registry. Names that it adds should start with `weft_`.
    pub fn with(register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        let tcp = Arc::<TcpMetrics>::default();
        registry.register_collector(Box::new(Arc::clone(&tcp)));
        let agent = AgentMetrics::new(&mut registry);
        registry.register_collector(Box::new(process::ProcessCollector::new()));
        register(&mut registry);
        Self { tcp, agent, registry }
    }

    /// All metrics as text.
    pub fn render(&self, exposition: Exposition) -> String {
        exposition.render(&self.registry)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_agents_own_metrics_have_their_documented_names() {
        let metrics = Metrics::new();
        metrics.agent.outbound_open.inc();
        metrics.agent.server_tunnels_open.inc();
        metrics.agent.access_log.dropped.inc_by(4);
        let worker = metrics.agent.worker(1);
        assert!(!worker.turn(Duration::from_millis(1)));
        assert!(worker.turn(Duration::from_millis(80)));
        metrics.agent.observe(Observation {
            is_capture_active: true,
            generation: 7,
            pods: vec![("captured", 3), ("failed", 0)],
            problems: vec![("error", 2)],
            certificates: vec![("spiffe://cluster.local/ns/a/sa/b".into(), UNIX_EPOCH + Duration::from_secs(99))],
        });
        let text = metrics.render(Exposition::Prometheus);
        for line in [
            concat!("weft_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "weft_connections_open{direction=\"outbound\"} 1",
            "weft_connections_open{direction=\"inbound\"} 0",
            "weft_tunnels_open{role=\"client\"} 0",
            "weft_tunnels_open{role=\"server\"} 1",
            "weft_capture_active 1",
            "weft_pods{state=\"captured\"} 3",
            "weft_configuration_generation 7",
            "weft_configuration_problems{severity=\"error\"} 2",
            "weft_certificate_expiry_timestamp_seconds{identity=\"spiffe://cluster.local/ns/a/sa/b\"} 99",
            "weft_access_log_records_total 0",
            "weft_access_log_dropped_total 4",
            "weft_log_lines_total 0",
            "weft_log_dropped_total 0",
            "weft_worker_stalls_total{worker=\"1\"} 1",
            "weft_tcp_series 0",
            "weft_tcp_series_overflowed_total 0",
            "# TYPE process_resident_memory_bytes gauge",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(metrics.render(Exposition::OpenMetrics).ends_with("# EOF\n"));
    }
}
