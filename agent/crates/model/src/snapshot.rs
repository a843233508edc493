//! The state of the mesh at one moment.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address::AddressKey;
use crate::authorize::{self, Denial, Peer, Scope, Verdict};
use crate::balance::Balancer;
use crate::endpoints::{Endpoint, Place, ServiceEntry, UNKNOWN_PLACE};
use crate::identity::Identity;
use crate::policies::Policies;
use crate::policy::Policy;
use crate::resolve::{self, ResolveError, Upstream};
use crate::service::Service;
use crate::sharded::{Keyed, ShardedMap};
use crate::store::MeshOptions;
use crate::store::claims::Holder;
use crate::waypoint::{Waypoint, WaypointTarget};
use crate::workload::{Membership, Workload};

/// Workloads, services and addresses are in maps of 2^9 shards: a change among 100,000 copies a list of 512 shards
/// and one shard of 200 entries, in each of the maps that it falls into.
const SHARD_BITS: u32 = 9;

/// The state of the mesh at one moment. Immutable; shared as `Arc<Snapshot>`. `Debug` shows how much there is of it.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) mesh: Arc<MeshOptions>,
    pub(crate) generation: u64,
    pub(crate) policy_generation: u64,
    pub(crate) workloads: ShardedMap<Arc<Workload>>,
    pub(crate) workload_addresses: ShardedMap<Holder<Workload>>,
    pub(crate) services: ShardedMap<Arc<ServiceEntry>>,
    pub(crate) service_addresses: ShardedMap<Holder<Service>>,
    pub(crate) places: ShardedMap<PlaceName>,
    pub(crate) policies: Policies,
}

/// The number of a node or zone. Numbers are never taken back: there are few names.
#[derive(Clone, Debug)]
pub(crate) struct PlaceName {
    pub(crate) name: Arc<str>,
    pub(crate) number: Place,
}

impl Keyed for PlaceName {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

impl Keyed for Arc<Workload> {
    type Key = str;

