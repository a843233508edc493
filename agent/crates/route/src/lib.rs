//! Layer 7 as pure decisions: which rule a request matches, what becomes of it, and what a further attempt may do.
//!
//! Sources translate objects into [`Route`]s. This crate knows no sockets, no Kubernetes, no protobuf and no clock of its
//! own: whoever carries requests asks it, and does what it says:
//!
//! 1. [`path::normalize`] makes one path of all its spellings, or refuses the request.
//! 2. [`Routes::table`] names the routes that are for a service's port, [`Table::find`] the rule among them.
//! 3. [`decide()`] applies the rule's filters, chooses a backend, or answers by itself.
//! 4. [`Attempts`] says how long each attempt may take, and whether there is another.
//!
//! What will come (faults, limits of rates, authentication) comes as more kinds of [`Filter`], applied where
//! [`decide()`] applies those of today.

#![forbid(unsafe_code)]

pub mod route;
pub mod path;
mod request;
mod store;
mod table;
mod decide;
mod attempt;
pub mod session;

pub use attempt::{Attempts, Budget, Outcome};
pub use decide::{Answer, Cause, Decision, Forward, choose, decide, decide_in_session};
pub use request::Request;
pub use route::{
    Backend, BackendTarget, Cors, Filter, HeaderEdits, HeaderMatch, Hostname, Mirror, Parent, ParentTarget, PathMatch,
    PathRewrite, Pattern, QueryMatch, Redirect, RequestMatch, Retry, Rewrite, Route, RouteChange, RouteKind, Rule,
    SessionCarrier, SessionPersistence, Timeouts, ValueMatch,
};
pub use store::{RouteStore, Routes};
pub use table::{Matched, Table};
