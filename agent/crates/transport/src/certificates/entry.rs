//! One identity's certificate and the attempts to get it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use weft_model::Identity;
use weft_runtime::Backoff;

use super::{CertificateState, CertificateStatus};
use crate::tls::TlsIdentity;

/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long after the authority's root has changed the certificates of the old one are renewed, at most: not all at once.
const SPREAD: Duration = Duration::from_secs(60);
/// How seldom one is renewed for that reason: authorities that disagree on their roots must not be asked in a circle.
const SELDOM: Duration = Duration::from_secs(300);

/// What is known of one identity.
pub(super) struct Entry {
    /// Tells this entry from one of the same identity that was forgotten while an answer was awaited.
    pub(super) id: u64,
    pub(super) users: usize,
    current: Option<Arc<TlsIdentity>>,
    next: Next,
    last_error: Option<String>,
    backoff: Backoff,
    /// Its expiry has been published.
    withdrawn: bool,
    /// The roots' age that the certificate is of.
    age: u64,
    /// When it was last renewed because of another one.
    hastened: Option<SystemTime>,
}

/// When it is asked for.
enum Next {
    /// An answer is awaited.
    UnderWay,
    At(SystemTime),
}

impl Entry {
    /// An entry without a certificate, which is due at once.
    pub(super) fn new(now: SystemTime) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            users: 0,
            current: None,
            next: Next::At(now),
            last_error: None,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            withdrawn: false,
            age: 0,
            hastened: None,
        }
    }

    /// The certificate, if it is valid at `now`.
    pub(super) fn valid(&self, now: SystemTime) -> Option<Arc<TlsIdentity>> {
        self.current.clone().filter(|tls| now <= tls.not_after())
    }

    /// When something is to be done about it: asking for it, or withdrawing it.
    pub(super) fn due(&self) -> Option<SystemTime> {
        let asking = match self.next {
            Next::UnderWay => None,
            Next::At(time) => Some(time),
        };
        let withdrawing =
            self.current.as_ref().filter(|_| !self.withdrawn).map(|tls| tls.not_after() + Duration::from_secs(1));
        asking.into_iter().chain(withdrawing).min()
    }

    /// How urgent asking is, if it is time to ask: what has no certificate comes first, then what expires first.
    pub(super) fn urgency(&self, now: SystemTime) -> Option<SystemTime> {
        match self.next {
            Next::At(time) if time <= now => {
                Some(self.current.as_ref().map_or(SystemTime::UNIX_EPOCH, |tls| tls.not_after()))
            }
            _ => None,
        }
    }

    pub(super) fn asked(&mut self) {
        self.next = Next::UnderWay;
    }

    /// Has a certificate of an earlier age renewed before its time. Returns whether that is news.
    pub(super) fn hasten(&mut self, age: u64, now: SystemTime) -> bool {
        let Next::At(next) = self.next else { return false };
        if self.current.is_none() || self.age == age {
            return false;
        }
        self.age = age;
        let earliest = self.hastened.map_or(now, |last| (last + SELDOM).max(now));
        let at = earliest + SPREAD.mul_f64(fastrand::f64());
        self.hastened = Some(at);
        let is_sooner = at < next;
        self.next = Next::At(at.min(next));
        is_sooner
    }

    /// Has what failed asked for again soon.
    pub(super) fn retry(&mut self, now: SystemTime) {
        if let (Next::At(next), Some(_)) = (&self.next, &self.last_error) {
            self.next = Next::At((*next).min(now + PAUSES.0.mul_f64(fastrand::f64())));
        }
    }

    /// Takes a certificate of this age of the roots.
    pub(super) fn issued(&mut self, tls: Arc<TlsIdentity>, age: u64, now: SystemTime) {
        self.age = age;
        let left = tls.not_after().duration_since(now).unwrap_or_default();
        // At half life, give or take a tenth, so that what was issued together is not renewed together. Never sooner
        // than the first pause: a source whose certificates are short or dead must not be asked in a circle.
        let life = left.mul_f64(0.45 + fastrand::f64() / 10.0).max(PAUSES.0);
        self.next = Next::At(now + life);
        self.current = Some(tls);
        self.last_error = None;
        self.backoff.reset();
        self.withdrawn = false;
    }

    /// Returns the pause before the next attempt.
    pub(super) fn failed(&mut self, reason: String, now: SystemTime) -> Duration {
        let pause = self.backoff.pause();
        self.next = Next::At(now + pause);
        self.last_error = Some(reason);
        pause
    }

    /// Whether it has expired without that having been published; it then counts as published.
    pub(super) fn withdraw(&mut self, now: SystemTime) -> bool {
        let expired = self.current.is_some() && self.valid(now).is_none();
        let news = expired && !self.withdrawn;
        self.withdrawn |= expired;
        news
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(super) fn status(&self, identity: &Identity, now: SystemTime) -> CertificateStatus {
        let state = match (&self.current, &self.last_error) {
            (None, None) => CertificateState::Pending,
            (None, Some(_)) => CertificateState::Failing,
            (Some(tls), _) if now > tls.not_after() => CertificateState::Expired,
            (Some(_), None) => CertificateState::Ready,
            (Some(_), Some(_)) => CertificateState::RenewalFailing,
        };
        CertificateStatus {
            identity: identity.clone(),
            state,
            serial: self.current.as_ref().map(|tls| tls.serial().to_owned()).unwrap_or_default(),
            not_before: self.current.as_ref().map(|tls| tls.not_before()),
            not_after: self.current.as_ref().map(|tls| tls.not_after()),
            next_attempt: match self.next {
                Next::UnderWay => None,
                Next::At(time) => Some(time),
            },
            last_error: self.last_error.clone(),
            users: self.users,
        }
    }
}
