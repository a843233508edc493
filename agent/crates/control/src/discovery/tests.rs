//! Source and server against each other, over TLS on loopback.

mod certificates;
mod many;
mod plane;

use std::collections::VecDeque;
use std::time::Duration;

use weft_model::{Change, MeshOptions, PortMapping, Snapshot, Store};
use weft_transport::{ControlPlane, ControlPlaneOptions};

use self::plane::{Plane, options, policy, service, workload};
use super::*;
use crate::last_state;

/// Far more than anything here takes: a test that waits that long has failed.
const LONG: Duration = Duration::from_secs(30);

/// An agent: a source, and the store that it feeds.
struct Agent {
    discovery: Discovery,
    discovered: Discovered,
    answers: VecDeque<Wanted>,
    store: Store,
    _tasks: Tasks,
}

impl Agent {
    fn start(options: DiscoveryOptions) -> Self {
        let tasks = Tasks::new();
        let (discovery, discovered) = Discovery::start(options, &tasks);
        let mesh = MeshOptions {
            network: "net".into(),
            root_namespace: "istio-system".into(),
            trust_domain: "cluster.local".into(),
        };
        Self { discovery, discovered, answers: VecDeque::new(), store: Store::new(mesh), _tasks: tasks }
    }

    /// Takes what comes next: applies an update, keeps answers.
    async fn take(&mut self) -> Option<Update> {
        match self.discovered.news.recv().await.expect("the source lives") {
            News::Update(update) => {
                self.store.apply(update.changes.clone());
                Some(update)
            }
            News::Answers(answers) => {
                self.answers.extend(answers);
                None
            }
            News::Remembered(addresses) => {
                for address in addresses {
                    self.discovery.want(address);
                }
                None
            }
        }
    }

    /// Applies updates until the state is as it should be.
    async fn until(&mut self, what: &str, is_reached: impl Fn(&Snapshot) -> bool) -> Update {
        let mut last = Update::default();
        while !is_reached(self.store.snapshot()) {
            let taken = tokio::time::timeout(LONG, self.take()).await;
            let taken = taken.unwrap_or_else(|_| panic!("{what}: {:?}", self.discovery.status()));
            last = taken.unwrap_or(last);
        }
        last
    }

    /// The next answer, with the state as it is at that point.
    async fn answer(&mut self) -> Wanted {
        tokio::time::timeout(LONG, async {
            loop {
                if let Some(wanted) = self.answers.pop_front() {
                    return wanted;
                }
                self.take().await;
            }
        })
        .await
        .expect("an answer")
    }

