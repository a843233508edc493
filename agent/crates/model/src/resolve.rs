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

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;

use crate::address::canonical;
use crate::balance::{Affinity, Balancer};
use crate::endpoints::{Call, Endpoint, NoCandidate};
use crate::service::Service;
use crate::snapshot::Snapshot;
use crate::workload::Workload;

/// Where a connection goes.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The workload that was chosen.
    pub workload: Arc<Workload>,
    /// The address of the workload to use, and the port on it. Never IPv4-mapped.
    pub address: SocketAddr,
    /// The service that was addressed; `None` when it was the workload itself.
    pub service: Option<Arc<Service>>,
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
    let Some(service) = snapshot.service_by_address(destination.ip()) else {
        let Some(workload) = snapshot.workload_by_address(destination.ip()) else {
            return Err(ResolveError::UnknownAddress { address: destination });
        };
        return Ok(Upstream { workload: Arc::clone(workload), address: destination, service: None });
    };
    let endpoint = choose(snapshot, source, client, service, destination, balancer)?;
    let workload = endpoint.workload();
    let ip = workload.address_of_family(destination.is_ipv6());
    let port = endpoint.target_port(destination.port());
    let (Some(ip), Some(port)) = (ip, port) else {
        unreachable!("endpoints are arranged by the families and ports that they have")
    };
    Ok(Upstream {
        workload: Arc::clone(workload),
        address: SocketAddr::new(ip, port),
        service: Some(Arc::clone(service)),
    })
}

fn choose<'s>(
    snapshot: &'s Snapshot,
    source: &Workload,
    client: IpAddr,
    service: &Service,
    destination: SocketAddr,
    balancer: &Balancer,
) -> Result<&'s Endpoint, ResolveError> {
    let key = || Arc::clone(&service.key);
    let (port, ipv6) = (destination.port(), destination.is_ipv6());
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
