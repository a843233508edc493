//! Which endpoints a client may have: kube-proxy's rules.

use std::ops::Range;

use super::roster::{Grouping, Roster};
use super::{Endpoint, Place};
use crate::service::{InternalTrafficPolicy, Service, TrafficDistribution};
use crate::workload::EndpointCondition;

/// The part of a service that decides which endpoints a client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) nearness: Nearness,
    pub(super) publish_not_ready: bool,
}

/// What the places of client and endpoint mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nearness {
    Indifferent,
    /// The zone is a preference.
    Zone,
    /// The node is a preference, and the zone one after it.
    Node,
    /// The node is a condition.
    Local,
}

/// How an endpoint may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usable {
    Ready,
    /// When no endpoint is ready.
    Terminating,
}

/// Where the client is, and what it dials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) port: u16,
    pub(crate) ipv6: bool,
    pub(crate) node: Place,
    pub(crate) zone: Place,
}

impl Rules {
    pub(super) fn of(service: &Service) -> Self {
        // The distribution is a preference among all endpoints, and means nothing where only the node's count.
        let nearness = match (service.internal_traffic_policy, service.traffic_distribution) {
            (InternalTrafficPolicy::Local, _) => Nearness::Local,
            (InternalTrafficPolicy::Cluster, TrafficDistribution::Any) => Nearness::Indifferent,
            (InternalTrafficPolicy::Cluster, TrafficDistribution::PreferSameZone) => Nearness::Zone,
            (InternalTrafficPolicy::Cluster, TrafficDistribution::PreferSameNode) => Nearness::Node,
        };
        Self { nearness, publish_not_ready: service.publish_not_ready_addresses }
    }

    /// `None` when the endpoint may not be used.
    pub(super) fn usable(self, endpoint: &Endpoint) -> Option<Usable> {
        if !endpoint.is_reachable {
            return None;
        }
        match endpoint.condition {
            _ if self.publish_not_ready => Some(Usable::Ready),
            EndpointCondition::Ready => Some(Usable::Ready),
            EndpointCondition::Terminating => Some(Usable::Terminating),
            EndpointCondition::NotReady => None,
        }
    }

    /// How ready endpoints are arranged where there are many.
    pub(super) fn grouping(self) -> Grouping {
        match self.nearness {
            Nearness::Indifferent => Grouping::None,
            Nearness::Zone => Grouping::Zone,
            Nearness::Node | Nearness::Local => Grouping::Node,
        }
    }

    /// How terminating ones are: a preference does not reach to them, a condition does.
    pub(super) fn terminating_grouping(self) -> Grouping {
        if self.nearness == Nearness::Local { Grouping::Node } else { Grouping::None }
    }
}

/// Why there is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCandidate {
    /// The service has no such port.
    NoSuchPort,
    /// No endpoint is usable.
    Nobody,
    /// Some are, on other nodes.
    NotLocal,
    /// Some are, by addresses of the other family.
    OtherFamily,
}

/// The endpoints to choose from. There is at least one.
#[derive(Debug)]
pub(crate) enum Candidates<'a> {
    /// Those of a few whose bits are set.
    Few { endpoints: &'a [Endpoint], chosen: u32 },
    /// A part of many.
    Many { roster: &'a Roster, range: Range<usize> },
}

impl<'a> Candidates<'a> {
    /// The one whose turn it is.
    pub(crate) fn at_turn(&self, turn: u32) -> &'a Endpoint {
        match self {
            Self::Few { endpoints, chosen } => {
                let mut left = *chosen;
                for _ in 0..turn % chosen.count_ones() {
                    left &= left - 1;
                }
                &endpoints[left.trailing_zeros() as usize]
            }
            Self::Many { roster, range } => {
                let position = range.start + turn as usize % range.len();
                roster.get(position).expect("the range lies in the roster, and is not empty")
            }
        }
    }

    /// Whether this endpoint is one of them.
    pub(crate) fn contains(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Few { endpoints, chosen } => {
                endpoints.iter().enumerate().any(|(bit, other)| chosen >> bit & 1 == 1 && other.is(endpoint))
            }
            Self::Many { roster, range } => roster.position(endpoint).is_some_and(|position| range.contains(&position)),
        }
    }
}
