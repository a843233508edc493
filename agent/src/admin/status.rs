//! The state of the whole agent at a glance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Admin, CertificateInfo, CertificateState, PodState, PodStatus, Problem, Severity, Timestamp};
use crate::telemetry::Observation;

/// What an agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It is not ready for the first time yet.
    Starting,
    /// It does its work.
    Running,
    /// It was told to end: takes no new connections and lets the others finish.
    Draining,
}

impl AgentState {
    /// The word that it is shown by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

/// How capture fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// The programs are attached, and they are this agent's.
    pub is_active: bool,
    /// What there is to say of it: why it is not active and what to do, or where its pins are.
    pub detail: String,
}

/// What a control plane is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscoveryMode {
    /// What pods of the node talk to.
    OnDemand,
    /// Everything.
    Wildcard,
}

impl DiscoveryMode {
    /// The words that it is shown by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on demand",
            Self::Wildcard => "everything is asked for",
        }
    }
}

/// How the control plane is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// Its address.
    pub control_plane: String,
    /// What it is asked for.
    pub mode: DiscoveryMode,
    /// A stream is open, and has brought something.
    pub is_connected: bool,
    /// Policies and, unless they are asked for on demand, addresses have been heard of, now or before.
    pub is_synced: bool,
    /// Why the last attempt or stream failed, if one did since the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Streams that were opened since the agent started.
    pub streams: u64,
    /// Messages that were refused, in part, because something in them could not be converted.
    pub refusals: u64,
    /// When that was written down which the agent goes by, for as long as the control plane has not spoken since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_state: Option<Timestamp>,
    /// Addresses and names that are asked for, on demand.
    pub wanted: usize,
    /// Connections that wait for an answer.
    pub held: usize,
}

/// Who an agent is and how it fares: the part that it tells itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its node.
    pub node: String,
    /// Its own pod, or its host. Agents that cannot hand over do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its cluster.
    pub cluster: String,
    /// Its network; empty for the only one.
    pub network: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Threads that carry connections.
    pub workers: usize,
    /// Where its configuration comes from: a folder, or a control plane.
    pub configuration_source: String,
    /// How the control plane is followed; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<DiscoveryStatus>,
    /// What it is doing.
    pub state: AgentState,
    /// When it was started.
    pub started: Timestamp,
    /// How capture fares.
    pub capture: CaptureStatus,
    /// Choices of the operator by which something is less strict than by default, in words.
    pub relaxations: Vec<String>,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// What it tells itself.
    #[serde(flatten)]
    pub agent: AgentStatus,
    /// Whether it does its work.
    pub is_ready: bool,
    /// If not, what it waits for, or what fails.
    pub not_ready: Vec<String>,
    /// Number of the configuration in force; it grows with each change.
    pub generation: u64,
    /// What is wrong with the configuration, errors first.
    pub problems: Vec<Problem>,
    /// How many objects it knows.
    pub objects: ObjectCounts,
    /// The pods of this node.
    pub pods: Vec<PodStatus>,
    /// Certificates by state.
    pub certificates: CertificateCounts,
    /// Connections being carried.
    pub connections: ConnectionCounts,
    /// Tunnels that stand.
    pub tunnels: TunnelCounts,
    /// What could not be told.
    pub losses: Losses,
}

/// How many objects an agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCounts {
    /// Workloads.
    pub workloads: usize,
    /// Services.
    pub services: usize,
    /// Policies.
    pub policies: usize,
}

/// Certificates by state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CertificateCounts {
    /// There, and renewed in time.
    pub valid: usize,
    /// Requested, not there yet.
    pub pending: usize,
    /// Those that cannot be had or renewed, or have expired: identity and why.
    pub failing: BTreeMap<String, String>,
    /// When the first one ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_expiry: Option<Timestamp>,
}

/// Connections being carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCounts {
    /// Those that pods of this node opened.
    pub outbound: u64,
    /// Those to pods of this node.
    pub inbound: u64,
}

/// Tunnels that stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelCounts {
    /// Those that this agent opened.
    pub client: u64,
    /// Those that were opened to it.
    pub server: u64,
}

/// What could not be told because an output was too slow or failed, since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Access records.
    pub access_records: u64,
    /// Lines of diagnostics.
    pub log_lines: u64,
}

impl Admin {
    /// Puts the report together.
    pub(super) fn status(&self) -> StatusReport {
        let snapshot = self.view.snapshot();
        let readiness = self.view.readiness();
        let mut problems = self.view.problems();
        problems.sort();
        let metrics = &self.metrics.agent;
        let count = |gauge: i64| u64::try_from(gauge).unwrap_or(0);
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            agent: self.view.status(),
            is_ready: readiness.is_ok(),
            not_ready: readiness.err().unwrap_or_default(),
            generation: snapshot.generation(),
            problems,
            objects: ObjectCounts {
                workloads: snapshot.workload_count(),
                services: snapshot.services().count(),
                policies: snapshot.policies().count(),
            },
            pods: self.pods(None),
            certificates: CertificateCounts::new(&self.view.certificates()),
            connections: ConnectionCounts {
                outbound: count(metrics.outbound_open.get()),
                inbound: count(metrics.inbound_open.get()),
            },
            tunnels: TunnelCounts {
                client: count(metrics.client_tunnels_open.get()),
                server: count(metrics.server_tunnels_open.get()),
            },
            losses: Losses { access_records: metrics.access_log.dropped.get(), log_lines: metrics.log.dropped.get() },
        }
    }

    /// The pods of a namespace, or all, by namespace and name.
    pub(super) fn pods(&self, namespace: Option<&str>) -> Vec<PodStatus> {
        let mut pods = self.view.pods();
        pods.retain(|pod| namespace.is_none_or(|namespace| pod.namespace == namespace));
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        pods
    }

    /// The state that metrics show.
    pub(super) fn observation(&self) -> Observation {
        let pods = self.view.pods();
        let problems = self.view.problems();
        Observation {
            is_capture_active: self.view.status().capture.is_active,
            generation: self.view.snapshot().generation(),
            pods: PodState::ALL
                .map(|state| (state.as_str(), pods.iter().filter(|pod| pod.state == state).count()))
                .into(),
            problems: Severity::ALL
                .map(|severity| {
                    let count = problems.iter().filter(|problem| problem.severity == severity).count();
                    (severity.as_str(), count)
                })
                .into(),
            certificates: self
                .view
                .certificates()
                .into_iter()
                .filter_map(|certificate| Some((certificate.identity, certificate.not_after?.time())))
                .collect(),
        }
    }
}

impl CertificateCounts {
    fn new(certificates: &[CertificateInfo]) -> Self {
        let mut counts = Self::default();
        for certificate in certificates {
            match certificate.state {
                CertificateState::Valid => counts.valid += 1,
                CertificateState::Pending => counts.pending += 1,
                failing => {
                    let reason = certificate.error.clone().unwrap_or_else(|| failing.as_str().to_owned());
                    counts.failing.insert(certificate.identity.clone(), reason);
                }
            }
        }
        counts.next_expiry = certificates.iter().filter_map(|certificate| certificate.not_after).min();
        counts
    }
}
