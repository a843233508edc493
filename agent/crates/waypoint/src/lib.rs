//! The waypoint proxy: takes tunnels from agents, routes and judges what is in them, and opens tunnels of its own to the
//! endpoints that it chose.
//!
//! A connection of a client arrives as one CONNECT stream of a tunnel. What is HTTP in it is served by hyper and sent on,
//! request by request, as `weft_route` decides; everything else passes as bytes. Endpoints are chosen, and clients judged,
//! by `weft_model`; both ends of every tunnel are proved by `weft_transport`.
//!
//! Each worker is a thread with a runtime of its own, a listener that shares the port with the others', and its own
//! connections to endpoints: nothing on a request's way is shared between threads but what is published.
//!
//! This crate does not know where configuration comes from, nor what becomes of records: see [`StateCell`] and [`Observe`].

#![forbid(unsafe_code)]

// What it is told.
mod options;
mod state;

// What it tells.
mod record;

// A connection on its way in.
mod scope;
mod worker;
mod tunnel;
mod stream;
mod sniff;
mod guard;

// A request, or bytes.
mod service;
mod inspect;
mod headers;
mod body;
mod forward;
mod relay;

// On its way out.
mod upstream;
mod group;

pub use options::{Limits, WaypointOptions};
pub use record::{Client, ConnectionEnd, ConnectionRecord, Observe, RequestRecord};
pub use state::{State, StateCell};
pub use worker::{Waypoint, WaypointParts};
