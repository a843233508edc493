//! Where a destination leads.
//!
//! A virtual address leads to an endpoint of its service, chosen by kube-proxy's rules:
//! 1. Endpoints that are ready, or, when there is none, those that terminate and still serve. Where the service
//!    publishes addresses that are not ready, all count as ready.
//! 2. With `internalTrafficPolicy: Local`, only those on the client's node; both steps of 1 are taken among these.
//! 3. Else, among ready ones, those that `trafficDistribution` prefers: the client's node, then its zone, then all. A
//!    preference is dropped when it matches none, and when the place of any ready endpoint is not known.
//! 4. With `sessionAffinity: ClientIP`, the one that the client had before, if 1 to 3 leave it.
//! 5. Else the next in turn.
//!
//! All of this is done for the address family and port that were dialled, as if endpoints without them did not exist.
//! A workload's own address leads to the workload, whatever its condition; a headless service is nothing but these.
//!
//! Connections that must pass a waypoint lead to one of the waypoint's workloads, chosen by the same rules, and ask it for
//! what was dialled: those to a service that has one, those to a workload that has one, and those to a port of a workload
//! to which a service with a waypoint leads, however it was addressed. Only the waypoint itself goes on directly.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;

use crate::address::canonical;
use crate::balance::{Affinity, Balancer};
use crate::endpoints::{Call, Endpoint, NoCandidate};
use crate::service::Service;
use crate::snapshot::Snapshot;
use crate::waypoint::{Waypoint, WaypointTarget};
use crate::workload::Workload;

/// Where a connection goes.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The workload that was chosen: an endpoint, or one of the waypoint's.
    pub workload: Arc<Workload>,
    /// What the workload is asked for: an address of its own and the port on it, or, of a waypoint, what was dialled. Never
    /// IPv4-mapped.
    pub address: SocketAddr,
    /// The service that was addressed; `None` when it was the workload itself.
    pub service: Option<Arc<Service>>,
    /// The workload is a waypoint's, and takes tunnels here.
    pub waypoint: Option<SocketAddr>,
}

/// Why a destination leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// Neither a workload's nor a service's address: outside the mesh, or not known yet.
    #[error("{address} belongs to no known workload or service")]
    UnknownAddress {
        /// The destination.
        address: SocketAddr,
    },
    /// The service has no such port.
    #[error("service {service} has no port {port}")]
    NoSuchPort {
        /// Key of the service.
        service: Arc<str>,
        /// The port that was asked for.
        port: u16,
    },
    /// No endpoint of the service can take a connection.
    #[error("service {service} has no ready endpoint for port {port}")]
    NoReadyEndpoint {
        /// Key of the service.
        service: Arc<str>,
        /// Port of the service.
        port: u16,
    },
    /// `internalTrafficPolicy: Local`, and nothing on the client's node can take a connection.
    #[error(
        "service {service} has no ready endpoint for port {port} on the client's node '{node}', \
         and its internalTrafficPolicy is Local"
    )]
    NoLocalEndpoint {
        /// Key of the service.
        service: Arc<str>,
        /// Port of the service.
        port: u16,
        /// The client's node.
        node: Arc<str>,
    },
    /// Connections must pass a waypoint, and it cannot be reached.
    #[error("connections must pass the waypoint {waypoint}, and {reason}")]
    NoWaypoint {
        /// Key of the service that was addressed, if it was one.
        service: Option<Arc<str>>,
        /// The waypoint: the key of its service, or its address.
        waypoint: Arc<str>,
        /// Why it cannot be reached.
        reason: Arc<str>,
    },
    /// Endpoints are ready, but none has an address of the family that was dialled.
    #[error("service {service} was dialled over {family}, but none of its ready endpoints has an {family} address")]
    WrongFamily {
        /// Key of the service.
        service: Arc<str>,
        /// The family that was dialled, `IPv4` or `IPv6`.
        family: &'static str,
    },
}

impl ResolveError {
    /// Key of the service that was addressed, when it was one.
    #[must_use]
    pub fn service(&self) -> Option<&Arc<str>> {
        match self {
            Self::UnknownAddress { .. } => None,
            Self::NoWaypoint { service, .. } => service.as_ref(),
            Self::NoSuchPort { service, .. }
            | Self::NoReadyEndpoint { service, .. }
            | Self::NoLocalEndpoint { service, .. }
            | Self::WrongFamily { service, .. } => Some(service),
        }
    }
}

