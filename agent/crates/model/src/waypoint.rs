//! Waypoints: the proxies that connections to a service, or to a workload, must pass on their way.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A reference to a waypoint. The waypoint's workloads take HBONE themselves, on [`port`](Self::port) of their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waypoint {
    /// Who it is.
    pub target: WaypointTarget,
    /// Where its workloads take tunnels: 15008, unless said otherwise.
    pub port: u16,
    /// Connections that did not pass it are taken, too, and while it is away they go without it. The operator's
    /// explicit choice; else they are refused.
    pub is_optional: bool,
}

/// See [`Waypoint`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WaypointTarget {
    /// The endpoints of this service, by its key, `<namespace>/<hostname>`. It may be unknown, or become known later.
    Service(Arc<str>),
    /// Whatever has this address: a service's virtual one, or a workload's.
    Address(IpAddr),
}

impl fmt::Display for Waypoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            WaypointTarget::Service(key) => f.write_str(key),
            WaypointTarget::Address(address) => address.fmt(f),
        }
    }
}
