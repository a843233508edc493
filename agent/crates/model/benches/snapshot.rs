//! What the model costs at 1,000, 10,000 and 100,000 workloads: to load, to keep, to publish one change in, and to ask.
//!
//! `cargo bench -p weft-model`. Times are processor time of the one thread, so that what else runs on the machine
//! disturbs them little; "publish" is applying a batch of one changed pod, making its snapshot current, and freeing
//! the one before.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weft_model::{
    Action, Balancer, Change, Clause, ClientIpAffinity, EndpointCondition, Health, Identity, Locality, Match,
    Membership, MeshOptions, Peer, Policy, PolicyScope, PortMapping, Rule, Service, ServicePort, Snapshot,
    SnapshotCell, Store, StringMatch, TrafficDistribution, TunnelProtocol, Workload, intern,
};

/// Counts the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; an atomic counter beside it cannot fail.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(rounded(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(rounded(layout), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What glibc takes for an allocation: 8 bytes more, in steps of 16, at least 32.
fn rounded(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

/// Measures the processor time of this thread.
struct Stopwatch(Duration);

impl Stopwatch {
    fn start() -> Self {
        Self(Self::now())
    }

    fn elapsed(&self) -> Duration {
        Self::now() - self.0
    }

    fn now() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec that lives through the call.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(result, 0, "clock_gettime(CLOCK_THREAD_CPUTIME_ID) failed");
        let seconds = u64::try_from(time.tv_sec).expect("time is not negative");
        Duration::new(seconds, u32::try_from(time.tv_nsec).expect("it is less than a second"))
    }
}

/// How many objects an agent asks about again and again.
const USUAL: u32 = 500;

fn main() {
    let columns: Vec<Vec<(&str, String)>> = [1_000, 10_000, 100_000].into_iter().map(measure).collect();
    for row in 0..columns[0].len() {
        let name = columns[0][row].0;
        println!("{name:<44}{}", columns.iter().map(|column| format!("{:>22}", column[row].1)).collect::<String>());
    }
}

fn measure(count: u32) -> Vec<(&'static str, String)> {
    let mut rows = vec![("workloads", count.to_string())];
    // Before any other store has interned the same strings.
    rows.extend(memory(count));
    let load = || {
        let mut batch = services(count);
        batch.extend(policies(count));
        batch.extend(pods(count, false));
        let mut store = Store::new(mesh());
        let start = Stopwatch::start();
        store.apply(batch);
        (start.elapsed(), store)
    };
    let (time, mut store) = (0..5).map(|_| load()).min_by_key(|(time, _)| *time).expect("there are five");
    rows.push(("load all in one batch, best of 5", format!("{:.1} ms", time.as_secs_f64() * 1e3)));
    let cell = SnapshotCell::new(Arc::clone(store.snapshot()));
    rows.push(("publish one changed pod, p50 / p99", publish(&mut store, &cell, count, false)));
    for (is_usual, names) in [
        (
            true,
            [
                "workload by address, of 500",
                "workload by uid, of 500",
                "resolve, of 500",
                "resolve with ClientIP, of 500",
                "resolve with PreferSameZone, of 500",
                "authorize, of 500",
            ],
        ),
        (
            false,
            [
                "workload by address, of all",
                "workload by uid, of all",
                "resolve, of all",
                "resolve with ClientIP, of all",
                "resolve with PreferSameZone, of all",
                "authorize, of all",
            ],
        ),
    ] {
        let ask = Ask::new(cell.load(), count, is_usual);
        let resolve = |kind: u32| {
            ask.nanoseconds(move |ask, n| {
                // Services are of three kinds by turns.
                let service = n / 3 / 3 * 3 + kind;
                let destination = SocketAddr::new(service_address(service % (ask.count / 9 * 3)), 80);
                let client = pod_address(n % USUAL);
                black_box(ask.snapshot.resolve(&ask.source, client, destination, &ask.balancer).expect("it resolves"));
            })
        };
        let times = [
            ask.nanoseconds(|ask, n| {
                black_box(ask.snapshot.workload_by_address(pod_address(n)));
            }),
            ask.nanoseconds(|ask, n| {
                black_box(ask.snapshot.workload(&ask.uids[n as usize]));
            }),
            resolve(0),
            resolve(1),
            resolve(2),
            ask.nanoseconds(|ask, n| {
                let destination = SocketAddr::new(pod_address(n), 8080);
                let peer = Peer { identity: Some(&ask.source.identity), source: pod_address(7), destination };
                assert!(ask.snapshot.authorize(&ask.workloads[n as usize], &peer).is_allowed());
            }),
        ];
        rows.extend(names.into_iter().zip(times.map(|time| format!("{time} ns"))));
    }
    for (name, distribution) in [
        ("publish, all in one service, p50 / p99", TrafficDistribution::Any),
        ("the same with PreferSameZone", TrafficDistribution::PreferSameZone),
    ] {
        let everyone = Service { traffic_distribution: distribution, ..service(EVERYONE) };
        let batch = [pods(count, true), vec![Change::PutService(everyone)]].concat();
        cell.publish(store.apply(batch).snapshot);
        rows.push((name, publish(&mut store, &cell, count, true)));
    }
    rows
}

