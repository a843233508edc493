//! The election of the one controller that does what only one must do, by a Lease (`coordination.k8s.io/v1`).
//!
//! Whoever holds the Lease writes it every 5 s. Others take it when it has not changed for the 15 s that it says, by their
//! own clocks: no two clocks are compared. A holder that cannot write for 10 s stops being the leader, before anybody can
//! take its place. Each write names the version that it replaces, so that of two one fails.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use weft_runtime::Shutdown;

use super::{Failure, answered};

/// The Lease.
const NAME: &str = "weft-controller";
/// How long it holds without being renewed.
const HOLDS: Duration = Duration::from_secs(15);
/// How often it is renewed, and looked at by others.
const RENEWED: Duration = Duration::from_secs(5);
/// A holder that could not renew it for this long leads no more.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// How long letting go of it may take.
const RELEASED_WITHIN: Duration = Duration::from_secs(3);

/// One controller's part in the election.
pub(super) struct Election {
    leases: Api<Lease>,
    candidate: Candidate,
    /// The last failure that was said in the log.
    said: String,
}

/// What a candidate knows.
struct Candidate {
    identity: String,
    /// The version of somebody else's Lease that was seen last, and when it was seen first.
    seen: Option<(String, Instant)>,
}

/// What a candidate does about a Lease that it sees.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Lease),
    Replace(Lease),
    /// It is another's.
    Wait,
}

impl Election {
    pub(super) fn new(client: &Client, namespace: &str, identity: &str) -> Self {
        // Not even a controller that starts anew under the same name may take itself for its predecessor.
        let identity = format!("{identity}_{:08x}", fastrand::u32(..));
        let candidate = Candidate { identity, seen: None };
        Self { leases: Api::namespaced(client.clone(), namespace), candidate, said: String::new() }
    }

