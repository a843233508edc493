//! Load for the benchmark: servers that count or echo, and clients that measure.
//!
//! Every process here does all of its sockets on one thread and one readiness loop. What is measured shares the
//! machine's cores with the load, so that load which costs little leaves the figures to what is measured. It must know
//! nothing of Weft: sockets, bytes, clocks.

mod bulk;
mod connect;
mod hold;
mod latency;
mod request;
mod serve;
mod window;

use anyhow::Result;
use clap::Parser;

/// The length of a request and of its response, in bytes.
const MESSAGE: usize = 1024;

/// Servers and clients of the benchmark. A client prints one line of JSON.
#[derive(Debug, Parser)]
enum Load {
    /// Serves until it is killed.
    Serve(serve::Options),
    /// Sends as much as is taken, and counts where it arrives.
    Bulk(bulk::Options),
    /// Asks and waits for the answer, again and again, on connections that stay open.
    Request(request::Options),
    /// Opens a connection, asks once, closes it, again and again.
    Connect(connect::Options),
    /// Opens connections, checks each with one exchange, and keeps them until it is killed.
    Hold(hold::Options),
}

fn main() -> Result<()> {
    match Load::parse() {
        Load::Serve(options) => serve::run(&options),
        Load::Bulk(options) => print(bulk::run(&options)?),
        Load::Request(options) => print(request::run(&options)?),
        Load::Connect(options) => print(connect::run(&options)?),
        Load::Hold(options) => hold::run(&options),
    }
}

fn print(result: serde_json::Value) -> Result<()> {
    println!("{result}");
    Ok(())
}
