//! Both ends against other implementations: the `h2` crate, over pipes that cut the bytes in various ways, and
//! libnghttp2, over TCP.

mod client;
mod echo;
mod frames;

mod as_client;
mod as_server;

mod nghttp2;

use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use weft_hbone::{Config, ConnectionError};

use self::{client::Client, echo::Echo, frames::Frames};

/// Bytes that a pipe holds, and so the pieces in which they arrive.
const PIPES: [usize; 3] = [64 * 1024, 1000, 7];

/// A connection to the echo server that is over.
struct Served {
    echo: Echo,
    /// What the client sent.
    frames: Frames,
    /// Why the server ended the connection, if it did.
    error: Option<ConnectionError>,
}

/// Runs an echo server on its end of a pipe until the other end closes, or must be told that it broke the protocol.
async fn serve(pipe: impl AsyncRead + AsyncWrite, config: Config) -> Served {
    serve_until(pipe, config, std::future::pending()).await
}

/// The same, and shuts it down gracefully when told to.
async fn serve_until(pipe: impl AsyncRead + AsyncWrite, config: Config, told: impl Future<Output = ()>) -> Served {
    let (mut reader, mut writer) = tokio::io::split(pipe);
    let mut served = Served { echo: Echo::new(config), frames: Frames::of_client(), error: None };
    let mut wire = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    let mut told = pin!(told);
    let mut is_told = false;
    served.echo.send(&mut wire);
    loop {
        // Whoever does not read while it cannot write may wait for a peer that does the same.
        tokio::select! {
            () = &mut told, if !is_told => {
                is_told = true;
                served.echo.connection.drain();
                served.echo.send(&mut wire);
            }
            written = writer.write(&wire), if !wire.is_empty() => {
                let Ok(written) = written else { return served };
                wire.drain(..written);
            }
            read = reader.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return served };
                served.frames.note(&buffer[..length]);
                if let Err(error) = served.echo.receive(&buffer[..length], &mut wire) {
                    served.error = Some(error);
                    break;
                }
            }
        }
    }
    // The peer is to see the GOAWAY, which closing with bytes unread could destroy on its way.
    let farewell = async {
        writer.write_all(&wire).await?;
        writer.shutdown().await
    };
    if farewell.await.is_ok() {
        while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
    }
    served
}

/// Bytes in which no two pieces are alike.
fn content(length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(length as u64);
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}
