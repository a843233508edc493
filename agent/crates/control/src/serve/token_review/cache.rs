//! Tokens that were reviewed a moment ago.
//!
//! An agent that connects again makes several requests at once, and after an outage all agents do. The API server is
//! asked once for each token: whoever shows one that is being reviewed waits for that review, and a good answer is
//! remembered for a short time, by the token's digest. A refusal is not remembered.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use super::super::authenticate::{AuthenticationError, Caller};
use super::claims;

/// How long a good answer is remembered at most: for so long a token that was revoked is still good.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Answers that are remembered at most.
const MOST: usize = 16_384;
/// Reviews at one time.
const AT_ONCE: usize = 16;
/// How long a caller waits for its token to be reviewed, behind others.
const WAITS: Duration = Duration::from_secs(8);

type Digest = [u8; 32];
type Answer = Result<Caller, AuthenticationError>;

/// The reviews that are under way, and their answers.
pub(super) struct Reviewed {
    state: Mutex<State>,
    room: Semaphore,
}

#[derive(Default)]
struct State {
    known: HashMap<Digest, (Caller, Instant)>,
    under_way: HashMap<Digest, Weak<OnceCell<Answer>>>,
}

impl Default for Reviewed {
    fn default() -> Self {
        Self { state: Mutex::default(), room: Semaphore::new(AT_ONCE) }
    }
}

impl Reviewed {
    /// Who `token` belongs to, by `review` if that is not known. `date` is today's.
    pub(super) async fn caller<F: Future<Output = Answer>>(
        &self,
        token: &str,
        date: SystemTime,
        review: impl FnOnce() -> F,
    ) -> Answer {
        let key = digest_of(token)?;
        let cell = match self.look_up(&key) {
            Ok(caller) => return Ok(caller),
            Err(cell) => cell,
        };
        let reviewing = cell.get_or_init(|| async {
            // It closes with its owner, which is borrowed here.
            let _room = self.room.acquire().await;
            let answer = review().await;
            if let Ok(caller) = &answer {
                self.remember(key, caller, good_for(token, date));
            }
            answer
        });
        let answer = tokio::time::timeout(WAITS, reviewing).await.map_or_else(
            |_| Err(AuthenticationError::Unavailable("too many tokens wait to be reviewed: try again".to_owned())),
            Clone::clone,
        );
        self.leave(&key, cell);
        answer
    }

    /// The caller, or the review that everybody with this token waits for.
    fn look_up(&self, key: &Digest) -> Result<Caller, Arc<OnceCell<Answer>>> {
        let mut state = self.state();
        if let Some((caller, until)) = state.known.get(key) {
            if *until > Instant::now() {
                return Ok(caller.clone());
            }
            state.known.remove(key);
        }
        if let Some(cell) = state.under_way.get(key).and_then(Weak::upgrade) {
            return Err(cell);
        }
        let cell = Arc::new(OnceCell::new());
        state.under_way.insert(*key, Arc::downgrade(&cell));
        Err(cell)
    }

    fn remember(&self, key: Digest, caller: &Caller, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut state = self.state();
        if state.known.len() >= MOST {
            state.known.retain(|_, (_, until)| *until > now);
        }
        // Only good tokens of agents get here: a cluster that has more of them asks more often.
        if state.known.len() < MOST {
            state.known.insert(key, (caller.clone(), now + time));
        }
    }

