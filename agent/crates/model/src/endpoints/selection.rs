//! The usable endpoints behind a port, and which of them a client may have: kube-proxy's rules.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::roster::{self, Roster};
use super::{Endpoint, Place, UNKNOWN_PLACE};
use crate::service::{InternalTrafficPolicy, Service, TrafficDistribution};
use crate::workload::EndpointCondition;

/// What the upper half of a roster's keys says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grouping {
    None,
    Node,
    Zone,
}

impl Grouping {
    fn key(self, endpoint: &Endpoint) -> u64 {
        let group = match self {
            Self::None => 0,
            Self::Node => endpoint.node,
            Self::Zone => endpoint.zone,
        };
        roster::key(group, endpoint.scatter)
    }
}

/// The part of a service that decides how its endpoints are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrangement {
    grouping: Grouping,
    /// Zones are needed in addition to `grouping`.
    also_by_zone: bool,
    /// Only endpoints on the client's node count.
    is_local: bool,
    publish_not_ready: bool,
}

impl Arrangement {
    pub(super) fn of(service: &Service) -> Self {
        let is_local = service.internal_traffic_policy == InternalTrafficPolicy::Local;
        // The distribution is a preference among all endpoints, and means nothing where only the node's count.
        let (grouping, also_by_zone) = match (is_local, service.traffic_distribution) {
            (true, _) => (Grouping::Node, false),
            (false, TrafficDistribution::Any) => (Grouping::None, false),
            (false, TrafficDistribution::PreferSameZone) => (Grouping::Zone, false),
            (false, TrafficDistribution::PreferSameNode) => (Grouping::Node, true),
        };
        Self { grouping, also_by_zone, is_local, publish_not_ready: service.publish_not_ready_addresses }
    }

    /// The condition that counts; `None` when the endpoint may not be used.
    pub(super) fn usable(self, endpoint: &Endpoint) -> Option<Usable> {
        match endpoint.condition() {
            _ if !endpoint.is_reachable => None,
            _ if self.publish_not_ready => Some(Usable::Ready),
            EndpointCondition::Ready => Some(Usable::Ready),
            EndpointCondition::Terminating => Some(Usable::Terminating),
            EndpointCondition::NotReady => None,
        }
    }

    /// Terminating endpoints are chosen by node where the node is a condition, not where it is a preference.
    fn terminating_grouping(self) -> Grouping {
        if self.is_local { Grouping::Node } else { Grouping::None }
    }
}

/// How an endpoint may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usable {
    Ready,
    /// When no endpoint is ready.
    Terminating,
}

/// Whether an endpoint comes or goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    Add,
    Remove,
}

impl Edit {
    fn apply(self, roster: &mut Roster, grouping: Grouping, endpoint: &Arc<Endpoint>) {
        let key = grouping.key(endpoint);
        match self {
            Self::Add => roster.insert(key, Arc::clone(endpoint)),
            Self::Remove => {
                roster.remove(key, |other| Arc::ptr_eq(other, endpoint));
            }
        }
    }
}

/// The usable endpoints behind one port of a service.
#[derive(Clone, Debug)]
pub(super) struct PortEndpoints {
    pub(super) port: u16,
    /// By family, IPv4 first. The next turn of the round robin is shared with earlier and later snapshots.
    turns: Arc<[AtomicUsize; 2]>,
    families: [Option<Box<FamilyEndpoints>>; 2],
}

/// Those of them that have an address of one family.
#[derive(Clone, Debug, Default)]
struct FamilyEndpoints {
    ready: Roster,
    /// The same ones by zone, where both node and zone matter.
    ready_by_zone: Roster,
    terminating: Roster,
}

