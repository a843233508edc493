//! Conformance, as the h2spec tool sees it. It is not part of `cargo test`, since it needs that tool:
//!
//! ```text
//! go install github.com/summerwind/h2spec/cmd/h2spec@latest
//! WEFT_H2SPEC=~/go/bin/h2spec cargo test -p weft-hbone --test h2spec
//! ```

use std::{error::Error, net::TcpListener, process::Command, thread};

#[path = "interop/h2c.rs"]
mod h2c;

fn main() -> Result<(), Box<dyn Error>> {
    let tool = std::env::var_os("WEFT_H2SPEC").ok_or("WEFT_H2SPEC must name the h2spec executable")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    // It lives as long as this process; a peer that misbehaves on purpose is no news.
    thread::spawn(move || h2c::serve(&listener, drop));
    let status = Command::new(&tool)
        .args(["--strict", "--host", "127.0.0.1", "--port", &port])
        .status()
        .map_err(|error| format!("running {}: {error}", tool.display()))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("h2spec found violations ({status})").into()),
    }
}
