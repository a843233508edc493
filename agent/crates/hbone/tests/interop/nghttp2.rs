//! Both ends against libnghttp2, over TCP: Node.js has it built in (Debian builds Node.js with the system's).

mod as_client;
mod as_server;

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::*;

/// Nothing here takes as long, unless one side waits for the other in vain.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running script. Dropping it kills it.
struct Node {
    child: Child,
    output: BufReader<ChildStdout>,
    what: String,
}

impl Node {
    /// Runs a script that lies in this module's folder.
    fn start(script: &str, arguments: &[&str]) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/nghttp2").join(script);
        let mut child = Command::new("node")
            .arg(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("starting node, whose HTTP/2 is libnghttp2's: {error}; is Node.js installed (Debian: nodejs)?")
            });
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, output, what: format!("{script} {}", arguments.join(" ")) }
    }

    /// Waits for the next line that it prints. An empty one tells that it has ended.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the script prints text");
        line.trim_end().to_owned()
    }

    /// Waits until the script is done, and well. Returns what it printed and was not read yet.
    async fn finish(mut self) -> String {
        let status = timeout(PATIENCE, self.end()).await.ok();
        if status.is_none() {
            _ = self.child.kill();
        }
        if !status.is_some_and(|status| status.success()) {
            let mut said = String::new();
            _ = self.child.stderr.take().expect("it is piped").read_to_string(&mut said);
            let end = status.map_or(format!("did not end in {PATIENCE:?}"), |status| format!("ended with {status}"));
            panic!("{} {end}; it said:\n{said}", self.what);
        }
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("the script prints text");
        rest
    }

    async fn end(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
