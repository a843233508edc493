//! Where a request or connection is to go, and the endpoint that it goes to.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::{AppProtocol, Denial, Peer, ResolveError, Service, Snapshot, Upstream, Verdict, Workload};

use crate::record::Client;
use crate::scope::{self, Destination, Target};
use crate::state::State;
use crate::worker::Worker;

/// A port of a service, or of a workload.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Service(Arc<Service>, u16),
    Workload(Arc<Workload>, SocketAddr),
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It is gone from the configuration.
    #[error("{0} is not known any more")]
    Gone(Arc<str>),
    /// None can take it.
    #[error(transparent)]
    NoEndpoint(#[from] ResolveError),
    /// The client may not connect to the one that was chosen.
    #[error("{1}")]
    Denied(Box<Upstream>, Denial),
}

impl Place {
    /// Where a connection was meant to go, as things are now.
    pub(crate) fn of(snapshot: &Snapshot, destination: &Destination) -> Result<Self, Failure> {
        match &destination.target {
            Target::Service(service) => match snapshot.service(&service.key) {
                Some(service) => Ok(Self::Service(Arc::clone(service), destination.address.port())),
                None => Err(Failure::Gone(Arc::clone(&service.key))),
            },
            Target::Workload(workload) => match snapshot.workload(&workload.uid) {
                Some(now) if now.is_same_instance(workload) => Ok(Self::Workload(Arc::clone(now), destination.address)),
                _ => Err(Failure::Gone(Arc::clone(&workload.uid))),
            },
        }
    }

    /// What is spoken there, as far as it was declared.
    pub(crate) fn protocol(&self, snapshot: &Snapshot) -> AppProtocol {
        match self {
            Self::Service(service, port) => {
                let port = service.ports.iter().find(|known| known.port == *port);
                port.map(|port| port.app_protocol).unwrap_or_default()
            }
            Self::Workload(workload, address) => scope::declared(snapshot, workload, address.port()),
        }
    }
}

/// Chooses an endpoint and judges the client. `uid`: the endpoint of the client's session, which it stays with while that
/// can take requests.
///
/// # Errors
/// When there is none, or the client may not go there.
pub(crate) fn pick(
    worker: &Worker,
    state: &State,
    client: &Client,
    place: &Place,
    uid: Option<&str>,
) -> Result<Upstream, Failure> {
    let snapshot = &state.snapshot;
    let upstream = match place {
        Place::Workload(workload, address) => {
            Upstream { workload: Arc::clone(workload), address: *address, service: None, waypoint: None }
        }
        Place::Service(service, port) => {
            // Nearness is the client's: it is as if it had connected by itself.
            let source = snapshot.workload_by_address(client.address.ip());
            let source = source.map_or(&worker.shared.nowhere, |source| source);
            let resolve =
                || snapshot.resolve_service(source, client.address.ip(), service, *port, &worker.shared.balancer);
            match uid.and_then(|uid| of_session(snapshot, service, *port, uid)) {
                Some(upstream) => upstream,
                None => resolve()?,
            }
        }
    };
    // Its agent takes nothing from here where another waypoint is its own.
    let own = || snapshot.waypoints_of(&upstream.workload, upstream.address.port());
    if let Some(other) = own().find(|own| !own.is_optional)
        && !own().any(|own| scope::is_ours(&worker.shared.options, snapshot, Some(own)))
    {
        return Err(Failure::NoEndpoint(ResolveError::NoWaypoint {
            service: upstream.service.as_ref().map(|service| Arc::clone(&service.key)),
            waypoint: other.to_string().into(),
            reason: "this is another one".into(),
        }));
    }
    let peer = Peer { identity: Some(&client.identity), source: client.address.ip(), destination: upstream.address };
    match snapshot.authorize(&upstream.workload, &peer) {
        Verdict::Allowed => Ok(upstream),
        Verdict::Denied(denial) => Err(Failure::Denied(Box::new(upstream), denial)),
    }
}

/// The endpoint of a session, while it is ready.
fn of_session(snapshot: &Snapshot, service: &Arc<Service>, port: u16, uid: &str) -> Option<Upstream> {
    use weft_model::EndpointCondition::Ready;
    let endpoint = snapshot.endpoints(&service.key).find(|endpoint| *endpoint.workload().uid == *uid)?;
    let is_usable = endpoint.condition() == Ready || service.publish_not_ready_addresses;
    let workload = endpoint.workload();
    let address = workload.addresses.first()?;
    let port = endpoint.target_port(port)?;
    is_usable.then(|| Upstream {
        workload: Arc::clone(workload),
        address: SocketAddr::new(*address, port),
        service: Some(Arc::clone(service)),
        waypoint: None,
    })
}
