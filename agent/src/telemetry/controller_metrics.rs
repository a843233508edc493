//! The metrics of a controller, under `weft_`.
//!
//! | name | type | labels | meaning |
//! | --- | --- | --- | --- |
//! | `weft_build_info` | gauge, always 1 | `version` | which build runs |
//! | `weft_controller_connections_open` | gauge | | connections of agents |
//! | `weft_controller_streams_open` | gauge | | discovery streams |
//! | `weft_controller_messages_total` | counter | | messages of discovery that were sent |
//! | `weft_controller_resources_total` | counter | | resources in them |
//! | `weft_controller_messages_refused_total` | counter | | messages that agents refused |
//! | `weft_controller_unauthenticated_total` | counter | | requests without a good token |
//! | `weft_controller_certificates_total` | counter | `result` (`granted`, `refused`) | requests for certificates |
//! | `weft_controller_objects` | gauge | `kind` | objects of the configuration in force |
//! | `weft_controller_leader` | gauge | | 1 for the leader of a cluster's controllers, 0 for the others |
//! | `weft_configuration_problems` | gauge | `severity` | mistakes found in the configuration |
//! | `weft_log_lines_total`, `weft_log_dropped_total` | counter | | diagnostics written, and lost |
//! | `process_*` | | | CPU, memory and descriptors, as in every Prometheus client |

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use weft_control::serve::CountsNow;

use super::agent_metrics::saturate;
use super::exposition::Exposition;
use super::process::{self, ProcessCollector};
use super::sink::SinkCounters;

/// The state of a controller that its metrics show.
#[derive(Debug, Clone, Default)]
pub struct ControllerObservation {
    /// What its server has done.
    pub counts: CountsNow,
    /// Whether it leads the controllers of its cluster; `None`: it has no cluster.
    pub is_leader: Option<bool>,
    /// Kinds of objects, and how many of each are in force.
    pub objects: Vec<(&'static str, usize)>,
    /// Severities, and how many problems the configuration has of each.
    pub problems: Vec<(&'static str, usize)>,
}

/// All metrics of a controller.
pub struct ControllerMetrics {
    registry: Registry,
    observed: Arc<Observed>,
}

impl fmt::Debug for ControllerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerMetrics").finish_non_exhaustive()
    }
}

impl ControllerMetrics {
    /// The metrics of this process, which has just started, and whose diagnostics are counted by `log`.
    pub fn new(log: &SinkCounters) -> Self {
        let mut registry = Registry::default();
        let weft = registry.sub_registry_with_prefix("weft");
        process::register_build(weft);
        log.register(weft, ["log_lines", "log_dropped"], "Lines of diagnostics");
        let observed = Arc::<Observed>::default();
        weft.register_collector(Box::new(Arc::clone(&observed)));
        registry.register_collector(Box::new(ProcessCollector::new()));
        Self { registry, observed }
    }

    /// Replaces what is shown of the controller's state.
    pub fn observe(&self, observation: ControllerObservation) {
        *self.observed.0.lock().unwrap_or_else(PoisonError::into_inner) = observation;
    }

    /// All metrics as text.
    pub fn render(&self, exposition: Exposition) -> String {
        exposition.render(&self.registry)
    }
}

#[derive(Debug, Default)]
struct Observed(Mutex<ControllerObservation>);

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let observation = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ControllerObservation { counts, is_leader, objects, problems } = observation;
        for (name, help, number) in [
            ("controller_connections_open", "Connections of agents", counts.connections),
            ("controller_streams_open", "Discovery streams", counts.streams),
        ] {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&saturate(number))?;
        }
        for (name, help, number) in [
            ("controller_messages", "Messages of discovery that were sent", counts.pushes),
            ("controller_resources", "Resources in messages of discovery", counts.resources),
            ("controller_messages_refused", "Messages that agents refused", counts.refusals),
            ("controller_unauthenticated", "Requests without a good token", counts.unauthenticated),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&number, None)?;
        }
        if let Some(is_leader) = is_leader {
            let help = "Whether this is the leader of the cluster's controllers";
            encoder
                .encode_descriptor("controller_leader", help, None, MetricType::Gauge)?
                .encode_gauge(&i64::from(is_leader))?;
        }
        let help = "Requests for certificates";
        let mut family = encoder.encode_descriptor("controller_certificates", help, None, MetricType::Counter)?;
        for (result, number) in [("granted", counts.certificates), ("refused", counts.certificate_refusals)] {
            family.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, f64>(&number, None)?;
        }
        for (name, help, label, numbers) in [
            ("controller_objects", "Objects of the configuration in force", "kind", objects),
            ("configuration_problems", "Mistakes found in the configuration", "severity", problems),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (value, number) in numbers {
                family.encode_family(&[(label, value)])?.encode_gauge(&saturate(number))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controllers_metrics_have_their_documented_names() {
        let metrics = ControllerMetrics::new(&SinkCounters::default());
        let counts = CountsNow {
            connections: 3,
            streams: 2,
            unauthenticated: 5,
            pushes: 7,
            resources: 11,
            refusals: 1,
            certificates: 13,
            certificate_refusals: 4,
        };
        metrics.observe(ControllerObservation {
            counts,
            is_leader: Some(true),
            objects: vec![("Pod", 9)],
            problems: vec![("error", 2)],
        });
        let text = metrics.render(Exposition::Prometheus);
        for line in [
            concat!("weft_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "weft_controller_connections_open 3",
            "weft_controller_streams_open 2",
            "weft_controller_messages_total 7",
            "weft_controller_resources_total 11",
            "weft_controller_messages_refused_total 1",
            "weft_controller_unauthenticated_total 5",
            "weft_controller_certificates_total{result=\"granted\"} 13",
            "weft_controller_certificates_total{result=\"refused\"} 4",
            "weft_controller_leader 1",
            "weft_controller_objects{kind=\"Pod\"} 9",
            "weft_configuration_problems{severity=\"error\"} 2",
            "weft_log_lines_total 0",
            "weft_log_dropped_total 0",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
