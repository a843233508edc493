//! Which tunnels can be used again for which destination.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_model::{Identity, Workload};

use super::pod::Pod;
use super::table::Key;

/// What a tunnel must have in common with a connection that is to use it.
///
/// The destination's uid and instance are part of it: an address that another pod took over never finds the old pod's tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    source_identity: Identity,
    source_instance: (Arc<str>, Arc<str>),
    source_address: IpAddr,
    destination_identity: Identity,
    destination_instance: (Arc<str>, Arc<str>),
    destination_address: SocketAddr,
}

impl PoolKey {
    pub(super) fn new(
        source: &Pod,
        source_address: IpAddr,
        destination: &Workload,
        destination_address: SocketAddr,
    ) -> Self {
        Self {
            source_identity: source.identity.clone(),
            source_instance: (source.uid.clone(), source.instance.clone()),
            source_address,
            destination_identity: destination.identity.clone(),
            destination_instance: (destination.uid.clone(), destination.instance.clone()),
            destination_address,
        }
    }

    pub(super) fn source_address(&self) -> IpAddr {
        self.source_address
    }

    pub(super) fn destination_uid(&self) -> &Arc<str> {
        &self.destination_instance.0
    }
}

/// The client tunnels of one worker.
#[derive(Debug, Default)]
pub(super) struct Pool(HashMap<PoolKey, Vec<Key>>);

impl Pool {
    /// The tunnels that fit, the one to prefer last.
    pub(super) fn tunnels(&self, key: &PoolKey) -> &[Key] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add(&mut self, key: PoolKey, tunnel: Key) {
        self.0.entry(key).or_default().push(tunnel);
    }

    pub(super) fn remove(&mut self, key: &PoolKey, tunnel: Key) {
        if let Some(tunnels) = self.0.get_mut(key) {
            tunnels.retain(|kept| *kept != tunnel);
            if tunnels.is_empty() {
                self.0.remove(key);
            }
        }
    }
}