    /// Runs `duties` whenever this candidate leads, and drops them when it does no more. `leads` says which it is.
    pub(super) async fn take_part<F: Future<Output = ()>>(
        mut self,
        duties: impl Fn() -> F,
        leads: watch::Sender<bool>,
        mut shutdown: Shutdown,
    ) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = self.won() => {}
            }
            tracing::info!(identity = self.candidate.identity, "this controller leads");
            leads.send_replace(true);
            let is_over = tokio::select! {
                biased;
                () = shutdown.requested() => true,
                () = self.lost() => false,
                // Duties have no end of their own; with one there would be nothing to do until the lease is lost.
                () = async { duties().await; std::future::pending().await } => false,
            };
            leads.send_replace(false);
            if is_over {
                self.release().await;
                return;
            }
            tracing::warn!(identity = self.candidate.identity, "this controller leads no more");
        }
    }

    /// Completes when the Lease is this candidate's.
    async fn won(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => self.said.clear(),
                Err(failure) => self.say(&failure),
            }
            // Candidates that started at once do not go on asking at once.
            tokio::time::sleep(RENEWED.mul_f64(0.8 + fastrand::f64() / 5.0)).await;
        }
    }

    /// Renews the Lease until it is another's, or could not be renewed for too long.
    async fn lost(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEWED).await;
            let deadline = renewed + GIVEN_UP;
            // Counted from before the request: the API server may take long to answer what it did at once.
            let asked = Instant::now();
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return,
                Ok(Err(failure)) => {
                    self.say(&failure);
                    if asked >= deadline {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Takes or renews the Lease. `false`: it is another's.
    async fn attempt(&mut self) -> Result<bool, Failure> {
        let lease = answered(self.leases.get_opt(NAME)).await?;
        let written = match self.candidate.step(lease, Instant::now(), Timestamp::now()) {
            Step::Create(lease) => answered(self.leases.create(&PostParams::default(), &lease)).await,
            Step::Replace(lease) => answered(self.leases.replace(NAME, &PostParams::default(), &lease)).await,
            Step::Wait => return Ok(false),
        };
        match written {
            Ok(_) => {
                self.said.clear();
                Ok(true)
            }
            // Another one was quicker. If it is another that holds it now, the next look shows.
            Err(failure) if failure.code == 409 => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Lets the next one lead at once.
    async fn release(&mut self) {
        let releasing = async {
            let mut lease = self.leases.get(NAME).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.candidate.identity) {
                spec.holder_identity = Some(String::new());
                spec.renew_time = Some(MicroTime(Timestamp::now()));
                self.leases.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(RELEASED_WITHIN, releasing).await {
            Ok(Ok(())) => tracing::info!("let go of the leadership"),
            Ok(Err(error)) => tracing::debug!(%error, "the lease could not be let go of, and runs out"),
            Err(_) => tracing::debug!("the lease could not be let go of in time, and runs out"),
        }
    }

    fn say(&mut self, failure: &Failure) {
        if self.said != failure.text {
            let hint = match failure.code {
                403 => "Its Role must allow get and update of it, and create of leases",
                404 => "Is there such a namespace?",
                _ => "Trying again",
            };
            tracing::warn!(lease = NAME, error = failure.text, "the election failed. {hint}");
            self.said.clone_from(&failure.text);
        }
    }
}

impl Candidate {
    /// What to do about the Lease that there is. `date` is what it will say.
    fn step(&mut self, lease: Option<Lease>, now: Instant, date: Timestamp) -> Step {
        let Some(mut lease) = lease else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let spec = LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
                acquire_time: Some(MicroTime(date)),
                renew_time: Some(MicroTime(date)),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            };
            return Step::Create(Lease { metadata, spec: Some(spec) });
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let is_mine = holder == self.identity;
        if !is_mine && !holder.is_empty() {
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => {
                    self.seen = Some((version, now));
                    now
                }
            };
            let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            // Somebody may have written a duration by hand; years would leave the cluster without a leader.
            let holds = seconds.map_or(HOLDS, |seconds| Duration::from_secs(seconds.clamp(1, 600)));
            if now < since + holds {
                return Step::Wait;
            }
        }
        self.seen = None;
        if !is_mine {
            spec.acquire_time = Some(MicroTime(date));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(HOLDS.as_secs()).ok();
        spec.renew_time = Some(MicroTime(date));
        Step::Replace(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(identity: &str) -> Candidate {
        Candidate { identity: identity.to_owned(), seen: None }
    }

    /// What the API server has after a step, as its `version`.
    fn written(step: Step, version: u32) -> Lease {
        let (Step::Create(mut lease) | Step::Replace(mut lease)) = step else { panic!("nothing is written") };
        lease.metadata.resource_version = Some(version.to_string());
        lease
    }

    fn holder(lease: &Lease) -> Option<&str> {
        lease.spec.as_ref()?.holder_identity.as_deref()
    }

    #[test]
    fn a_lease_is_taken_when_its_holder_has_not_renewed_it_for_as_long_as_it_says() {
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let (start, date) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let lease = written(a.step(None, start, date), 1);
        assert_eq!(holder(&lease), Some("a"));
        assert_eq!(b.step(Some(lease.clone()), start, date), Step::Wait);
        let renewed = written(a.step(Some(lease), start + RENEWED, date), 2);
        // Counted from when this version was first seen, whatever the date in it says.
        assert_eq!(b.step(Some(renewed.clone()), start + HOLDS, date), Step::Wait);
        assert_eq!(b.step(Some(renewed.clone()), start + 2 * HOLDS - RENEWED, date), Step::Wait);
        let taken = written(b.step(Some(renewed), start + 2 * HOLDS, date), 3);
        assert_eq!(holder(&taken), Some("b"));
        assert_eq!(taken.spec.as_ref().and_then(|spec| spec.lease_transitions), Some(1));
        assert_eq!(a.step(Some(taken), start + 2 * HOLDS, date), Step::Wait, "it was taken from a");
    }

    #[test]
    fn a_lease_that_was_let_go_of_is_taken_at_once_and_names_the_version_that_it_replaces() {
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let (now, date) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let mut lease = written(a.step(None, now, date), 7);
        lease.spec.get_or_insert_default().holder_identity = Some(String::new());
        let Step::Replace(taken) = b.step(Some(lease), now, date) else { panic!("nobody holds it") };
        assert_eq!((holder(&taken), taken.metadata.resource_version.as_deref()), (Some("b"), Some("7")));
    }
}