/// See [`Snapshot::resolve`].
pub(crate) fn resolve(
    snapshot: &Snapshot,
    source: &Workload,
    client: IpAddr,
    destination: SocketAddr,
    balancer: &Balancer,
) -> Result<Upstream, ResolveError> {
    let destination = canonical(destination);
    let passage = Passage { snapshot, source, client, balancer };
    let Some(service) = snapshot.service_by_address(destination.ip()) else {
        let Some(workload) = snapshot.workload_by_address(destination.ip()) else {
            return Err(ResolveError::UnknownAddress { address: destination });
        };
        let waypoint = snapshot.waypoint_of(workload, destination.port());
        if let Some(upstream) = waypoint.and_then(|waypoint| passage.through(waypoint, destination, None).transpose()) {
            return upstream;
        }
        return Ok(Upstream { workload: Arc::clone(workload), address: destination, service: None, waypoint: None });
    };
    if let Some(waypoint) = &service.waypoint
        && service.ports.iter().any(|port| port.port == destination.port())
        && let Some(upstream) = passage.through(waypoint, destination, Some(service))?
    {
        return Ok(upstream);
    }
    let upstream = choose_of(snapshot, source, client, service, (destination.port(), destination.is_ipv6()), balancer)?;
    // Another service that leads there has a waypoint, and the workload's agent takes nothing that has not passed it.
    if service.waypoint.is_none()
        && let Some(waypoint) = snapshot.waypoint_of(&upstream.workload, upstream.address.port())
        && let Some(upstream) = passage.through(waypoint, upstream.address, Some(service))?
    {
        return Ok(upstream);
    }
    Ok(upstream)
}

/// See [`Snapshot::resolve_service`].
pub(crate) fn resolve_service(
    snapshot: &Snapshot,
    source: &Workload,
    client: IpAddr,
    (service, port): (&Arc<Service>, u16),
    balancer: &Balancer,
) -> Result<Upstream, ResolveError> {
    // A service without addresses has endpoints of any family.
    let ipv6 = service.addresses.first().is_some_and(IpAddr::is_ipv6);
    match choose_of(snapshot, source, client, service, (port, ipv6), balancer) {
        Err(ResolveError::WrongFamily { .. }) => choose_of(snapshot, source, client, service, (port, !ipv6), balancer),
        chosen => chosen,
    }
}

fn choose_of(
    snapshot: &Snapshot,
    source: &Workload,
    client: IpAddr,
    service: &Arc<Service>,
    (port, ipv6): (u16, bool),
    balancer: &Balancer,
) -> Result<Upstream, ResolveError> {
    let endpoint = choose(snapshot, source, client, service, (port, ipv6), balancer)?;
    let workload = endpoint.workload();
    let ip = workload.address_of_family(ipv6);
    let port = endpoint.target_port(port);
    let (Some(ip), Some(port)) = (ip, port) else {
        unreachable!("endpoints are arranged by the families and ports that they have")
    };
    let address = SocketAddr::new(ip, port);
    Ok(Upstream { workload: Arc::clone(workload), address, service: Some(Arc::clone(service)), waypoint: None })
}

/// A connection that looks for its way.
#[derive(Clone, Copy)]
struct Passage<'a> {
    snapshot: &'a Snapshot,
    source: &'a Workload,
    client: IpAddr,
    balancer: &'a Balancer,
}

