//! The successor, as its predecessor knows it.

use std::io;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{DONE, YIELD, YIELDED};

/// The agent that is about to take over.
#[derive(Debug)]
pub struct Successor(State);

#[derive(Debug)]
enum State {
    /// The connection is still one of the admin interface.
    Opening(OnUpgrade),
    Open(Box<TokioIo<Upgraded>>),
}

/// What a successor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It has what it needs to take over.
    Yield,
    /// It has enrolled all pods.
    Done,
    /// Its connection has broken: it is gone.
    Gone,
}

impl Successor {
    /// The one who asked for this connection.
    #[must_use]
    pub fn new(connection: OnUpgrade) -> Self {
        Self(State::Opening(connection))
    }

    /// What it says next. Cancel-safe.
    pub async fn says(&mut self) -> Said {
        let said = match self.open().await {
            Ok(stream) => stream.read_u8().await,
            Err(error) => Err(error),
        };
        match said {
            Ok(YIELD) => Said::Yield,
            Ok(DONE) => Said::Done,
            Ok(other) => {
                tracing::warn!(other, "the next agent speaks another language: it is left to itself");
                Said::Gone
            }
            Err(error) => {
                tracing::debug!(%error, "the connection to the next agent has ended");
                Said::Gone
            }
        }
    }

    /// Tells it that this agent acts no more.
    ///
    /// # Errors
    /// It is gone.
    pub async fn tell_yielded(&mut self) -> io::Result<()> {
        let stream = self.open().await?;
        stream.write_all(&[YIELDED]).await?;
        stream.flush().await
    }

    async fn open(&mut self) -> io::Result<&mut TokioIo<Upgraded>> {
        if let State::Opening(connection) = &mut self.0 {
            let upgraded = connection.await.map_err(io::Error::other)?;
            self.0 = State::Open(Box::new(TokioIo::new(upgraded)));
        }
        match &mut self.0 {
            State::Open(stream) => Ok(stream),
            State::Opening(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}
