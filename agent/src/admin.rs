//! How an operator looks into a running agent: the admin interface, metrics and readiness, over HTTP.
//!
//! | where | what |
//! | --- | --- |
//! | `<state-dir>/admin.sock`, for its owner only | the admin interface: what `weft status` and the like ask |
//! | `--admin`, loopback only | the same, for `curl` and `kubectl port-forward` |
//! | `--metrics` | `/metrics`, `/stats/prometheus` |
//! | `--readiness` | `/healthz/ready` |
//!
//! The admin interface answers in JSON. Field names are stable: fields are added, not renamed or removed. Names are in
//! snake case, times in RFC 3339, durations carry their unit in the name. Lists take `?namespace=`.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`StatusReport`] |
//! | `GET /v1/pods` | `{"pods": [`[`PodStatus`]`]}` |
//! | `GET /v1/workloads` | `{"workloads": [`[`WorkloadInfo`]`]}` |
//! | `GET /v1/services` | `{"services": [`[`ServiceInfo`]`]}` |
//! | `GET /v1/policies` | `{"policies": [`[`PolicyInfo`]`]}` |
//! | `GET /v1/certificates` | `{"certificates": [`[`CertificateInfo`]`]}` |
//! | `GET /v1/connections` | `{"connections": [`[`ConnectionInfo`]`]}` |
//! | `GET /v1/older_connections` | `{"older_connections": [`[`OlderConnectionInfo`]`]}` |
//! | `GET /v1/log` | [`LogLevel`] |
//! | `PUT /v1/log` | takes and answers a [`LogLevel`] |
//! | `GET /config_dump` | all of the above in one object |
//! | `POST /v1/cni/…` | what the CNI plug-in tells and asks of [`Sandboxes`]; on the Unix socket only |
//! | `POST /v1/hand_over` | becomes the connection to the next agent ([`crate::hand_over`]); on the Unix socket only |
//!
//! Nothing here holds a private key, and nobody but the wiring imports this module: the agent is seen through
//! [`AgentView`].

mod certificate;
mod connection;
mod hand_over;
mod http;
mod listen;
mod pod;
mod policy;
mod problem;
mod routes;
mod sandboxes;
mod scrape;
mod service;
mod status;
mod timestamp;
mod workload;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use weft_model::Snapshot;

pub use certificate::{CertificateInfo, CertificateState};
pub use connection::{ConnectionEnd, ConnectionInfo, ConnectionState, OlderConnectionInfo};
pub(crate) use listen::ScrapeListeners;
pub use listen::{AdminError, AdminOptions, Listeners, socket_path};
pub use pod::{PodState, PodStatus};
pub use policy::{MatchInfo, PolicyInfo};
pub use problem::{Problem, Severity};
pub(crate) use scrape::Scraped;
pub use service::{EndpointInfo, ServiceInfo, ServicePortInfo};
pub use status::{
    AgentState, AgentStatus, CaptureStatus, CertificateCounts, ConnectionCounts, DiscoveryMode, DiscoveryStatus,
    Losses, ObjectCounts, StatusReport, TunnelCounts,
};
pub use timestamp::Timestamp;
pub use workload::{MembershipInfo, WorkloadInfo};

use crate::sandbox::Sandboxes;
use crate::telemetry::{LogControl, Metrics};

/// How long a list of connections may take. A worker that does not answer within it is in trouble, which an operator
/// wants to be told rather than to wait for.
const WORKERS_ANSWER: Duration = Duration::from_secs(5);

/// An answer that takes a while.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The running agent, as the admin interface sees it. Everything but the list of connections is at hand at once.
pub trait AgentView: Send + Sync + 'static {
    /// Who it is and how it fares.
    fn status(&self) -> AgentStatus;

    /// The configuration in force.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// The certificates of this node's identities.
    fn certificates(&self) -> Vec<CertificateInfo>;

    /// The connections that are being carried.
    fn connections(&self) -> Answer<'_, Vec<ConnectionInfo>>;

    /// The connections of this node's pods from before their enrolment.
    fn older_connections(&self) -> Vec<OlderConnectionInfo>;

    /// The pods of this node, and how their enrolment stands.
    fn pods(&self) -> Vec<PodStatus>;

    /// What is wrong with the configuration.
    fn problems(&self) -> Vec<Problem>;

    /// Whether the agent does its work.
    ///
    /// # Errors
    /// What it still waits for, or what fails, in words.
    fn readiness(&self) -> Result<(), Vec<String>>;
}

/// What is logged, as `GET /v1/log` and `PUT /v1/log` have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// A level, or levels by module: see `--log`.
    pub filter: String,
}

/// What the servers answer from. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    view: Arc<dyn AgentView>,
    metrics: Arc<Metrics>,
    log: Option<LogControl>,
    sandboxes: Option<Arc<dyn Sandboxes>>,
    successors: Option<mpsc::Sender<OnUpgrade>>,
}

impl Admin {
    /// Answers from `view` and `metrics`. Without `log` the level cannot be changed.
    pub fn new(view: Arc<dyn AgentView>, metrics: Arc<Metrics>, log: Option<LogControl>) -> Self {
        Self { view, metrics, log, sandboxes: None, successors: None }
    }

    /// Hands what the CNI plug-in says on to `sandboxes`.
    #[must_use]
    pub fn with_sandboxes(self, sandboxes: Arc<dyn Sandboxes>) -> Self {
        Self { sandboxes: Some(sandboxes), ..self }
    }

    /// Hands the connection of whoever wants to take over on to `successors`.
    #[must_use]
    pub fn with_successors(self, successors: mpsc::Sender<OnUpgrade>) -> Self {
        Self { successors: Some(successors), ..self }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
