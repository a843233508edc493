//! The running agent as the admin interface and the metrics see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use weft_control::Problem;
use weft_control::discovery::Discovery;
use weft_model::{Identity, Snapshot, SnapshotCell, Workload};
use weft_transport::{CertificateStatus, Certificates};

use crate::admin::{
    AgentState, AgentStatus, AgentView, Answer, CaptureStatus, CertificateInfo, CertificateState, ConnectionEnd,
    ConnectionInfo, ConnectionState, DiscoveryMode, DiscoveryStatus, OlderConnectionInfo, PodState, PodStatus,
};
use crate::capture::Capture;
use crate::command::{AgentOptions, NodeSource};
use crate::enrol::{self, EnrolmentStatus};
use crate::proxy::demand::Demand;
use crate::proxy::{self, Proxy};

/// What is wrong with the configuration, as the source said last.
#[derive(Debug, Default)]
pub struct Problems(Mutex<Vec<Problem>>);

impl Problems {
    /// Takes the place of what was said before.
    pub fn set(&self, problems: Vec<Problem>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }
}

/// Everything that an operator can ask the agent.
pub struct View {
    /// What the agent was started with.
    pub options: AgentOptions,
    /// When it was started.
    pub started: SystemTime,
    /// The configuration in force.
    pub snapshots: Arc<SnapshotCell>,
    /// The certificates of this node's identities.
    pub certificates: Arc<Certificates>,
    /// The eBPF programs.
    pub capture: Arc<Capture>,
    /// The workers.
    pub proxy: Arc<Proxy>,
    /// The pods of this node.
    pub enrolment: Arc<EnrolmentStatus>,
    /// What is wrong with the configuration.
    pub problems: Arc<Problems>,
    /// The control plane, if one is followed.
    pub discovery: Option<Discovery>,
    /// What is asked for on demand, if that is how it is followed.
    pub demand: Option<Arc<Demand>>,
    /// Another agent serves pods of this node that this one has not enrolled yet.
    pub is_taking_over: AtomicBool,
    /// The agent was told to end.
    pub is_draining: AtomicBool,
}

impl View {
    fn discovery(&self) -> Option<DiscoveryStatus> {
        let (source, discovery) = (self.options.control_planes.discovery.as_ref()?, self.discovery.as_ref()?);
        let weft_control::discovery::DiscoveryStatus {
            is_connected,
            is_synced,
            last_error,
            streams,
            refusals,
            remembered,
        } = discovery.status();
        Some(DiscoveryStatus {
            control_plane: source.url.clone(),
            mode: if self.demand.is_some() { DiscoveryMode::OnDemand } else { DiscoveryMode::Wildcard },
            is_connected,
            is_synced,
            last_error,
            streams,
            refusals,
            last_state: remembered.map(Into::into),
            wanted: discovery.wanted(),
            held: self.demand.as_ref().map_or(0, |demand| demand.held()),
        })
    }

    fn state(&self) -> AgentState {
        if self.is_draining.load(Ordering::Relaxed) {
            AgentState::Draining
        } else if self.enrolment.pods().is_some() {
            AgentState::Running
        } else {
            AgentState::Starting
        }
    }
}

impl AgentView for View {
    fn status(&self) -> AgentStatus {
        let options = &self.options;
        AgentStatus {
            node: options.node.clone(),
            pod: Some(options.own_name().to_owned()),
            cluster: options.cluster.clone(),
            network: options.network.clone(),
            trust_domain: options.trust_domain.clone(),
            workers: options.workers,
            configuration_source: configuration_source(options),
            discovery: self.discovery(),
            state: self.state(),
            started: self.started.into(),
            capture: match self.capture.status() {
                Ok(status) => capture(&status),
                Err(error) => CaptureStatus { is_active: false, detail: error.to_string() },
            },
            relaxations: options.relaxations(),
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.load()
    }

    fn certificates(&self) -> Vec<CertificateInfo> {
        self.certificates.list().into_iter().map(certificate).collect()
    }

    fn connections(&self) -> Answer<'_, Vec<ConnectionInfo>> {
        Box::pin(async { self.proxy.connections().await.into_iter().map(connection).collect() })
    }

    fn older_connections(&self) -> Vec<OlderConnectionInfo> {
        let snapshot = self.snapshots.load();
        let pods = self.enrolment.pods().unwrap_or_else(|| Arc::new([]));
        let of_pod = |pod: &enrol::PodStatus| {
            let one = |connection: &enrol::OlderConnection| older_connection(pod, connection, &snapshot);
            pod.older.iter().map(one).collect::<Vec<_>>()
        };
        pods.iter().flat_map(of_pod).collect()
    }

    fn pods(&self) -> Vec<PodStatus> {
        self.enrolment.pods().iter().flat_map(|pods| &**pods).cloned().map(pod).collect()
    }

