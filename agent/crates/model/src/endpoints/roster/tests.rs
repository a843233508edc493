use super::*;
use crate::fixture::pod;

fn endpoint(number: u32) -> Arc<Endpoint> {
    let workload = Arc::new(pod(&format!("pod-{number}"), &[]));
    Arc::new(Endpoint { workload, membership: 0, node: 0, zone: 0, scatter: number, is_reachable: true })
}

/// The roster's content as a plain sorted list, checked against everything that the roster says of itself.
fn check(roster: &mut Roster, expected: &[(u64, Arc<Endpoint>)]) {
    roster.seal();
    assert_eq!((roster.len(), roster.is_empty()), (expected.len(), expected.is_empty()));
    assert_eq!(roster.iter().count(), expected.len());
    assert!(roster.get(expected.len()).is_none());
    for (position, found) in roster.iter().enumerate() {
        assert!(Arc::ptr_eq(roster.get(position).expect("it is not past the end"), found));
    }
    for (key, endpoint) in expected {
        let (position, _) = roster.find(*key, |other| Arc::ptr_eq(other, endpoint)).expect("it is in the roster");
        let group = (*key >> 32) as u32;
        assert!(roster.group(group).contains(&position), "{position} is outside of group {group}");
    }
    for group in 0..5 {
        let wanted = expected.iter().filter(|(key, _)| (*key >> 32) as u32 == group).count();
        assert_eq!(roster.group(group).len(), wanted, "group {group}");
    }
    for chunk in &roster.chunks {
        assert!((1..=CHUNK).contains(&chunk.items.len()));
    }
}

#[test]
fn it_is_a_sorted_list_after_any_edits() {
    let mut random = fastrand::Rng::with_seed(1);
    // Few different keys make long runs of equal ones, which splits cut in two.
    for distinct in [3, 50, 100_000] {
        let mut roster = Roster::default();
        let mut expected: Vec<(u64, Arc<Endpoint>)> = Vec::new();
        let mut is_growing = true;
        for step in 0..3000 {
            is_growing = if expected.len() > 1000 { false } else { is_growing || expected.is_empty() };
            if is_growing || random.u32(..10) < 3 {
                let key = key(random.u32(0..5), random.u32(0..distinct));
                let endpoint = endpoint(step);
                roster.insert(key, Arc::clone(&endpoint));
                expected.push((key, endpoint));
            } else {
                let (key, endpoint) = expected.swap_remove(random.usize(..expected.len()));
                let removed = roster.remove(key, |other| Arc::ptr_eq(other, &endpoint)).expect("it is there");
                assert!(Arc::ptr_eq(&removed, &endpoint));
                assert!(roster.remove(key, |other| Arc::ptr_eq(other, &endpoint)).is_none());
            }
            if step % 100 == 0 {
                check(&mut roster, &expected);
            }
        }
        check(&mut roster, &expected);
    }
}

#[test]
fn a_change_copies_one_chunk() {
    let mut roster = Roster::default();
    for number in 0..10_000 {
        roster.insert(key(0, number), endpoint(number));
    }
    roster.seal();
    let before = roster.clone();
    let removed = roster.remove(key(0, 5000), |_| true).expect("it is there");
    roster.insert(key(0, 5000), removed);
    roster.seal();
    let shared = before.chunks.iter().zip(&roster.chunks).filter(|(a, b)| Arc::ptr_eq(&a.items, &b.items)).count();
    assert_eq!(shared, before.chunks.len() - 1);
}

#[test]
fn an_emptied_roster_keeps_no_chunks() {
    let mut roster = Roster::default();
    for number in 0..1000 {
        roster.insert(key(0, number), endpoint(number));
    }
    for number in 0..1000 {
        roster.remove(key(0, number), |_| true).expect("it is there");
    }
    assert!(roster.is_empty());
}
