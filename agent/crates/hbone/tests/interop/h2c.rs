//! The echo server over cleartext TCP, a thread for each connection.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use weft_hbone::Config;

mod echo;

use self::echo::Echo;

/// Serves for as long as the listener accepts. What goes wrong on a connection is given to `report`.
pub fn serve(listener: &TcpListener, report: fn(io::Error)) -> io::Result<()> {
    for socket in listener.incoming() {
        let socket = socket?;
        thread::spawn(move || {
            if let Err(error) = serve_one(socket) {
                report(error);
            }
        });
    }
    Ok(())
}

fn serve_one(mut socket: TcpStream) -> io::Result<()> {
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
