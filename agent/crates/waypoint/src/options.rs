//! What a waypoint is started with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_model::Identity;

/// How a waypoint is started.
#[derive(Clone, Debug)]
pub struct WaypointOptions {
    /// Where it takes tunnels. With port 0 the kernel chooses one.
    pub address: SocketAddr,
    /// Namespace of its Gateway.
    pub namespace: Arc<str>,
    /// Name of its Gateway.
    pub name: Arc<str>,
    /// Key of its own service in the model, `<namespace>/<hostname>`: services that name it pass through here.
    pub service: Arc<str>,
    /// Who it is: its certificate's name, in tunnels both ways.
    pub identity: Identity,
    /// Threads; at least one.
    pub workers: usize,
    /// Bounds.
    pub limits: Limits,
}

impl WaypointOptions {
    /// The Gateway's key, `<namespace>/<name>`.
    #[must_use]
    pub fn gateway(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What clients and endpoints may take, in time and in size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TLS and HTTP/2 of a tunnel to us must stand within this. Default: 10 s.
    pub handshake: Duration,
    /// A connection or tunnel to an endpoint must stand within this. Default: 10 s.
    pub connect: Duration,
    /// Tunnels that one worker takes; further ones wait in the kernel. Default: 16,384.
    pub tunnels: usize,
    /// Connections in one tunnel (HTTP/2 streams). Default: 200.
    pub streams: u32,
    /// Bytes on their way in one direction of a stream. The tunnel's own window is the product of both: one stream that
    /// is not read never holds up another. Default: 256 KiB.
    pub window: u32,
    /// Where the protocol is not declared, a connection on which the client has said nothing for so long is passed on as
    /// bytes: its server may be the one that speaks first. Default: 100 ms.
    pub silence: Duration,
    /// Once a client has begun to speak, how long its protocol may remain unclear before it counts as bytes. Default: 1 s.
    pub sniff: Duration,
    /// A request's head must be complete so long after its first byte. Default: 10 s.
    pub head: Duration,
    /// A client's HTTP/1 connection without requests is closed after this. Default: 1 h.
    pub idle: Duration,
    /// The longest pause within the body of an HTTP/1 request, before its answer has begun. Default: 60 s.
    pub body: Duration,
    /// Headers of a request. Default: 128.
    pub headers: usize,
    /// Bytes of a request's head. Default: 64 KiB.
    pub head_bytes: usize,
    /// Bytes of a request's body that are kept for another attempt. Longer ones are not attempted again. Default: 64 KiB.
    pub replay: usize,
    /// Requests of one HTTP/2 connection at one time. Default: 250.
    pub requests: u32,
    /// Copies of requests under way to mirrors, of one worker; more are left out. Default: 256.
    pub mirrors: usize,
    /// What a copy to a mirror may take. Default: 15 s.
    pub mirror: Duration,
    /// Idle connections that are kept for each endpoint. Default: 128.
    pub pooled: usize,
    /// After so long an idle connection to an endpoint is closed. Default: 60 s.
    pub pooled_for: Duration,
    /// After so long an idle tunnel to an endpoint is closed. Default: 5 min.
    pub tunnel_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            tunnels: 16_384,
            streams: 200,
            window: 256 << 10,
            silence: Duration::from_millis(100),
            sniff: Duration::from_secs(1),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            body: Duration::from_secs(60),
            headers: 128,
            head_bytes: 64 << 10,
            replay: 64 << 10,
            requests: 250,
            mirrors: 256,
            mirror: Duration::from_secs(15),
            pooled: 128,
            pooled_for: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(300),
        }
    }
}