    fn key(&self) -> &str {
        &self.uid
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("policy_generation", &self.policy_generation)
            .field("workloads", &self.workloads.len())
            .field("services", &self.services.len())
            .field("policies", &self.policies.iter().count())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// A mesh with nothing in it, of generation 0.
    #[must_use]
    pub fn empty(mesh: MeshOptions) -> Self {
        Self {
            mesh: Arc::new(mesh),
            generation: 0,
            policy_generation: 0,
            workloads: ShardedMap::new(SHARD_BITS),
            workload_addresses: ShardedMap::new(SHARD_BITS),
            services: ShardedMap::new(SHARD_BITS),
            service_addresses: ShardedMap::new(SHARD_BITS),
            places: ShardedMap::new(SHARD_BITS / 2),
            policies: Policies::new(),
        }
    }

    /// What holds for the whole mesh.
    #[must_use]
    pub fn mesh(&self) -> &MeshOptions {
        &self.mesh
    }

    /// Counts the batches that changed anything.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Moves when the result of [`Snapshot::authorize`] may have changed for any workload and peer: live connections
    /// are then judged again. That is when a policy that is enforced appears, changes or goes, when one in dry run
    /// appears or goes (a reference to it denies or no longer denies), and when a workload changes its references or
    /// appears with some.
    #[must_use]
    pub fn policy_generation(&self) -> u64 {
        self.policy_generation
    }

    /// The workload that answers for an address, by the rules in [`crate::store`].
    #[must_use]
    pub fn workload_by_address(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workload_addresses.get(&AddressKey::from(ip)).map(|holder| &holder.owner)
    }

    /// The workload of a uid.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The service that a virtual address belongs to.
    #[must_use]
    pub fn service_by_address(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        self.service_addresses.get(&AddressKey::from(ip)).map(|holder| &holder.owner)
    }

    /// The service of a key, `<namespace>/<hostname>`.
    #[must_use]
    pub fn service(&self, key: &str) -> Option<&Arc<Service>> {
        self.services.get(key).and_then(|entry| entry.service())
    }

    /// The policy of a key, `<namespace>/<name>`.
    #[must_use]
    pub fn policy(&self, key: &str) -> Option<&Arc<Policy>> {
        self.policies.get(key)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().filter_map(|entry| entry.service())
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter()
    }

    /// All endpoints of a service, whatever their condition, in no order.
    pub fn endpoints(&self, service_key: &str) -> impl Iterator<Item = &Endpoint> {
        self.services.get(service_key).into_iter().flat_map(|entry| entry.endpoints())
    }

    /// How many endpoints a service has, whatever their condition.
    #[must_use]
    pub fn endpoint_count(&self, service_key: &str) -> usize {
        self.services.get(service_key).map_or(0, |entry| entry.endpoint_count())
    }

    /// How many workloads there are.
    #[must_use]
    pub fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// Whether the agent must carry connections to this address: an HBONE workload's, a virtual one of a service with at
    /// least one HBONE endpoint, ready or not, or one whose connections pass a waypoint.
    #[must_use]
    pub fn is_mesh(&self, ip: IpAddr) -> bool {
        match self.service_by_address(ip) {
            Some(service) => {
                service.waypoint.is_some() || self.services.get(&service.key).is_some_and(|entry| entry.has_hbone())
            }
            None => self.workload_by_address(ip).is_some_and(|workload| {
                let mut of_services = workload.services.iter().map(|membership| &membership.waypoint);
                workload.is_hbone() || workload.waypoint.is_some() || of_services.any(Option::is_some)
            }),
        }
    }

    /// Where a connection of `source` to `destination` goes. `client` is the address that session affinity knows the
    /// client by.
    ///
    /// # Errors
    /// When the destination is no address of the mesh, or one that leads nowhere now.
    pub fn resolve(
        &self,
        source: &Workload,
        client: IpAddr,
        destination: SocketAddr,
        balancer: &Balancer,
    ) -> Result<Upstream, ResolveError> {
        resolve::resolve(self, source, client, destination, balancer)
    }

    /// Where a connection of `source` to a port of a service goes, whatever the service's addresses: by the same rules as
    /// [`Snapshot::resolve`], over either address family, and past waypoints: for one of them.
    ///
    /// # Errors
    /// When it leads nowhere now.
    pub fn resolve_service(
        &self,
        source: &Workload,
        client: IpAddr,
        service: &Arc<Service>,
        port: u16,
        balancer: &Balancer,
    ) -> Result<Upstream, ResolveError> {
        resolve::resolve_service(self, source, client, (service, port), balancer)
    }

    /// Whether the policies let `peer` connect to `workload`.
    pub fn authorize(&self, workload: &Workload, peer: &Peer<'_>) -> Verdict {
        authorize::authorize(&self.policies, workload, peer, Scope::Whole)
    }

    /// Whether the workload's own agent lets `peer` in: it must come by way of the waypoint, where connections to this port
    /// must pass one, and the policies must let it. A waypoint has judged where connections come from; what policies say
    /// of the destination is judged again.
    pub fn admit(&self, workload: &Workload, peer: &Peer<'_>) -> Verdict {
        let port = peer.destination.port();
        if peer.identity.is_some_and(|identity| self.is_own_waypoint(workload, port, identity)) {
            return authorize::authorize(&self.policies, workload, peer, Scope::Destination);
        }
        match self.waypoints_of(workload, port).find(|waypoint| !waypoint.is_optional) {
            Some(waypoint) => Verdict::Denied(Denial::PastWaypoint { waypoint: waypoint.to_string().into() }),
            None => self.authorize(workload, peer),
        }
    }

    /// Whether a connection that was let in may go on, now that policies are others. That it has not passed a waypoint
    /// which was not there when it began ends none.
    pub fn judge_again(&self, workload: &Workload, peer: &Peer<'_>) -> Verdict {
        let is_of_waypoint =
            peer.identity.is_some_and(|identity| self.is_own_waypoint(workload, peer.destination.port(), identity));
        let scope = if is_of_waypoint { Scope::Destination } else { Scope::Whole };
        authorize::authorize(&self.policies, workload, peer, scope)
    }

    /// The waypoint that connections to this port of `workload` must pass, if any.
    #[must_use]
    pub fn waypoint_of<'s>(&'s self, workload: &'s Workload, port: u16) -> Option<&'s Arc<Waypoint>> {
        self.waypoints_of(workload, port).next()
    }

    /// Whether `identity` is that of a waypoint which connections to this port of `workload` pass.
    #[must_use]
    pub fn is_own_waypoint(&self, workload: &Workload, port: u16, identity: &Identity) -> bool {
        self.waypoints_of(workload, port).any(|waypoint| self.is_identity_of(waypoint, identity))
    }

    /// The workloads that a waypoint is, whatever their condition, in no order.
    pub fn workloads_of_waypoint<'s>(&'s self, waypoint: &Waypoint) -> impl Iterator<Item = &'s Arc<Workload>> {
        let (service, alone) = match &waypoint.target {
            WaypointTarget::Service(key) => (self.services.get(&**key), None),
            WaypointTarget::Address(address) => match self.service_by_address(*address) {
                Some(service) => (self.services.get(&service.key), None),
                None => (None, self.workload_by_address(*address)),
            },
        };
        service.into_iter().flat_map(|entry| entry.endpoints().map(Endpoint::workload)).chain(alone)
    }

