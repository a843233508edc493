//! The state of the mesh at one moment.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address::AddressKey;
use crate::authorize::{self, Peer, Verdict};
use crate::balance::Balancer;
use crate::endpoints::{Endpoint, Place, ServiceEntry, UNKNOWN_PLACE};
use crate::policies::Policies;
use crate::policy::Policy;
use crate::resolve::{self, ResolveError, Upstream};
use crate::service::Service;
use crate::sharded::{Keyed, ShardedMap};
use crate::store::MeshOptions;
use crate::store::claims::Holder;
use crate::workload::Workload;

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

    /// Whether the agent must carry connections to this address: an HBONE workload's, or a virtual one of a service
    /// with at least one HBONE endpoint, ready or not.
    #[must_use]
    pub fn is_mesh(&self, ip: IpAddr) -> bool {
        match self.service_by_address(ip) {
            Some(service) => self.services.get(&service.key).is_some_and(|entry| entry.has_hbone()),
            None => self.workload_by_address(ip).is_some_and(|workload| workload.is_hbone()),
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

    /// Whether `peer` may connect to `workload`.
    pub fn authorize(&self, workload: &Workload, peer: &Peer<'_>) -> Verdict {
        authorize::authorize(&self.policies, workload, peer)
    }

    /// The number of a node or zone; [`UNKNOWN_PLACE`] for an empty name, and for one that no workload has.
    pub(crate) fn place(&self, name: &str) -> Place {
        if name.is_empty() {
            return UNKNOWN_PLACE;
        }
        self.places.get(name).map_or(UNKNOWN_PLACE, |place| place.number)
    }
}
