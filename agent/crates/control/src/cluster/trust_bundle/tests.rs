use std::collections::BTreeMap;

use kube::api::ObjectMeta;

use super::*;

fn namespace(name: &str) -> PartialObjectMeta<Namespace> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    PartialObjectMeta { metadata, ..PartialObjectMeta::default() }
}

fn map(namespace: &str, roots: &str) -> ConfigMap {
    let metadata =
        ObjectMeta { name: Some(NAME.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    let data = BTreeMap::from([(KEY.to_owned(), roots.to_owned())]);
    ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
}

/// A cluster of these namespaces, of which some have a ConfigMap, and which should have `roots`.
fn listed(namespaces: &[&str], maps: &[(&str, &str)], roots: &str) -> Bundles {
    let mut bundles = Bundles::default();
    bundles.namespace(Event::Init);
    namespaces.iter().for_each(|name| bundles.namespace(Event::InitApply(namespace(name))));
    bundles.namespace(Event::InitDone);
    bundles.want(roots.into());
    bundles.map(Event::Init);
    maps.iter().for_each(|(name, roots)| bundles.map(Event::InitApply(map(name, roots))));
    assert_eq!(begun(&mut bundles), [""; 0], "not all ConfigMaps are known yet");
    bundles.map(Event::InitDone);
    bundles
}

fn begun(bundles: &mut Bundles) -> Vec<String> {
    let mut begun = Vec::new();
    bundles.begin(|namespace, _| begun.push(namespace));
    begun.sort();
    begun
}

fn succeed(bundles: &mut Bundles, namespace: &str, roots: &str) {
    bundles.written(namespace, &roots.into(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_other_than_it_should_be_is_written_and_nothing_else() {
    let mut bundles = listed(&["a", "b", "c"], &[("a", "new"), ("b", "old"), ("gone", "old")], "new");
    assert_eq!(begun(&mut bundles), ["b", "c"]);
    assert_eq!(begun(&mut bundles), [""; 0], "each is written once");
    succeed(&mut bundles, "b", "new");
    succeed(&mut bundles, "c", "new");
    // What a watch says late of the time before changes nothing for long.
    bundles.map(Event::Apply(map("b", "new")));
    assert_eq!((begun(&mut bundles), bundles.next()), (Vec::new(), None));

    bundles.namespace(Event::Apply(namespace("d")));
    assert_eq!(begun(&mut bundles), ["d"], "a new namespace");
    succeed(&mut bundles, "d", "new");
    bundles.want("newest".into());
    tokio::time::advance(PAUSE).await;
    assert_eq!(begun(&mut bundles), ["a", "b", "c", "d"], "all of them when the roots change");
}

#[tokio::test(start_paused = true)]
async fn whoever_undoes_it_again_and_again_is_not_fought_over() {
    let mut bundles = listed(&["a"], &[], "roots");
    assert_eq!(begun(&mut bundles), ["a"]);
    succeed(&mut bundles, "a", "roots");
    bundles.map(Event::Delete(map("a", "roots")));
    assert_eq!(begun(&mut bundles), [""; 0]);
    assert_eq!(bundles.next(), Some(Instant::now() + PAUSE));
    tokio::time::advance(PAUSE).await;
    assert_eq!(begun(&mut bundles), ["a"]);
    // Changed by somebody while it is being written: what was seen last counts.
    bundles.map(Event::Apply(map("a", "forged")));
    succeed(&mut bundles, "a", "roots");
    tokio::time::advance(PAUSE).await;
    assert_eq!(begun(&mut bundles), ["a"]);
    let failure = Failure { code: 500, is_object: false, text: "no".to_owned() };
    bundles.written("a", &"roots".into(), Err(failure));
    assert_eq!(bundles.next(), Some(Instant::now() + RETRY));

    // An API server in trouble is not asked the same for every other namespace at once.
    bundles.namespace(Event::Apply(namespace("b")));
    assert_eq!((begun(&mut bundles), bundles.next()), (Vec::new(), Some(Instant::now() + PAUSE)));
    tokio::time::advance(PAUSE).await;
    assert_eq!(begun(&mut bundles), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_being_removed_is_left_alone() {
    let mut bundles = listed(&["a", "b"], &[], "roots");
    let mut leaving = namespace("a");
    leaving.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
    bundles.namespace(Event::Apply(leaving));
    assert_eq!(begun(&mut bundles), ["b"]);
    bundles.namespace(Event::Delete(namespace("b")));
    succeed(&mut bundles, "b", "roots");
    assert_eq!((begun(&mut bundles), bundles.next()), (Vec::new(), None));
}
