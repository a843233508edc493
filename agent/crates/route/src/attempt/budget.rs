//! What further attempts of all requests together may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A budget of further attempts, shared by the requests for one backend: when it fails altogether, attempts must not
/// become the greater part of its load.
///
/// Of the requests that are active, one in five may be in a further attempt (Envoy's default is the same, 20 %); beyond
/// that, three further attempts per second are always allowed, so that little traffic has them as well.
#[derive(Debug)]
pub struct Budget {
    active: AtomicU32,
    further: AtomicU32,
    epoch: Instant,
    /// When the allowance of each second is whole again, in nanoseconds since the epoch (generic cell rate algorithm).
    whole_again: AtomicU64,
}

/// One in so many.
const SHARE: u32 = 5;
/// Always allowed, per second.
const PER_SECOND: u64 = 3;
/// The time in which one of them comes back.
const INTERVAL: u64 = 1_000_000_000 / PER_SECOND;

impl Budget {
    /// A budget of which nothing is spent.
    #[must_use]
    pub fn new(now: Instant) -> Arc<Self> {
        let (active, further) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { active, further, epoch: now, whole_again: AtomicU64::new(0) })
    }

    /// How many requests are active.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn enter(self: &Arc<Self>) -> Share {
        self.active.fetch_add(1, Ordering::Relaxed);
        Share { budget: Arc::clone(self), is_further: false }
    }

    fn has_share(&self) -> bool {
        let most = self.active() / SHARE;
        let more = |further: u32| (further < most).then(|| further + 1);
        self.further.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn has_allowance(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.epoch);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let take = |whole_again: u64| {
            let next = whole_again.max(now) + INTERVAL;
            (next - now <= Duration::from_secs(1).as_nanos() as u64).then_some(next)
        };
        self.whole_again.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// What one request has of a budget.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    /// It is in a further attempt, which counts.
    is_further: bool,
}

impl Share {
    /// Whether a further attempt may begin; it lasts until the next one, or the end of the request.
    pub(super) fn begin_retry(&mut self, now: Instant) -> bool {
        if self.budget.has_share() {
            self.is_further = true;
        } else if self.budget.has_allowance(now) {
            self.budget.further.fetch_add(1, Ordering::Relaxed);
            self.is_further = true;
        }
        self.is_further
    }

    pub(super) fn end_retry(&mut self) {
        if std::mem::take(&mut self.is_further) {
            self.budget.further.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end_retry();
        self.budget.active.fetch_sub(1, Ordering::Relaxed);
    }
}
