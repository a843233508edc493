//! What a waypoint answers for.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use weft_hbone::Authority;
use weft_model::{AppProtocol, Service, Snapshot, Waypoint, WaypointTarget, Workload};

use crate::options::WaypointOptions;

/// Ports of the mesh itself, to which no tunnel leads.
const REFUSED_PORTS: [u16; 3] = [15001, 15006, 15008];

/// Where a CONNECT leads.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// The address that was asked for.
    pub(crate) address: SocketAddr,
    /// What has that address.
    pub(crate) target: Target,
    /// What is spoken there, as far as it was declared.
    pub(crate) protocol: AppProtocol,
}

/// See [`Destination`].
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A service of this key.
    Service(Arc<Service>),
    /// A workload by its own address.
    Workload(Arc<Workload>),
}

/// Why a CONNECT is refused.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    /// The answer.
    pub(crate) status: StatusCode,
    reason: String,
}

/// Says where `authority` leads, if it is for this waypoint to say.
///
/// # Errors
/// When it is malformed, leads nowhere, or to what has another waypoint or none.
pub(crate) fn admit(options: &WaypointOptions, snapshot: &Snapshot, authority: &str) -> Result<Destination, Refusal> {
    let refuse = |reason: String| Refusal { status: StatusCode::BAD_REQUEST, reason };
    let parsed: Authority = authority.parse().map_err(|error| refuse(format!("{error}")))?;
    let address = parsed.socket_addr().ok_or_else(|| refuse(format!("{parsed} is no address")))?;
    if REFUSED_PORTS.contains(&address.port()) {
        return Err(refuse(format!("no tunnel leads to port {}", address.port())));
    }
    if let Some(service) = snapshot.service_by_address(address.ip()) {
        if !is_ours(options, snapshot, service.waypoint.as_ref()) {
            return Err(refuse(format!("service {} is not behind this waypoint", service.key)));
        }
        let port = service.ports.iter().find(|port| port.port == address.port());
        let port = port.ok_or_else(|| refuse(format!("service {} has no port {}", service.key, address.port())))?;
        return Ok(Destination { address, target: Target::Service(Arc::clone(service)), protocol: port.app_protocol });
    }
    let workload = snapshot.workload_by_address(address.ip());
    let workload = workload.ok_or_else(|| refuse(format!("nothing in the mesh has the address {}", address.ip())))?;
    if !snapshot.waypoints_of(workload, address.port()).any(|waypoint| is_ours(options, snapshot, Some(waypoint))) {
        return Err(refuse(format!("workload {} is not behind this waypoint", workload.uid)));
    }
    let protocol = declared(snapshot, workload, address.port());
    Ok(Destination { address, target: Target::Workload(Arc::clone(workload)), protocol })
}

/// Whether this is the waypoint that is meant.
pub(crate) fn is_ours(options: &WaypointOptions, snapshot: &Snapshot, waypoint: Option<&Arc<Waypoint>>) -> bool {
    match waypoint.map(|waypoint| &waypoint.target) {
        None => false,
        Some(WaypointTarget::Service(key)) => *key == options.service,
        Some(WaypointTarget::Address(address)) => match snapshot.service_by_address(*address) {
            Some(service) => service.key == options.service,
            None => *address == options.address.ip(),
        },
    }
}

/// What is spoken on a workload's port, by the services that lead to it.
pub(crate) fn declared(snapshot: &Snapshot, workload: &Workload, target_port: u16) -> AppProtocol {
    let leading = workload.services.iter().flat_map(|membership| {
        let ports = membership.ports.iter().filter(|mapping| mapping.target_port == target_port);
        ports.map(|mapping| (&membership.service, mapping.service_port))
    });
    let declared = leading.filter_map(|(key, port)| {
        let ports = &snapshot.service(key)?.ports;
        ports.iter().find(|known| known.port == port).map(|known| known.app_protocol)
    });
    declared.into_iter().find(|protocol| *protocol != AppProtocol::Tcp).unwrap_or_default()
}
