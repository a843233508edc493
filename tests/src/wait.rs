//! Waiting for something that another process will do.
//!
//! There is no clock to pause in another process, so these poll: often enough that a wait costs little more than the
//! thing waited for, and to a deadline that is far beyond what a loaded machine needs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for anything that an agent does on its own, on a machine that runs other tests at the same time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `check` until it returns a value, and returns that value.
///
/// # Errors
/// `what` did not happen in 20 seconds, or `check` failed; its error then ends the wait at once.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    eventually_within(PATIENCE, what, check)
}

/// [`eventually`] with a deadline of the caller's.
///
/// # Errors
/// `what` did not happen within `patience`, or `check` failed.
pub fn eventually_within<T>(patience: Duration, what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = check()? {
            return Ok(value);
        }
        if start.elapsed() >= patience {
            bail!("waited {patience:?} in vain: {what}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
