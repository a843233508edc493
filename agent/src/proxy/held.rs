//! Accepted connections that wait until it is known what they are about: on the way out, what their destination is; on
//! the way in, which policies hold for the pod. Or until the pod has a certificate.
//!
//! Nothing is read from them, so that the kernel holds their clients back. They are looked at again when something was
//! published, and are refused when nothing was in time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use weft_model::Snapshot;
use weft_transport::Certificates;

use super::demand::Demand;
use super::pod::Pod;
use super::record::{Failure, Record};
use super::table::{Key, Table};
use super::timers::Timer;
use super::worker::{Accepted, Kind, Port, Worker};
use super::{Connection, ConnectionState};

/// How long a connection may wait.
const HOLD_TIME: Duration = Duration::from_secs(5);
/// How many may wait on one worker.
const MAX_HELD: usize = 8192;
/// Those of one pod: one that calls everywhere must not shut out the others.
const MAX_HELD_OF_A_POD: usize = 1024;

/// One connection that waits.
#[derive(Debug)]
pub(super) struct Held {
    accepted: Accepted,
    pod: Arc<Pod>,
    port: Port,
    /// What the client dialled.
    destination: SocketAddr,
    lacks: Lacks,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacks {
    /// The control plane's word.
    Word,
    /// A valid certificate of the pod.
    Certificate,
}

impl Held {
    /// Whether looking again leads to something else than waiting.
    fn is_settled(&self, snapshot: &Snapshot, demand: Option<&Demand>, certificates: &Certificates) -> bool {
        if self.lacks == Lacks::Certificate {
            return certificates.current(&self.pod.identity).is_some();
        }
        match self.port {
            Port::Outbound => {
                let address = self.destination.ip();
                let is_known =
                    snapshot.service_by_address(address).is_some() || snapshot.workload_by_address(address).is_some();
                match is_known {
                    true => !snapshot.awaits_waypoint(self.destination),
                    false => demand.is_none_or(|demand| demand.is_answered(address)),
                }
            }
            Port::Inbound | Port::Hbone => snapshot.workload(&self.pod.uid).is_some(),
        }
    }

    fn record(&self, snapshot: &Snapshot) -> Record {
        let own = snapshot.workload(&self.pod.uid).unwrap_or(&self.pod.workload).clone();
        let Accepted { client, since, .. } = self.accepted;
        if self.port == Port::Outbound {
            let mut record = Record::outbound(client, since);
            (record.destination_address, record.source) = (self.destination, Some(own));
            return record;
        }
        let mut record = Record::inbound(client, self.destination, None, since);
        record.destination = Some(own);
        if self.port == Port::Hbone {
            record.set_tunnel(client);
        }
        record
    }

    fn why_in_vain(&self) -> Failure {
        let seconds = HOLD_TIME.as_secs();
        Failure::unreachable(match self.port {
            _ if self.lacks == Lacks::Certificate => {
                let identity = &self.pod.identity;
                return Failure::no_certificate(format!(
                    "there is no valid certificate for {identity}, and none came within {seconds} s: see `weft certificates`"
                ));
            }
            Port::Outbound => {
                let address = self.destination.ip();
                format!(
                    "the control plane did not say within {seconds} s what {address}, or the waypoint on the way there, is: \
                     see `weft status`"
                )
            }
            Port::Inbound | Port::Hbone => format!(
                "the control plane did not say within {seconds} s which policies hold for {}: see `weft status`",
                self.pod.uid
            ),
        })
    }

    /// Whether an address is asked for on its behalf.
    fn asks(&self) -> bool {
        self.port == Port::Outbound && self.lacks == Lacks::Word
    }
}

/// The connections of one worker that wait.
#[derive(Debug, Default)]
pub(super) struct HeldConnections {
    /// A place that was emptied is freed at the end of the turn.
    table: Table<Option<Held>>,
    emptied: Vec<Key>,
    by_pod: HashMap<Arc<str>, usize>,
    /// How many wait for each address: it is asked for once.
    by_address: HashMap<IpAddr, usize>,
    total: usize,
    /// The generations of answers and of the snapshot that they were looked at with.
    seen: (u64, u64, u64),
}

impl HeldConnections {
    pub(super) fn len(&self) -> usize {
        self.total
    }

    fn has_room(&self, pod: &Pod) -> bool {
        let of_the_pod = self.by_pod.get(&pod.uid).copied().unwrap_or_default();
        self.total < MAX_HELD && of_the_pod < MAX_HELD_OF_A_POD
    }

    fn insert(&mut self, held: Held) -> Key {
        self.total += 1;
        *self.by_pod.entry(held.pod.uid.clone()).or_default() += 1;
        if held.asks() {
            *self.by_address.entry(held.destination.ip()).or_default() += 1;
        }
        self.table.insert(Some(held))
    }

    fn take(&mut self, key: Key) -> Option<Held> {
        let held = self.table.get_mut(key)?.take()?;
        self.emptied.push(key);
        self.total -= 1;
        uncount(&mut self.by_pod, &held.pod.uid);
        if held.asks() {
            uncount(&mut self.by_address, &held.destination.ip());
        }
        Some(held)
    }

    fn keys_where(&self, mut wanted: impl FnMut(&Held) -> bool) -> Vec<Key> {
        self.table.keys_where(|held| held.as_ref().is_some_and(&mut wanted))
    }

    pub(super) fn key_at(&self, index: usize) -> Option<Key> {
        self.table.key_at(index)
    }