    /// One who waited for a review waits no more. The last one forgets it.
    fn leave(&self, key: &Digest, cell: Arc<OnceCell<Answer>>) {
        let mut state = self.state();
        let is_answered = cell.initialized();
        drop(cell);
        let is_ours = state.under_way.get(key);
        if is_ours.is_some_and(|review| is_answered || review.strong_count() == 0) {
            state.under_way.remove(key);
        }
        // Callers that went away while they waited leave theirs behind.
        if state.under_way.len() > MOST {
            state.under_way.retain(|_, review| review.strong_count() > 0);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest_of(token: &str) -> Result<Digest, AuthenticationError> {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let unusable = |_| AuthenticationError::Unavailable("SHA-256 has another length".to_owned());
    digest.as_ref().try_into().map_err(unusable)
}

/// How long the answer about a good token may be remembered: never beyond the token's own end, and not at all if that
/// is not known.
fn good_for(token: &str, date: SystemTime) -> Duration {
    let left = claims::expiry(token).and_then(|end| end.duration_since(date).ok());
    left.unwrap_or_default().min(REMEMBERED)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn agent(node: &str) -> Answer {
        Ok(Caller { node: node.into(), ..Caller::default() })
    }

    /// A token that ends so many seconds after 1970.
    fn token(end: u64) -> String {
        claims::tests::token(&format!(r#"{{"exp":{end}}}"#))
    }

    /// Shows a token; the review is counted.
    async fn show(reviewed: &Reviewed, token: &str, count: &AtomicUsize, answer: Answer) -> Answer {
        let review = || async {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer
        };
        reviewed.caller(token, SystemTime::UNIX_EPOCH, review).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_token_is_reviewed_once_a_minute_and_never_believed_beyond_its_end() {
        let (reviewed, count) = (Reviewed::default(), AtomicUsize::new(0));
        let reviews = || count.swap(0, Ordering::Relaxed);
        let long = token(3600);
        // Eight requests at once, and more a moment later.
        let mut shown = tokio::task::JoinSet::new();
        let shared = Arc::new((Reviewed::default(), AtomicUsize::new(0)));
        for _ in 0..8 {
            let (shared, long) = (Arc::clone(&shared), long.clone());
            shown.spawn(async move { show(&shared.0, &long, &shared.1, agent("n1")).await });
        }
        for answer in shown.join_all().await {
            assert_eq!(answer, agent("n1"));
        }
        assert_eq!(shared.1.load(Ordering::Relaxed), 1, "one review for all");

        for _ in 0..3 {
            assert_eq!(show(&reviewed, &long, &count, agent("n1")).await, agent("n1"));
        }
        assert_eq!(reviews(), 1);
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(show(&reviewed, &long, &count, agent("n1")).await, agent("n1"));
        assert_eq!(reviews(), 1, "a minute is over");

        let short = token(5);
        assert_eq!(show(&reviewed, &short, &count, agent("n2")).await, agent("n2"));
        tokio::time::advance(Duration::from_secs(5)).await;
        let gone = Err(AuthenticationError::Refused("expired".to_owned()));
        assert_eq!(show(&reviewed, &short, &count, gone.clone()).await, gone);
        assert_eq!(reviews(), 2);
        for opaque in ["opaque", &token(0)] {
            for _ in 0..2 {
                assert_eq!(show(&reviewed, opaque, &count, agent("n3")).await, agent("n3"));
            }
            assert_eq!(reviews(), 2, "nobody knows when {opaque} ends");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_callers_that_went_away_leave_nothing_behind() {
        let (reviewed, count) = (Reviewed::default(), AtomicUsize::new(0));
        let refused = Err(AuthenticationError::Refused("no".to_owned()));
        let good = token(3600);
        for _ in 0..2 {
            assert_eq!(show(&reviewed, &good, &count, refused.clone()).await, refused);
        }
        assert_eq!(count.load(Ordering::Relaxed), 2, "each is asked about anew");
        let impatient = show(&reviewed, &good, &count, agent("n1"));
        let cut_short = tokio::time::timeout(Duration::from_millis(1), impatient).await;
        assert!(cut_short.is_err());
        assert_eq!(show(&reviewed, &good, &count, agent("n1")).await, agent("n1"));
        assert!(reviewed.state().under_way.is_empty());
    }

    /// A review that is counted until it ends, or is given up.
    struct UnderWay<'a>(&'a AtomicUsize);

    impl Drop for UnderWay<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tokens_is_held_back_and_told_so() {
        let shared = Arc::new((Reviewed::default(), AtomicUsize::new(0), AtomicUsize::new(0)));
        let mut shown = tokio::task::JoinSet::new();
        for number in 0..100 {
            let shared = Arc::clone(&shared);
            shown.spawn(async move {
                let review = || async {
                    let now = shared.1.fetch_add(1, Ordering::Relaxed) + 1;
                    shared.2.fetch_max(now, Ordering::Relaxed);
                    let _under_way = UnderWay(&shared.1);
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    agent("n1")
                };
                shared.0.caller(&token(3600 + number), SystemTime::UNIX_EPOCH, review).await
            });
        }
        let answers = shown.join_all().await;
        assert_eq!(shared.2.load(Ordering::Relaxed), AT_ONCE);
        let late = Err(AuthenticationError::Unavailable("too many tokens wait to be reviewed: try again".to_owned()));
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2 * AT_ONCE);
        assert_eq!(answers.iter().filter(|answer| **answer == late).count(), 100 - 2 * AT_ONCE);
        assert!(shared.0.state().under_way.is_empty());
    }
}
