//! The one owner of the mesh's state: applies what sources report, keeps capture's maps in step, publishes snapshots.
//!
//! The order matters. An address is taken off the list of those outside before the snapshot is published in which it
//! is in the mesh, and put on it only after the snapshot in which it is not: at no moment does the kernel let a
//! connection pass in clear that the published state would carry.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::mpsc;
use weft_model::{Change, Snapshot, SnapshotCell, Store};

use crate::capture::Capture;
use crate::proxy::{LearnOutside, Proxy, Shared};

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
        Self { store, cell, capture, shared, proxy, ranges: HashMap::new(), outside: Outside::default() }
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
        let applied = self.store.apply(changes);
        let snapshot = applied.snapshot;
        let mut ranges_moved = false;
        let mut left = Vec::new();
        for address in applied.touched {
            let was_mesh = known.is_mesh(address);
            if snapshot.is_mesh(address) {
                if self.outside.take(address) {
                    report("taking an address off the outside list", self.capture.remove_outside(address));
                }
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
            let ranges: Vec<IpNet> = self.ranges.keys().copied().collect();
            report("setting the ranges of the mesh", self.capture.set_ranges(&ranges));
        }
        self.cell.publish(snapshot.clone());
        self.proxy.wake();
        for address in left {
            self.note_outside(address);
        }
        snapshot
    }

    /// A worker found that no workload and no service has `address`. That was so in the snapshot of its time.
    pub fn learned(&mut self, address: IpAddr) {
        if !self.store.snapshot().is_mesh(address) {
            self.note_outside(address);
        }
    }

    fn note_outside(&mut self, address: IpAddr) {
        // Outside the ranges nothing needs to be said.
        if self.ranges.contains_key(&range_of(address)) {
            self.outside.note(address);
            report("noting an address as outside", self.capture.put_outside(address));
        }
    }
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

fn report(what: &str, result: Result<(), crate::capture::CaptureError>) {
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