    /// Frees the places that were emptied in this turn.
    pub(super) fn free(&mut self) {
        for key in self.emptied.drain(..) {
            self.table.remove(key);
        }
    }
}

fn uncount<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Worker {
    /// Has a connection wait for what is not known yet. Without discovery on demand there is nothing to wait for.
    pub(super) fn hold(&mut self, pod: &Arc<Pod>, port: Port, accepted: Accepted, destination: SocketAddr) {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        let held = Held { accepted, pod: pod.clone(), port, destination, lacks: Lacks::Word };
        let Some(demand) = self.shared.demand.clone() else {
            return self.refuse_held(held, Failure::ours("there is no control plane to ask".to_owned()));
        };
        if !self.held.has_room(pod) {
            let reason = "too many connections wait for the control plane: see `weft status`";
            return self.refuse_held(held, Failure::ours(reason.to_owned()));
        }
        let is_asked = port != Port::Outbound || self.held.by_address.contains_key(&destination.ip());
        if !is_asked && !demand.ask(destination.ip()) {
            let reason = "too many unknown addresses are dialled at once: the control plane is not asked for more";
            return self.refuse_held(held, Failure::ours(reason.to_owned()));
        }
        demand.began_to_hold();
        self.keep_held(held);
    }

    /// Has a connection wait for the certificate of its pod.
    pub(super) fn hold_for_certificate(
        &mut self,
        pod: &Arc<Pod>,
        port: Port,
        accepted: Accepted,
        destination: SocketAddr,
    ) {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        let held = Held { accepted, pod: pod.clone(), port, destination, lacks: Lacks::Certificate };
        if self.held.has_room(pod) {
            return self.keep_held(held);
        }
        let reason =
            format!("too many connections wait for a certificate for {}: see `weft certificates`", pod.identity);
        self.refuse_held(held, Failure::no_certificate(reason));
    }

    fn keep_held(&mut self, held: Held) {
        let (fd, until) = (held.accepted.socket.as_raw_fd(), held.accepted.since + HOLD_TIME);
        let key = self.held.insert(held);
        self.timers.set(until, Timer::Held(key));
        if let Err(error) = self.register(fd, Kind::Held, key) {
            self.end_held(key, |_| Failure::ours(format!("watching the socket failed: {error}")));
        }
    }

    /// Goes on with those connections of which something is known now.
    pub(super) fn look_at_held(&mut self) {
        if self.held.len() == 0 {
            return;
        }
        let demand = self.shared.demand.clone();
        // Read before anything else: what is said from here on is looked at in the next turn.
        let generation = demand.as_ref().map_or(0, |demand| demand.generation());
        let certificates = self.shared.certificates.clone();
        let issued = certificates.generation();
        let snapshot = self.snapshots.load().clone();
        let seen = (generation, snapshot.generation(), issued);
        if std::mem::replace(&mut self.held.seen, seen) == seen {
            return;
        }
        for key in self.held.keys_where(|held| held.is_settled(&snapshot, demand.as_deref(), &certificates)) {
            let Some(Held { accepted, pod, port, .. }) = self.take_held(key) else { continue };
            match port {
                Port::Outbound => self.accept_outbound(&pod, accepted),
                Port::Inbound => self.accept_inbound(&pod, accepted),
                Port::Hbone => self.accept_tunnel(&pod, accepted),
            }
        }
    }

    /// Its client has reset it. That a client has no more to say is no reason not to answer it.
    pub(super) fn on_held_event(&mut self, key: Key, event: &mio::event::Event) {
        if event.is_error() || event.is_write_closed() {
            self.end_held(key, |_| Failure::reset("the client reset the connection".to_owned()));
        }
    }

    /// It has waited long enough.
    pub(super) fn on_held_timer(&mut self, key: Key) {
        self.end_held(key, Held::why_in_vain);
    }

    /// Ends those of a pod that is gone, or all.
    pub(super) fn end_all_held(&mut self, failure: &Failure, mut wanted: impl FnMut(&Arc<Pod>) -> bool) {
        for key in self.held.keys_where(|held| wanted(&held.pod)) {
            self.end_held(key, |_| failure.clone());
        }
    }

    /// Those that wait, for the operator.
    pub(super) fn held_connections(&mut self) -> Vec<Connection> {
        let snapshot = self.snapshots.load().clone();
        let describe = |held: &Held| {
            let age = self.now.saturating_duration_since(held.accepted.since);
            held.record(&snapshot).describe(ConnectionState::Connecting, 0, 0, age)
        };
        self.held.table.iter().filter_map(|(_, held)| held.as_ref()).map(describe).collect()
    }

    fn end_held(&mut self, key: Key, failure: impl FnOnce(&Held) -> Failure) {
        if let Some(held) = self.take_held(key) {
            let failure = failure(&held);
            self.refuse_held(held, failure);
        }
    }

    fn take_held(&mut self, key: Key) -> Option<Held> {
        let held = self.held.take(key)?;
        self.unregister(held.accepted.socket.as_raw_fd());
        if let Some(demand) = self.shared.demand.as_ref().filter(|_| held.lacks == Lacks::Word) {
            demand.ended_to_hold();
        }
        Some(held)
    }

    fn refuse_held(&mut self, held: Held, failure: Failure) {
        let record = held.record(&self.snapshots.load().clone());
        self.refuse(held.accepted.socket, record, failure);
    }
}
