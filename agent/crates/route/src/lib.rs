//! Layer 7 as pure decisions: which rule a request matches, what becomes of it, and what a further attempt may do.
//!
//! Sources translate objects into [`Route`]s. This crate knows no sockets, no Kubernetes, no protobuf and no clock of its
//! own: whoever carries requests asks it, and does what it says.

#![forbid(unsafe_code)]

pub mod route;

pub use route::{
    Backend, BackendTarget, Cors, Filter, HeaderEdits, HeaderMatch, Hostname, Mirror, Parent, ParentTarget, PathMatch,
    PathRewrite, Pattern, QueryMatch, Redirect, RequestMatch, Retry, Rewrite, Route, RouteChange, RouteKind, Rule,
    SessionCarrier, SessionPersistence, Timeouts, ValueMatch,
};
