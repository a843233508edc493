//! The endpoints of a service, kept so that choosing one costs the same for three as for thirty thousand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::service::{Service, ServicePort};
use crate::sharded::Keyed;
use crate::workload::{EndpointCondition, PortMapping, Workload};

mod few;
mod many;
mod roster;
mod selection;

use many::{Arranged, Edit};
use roster::{Grouping, Roster};
pub(crate) use selection::{Call, Candidates, NoCandidate};
use selection::{Nearness, Rules};

/// A node or a zone as a small number; a name has the same number in all snapshots of a store.
pub(crate) type Place = u32;

/// The place of an empty name.
pub(crate) const UNKNOWN_PLACE: Place = 0;

/// One workload as an endpoint of one service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    workload: Arc<Workload>,
    node: Place,
    zone: Place,
    scatter: u32,
    membership: u32,
    /// Copies of what the workload says, so that choosing among endpoints does not visit each workload.
    condition: EndpointCondition,
    has_ipv4: bool,
    has_ipv6: bool,
    is_reachable: bool,
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

impl Endpoint {
    fn new(workload: &Arc<Workload>, membership: u32, placement: Placement) -> Self {
        let Placement { node, zone, scatter, is_reachable } = placement;
        Self {
            workload: Arc::clone(workload),
            node,
            zone,
            scatter,
            membership,
            condition: workload.services[membership as usize].condition,
            has_ipv4: workload.address_of_family(false).is_some(),
            has_ipv6: workload.address_of_family(true).is_some(),
            is_reachable,
        }
    }

    /// The workload.
    #[must_use]
    pub fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    /// Its condition as the source reported it.
    #[must_use]
    pub fn condition(&self) -> EndpointCondition {
        self.condition
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

    fn has_family(&self, ipv6: bool) -> bool {
        if ipv6 { self.has_ipv6 } else { self.has_ipv4 }
    }

    /// Whether it stands for the same object; an updated workload is another one.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.workload, &other.workload)
    }
}

