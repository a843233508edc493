//! Weft in a world of nodes and pods: real kernels, real clients and servers, the shipped agent.
//!
//! A scenario states one behaviour and asserts what a user can observe: bytes, addresses, certificates on the wire,
//! metrics, log records, exit codes. They run in parallel, but for those in `load`, which need the machine to
//! themselves.

// The fixtures.
mod client;
mod pair;
mod stranger;

// The scenarios.
mod address_reuse;
mod capture;
mod cni;
mod configuration;
mod control_plane;
mod ending;
mod enrolment;
mod fail_closed;
mod hand_over;
mod handshake;
mod identity;
mod lifecycle;
mod load;
mod observability;
mod on_demand;
mod peer_authentication;
mod policy;
mod policy_match;
mod probe;
mod resolution;
mod service_endpoints;
mod tunnel;
mod waypoint;
