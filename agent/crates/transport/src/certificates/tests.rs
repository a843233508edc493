//! Certificates over time, on paused time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use weft_model::Identity;
use weft_runtime::{Clock, Tasks};

use super::{CertificateError, CertificateOptions, CertificateState, CertificateStatus, Certificates};
use crate::authority::CertificateAuthority;
use crate::source::{CertificateSource, Issuing, SigningRequest, SourceError};
use crate::testing::{HOUR, TRUST_DOMAIN, TestRoot, identity};

/// A date that goes with tokio's paused time.
struct PausedClock {
    date: SystemTime,
    since: Instant,
}

impl Clock for PausedClock {
    fn now(&self) -> SystemTime {
        self.date + self.since.elapsed()
    }
}

/// An authority that can be told to fail or to hang, and counts.
struct Moody {
    authority: Mutex<Arc<CertificateAuthority>>,
    fails: Mutex<Option<&'static str>>,
    /// Names this root in place of the authority's.
    misnames: Mutex<Option<CertificateDer<'static>>>,
    takes: Mutex<Duration>,
    asked: Mutex<HashMap<Identity, usize>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl CertificateSource for Moody {
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> Issuing<'a> {
        Box::pin(async move {
            *self.asked.lock().unwrap().entry(request.identity.clone()).or_default() += 1;
            let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
            let takes = *self.takes.lock().unwrap();
            sleep(takes).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            let fails = *self.fails.lock().unwrap();
            match fails {
                Some(reason) => Err(SourceError::Failed(reason.into())),
                None => {
                    let authority = Arc::clone(&self.authority.lock().unwrap());
                    let mut issued = authority.issue(request).await?;
                    if let Some(root) = self.misnames.lock().unwrap().clone() {
                        issued.roots = vec![root];
                    }
                    Ok(issued)
                }
            }
        })
    }

    fn describe(&self) -> String {
        "the test's authority".into()
    }
}

