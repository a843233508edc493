//! The one owner of the mesh's state: applies what sources report, keeps capture's maps in step, publishes snapshots.
//!
//! The order matters. An address is taken off the list of those outside before the snapshot is published in which it
//! is in the mesh, and put on it only after the snapshot in which it is not: at no moment does the kernel let a
//! connection pass in clear that the published state would carry.
//!
//! On demand an address is outside only for as long as it is wanted and was answered: who has stopped to ask for it would
//! not hear that it joins the mesh. What the mesh's ranges are is not known then: every address may be in it.

mod task;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::mpsc;
use weft_control::discovery::{Discovery, Wanted};
use weft_model::{Change, Snapshot, SnapshotCell, Store, WaypointTarget};

use crate::capture::{Capture, CaptureError};
use crate::proxy::demand::Demand;
use crate::proxy::{LearnOutside, Proxy, Shared};
use crate::wanted::{OwnWorkloads, WantedAddresses};

pub use self::task::{Inputs, run, watch_use};

/// Addresses that workers may report before the owner has looked at them; more are dropped and reported again.
const LEARNED_QUEUE: usize = 1024;
/// Addresses outside that are remembered, so that capture need not be told of every address that joins the mesh.
const REMEMBERED_OUTSIDE: usize = 65_536;

/// The worker's end of the way by which addresses outside the mesh are learned.
#[derive(Debug)]
pub struct Learned(mpsc::Sender<IpAddr>);

impl Learned {
    /// A new way and its receiving end.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<IpAddr>) {
        let (sender, receiver) = mpsc::channel(LEARNED_QUEUE);
        (Self(sender), receiver)
    }
}

impl LearnOutside for Learned {
    fn outside(&self, address: IpAddr) {
        // A full queue costs that address one more look-up.
        let _ = self.0.try_send(address);
    }
}

/// The owner of the state.
pub struct Publisher {
    store: Store,
    cell: Arc<SnapshotCell>,
    capture: Arc<Capture>,
    shared: Arc<Shared>,
    proxy: Arc<Proxy>,
    ranges: HashMap<IpNet, usize>,
    outside: Outside,
    /// The tenure of the duty to keep capture in step; `None` while another agent has it.
    tenure: Option<u64>,
    on_demand: Option<OnDemand>,
}

/// What it takes to ask for what is needed only once it is.
struct OnDemand {
    discovery: Discovery,
    demand: Arc<Demand>,
    wanted: WantedAddresses,
    own: OwnWorkloads,
    /// The waypoints that known services and workloads name.
    waypoints: HashSet<WaypointTarget>,
}

/// What capture was told to be outside. It starts with nothing.
#[derive(Default)]
struct Outside {
    addresses: HashSet<IpAddr>,
    /// There were too many to remember: any address may be among them.
    is_forgetful: bool,
}

impl Outside {
    fn note(&mut self, address: IpAddr) {
        if self.addresses.len() >= REMEMBERED_OUTSIDE {
            self.addresses = HashSet::new();
            self.is_forgetful = true;
        }
        if !self.is_forgetful {
            self.addresses.insert(address);
        }
    }

    /// Whether capture may have been told that `address` is outside; from now on it has not.
    fn take(&mut self, address: IpAddr) -> bool {
        self.is_forgetful || self.addresses.remove(&address)
    }
}

impl Publisher {
    /// Publishes `store`'s changes in `cell`.
    #[must_use]
    pub fn new(
        store: Store,
        cell: Arc<SnapshotCell>,
        capture: Arc<Capture>,
        shared: Arc<Shared>,
        proxy: Arc<Proxy>,
    ) -> Self {
        Self {
            store,
            cell,
            capture,
            shared,
            proxy,
            ranges: HashMap::new(),
            outside: Outside::default(),
            tenure: Some(1),
            on_demand: None,
        }
    }

    /// Notes whether this agent keeps capture in step. One that does again begins anew: another one has changed it since.
    pub fn act(&mut self, tenure: Option<u64>) {
        if self.tenure == tenure {
            return;
        }
        self.tenure = tenure;
        if tenure.is_some() {
            self.outside = Outside::default();
            report("forgetting what is outside", self.capture.widen());
            self.set_ranges();
        }
    }

    /// On demand they are never narrowed.
    fn set_ranges(&self) {
        if self.on_demand.is_none() && self.tenure.is_some() {
            let ranges: Vec<IpNet> = self.ranges.keys().copied().collect();
            report("setting the ranges of the mesh", self.capture.set_ranges(&ranges));
        }
    }

    /// Takes an address off the list of those outside, if it may be there.
    fn take_inside(&mut self, address: IpAddr) {
        if self.outside.take(address) && self.tenure.is_some() {
            report("taking an address off the outside list", self.capture.remove_outside(address));
        }
    }

    /// What is not known is asked for.
    #[must_use]
    pub fn on_demand(self, discovery: Discovery, demand: Arc<Demand>) -> Self {
        let (wanted, own) = (WantedAddresses::default(), OwnWorkloads::default());
        let waypoints = HashSet::new();
        Self { on_demand: Some(OnDemand { discovery, demand, wanted, own, waypoints }), ..self }
    }

