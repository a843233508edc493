//! The addresses that are asked for on demand: which were answered, and which have not been used for long.
//!
//! Without I/O: [`crate::publish`] acts on what this says.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Addresses that are wanted at one time. Capture remembers as many that are outside.
pub const MAX_WANTED: usize = 16_384;
/// So many are forgotten at once to make room: finding out which costs a look at all.
const MADE_ROOM: usize = MAX_WANTED / 16;
/// What nobody has talked to for so long is asked for no more.
const IDLE: Duration = Duration::from_secs(600);
/// So many that are outside the mesh are remembered however long ago they were talked to: they cost little, and connections to
/// them go on while nobody is there to answer.
const KEPT_OUTSIDE: usize = 4096;
/// How long a pod that has left is still asked for: longer than its listeners stay.
const LEFT: Duration = Duration::from_secs(30);
/// How long what was not answered is asked for, with nobody there to answer.
const UNANSWERED: Duration = Duration::from_secs(60);

/// All addresses that are wanted.
#[derive(Debug, Default)]
pub struct WantedAddresses {
    entries: HashMap<IpAddr, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    is_answered: bool,
    /// When it was wanted, or a connection to it was seen, last.
    used: Instant,
}

impl WantedAddresses {
    /// Notes that an address is wanted. `false`: it was before.
    pub fn insert(&mut self, address: IpAddr, now: Instant) -> bool {
        let before = self.entries.len();
        self.entries.entry(address).or_insert(Entry { is_answered: false, used: now }).used = now;
        self.entries.len() > before
    }

    /// Whether one more has no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_WANTED
    }

    /// Whether it was answered what has this address, and what comes to have it would be told.
    #[must_use]
    pub fn is_answered(&self, address: IpAddr) -> bool {
        self.entries.get(&address).is_some_and(|entry| entry.is_answered)
    }

    /// Notes an answer, or that there is none any more. `false`: that is no news.
    pub fn set_answered(&mut self, address: IpAddr, is_answered: bool) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        std::mem::replace(&mut entry.is_answered, is_answered) != is_answered
    }

    /// Notes that there are connections to these.
    pub fn touch<'a>(&mut self, used: impl IntoIterator<Item = &'a IpAddr>, now: Instant) {
        for address in used {
            if let Some(entry) = self.entries.get_mut(address) {
                entry.used = now;
            }
        }
    }

    /// Forgets an address.
    pub fn remove(&mut self, address: IpAddr) {
        self.entries.remove(&address);
    }

    /// Those to be forgotten so that there is room: first what is outside the mesh, as `is_known` says, and of that what
    /// was not used for longest. What was not answered stays: connections wait for it.
    pub fn make_room(&self, is_known: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let answered = self.entries.iter().filter(|(_, entry)| entry.is_answered);
        let mut candidates: Vec<_> =
            answered.map(|(address, entry)| (is_known(*address), entry.used, *address)).collect();
        let count = MADE_ROOM.min(candidates.len());
        if count > 0 && count < candidates.len() {
            candidates.select_nth_unstable(count - 1);
        }
        candidates.truncate(count);
        candidates.into_iter().map(|(_, _, address)| address).collect()
    }

    /// Those that nobody has talked to for long, but for some of those outside the mesh, as `is_known` says. While nobody is
    /// there to answer, what was answered stays, and what was not goes sooner.
    pub fn idle(&self, is_connected: bool, is_known: impl Fn(IpAddr) -> bool, now: Instant) -> Vec<IpAddr> {
        let unused = |entry: &Entry| now.saturating_duration_since(entry.used);
        if !is_connected {
            let is_idle = |entry: &Entry| !entry.is_answered && unused(entry) >= UNANSWERED;
            return self.entries.iter().filter(|(_, entry)| is_idle(entry)).map(|(address, _)| *address).collect();
        }
        let mut idle = Vec::new();
        let (mut outside, mut idle_outside) = (0, Vec::new());
        for (address, entry) in &self.entries {
            let is_outside = entry.is_answered && !is_known(*address);
            outside += usize::from(is_outside);
            match (unused(entry) >= IDLE, is_outside) {
                (true, true) => idle_outside.push((entry.used, *address)),
                (true, false) => idle.push(*address),
                (false, _) => {}
            }
        }
        idle_outside.sort_unstable();
        idle.extend(idle_outside.iter().take(outside.saturating_sub(KEPT_OUTSIDE)).map(|(_, address)| address));
        idle
    }
}

