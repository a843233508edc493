//! Clients, and the ways in which a connection can go.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::{Host, eventually};

/// Long beyond what any answer takes; what waits for the lack of one waits this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection went, as the application sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server answered these bytes.
    Answered(String),
    /// `connect` said that the connection is refused, or not permitted.
    Refused,
    /// It was reset after the kernel had set it up.
    Reset,
    /// It ended without an answer, as if the server had closed it: what a mesh must never pretend.
    ClosedInOrder,
    /// Nothing came.
    Silence,
}

/// Connects, sends `ping`, and says how that went. The server is one that answers at once.
pub(crate) fn ping(from: &Host, to: SocketAddr) -> Result<Outcome> {
    let mut connection = match from.connect(to) {
        Ok(connection) => connection,
        Err(error) => return classify(&error).with_context(|| format!("connecting to {to}")),
    };
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut exchange = || -> io::Result<Outcome> {
        connection.write_all(b"ping")?;
        let mut answer = [0; 256];
        Ok(match connection.read(&mut answer)? {
            0 => Outcome::ClosedInOrder,
            length => Outcome::Answered(String::from_utf8_lossy(&answer[..length]).into_owned()),
        })
    };
    exchange().or_else(|error| classify(&error).with_context(|| format!("talking to {to}")))
}

fn classify(error: &io::Error) -> Result<Outcome> {
    Ok(match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Outcome::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Outcome::Reset,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Outcome::Silence,
        other => anyhow::bail!("neither refused nor reset but {other}: {error}"),
    })
}

impl Outcome {
    /// Whether the application was told at once that there is no connection.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused | Self::Reset)
    }
}

/// An echo server answers.
pub(crate) fn assert_answered(from: &Host, to: SocketAddr) -> Result<()> {
    let outcome = ping(from, to)?;
    ensure!(outcome == Outcome::Answered("ping".into()), "{to}: expected an answer, got {outcome:?}");
    Ok(())
}

/// The connection is refused: at `connect`, or by a reset, but never by an orderly end.
pub(crate) fn assert_refused(from: &Host, to: SocketAddr) -> Result<()> {
    let outcome = ping(from, to)?;
    ensure!(outcome.is_refusal(), "{to}: expected a refusal, got {outcome:?}");
    Ok(())
}

/// An echo server answers before long: a change is on its way.
pub(crate) fn eventually_answered(from: &Host, to: SocketAddr) -> Result<()> {
    eventually(&format!("{to} answers"), || Ok((ping(from, to)? == Outcome::Answered("ping".into())).then_some(())))
}

/// Connections are refused before long.
pub(crate) fn eventually_refused(from: &Host, to: SocketAddr) -> Result<()> {
    eventually(&format!("{to} refuses"), || Ok(ping(from, to)?.is_refusal().then_some(())))
}

/// What a server says that greets with the client's and its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The client, as the server's `accept` gave it.
    pub(crate) peer: SocketAddr,
    /// The server, as its `getsockname` gave it.
    pub(crate) local: SocketAddr,
}

/// Reads a greeting from a connection. Mapped IPv4 addresses are given as IPv4.
pub(crate) fn greeting(mut connection: TcpStream) -> Result<Greeting> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    connection.read_to_string(&mut text).context("reading the greeting")?;
    let parse = |text: &str| -> Result<SocketAddr> {
        let address: SocketAddr = text.trim().parse().with_context(|| format!("no address: {text:?}"))?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    let (peer, local) = text.split_once(' ').with_context(|| format!("no greeting: {text:?}"))?;
    Ok(Greeting { peer: parse(peer)?, local: parse(local)? })
}

/// Connects and reads a greeting.
pub(crate) fn greet(from: &Host, to: SocketAddr) -> Result<Greeting> {
    greeting(from.connect(to).with_context(|| format!("connecting to {to}"))?)
}

/// A connection to an echo server that stays open.
pub(crate) struct Conversation(TcpStream);

impl Conversation {
    /// Opens one, and sees that it works.
    pub(crate) fn open(from: &Host, to: SocketAddr) -> Result<Self> {
        let connection = from.connect(to).with_context(|| format!("connecting to {to}"))?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_nodelay(true)?;
        let mut conversation = Self(connection);
        conversation.exchange().context("the first exchange")?;
        Ok(conversation)
    }

    /// Sends a few bytes and reads them back.
    pub(crate) fn exchange(&mut self) -> Result<()> {
        self.0.write_all(b"hello").context("sending")?;
        let mut answer = [0; 5];
        self.0.read_exact(&mut answer).context("receiving")?;
        ensure!(&answer == b"hello", "the echo is {answer:?}");
        Ok(())
    }

    /// Waits until the other side has reset it.
    pub(crate) fn wait_for_reset(&mut self) -> Result<()> {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => anyhow::bail!("expected a reset, got {other:?}"),
        }
    }

    /// Waits until it fails: reset by the other side, or aborted on this one.
    pub(crate) fn wait_for_failure(&mut self) -> Result<()> {
        match self.0.read(&mut [0]) {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => Ok(()),
            other => anyhow::bail!("expected a failure, got {other:?}"),
        }
    }

    /// Waits until the other side has ended it, one way or the other.
    pub(crate) fn wait_for_end(&mut self) -> Result<()> {
        match self.0.read(&mut [0]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => anyhow::bail!("expected an end, got {other:?}"),
        }
    }

    /// Ends it from this side and reads the other's end.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.0.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).context("reading to the end")?;
        ensure!(rest.is_empty(), "{} bytes came after the end", rest.len());
        Ok(())
    }

    /// The connection's socket.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.0
    }
}
