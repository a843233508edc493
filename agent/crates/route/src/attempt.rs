//! How long a request may take, and whether it is tried again.
//!
//! What is tried again, and when:
//!
//! | what happened | without `retry` | with `retry` |
//! |---|---|---|
//! | nothing was sent: no connection, or the peer said it did nothing (GOAWAY, `REFUSED_STREAM`) | yes | yes |
//! | the connection broke before the head of the answer | if the method is idempotent (RFC 9110, 9.2.2) | yes |
//! | the attempt's time was over before the head of the answer | no | yes |
//! | an answer | no | if its status is among the codes |
//! | the head of the answer was passed on | never | never |
//!
//! Where something was sent, another attempt needs the body to be there still ([`Attempts::lose_body`]). Without
//! `retry` there are at most two further attempts, as is the default with it. The pause before the `n`th further attempt
//! is chosen at random: from nothing up to 25 ms · 2^(n-1) (exponential back-off with full jitter), and when the route
//! says how long it is at least, from that up to that much more; what grows does so up to ten times.
//!
//! The [`Budget`] bounds what all requests do together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use smallvec::SmallVec;

use crate::route::{Retry, Rule};

mod budget;

pub use budget::Budget;

/// The upper end of the first pause, where the route does not say it.
const PAUSE: Duration = Duration::from_millis(25);
/// How much the pause grows at most.
const GROWTH: u32 = 10;
/// Further attempts when no connection can be made, where the route does not say it.
const FURTHER: u32 = 2;

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head of an answer is here, and was not passed on.
    Answered(StatusCode),
    /// Nothing of the request was processed: no connection, or the peer said so.
    Refused,
    /// The connection broke before the head of an answer.
    Broken,
    /// [`Attempts::attempt_deadline`] passed before the head of an answer.
    TimedOut,
    /// The head of an answer was passed on; whatever came then.
    PassedOn,
}

/// The attempts that one request may make. While it lives, it counts as an active request in its [`Budget`].
#[derive(Debug)]
pub struct Attempts {
    deadline: Option<Instant>,
    backend: Option<Duration>,
    retry: Option<Again>,
    is_idempotent: bool,
    has_body: bool,
    further: u32,
    budget: budget::Share,
    random: u64,
}

/// What a route's retry says, copied without an allocation for as many codes as are usual.
#[derive(Debug)]
struct Again {
    codes: SmallVec<[StatusCode; 8]>,
    attempts: u32,
    backoff: Option<Duration>,
}

impl Again {
    fn of(retry: &Retry) -> Self {
        Self { codes: SmallVec::from_slice(&retry.codes), attempts: retry.attempts, backoff: retry.backoff }
    }
}

impl Attempts {
    /// Those of a request that begins now, by what its rule says. `seed` is random: pauses of several requests differ.
    #[must_use]
    pub fn new(rule: &Rule, method: &Method, budget: &Arc<Budget>, seed: u64, now: Instant) -> Self {
        Self {
            deadline: rule.timeouts.request.and_then(|timeout| now.checked_add(timeout)),
            backend: rule.timeouts.backend,
            retry: rule.retry.as_ref().map(Again::of),
            is_idempotent: method.is_idempotent(),
            has_body: true,
            further: 0,
            budget: budget.enter(),
            random: seed,
        }
    }

    /// By then the last byte of the answer has to be passed on, whatever attempts there are.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// By then an attempt that begins now must be over: the last byte of its answer is here.
    #[must_use]
    pub fn attempt_deadline(&self, now: Instant) -> Option<Instant> {
        let own = self.backend.and_then(|timeout| now.checked_add(timeout));
        [own, self.deadline].into_iter().flatten().min()
    }

    /// The beginning of the body is kept no longer: what was sent cannot be sent again.
    pub fn lose_body(&mut self) {
        self.has_body = false;
    }

    /// Whether another attempt may follow, so that the body is worth keeping.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        self.has_body && self.further < self.most() && (self.retry.is_some() || self.is_idempotent)
    }

    /// How many attempts beyond the first were begun.
    #[must_use]
    pub fn further(&self) -> u32 {
        self.further
    }

    /// What is next after an attempt: another, after a pause, or `None`: what came of this one is passed on. Time that
    /// is not there any more, and a budget that is spent, allow no other.
    pub fn next(&mut self, outcome: Outcome, now: Instant) -> Option<Duration> {
        self.budget.end_retry();
        let may = match outcome {
            Outcome::Refused => true,
            Outcome::Broken => self.has_body && (self.retry.is_some() || self.is_idempotent),
            Outcome::TimedOut => self.has_body && self.retry.is_some(),
            Outcome::Answered(status) => {
                self.has_body && self.retry.as_ref().is_some_and(|retry| retry.codes.contains(&status))
            }
            Outcome::PassedOn => false,
        };
        if !may || self.further >= self.most() {
            return None;
        }
        let pause = self.pause();
        if self.deadline.is_some_and(|deadline| deadline.saturating_duration_since(now) <= pause) {
            return None;
        }
        if !self.budget.begin_retry(now) {
            return None;
        }
        self.further += 1;
        Some(pause)
    }

    fn most(&self) -> u32 {
        self.retry.as_ref().map_or(FURTHER, |retry| retry.attempts)
    }

    fn pause(&mut self) -> Duration {
        let least = self.retry.as_ref().and_then(|retry| retry.backoff);
        let base = least.unwrap_or(PAUSE);
        let growth = 1_u32.checked_shl(self.further).unwrap_or(GROWTH).min(GROWTH);
        // The share of the window, in steps of 2^-32.
        let share = self.roll() >> 32;
        let window = base.saturating_mul(growth);
        let nanoseconds = (window.as_nanos().saturating_mul(u128::from(share))) >> 32;
        let jitter = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        least.unwrap_or_default().saturating_add(jitter)
    }

    /// SplitMix64: enough to spread pauses, and nothing else depends on it.
    fn roll(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests;
