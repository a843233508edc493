//! A worker's own map from who talks to whom to counters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_model::{Identity, Service, Workload};

use super::labels::{ConnectionLabels, ConnectionSecurity, Reporter, ResponseFlags};
use super::{TcpMetrics, TcpSeries};

/// How long an entry that is not used stays, at least; at most twice that.
const GENERATION: Duration = Duration::from_secs(300);

/// Entries of one generation.
const GENERATION_ENTRIES: usize = 2048;

/// Finds the counters of a connection by comparing pointers, not 25 strings. One for each worker, without locks.
///
/// An entry owns the workloads and the service that it is found by, so that their addresses cannot be given to others
/// meanwhile. It holds at most 4,096 entries, in two generations: entries move to the present one when they are used,
/// and the older generation is forgotten when the present one is full or five minutes old.
#[derive(Debug)]
pub struct SeriesCache {
    metrics: Arc<TcpMetrics>,
    present: Generation,
    past: Generation,
    turned: Instant,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Key, Vec<Entry>>,
    len: usize,
}

/// Addresses serve as names here and are never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: usize,
    destination: usize,
    service: usize,
    reporter: Reporter,
    security: ConnectionSecurity,
    flags: ResponseFlags,
}

/// Nearly always the only one of its key: the identities are those of the workloads, or absent in clear.
#[derive(Debug)]
struct Entry {
    source_identity: Option<Identity>,
    destination_identity: Option<Identity>,
    series: Arc<TcpSeries>,
    _owned: Owned,
}

/// What the addresses of a key are those of.
#[derive(Debug)]
struct Owned {
    _source: Option<Arc<Workload>>,
    _destination: Option<Arc<Workload>>,
    _service: Option<Arc<Service>>,
}

impl SeriesCache {
    /// An empty cache over `metrics`.
    pub fn new(metrics: Arc<TcpMetrics>, now: Instant) -> Self {
        Self { metrics, present: Generation::default(), past: Generation::default(), turned: now }
    }

    /// The counters for connections with these labels.
    pub fn series(&mut self, labels: &ConnectionLabels<'_>) -> Arc<TcpSeries> {
        let key = Key {
            source: address(labels.source),
            destination: address(labels.destination),
            service: address(labels.service),
            reporter: labels.reporter,
            security: labels.security,
            flags: labels.flags,
        };
        if let Some(entry) = self.present.find(&key, labels) {
            return Arc::clone(&entry.series);
        }
        let entry = self.past.take(&key, labels).unwrap_or_else(|| Entry {
            source_identity: labels.source_identity.cloned(),
            destination_identity: labels.destination_identity.cloned(),
            series: self.metrics.series(labels),
            _owned: Owned {
                _source: labels.source.cloned(),
                _destination: labels.destination.cloned(),
                _service: labels.service.cloned(),
            },
        });
        let series = Arc::clone(&entry.series);
        if self.present.len >= GENERATION_ENTRIES {
            self.past = std::mem::take(&mut self.present);
        }
        self.present.entries.entry(key).or_default().push(entry);
        self.present.len += 1;
        series
    }

    /// Forgets what has not been used for long. To be called now and then, an idle worker included: what the cache
    /// holds is not pruned from the metrics, and workloads that are gone stay in memory.
    pub fn age(&mut self, now: Instant) {
        if now.duration_since(self.turned) >= GENERATION {
            self.past = std::mem::take(&mut self.present);
            self.turned = now;
        }
    }
}

impl Generation {
    fn find(&self, key: &Key, labels: &ConnectionLabels<'_>) -> Option<&Entry> {
        self.entries.get(key)?.iter().find(|entry| entry.is_for(labels))
    }

    fn take(&mut self, key: &Key, labels: &ConnectionLabels<'_>) -> Option<Entry> {
        let entries = self.entries.get_mut(key)?;
        let position = entries.iter().position(|entry| entry.is_for(labels))?;
        let entry = entries.swap_remove(position);
        if entries.is_empty() {
            self.entries.remove(key);
        }
        self.len -= 1;
        Some(entry)
    }
}

impl Entry {
    fn is_for(&self, labels: &ConnectionLabels<'_>) -> bool {
        self.source_identity.as_ref() == labels.source_identity
            && self.destination_identity.as_ref() == labels.destination_identity
    }
}

fn address<T>(owner: Option<&Arc<T>>) -> usize {
    owner.map_or(0, |owner| Arc::as_ptr(owner).addr())
}
