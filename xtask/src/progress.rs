//! Long commands: what runs, for how long, and what it said if it failed.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines that are shown of a command that failed.
const SHOWN: usize = 60;

/// A terminal is brought up to date this often, a log file this rarely.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const IN_LOG: Duration = Duration::from_secs(30);

/// A heading of a part of the work.
pub(crate) fn heading(text: &str) {
    println!("\n== {text}");
}

/// Something that is said in passing.
pub(crate) fn note(text: &str) {
    println!("   {text}");
}

/// Runs a command and shows how long it has run and its latest line. Its output is shown only if it fails.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let mut status = Status::new(what);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take().expect("stdout is piped"), sender.clone());
    forward(child.stderr.take().expect("stderr is piped"), sender);
    let mut kept = VecDeque::new();
    loop {
        match lines.recv_timeout(status.pause()) {
            Ok(line) => {
                if kept.len() == SHOWN {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        status.update(start.elapsed(), kept.back().map_or("", String::as_str));
    }
    let ended = child.wait()?;
    status.end(start.elapsed(), ended.success());
    if !ended.success() {
        kept.iter().for_each(|line| println!("   | {line}"));
        bail!("{what}: it ended with {ended}");
    }
    Ok(())
}

fn forward(from: impl Read + Send + 'static, to: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !line.is_empty() && to.send(line).is_err() {
                return;
            }
        }
    });
}

/// The line that tells how far a command is.
struct Status<'a> {
    what: &'a str,
    is_terminal: bool,
    shown: Instant,
}

impl<'a> Status<'a> {
    fn new(what: &'a str) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        if !is_terminal {
            note(&format!("{what} ..."));
        }
        Self { what, is_terminal, shown: Instant::now() }
    }

    fn pause(&self) -> Duration {
        if self.is_terminal { ON_TERMINAL } else { IN_LOG }
    }

    fn update(&mut self, elapsed: Duration, line: &str) {
        if self.shown.elapsed() < self.pause() {
            return;
        }
        self.shown = Instant::now();
        let seconds = elapsed.as_secs();
        if self.is_terminal {
            let line: String = line.chars().filter(|c| !c.is_control()).take(60).collect();
            print!("\r\x1b[K   {} ({seconds} s)  {line}", self.what);
            let _ = std::io::stdout().flush();
        } else {
            note(&format!("{}: {seconds} s so far", self.what));
        }
    }

    fn end(&self, elapsed: Duration, is_done: bool) {
        let word = if is_done { "done" } else { "failed" };
        let erase = if self.is_terminal { "\r\x1b[K" } else { "" };
        println!("{erase}   {}: {word} in {:.1} s", self.what, elapsed.as_secs_f32());
    }
}
