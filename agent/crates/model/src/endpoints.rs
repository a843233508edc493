//! The endpoints of a service, arranged so that choosing one costs the same for three as for thirty thousand.

use std::sync::Arc;

use crate::service::Service;
use crate::sharded::Keyed;
use crate::workload::{EndpointCondition, PortMapping, Workload};

mod roster;
mod selection;

use roster::Roster;
use selection::{Arrangement, Edit, PortEndpoints};
pub(crate) use selection::{Candidates, NoCandidate};

/// A node or a zone as a small number; a name has the same number in all snapshots of a store.
pub(crate) type Place = u32;

/// The place of an empty name.
pub(crate) const UNKNOWN_PLACE: Place = 0;

/// One workload as an endpoint of one service.
#[derive(Debug)]
pub struct Endpoint {
    workload: Arc<Workload>,
    membership: u32,
    node: Place,
    zone: Place,
    scatter: u32,
    is_reachable: bool,
}

impl Endpoint {
    /// The workload.
    #[must_use]
    pub fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    /// Its condition as the source reported it.
    #[must_use]
    pub fn condition(&self) -> EndpointCondition {
        self.workload.services[self.membership as usize].condition
    }

    /// Where the ports of the service lead on this endpoint.
    #[must_use]
    pub fn ports(&self) -> &[PortMapping] {
        &self.workload.services[self.membership as usize].ports
    }

    /// Where one port of the service leads on this endpoint.
    #[must_use]
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.ports().iter().find(|mapping| mapping.service_port == service_port).map(|mapping| mapping.target_port)
    }
}

/// What an endpoint needs to know of its workload beside the workload itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    /// Its node.
    pub(crate) node: Place,
    /// Its zone.
    pub(crate) zone: Place,
    /// Scatters endpoints in the order of the rosters, so that agents do not all begin with the same one.
    pub(crate) scatter: u32,
    /// It is on the agent's own network.
    pub(crate) is_reachable: bool,
}

/// A service, when it is known, and its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct ServiceEntry {
    key: Arc<str>,
    service: Option<Arc<Service>>,
    /// The arrangement of `ports`, which are empty while the service is unknown.
    arrangement: Option<Arrangement>,
    /// Every endpoint, usable or not.
    all: Roster,
    /// How many of `all` are reached by HBONE.
    hbone: usize,
    /// Sorted by port.
    ports: Vec<PortEndpoints>,
    /// The last batch that changed the entry.
    pub(crate) batch: u64,
}

impl Keyed for Arc<ServiceEntry> {
    type Key = str;

    fn key(&self) -> &str {
        &self.key
    }
}

impl ServiceEntry {
    pub(crate) fn new(key: Arc<str>) -> Self {
        let (service, arrangement, ports) = (None, None, Vec::new());
        Self { key, service, arrangement, all: Roster::default(), hbone: 0, ports, batch: 0 }
    }

    pub(crate) fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.all.iter()
    }

    pub(crate) fn endpoint_count(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn has_hbone(&self) -> bool {
        self.hbone > 0
    }

    /// Whether nothing would be lost with it.
    pub(crate) fn is_vacant(&self) -> bool {
        self.service.is_none() && self.all.is_empty()
    }

    pub(crate) fn set_service(&mut self, service: Option<Arc<Service>>) {
        let arrangement = service.as_deref().map(Arrangement::of);
        self.service = service;
        if arrangement == self.arrangement {
            return;
        }
        self.arrangement = arrangement;
        self.ports.clear();
        let endpoints: Vec<_> = self.all.iter().cloned().collect();
        for endpoint in &endpoints {
            self.arrange(Edit::Add, endpoint);
        }
    }

    /// Adds the workload by its membership of that index. It must not be there yet.
    pub(crate) fn add(&mut self, workload: &Arc<Workload>, membership: usize, placement: Placement) {
        let Placement { node, zone, scatter, is_reachable } = placement;
        let membership = u32::try_from(membership).expect("no workload is in four thousand million services");
        let workload = Arc::clone(workload);
        let endpoint = Arc::new(Endpoint { workload, membership, node, zone, scatter, is_reachable });
        self.arrange(Edit::Add, &endpoint);
        self.hbone += usize::from(is_reachable && endpoint.workload.is_hbone());
        self.all.insert(roster::key(UNKNOWN_PLACE, scatter), endpoint);
    }

    /// Removes the workload, if it is there. `scatter` is the one that it was added with.
    pub(crate) fn remove(&mut self, workload: &Arc<Workload>, scatter: u32) {
        let key = roster::key(UNKNOWN_PLACE, scatter);
        let Some(endpoint) = self.all.remove(key, |endpoint| Arc::ptr_eq(&endpoint.workload, workload)) else {
            return;
        };
        self.hbone -= usize::from(endpoint.is_reachable && workload.is_hbone());
        self.arrange(Edit::Remove, &endpoint);
    }

    /// To be called once after a batch of changes, before anyone reads.
    pub(crate) fn seal(&mut self) {
        self.all.seal();
        self.ports.retain(|port| !port.is_empty());
        for port in &mut self.ports {
            port.seal();
        }
    }

    /// The endpoints that a client at `node` and `zone` may use for a port over one family.
    pub(crate) fn candidates(
        &self,
        port: u16,
        ipv6: bool,
        node: Place,
        zone: Place,
    ) -> Result<Candidates<'_>, NoCandidate> {
        let arrangement = self.arrangement.ok_or(NoCandidate::Nobody)?;
        match self.ports.binary_search_by_key(&port, |entry| entry.port) {
            Ok(index) => self.ports[index].candidates(arrangement, ipv6, node, zone),
            Err(_) => Err(NoCandidate::Nobody),
        }
    }

    /// The endpoint that the workload of this uid is.
    pub(crate) fn endpoint(&self, uid: &str, scatter: u32) -> Option<&Arc<Endpoint>> {
        let key = roster::key(UNKNOWN_PLACE, scatter);
        self.all.find(key, |endpoint| *endpoint.workload.uid == *uid).map(|(_, endpoint)| endpoint)
    }

    fn arrange(&mut self, edit: Edit, endpoint: &Arc<Endpoint>) {
        let Some(arrangement) = self.arrangement else { return };
        let Some(usable) = arrangement.usable(endpoint) else { return };
        for ipv6 in [false, true] {
            if endpoint.workload.address_of_family(ipv6).is_none() {
                continue;
            }
            for mapping in endpoint.ports() {
                self.port_mut(mapping.service_port).edit(edit, arrangement, usable, ipv6, endpoint);
            }
        }
    }

    fn port_mut(&mut self, port: u16) -> &mut PortEndpoints {
        let index = match self.ports.binary_search_by_key(&port, |entry| entry.port) {
            Ok(index) => index,
            Err(index) => {
                self.ports.reserve_exact(1);
                self.ports.insert(index, PortEndpoints::new(port));
                index
            }
        };
        &mut self.ports[index]
    }
}