impl PortEndpoints {
    pub(super) fn new(port: u16) -> Self {
        Self { port, turns: Arc::default(), families: [None, None] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.families.iter().all(Option::is_none)
    }

    pub(super) fn edit(
        &mut self,
        edit: Edit,
        arrangement: Arrangement,
        usable: Usable,
        ipv6: bool,
        endpoint: &Arc<Endpoint>,
    ) {
        let slot = &mut self.families[usize::from(ipv6)];
        let endpoints = slot.get_or_insert_default();
        match usable {
            Usable::Ready => {
                edit.apply(&mut endpoints.ready, arrangement.grouping, endpoint);
                if arrangement.also_by_zone {
                    edit.apply(&mut endpoints.ready_by_zone, Grouping::Zone, endpoint);
                }
            }
            Usable::Terminating => {
                edit.apply(&mut endpoints.terminating, arrangement.terminating_grouping(), endpoint);
            }
        }
        if endpoints.ready.is_empty() && endpoints.terminating.is_empty() {
            *slot = None;
        }
    }

    pub(super) fn seal(&mut self) {
        for family in self.families.iter_mut().flatten() {
            family.ready.seal();
            family.ready_by_zone.seal();
            family.terminating.seal();
        }
    }

    /// The endpoints that a client at `node` and `zone` may use over one family.
    pub(super) fn candidates(
        &self,
        arrangement: Arrangement,
        ipv6: bool,
        node: Place,
        zone: Place,
    ) -> Result<Candidates<'_>, NoCandidate> {
        if let Some(candidates) = self.select(arrangement, ipv6, node, zone) {
            return Ok(candidates);
        }
        Err(if self.select(arrangement, !ipv6, node, zone).is_some() {
            NoCandidate::OtherFamily
        } else if arrangement.is_local && !self.is_empty() {
            NoCandidate::NotLocal
        } else {
            NoCandidate::Nobody
        })
    }

    fn select(&self, arrangement: Arrangement, ipv6: bool, node: Place, zone: Place) -> Option<Candidates<'_>> {
        let FamilyEndpoints { ready, ready_by_zone, terminating } =
            self.families[usize::from(ipv6)].as_deref()?;
        let turn = &self.turns[usize::from(ipv6)];
        let whole = |roster, grouping| Candidates::new(roster, grouping, 0..Roster::len(roster), turn);
        let group = |roster, grouping, place| {
            if place == UNKNOWN_PLACE {
                return None;
            }
            Candidates::new(roster, grouping, Roster::group(roster, place), turn)
        };
        // A preference is dropped as a whole when it cannot be judged for some ready endpoint: what is left would
        // get all the traffic.
        let preferred = |roster, grouping, place| match Roster::group(roster, UNKNOWN_PLACE).is_empty() {
            true => group(roster, grouping, place),
            false => None,
        };
        if arrangement.is_local {
            return group(ready, Grouping::Node, node).or_else(|| group(terminating, Grouping::Node, node));
        }
        if ready.is_empty() {
            return whole(terminating, Grouping::None);
        }
        match arrangement.grouping {
            Grouping::None => None,
            Grouping::Zone => preferred(ready, Grouping::Zone, zone),
            Grouping::Node => preferred(ready, Grouping::Node, node)
                .or_else(|| preferred(ready_by_zone, Grouping::Zone, zone)),
        }
        .or_else(|| whole(ready, arrangement.grouping))
    }
}

/// Why there is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCandidate {
    /// No endpoint is usable.
    Nobody,
    /// Some are, on other nodes.
    NotLocal,
    /// Some are, by addresses of the other family.
    OtherFamily,
}

/// The endpoints to choose from. There is at least one.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    roster: &'a Roster,
    grouping: Grouping,
    range: Range<usize>,
    turn: &'a AtomicUsize,
}

impl<'a> Candidates<'a> {
    fn new(roster: &'a Roster, grouping: Grouping, range: Range<usize>, turn: &'a AtomicUsize) -> Option<Self> {
        (!range.is_empty()).then_some(Self { roster, grouping, range, turn })
    }

    /// The next one in turn.
    pub(crate) fn next(&self) -> &'a Arc<Endpoint> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let position = self.range.start + turn % self.range.len();
        self.roster.get(position).expect("the range lies in the roster, and is not empty")
    }

    /// Whether this endpoint is one of them.
    pub(crate) fn contains(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.roster
            .find(self.grouping.key(endpoint), |other| Arc::ptr_eq(other, endpoint))
            .is_some_and(|(position, _)| self.range.contains(&position))
    }
}
