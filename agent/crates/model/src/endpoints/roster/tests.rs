use super::*;
use crate::endpoints::Placement;
use crate::fixture::pod;
use crate::workload::EndpointCondition;

fn endpoint(number: u32, node: Place, scatter: u32) -> Endpoint {
    let workload = Arc::new(pod(&format!("pod-{number}"), &[]).of("web", EndpointCondition::Ready));
    Endpoint::new(&workload, 0, Placement { node, zone: 0, scatter, is_reachable: true })
}

/// Checks what the roster says of itself against its content in any order.
fn check(roster: &mut Roster, expected: &[Endpoint]) {
    roster.seal();
    assert_eq!((roster.len(), roster.is_empty()), (expected.len(), expected.is_empty()));
    assert_eq!(roster.iter().count(), expected.len());
    assert!(roster.get(expected.len()).is_none());
    for (position, found) in roster.iter().enumerate() {
        assert!(roster.get(position).expect("it is not past the end").is(found));
    }
    for endpoint in expected {
        let position = roster.position(endpoint).expect("it is in the roster");
        assert!(roster.group(endpoint.node).contains(&position), "{position} is outside of its group");
    }
    for node in 0..5 {
        let wanted = expected.iter().filter(|endpoint| endpoint.node == node).count();
        assert_eq!(roster.group(node).len(), wanted, "group {node}");
    }
    assert!(roster.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.endpoints.len())));
    let small = |pair: &[Chunk]| pair[0].endpoints.len() + pair[1].endpoints.len() < CHUNK / 2;
    assert!(!roster.chunks.windows(2).any(small), "two small neighbours");
}

#[test]
fn it_is_a_sorted_list_after_any_edits() {
    let mut random = fastrand::Rng::with_seed(1);
    // Few different keys make long runs of equal ones, which splits cut in two.
    for distinct in [3, 50, 100_000] {
        let mut roster = Roster::new(Grouping::Node);
        let mut expected: Vec<Endpoint> = Vec::new();
        for wave in [2000, 100, 1500, 0] {
            while expected.len() != wave {
                if expected.len() < wave || random.u8(..5) == 0 {
                    let number = u32::try_from(expected.len()).expect("it is small");
                    let endpoint = endpoint(number, random.u32(0..5), random.u32(0..distinct));
                    roster.insert(endpoint.clone());
                    expected.push(endpoint);
                } else {
                    let endpoint = expected.swap_remove(random.usize(..expected.len()));
                    roster.remove(&endpoint);
                    roster.remove(&endpoint);
                }
                if random.u8(..100) == 0 {
                    check(&mut roster, &expected);
                }
            }
            check(&mut roster, &expected);
        }
    }
}

#[test]
fn a_change_copies_one_chunk() {
    let mut roster = Roster::new(Grouping::None);
    for number in 0..5000 {
        roster.insert(endpoint(number, 0, number));
    }
    roster.seal();
    let before = roster.clone();
    let changed = before.get(2500).expect("it is there").clone();
    roster.remove(&changed);
    roster.insert(changed);
    roster.seal();
    let pairs = before.chunks.iter().zip(&roster.chunks);
    let shared = pairs.filter(|(a, b)| Arc::ptr_eq(&a.endpoints, &b.endpoints)).count();
    assert_eq!(shared, before.chunks.len() - 1);
}

#[test]
fn a_workload_is_found_by_uid_among_those_of_the_same_key() {
    let mut roster = Roster::new(Grouping::None);
    for number in 0..2000 {
        roster.insert(endpoint(number, 0, number % 3));
    }
    roster.seal();
    for number in [0, 1, 2, 997, 1999] {
        let uid = format!("Kubernetes//Pod/default/pod-{number}");
        let found = roster.find(&uid, number % 3).expect("it is there");
        assert_eq!(*found.workload.uid, *uid);
        assert!(roster.find(&uid, number % 3 + 1).is_none());
    }
}
