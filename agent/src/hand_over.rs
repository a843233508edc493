//! How an agent takes over from the one that runs, without a connection that is refused.
//!
//! The successor is started beside its predecessor, greets it on the admin socket, and gets everything that it can get
//! without being in office: configuration and certificates. Then it asks its predecessor to yield. That one gives up
//! its servers, its duties and the lock of the state directory, and goes on to carry and to accept connections, since
//! its listeners are still those that the kernel steers to. The successor starts capture, and enrols pod after pod, which
//! puts its own listeners in their place. What the predecessor has accepted, or what waits to be, it serves until it
//! is told to end.
//!
//! | who | says | meaning |
//! | --- | --- | --- |
//! | successor | `POST /v1/hand_over` with `Upgrade: weft-hand-over` | it is here; from now on the connection is held |
//! | successor | [`YIELD`] | it has what it needs |
//! | predecessor | [`YIELDED`] | it acts no more |
//! | successor | [`DONE`] | it has enrolled all pods |
//!
//! When the connection breaks, whenever that is, the predecessor takes everything up again, unless it was told to end. One
//! that is told to end while a successor is on its way waits for it, for a while.

mod predecessor;
mod preparation;
mod successor;

pub use predecessor::{Predecessor, Standing, Succeeded, stand, succeed};
pub use preparation::Prepared;
pub use successor::{Said, Successor};

/// Where it is asked for, on the admin socket.
pub const PATH: &str = "/v1/hand_over";
/// What the connection becomes.
pub const PROTOCOL: &str = "weft-hand-over";

const YIELD: u8 = b'y';
const YIELDED: u8 = b'Y';
const DONE: u8 = b'd';
