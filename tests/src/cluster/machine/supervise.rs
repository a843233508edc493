//! The first process of a machine: starts services, starts them again, and buries what nobody else does.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{mem, ptr};

use anyhow::{Context, Result};

use super::super::hierarchy::Hierarchy;
use super::{Description, Service, checked};

/// A service that ends at once is not started more often than this.
const BETWEEN_STARTS: Duration = Duration::from_secs(1);

/// A service that is told to end and has not by then is killed. The API server would wait for its watchers, for a minute.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon files are noticed: those that services wait for, and those that stop them.
const GLANCE: Duration = Duration::from_millis(50);

/// While this is in the machine's folder the service does not run.
pub(super) fn down_mark(service: &str) -> String {
    format!("{service}.down")
}

/// Is in the machine's folder while the service runs.
pub(super) fn pid_file(service: &str) -> String {
    format!("{service}.pid")
}

struct Supervised<'a> {
    service: &'a Service,
    folder: &'a Path,
    pid: Option<libc::pid_t>,
    started: Option<Instant>,
    told_to_end: Option<Instant>,
}

/// Runs services until it is killed, and the machine with it.
pub(super) fn supervise(description: &Description, hierarchies: &[Hierarchy]) -> Result<()> {
    let Err(error) = run(description, hierarchies);
    Err(error)
}

fn run(description: &Description, hierarchies: &[Hierarchy]) -> Result<Infallible> {
    let signals = blocked_signals()?;
    let folder = &description.folder;
    let mut all: Vec<Supervised> = description
        .services
        .iter()
        .map(|service| Supervised { service, folder, pid: None, started: None, told_to_end: None })
        .collect();
    for supervised in &all {
        // From before a reboot.
        let _ = fs::remove_file(folder.join(pid_file(&supervised.service.name)));
    }
    loop {
        for supervised in &mut all {
            if let Err(error) = supervised.look_after(hierarchies) {
                eprintln!("{}: {error:#}", supervised.service.name);
            }
        }
        wait_for(&signals);
        while let Some((pid, status)) = bury() {
            if let Some(supervised) = all.iter_mut().find(|supervised| supervised.pid == Some(pid)) {
                eprintln!("{} ended with status {status:#x}", supervised.service.name);
                supervised.pid = None;
                supervised.told_to_end = None;
                let _ = fs::remove_file(folder.join(pid_file(&supervised.service.name)));
            }
        }
    }
}

impl Supervised<'_> {
    fn look_after(&mut self, hierarchies: &[Hierarchy]) -> Result<()> {
        let is_down = self.folder.join(down_mark(&self.service.name)).exists();
        match self.pid {
            Some(pid) if is_down => {
                let signal = match self.told_to_end {
                    None => libc::SIGTERM,
                    Some(told) if told.elapsed() > PATIENCE => libc::SIGKILL,
                    Some(_) => return Ok(()),
                };
                self.told_to_end.get_or_insert_with(Instant::now);
                // SAFETY: kill takes no pointers, and the process, not yet buried, is this one's child.
                checked(unsafe { libc::kill(pid, signal) }, "ending it").map(drop)
            }
            Some(_) => Ok(()),
            None if is_down || !self.may_start() => Ok(()),
            None => {
                self.started = Some(Instant::now());
                let pid = self.start(hierarchies)?;
                self.pid = Some(pid as libc::pid_t);
                Ok(fs::write(self.folder.join(pid_file(&self.service.name)), pid.to_string())?)
            }
        }
    }

    fn may_start(&self) -> bool {
        self.started.is_none_or(|started| started.elapsed() >= BETWEEN_STARTS)
            && self.service.after.iter().all(|file| file.exists())
    }

    fn start(&self, hierarchies: &[Hierarchy]) -> Result<u32> {
        let Service { name, command, .. } = self.service;
        let group = format!("system.slice/{name}.service");
        let mut entrances = Vec::new();
        for hierarchy in hierarchies {
            let file = hierarchy.create(&group)?.join("cgroup.procs");
            entrances
                .push(File::options().write(true).open(&file).with_context(|| format!("opening {}", file.display()))?);
        }
        let log = self.folder.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let (program, arguments) = command.split_first().context("it has no program")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/").env("HOME", "/root");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        // SAFETY: between fork and exec the closure only makes system calls, on descriptors that it owns.
        unsafe { command.pre_exec(move || entrances.iter_mut().try_for_each(|entrance| entrance.write_all(b"0"))) };
        Ok(command.spawn().with_context(|| format!("starting {program}"))?.id())
    }
}

/// Blocks the signal of a child's end, so that it can be waited for.
fn blocked_signals() -> Result<libc::sigset_t> {
    // SAFETY: an all-zero signal set is valid storage, sigemptyset makes it a set, and it outlives the calls.
    unsafe {
        let mut signals: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGCHLD);
        let blocked = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut());
        anyhow::ensure!(blocked == 0, "blocking SIGCHLD: {}", io::Error::from_raw_os_error(blocked));
        Ok(signals)
    }
}

/// Waits for a child's end, at most until it is time to look at files again.
fn wait_for(signals: &libc::sigset_t) {
    let limit = libc::timespec { tv_sec: 0, tv_nsec: GLANCE.as_nanos() as libc::c_long };
    // SAFETY: both pointers are to values that outlive the call; what came is not asked for.
    unsafe { libc::sigtimedwait(signals, ptr::null_mut(), &raw const limit) };
}

/// A process that has ended, its own child or one that its parent left behind.
fn bury() -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the pointer is to a value that outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}
