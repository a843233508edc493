//! Both ends against the `h2` crate, over pipes that cut the bytes in various ways.

#[path = "echo.rs"]
mod echo;

mod as_client;
mod as_server;

use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_hbone::Config;

use self::echo::Echo;

/// Bytes that a pipe holds, and so the pieces in which they arrive.
const PIPES: [usize; 3] = [64 * 1024, 1000, 7];

/// Runs an echo server on its end of a pipe until the other end closes. Returns it for a look at its state.
async fn serve(pipe: DuplexStream, config: Config) -> Echo {
    serve_until(pipe, config, std::future::pending()).await
}

/// The same, and shuts it down gracefully when told to.
async fn serve_until(pipe: DuplexStream, config: Config, told: impl Future<Output = ()>) -> Echo {
    let (mut reader, mut writer) = tokio::io::split(pipe);
    let mut echo = Echo::new(config);
    let mut wire = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    let mut told = pin!(told);
    let mut is_told = false;
    echo.send(&mut wire);
    loop {
        // Whoever does not read while it cannot write may wait for a peer that does the same.
        tokio::select! {
            () = &mut told, if !is_told => {
                is_told = true;
                echo.connection.drain();
                echo.send(&mut wire);
            }
            written = writer.write(&wire), if !wire.is_empty() => {
                let Ok(written) = written else { return echo };
                wire.drain(..written);
            }
            read = reader.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return echo };
                echo.receive(&buffer[..length], &mut wire).expect("h2 is a valid peer");
            }
        }
    }
}

/// Bytes in which no two pieces are alike.
fn content(length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(length as u64);
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}
