//! Live connections.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::telemetry::Direction;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// The other side is not reached yet.
    Connecting,
    /// Bytes flow both ways.
    Open,
    /// One direction has ended.
    HalfClosed,
}

impl ConnectionState {
    /// The word that it is shown by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Open => "open",
            Self::HalfClosed => "half closed",
        }
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionEnd {
    /// Its address: the client's own, or the endpoint's.
    pub address: SocketAddr,
    /// Namespace of the workload, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the workload (the pod), if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The identity that it proved; none in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// A connection that is being carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Which way it goes, seen from the pod of this node.
    pub direction: Direction,
    /// How far it is.
    pub state: ConnectionState,
    /// Who opened it.
    pub source: ConnectionEnd,
    /// Who accepts it.
    pub destination: ConnectionEnd,
    /// The host name of the service that was addressed, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The other end of the tunnel; none when the connection is in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<SocketAddr>,
    /// Bytes from the one that opened it.
    pub bytes_from_client: u64,
    /// Bytes to the one that opened it.
    pub bytes_to_client: u64,
    /// Since it was accepted, in milliseconds.
    pub age_milliseconds: u64,
}

impl ConnectionInfo {
    /// Whether either end is of the namespace.
    pub fn is_of_namespace(&self, namespace: &str) -> bool {
        is_of_namespace([&self.source, &self.destination], namespace)
    }
}

/// A connection from before a pod of this node was enrolled: nobody carries it, and it is in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OlderConnectionInfo {
    /// Which way it goes, seen from the pod: inbound if the pod listened on its port when it was enrolled.
    pub direction: Direction,
    /// Who opened it.
    pub source: ConnectionEnd,
    /// Who accepted it.
    pub destination: ConnectionEnd,
}

impl OlderConnectionInfo {
    /// Whether either end is of the namespace.
    pub fn is_of_namespace(&self, namespace: &str) -> bool {
        is_of_namespace([&self.source, &self.destination], namespace)
    }
}

fn is_of_namespace(ends: [&ConnectionEnd; 2], namespace: &str) -> bool {
    ends.iter().any(|end| end.namespace.as_deref() == Some(namespace))
}
