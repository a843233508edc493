//! What a waypoint tells of its work.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode, Version};
use weft_model::{Identity, Service, Workload};

/// Who is at the other end of a tunnel to us.
#[derive(Clone, Debug)]
pub struct Client {
    /// The identity that its certificate proved.
    pub identity: Identity,
    /// Its own address: the tunnel's other end, which is in the client's pod.
    pub address: SocketAddr,
}

/// A request that has been answered, or has failed.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Who asked.
    pub client: Arc<Client>,
    /// The workload that asked, if it is known.
    pub source: Option<Arc<Workload>>,
    /// The address that was asked for.
    pub address: SocketAddr,
    /// The service that took the request, or the one that was asked for when none did.
    pub service: Option<Arc<Service>>,
    /// The endpoint of the last attempt, if one was chosen.
    pub endpoint: Option<Arc<Workload>>,
    /// Its address.
    pub endpoint_address: Option<SocketAddr>,
    /// The route that matched: its kind, namespace and name.
    pub route: Option<Arc<str>>,
    /// The method.
    pub method: Method,
    /// The host that was asked for.
    pub host: Box<str>,
    /// Path and query that were asked for.
    pub path: Box<str>,
    /// The protocol that the client spoke.
    pub version: Version,
    /// Whether it was a gRPC request.
    pub is_grpc: bool,
    /// The status of the answer; `None`: the client was gone before there was one.
    pub status: Option<StatusCode>,
    /// `grpc-status`, where there was one.
    pub grpc_status: Option<u32>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// How many attempts were made.
    pub attempts: u32,
    /// From the request's head to the end of the answer.
    pub duration: Duration,
    /// When it ended.
    pub ended: SystemTime,
    /// Istio's response flag (`UH`, `UF`, `NR`, …), or `-`.
    pub flags: &'static str,
    /// What went wrong, in words.
    pub error: Option<Cow<'static, str>>,
}

/// Who is connected at layer 4.
#[derive(Clone, Debug)]
pub struct ConnectionEnd {
    /// Who connected.
    pub client: Arc<Client>,
    /// The workload that connected, if it is known.
    pub source: Option<Arc<Workload>>,
    /// The address that was asked for.
    pub address: SocketAddr,
    /// The service that took the connection, or that was asked for.
    pub service: Option<Arc<Service>>,
    /// The endpoint, if one was chosen.
    pub endpoint: Option<Arc<Workload>>,
    /// Its address.
    pub endpoint_address: Option<SocketAddr>,
}

/// A connection at layer 4 that has ended, or could not be made.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// Who was connected.
    pub ends: ConnectionEnd,
    /// It was carried.
    pub is_established: bool,
    /// A policy refused it.
    pub is_denied: bool,
    /// Bytes from the client.
    pub from_client: u64,
    /// Bytes to the client.
    pub to_client: u64,
    /// From its CONNECT to its end.
    pub duration: Duration,
    /// When it ended.
    pub ended: SystemTime,
    /// What went wrong, in words.
    pub error: Option<Cow<'static, str>>,
}

/// Takes records. Called on the way of requests: it must not wait.
pub trait Observe: Send + Sync + 'static {
    /// A request is over.
    fn request(&self, record: RequestRecord);

    /// A connection at layer 4 is carried from now on.
    fn opened(&self, ends: &ConnectionEnd);

    /// A connection at layer 4 is over, or could not be made.
    fn closed(&self, record: ConnectionRecord);
}
