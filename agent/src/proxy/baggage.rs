//! What a workload says of itself in a CONNECT, formatted once for each workload.

use std::collections::HashMap;
use std::sync::Arc;

use weft_hbone::Baggage;
use weft_model::Workload;

/// Entries kept before the cache starts anew: the workloads of a node and those that they talk to.
const LIMIT: usize = 4096;

/// The `baggage` header of each workload, by the workload's place in memory, which the entry owns.
#[derive(Debug, Default)]
pub(super) struct BaggageCache(HashMap<usize, (Arc<Workload>, Arc<str>)>);

impl BaggageCache {
    pub(super) fn of(&mut self, workload: &Arc<Workload>) -> Arc<str> {
        let address = Arc::as_ptr(workload).addr();
        if let Some((_, text)) = self.0.get(&address) {
            return text.clone();
        }
        if self.0.len() >= LIMIT {
            self.0.clear();
        }
        let text: Arc<str> = describe(workload).to_string().into();
        self.0.insert(address, (workload.clone(), text.clone()));
        text
    }
}

fn describe(workload: &Workload) -> Baggage {
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    Baggage {
        cluster: text(&workload.cluster),
        namespace: text(&workload.namespace),
        workload_type: text(&workload.workload_type),
        workload_name: text(&workload.workload_name),
        service: text(&workload.canonical_service),
        version: text(&workload.canonical_revision),
        region: text(&workload.locality.region),
        zone: text(&workload.locality.zone),
    }
}