/// A service, when it is known, and its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct ServiceEntry {
    key: Arc<str>,
    service: Option<Arc<Service>>,
    /// Every endpoint, usable or not.
    all: Roster,
    /// How many there are in `all`, right also within a batch.
    count: usize,
    /// How many of them are reached by HBONE.
    hbone: usize,
    /// `None` while there are few, and while the service is unknown.
    arranged: Option<Box<Arranged>>,
    /// All endpoints have all ports of the service; kept only while there are few.
    is_uniform: bool,
    /// The turns of the round robin, two for each port of the service, one for IPv4 and one for IPv6. They are shared
    /// with earlier and later snapshots.
    turns: Arc<[AtomicU32]>,
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
        Self {
            key,
            service: None,
            all: Roster::new(Grouping::None),
            count: 0,
            hbone: 0,
            arranged: None,
            is_uniform: false,
            turns: Arc::default(),
            batch: 0,
        }
    }

    pub(crate) fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.all.iter()
    }

    pub(crate) fn endpoint_count(&self) -> usize {
        self.count
    }

    pub(crate) fn has_hbone(&self) -> bool {
        self.hbone > 0
    }

    /// Whether nothing would be lost with it.
    pub(crate) fn is_vacant(&self) -> bool {
        self.service.is_none() && self.count == 0
    }

    pub(crate) fn set_service(&mut self, service: Option<Arc<Service>>) {
        let turns = service.as_ref().map_or(0, |service| 2 * service.ports.len());
        if turns != self.turns.len() {
            self.turns = (0..turns).map(|_| AtomicU32::new(0)).collect();
        }
        if service.as_deref().map(Rules::of) != self.rules() {
            self.arranged = None;
        }
        self.service = service;
        self.arrange();
    }

    /// Adds the workload by its membership of that index. It must not be there yet.
    pub(crate) fn add(&mut self, workload: &Arc<Workload>, membership: u32, placement: Placement) {
        let endpoint = Endpoint::new(workload, membership, placement);
        self.count += 1;
        self.hbone += usize::from(endpoint.is_reachable && workload.is_hbone());
        if let Some(arranged) = &mut self.arranged {
            arranged.edit(Edit::Add, &endpoint);
        }
        self.all.insert(endpoint);
        self.arrange();
    }

    /// Removes the workload, which must have been added by that membership and placement.
    pub(crate) fn remove(&mut self, workload: &Arc<Workload>, membership: u32, placement: Placement) {
        let endpoint = Endpoint::new(workload, membership, placement);
        self.count -= 1;
        self.hbone -= usize::from(endpoint.is_reachable && workload.is_hbone());
        if let Some(arranged) = &mut self.arranged {
            arranged.edit(Edit::Remove, &endpoint);
        }
        self.all.remove(&endpoint);
    }

    /// To be called once after a batch of changes, before anyone reads.
    pub(crate) fn seal(&mut self) {
        self.all.seal();
        // Half of what is few, so that a service at the limit is not arranged and disarranged by turns.
        if self.count <= few::MOST / 2 {
            self.arranged = None;
        }
        match (&mut self.arranged, &self.service) {
            (Some(arranged), _) => arranged.seal(),
            (None, Some(service)) => {
                let has_all = |endpoint: &Endpoint| {
                    service.ports.iter().all(|service_port| endpoint.target_port(service_port.port).is_some())
                };
                self.is_uniform = self.all.iter().all(has_all);
            }
            (None, None) => {}
        }
    }

    /// The endpoints that may be had for a call, and whose turn it is.
    pub(crate) fn candidates(&self, call: Call) -> Result<(Candidates<'_>, Turn<'_>), NoCandidate> {
        let service = self.service.as_deref().ok_or(NoCandidate::NoSuchPort)?;
        let is_it = |service_port: &ServicePort| service_port.port == call.port;
        let port_index = service.ports.iter().position(is_it).ok_or(NoCandidate::NoSuchPort)?;
        let rules = Rules::of(service);
        if let Some(candidates) = self.select(rules, call) {
            return Ok((candidates, Turn(&self.turns[2 * port_index + usize::from(call.ipv6)])));
        }
        if self.select(rules, Call { ipv6: !call.ipv6, ..call }).is_some() {
            return Err(NoCandidate::OtherFamily);
        }
        let is_usable = |endpoint: &Endpoint| {
            let has_address = endpoint.has_ipv4 || endpoint.has_ipv6;
            has_address && rules.usable(endpoint).is_some() && endpoint.target_port(call.port).is_some()
        };
        let is_elsewhere = rules.nearness == Nearness::Local && self.all.iter().any(is_usable);
        Err(if is_elsewhere { NoCandidate::NotLocal } else { NoCandidate::Nobody })
    }

    /// The endpoint that the workload of this uid is.
    pub(crate) fn endpoint(&self, uid: &str, scatter: u32) -> Option<&Endpoint> {
        self.all.find(uid, scatter)
    }

    fn rules(&self) -> Option<Rules> {
        self.service.as_deref().map(Rules::of)
    }

    fn select(&self, rules: Rules, call: Call) -> Option<Candidates<'_>> {
        if let Some(arranged) = &self.arranged {
            return arranged.select(call);
        }
        let endpoints = self.all.as_slice();
        let chosen = few::select(endpoints, rules, call, self.is_uniform);
        (chosen != 0).then_some(Candidates::Few { endpoints, chosen })
    }

    /// Arranges the endpoints once there are many.
    fn arrange(&mut self) {
        if self.arranged.is_none()
            && self.count > few::MOST
            && let Some(rules) = self.rules()
        {
            self.arranged = Some(Box::new(Arranged::new(rules, self.all.iter())));
        }
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a>(&'a AtomicU32);

impl Turn<'_> {
    /// Takes a turn.
    pub(crate) fn take(self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
