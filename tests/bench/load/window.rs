//! The span of time in which a client's work counts, and what is read off at its two ends.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// When a client measures, and what besides its own work.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How long the work counts, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How long the work goes on before it counts, in seconds.
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    /// Processes whose CPU time is read at both ends.
    #[arg(long)]
    watch: Vec<i32>,
    /// The socket of the server that counts received bytes.
    #[arg(long)]
    control: Option<PathBuf>,
}

/// Tells the work whether it counts. A reading costs nothing, so it can be asked at each step.
#[derive(Debug, Default)]
pub struct Window(AtomicU8);

// 0, where a window begins, is the time of warming up.
const OPEN: u8 = 1;
const OVER: u8 = 2;

impl Window {
    /// Whether what ends now counts.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OPEN
    }

    /// Whether the work is to stop.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }
}

/// What was read off.
#[derive(Debug)]
pub struct Measured {
    /// How long the window was open.
    pub seconds: f64,
    cpu_seconds: Vec<f64>,
    received: Option<(u64, f64)>,
}

impl Measured {
    /// The part of a result that all kinds of load have.
    pub fn to_json(&self) -> Value {
        let mut value = json!({ "seconds": self.seconds, "cpu_seconds": self.cpu_seconds });
        if let Some((bytes, seconds)) = self.received {
            value["bytes"] = json!(bytes);
            value["bytes_per_second"] = json!(bytes as f64 / seconds);
        }
        value
    }
}

/// Runs `work` while the window opens and closes, and returns what both came to. `work` returns when the window is over.
pub fn measure<T>(options: &Options, work: impl FnOnce(&Window) -> Result<T>) -> Result<(Measured, T)> {
    let window = Window::default();
    thread::scope(|scope| {
        let clock = scope.spawn(|| {
            let measured = keep_time(options, &window);
            window.0.store(OVER, Ordering::Relaxed);
            measured
        });
        let worked = work(&window)?;
        let measured = clock.join().expect("the clock does not panic")?;
        Ok((measured, worked))
    })
}

fn keep_time(options: &Options, window: &Window) -> Result<Measured> {
    thread::sleep(Duration::from_secs_f64(options.warm_up));
    let before = Reading::take(options)?;
    window.0.store(OPEN, Ordering::Relaxed);
    let opened = Instant::now();
    thread::sleep(Duration::from_secs_f64(options.seconds));
    let seconds = opened.elapsed().as_secs_f64();
    window.0.store(OVER, Ordering::Relaxed);
    let after = Reading::take(options)?;
    let cpu_seconds =
        before.cpu.iter().zip(&after.cpu).map(|(before, after)| (*after - *before).as_secs_f64()).collect();
    let received = before
        .received
        .zip(after.received)
        .map(|(before, after)| (after.bytes - before.bytes, (after.at - before.at).as_secs_f64()));
    Ok(Measured { seconds, cpu_seconds, received })
}

struct Reading {
    cpu: Vec<Duration>,
    received: Option<Received>,
}

impl Reading {
    fn take(options: &Options) -> Result<Self> {
        let cpu = options
            .watch
            .iter()
            .map(|pid| cpu_time(*pid).with_context(|| format!("reading the CPU clock of process {pid}")))
            .collect::<Result<_>>()?;
        let received = options.control.as_deref().map(Received::ask).transpose()?;
        Ok(Self { cpu, received })
    }
}

/// What a server says when it is asked over its control socket.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Bytes received since it started, on all connections.
    pub bytes: u64,
    /// The server's clock.
    pub at: Duration,
}

impl Received {
    /// How long an answer is.
    pub const LENGTH: usize = 16;

    fn ask(control: &Path) -> Result<Self> {
        let ask = || -> io::Result<[u8; Self::LENGTH]> {
            let mut socket = UnixStream::connect(control)?;
            socket.write_all(b"?")?;
            let mut answer = [0; Self::LENGTH];
            socket.read_exact(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().with_context(|| format!("asking the server at {}", control.display()))?;
        let (bytes, at) = answer.split_at(8);
        let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("half of 16 bytes are 8"));
        Ok(Self { bytes: number(bytes), at: Duration::from_nanos(number(at)) })
    }

    /// The answer on the wire.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut answer = [0; Self::LENGTH];
        let at = u64::try_from(self.at.as_nanos()).expect("a server does not run for centuries");
        answer[..8].copy_from_slice(&self.bytes.to_ne_bytes());
        answer[8..].copy_from_slice(&at.to_ne_bytes());
        answer
    }
}

/// The CPU time of all threads of a process, those that have ended included, as the scheduler counts it: in nanoseconds,
/// where `/proc/PID/stat` has hundredths of a second.
fn cpu_time(process: libc::pid_t) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the call writes one clock id to `clock`, which outlives it.
    let error = unsafe { libc::clock_getcpuclockid(process, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes one timespec to `time`, which outlives it.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, hence wrote the value.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_closes_and_reads_the_cpu_clock_of_a_process() {
        let own = std::process::id() as i32;
        let options = Options { seconds: 0.05, warm_up: 0.01, watch: vec![own], control: None };
        let (measured, counted) = measure(&options, |window| {
            let mut counted = 0_u64;
            while !window.is_over() {
                counted += u64::from(window.is_open());
            }
            Ok(counted)
        })
        .expect("both ends can be read");
        assert!(counted > 0);
        assert!(measured.seconds >= 0.05);
        assert!(measured.cpu_seconds[0] > 0.0, "the work did nothing but spin");
    }

    #[test]
    fn what_a_server_says_survives_the_wire() {
        let said = Received { bytes: 1 << 40, at: Duration::from_micros(3) };
        let bytes = said.to_bytes();
        assert_eq!(u64::from_ne_bytes(bytes[..8].try_into().expect("8 bytes")), 1 << 40);
        assert_eq!(u64::from_ne_bytes(bytes[8..].try_into().expect("8 bytes")), 3_000);
    }
}
