//! The data path asks the snapshot once or twice per connection: what it asks must not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_model::{
    Action, Balancer, Change, Clause, EndpointCondition, Health, Identity, Locality, Match, Membership, MeshOptions,
    Peer, Policy, PolicyScope, PortMapping, Rule, Service, ServicePort, SnapshotCell, Store, StringMatch,
    TunnelProtocol, Workload,
};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; counting in a constant-initialized thread-local without a
// destructor allocates nothing and cannot fail.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(of: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    of();
    ALLOCATIONS.with(Cell::get) - before
}

fn workload(identity: &Identity) -> Workload {
    let empty: Arc<str> = "".into();
    Workload {
        uid: "Kubernetes//Pod/default/a".into(),
        instance: empty.clone(),
        name: "a".into(),
        namespace: "default".into(),
        identity: identity.clone(),
        cluster: "Kubernetes".into(),
        network: empty.clone(),
        node: "node-1".into(),
        addresses: vec!["10.0.0.1".parse().expect("a valid address")],
        protocol: TunnelProtocol::Hbone,
        is_host_network: false,
        workload_name: "a".into(),
        workload_type: "deployment".into(),
        canonical_service: "a".into(),
        canonical_revision: empty.clone(),
        app: empty.clone(),
        version: empty,
        locality: Locality::default(),
        health: Health::Healthy,
        policies: vec!["default/own".into()],
        services: vec![Membership {
            service: "default/a".into(),
            ports: vec![PortMapping { service_port: 80, target_port: 8080 }],
            condition: EndpointCondition::Ready,
            waypoint: None,
        }],
        waypoint: None,
    }
}

fn policy(key: &str, scope: PolicyScope, action: Action, namespace: &str) -> Policy {
    let namespaces = vec![StringMatch::Exact(namespace.into())];
    let matches = vec![Match { namespaces, ..Match::default() }];
    let rules = vec![Rule { clauses: vec![Clause { matches }] }];
    Policy { key: key.into(), namespace: "default".into(), scope, action, dry_run: false, rules }
}

#[test]
fn asking_a_snapshot_allocates_nothing() {
    let identity: Identity = "spiffe://cluster.local/ns/default/sa/a".parse().expect("a valid identity");
    let service = Service {
        key: "default/a".into(),
        addresses: vec!["10.1.0.1".parse().expect("a valid address")],
        ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
        session_affinity: None,
        ..Service::default()
    };
    let mut store = Store::new(MeshOptions::default());
    let cell = SnapshotCell::new(Arc::clone(store.snapshot()));
    let mut reader = cell.reader();
    let applied = store.apply(vec![
        Change::PutWorkload(workload(&identity)),
        Change::PutService(service),
        Change::PutPolicy(policy("default/mesh", PolicyScope::Mesh, Action::Deny, "x")),
        Change::PutPolicy(policy("default/namespace", PolicyScope::Namespace, Action::Allow, "y")),
        Change::PutPolicy(policy("default/own", PolicyScope::Workload, Action::Allow, "default")),
    ]);
    cell.publish(applied.snapshot);

    let client: IpAddr = "10.0.0.9".parse().expect("a valid address");
    let destination: SocketAddr = "10.1.0.1:80".parse().expect("a valid address");
    let balancer = Balancer::new();
    let count = allocations(|| {
        let snapshot = reader.load();
        let source = snapshot.workload("Kubernetes//Pod/default/a").expect("it was put");
        assert!(snapshot.is_mesh(destination.ip()));
        let upstream = snapshot.resolve(source, client, destination, &balancer).expect("there is an endpoint");
        let peer = Peer { identity: Some(&identity), source: client, destination: upstream.address };
        assert!(snapshot.authorize(&upstream.workload, &peer).is_allowed());
    });
    assert_eq!(count, 0);
}
