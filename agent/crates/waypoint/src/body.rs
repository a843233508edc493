//! Bodies on their way: a request's to its endpoint, an answer's to its client.

mod copied;
mod replay;
mod request;
mod response;

pub(crate) use copied::copies;
pub(crate) use replay::Replay;
pub(crate) use request::{ClientBody, Gate, Progress, RequestBody};
pub(crate) use response::{Account, ResponseBody};

/// What fails on the way of a body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
