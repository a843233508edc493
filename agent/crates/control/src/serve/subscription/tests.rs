use std::net::IpAddr;

use fastrand::Rng;
use weft_model::{EndpointCondition, Membership, Service, Workload};

use super::super::catalog::Encoded;
use super::*;
use crate::istio::arbitrary;

const ENOUGH: usize = usize::MAX;

fn name(number: u8) -> String {
    format!("c//Pod/a/{number}")
}

fn workload(number: u8, services: &[&str]) -> Workload {
    let mut workload = arbitrary::workload(&mut Rng::with_seed(number.into()));
    (workload.uid, workload.network, workload.is_host_network) = (name(number).into(), "".into(), false);
    workload.addresses = vec![IpAddr::from([10, 0, 0, number])];
    let membership = |service: &&str| Membership {
        service: (*service).into(),
        ports: vec![],
        condition: EndpointCondition::Ready,
        waypoint: None,
    };
    workload.services = services.iter().map(membership).collect();
    workload
}

fn service(name: &str, last: u8) -> Service {
    Service {
        key: format!("a/{name}").into(),
        namespace: "a".into(),
        hostname: name.into(),
        addresses: vec![IpAddr::from([10, 1, 0, last])],
        ..Service::default()
    }
}

fn put(catalog: &mut Catalog, workload: &Workload) {
    catalog.put(Encoded::workload(workload, ""));
}

fn catalog(count: u8) -> Catalog {
    let mut catalog = Catalog::default();
    (0..count).for_each(|number| put(&mut catalog, &workload(number, &[])));
    catalog
}

fn wish(subscribe: &[&str], unsubscribe: &[&str]) -> Wish {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Wish { subscribe: owned(subscribe), unsubscribe: owned(unsubscribe), known: BTreeMap::new() }
}

/// Names that a push brings and names that it takes, sorted.
fn told(push: Option<Push>) -> (Vec<String>, Vec<String>) {
    let Some(push) = push else { return Default::default() };
    let mut entries: Vec<String> = push.entries.iter().map(|entry| entry.name.to_string()).collect();
    let mut removed: Vec<String> = push.removed.iter().map(|name| name.to_string()).collect();
    entries.sort();
    removed.sort();
    (entries, removed)
}

