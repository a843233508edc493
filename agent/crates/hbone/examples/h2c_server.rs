//! A CONNECT echo server over cleartext TCP, for clients such as h2spec, nghttp and the `h2c_client` example:
//!
//! ```text
//! cargo run -p weft-hbone --example h2c_server -- 127.0.0.1:8480
//! h2spec --strict --host 127.0.0.1 --port 8480
//! ```
//!
//! The address may have port 0; the first line on standard output tells where it listens. Other methods than CONNECT,
//! which is all that h2spec sends, are answered with status 400 and a short body.

use std::{io, net::TcpListener};

#[path = "../tests/interop/h2c.rs"]
mod h2c;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8480".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);
    h2c::serve(&listener, |error| eprintln!("{error}"))
}
