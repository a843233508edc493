use prometheus_client::registry::Registry;
use weft_model::{Change, Identity, Workload};

use super::*;
use crate::telemetry::fixtures::{identity, service, snapshot, store, workload};

struct World {
    metrics: Arc<TcpMetrics>,
    source: Arc<Workload>,
    destination: Arc<Workload>,
    service: Arc<weft_model::Service>,
    source_identity: Identity,
    destination_identity: Identity,
}

impl World {
    fn new() -> Self {
        Self {
            metrics: Arc::default(),
            source: Arc::new(workload("curl", 1)),
            destination: Arc::new(workload("web", 2)),
            service: Arc::new(service()),
            source_identity: identity("curl"),
            destination_identity: identity("web"),
        }
    }

    fn labels(&self) -> ConnectionLabels<'_> {
        ConnectionLabels {
            reporter: Reporter::Source,
            source: Some(&self.source),
            destination: Some(&self.destination),
            source_identity: Some(&self.source_identity),
            destination_identity: Some(&self.destination_identity),
            service: Some(&self.service),
            security: ConnectionSecurity::MutualTls,
            flags: ResponseFlags::None,
        }
    }

    fn exposition(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&self.metrics)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

fn sample<'t>(exposition: &'t str, name: &str, part: &str) -> Option<&'t str> {
    let line = exposition.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(part))?;
    line.rsplit_once(' ').map(|(_, value)| value)
}

#[test]
fn the_labels_are_exactly_istios() {
    let world = World::new();
    world.metrics.series(&world.labels()).opened();
    let exposition = world.exposition();
    let line = exposition.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total")).unwrap();
    assert_eq!(
        line,
        "istio_tcp_connections_opened_total{reporter=\"source\",\
         source_workload=\"curl\",source_workload_namespace=\"shop\",\
         source_principal=\"spiffe://cluster.local/ns/shop/sa/curl\",source_app=\"curl\",source_version=\"v1\",\
         source_cluster=\"Kubernetes\",source_canonical_service=\"curl\",source_canonical_revision=\"v1\",\
         source_region=\"r1\",source_zone=\"z1\",\
         destination_workload=\"web\",destination_workload_namespace=\"shop\",\
         destination_principal=\"spiffe://cluster.local/ns/shop/sa/web\",destination_app=\"web\",\
         destination_version=\"v1\",destination_cluster=\"Kubernetes\",destination_canonical_service=\"web\",\
         destination_canonical_revision=\"v1\",destination_region=\"r1\",destination_zone=\"z1\",\
         destination_service=\"web.shop.svc.cluster.local\",destination_service_name=\"web\",\
         destination_service_namespace=\"shop\",\
         request_protocol=\"tcp\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"} 1"
    );
}

#[test]
fn what_is_missing_is_unknown() {
    let world = World::new();
    let nobody = ConnectionLabels {
        reporter: Reporter::Destination,
        source: None,
        destination: None,
        source_identity: None,
        destination_identity: None,
        service: None,
        security: ConnectionSecurity::Unknown,
        flags: ResponseFlags::TlsFailure,
    };
    world.metrics.series(&nobody).failed();
    let exposition = world.exposition();
    let line = exposition.lines().find(|line| line.starts_with("istio_tcp_connections_failed_total{")).unwrap();
    assert_eq!(line.matches("=\"unknown\"").count(), 24, "{line}");
    assert!(line.contains("reporter=\"destination\""), "{line}");
    assert!(line.contains("response_flags=\"TLS_FAILURE\""), "{line}");
    assert!(!exposition.contains("istio_tcp_connections_opened_total{"), "nothing was opened: {exposition}");
}

#[test]
fn a_source_that_discovery_does_not_know_is_named_by_its_certificate() {
    let world = World::new();
    let labels = ConnectionLabels { source: None, ..world.labels() };
    world.metrics.series(&labels).opened();
    let exposition = world.exposition();
    assert!(exposition.contains("source_workload=\"unknown\",source_workload_namespace=\"shop\""), "{exposition}");
}

#[test]
fn received_is_what_the_client_sent_and_sent_is_what_it_got() {
    let world = World::new();
    for reporter in [Reporter::Source, Reporter::Destination] {
        let series = world.metrics.series(&ConnectionLabels { reporter, ..world.labels() });
        series.opened();
        series.add_from_client(10);
        series.add_to_client(2000);
    }
    let exposition = world.exposition();
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        assert_eq!(sample(&exposition, "istio_tcp_received_bytes_total", reporter), Some("10"));
        assert_eq!(sample(&exposition, "istio_tcp_sent_bytes_total", reporter), Some("2000"));
        assert_eq!(sample(&exposition, "istio_tcp_connections_closed_total", reporter), Some("0"));
    }
}

