//! Selection among many endpoints, arranged beforehand so that it costs the same for a hundred as for a hundred
//! thousand.

use super::roster::{Grouping, Roster};
use super::selection::{Call, Candidates, Nearness, Rules, Usable};
use super::{Endpoint, Place, UNKNOWN_PLACE};

/// The usable endpoints of a service by port and family.
#[derive(Clone, Debug)]
pub(super) struct Arranged {
    rules: Rules,
    /// Sorted by port.
    ports: Vec<PortEndpoints>,
}

#[derive(Clone, Debug)]
struct PortEndpoints {
    port: u16,
    /// IPv4 first.
    families: [FamilyEndpoints; 2],
}

#[derive(Clone, Debug)]
struct FamilyEndpoints {
    ready: Roster,
    /// The same ones by zone, where both node and zone matter.
    ready_by_zone: Roster,
    terminating: Roster,
}

/// Whether an endpoint comes or goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    Add,
    Remove,
}

impl Edit {
    fn apply(self, roster: &mut Roster, endpoint: &Endpoint) {
        match self {
            Self::Add => roster.insert(endpoint.clone()),
            Self::Remove => roster.remove(endpoint),
        }
    }
}

impl Arranged {
    pub(super) fn new<'e>(rules: Rules, endpoints: impl Iterator<Item = &'e Endpoint>) -> Self {
        let mut arranged = Self { rules, ports: Vec::new() };
        for endpoint in endpoints {
            arranged.edit(Edit::Add, endpoint);
        }
        arranged
    }

    pub(super) fn edit(&mut self, edit: Edit, endpoint: &Endpoint) {
        let rules = self.rules;
        let Some(usable) = rules.usable(endpoint) else {
            return;
        };
        for mapping in endpoint.ports() {
            let port = self.port_mut(mapping.service_port);
            for ipv6 in [false, true] {
                if !endpoint.has_family(ipv6) {
                    continue;
                }
                let family = &mut port.families[usize::from(ipv6)];
                match usable {
                    Usable::Ready => edit.apply(&mut family.ready, endpoint),
                    Usable::Terminating => edit.apply(&mut family.terminating, endpoint),
                }
                if usable == Usable::Ready && rules.nearness == Nearness::Node {
                    edit.apply(&mut family.ready_by_zone, endpoint);
                }
            }
        }
    }

    pub(super) fn seal(&mut self) {
        let is_used = |family: &FamilyEndpoints| !family.ready.is_empty() || !family.terminating.is_empty();
        self.ports.retain(|port| port.families.iter().any(is_used));
        for family in self.ports.iter_mut().flat_map(|port| &mut port.families) {
            family.ready.seal();
            family.ready_by_zone.seal();
            family.terminating.seal();
        }
    }

    pub(super) fn select(&self, call: Call) -> Option<Candidates<'_>> {
        let index = self.ports.binary_search_by_key(&call.port, |entry| entry.port).ok()?;
        let FamilyEndpoints { ready, ready_by_zone, terminating } = &self.ports[index].families[usize::from(call.ipv6)];
        match self.rules.nearness {
            Nearness::Local => group(ready, call.node).or_else(|| group(terminating, call.node)),
            _ if ready.is_empty() => whole(terminating),
            Nearness::Indifferent => whole(ready),
            Nearness::Zone => preferred(ready, call.zone).or_else(|| whole(ready)),
            Nearness::Node => {
                preferred(ready, call.node).or_else(|| preferred(ready_by_zone, call.zone)).or_else(|| whole(ready))
            }
        }
    }

    fn port_mut(&mut self, port: u16) -> &mut PortEndpoints {
        let index = match self.ports.binary_search_by_key(&port, |entry| entry.port) {
            Ok(index) => index,
            Err(index) => {
                let family = || FamilyEndpoints {
                    ready: Roster::new(self.rules.grouping()),
                    ready_by_zone: Roster::new(Grouping::Zone),
                    terminating: Roster::new(self.rules.terminating_grouping()),
                };
                let families = [family(), family()];
                self.ports.insert(index, PortEndpoints { port, families });
                index
            }
        };
        &mut self.ports[index]
    }
}

fn whole(roster: &Roster) -> Option<Candidates<'_>> {
    let range = 0..roster.len();
    (!range.is_empty()).then_some(Candidates::Many { roster, range })
}

fn group(roster: &Roster, place: Place) -> Option<Candidates<'_>> {
    if place == UNKNOWN_PLACE {
        return None;
    }
    let range = roster.group(place);
    (!range.is_empty()).then_some(Candidates::Many { roster, range })
}

/// A preference is dropped as a whole when it cannot be judged for some ready endpoint: what is left would get all
/// the traffic.
fn preferred(roster: &Roster, place: Place) -> Option<Candidates<'_>> {
    if roster.group(UNKNOWN_PLACE).is_empty() { group(roster, place) } else { None }
}
