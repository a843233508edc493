//! Workloads, services and policies; resolution and authorization, free of I/O.
//!
//! Sources (files, a control plane) translate what they read into [`Change`]s. One task owns the [`Store`] and applies
//! them in batches; each batch ends in an immutable [`Snapshot`], published through a [`SnapshotCell`] and read by
//! the workers once per connection. A snapshot answers the two questions of the data path: where does this
//! destination lead ([`Snapshot::resolve`]), and may this peer enter ([`Snapshot::authorize`]).
//!
//! This crate knows no sockets, no Kubernetes, no protobuf, no clock of its own and no async runtime: selectors,
//! labels and defaults have been evaluated by whoever makes the changes.

#![forbid(unsafe_code)]

// What there is.
pub mod identity;
pub mod policy;
pub mod service;
pub mod waypoint;
pub mod workload;

// Where it is kept, and how it gets to the workers.
pub mod publish;
pub mod snapshot;
pub mod store;

// What is asked.
pub mod authorize;
pub mod balance;
pub mod resolve;

// What the snapshot is made of.
mod address;
mod endpoints;
mod interner;
mod policies;
mod sharded;

#[cfg(test)]
mod fixture;

pub use authorize::{Denial, Peer, Verdict};
pub use balance::Balancer;
pub use endpoints::Endpoint;
pub use identity::{Identity, IdentityError};
pub use interner::intern;
pub use policy::{Action, Clause, Match, Policy, PolicyScope, Rule, ServiceAccountMatch, StringMatch};
pub use publish::{SnapshotCell, SnapshotReader};
pub use resolve::{ResolveError, Upstream};
pub use service::{AppProtocol, ClientIpAffinity, InternalTrafficPolicy, Service, ServicePort, TrafficDistribution};
pub use snapshot::Snapshot;
pub use store::{Applied, Change, MeshOptions, Store};
pub use waypoint::{Waypoint, WaypointTarget};
pub use workload::{EndpointCondition, Health, Locality, Membership, PortMapping, TunnelProtocol, Workload};
