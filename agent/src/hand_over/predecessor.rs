//! The predecessor, as its successor knows it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use weft_control::discovery::Discovery;
use weft_transport::Certificates;

use super::preparation::{Prepared, prepare};
use super::{DONE, PATH, PROTOCOL, YIELD, YIELDED};
use crate::command::AgentOptions;
use crate::joined::Heard;
use crate::state_dir;

/// How long a greeting may take: an agent that has just been started answers when it runs.
const GREETING: Duration = Duration::from_secs(10);
/// How long yielding may take: what is under way is finished first, and API servers may be slow.
const YIELDING: Duration = Duration::from_secs(60);
/// How often it is looked whether an agent that cannot hand over has ended.
const PAUSE: Duration = Duration::from_millis(250);

/// The agent that runs.
#[derive(Debug)]
pub struct Predecessor {
    stream: TokioIo<Upgraded>,
}

/// How an agent that was just started stands.
#[derive(Debug)]
pub enum Standing {
    /// In office: the state directory is its own for as long as this lock is kept.
    Alone(File),
    /// Behind one that runs, and can hand over.
    Behind(Predecessor),
}

/// Waits until the state directory is this agent's, or until the one that has it is ready to hand over. One that does
/// not know how is waited for until it ends.
///
/// # Errors
/// When another agent has the state directory and this one is not to take over, or the directory cannot be locked.
pub async fn stand(options: &AgentOptions) -> anyhow::Result<Standing> {
    if !options.take_over {
        return state_dir::lock(&options.state_dir).map(Standing::Alone);
    }
    let socket = options.admin_options().socket;
    let mut said = String::new();
    loop {
        if let Some(lock) = state_dir::try_lock(&options.state_dir)? {
            return Ok(Standing::Alone(lock));
        }
        match timeout(GREETING, Predecessor::greet(&socket)).await {
            Ok(Ok(predecessor)) => return Ok(Standing::Behind(predecessor)),
            Ok(Err(error)) => tell(&mut said, format!("{error:#}")),
            Err(_) => tell(&mut said, "it does not answer".to_owned()),
        }
        sleep(PAUSE).await;
    }
}

fn tell(said: &mut String, reason: String) {
    if *said != reason {
        tracing::warn!(
            reason,
            "another agent has the state directory and does not hand over: waiting until it does, or ends"
        );
        *said = reason;
    }
}

/// What an agent begins its time in office with.
#[derive(Debug)]
pub struct Succeeded {
    /// That of the state directory.
    pub lock: File,
    /// Who was there before.
    pub predecessor: Option<Predecessor>,
    /// What was got while it was still in office.
    pub prepared: Prepared,
}

/// Has the agent that runs, if there is one, yield as soon as this one has what it needs; or waits until it has ended.
///
/// # Errors
/// When the state directory cannot be locked.
pub async fn succeed(
    standing: Standing,
    options: &AgentOptions,
    hearing: &mut mpsc::Receiver<Heard>,
    asked: Option<&Discovery>,
    certificates: &Certificates,
) -> anyhow::Result<Succeeded> {
    let mut predecessor = match standing {
        Standing::Alone(lock) => return Ok(Succeeded { lock, predecessor: None, prepared: Prepared::default() }),
        Standing::Behind(predecessor) => predecessor,
    };
    tracing::info!("another agent runs: getting ready to take over from it");
    let mut prepared = Prepared::default();
    tokio::select! {
        () = prepare(&mut prepared, hearing, asked, certificates) => {}
        () = predecessor.gone() => {}
    }
    if let Err(error) = predecessor.have_it_yield().await {
        tracing::warn!(%error, "the other agent has not yielded: waiting until it has ended");
    }
    loop {
        if let Some(lock) = state_dir::try_lock(&options.state_dir)? {
            return Ok(Succeeded { lock, predecessor: Some(predecessor), prepared });
        }
        sleep(PAUSE).await;
    }
}

impl Predecessor {
    /// Says that this agent is here.
    ///
    /// # Errors
    /// There is nobody, or somebody who does not know how to hand over.
    async fn greet(socket: &Path) -> anyhow::Result<Self> {
        let stream =
            UnixStream::connect(socket).await.with_context(|| format!("connecting to {}", socket.display()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(HOST, "localhost")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, PROTOCOL)
            .body(Empty::<Bytes>::new())?;
        let greeting = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            anyhow::ensure!(
                status == StatusCode::SWITCHING_PROTOCOLS,
                "it is of a version that cannot hand over, or is handing over already: it answered with status {status}"
            );
            Ok(hyper::upgrade::on(answer).await?)
        };
        let (greeted, _) = tokio::join!(greeting, connection.with_upgrades());
        Ok(Self { stream: TokioIo::new(greeted?) })
    }

    /// Resolves when it is gone. Cancel-safe.
    pub async fn gone(&mut self) {
        // It has nothing to say that it was not asked for.
        let _ = self.stream.read_u8().await;
    }

    /// Has it yield, and waits until it has: from then on the state directory, the ports and the duties are free.
    ///
    /// # Errors
    /// It is gone, or does not answer.
    pub async fn have_it_yield(&mut self) -> io::Result<()> {
        self.say(YIELD).await?;
        match timeout(YIELDING, self.stream.read_u8()).await {
            Ok(Ok(YIELDED)) => Ok(()),
            Ok(Ok(_)) => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered something else")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Tells it that all its pods are enrolled here. To be kept even then: should this agent die, the other one goes on.
    ///
    /// # Errors
    /// It is gone.
    pub async fn tell_done(&mut self) -> io::Result<()> {
        self.say(DONE).await
    }

    async fn say(&mut self, what: u8) -> io::Result<()> {
        self.stream.write_all(&[what]).await?;
        self.stream.flush().await
    }
}