    fn problems(&self) -> Vec<crate::admin::Problem> {
        let problems = self.problems.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(Into::into).collect()
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        if self.is_draining.load(Ordering::Relaxed) {
            reasons.push("the agent is draining".to_owned());
        }
        if self.is_taking_over.load(Ordering::Relaxed) {
            reasons.push("it is taking over from the agent before it".to_owned());
        }
        match self.enrolment.pods() {
            None => reasons.push("the configuration has not been read yet".to_owned()),
            // Anybody's pod may refuse to be captured: on a cluster that must not hold up the agents of all nodes.
            Some(_) if matches!(self.options.source, NodeSource::Kubernetes { .. }) => {}
            Some(pods) => {
                let failed = pods.iter().filter_map(|pod| match &pod.state {
                    enrol::PodState::Failed(error) => Some((pod, error)),
                    _ => None,
                });
                reasons.extend(failed.map(|(pod, error)| format!("pod {}/{}: {error}", pod.namespace, pod.name)));
            }
        }
        if let Err(error) = self.capture.status() {
            reasons.push(error.to_string());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

fn capture(status: &crate::capture::CaptureStatus) -> CaptureStatus {
    let missing: Vec<&str> = status.hooks.iter().filter(|(_, attached)| !attached).map(|(name, _)| *name).collect();
    let mut detail = if missing.is_empty() {
        format!(
            "{} hooks attached, {} pods captured, pinned in {}",
            status.hooks.len(),
            status.pods.len(),
            status.folder.display()
        )
    } else {
        format!("not attached: {}; restart the agent, and see its log if that does not help", missing.join(", "))
    };
    for program in &status.foreign {
        let effect =
            if program.is_exclusive { "allows no other program beside it" } else { "sees connections as well" };
        detail.push_str(&format!(
            "; program {} ({}) of another owner at {} {effect}",
            program.id, program.name, program.hook
        ));
    }
    if status.older_layouts > 0 {
        detail.push_str(&format!("; {} older layouts still capture pods", status.older_layouts));
    }
    CaptureStatus { is_active: missing.is_empty(), detail }
}

fn certificate(status: CertificateStatus) -> CertificateInfo {
    use weft_transport::CertificateState as State;
    CertificateInfo {
        identity: status.identity.to_string(),
        state: match status.state {
            State::Pending => CertificateState::Pending,
            State::Ready => CertificateState::Valid,
            State::RenewalFailing => CertificateState::RenewalFailing,
            State::Failing => CertificateState::Failing,
            State::Expired => CertificateState::Expired,
        },
        serial: Some(status.serial).filter(|serial| !serial.is_empty()),
        not_before: status.not_before.map(Into::into),
        not_after: status.not_after.map(Into::into),
        renewal: status.next_attempt.map(Into::into),
        error: status.last_error,
        workloads: status.users,
    }
}

fn configuration_source(options: &AgentOptions) -> String {
    let node = match &options.source {
        NodeSource::Folder(folder) => format!("files in {}", folder.display()),
        NodeSource::Kubernetes { .. } => "the API server".to_owned(),
    };
    match &options.control_planes.discovery {
        Some(discovery) => format!("{}; the pods of this node: {node}", discovery.url),
        None => node,
    }
}

fn pod(pod: enrol::PodStatus) -> PodStatus {
    let (state, detail) = match pod.state {
        enrol::PodState::Enrolled => (PodState::Captured, pod.older_problem),
        enrol::PodState::Failed(error) => (PodState::Failed, Some(error)),
        enrol::PodState::NotEnrolled => (PodState::Outside, None),
    };
    PodStatus {
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        identity: pod.identity.to_string(),
        addresses: pod.addresses,
        netns: pod.netns.map(|netns| netns.display().to_string()),
        state,
        detail,
        older_connections: Some(pod.older.len() as u64).filter(|count| *count > 0),
    }
}

fn older_connection(
    pod: &enrol::PodStatus,
    connection: &enrol::OlderConnection,
    snapshot: &Snapshot,
) -> OlderConnectionInfo {
    let own = ConnectionEnd {
        address: connection.local,
        namespace: Some(pod.namespace.to_string()),
        workload: Some(pod.name.to_string()),
        identity: None,
    };
    let peer = snapshot.workload_by_address(connection.remote.ip());
    let other = end(connection.remote, peer.map(|workload| &**workload), None);
    let (source, destination) = match connection.direction {
        proxy::Direction::Outbound => (own, other),
        proxy::Direction::Inbound => (other, own),
    };
    OlderConnectionInfo { direction: connection.direction, source, destination }
}

fn connection(connection: proxy::Connection) -> ConnectionInfo {
    let (source_identity, destination_identity) = match (connection.direction, connection.peer) {
        (_, None) => (None, None),
        (proxy::Direction::Outbound, peer) => (connection.source.as_ref().map(|own| own.identity.clone()), peer),
        (proxy::Direction::Inbound, peer) => {
            (peer, connection.destination_workload.as_ref().map(|own| own.identity.clone()))
        }
    };
    ConnectionInfo {
        direction: connection.direction,
        state: match connection.state {
            proxy::ConnectionState::Connecting => ConnectionState::Connecting,
            proxy::ConnectionState::Open => ConnectionState::Open,
            proxy::ConnectionState::HalfClosed => ConnectionState::HalfClosed,
        },
        source: end(connection.client, connection.source.as_deref(), source_identity),
        destination: end(connection.destination, connection.destination_workload.as_deref(), destination_identity),
        service: connection.service.map(|service| service.hostname.to_string()),
        tunnel: connection.tunnel,
        bytes_from_client: connection.bytes_from_client,
        bytes_to_client: connection.bytes_to_client,
        age_milliseconds: u64::try_from(connection.age.as_millis()).unwrap_or(u64::MAX),
    }
}

fn end(address: std::net::SocketAddr, workload: Option<&Workload>, identity: Option<Identity>) -> ConnectionEnd {
    ConnectionEnd {
        address,
        namespace: workload.map(|workload| workload.namespace.to_string()),
        workload: workload.map(|workload| workload.name.to_string()),
        identity: identity.map(|identity| identity.to_string()),
    }
}
