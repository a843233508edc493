//! Asking the agent: one request on its admin socket, without a runtime. A container runtime starts this program for
//! every sandbox of the node, so it starts no more than it needs.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

/// A longer answer is none of the agent's.
const MAX_ANSWER: u64 = 64 * 1024;
/// How often a socket whose queue is full is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Nobody answers, or nobody who looks after pods.
    #[error("{0}")]
    Away(String),
    /// The agent has an answer, and it is no.
    #[error("{0}")]
    No(String),
}

#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
}

/// Posts `question` to `path` and waits for the answer's body.
///
/// # Errors
/// There is no agent, or it refuses, or it does not answer in time.
pub(super) fn post(socket: &Path, path: &str, question: &impl Serialize, limit: Duration) -> Result<Vec<u8>, NoAnswer> {
    let deadline = Instant::now() + limit;
    let away = |error: io::Error| NoAnswer::Away(explain(socket, &error, limit));
    let body = serde_json::to_vec(question).map_err(|error| away(error.into()))?;
    let mut stream = connect(socket, deadline).map_err(away)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    send(&mut stream, &[head.as_bytes(), &body].concat(), deadline).map_err(away)?;
    let answer = receive(&mut stream, deadline).map_err(away)?;
    let (status, body) = parse(&answer).ok_or_else(|| {
        NoAnswer::Away(format!(
            "what listens at {} is not a Weft agent, or was stopped while it answered",
            socket.display()
        ))
    })?;
    if status == 200 {
        return Ok(body.to_vec());
    }
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let reason = if refusal.error.is_empty() { format!("it answered with status {status}") } else { refusal.error };
    // These are the answers of an agent that does not know the question, or does not look after pods.
    if matches!(status, 404 | 405 | 501) { Err(NoAnswer::Away(reason)) } else { Err(NoAnswer::No(reason)) }
}

fn explain(socket: &Path, error: &io::Error, limit: Duration) -> String {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::NotFound => format!("there is no socket {socket}"),
        ErrorKind::ConnectionRefused => format!("the agent that made the socket {socket} is gone"),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => format!("nobody answered at {socket} within {limit:?}"),
        _ => format!("asking at {socket}: {error}"),
    }
}

fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    loop {
        match socket.connect(&address) {
            Ok(()) => break,
            // The queue of the listening socket is full; a blocking connect would wait without end.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                remaining(deadline)?;
                std::thread::sleep(QUEUE_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    socket.set_nonblocking(false)?;
    Ok(UnixStream::from(std::os::fd::OwnedFd::from(socket)))
}

/// The time that is left.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn send(stream: &mut UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(remaining(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All that comes until the other end has said all.
fn receive(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > MAX_ANSWER {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}

/// Status and body of an answer that came whole: of one that says how long it is, as the agent's do.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let mut status = lines.next()?.split(' ');
    status.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = status.next()?.parse().ok()?;
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let (_, length) = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    (length.trim().parse() == Ok(body.len())).then_some((status, body))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Posts to a server that answers with these bytes and closes.
    fn answered_with(answer: &'static str) -> Result<Vec<u8>, NoAnswer> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut piece = [0; 1024];
                while !request.ends_with(b"{\"a\":1}") {
                    let count = stream.read(&mut piece).unwrap();
                    request.extend_from_slice(&piece[..count]);
                }
                assert!(request.starts_with(b"POST /v1/cni/add HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            });
            post(&path, "/v1/cni/add", &json!({"a": 1}), LIMIT)
        })
    }

    #[test]
    fn answers_refusals_and_agents_that_know_no_pods_are_told_apart() {
        let body = answered_with("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        assert_eq!(body, b"{}");
        let refused = answered_with("HTTP/1.1 503 X\r\nContent-Length: 14\r\n\r\n{\"error\":\"no\"}").unwrap_err();
        assert!(matches!(&refused, NoAnswer::No(reason) if reason == "no"), "{refused:?}");
        let ignorant = answered_with("HTTP/1.1 501 X\r\nContent-Length: 14\r\n\r\n{\"error\":\"no\"}").unwrap_err();
        assert!(matches!(ignorant, NoAnswer::Away(_)), "{ignorant:?}");
    }

    #[test]
    fn what_is_cut_short_or_no_http_is_no_answer() {
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert!(matches!(answered_with(answer), Err(NoAnswer::Away(_))), "{answer:?}");
        }
    }

    #[test]
    fn that_there_is_no_agent_is_said_at_once() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let none = post(&path, "/", &json!({}), LIMIT).unwrap_err().to_string();
        assert!(none.contains("there is no socket"), "{none}");
        drop(UnixListener::bind(&path).unwrap());
        let dead = post(&path, "/", &json!({}), LIMIT).unwrap_err().to_string();
        assert!(dead.contains("is gone"), "{dead}");
    }

    #[test]
    fn an_agent_that_hangs_is_given_up() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = post(&path, "/", &json!({}), Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("nobody answered"), "{error}");
    }
}