impl Passage<'_> {
    /// The way through a waypoint to `destination`. `None`: there is none, and the connection may go without it.
    fn through(
        self,
        waypoint: &Waypoint,
        destination: SocketAddr,
        service: Option<&Arc<Service>>,
    ) -> Result<Option<Upstream>, ResolveError> {
        let is_itself = |workload: &Arc<Workload>| workload.uid == self.source.uid;
        if self.snapshot.workloads_of_waypoint(waypoint).any(is_itself) {
            return Ok(None);
        }
        let refusal = match self.workload_of(waypoint, destination.is_ipv6()) {
            Ok((workload, tunnel)) if workload.is_hbone() => {
                let (service, waypoint) = (service.cloned(), Some(tunnel));
                return Ok(Some(Upstream { workload, address: destination, service, waypoint }));
            }
            Ok((workload, _)) => format!("its workload {} takes no tunnels", workload.name),
            Err(reason) => reason,
        };
        if waypoint.is_optional {
            return Ok(None);
        }
        let service = service.map(|service| Arc::clone(&service.key));
        Err(ResolveError::NoWaypoint { service, waypoint: waypoint.to_string().into(), reason: refusal.into() })
    }

    /// One of the waypoint's workloads, and where it takes tunnels: in the family that was dialled, if it is there.
    fn workload_of(self, waypoint: &Waypoint, ipv6: bool) -> Result<(Arc<Workload>, SocketAddr), String> {
        let Self { snapshot, source, client, balancer } = self;
        let service = match &waypoint.target {
            WaypointTarget::Service(key) => {
                Some(snapshot.service(key).ok_or_else(|| "there is no such service".to_owned())?)
            }
            WaypointTarget::Address(address) => snapshot.service_by_address(*address),
        };
        let Some(service) = service else {
            let WaypointTarget::Address(address) = waypoint.target else {
                unreachable!("a waypoint by name is a service that was found above")
            };
            let workload = snapshot.workload_by_address(address);
            let workload = workload.ok_or_else(|| "nothing is known to have this address".to_owned())?;
            return Ok((Arc::clone(workload), SocketAddr::new(address, waypoint.port)));
        };
        let mut chosen =
            choose(snapshot, source, client, service, (waypoint.port, ipv6), balancer).map(|endpoint| (endpoint, ipv6));
        if let Err(ResolveError::WrongFamily { .. }) = &chosen {
            chosen = choose(snapshot, source, client, service, (waypoint.port, !ipv6), balancer)
                .map(|endpoint| (endpoint, !ipv6));
        }
        let (endpoint, ipv6) = chosen.map_err(|error| error.to_string())?;
        let workload = endpoint.workload();
        let (Some(ip), Some(port)) = (workload.address_of_family(ipv6), endpoint.target_port(waypoint.port)) else {
            unreachable!("endpoints are arranged by the families and ports that they have")
        };
        Ok((Arc::clone(workload), SocketAddr::new(ip, port)))
    }
}

fn choose<'s>(
    snapshot: &'s Snapshot,
    source: &Workload,
    client: IpAddr,
    service: &Service,
    (port, ipv6): (u16, bool),
    balancer: &Balancer,
) -> Result<&'s Endpoint, ResolveError> {
    let key = || Arc::clone(&service.key);
    let Some(entry) = snapshot.services.get(&service.key) else {
        return Err(ResolveError::NoSuchPort { service: key(), port });
    };
    let call = Call { port, ipv6, node: snapshot.place(&source.node), zone: snapshot.place(&source.locality.zone) };
    let (candidates, turn) = entry.candidates(call).map_err(|reason| match reason {
        NoCandidate::NoSuchPort => ResolveError::NoSuchPort { service: key(), port },
        NoCandidate::Nobody => ResolveError::NoReadyEndpoint { service: key(), port },
        NoCandidate::NotLocal => ResolveError::NoLocalEndpoint { service: key(), port, node: Arc::clone(&source.node) },
        NoCandidate::OtherFamily => {
            ResolveError::WrongFamily { service: key(), family: if ipv6 { "IPv6" } else { "IPv4" } }
        }
    })?;
    let Some(affinity) = service.session_affinity else {
        return Ok(candidates.at_turn(turn.take()));
    };
    let affinity = Affinity { service: &service.key, port, client: client.to_canonical(), timeout: affinity.timeout };
    Ok(balancer.stick(
        affinity,
        |uid, instance| {
            let scatter = snapshot.workloads.fingerprint(uid);
            let endpoint = entry.endpoint(uid, scatter).filter(|endpoint| *endpoint.workload().instance == *instance);
            endpoint.filter(|endpoint| candidates.contains(endpoint))
        },
        || candidates.at_turn(turn.take()),
    ))
}

#[cfg(test)]
mod tests;
