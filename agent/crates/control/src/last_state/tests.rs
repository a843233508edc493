use fastrand::Rng;
use weft_model::{Change, MeshOptions, Store};

use super::*;
use crate::istio::arbitrary;

fn store(changes: Vec<Change>) -> Store {
    let mesh = MeshOptions {
        network: "net".into(),
        root_namespace: "istio-system".into(),
        trust_domain: "cluster.local".into(),
    };
    let mut store = Store::new(mesh);
    store.apply(changes);
    store
}

fn changes(count: usize) -> Vec<Change> {
    let mut rng = Rng::with_seed(7);
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(Change::PutWorkload(arbitrary::workload(&mut rng)));
        all.push(Change::PutService(arbitrary::service(&mut rng)));
        all.push(Change::PutPolicy(arbitrary::policy(&mut rng)));
    }
    all
}

fn written() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

#[test]
fn what_was_written_is_read_again() {
    let store = store(changes(50));
    let snapshot = store.snapshot();
    let answered: Vec<IpAddr> = vec![[192, 0, 2, 1].into(), "2001:db8::1".parse().expect("an address")];
    let bytes = encode(snapshot, &answered, "plane", "net", written());
    let last = decode(&bytes, "plane").expect("it is whole");
    assert_eq!((last.written, last.answered), (written(), answered));
    assert_eq!(last.addresses.len(), snapshot.workload_count() + snapshot.services().count());
    assert_eq!(last.policies.len(), snapshot.policies().count());
    for (type_url, resources) in [(ADDRESS, last.addresses), (AUTHORIZATION, last.policies)] {
        for resource in resources {
            let content = resource.resource.expect("its content").value;
            let read = istio::decode(type_url, &resource.name, &content, "net").expect("what was known is read");
            match read.change {
                Change::PutWorkload(read) => {
                    assert_eq!(Some(&read), snapshot.workload(&read.uid).map(|known| &**known))
                }
                Change::PutService(read) => assert_eq!(Some(&read), snapshot.service(&read.key).map(|known| &**known)),
                Change::PutPolicy(read) => assert_eq!(Some(&read), snapshot.policy(&read.key).map(|known| &**known)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn bytes_that_are_damaged_anywhere_are_not_read() {
    let bytes = encode(store(changes(1)).snapshot(), &[], "plane", "net", written());
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length], "plane").is_err(), "of {} bytes {length}", bytes.len());
    }
    for place in 0..bytes.len() {
        let mut other = bytes.clone();
        other[place] ^= 1;
        assert!(decode(&other, "plane").is_err(), "the byte {place} is another one");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(decode(&longer, "plane").is_err());
}

#[test]
fn what_is_of_somebody_else_is_said_to_be() {
    let bytes = encode(store(Vec::new()).snapshot(), &[], "plane", "net", written());
    assert_eq!(decode(&bytes, "another").unwrap_err(), LastStateError::OfAnother("plane".to_owned()));
    assert_eq!(decode(b"[{}]", "plane").unwrap_err(), LastStateError::Foreign);
    let mut newer = bytes;
    newer[MARK.len()..MARK.len() + 4].copy_from_slice(&2_u32.to_be_bytes());
    assert_eq!(decode(&newer, "plane").unwrap_err(), LastStateError::Version(2));
}