fn next(subscription: &mut Subscription, catalog: &Catalog) -> (Vec<String>, Vec<String>) {
    told(subscription.next(catalog, ENOUGH).expect("it can go on"))
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn begun(catalog: &Catalog, wish: Wish) -> Subscription {
    let mut subscription = Subscription::default();
    subscription.wish(catalog, wish).expect("a good wish");
    subscription
}

#[test]
fn a_first_request_without_names_asks_for_everything_and_then_for_what_changes() {
    let mut catalog = catalog(3);
    let mut subscription = begun(&catalog, wish(&[], &[]));
    assert_eq!(next(&mut subscription, &catalog).0.len(), 3);
    assert!(subscription.next(&catalog, ENOUGH).expect("it can go on").is_none());
    put(&mut catalog, &workload(1, &["a/s"]));
    catalog.remove(&name(2));
    assert_eq!(next(&mut subscription, &catalog), (vec![name(1)], vec![name(2)]));
}

#[test]
fn nothing_is_an_answer_too() {
    let catalog = Catalog::default();
    for wish in [wish(&[], &[]), wish(&["*"], &["*"])] {
        let mut subscription = begun(&catalog, wish);
        let push = subscription.next(&catalog, ENOUGH).expect("it can go on").expect("an answer");
        assert!(push.entries.is_empty() && push.removed.is_empty() && !push.is_part);
        assert!(subscription.next(&catalog, ENOUGH).expect("it can go on").is_none());
    }
}

#[test]
fn a_large_answer_comes_in_parts_and_changes_in_between_are_not_lost() {
    let mut catalog = catalog(100);
    let mut subscription = begun(&catalog, wish(&[], &[]));
    let first = subscription.next(&catalog, 1000).expect("it can go on").expect("a part");
    assert!(first.is_part && first.entries.len() < 50);
    let sent = first.entries[0].name.to_string();
    catalog.remove(&sent);
    catalog.remove(&name(99));
    put(&mut catalog, &workload(98, &["a/s"]));
    let mut seen: Vec<String> = first.entries.iter().map(|entry| entry.name.to_string()).collect();
    let mut removed = Vec::new();
    loop {
        let push = subscription.next(&catalog, 1000).expect("it can go on").expect("a part");
        seen.extend(push.entries.iter().map(|entry| entry.name.to_string()));
        removed.extend(push.removed.iter().map(|name| name.to_string()));
        if !push.is_part {
            break;
        }
    }
    assert_eq!(seen.len(), 99, "each once, and not the one that was removed before its turn");
    assert!(removed.contains(&sent));
}

#[test]
fn what_a_client_has_is_not_sent_again() {
    let mut catalog = catalog(4);
    let known: BTreeMap<String, String> =
        catalog.present().map(|(entry, content)| (entry.name.to_string(), content.version.to_string())).collect();
    put(&mut catalog, &workload(1, &["a/s"]));
    catalog.remove(&name(2));
    put(&mut catalog, &workload(7, &[]));
    let mut subscription = begun(&catalog, Wish { known: known.clone(), ..wish(&[], &[]) });
    assert_eq!(next(&mut subscription, &catalog), (vec![name(1), name(7)], vec![name(2)]));
    let wanted = [name(0), name(1), name(2)];
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut subscription = begun(&catalog, Wish { known, ..wish(&wanted, &[]) });
    let (entries, removed) = next(&mut subscription, &catalog);
    assert_eq!(entries, [name(1)]);
    assert!(removed.contains(&name(2)), "it is gone");
    assert!(removed.contains(&name(3)), "it is not asked for any more");
    put(&mut catalog, &workload(0, &["a/s"]));
    assert_eq!(next(&mut subscription, &catalog).0, [name(0)], "what was not sent again is kept up to date");
}

#[test]
fn an_address_leads_to_the_workload_that_has_it_and_follows_it() {
    let mut catalog = catalog(3);
    let mut subscription = begun(&catalog, wish(&["*"], &["*"]));
    assert_eq!(next(&mut subscription, &catalog), (vec![], vec![]));
    subscription.wish(&catalog, wish(&["/10.0.0.1", "/10.9.9.9"], &[])).expect("a good wish");
    assert_eq!(next(&mut subscription, &catalog), (vec![name(1)], names(&["/10.9.9.9"])));
    put(&mut catalog, &workload(2, &["a/s"]));
    assert_eq!(next(&mut subscription, &catalog), (vec![], vec![]), "nobody asked for that");
    // The address moves to another workload.
    catalog.remove(&name(1));
    let mut heir = workload(2, &[]);
    heir.addresses.push(IpAddr::from([10, 0, 0, 1]));
    put(&mut catalog, &heir);
    assert_eq!(next(&mut subscription, &catalog), (vec![name(2)], vec![name(1)]));
    // One that was absent appears.
    let mut late = workload(0, &[]);
    late.addresses = vec![IpAddr::from([10, 9, 9, 9])];
    put(&mut catalog, &late);
    assert_eq!(next(&mut subscription, &catalog), (vec![name(0)], vec![]));
}

#[test]
fn a_service_comes_with_its_endpoints_and_they_come_and_go() {
    let mut catalog = Catalog::default();
    put(&mut catalog, &workload(1, &["a/s"]));
    put(&mut catalog, &workload(2, &["a/other"]));
    catalog.put(Encoded::service(&service("s", 1), ""));
    let mut subscription = begun(&catalog, wish(&["*"], &["*"]));
    next(&mut subscription, &catalog);
    subscription.wish(&catalog, wish(&["/10.1.0.1"], &[])).expect("a good wish");
    assert_eq!(next(&mut subscription, &catalog).0, names(&["a/s", "c//Pod/a/1"]));
    put(&mut catalog, &workload(2, &["a/s"]));
    assert_eq!(next(&mut subscription, &catalog), (vec![name(2)], vec![]), "it joined");
    put(&mut catalog, &workload(1, &[]));
    assert_eq!(next(&mut subscription, &catalog), (vec![], vec![name(1)]), "it left");
    catalog.remove("a/s");
    assert_eq!(next(&mut subscription, &catalog), (vec![], names(&["a/s", "c//Pod/a/2"])));
    catalog.put(Encoded::service(&service("s", 1), ""));
    assert_eq!(next(&mut subscription, &catalog).0, names(&["a/s", "c//Pod/a/2"]), "it is back");
    subscription.wish(&catalog, wish(&[], &["/10.1.0.1"])).expect("a good wish");
    assert_eq!(next(&mut subscription, &catalog), (vec![], names(&["a/s", "c//Pod/a/2"])));
    put(&mut catalog, &workload(2, &["a/s", "a/other"]));
    assert_eq!(next(&mut subscription, &catalog), (vec![], vec![]));
    assert!(subscription.held.is_empty() && subscription.wanted.is_empty());
}

#[test]
fn a_service_on_two_ways_stays_until_neither_is_asked_for() {
    let mut catalog = Catalog::default();
    put(&mut catalog, &workload(1, &["a/s"]));
    catalog.put(Encoded::service(&service("s", 1), ""));
    let mut subscription = begun(&catalog, wish(&["/10.1.0.1", "a/s", "/10.0.0.1"], &[]));
    assert_eq!(next(&mut subscription, &catalog).0.len(), 2);
    for (unsubscribed, removed) in [("/10.1.0.1", &[][..]), ("a/s", &["a/s"]), ("/10.0.0.1", &["c//Pod/a/1"])] {
        subscription.wish(&catalog, wish(&[], &[unsubscribed])).expect("a good wish");
        assert_eq!(next(&mut subscription, &catalog), (vec![], names(removed)), "{unsubscribed}");
    }
}

#[test]
fn a_client_that_mixes_everything_with_names_gets_an_answer_to_each() {
    let catalog = catalog(2);
    let mut subscription = begun(&catalog, wish(&["*"], &[]));
    assert_eq!(next(&mut subscription, &catalog).0.len(), 2);
    subscription.wish(&catalog, wish(&[&name(1), "none"], &[])).expect("a good wish");
    assert_eq!(next(&mut subscription, &catalog), (vec![name(1)], names(&["none"])));
}

#[test]
fn what_one_client_may_ask_for_is_bounded() {
    let catalog = Catalog::default();
    let mut subscription = Subscription::default();
    let long = "x".repeat(MAX_NAME + 1);
    assert_eq!(subscription.wish(&catalog, wish(&[&long], &[])), Err(SubscriptionError::TooLong));
    let many = Wish { subscribe: (0..=MAX_NAMES).map(|number| number.to_string()).collect(), ..Wish::default() };
    assert_eq!(subscription.wish(&catalog, many), Err(SubscriptionError::TooMany));
}

/// What a client knows that takes pushes as they come.
#[derive(Default)]
struct Client {
    has: BTreeMap<String, String>,
}

impl Client {
    fn take(&mut self, push: Option<Push>) {
        let Some(push) = push else { return };
        for name in &push.removed {
            self.has.remove(&**name);
        }
        for entry in &push.entries {
            let content = entry.content.as_ref().expect("only what is there is sent");
            self.has.insert(entry.name.to_string(), content.version.to_string());
        }
    }
}

#[test]
fn whatever_happens_a_client_ends_up_with_exactly_what_it_asked_for() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let mut catalog = Catalog::default();
        let is_wildcard = rng.bool();
        let mut subscription = Subscription::default();
        let mut client = Client::default();
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        let first = if is_wildcard { wish(&[], &[]) } else { wish(&["*"], &["*"]) };
        subscription.wish(&catalog, first).expect("a good wish");
        for _ in 0..300 {
            match rng.u8(..10) {
                0..4 => {
                    let services = [&[][..], &["a/s0"], &["a/s1"], &["a/s0", "a/s1"]];
                    let mut workload = workload(rng.u8(..6), services[rng.usize(..4)]);
                    workload.addresses = vec![IpAddr::from([10, 0, 0, rng.u8(..6)])];
                    put(&mut catalog, &workload);
                }
                4 => catalog.remove(&name(rng.u8(..6))),
                5 => catalog.put(Encoded::service(&service(&format!("s{}", rng.u8(..2)), rng.u8(..3)), "")),
                6 => catalog.remove(&format!("a/s{}", rng.u8(..2))),
                7 if !is_wildcard => {
                    let name = match rng.u8(..4) {
                        0 => format!("/10.0.0.{}", rng.u8(..6)),
                        1 => format!("/10.1.0.{}", rng.u8(..3)),
                        2 => format!("a/s{}", rng.u8(..2)),
                        _ => name(rng.u8(..6)),
                    };
                    let is_new = rng.bool();
                    let wish = if is_new { wish(&[&name], &[]) } else { wish(&[], &[&name]) };
                    subscription.wish(&catalog, wish).expect("a good wish");
                    if is_new {
                        wanted.insert(name)
                    } else {
                        wanted.remove(&name)
                    };
                }
                8 => {
                    // It connects again.
                    subscription = Subscription::default();
                    let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
                    let mut first = if is_wildcard { wish(&[], &[]) } else { wish(&names, &["*"]) };
                    first.known = client.has.clone();
                    subscription.wish(&catalog, first).expect("a good wish");
                }
                _ => client.take(subscription.next(&catalog, rng.usize(1..2000)).expect("it can go on")),
            }
        }
        while let Some(push) = subscription.next(&catalog, 1000).expect("it can go on") {
            client.take(Some(push));
        }
        let is_named = |name: &str| {
            wanted.contains(name)
                || catalog.get(name).is_some_and(|(_, content)| content.aliases.iter().any(|a| wanted.contains(&**a)))
        };
        let expected: BTreeMap<String, String> = catalog
            .present()
            .filter(|(entry, content)| {
                is_wildcard || is_named(&entry.name) || content.services.iter().any(|service| is_named(service))
            })
            .map(|(entry, content)| (entry.name.to_string(), content.version.to_string()))
            .collect();
        assert_eq!(client.has, expected, "seed {seed}");
    }
}