    /// Whether connections to `destination` pass a waypoint of which nothing is known yet.
    #[must_use]
    pub fn awaits_waypoint(&self, destination: SocketAddr) -> bool {
        let destination = crate::address::canonical(destination);
        let waypoint = match self.service_by_address(destination.ip()) {
            Some(service) => service.waypoint.as_ref(),
            None => {
                let workload = self.workload_by_address(destination.ip());
                workload.and_then(|workload| self.waypoint_of(workload, destination.port()))
            }
        };
        waypoint.is_some_and(|waypoint| !self.is_known(waypoint))
    }

    pub(crate) fn is_known(&self, waypoint: &Waypoint) -> bool {
        match &waypoint.target {
            WaypointTarget::Service(key) => self.service(key).is_some(),
            WaypointTarget::Address(address) => {
                self.service_by_address(*address).is_some() || self.workload_by_address(*address).is_some()
            }
        }
    }

    /// The waypoints of the services that lead to this port, and the workload's own: its agent takes what comes from any.
    pub fn waypoints_of<'s>(&'s self, workload: &'s Workload, port: u16) -> impl Iterator<Item = &'s Arc<Waypoint>> {
        let leads_here = move |membership: &&'s Membership| membership.ports.iter().any(|to| to.target_port == port);
        let of_services =
            workload.services.iter().filter(leads_here).filter_map(|membership| self.waypoint_by(membership));
        of_services.chain(&workload.waypoint)
    }

    /// The waypoint of a membership's service: the workload may say it, or the service that is known.
    fn waypoint_by<'s>(&'s self, membership: &'s Membership) -> Option<&'s Arc<Waypoint>> {
        let of_service = || self.service(&membership.service).and_then(|service| service.waypoint.as_ref());
        membership.waypoint.as_ref().or_else(of_service)
    }

    fn is_identity_of(&self, waypoint: &Waypoint, identity: &Identity) -> bool {
        self.workloads_of_waypoint(waypoint).any(|workload| workload.identity == *identity)
    }

    /// The number of a node or zone; [`UNKNOWN_PLACE`] for an empty name, and for one that no workload has.
    pub(crate) fn place(&self, name: &str) -> Place {
        if name.is_empty() {
            return UNKNOWN_PLACE;
        }
        self.places.get(name).map_or(UNKNOWN_PLACE, |place| place.number)
    }
}
