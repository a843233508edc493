//! The CONNECT subset of HTTP/2 (RFC 9113), as bytes in and events out.
//!
//! [`Connection`] is one end of an HBONE tunnel's HTTP/2 connection. Its owner feeds it what arrives
//! ([`Connection::receive`]), sends what it leaves in [`Connection::output`], and puts a header from
//! [`Connection::data_header`] before each piece of payload. Payload is never copied here, in either direction.
//!
//! What this crate must not know: sockets, TLS, time, threads, the mesh. Whoever owns a connection calls it with bytes
//! from anywhere, so everything here is tested without a network.
//!
//! The text formats that travel in a CONNECT live here as well, since strangers send them: [`Authority`], [`Baggage`],
//! [`Forwarded`], [`TraceParent`].

#![forbid(unsafe_code)]

mod config;
mod error;
mod event;

mod frame;
mod settings;

mod hpack;

mod fields;

mod flow;

mod streams;

mod closed;
mod flood;

mod connection;

mod authority;
mod baggage;
mod forwarded;
mod traceparent;

pub use self::{
    authority::{Authority, AuthorityError, Host},
    baggage::Baggage,
    config::{Config, FloodLimits},
    connection::Connection,
    error::{ConnectionError, ErrorCode, OpenError},
    event::{ConnectRequest, Event, Request, StreamId},
    forwarded::{Forwarded, ForwardedError},
    traceparent::{TraceParent, TraceParentError},
};
