//! A CONNECT echo server over cleartext TCP, for conformance tests such as h2spec:
//!
//! ```text
//! cargo run -p weft-hbone --example h2c_server -- 127.0.0.1:8480
//! h2spec --host 127.0.0.1 --port 8480
//! ```
//!
//! The address may have port 0; the first line on standard output tells where it listens. Other methods than CONNECT,
//! which is all that h2spec sends, are answered with status 400 and a short body.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use weft_hbone::Config;

#[path = "../tests/interop/echo.rs"]
mod echo;

use self::echo::Echo;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8480".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        thread::spawn(move || {
            if let Err(error) = serve(socket) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut echo = Echo::new(Config::default());
    let mut wire = Vec::new();
    echo.send(&mut wire);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        socket.write_all(&wire)?;
        wire.clear();
        let length = socket.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        if let Err(error) = echo.receive(&buffer[..length], &mut wire) {
            socket.write_all(&wire)?;
            // Closing with bytes unread would reset the connection and could destroy the GOAWAY on its way.
            socket.shutdown(Shutdown::Write)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            while matches!(socket.read(&mut buffer), Ok(1..)) {}
            return Err(io::Error::other(error));
        }
    }
}
