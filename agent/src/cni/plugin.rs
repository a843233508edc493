//! The plug-in, as a container runtime calls it: the command in variables, the network's configuration on standard input,
//! the result or an error on standard output.

mod agent;
mod call;
mod config;
mod failure;
mod membership;

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use agent::{NoAnswer, post};
pub use call::PodArguments;
use call::{Attachment, Call};
pub use config::NetworkConfig;
pub(super) use config::VERSIONS;
pub use failure::Failure;
use membership::{Belongs, Registry};
use serde::Deserialize;
use serde_json::json;

use super::{Going, Known, MAX_QUESTION};
use crate::sandbox::{Sandbox, Verdict};

/// How long the agent may take to capture a pod: some more than it gives itself.
const TAKE_OVER: Duration = Duration::from_secs(25);
/// How long it may take with what nobody waits for: a pod's removal must not.
const NOTICE: Duration = Duration::from_secs(3);
/// How long it may take to say how a pod stands.
const CHECK: Duration = Duration::from_secs(10);
/// A longer configuration is none.
const MAX_CONFIGURATION: u64 = 4 << 20;

/// Runs the plug-in for this process: exits with 0, or with 1 and the error on standard output.
pub fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_CONFIGURATION).read_to_end(&mut input);
    let (output, code) = match read {
        Ok(_) => answer(variable, &input),
        Err(error) => {
            let failure = Failure::new(Failure::INPUT, "standard input cannot be read").with(error);
            (failure.json(VERSIONS[VERSIONS.len() - 1]), ExitCode::FAILURE)
        }
    };
    match io::stdout().write_all(output.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> (String, ExitCode) {
    match run(variable, input) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => {
            // The error is in the version of the question, where that is one.
            let asked = config::version(input).ok().filter(|version| VERSIONS.contains(&version.as_str()));
            let version = asked.as_deref().unwrap_or(VERSIONS[VERSIONS.len() - 1]);
            (failure.json(version), ExitCode::FAILURE)
        }
    }
}

/// What is to be written to standard output.
fn run(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<String, Failure> {
    let call = Call::read(variable)?;
    if call == Call::Version {
        let asked = if input.trim_ascii().is_empty() { VERSIONS[4].to_owned() } else { config::version(input)? };
        return Ok(json!({ "cniVersion": asked, "supportedVersions": VERSIONS }).to_string());
    }
    let config = NetworkConfig::read(input)?;
    let result = config.allow(&call).and_then(|()| Plugin { config: &config }.run(&call));
    if let Some(file) = &config.log_file {
        note(file, &call, &result);
    }
    result
}

struct Plugin<'a> {
    config: &'a NetworkConfig,
}

#[derive(Deserialize)]
struct Answer {
    verdict: Verdict,
}

