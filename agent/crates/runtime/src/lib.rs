//! What every asynchronous part of Weft needs and nobody should write twice: tasks that have an owner, a name and
//! an orderly end; back-off; a clock that tests can replace.
//!
//! This crate knows nothing of meshes, identities or sockets.
#![forbid(unsafe_code)]

mod backoff;
mod clock;
mod tasks;

pub use backoff::Backoff;
pub use clock::{Clock, SystemClock};
pub use tasks::{Drained, Shutdown, Tasks};