    fn names(&self) -> Vec<String> {
        let snapshot = self.store.snapshot();
        let mut names: Vec<String> = snapshot.workloads().map(|workload| workload.uid.to_string()).collect();
        names.extend(snapshot.services().map(|service| service.key.to_string()));
        names.sort();
        names
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_for_everything_gets_it_and_what_changes() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &["s"]), workload(2, &[]), service("s", 1), policy("p")]).await;
    let mut agent = Agent::start(options(&plane, false));
    let first = agent.until("everything", |snapshot| snapshot.workload_count() == 2).await;
    assert_eq!(agent.store.snapshot().generation(), 1, "in one batch");
    assert_eq!((first.objects.pods, first.objects.services, first.objects.authorization_policies), (2, 1, 1));
    assert!(agent.store.snapshot().policy("a/p").is_some());
    assert_eq!(agent.store.snapshot().endpoint_count("a/s"), 1);
    plane
        .say(vec![Change::RemoveWorkload(plane::uid(2)), workload(3, &["s"]), Change::RemovePolicy("a/p".into())])
        .await;
    agent
        .until("the changes", |snapshot| snapshot.endpoint_count("a/s") == 2 && snapshot.policy("a/p").is_none())
        .await;
    assert_eq!(agent.names(), ["a/s", "c//Pod/a/1", "c//Pod/a/3"]);
    assert!(agent.discovery.status().is_connected && agent.discovery.status().is_synced);
    assert!(agent.discovery.want([10, 9, 9, 9].into()));
    assert_eq!(agent.answer().await, Wanted::Address([10, 9, 9, 9].into()), "there is nothing to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_demand_gets_what_it_wants_and_nothing_else() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &["s"]), workload(2, &[]), service("s", 1), service("t", 2), policy("p")]).await;
    let mut agent = Agent::start(options(&plane, true));
    agent.until("the policies", |snapshot| snapshot.policy("a/p").is_some()).await;
    assert!(agent.names().is_empty());
    let (virtual_address, pod, nobody) = ([10, 1, 0, 1].into(), [10, 0, 0, 2].into(), [192, 0, 2, 1].into());
    agent.discovery.want(virtual_address);
    assert_eq!(agent.answer().await, Wanted::Address(virtual_address));
    assert_eq!(agent.names(), ["a/s", "c//Pod/a/1"], "a service with its endpoints");
    agent.discovery.want(pod);
    assert_eq!(agent.answer().await, Wanted::Address(pod));
    agent.discovery.want(nobody);
    assert_eq!(agent.answer().await, Wanted::Address(nobody));
    assert_eq!(agent.names(), ["a/s", "c//Pod/a/1", "c//Pod/a/2"]);
    agent.discovery.want_named("a/t");
    agent.until("a service by name", |snapshot| snapshot.service("a/t").is_some()).await;
    // What was nobody's becomes somebody's, and an endpoint joins.
    let late = plane::with_address(workload(7, &[]), nobody);
    plane.say(vec![late, workload(8, &["s"]), workload(9, &[])]).await;
    agent
        .until("what came later", |snapshot| {
            snapshot.workload_by_address(nobody).is_some() && snapshot.endpoint_count("a/s") == 2
        })
        .await;
    assert_eq!(agent.names(), ["a/s", "a/t", "c//Pod/a/1", "c//Pod/a/2", "c//Pod/a/7", "c//Pod/a/8"]);
    agent.discovery.release(&Wanted::Address(virtual_address));
    agent.until("the service is gone", |snapshot| snapshot.workload(&plane::uid(1)).is_none()).await;
    assert_eq!(agent.names(), ["a/t", "c//Pod/a/2", "c//Pod/a/7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_known_with_all_its_endpoints_or_not_at_all() {
    // More than one message holds.
    const ENDPOINTS: u32 = 16_000;
    let plane = Plane::start().await;
    let mut state: Vec<Change> = (0..ENDPOINTS).map(|number| workload(number, &["s"])).collect();
    state.push(service("s", 1));
    plane.say(state).await;
    let mut agent = Agent::start(options(&plane, true));
    agent.until("the first word", |snapshot| snapshot.generation() == 0).await;
    agent.discovery.want([10, 1, 0, 1].into());
    agent.until("the service", |snapshot| snapshot.service("a/s").is_some()).await;
    assert_eq!(agent.store.snapshot().endpoint_count("a/s"), ENDPOINTS as usize);
    assert_eq!(agent.answer().await, Wanted::Address([10, 1, 0, 1].into()));
    let pushes = plane.server.counts().pushes;
    assert!(pushes > 4, "it came in {pushes} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_no_answer() {
    let plane = Plane::start().await;
    let Change::PutWorkload(mut broken) = workload(1, &["s"]) else { unreachable!("it is one") };
    broken.services[0].ports = vec![PortMapping { service_port: 0, target_port: 80 }];
    plane.say(vec![Change::PutWorkload(broken), workload(2, &[]), policy("p")]).await;
    let mut agent = Agent::start(options(&plane, true));
    // Asked for when the stream begins, and later: others are answered.
    agent.discovery.want([10, 0, 0, 1].into());
    agent.discovery.want([10, 0, 0, 2].into());
    assert_eq!(agent.answer().await, Wanted::Address([10, 0, 0, 2].into()));
    agent.discovery.release(&Wanted::Address([10, 0, 0, 1].into()));
    agent.discovery.want([10, 0, 0, 1].into());
    agent.discovery.want([10, 0, 0, 3].into());
    assert_eq!(agent.answer().await, Wanted::Address([10, 0, 0, 3].into()));
    plane.say(vec![workload(1, &[])]).await;
    assert_eq!(agent.answer().await, Wanted::Address([10, 0, 0, 1].into()), "it is good now");
    assert!(agent.store.snapshot().workload(&plane::uid(1)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_and_wanted_again_at_once_is_answered_anew() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &[])]).await;
    let mut agent = Agent::start(options(&plane, true));
    let address = Wanted::Address([10, 0, 0, 1].into());
    agent.discovery.want([10, 0, 0, 1].into());
    for round in 0..20 {
        assert_eq!(agent.answer().await, address, "round {round}");
        assert!(agent.store.snapshot().workload(&plane::uid(1)).is_some(), "round {round}");
        agent.discovery.release(&address);
        agent.discovery.want([10, 0, 0, 1].into());
    }
    assert_eq!(agent.discovery.status().streams, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_comes_back_sends_only_what_changed_meanwhile() {
    for on_demand in [false, true] {
        let plane = Plane::start().await;
        let state = || vec![workload(1, &["s"]), workload(2, &["s"]), service("s", 1), policy("p")];
        plane.say(state()).await;
        let mut agent = Agent::start(options(&plane, on_demand));
        agent.discovery.want([10, 1, 0, 1].into());
        agent.until("everything", |snapshot| snapshot.workload_count() == 2).await;
        let plane = plane.restart().await;
        let has_come_back = || plane.server.counts().streams == 1;
        plane::eventually("the agent comes back", has_come_back).await;
        assert_eq!(agent.names().len(), 3, "everything is kept while nothing is known");
        assert_eq!(plane.server.counts().pushes, 0, "and nothing is said before the source has spoken");
        plane.say(state()).await;
        plane::eventually("both types are answered", || plane.server.counts().pushes == 2).await;
        assert_eq!(plane.server.counts().resources, 0, "what is known is not sent again");
        plane.say(vec![workload(3, &["s"]), Change::RemoveWorkload(plane::uid(1))]).await;
        agent
            .until("the changes", |snapshot| {
                snapshot.workload(&plane::uid(3)).is_some() && snapshot.workload(&plane::uid(1)).is_none()
            })
            .await;
        assert_eq!(plane.server.counts().resources, 1);
        assert_eq!(agent.discovery.status().streams, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_known_before_holds_until_the_controller_speaks_and_nothing_of_it_stays() {
    for on_demand in [false, true] {
        let plane = Plane::start().await;
        let mut before = Agent::start(options(&plane, on_demand));
        let mesh = vec![workload(1, &["s"]), workload(2, &[]), service("s", 1), policy("p"), policy("old")];
        before.store.apply(mesh);
        let (service_address, gone, outside) = ([10, 1, 0, 1].into(), [10, 0, 0, 2].into(), [192, 0, 2, 1].into());
        let answered = if on_demand { vec![service_address, gone, outside] } else { Vec::new() };
        let bytes = last_state::encode(before.store.snapshot(), &answered, "plane", "net", SystemTime::now());
        let last = last_state::decode(&bytes, "plane").expect("it is what was written");

        let mut agent = Agent::start(options(&plane, on_demand));
        agent.discovery.remember(last.clone()).await;
        agent.until("what was known before", |snapshot| snapshot.workload_count() == 2).await;
        assert_eq!(agent.store.snapshot().endpoint_count("a/s"), 1);
        assert!(agent.store.snapshot().policy("a/old").is_some());
        assert!(agent.discovery.status().remembered.is_some() && !agent.discovery.status().is_synced);
        for address in &answered {
            assert_eq!(agent.answer().await, Wanted::Address(*address), "what is not there is outside");
        }
        // The service has another endpoint now, and a pod and a policy are gone.
        plane.say(vec![workload(3, &["s"]), service("s", 1), policy("p")]).await;
        let is_present = |snapshot: &Snapshot| {
            snapshot.workload_count() == 1 && snapshot.endpoint_count("a/s") == 1 && snapshot.policy("a/old").is_none()
        };
        agent.until("the present", is_present).await;
        assert_eq!(agent.names(), ["a/s", "c//Pod/a/3"]);
        assert!(agent.store.snapshot().policy("a/p").is_some());
        plane::eventually("it says so", || agent.discovery.status().remembered.is_none()).await;
        // Too late: the controller has spoken.
        agent.discovery.remember(last).await;
        plane.say(vec![Change::RemovePolicy("a/p".into())]).await;
        agent.until("what came next", |snapshot| snapshot.policy("a/p").is_none()).await;
        assert_eq!(agent.names(), ["a/s", "c//Pod/a/3"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_while_the_controller_was_away_goes_when_it_is_back() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &[]), workload(2, &[]), policy("p")]).await;
    let mut agent = Agent::start(options(&plane, false));
    agent.until("everything", |snapshot| snapshot.workload_count() == 2).await;
    let plane = plane.restart().await;
    plane.say(vec![workload(2, &["s"])]).await;
    agent.until("the present", |snapshot| snapshot.workload_count() == 1 && snapshot.policy("a/p").is_none()).await;
    assert_eq!(agent.store.snapshot().endpoint_count("a/s"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_with_the_reason_and_its_last_good_version_stays() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &["s"]), workload(2, &[])]).await;
    let mut agent = Agent::start(options(&plane, false));
    agent.until("everything", |snapshot| snapshot.workload_count() == 2).await;
    let Change::PutWorkload(mut broken) = workload(1, &["s"]) else { unreachable!("it is one") };
    broken.name = "renamed".into();
    broken.services[0].ports = vec![PortMapping { service_port: 0, target_port: 80 }];
    plane.say(vec![Change::PutWorkload(broken), workload(3, &[])]).await;
    let update = agent.until("what is good", |snapshot| snapshot.workload(&plane::uid(3)).is_some()).await;
    let kept = agent.store.snapshot().workload(&plane::uid(1)).expect("it is kept");
    assert_eq!(&*kept.name, "1");
    let problem = update.problems[0].to_string();
    assert!(problem.contains("c//Pod/a/1: services[a/s].ports[0].service_port: 0 is no port"), "{problem}");
    plane::eventually("the refusal arrives", || plane.server.counts().refusals == 1).await;
    assert_eq!(agent.discovery.status().refusals, 1);
    plane.say(vec![workload(1, &[])]).await;
    let update = agent.until("it is good again", |snapshot| snapshot.endpoint_count("a/s") == 0).await;
    assert!(update.problems.is_empty(), "{:?}", update.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_anew_and_nothing_is_said_without_a_good_one() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &[])]).await;
    let token = plane.dir.path().join("token");
    std::fs::write(&token, "wrong").expect("a file");
    let mut agent = Agent::start(options(&plane, false));
    plane::eventually("it is refused", || plane.server.counts().unauthenticated > 1).await;
    let status = agent.discovery.status();
    assert!(status.last_error.is_some_and(|error| error.contains("the token is not known")));
    assert_eq!(plane.server.counts().pushes, 0);
    std::fs::write(&token, plane::TOKEN).expect("a file");
    agent.until("it is let in", |snapshot| snapshot.workload_count() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_the_roots_do_not_vouch_for_is_not_talked_to() {
    let plane = Plane::start().await;
    let other = Plane::start().await;
    let connect = async |url: String, roots: &Plane| {
        let options = ControlPlaneOptions { url, roots: roots.roots(), token: None };
        ControlPlane::new(options).expect("an address").connect().await.expect_err("it is not trusted").to_string()
    };
    let error = connect(format!("https://localhost:{}", plane.port()), &other).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    let error = connect(format!("https://127.0.0.1:{}", plane.port()), &plane).await;
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_waypoint_is_told_of_routes() {
    let plane = Plane::start().await;
    plane.say(vec![workload(1, &[])]).await;
    let route = Arc::new(crate::istio::arbitrary::route(&mut fastrand::Rng::with_seed(2)));
    plane.world.apply_routes(vec![weft_route::RouteChange::Put(Arc::clone(&route))]).await;
    let asking = || DiscoveryOptions { with_routes: true, ..options(&plane, false) };
    let agent = Agent::start(asking());
    let is_refused = || {
        let error = agent.discovery.status().last_error;
        error.is_some_and(|error| error.contains("only waypoints are told of routes"))
    };
    plane::eventually("it is refused", is_refused).await;
    assert!(!agent.discovery.status().is_synced);
    drop(agent);
    std::fs::write(plane.dir.path().join("token"), plane::WAYPOINT_TOKEN).expect("a file");
    let mut waypoint = Agent::start(asking());
    let update = waypoint.until("everything", |snapshot| snapshot.workload_count() == 1).await;
    assert_eq!(update.routes, [weft_route::RouteChange::Put(route)]);
}
