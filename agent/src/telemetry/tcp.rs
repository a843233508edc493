//! The `istio_tcp_*` metrics: connections and bytes by who talks to whom.
//!
//! Names, labels and meaning are Istio's standard metrics', which Kiali and the public dashboards read. The meaning of
//! the byte counters is the same whoever reports, and often taken for its opposite: they are named from the position
//! of a server that is asked. `istio_tcp_received_bytes_total` counts what the client sent,
//! `istio_tcp_sent_bytes_total` what the client was sent in response; the source's agent and the destination's agent
//! count the same bytes under the same name. [`TcpSeries::add_from_client`] and [`TcpSeries::add_to_client`] leave no
//! room for doubt.
//!
//! Life of a connection in the metrics: one that is carried counts once in `_opened_total` with the flag `-`, its
//! bytes go to the same series while it lives, and when it ends it counts once in `_closed_total`, with the flag that
//! says why. One that is never carried (denied, refused, no way to the destination) counts once in `_failed_total`
//! and nowhere else.
//!
//! Labels are looked up once for each pair of workloads: workers keep what they use in a [`SeriesCache`] and touch
//! nothing but atomic counters for a connection.

mod cache;
mod labels;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use weft_model::Snapshot;

pub use cache::SeriesCache;
pub(super) use labels::Labels;
pub use labels::{ConnectionLabels, ConnectionSecurity, Reporter, ResponseFlags};

/// How long a series is kept after its last connection ended, once a workload or service that it names is gone. Longer
/// than the interval of any usual scrape, so that the last increments are seen.
const KEEP_GONE: Duration = Duration::from_secs(600);

/// The most series that are kept. Further ones are counted together, under the same reporter, security and flags but
/// with everything else `unknown`: the agent's memory must not depend on how many names the world has.
const MAX_SERIES: usize = 50_000;

/// The counters of one set of labels.
#[derive(Debug)]
pub struct TcpSeries {
    labels: Labels,
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    to_client: AtomicU64,
    from_client: AtomicU64,
}

impl TcpSeries {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            from_client: AtomicU64::new(0),
        }
    }

    /// A connection is carried from now on.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was carried has ended.
    pub fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was refused or could not be made, and so was never carried.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes from the one that opened the connection to the one that accepted it (`istio_tcp_received_bytes_total`).
    pub fn add_from_client(&self, bytes: u64) {
        self.from_client.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes to the one that opened the connection (`istio_tcp_sent_bytes_total`).
    pub fn add_to_client(&self, bytes: u64) {
        self.to_client.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A series and since when nobody has used it.
struct Entry {
    series: Arc<TcpSeries>,
    idle_since: Option<Instant>,
}

/// All series of the `istio_tcp_*` metrics.
#[derive(Default)]
pub struct TcpMetrics {
    entries: Mutex<HashMap<Labels, Entry>>,
    overflowed: AtomicU64,
}

impl TcpMetrics {
    /// The counters for connections with these labels.
    ///
    /// Takes a lock and hashes all labels: for once in a while. Workers ask their [`SeriesCache`].
    pub fn series(&self, labels: &ConnectionLabels<'_>) -> Arc<TcpSeries> {
        self.series_up_to(MAX_SERIES, labels)
    }

    fn series_up_to(&self, limit: usize, labels: &ConnectionLabels<'_>) -> Arc<TcpSeries> {
        let mut labels = Labels::new(labels);
        let mut entries = self.entries();
        if !entries.contains_key(&labels) && entries.len() >= limit {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            labels = labels.without_names();
        }
        let entry = entries
            .entry(labels)
            .or_insert_with_key(|labels| Entry { series: Arc::new(TcpSeries::new(labels.clone())), idle_since: None });
        Arc::clone(&entry.series)
    }

    /// Forgets the series that nobody uses and that nobody can use again: no connection and no cache has held it for
    /// ten minutes, and a workload or service that it names is no longer in `snapshot`. A counter that comes back
    /// later starts from zero, which Prometheus takes for a restart. Returns how many were forgotten.
    ///
    /// To be called about once a minute, on the control runtime: it walks all workloads when there are candidates.
    pub fn prune(&self, snapshot: &Snapshot, now: Instant) -> usize {
        let candidates = self.candidates(now);
        if candidates.is_empty() {
            return 0;
        }
        let workloads: HashSet<_> =
            snapshot.workloads().map(|workload| (&*workload.namespace, &*workload.workload_name)).collect();
        let gone: Vec<_> = candidates
            .into_iter()
            .filter(|series| {
                let names_unknown_workload = series.labels.workloads().any(|name| !workloads.contains(&name));
                let names_unknown_service =
                    series.labels.service_key().is_some_and(|key| snapshot.service(&key).is_none());
                names_unknown_workload || names_unknown_service
            })
            .collect();
        let mut entries = self.entries();
        let before = entries.len();
        for series in gone {
            // Two owners: the map and `series`. Another one has come since, if there are more.
            if Arc::strong_count(&series) == 2 {
                entries.remove(&series.labels);
            }
        }
        before - entries.len()
    }

    /// Notes which series are idle, and returns those that have been for long.
    fn candidates(&self, now: Instant) -> Vec<Arc<TcpSeries>> {
        let mut candidates = Vec::new();
        for entry in self.entries().values_mut() {
            if Arc::strong_count(&entry.series) > 1 {
                entry.idle_since = None;
            } else if now.duration_since(*entry.idle_since.get_or_insert(now)) >= KEEP_GONE {
                candidates.push(Arc::clone(&entry.series));
            }
        }
        candidates
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Labels, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TcpMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpMetrics").field("series", &self.entries().len()).finish()
    }
}

/// How a counter of a series is read.
type Read = fn(&TcpSeries) -> &AtomicU64;

/// Name, description and reading of each counter.
const COUNTERS: [(&str, &str, Read); 5] = [
    ("istio_tcp_connections_opened", "TCP connections that were opened", |series| &series.opened),
    ("istio_tcp_connections_closed", "TCP connections that were opened and have ended", |series| &series.closed),
    ("istio_tcp_sent_bytes", "Bytes sent in response, to the client of a TCP connection", |series| &series.to_client),
    ("istio_tcp_received_bytes", "Bytes received in request, from the client of a TCP connection", |series| {
        &series.from_client
    }),
    ("istio_tcp_connections_failed", "TCP connections that were refused or could not be made", |series| &series.failed),
];

impl Collector for TcpMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // The lock is not held while text is made: a worker may need it for a new pair of workloads.
        let mut all: Vec<_> = self.entries().values().map(|entry| Arc::clone(&entry.series)).collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        for (name, help, read) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for series in &all {
                let value = read(series).load(Ordering::Relaxed);
                // A series that connections were opened under shows all its counters from the start; one that exists
                // for its flag only, such as DENY, shows what it has counted.
                let is_always_shown =
                    series.opened.load(Ordering::Relaxed) > 0 && name != "istio_tcp_connections_failed";
                if value > 0 || is_always_shown {
                    family.encode_family(&series.labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        let all_len = i64::try_from(all.len()).unwrap_or(i64::MAX);
        encoder
            .encode_descriptor("weft_tcp_series", "Sets of labels of the istio_tcp metrics", None, MetricType::Gauge)?
            .encode_gauge(&all_len)?;
        encoder
            .encode_descriptor(
                "weft_tcp_series_overflowed",
                "Look-ups of a set of labels that were answered with a nameless one, because there are too many",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&self.overflowed.load(Ordering::Relaxed), None)
    }
}

#[cfg(test)]
mod tests;
