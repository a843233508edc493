//! The time of day, as a capability.

use std::time::SystemTime;

/// The time of day.
///
/// Durations are measured by tokio's clock, which tests can pause; what compares with dates that others wrote (the
/// validity of a certificate) takes a `Clock`, so that a test can move the date together with paused time.
pub trait Clock: Send + Sync {
    /// The present date and time.
    fn now(&self) -> SystemTime;
}

/// The kernel's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
