//! Child processes whose output is kept, and which do not outlive their owner.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, Result, bail};

use crate::wait::{eventually, eventually_within};

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
#[derive(Debug, Clone)]
pub(crate) enum Journal {
    /// Kept in memory, by a thread that reads a pipe.
    Memory(Arc<Mutex<Vec<u8>>>),
    /// Appended to a file, which goes on when this process is gone.
    File(Arc<Path>),
}

impl Default for Journal {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

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

    /// [`spawn`](Self::spawn) with its output, both standard output and error, appended to a file.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), or the file cannot be opened.
    pub fn spawn_logging_to(command: Command, file: &Path) -> Result<Self> {
        let journal = Journal::File(file.into());
        Self::spawn_into(command, journal.clone(), journal)
    }

    /// [`spawn`](Self::spawn) with given places for what it writes, which may be one and the same.
    pub(crate) fn spawn_into(mut command: Command, stdout: Journal, stderr: Journal) -> Result<Self> {
        let name = command_line(&command);
        command.stdin(Stdio::null()).stdout(stdout.end()?).stderr(stderr.end()?);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let mut readers = Vec::new();
        if let (Some(pipe), Journal::Memory(bytes)) = (child.stdout.take(), &stdout) {
            readers.push(keep(pipe, Arc::clone(bytes)));
        }
        if let (Some(pipe), Journal::Memory(bytes)) = (child.stderr.take(), &stderr) {
            readers.push(keep(pipe, Arc::clone(bytes)));
        }
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

    /// Stops it, SIGSTOP: its sockets live on and nobody serves them. Returns when no thread of it runs any more.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.pid());
        eventually(&format!("{} has stopped", self.name), || {
            for task in fs::read_dir(&tasks)? {
                // The state stands behind the name, which ends with the last parenthesis. A thread may end meanwhile.
                let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
                if stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T')) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Lets it go on after [`Process::pause`].
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(libc::SIGCONT)
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
    /// What a program writes into.
    fn end(&self) -> Result<Stdio> {
        Ok(match self {
            Self::Memory(_) => Stdio::piped(),
            Self::File(path) => {
                let file = File::options().create(true).append(true).open(path);
                file.with_context(|| format!("opening {}", path.display()))?.into()
            }
        })
    }

    pub(crate) fn text(&self) -> String {
        self.text_from(0)
    }

    /// What was written after the first `start` bytes.
    pub(crate) fn text_from(&self, start: usize) -> String {
        let read = |path: &Path| -> io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start as u64))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match self {
            Self::Memory(bytes) => {
                let bytes = bytes.lock().expect("no reader panics");
                String::from_utf8_lossy(&bytes[start.min(bytes.len())..]).into_owned()
            }
            // Before the program has started there is no file.
            Self::File(path) => String::from_utf8_lossy(&read(path).unwrap_or_default()).into_owned(),
        }
    }

    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.lock().expect("no reader panics").len(),
            Self::File(path) => path.metadata().map_or(0, |metadata| metadata.len() as usize),
        }
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

fn keep(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            into.lock().expect("no reader panics").extend_from_slice(&buffer[..length]);
        }
    })
}

fn send_signal(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes no pointers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