/// The workloads of this node's own pods, which are wanted by name for as long as the pods are enrolled, and a while
/// longer: peers that have not heard that a pod has left still come to it.
#[derive(Debug, Default)]
pub struct OwnWorkloads {
    present: HashSet<Arc<str>>,
    left: HashMap<Arc<str>, Instant>,
}

impl OwnWorkloads {
    /// Notes which there are. Returns those that were not wanted before.
    pub fn replace(&mut self, uids: HashSet<Arc<str>>, now: Instant) -> Vec<Arc<str>> {
        self.left.extend(self.present.difference(&uids).map(|uid| (uid.clone(), now)));
        let was_wanted = |uid: &Arc<str>| self.present.contains(uid) || self.left.contains_key(uid);
        let new = uids.iter().filter(|uid| !was_wanted(uid)).cloned().collect();
        self.left.retain(|uid, _| !uids.contains(uid));
        self.present = uids;
        new
    }

    /// Forgets those that left long enough ago, and returns them.
    pub fn take_gone(&mut self, now: Instant) -> Vec<Arc<str>> {
        let is_gone = |_: &Arc<str>, left: &mut Instant| now.saturating_duration_since(*left) >= LEFT;
        self.left.extract_if(is_gone).map(|(uid, _)| uid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + number as u32).into()
    }

    #[test]
    fn what_is_used_stays_and_what_is_idle_goes() {
        let start = Instant::now();
        let mut wanted = WantedAddresses::default();
        for number in 0..3 {
            assert!(wanted.insert(address(number), start));
        }
        assert!(!wanted.insert(address(0), start), "it is asked for once");
        assert!(wanted.set_answered(address(0), true) && wanted.set_answered(address(1), true));
        assert!(!wanted.set_answered(address(0), true) && !wanted.set_answered(address(9), true));
        let later = start + IDLE;
        wanted.touch(&[address(1)], later);
        let mut idle = wanted.idle(true, |_| true, later);
        idle.sort();
        assert_eq!(idle, [address(0), address(2)]);
        assert_eq!(wanted.idle(true, |_| false, later), [address(2)], "what is outside costs little");
        let idle = wanted.idle(false, |_| true, later);
        assert_eq!(idle, [address(2)], "what is known stays while nobody could tell it again");
    }

    #[test]
    fn of_those_outside_the_oldest_go_when_they_are_many() {
        let start = Instant::now();
        let mut wanted = WantedAddresses::default();
        for number in 0..KEPT_OUTSIDE + 3 {
            wanted.insert(address(number), start + Duration::from_millis(number as u64));
            wanted.set_answered(address(number), true);
        }
        let later = start + Duration::from_secs(60) + IDLE;
        assert_eq!(wanted.idle(true, |_| false, later), [0, 1, 2].map(address));
    }

    #[test]
    fn room_is_made_by_what_is_outside_and_oldest_and_never_by_what_is_waited_for() {
        let start = Instant::now();
        let mut wanted = WantedAddresses::default();
        for number in 0..MAX_WANTED {
            assert!(!wanted.is_full());
            wanted.insert(address(number), start + Duration::from_secs(number as u64));
        }
        assert!(wanted.is_full());
        assert_eq!(wanted.make_room(|_| false), [] as [IpAddr; 0]);
        for number in 1..MAX_WANTED {
            wanted.set_answered(address(number), true);
        }
        let is_known = |known: IpAddr| known == address(1);
        let mut gone = wanted.make_room(is_known);
        gone.sort();
        let expected: Vec<IpAddr> = (2..2 + MADE_ROOM).map(address).collect();
        assert_eq!(gone, expected);
        for address in gone {
            wanted.remove(address);
        }
        assert!(!wanted.is_full());
    }

    #[test]
    fn own_workloads_come_and_go() {
        let set = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let mut own = OwnWorkloads::default();
        let start = Instant::now();
        assert_eq!(own.replace(set(&["a"]), start), ["a".into()]);
        assert_eq!(own.replace(set(&["b"]), start), ["b".into()]);
        assert_eq!(own.take_gone(start), [] as [Arc<str>; 0], "peers may still come to it");
        assert_eq!(own.replace(set(&["a", "b"]), start), [] as [Arc<str>; 0], "it is still wanted");
        assert_eq!(own.take_gone(start + LEFT), [] as [Arc<str>; 0]);
        assert_eq!(own.replace(set(&["a"]), start), [] as [Arc<str>; 0]);
        assert_eq!(own.take_gone(start + LEFT), ["b".into()]);
        assert_eq!(own.replace(set(&["a", "b"]), start), ["b".into()]);
    }
}