    /// Applies one batch and makes it the state in force.
    pub fn apply(&mut self, changes: Vec<Change>) -> Arc<Snapshot> {
        let known = self.store.snapshot().clone();
        if known.generation() == 0 {
            self.shared.announced.note_all(Instant::now());
        } else {
            let joining = changes.iter().filter_map(|change| match change {
                Change::PutWorkload(workload) if workload.is_hbone() => {
                    let was_hbone = known.workload(&workload.uid).is_some_and(|known| known.is_hbone());
                    (!was_hbone).then(|| workload.uid.clone())
                }
                _ => None,
            });
            self.shared.announced.note(joining, Instant::now());
        }
        let may_move_waypoints =
            self.on_demand.is_some() && changes.iter().any(|change| concerns_waypoints(change, &known));
        let applied = self.store.apply(changes);
        let snapshot = applied.snapshot;
        let mut ranges_moved = false;
        let mut left = Vec::new();
        let mut lost = Vec::new();
        for address in applied.touched {
            let was_mesh = known.is_mesh(address);
            if self.is_lost(address, &snapshot) {
                lost.push(address);
            } else if snapshot.is_mesh(address) {
                self.take_inside(address);
                if !was_mesh {
                    let count = self.ranges.entry(range_of(address)).or_default();
                    *count += 1;
                    ranges_moved |= *count == 1;
                }
            } else {
                let range = range_of(address);
                if let Some(count) = self.ranges.get_mut(&range).filter(|_| was_mesh) {
                    *count -= 1;
                    if *count == 0 {
                        self.ranges.remove(&range);
                        ranges_moved = true;
                    }
                }
                left.push(address);
            }
        }
        if ranges_moved {
            self.set_ranges();
        }
        self.cell.publish(snapshot.clone());
        self.proxy.wake();
        for address in left {
            self.note_outside(address);
        }
        if let Some(on_demand) = &self.on_demand {
            for address in lost {
                on_demand.discovery.release(&Wanted::Address(address));
                on_demand.discovery.want(address);
            }
        }
        if may_move_waypoints {
            self.want_waypoints(&snapshot);
        }
        snapshot
    }

    /// The waypoints that known services and workloads name are wanted for as long as any does.
    fn want_waypoints(&mut self, snapshot: &Snapshot) {
        let Some(on_demand) = &mut self.on_demand else { return };
        let of_services = snapshot.services().filter_map(|service| service.waypoint.as_ref());
        let of_workloads = snapshot.workloads().flat_map(|workload| {
            let of_memberships = workload.services.iter().filter_map(|membership| membership.waypoint.as_ref());
            of_memberships.chain(&workload.waypoint)
        });
        let named: HashSet<_> = of_services.chain(of_workloads).map(|waypoint| waypoint.target.clone()).collect();
        for target in on_demand.waypoints.difference(&named) {
            // One by address is let go of like any other address that nobody talks to.
            if let WaypointTarget::Service(key) = target {
                on_demand.discovery.release(&Wanted::Name(key.clone()));
            }
        }
        let mut addresses = Vec::new();
        for target in named.difference(&on_demand.waypoints) {
            match target {
                WaypointTarget::Service(key) if !on_demand.discovery.want_named(key) => {
                    tracing::error!(waypoint = %key, "too much is asked for: connections through it will be refused");
                }
                WaypointTarget::Service(_) => {}
                WaypointTarget::Address(address) => addresses.push(*address),
            }
        }
        on_demand.waypoints = named;
        self.asked(&addresses);
    }

    /// On demand: nothing has an address any more that something had. Whether it is outside the mesh is asked anew, so
    /// that an answer which crossed a question is never taken for that; until then its connections wait.
    fn is_lost(&mut self, address: IpAddr, next: &Snapshot) -> bool {
        let Some(on_demand) = &mut self.on_demand else { return false };
        if is_known(next, address) || !on_demand.wanted.set_answered(address, false) {
            return false;
        }
        on_demand.demand.withdraw(address);
        self.take_inside(address);
        true
    }

    /// These pods of this node are enrolled: what the mesh says of them is wanted.
    pub fn own_pods(&mut self, uids: HashSet<Arc<str>>) {
        let Some(on_demand) = &mut self.on_demand else { return };
        for uid in on_demand.own.replace(uids, Instant::now()) {
            if !on_demand.discovery.want_named(&uid) {
                tracing::error!(pod = %uid, "too much is asked for: connections to this pod will be refused");
            }
        }
    }

    /// Connections wait for what these addresses are.
    pub fn asked(&mut self, addresses: &[IpAddr]) {
        let now = Instant::now();
        for address in addresses {
            let Some(on_demand) = &mut self.on_demand else { return };
            if on_demand.wanted.is_full() {
                let snapshot = self.store.snapshot();
                for old in on_demand.wanted.make_room(|address| is_known(snapshot, address)) {
                    self.release(old);
                }
            }
            let Some(on_demand) = &mut self.on_demand else { return };
            // Without room its connections are refused when their time has come, and ask again.
            if !on_demand.wanted.is_full()
                && on_demand.wanted.insert(*address, now)
                && !on_demand.discovery.want(*address)
            {
                on_demand.wanted.remove(*address);
            }
        }
    }

