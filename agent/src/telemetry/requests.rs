//! The `istio_requests_total` family: requests by who asks whom, as a waypoint reports them.
//!
//! Names, labels and buckets are those that Istio's proxies have, which Kiali and the public dashboards read.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use weft_waypoint::RequestRecord;

use super::tcp::{ConnectionLabels, ConnectionSecurity, Labels, Reporter, ResponseFlags};

/// The most series that are kept. Further ones are counted together, without names.
const MAX_SERIES: usize = 20_000;

/// Upper bounds of the buckets of durations, in milliseconds.
const DURATIONS: [u64; 19] = [
    1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000,
    7_200_000,
];

/// Upper bounds of the buckets of sizes, in bytes.
const SIZES: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The labels of a series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RequestLabels {
    ends: Labels,
    protocol: &'static str,
    code: u16,
    grpc_status: Option<u32>,
    flags: &'static str,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (code, grpc_status) = (self.code.to_string(), self.grpc_status.map(|status| status.to_string()));
        self.ends.encode_with(
            encoder,
            &[
                ("request_protocol", self.protocol),
                ("response_code", &code),
                ("grpc_response_status", grpc_status.as_deref().unwrap_or_default()),
                ("response_flags", self.flags),
            ],
        )
    }
}

/// How often values fell into which bucket.
#[derive(Debug)]
struct Histogram<const N: usize> {
    sum: AtomicU64,
    count: AtomicU64,
    buckets: [AtomicU64; N],
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { sum: AtomicU64::new(0), count: AtomicU64::new(0), buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[u64; N], value: u64) {
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(bucket) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sum, count, and the buckets with the last one, which has no bound.
    fn read(&self, bounds: &[u64; N]) -> (f64, u64, Vec<(f64, u64)>) {
        let count = self.count.load(Ordering::Relaxed);
        let mut buckets: Vec<_> = bounds
            .iter()
            .zip(&self.buckets)
            .map(|(bound, bucket)| (*bound as f64, bucket.load(Ordering::Relaxed)))
            .collect();
        let within: u64 = buckets.iter().map(|(_, count)| count).sum();
        buckets.push((f64::MAX, count.saturating_sub(within)));
        (self.sum.load(Ordering::Relaxed) as f64, count, buckets)
    }
}

/// The numbers of one set of labels.
#[derive(Debug, Default)]
struct Series {
    duration: Histogram<{ DURATIONS.len() }>,
    request_bytes: Histogram<{ SIZES.len() }>,
    response_bytes: Histogram<{ SIZES.len() }>,
}

/// All series of the family.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    series: Mutex<HashMap<RequestLabels, Arc<Series>>>,
}

impl RequestMetrics {
    /// Counts a request.
    pub fn count(&self, record: &RequestRecord) {
        let is_mesh = record.endpoint.as_ref().is_some_and(|endpoint| endpoint.is_hbone());
        let ends = Labels::new(&ConnectionLabels {
            reporter: Reporter::Waypoint,
            source: record.source.as_ref(),
            destination: record.endpoint.as_ref(),
            source_identity: Some(&record.client.identity),
            destination_identity: record.endpoint.as_ref().filter(|_| is_mesh).map(|endpoint| &endpoint.identity),
            service: record.service.as_ref(),
            security: ConnectionSecurity::MutualTls,
            flags: ResponseFlags::None,
        });
        let mut labels = RequestLabels {
            ends,
            protocol: if record.is_grpc { "grpc" } else { "http" },
            // 0 is what Envoy says of a request without an answer.
            code: record.status.map_or(0, |status| status.as_u16()),
            grpc_status: record.grpc_status,
            flags: record.flags,
        };
        let series = {
            let mut all = self.all();
            if all.len() >= MAX_SERIES && !all.contains_key(&labels) {
                labels.ends = labels.ends.without_names();
            }
            Arc::clone(all.entry(labels).or_default())
        };
        let milliseconds = u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX);
        series.duration.observe(&DURATIONS, milliseconds);
        series.request_bytes.observe(&SIZES, record.request_bytes);
        series.response_bytes.observe(&SIZES, record.response_bytes);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<RequestLabels, Arc<Series>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for RequestMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // The lock is not held while text is made.
        let mut all: Vec<_> = self.all().iter().map(|(labels, series)| (labels.clone(), Arc::clone(series))).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut family = encoder.encode_descriptor("istio_requests", "Requests", None, MetricType::Counter)?;
        for (labels, series) in &all {
            let count = series.duration.count.load(Ordering::Relaxed);
            family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        type Read = fn(&Series) -> (f64, u64, Vec<(f64, u64)>);
        let histograms: [(&str, &str, Read); 3] = [
            ("istio_request_duration_milliseconds", "How long requests took", |series| {
                series.duration.read(&DURATIONS)
            }),
            ("istio_request_bytes", "Sizes of requests' bodies", |series| series.request_bytes.read(&SIZES)),
            ("istio_response_bytes", "Sizes of answers' bodies", |series| series.response_bytes.read(&SIZES)),
        ];
        for (name, help, read) in histograms {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (labels, series) in &all {
                let (sum, count, buckets) = read(series);
                family.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
