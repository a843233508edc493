//! What is wanted on demand.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use tokio::sync::Notify;

use crate::istio::address_name;

/// What may be wanted at one time.
const MAX_WANTS: usize = 65_536;

/// Something that a control plane is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Whatever has this address on the own network.
    Address(IpAddr),
    /// The workload of this uid, or the service of this `<namespace>/<hostname>`.
    Name(Arc<str>),
}

/// What is wanted, each with its name.
pub(crate) type Named = Vec<(Arc<str>, Wanted)>;

/// All that is wanted, by name.
#[derive(Debug)]
pub(crate) struct Wants {
    network: Arc<str>,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    all: HashMap<Arc<str>, Wanted>,
    new: Vec<Arc<str>>,
    gone: Vec<Arc<str>>,
}

impl Wants {
    pub fn new(network: &str) -> Self {
        Self { network: network.into(), inner: Mutex::default(), changed: Notify::new() }
    }

    pub fn want(&self, wanted: Wanted) -> bool {
        let name = self.name(&wanted);
        let mut inner = self.inner();
        if inner.all.contains_key(&name) {
            return true;
        }
        if inner.all.len() >= MAX_WANTS {
            return false;
        }
        // Wanted no more and again before that was told: both are, since what was known of it may be out of date.
        inner.all.insert(Arc::clone(&name), wanted);
        inner.new.push(name);
        self.changed.notify_one();
        true
    }

    pub fn release(&self, wanted: &Wanted) {
        let name = self.name(wanted);
        let mut inner = self.inner();
        if inner.all.remove(&name).is_some() {
            inner.new.retain(|new| *new != name);
            inner.gone.push(name);
            self.changed.notify_one();
        }
    }

    /// Completes when something is wanted, or no more, that was not taken yet. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is wanted since the last time, by name, and the names of what was not any more before that.
    pub fn take_changes(&self) -> (Named, Vec<Arc<str>>) {
        let mut inner = self.inner();
        let new = std::mem::take(&mut inner.new);
        let new = new.into_iter().filter_map(|name| inner.all.get(&name).map(|wanted| (name.clone(), wanted.clone())));
        (new.collect(), std::mem::take(&mut inner.gone))
    }

    /// All that is wanted.
    pub fn all(&self) -> Named {
        let mut inner = self.inner();
        inner.new.clear();
        inner.all.iter().map(|(name, wanted)| (Arc::clone(name), wanted.clone())).collect()
    }

    pub fn len(&self) -> usize {
        self.inner().all.len()
    }

    fn name(&self, wanted: &Wanted) -> Arc<str> {
        match wanted {
            Wanted::Address(address) => address_name(&self.network, *address).into(),
            Wanted::Name(name) => Arc::clone(name),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