    /// These were wanted, and all that there is about them has been applied.
    pub fn answered(&mut self, answers: Vec<Wanted>) {
        let Some(on_demand) = &mut self.on_demand else { return };
        let mut addresses = Vec::with_capacity(answers.len());
        for wanted in answers {
            if let Wanted::Address(address) = wanted
                && on_demand.wanted.set_answered(address, true)
            {
                addresses.push(address);
            }
        }
        on_demand.demand.answer(&addresses);
        self.proxy.wake();
        for address in addresses {
            if !self.store.snapshot().is_mesh(address) {
                self.note_outside(address);
            }
        }
    }

    /// There are connections to these; what has had none for long is forgotten.
    pub fn used(&mut self, addresses: &HashSet<IpAddr>) {
        let now = Instant::now();
        let Some(on_demand) = &mut self.on_demand else { return };
        for uid in on_demand.own.take_gone(now) {
            on_demand.discovery.release(&Wanted::Name(uid));
        }
        on_demand.wanted.touch(addresses, now);
        let of_waypoints = on_demand.waypoints.iter().filter_map(|target| match target {
            WaypointTarget::Address(address) => Some(address),
            WaypointTarget::Service(_) => None,
        });
        on_demand.wanted.touch(of_waypoints, now);
        let (is_connected, snapshot) = (on_demand.discovery.status().is_connected, self.store.snapshot());
        for address in on_demand.wanted.idle(is_connected, |address| is_known(snapshot, address), now) {
            self.release(address);
        }
    }

    /// Forgets an address: the next connection to it asks again, since nobody would tell any more what becomes of it.
    fn release(&mut self, address: IpAddr) {
        self.take_inside(address);
        let Some(on_demand) = &mut self.on_demand else { return };
        on_demand.demand.withdraw(address);
        on_demand.wanted.remove(address);
        on_demand.discovery.release(&Wanted::Address(address));
    }

    /// A worker found that no workload and no service has `address`. That was so in the snapshot of its time.
    pub fn learned(&mut self, address: IpAddr) {
        if !self.store.snapshot().is_mesh(address) {
            if let Some(on_demand) = &mut self.on_demand {
                on_demand.wanted.touch([&address], Instant::now());
            }
            self.note_outside(address);
        }
    }

    fn note_outside(&mut self, address: IpAddr) {
        let is_to_be_said = match &self.on_demand {
            Some(on_demand) => on_demand.wanted.is_answered(address),
            // Outside the ranges nothing needs to be said.
            None => self.ranges.contains_key(&range_of(address)),
        };
        if is_to_be_said && self.tenure.is_some() {
            self.outside.note(address);
            report("noting an address as outside", self.capture.put_outside(address));
        }
    }
}

/// Whether a change may be one of who names which waypoint.
fn concerns_waypoints(change: &Change, known: &Snapshot) -> bool {
    let of_workload = |workload: &weft_model::Workload| {
        workload.waypoint.is_some() || workload.services.iter().any(|membership| membership.waypoint.is_some())
    };
    let known_workload = |uid: &str| known.workload(uid).is_some_and(|workload| of_workload(workload));
    let known_service = |key: &str| known.service(key).is_some_and(|service| service.waypoint.is_some());
    match change {
        Change::PutWorkload(workload) => of_workload(workload) || known_workload(&workload.uid),
        Change::RemoveWorkload(uid) => known_workload(uid),
        Change::PutService(service) => service.waypoint.is_some() || known_service(&service.key),
        Change::RemoveService(key) => known_service(key),
        Change::PutPolicy(_) | Change::RemovePolicy(_) => false,
    }
}

/// Whether a service or a workload has an address.
fn is_known(snapshot: &Snapshot, address: IpAddr) -> bool {
    snapshot.service_by_address(address).is_some() || snapshot.workload_by_address(address).is_some()
}

/// The range that stands for an address: files do not say what the cluster's ranges are, so that those of the known
/// addresses' neighbourhoods are taken.
fn range_of(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(address) => {
            let net = Ipv4Addr::from_bits(address.to_bits() & 0xffff_ff00);
            IpNet::V4(Ipv4Net::new_assert(net, 24))
        }
        IpAddr::V6(address) => {
            let net = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX));
            IpNet::V6(Ipv6Net::new_assert(net, 64))
        }
    }
}

fn report(what: &str, result: Result<(), CaptureError>) {
    if let Err(error) = result {
        tracing::error!(%error, "{what} failed: capture is not in step with the configuration");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_in_the_range_of_its_neighbourhood() {
        let cases = [("10.1.2.3", "10.1.2.0/24"), ("fd00:1:2:3:4:5:6:7", "fd00:1:2:3::/64")];
        for (address, range) in cases {
            let address: IpAddr = address.parse().expect("a literal address");
            let range: IpNet = range.parse().expect("a literal range");
            assert_eq!(range_of(address), range);
        }
    }
}