/// What each kind of object takes.
fn memory(count: u32) -> Vec<(&'static str, String)> {
    let start = IN_USE.load(Ordering::Relaxed);
    let mut store = Store::new(mesh());
    let mut before = IN_USE.load(Ordering::Relaxed);
    let mut rows = vec![("memory, empty", format!("{:.2} MB", (before - start) as f64 / 1e6))];
    let mut load = |name: &'static str, batch: Vec<Change>| {
        // The batch is made before the store is looked at, and gone afterwards.
        let size: usize = batch.len();
        drop(store.apply(batch));
        let now = IN_USE.load(Ordering::Relaxed);
        rows.push((name, format!("{:.1} MB, {} B each", (now - before) as f64 / 1e6, (now - before) / size)));
        before = now;
    };
    load("memory, workloads", pods(count, false));
    load("memory, services (a third as many)", services(count));
    load("memory, policies (a third as many)", policies(count));
    rows
}

/// Median and 99th percentile of publishing one changed pod.
fn publish(store: &mut Store, cell: &SnapshotCell, count: u32, is_big: bool) -> String {
    let mut random = fastrand::Rng::with_seed(5);
    let mut times: Vec<Duration> = (1..=3000)
        .map(|revision| {
            let changed = vec![Change::PutWorkload(pod(random.u32(..count), revision, is_big))];
            let start = Stopwatch::start();
            let applied = store.apply(changed);
            cell.publish(applied.snapshot);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let micros = |index: usize| times[index].as_secs_f64() * 1e6;
    format!("{:.1}/{:.1} µs", micros(times.len() / 2), micros(times.len() * 99 / 100))
}

/// Everything that a question needs, so that only the question is timed.
struct Ask {
    snapshot: Arc<Snapshot>,
    count: u32,
    uids: Vec<Arc<str>>,
    workloads: Vec<Arc<Workload>>,
    source: Workload,
    balancer: Balancer,
}

impl Ask {
    fn new(snapshot: Arc<Snapshot>, count: u32, is_usual: bool) -> Self {
        let count = if is_usual { USUAL } else { count };
        let uids: Vec<Arc<str>> = (0..count).map(|n| pod(n, 0, false).uid).collect();
        let workloads = uids.iter().map(|uid| Arc::clone(snapshot.workload(uid).expect("it was put"))).collect();
        Self { snapshot, count, uids, workloads, source: pod(0, 0, false), balancer: Balancer::new() }
    }

    /// The time of one question about a random object: caches are as cold as they are in reality.
    fn nanoseconds(&self, question: impl Fn(&Self, u32)) -> u128 {
        let mut random = fastrand::Rng::with_seed(9);
        let order: Vec<u32> = (0..300_000).map(|_| random.u32(..self.count)).collect();
        let start = Stopwatch::start();
        for n in &order {
            question(self, *n);
        }
        start.elapsed().as_nanos() / order.len() as u128
    }
}

const EVERYONE: u32 = 1 << 20;

fn mesh() -> MeshOptions {
    MeshOptions { network: "".into(), root_namespace: "istio-system".into(), trust_domain: "cluster.local".into() }
}

fn pod_address(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

fn service_address(n: u32) -> IpAddr {
    Ipv4Addr::from(0xac10_0000 + n).into()
}

fn pods(count: u32, is_everyone: bool) -> Vec<Change> {
    (0..count).map(|n| Change::PutWorkload(pod(n, 0, is_everyone))).collect()
}

/// One for three pods.
fn services(count: u32) -> Vec<Change> {
    (0..count.div_ceil(3)).map(|n| Change::PutService(service(n))).collect()
}

/// One for each service, and one for each namespace of thirty services.
fn policies(count: u32) -> Vec<Change> {
    let services = count.div_ceil(3);
    let of_services = (0..services).map(|n| {
        let key = format!("namespace-{}/allow-{n}", n / 30);
        policy(&key, PolicyScope::Workload, Action::Allow, "namespace-0")
    });
    let of_namespaces = (0..services.div_ceil(30))
        .map(|n| policy(&format!("namespace-{n}/deny"), PolicyScope::Namespace, Action::Deny, "untrusted"));
    of_services.chain(of_namespaces).map(Change::PutPolicy).collect()
}

fn service_key(n: u32) -> Arc<str> {
    intern(&format!("namespace-{}/service-{n}.namespace-{}.svc.cluster.local", n / 30, n / 30))
}

/// Every third one with session affinity, every third with a preferred zone.
fn service(n: u32) -> Service {
    let key = service_key(n);
    let distributions = [TrafficDistribution::Any, TrafficDistribution::Any, TrafficDistribution::PreferSameZone];
    Service {
        name: format!("service-{n}").into(),
        namespace: format!("namespace-{}", n / 30).into(),
        hostname: key.split_once('/').expect("the key has a namespace").1.into(),
        addresses: vec![service_address(n)],
        ports: vec![ServicePort { port: 80, name: "http".into(), ..ServicePort::default() }],
        session_affinity: (n % 3 == 1).then(ClientIpAffinity::default),
        traffic_distribution: distributions[n as usize % 3],
        key,
        ..Service::default()
    }
}

fn pod(n: u32, revision: u32, is_everyone: bool) -> Workload {
    let service = n / 3;
    let namespace = format!("namespace-{}", service / 30);
    let owner = format!("service-{service}");
    let name = format!("service-{service}-5d4f8c7b9d-{:05x}", n.wrapping_mul(0x9e37) & 0xf_ffff);
    let membership = |service| Membership {
        service: service_key(service),
        ports: vec![PortMapping { service_port: 80, target_port: 8080 }],
        condition: EndpointCondition::Ready,
        waypoint: None,
    };
    let mut services = vec![membership(service)];
    if is_everyone {
        services.push(membership(EVERYONE));
    }
    Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{name}-{n}").into(),
        instance: format!("{n:08x}-1c2d-4e5f-8a9b-0123456789ab").into(),
        name: name.into(),
        identity: Identity::new("cluster.local", &namespace, &owner).expect("it is valid"),
        namespace: intern(&namespace),
        cluster: intern("Kubernetes"),
        network: intern(""),
        node: intern(&format!("node-{}", n % 200)),
        addresses: vec![pod_address(n)],
        protocol: TunnelProtocol::Hbone,
        is_host_network: false,
        workload_name: intern(&owner),
        workload_type: intern("deployment"),
        canonical_service: intern(&owner),
        canonical_revision: intern("latest"),
        app: intern(&owner),
        version: intern(&format!("v{revision}")),
        locality: Locality { region: intern("eu"), zone: intern(&format!("eu-{}", n % 3)), subzone: intern("") },
        health: Health::Healthy,
        policies: vec![intern(&format!("{namespace}/allow-{service}"))],
        services,
        waypoint: None,
    }
}

fn policy(key: &str, scope: PolicyScope, action: Action, from: &str) -> Policy {
    let matches = vec![Match { namespaces: vec![StringMatch::Exact(from.into())], ..Match::default() }];
    let rules = vec![Rule { clauses: vec![Clause { matches }] }];
    let namespace = key.split_once('/').expect("the key has a namespace").0.into();
    Policy { key: key.into(), namespace, scope, action, dry_run: false, rules }
}
