//! Asking an agent: that of this node over its Unix socket, and others over whatever leads to their admin interface.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::agent::STATE_DIR;
use crate::admin::socket_path;

/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(20);

/// The longest answer that is read: hundreds of thousands of objects.
const MAX_ANSWER: usize = 256 << 20;

/// Which agent to ask.
#[derive(Debug, Args)]
pub(super) struct AgentAddress {
    /// The state directory that was given to the agent
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    /// The agent's admin socket [default: admin.sock in the state directory]
    #[arg(long, env = "WEFT_SOCKET", value_name = "FILE")]
    socket: Option<PathBuf>,
}

impl AgentAddress {
    fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| socket_path(&self.state_dir))
    }

    /// `GET path`, with the parameter `namespace` if there is one.
    pub(super) fn get(&self, path: &str, namespace: Option<&str>) -> anyhow::Result<Value> {
        self.ask(Method::GET, &with_namespace(path, namespace), Bytes::new())
    }

    /// `PUT path` with a body in JSON.
    pub(super) fn put(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Value> {
        self.ask(Method::PUT, path, serde_json::to_vec(body)?.into())
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = self.socket();
        let (status, body) = runtime.block_on(async {
            tokio::time::timeout(ANSWER, exchange(&socket, method, path, body))
                .await
                .map_err(|_| anyhow!("the agent at {} did not answer within {ANSWER:?}", socket.display()))?
        })?;
        understood(status, &body)
    }
}

/// The path of a question about one namespace, or about all.
pub(super) fn with_namespace(path: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{path}?namespace={namespace}"),
        None => path.to_owned(),
    }
}

/// An answer as JSON, or the error that it is.
pub(super) fn understood(status: StatusCode, body: &[u8]) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_slice(body).context("the agent's answer is not JSON")?;
    if status != StatusCode::OK {
        let error = value["error"].as_str().unwrap_or("no reason given");
        bail!("{error}");
    }
    Ok(value)
}

/// An answer, or one field of it, as what it stands for.
pub(super) fn decode<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value).with_context(|| {
        format!(
            "the agent's answer is not understood; is it of another version than this command ({})?",
            env!("CARGO_PKG_VERSION")
        )
    })
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable_agent(socket, &error))?;
    talk(stream, method, path, body).await.with_context(|| format!("asking the agent at {}", socket.display()))
}

/// One question and its answer, over a connection to an agent's admin interface. An answer is of bounded length.
pub(super) async fn talk<S>(stream: S, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .body(Full::new(body))
        .context("making the request")?;
    let answer = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok((status, body.to_bytes()))
    };
    // The connection moves the bytes, and ends when the sender is dropped, after the exchange.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

/// Why there is nobody to ask, and what to do.
fn unreachable_agent(socket: &Path, error: &io::Error) -> anyhow::Error {
    let path = socket.display();
    let start = "start it with \"weft agent --config DIR --node NAME\" and the same --state-dir";
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "no agent runs here: there is no socket {path}; {start}, or say where it keeps its state with --state-dir"
        ),
        io::ErrorKind::ConnectionRefused => {
            anyhow!("the agent that made the socket {path} is gone: it was killed, or has crashed; {start}")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow!("the socket {path} is for the agent's own user only: try again as root")
        }
        _ => anyhow!("connecting to {path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::admin::tests::Running;
    use crate::admin::{LogLevel, StatusReport};

    fn address(state_dir: &Path) -> AgentAddress {
        AgentAddress { state_dir: state_dir.to_owned(), socket: None }
    }

    /// Asks from a thread of its own: the client brings its own runtime.
    async fn ask(
        running: &Running,
        question: impl FnOnce(AgentAddress) -> anyhow::Result<Value> + Send + 'static,
    ) -> anyhow::Result<Value> {
        let address = address(running.folder.path());
        tokio::task::spawn_blocking(move || question(address)).await.unwrap()
    }

    #[tokio::test]
    async fn answers_and_refusals_come_back() {
        let running = Running::start();
        let status = ask(&running, |agent| agent.get("/v1/status", None)).await.unwrap();
        let status: StatusReport = decode(status).unwrap();
        assert_eq!(status.agent.node, "node-a");

        let pods = ask(&running, |agent| agent.get("/v1/pods", Some("nowhere"))).await.unwrap();
        assert_eq!(pods, json!({"pods": []}));

        let level = LogLevel { filter: "debug".into() };
        let answer = ask(&running, move |agent| agent.put("/v1/log", &level)).await.unwrap();
        assert_eq!(answer, json!({"filter": "debug"}));

        let error = ask(&running, |agent| agent.get("/v1/nothing", None)).await.unwrap_err();
        assert!(error.to_string().starts_with("there are /v1/status"), "{error:#}");
    }

    #[test]
    fn without_an_agent_it_says_how_to_start_one() {
        let folder = TempDir::new().unwrap();
        let error = address(folder.path()).get("/v1/status", None).unwrap_err().to_string();
        assert!(error.contains("no agent runs here") && error.contains("weft agent --config"), "{error}");
    }

    #[test]
    fn a_socket_that_a_dead_agent_left_is_told_from_none() {
        let folder = TempDir::new().unwrap();
        drop(UnixListener::bind(socket_path(folder.path())).unwrap());
        let error = address(folder.path()).get("/v1/status", None).unwrap_err().to_string();
        assert!(error.contains("is gone"), "{error}");
    }
}
