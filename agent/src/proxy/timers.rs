//! The deadlines of one worker: a heap whose entries are checked, not cancelled, when their time comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::table::Key;

/// What a deadline is about. The owner looks at its own state to see whether it still matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// A tunnel's establishment, liveness or idleness.
    Tunnel(Key),
    /// A tunnel whose end was said must have been ended by its peer too.
    Closing(Key),
    /// A tunnel whose connection was refused is dialled again.
    Redial(Key),
    /// A connection that has waited long enough for discovery.
    Held(Key),
    /// A flow whose dial must have succeeded by now.
    Flow(Key),
    /// Accepting goes on after descriptors ran out.
    Accept,
    /// The bytes of the live connections are counted.
    Account,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    timer: Timer,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// Pending deadlines, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<Entry>>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.push(Reverse(Entry { at, timer }));
    }

    /// The next timer that is due, removed.
    pub(super) fn due(&mut self, now: Instant) -> Option<Timer> {
        if self.0.peek()?.0.at > now {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry.timer)
    }

    /// How long until the next deadline.
    pub(super) fn next_in(&self, now: Instant) -> Option<Duration> {
        self.0.peek().map(|Reverse(entry)| entry.at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_the_order_of_their_deadlines() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let key = Key::from_bits(1);
        timers.set(start + Duration::from_secs(2), Timer::Flow(key));
        timers.set(start + Duration::from_secs(1), Timer::Accept);
        assert_eq!(timers.next_in(start), Some(Duration::from_secs(1)));
        assert_eq!(timers.due(start), None);
        let later = start + Duration::from_secs(3);
        assert_eq!(timers.due(later), Some(Timer::Accept));
        assert_eq!(timers.due(later), Some(Timer::Flow(key)));
        assert_eq!(timers.due(later), None);
    }
}