#[test]
fn the_cache_finds_the_same_counters_and_tells_identities_and_flags_apart() {
    let world = World::new();
    let mut cache = SeriesCache::new(Arc::clone(&world.metrics), Instant::now());
    let first = cache.series(&world.labels());
    assert!(Arc::ptr_eq(&first, &cache.series(&world.labels())));
    assert!(Arc::ptr_eq(&first, &world.metrics.series(&world.labels())));

    let denied = cache.series(&ConnectionLabels { flags: ResponseFlags::Denied, ..world.labels() });
    assert!(!Arc::ptr_eq(&first, &denied));

    let other = identity("other");
    let forged = cache.series(&ConnectionLabels { source_identity: Some(&other), ..world.labels() });
    assert!(!Arc::ptr_eq(&first, &forged));
    assert!(Arc::ptr_eq(&first, &cache.series(&world.labels())));

    // The same workload in a later snapshot is another object and the same series.
    let renewed = Arc::new(workload("curl", 1));
    let labels = ConnectionLabels { source: Some(&renewed), ..world.labels() };
    assert!(Arc::ptr_eq(&first, &cache.series(&labels)));
}

#[test]
fn the_cache_keeps_what_it_is_asked_for_and_forgets_the_rest() {
    let world = World::new();
    let start = Instant::now();
    let mut cache = SeriesCache::new(Arc::clone(&world.metrics), start);
    cache.series(&world.labels());
    let other = Arc::new(workload("other", 9));
    cache.series(&ConnectionLabels { source: Some(&other), ..world.labels() });
    assert_eq!(Arc::strong_count(&other), 2);

    cache.age(start + Duration::from_secs(300));
    cache.series(&world.labels());
    cache.age(start + Duration::from_secs(600));
    assert_eq!(Arc::strong_count(&other), 1, "not used for a generation");
    assert_eq!(Arc::strong_count(&world.source), 2, "still in use");
}

#[test]
fn the_cache_is_bounded() {
    let world = World::new();
    let mut cache = SeriesCache::new(Arc::clone(&world.metrics), Instant::now());
    let pods: Vec<_> = (0..10_000).map(|_| Arc::new(workload("many", 7))).collect();
    for pod in &pods {
        cache.series(&ConnectionLabels { source: Some(pod), ..world.labels() });
    }
    let held = pods.iter().filter(|pod| Arc::strong_count(pod) > 1).count();
    assert!(held <= 4096, "{held} held");
    assert_eq!(world.metrics.entries().len(), 1, "pods of one deployment share a series");
}

#[test]
fn a_series_is_pruned_only_when_idle_for_long_and_its_workload_gone() {
    let world = World::new();
    let (with_both, with_one) = (snapshot(), store(vec![Change::PutWorkload(workload("web", 2))]));
    let start = Instant::now();
    let later = |minutes: u64| start + Duration::from_secs(minutes * 60);

    let connection = world.metrics.series(&world.labels());
    assert_eq!(world.metrics.prune(&with_one, start), 0);
    assert_eq!(world.metrics.prune(&with_one, later(60)), 0, "a connection lives");

    drop(connection);
    assert_eq!(world.metrics.prune(&with_one, later(61)), 0, "idle from here");
    assert_eq!(world.metrics.prune(&with_one, later(70)), 0, "not for long");
    assert_eq!(world.metrics.prune(&with_both, later(72)), 0, "all that it names is there");
    assert_eq!(world.metrics.prune(&with_one, later(72)), 1);
    assert!(!world.exposition().contains("source_workload=\"curl\""));
}

#[test]
fn past_the_bound_connections_are_counted_without_names() {
    let world = World::new();
    let first = world.metrics.series_up_to(1, &world.labels());
    let labels = ConnectionLabels { reporter: Reporter::Destination, ..world.labels() };
    let overflow = world.metrics.series_up_to(1, &labels);
    overflow.opened();
    assert!(Arc::ptr_eq(&first, &world.metrics.series_up_to(1, &world.labels())), "known ones stay exact");
    let exposition = world.exposition();
    let line = "reporter=\"destination\",source_workload=\"unknown\"";
    assert_eq!(sample(&exposition, "istio_tcp_connections_opened_total", line), Some("1"));
    assert!(exposition.contains("weft_tcp_series_overflowed_total 1"), "{exposition}");
}