struct World {
    source: Arc<Moody>,
    certificates: Arc<Certificates>,
    clock: Arc<PausedClock>,
    tasks: Tasks,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_, options| options)
    }

    fn with(change: impl FnOnce(&TempDir, CertificateOptions) -> CertificateOptions) -> Self {
        let directory = TempDir::new().unwrap();
        let clock = Arc::new(PausedClock { date: SystemTime::now(), since: Instant::now() });
        let authority = CertificateAuthority::open(&directory.path().join("ca"), TRUST_DOMAIN, clock.clone()).unwrap();
        let source = Arc::new(Moody {
            authority: Mutex::new(Arc::new(authority)),
            fails: Mutex::default(),
            misnames: Mutex::default(),
            takes: Mutex::default(),
            asked: Mutex::default(),
            at_once: AtomicUsize::default(),
            most_at_once: AtomicUsize::default(),
        });
        let tasks = Tasks::new();
        let options = change(&directory, CertificateOptions::default());
        let certificates = Certificates::start(source.clone(), options, clock.clone(), &tasks).unwrap();
        Self { source, certificates, clock, tasks, directory }
    }

    fn fail(&self, reason: Option<&'static str>) {
        *self.source.fails.lock().unwrap() = reason;
    }

    fn asked(&self, name: &str) -> usize {
        self.source.asked.lock().unwrap().get(&identity(name)).copied().unwrap_or_default()
    }

    fn status(&self, name: &str) -> CertificateStatus {
        let mut list = self.certificates.list();
        list.retain(|status| status.identity == identity(name));
        list.pop().expect("it is wanted")
    }

    fn serial(&self, name: &str) -> String {
        self.certificates.current(&identity(name)).expect("a certificate").serial().to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_asked_for_when_first_wanted_and_forgotten_with_its_last_user() {
    let world = World::new();
    let web = identity("web");
    assert!(world.certificates.current(&web).is_none());
    assert!(matches!(world.certificates.ready(&web).await, Err(CertificateError::NotWanted(_))));
    world.certificates.want(&web);
    world.certificates.want(&web);
    assert_eq!(world.status("web").state, CertificateState::Pending);
    let tls = world.certificates.ready(&web).await.unwrap();
    assert_eq!(tls.identity(), &web);
    let status = world.status("web");
    assert_eq!((status.state, status.users), (CertificateState::Ready, 2));
    assert_eq!(status.serial, tls.serial());
    assert_eq!(world.asked("web"), 1);
    world.certificates.release(&web);
    assert!(world.certificates.current(&web).is_some());
    world.certificates.release(&web);
    assert!(world.certificates.current(&web).is_none() && world.certificates.list().is_empty());
    // One release too many does no harm.
    world.certificates.release(&web);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_of_its_life() {
    let world = World::new();
    world.certificates.want(&identity("web"));
    world.certificates.ready(&identity("web")).await.unwrap();
    let first = world.serial("web");
    sleep(10 * HOUR).await;
    assert_eq!((world.serial("web"), world.asked("web")), (first.clone(), 1));
    sleep(4 * HOUR).await;
    assert_ne!(world.serial("web"), first);
    assert_eq!(world.asked("web"), 2);
    // And so on, day after day.
    sleep(10 * 24 * HOUR).await;
    let times = world.asked("web");
    assert!((19..=25).contains(&times), "{times} times in 10 days");
    assert_eq!(world.status("web").state, CertificateState::Ready);
}

#[tokio::test(start_paused = true)]
async fn renewals_of_what_was_issued_together_are_spread() {
    let world = World::new();
    for number in 0..100 {
        world.certificates.want(&identity(&format!("w{number}")));
    }
    for number in 0..100 {
        world.certificates.ready(&identity(&format!("w{number}"))).await.unwrap();
    }
    let times: Vec<SystemTime> = world.certificates.list().iter().map(|status| status.next_attempt.unwrap()).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(last.duration_since(*first).unwrap() > HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_old_certificate_and_is_tried_again() {
    let world = World::new();
    world.certificates.want(&identity("web"));
    world.certificates.ready(&identity("web")).await.unwrap();
    let first = world.serial("web");
    world.fail(Some("the authority is away"));
    sleep(14 * HOUR).await;
    assert_eq!(world.serial("web"), first, "the old one is kept");
    let status = world.status("web");
    assert_eq!(status.state, CertificateState::RenewalFailing);
    assert_eq!(status.last_error.as_deref(), Some("the test's authority: the authority is away"));
    // With back-off: about once a minute, not in a circle.
    let before = world.asked("web");
    sleep(HOUR).await;
    let attempts = world.asked("web") - before;
    assert!((55..=125).contains(&attempts), "{attempts} attempts in an hour");
    world.fail(None);
    sleep(Duration::from_secs(61)).await;
    assert_ne!(world.serial("web"), first);
    assert_eq!(world.status("web").state, CertificateState::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_withdrawn_and_said_so() {
    let world = World::new();
    world.certificates.want(&identity("web"));
    let tls = world.certificates.ready(&identity("web")).await.unwrap();
    world.fail(Some("away"));
    let left = tls.not_after().duration_since(world.clock.now()).unwrap();
    sleep(left - Duration::from_secs(1)).await;
    assert!(world.certificates.current(&identity("web")).is_some());
    let mut changes = world.certificates.changes();
    sleep(Duration::from_secs(3)).await;
    assert!(world.certificates.current(&identity("web")).is_none());
    assert_eq!(world.status("web").state, CertificateState::Expired);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert!(matches!(world.certificates.ready(&identity("web")).await, Err(CertificateError::Failed { .. })));
    world.fail(None);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(world.status("web").state, CertificateState::Ready);
    assert!(world.certificates.current(&identity("web")).is_some());
}

#[tokio::test(start_paused = true)]
async fn when_the_source_is_there_again_what_failed_is_asked_for_at_once() {
    let world = World::new();
    world.fail(Some("away"));
    world.certificates.want(&identity("web"));
    // The pauses have grown to a minute by then.
    sleep(Duration::from_secs(600)).await;
    world.fail(None);
    world.certificates.retry();
    sleep(Duration::from_millis(1100)).await;
    assert!(world.certificates.current(&identity("web")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_fails_is_told_to_who_waits() {
    let world = World::new();
    world.fail(Some("no"));
    world.certificates.want(&identity("web"));
    let error = world.certificates.ready(&identity("web")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no certificate of spiffe://cluster.local/ns/shop/sa/web: the test's authority: no"
    );
    assert_eq!(world.status("web").state, CertificateState::Failing);
    world.fail(None);
    sleep(Duration::from_secs(2)).await;
    assert!(world.certificates.ready(&identity("web")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_peers_would_refuse_is_not_used_nor_are_its_roots() {
    let world = World::new();
    world.certificates.want(&identity("web"));
    world.certificates.ready(&identity("web")).await.unwrap();
    let first = world.serial("web");
    *world.source.misnames.lock().unwrap() = Some(TestRoot::new("another").der());
    sleep(14 * HOUR).await;
    let status = world.status("web");
    assert_eq!((status.state, status.serial), (CertificateState::RenewalFailing, first));
    let error = status.last_error.unwrap();
    assert!(error.contains("would be refused by peers"), "{error}");
    // What was trusted still is: when the source has recovered, all is as before.
    *world.source.misnames.lock().unwrap() = None;
    sleep(Duration::from_secs(61)).await;
    assert_eq!(world.status("web").state, CertificateState::Ready);
    assert_eq!(world.certificates.bundle().roots(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_given_up_and_holds_nobody_up_for_ever() {
    let world = World::with(|_, options| CertificateOptions { concurrency: 3, ..options });
    *world.source.takes.lock().unwrap() = 10_000 * HOUR;
    for name in ["a", "b", "c"] {
        world.certificates.want(&identity(name));
    }
    sleep(Duration::from_secs(1)).await;
    *world.source.takes.lock().unwrap() = Duration::ZERO;
    world.certificates.want(&identity("late"));
    let begin = Instant::now();
    world.certificates.ready(&identity("late")).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(30));
    assert_eq!(world.status("a").last_error.as_deref(), Some("no answer within 30 s"));
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_run_at_once_than_allowed() {
    let world = World::with(|_, options| CertificateOptions { concurrency: 4, ..options });
    *world.source.takes.lock().unwrap() = Duration::from_millis(100);
    for number in 0..50 {
        world.certificates.want(&identity(&format!("w{number}")));
    }
    for number in 0..50 {
        world.certificates.ready(&identity(&format!("w{number}"))).await.unwrap();
    }
    assert_eq!(world.source.most_at_once.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_someone_who_left_and_came_back_is_not_mixed_up() {
    let world = World::new();
    let web = identity("web");
    *world.source.takes.lock().unwrap() = Duration::from_secs(5);
    world.certificates.want(&web);
    sleep(Duration::from_secs(1)).await;
    world.certificates.release(&web);
    sleep(Duration::from_secs(1)).await;
    world.certificates.want(&web);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(world.status("web").state, CertificateState::Pending, "the first answer is not taken");
    world.certificates.ready(&web).await.unwrap();
    assert_eq!(world.asked("web"), 2);
}

#[tokio::test(start_paused = true)]
async fn further_roots_are_trusted_and_read_again_when_their_file_changes() {
    let other = TestRoot::new("other");
    let world = World::with(|directory, options| {
        let path = directory.path().join("roots.pem");
        std::fs::write(&path, other.pem()).unwrap();
        CertificateOptions { extra_roots: Some(path), ..options }
    });
    world.certificates.want(&identity("web"));
    world.certificates.ready(&identity("web")).await.unwrap();
    assert_eq!(world.certificates.bundle().roots(), 2, "the authority's and the further one");
    let path = world.directory.path().join("roots.pem");
    std::fs::write(&path, other.pem() + &TestRoot::new("third").pem()).unwrap();
    wait_for_roots(&world, 3).await;
    // A broken file changes nothing.
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.certificates.bundle().roots(), 3);
    std::fs::write(&path, other.pem()).unwrap();
    wait_for_roots(&world, 2).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_root_changes_what_the_old_one_signed_is_renewed_soon_and_once() {
    let world = World::new();
    for name in ["web", "db"] {
        world.certificates.want(&identity(name));
        world.certificates.ready(&identity(name)).await.unwrap();
    }
    let before = world.serial("web");
    let folder = world.directory.path().join("next");
    let next = CertificateAuthority::open(&folder, TRUST_DOMAIN, world.clock.clone()).unwrap();
    *world.source.authority.lock().unwrap() = Arc::new(next);
    sleep(HOUR).await;
    assert_eq!((world.asked("web"), world.asked("db")), (1, 1), "nobody has said that there is another root");
    world.certificates.want(&identity("new"));
    world.certificates.ready(&identity("new")).await.unwrap();
    sleep(Duration::from_secs(61)).await;
    assert_eq!((world.asked("web"), world.asked("db"), world.asked("new")), (2, 2, 1));
    assert_ne!(world.serial("web"), before);
    sleep(HOUR).await;
    assert_eq!((world.asked("web"), world.asked("db"), world.asked("new")), (2, 2, 1), "that was all");
}

#[tokio::test(start_paused = true)]
async fn when_a_root_is_added_by_hand_certificates_are_renewed_soon() {
    let other = TestRoot::new("other");
    let world = World::with(|directory, options| {
        let path = directory.path().join("roots.pem");
        std::fs::write(&path, other.pem()).unwrap();
        CertificateOptions { extra_roots: Some(path), ..options }
    });
    world.certificates.want(&identity("web"));
    world.certificates.ready(&identity("web")).await.unwrap();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.asked("web"), 1);
    std::fs::write(world.directory.path().join("roots.pem"), other.pem() + &TestRoot::new("third").pem()).unwrap();
    wait_for_roots(&world, 3).await;
    sleep(Duration::from_secs(61)).await;
    assert_eq!(world.asked("web"), 2);
}

#[tokio::test(start_paused = true)]
async fn authorities_that_disagree_on_their_roots_are_not_asked_in_a_circle() {
    let world = World::new();
    let folder = world.directory.path().join("next");
    let next = Arc::new(CertificateAuthority::open(&folder, TRUST_DOMAIN, world.clock.clone()).unwrap());
    let mut other = next;
    for name in ["web", "db"] {
        world.certificates.want(&identity(name));
    }
    // Every second another one answers.
    for _ in 0..1800 {
        std::mem::swap(&mut *world.source.authority.lock().unwrap(), &mut other);
        sleep(Duration::from_secs(1)).await;
    }
    let asked = world.asked("web").max(world.asked("db"));
    assert!(asked <= 9, "in half an hour it was asked {asked} times for one certificate");
}

/// Files are read on a thread that does not know of paused time.
async fn wait_for_roots(world: &World, count: usize) {
    for _ in 0..100 {
        if world.certificates.bundle().roots() == count {
            return;
        }
        sleep(Duration::from_secs(16)).await;
    }
    panic!("{} roots are trusted", world.certificates.bundle().roots());
}

#[tokio::test]
async fn a_file_of_roots_that_cannot_be_used_stops_the_start() {
    let directory = TempDir::new().unwrap();
    let clock = Arc::new(weft_runtime::SystemClock);
    let authority = CertificateAuthority::open(directory.path(), TRUST_DOMAIN, clock.clone()).unwrap();
    let options =
        CertificateOptions { extra_roots: Some(directory.path().join("none.pem")), ..CertificateOptions::default() };
    let error = Certificates::start(Arc::new(authority), options, clock, &Tasks::new()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_when_it_is_told_to() {
    let world = World::new();
    *world.source.takes.lock().unwrap() = HOUR;
    world.certificates.want(&identity("web"));
    sleep(Duration::from_secs(1)).await;
    let drained = world.tasks.drain(Duration::from_secs(1)).await;
    assert!(drained.aborted.is_empty(), "{drained:?}");
}
