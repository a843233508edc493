//! The pods of this node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How a pod's enrolment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodState {
    /// Its connections are carried.
    Captured,
    /// It is being enrolled, or waits for its certificate.
    Pending,
    /// It is to be enrolled and cannot be: see its detail.
    Failed,
    /// It has been taken out; connections from before are still being carried.
    Draining,
    /// It is not to be enrolled.
    Outside,
}

impl PodState {
    /// All states, in the order in which they are listed.
    pub const ALL: [Self; 5] = [Self::Captured, Self::Pending, Self::Failed, Self::Draining, Self::Outside];

    /// The word that it is shown by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Draining => "draining",
            Self::Outside => "outside",
        }
    }
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub identity: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// How its enrolment stands.
    pub state: PodState,
    /// Why, in words, where that is worth saying: what failed and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Connections from before it was enrolled that still live. They stay outside the mesh until they end; which they
    /// are is in `GET /v1/older_connections`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_connections: Option<u64>,
}
