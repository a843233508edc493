//! Child processes whose output is kept, and which do not outlive their owner.

use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, Result, bail};

use crate::wait::eventually_within;

/// A running program. Dropping it kills it together with its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Journal,
    stderr: Journal,
    readers: Vec<JoinHandle<()>>,
}

/// What a program has written so far; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<u8>>>);

/// How a program ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub name: String,
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Process {
    /// Starts `command` with its output captured and nothing on its standard input. A command of
    /// [`Host::command`](crate::Host::command) leads a process group of its own, as this expects.
    ///
    /// # Errors
    /// The program is not there, or the namespace that it was to enter is gone.
    pub fn spawn(command: Command) -> Result<Self> {
        Self::spawn_into(command, Journal::default(), Journal::default())
    }

    /// [`spawn`](Self::spawn) with given places for what it writes, which may be one and the same.
    pub(crate) fn spawn_into(mut command: Command, stdout: Journal, stderr: Journal) -> Result<Self> {
        let name = command_line(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let readers = vec![
            keep(child.stdout.take().expect("stdout is piped"), stdout.clone()),
            keep(child.stderr.take().expect("stderr is piped"), stderr.clone()),
        ];
        Ok(Self { name, child, stdout, stderr, readers })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until its output, standard or error, contains `words`.
    ///
    /// # Errors
    /// It ended first, or 20 seconds passed; the message shows what it wrote instead.
    pub fn wait_for_output(&mut self, words: &str) -> Result<()> {
        self.wait_for_output_within(words, Duration::from_secs(20))
    }

    /// [`wait_for_output`](Self::wait_for_output) with a limit of the caller's.
    ///
    /// # Errors
    /// It ended first, or the limit passed.
    pub fn wait_for_output_within(&mut self, words: &str, limit: Duration) -> Result<()> {
        let waited = eventually_within(limit, &format!("{:?} in the output of {}", words, self.name), || {
            if self.stdout().contains(words) || self.stderr().contains(words) {
                return Ok(Some(()));
            }
            if let Some(status) = self.child.try_wait()? {
                // The readers may be a little behind the exit.
                thread::sleep(Duration::from_millis(50));
                if self.stdout().contains(words) || self.stderr().contains(words) {
                    return Ok(Some(()));
                }
                bail!("{} ended with {status} before it said {words:?}", self.name);
            }
            Ok(None)
        });
        waited.with_context(|| format!("it said:\n{}{}", self.stdout(), self.stderr()))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The kernel does not know it as a child of ours.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal to it alone.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send_signal(self.pid() as libc::pid_t, signal)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It has not ended within `limit`; it is killed then.
    pub fn finish_within(mut self, limit: Duration) -> Result<Finished> {
        let waited = eventually_within(limit, &format!("{} ends", self.name), || Ok(self.child.try_wait()?));
        let status = waited.with_context(|| format!("it said so far:\n{}{}", self.stdout(), self.stderr()))?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(Finished { name: self.name.clone(), status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Kills it, SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// The kernel does not know it as a child of ours.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        let _ = send_signal(-(self.pid() as libc::pid_t), libc::SIGKILL);
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.kill();
        }
    }
}

impl Journal {
    pub(crate) fn text(&self) -> String {
        self.text_from(0)
    }

    /// What was written after the first `start` bytes.
    pub(crate) fn text_from(&self, start: usize) -> String {
        let bytes = self.0.lock().expect("no reader panics");
        String::from_utf8_lossy(&bytes[start.min(bytes.len())..]).into_owned()
    }

    pub(crate) fn length(&self) -> usize {
        self.0.lock().expect("no reader panics").len()
    }
}

impl Finished {
    /// Standard output of a program that succeeded.
    ///
    /// # Errors
    /// It did not succeed; the message shows how it ended and what it wrote.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{} ended with {}\n{}{}", self.name, self.status, self.stdout, self.stderr)
    }

    /// The exit code; 128 plus the signal's number if one ended it, as a shell reports it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn keep(mut from: impl Read + Send + 'static, into: Journal) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            into.0.lock().expect("no reader panics").extend_from_slice(&buffer[..length]);
        }
    })
}

fn send_signal(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes no pointers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
