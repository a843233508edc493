//! Exponential back-off with jitter.

use std::time::Duration;

/// The pause before the next attempt: doubles with each failure up to a ceiling.
///
/// Each pause is drawn from the upper half of its range, so that many clients of one server that failed together do
/// not come back together, and none comes back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off whose first pause is at most `first` and whose later ones are at most `ceiling`.
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, next: first.min(ceiling) }
    }

    /// The pause before the next attempt.
    pub fn pause(&mut self) -> Duration {
        let longest = self.next;
        self.next = longest.saturating_mul(2).min(self.ceiling);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts anew, after a success.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_ceiling_and_start_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for longest in [100, 200, 350, 350] {
            let pause = backoff.pause();
            let longest = Duration::from_millis(longest);
            assert!(pause <= longest && pause >= longest / 2, "{pause:?} for {longest:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}