impl Plugin<'_> {
    fn run(&self, call: &Call) -> Result<String, Failure> {
        match call {
            Call::Add(attachment) => self.add(attachment),
            Call::Del(attachment) => {
                self.remove(attachment);
                Ok(String::new())
            }
            Call::Check(attachment) => self.check(attachment).map(|()| String::new()),
            Call::Gc => {
                self.retain()?;
                Ok(String::new())
            }
            // An error here would make the whole node not ready, while only pods of the mesh wait for the agent: others
            // start without it, its own among them, and so would nothing ever bring it back. Whether a pod can be added
            // is known only when there is one.
            Call::Status | Call::Version => Ok(String::new()),
        }
    }

    /// Passes on what the plug-ins before have reported, once the pod is captured or known not to belong to the mesh.
    fn add(&self, attachment: &Attachment) -> Result<String, Failure> {
        let (result, sandbox) = self.sandbox(attachment)?;
        let passed_on = || Ok(result.to_owned());
        let Some(sandbox) = sandbox else {
            return passed_on();
        };
        let why = match self.ask("/v1/cni/add", &sandbox, TAKE_OVER) {
            Ok(verdict) => {
                if verdict == Verdict::Enrolled {
                    self.registry().note_member(&sandbox.namespace);
                }
                return passed_on();
            }
            Err(why) => why,
        };
        // Whatever the agent is short of, a pod that has nothing to do with it does not wait for it.
        match self.registry().belongs(&sandbox) {
            Belongs::Outside => passed_on(),
            Belongs::Member => Err(self.refusal(attachment, why, "belongs to the mesh, and does not start uncaptured")),
            Belongs::Unknown(unknown) => {
                let failure =
                    self.refusal(attachment, why, "may belong to the mesh, and does not start before that is known");
                let details = format!("{}; {unknown}", failure.details);
                Err(failure.with(details))
            }
        }
    }

    fn refusal(&self, attachment: &Attachment, why: NoAnswer, what: &str) -> Failure {
        let pod = attachment.shown();
        match why {
            NoAnswer::Away(why) => {
                let message = format!(
                    "the Weft agent of this node is not running: {pod} {what}. It starts by itself once the agent is \
                     back: see the DaemonSet weft-agent"
                );
                Failure::new(Failure::TRY_AGAIN, message).with(why)
            }
            NoAnswer::No(why) => {
                let message = format!("the Weft agent of this node could not take {pod} over: it {what}");
                Failure::new(Failure::NOT_TAKEN_OVER, message).with(why)
            }
        }
    }

    /// Lets a pod go. That nobody hears it must not keep the pod: its capture goes with its network namespace.
    fn remove(&self, attachment: &Attachment) {
        let uid = attachment.pod.as_ref().map(|pod| pod.uid.clone()).unwrap_or_default();
        let going = Going { uid, container: attachment.container.clone() };
        let _ = post(&self.config.admin_socket, "/v1/cni/remove", &going, NOTICE);
    }

    /// A pod that belongs to the mesh must still be captured. While the agent is away nothing can be said against it:
    /// capture outlives the agent.
    fn check(&self, attachment: &Attachment) -> Result<(), Failure> {
        let (_, Some(sandbox)) = self.sandbox(attachment)? else {
            return Ok(());
        };
        match self.ask("/v1/cni/check", &sandbox, CHECK) {
            Ok(_) | Err(NoAnswer::Away(_)) => Ok(()),
            Err(NoAnswer::No(why)) => {
                let message = format!("{} belongs to the mesh and is not captured", attachment.shown());
                Err(Failure::new(Failure::NOT_CAPTURED, message).with(why))
            }
        }
    }

    /// Tells the agent which sandboxes there are. One that is away finds out when it starts.
    fn retain(&self) -> Result<(), Failure> {
        let known = Known { containers: self.config.known()? };
        let is_sendable = serde_json::to_vec(&known).is_ok_and(|question| question.len() <= MAX_QUESTION);
        if is_sendable {
            let _ = post(&self.config.admin_socket, "/v1/cni/retain", &known, NOTICE);
        }
        Ok(())
    }

    /// The previous result, and the sandbox that the agent is to be asked of. There is none where no answer could make a
    /// difference: no pod, or one of a namespace that is never enrolled, which must start on a node without an agent.
    fn sandbox(&self, attachment: &Attachment) -> Result<(&str, Option<Sandbox>), Failure> {
        let (result, addresses) = self.config.previous()?;
        let pod = attachment.pod.as_ref().filter(|pod| !self.config.namespaces.contains(&pod.namespace));
        let sandbox = pod.map(|pod| Sandbox {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            container: attachment.container.clone(),
            // Runtimes say /var/run, which is a link to /run on a host and need not be one where the agent looks.
            netns: attachment.netns().canonicalize().unwrap_or_else(|_| attachment.netns().to_owned()),
            addresses,
        });
        Ok((result.get(), sandbox))
    }

    fn ask(&self, path: &str, sandbox: &Sandbox, limit: Duration) -> Result<Verdict, NoAnswer> {
        let body = post(&self.config.admin_socket, path, sandbox, limit)?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|error| NoAnswer::Away(format!("the agent's answer is not understood: {error}")))?;
        Ok(answer.verdict)
    }

    fn registry(&self) -> Registry<'_> {
        let folder = self.config.admin_socket.parent().unwrap_or(Path::new("/"));
        Registry::new(self.config.kubeconfig.as_deref(), folder)
    }
}

/// Appends a line to the log. What cannot be written is lost: no pod fails for it.
fn note(file: &Path, call: &Call, result: &Result<String, Failure>) {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let subject = call.attachment().map(Attachment::shown).unwrap_or_default();
    let outcome: &dyn Display = match result {
        Ok(_) => &"ok",
        Err(failure) => failure,
    };
    let line = format!("{time} {} {subject}: {outcome}", call.name()).replace('\n', " ") + "\n";
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).mode(0o600).open(file) {
        let _ = file.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests;
