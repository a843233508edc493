//! Budgets for work that serves nobody.

use std::time::Duration;

use crate::FloodLimits;

/// Counts what a peer makes this side do without moving any data.
///
/// This crate knows no clock, so useful work refills the budgets, and the owner tells how much time passed. Both are
/// needed: a busy tunnel must not starve on a slow clock, and an idle one may see nothing but PINGs for weeks.
pub(crate) struct Flood {
    idle_frames: Bucket,
    resets: Bucket,
}

impl Flood {
    pub(crate) fn new(limits: &FloodLimits) -> Self {
        Self {
            idle_frames: Bucket::new(limits.idle_frames, limits.idle_frames_per_second),
            resets: Bucket::new(limits.resets, limits.resets_per_second),
        }
    }

    /// A DATA frame with a payload was sent or received. A receiver may answer each with an update of two windows, and
    /// some do so for every few kilobytes of a large one.
    pub(crate) fn data_frame(&mut self, payload: u32) {
        self.idle_frames.earn(2 + payload / 1024);
    }

    /// A frame came that moves nothing. `false`: one too many.
    #[must_use]
    pub(crate) fn idle_frame(&mut self, cost: u32) -> bool {
        self.idle_frames.spend(cost)
    }

    /// A stream was answered, so the peer waited for it, and may well reset it afterwards.
    pub(crate) fn answered(&mut self) {
        self.resets.earn(1);
    }

    /// A stream came to nothing by the peer's doing. `false`: one too many.
    #[must_use]
    pub(crate) fn reset(&mut self) -> bool {
        self.resets.spend(1)
    }

    pub(crate) fn replenish(&mut self, elapsed: Duration) {
        self.idle_frames.replenish(elapsed);
        self.resets.replenish(elapsed);
    }
}

struct Bucket {
    tokens: u32,
    capacity: u32,
    per_second: u32,
    /// Time that did not yet make a whole token, in nanoseconds times `per_second`.
    remainder: u128,
}

impl Bucket {
    fn new(capacity: u32, per_second: u32) -> Self {
        Self { tokens: capacity, capacity, per_second, remainder: 0 }
    }

    fn spend(&mut self, tokens: u32) -> bool {
        match self.tokens.checked_sub(tokens) {
            Some(left) => self.tokens = left,
            None => return false,
        }
        true
    }

    fn earn(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.capacity);
    }

    fn replenish(&mut self, elapsed: Duration) {
        const NANOSECONDS: u128 = 1_000_000_000;
        let time = self.remainder + elapsed.as_nanos() * u128::from(self.per_second);
        self.remainder = time % NANOSECONDS;
        self.earn(u32::try_from(time / NANOSECONDS).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_runs_dry_and_is_refilled_by_time_and_work() {
        let mut bucket = Bucket::new(3, 4);
        assert!(bucket.spend(3));
        assert!(!bucket.spend(1));
        for _ in 0..5 {
            bucket.replenish(Duration::from_millis(50));
        }
        assert!(bucket.spend(1), "five times 50 ms at four a second make one");
        assert!(!bucket.spend(1));
        bucket.earn(1);
        assert!(bucket.spend(1));
        bucket.replenish(Duration::MAX);
        assert!(bucket.spend(3));
        assert!(!bucket.spend(1), "never more than its capacity");
    }
}
