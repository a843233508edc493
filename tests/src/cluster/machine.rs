//! A machine of a cluster: namespaces with a supervisor as the first process, `weft-machine`, that runs services, as
//! systemd does on a real one. When the supervisor is killed the kernel kills everything else on the machine.

mod boot;
pub use boot::boot;

mod mounts;

mod supervise;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::kit::Kit;
use super::plan::Plan;
use super::removal::remove_cgroups;
use crate::netns::{self, enter_thread};
use crate::sweep;
use crate::wait::{eventually, eventually_within};

/// Lines of each log that are shown when a start has failed.
const SHOWN: usize = 12;

/// What `weft-machine` is told, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// The host name.
    pub name: String,
    /// Relative to the root of every hierarchy of cgroups.
    pub cgroup: String,
    /// Where logs, and the state of services, go.
    pub folder: PathBuf,
    /// Folders of the host, and where the machine sees them.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// What runs on it.
    pub services: Vec<Service>,
}

/// A program that is started again when it ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    /// Its name, that of its log (`NAME.log`), and that of its cgroup (`/system.slice/NAME.service`).
    pub name: String,
    /// The program, with its arguments.
    pub command: Vec<String>,
    /// It is started when all of these files are there.
    pub after: Vec<PathBuf>,
}

impl Service {
    /// A service that is started at once.
    pub(super) fn new(name: &str, program: &Path, arguments: impl IntoIterator<Item = String>) -> Self {
        let command = [program.display().to_string()].into_iter().chain(arguments).collect();
        Self { name: name.to_owned(), command, after: Vec::new() }
    }

    pub(super) fn after(mut self, file: impl Into<PathBuf>) -> Self {
        self.after.push(file.into());
        self
    }
}

/// A machine of a cluster; clones are the same machine. It ends with the cluster.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    folder: PathBuf,
    netns: PathBuf,
    cgroup: String,
}

impl Machine {
    pub(super) fn named(plan: &Plan, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder: plan.folder().join(name),
            netns: Path::new(netns::FOLDER).join(plan.netns(name)),
            cgroup: format!("{}/{name}", plan.trace()),
        }
    }

    pub(super) fn attach(plan: &Plan, name: &str) -> Result<Self> {
        let machine = Self::named(plan, name);
        machine.check()?;
        Ok(machine)
    }

    /// Its name, which is a node's in Kubernetes as well.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder with its services' configuration and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its cgroup, relative to the root of every hierarchy; what runs on it sees this as the root.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// The cluster was removed.
    pub fn netns(&self) -> Result<File> {
        File::open(&self.netns).with_context(|| format!("opening {}", self.netns.display()))
    }

    /// Starts it, with services that are the same after [`reboot`](Self::reboot).
    pub(super) fn start(&self, kit: &Kit, binds: Vec<(PathBuf, PathBuf)>, services: Vec<Service>) -> Result<()> {
        let (name, cgroup, folder) = (self.name.clone(), self.cgroup.clone(), self.folder.clone());
        let description = Description { name, cgroup, folder, binds, services };
        fs::write(self.description(), serde_json::to_vec_pretty(&description)?)?;
        // The supervisor is copied, so that a rebuild of it and a reboot of the machine do not meet.
        fs::copy(kit.machine(), self.supervisor()).context("copying weft-machine")?;
        self.power_on()
    }

    fn power_on(&self) -> Result<()> {
        sweep::ensure_not_interrupted()?;
        let netns = self.netns()?;
        let mut command = Command::new(self.supervisor());
        command.arg(self.description()).process_group(0).stdin(Stdio::null());
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns.
        unsafe { command.pre_exec(move || enter_thread(&netns)) };
        let output = command.output().with_context(|| format!("starting {}", self.supervisor().display()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the machine {} does not start: {}", self.name, complaint.trim());
        let pid = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        fs::write(self.folder.join("pid"), &pid).with_context(|| format!("noting the process {pid}"))
    }

    /// The id of its first process, while it runs.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let file = self.folder.join("pid");
        let pid = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let pid: u32 = pid.trim().parse().with_context(|| format!("parsing {}", file.display()))?;
        // The id may have gone to another process.
        let (own, its) = (fs::metadata(&self.netns)?, fs::metadata(format!("/proc/{pid}/ns/net")));
        let is_same = its.is_ok_and(|its| (its.dev(), its.ino()) == (own.dev(), own.ino()));
        ensure!(is_same, "the machine {} does not run", self.name);
        Ok(pid)
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> Result<()> {
        self.pid().map(drop)
    }

    /// A command in all of the machine's namespaces but that of processes, with its file system.
    ///
    /// # Errors
    /// It does not run.
    pub fn command(&self, program: &str) -> Result<Command> {
        const SPACES: [(&str, libc::c_int); 5] = [
            ("cgroup", libc::CLONE_NEWCGROUP),
            ("ipc", libc::CLONE_NEWIPC),
            ("uts", libc::CLONE_NEWUTS),
            ("net", libc::CLONE_NEWNET),
            // The last, for the others are found by the host's.
            ("mnt", libc::CLONE_NEWNS),
        ];
        let pid = self.pid()?;
        let open = |(name, kind)| -> io::Result<_> { Ok((File::open(format!("/proc/{pid}/ns/{name}"))?, kind)) };
        let spaces = SPACES.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let mut command = Command::new(program);
        command.process_group(0);
        // SAFETY: between fork and exec the closure only makes system calls, on descriptors that it owns.
        unsafe {
            command.pre_exec(move || {
                for (file, kind) in &spaces {
                    if libc::setns(file.as_raw_fd(), *kind) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            })
        };
        Ok(command)
    }

    /// Ends everything that runs on it at once, as a loss of power does, and starts it again with what is on its disk.
    ///
    /// # Errors
    /// It does not run, or does not come up.
    pub fn reboot(&self) -> Result<()> {
        self.power_off()?;
        self.forget_network()?;
        self.power_on()
    }

    /// Ends everything that runs on it at once, as a loss of power does.
    ///
    /// # Errors
    /// It does not run.
    pub fn power_off(&self) -> Result<()> {
        let pid = self.pid()?;
        // SAFETY: kill takes no pointers.
        let killed = unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        ensure!(killed == 0, "killing {}: {}", self.name, io::Error::last_os_error());
        // The kernel ends the supervisor after everything else on the machine.
        eventually_within(Duration::from_secs(60), &format!("{} is off", self.name), || {
            Ok(self.check().is_err().then_some(()))
        })?;
        // A group that has had others below it takes no process again.
        remove_cgroups(&self.cgroup);
        Ok(())
    }

    /// A network namespace outlives the machine, so what a reboot loses is taken out of it: links of pods, and rules.
    fn forget_network(&self) -> Result<()> {
        let netns = self.netns()?;
        let mut nft = Command::new("nft");
        nft.args(["flush", "ruleset"]);
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns.
        unsafe { nft.pre_exec(move || enter_thread(&netns)) };
        ensure!(nft.status().context("starting nft")?.success(), "flushing the rules of {} failed", self.name);
        Ok(())
    }

    /// Ends a service until [`start_service`](Self::start_service), as `systemctl stop` does: by SIGTERM, and by SIGKILL
    /// after 5 seconds.
    ///
    /// # Errors
    /// It has not ended within a minute.
    pub fn stop_service(&self, name: &str) -> Result<()> {
        let mark = self.folder.join(supervise::down_mark(name));
        fs::write(&mark, "").with_context(|| format!("writing {}", mark.display()))?;
        eventually_within(Duration::from_secs(60), &format!("{name} of {} ends", self.name), || {
            Ok((!self.runs_service(name)).then_some(()))
        })
    }

    /// Starts a service that was stopped.
    ///
    /// # Errors
    /// It was not stopped, or is not started.
    pub fn start_service(&self, name: &str) -> Result<()> {
        let mark = self.folder.join(supervise::down_mark(name));
        fs::remove_file(&mark).with_context(|| format!("{name} of {} was not stopped", self.name))?;
        eventually(&format!("{name} of {} is started", self.name), || Ok(self.runs_service(name).then_some(())))
    }

    /// Whether a service has a process.
    pub fn runs_service(&self, name: &str) -> bool {
        self.folder.join(supervise::pid_file(name)).exists()
    }

    /// The file with what a service has written.
    pub fn log_file(&self, service: &str) -> PathBuf {
        self.folder.join(format!("{service}.log"))
    }

    pub(super) fn make_folder(&self) -> Result<()> {
        fs::create_dir(&self.folder).with_context(|| format!("making {}", self.folder.display()))
    }

    pub(super) fn ends_of_logs(&self) -> String {
        let mut shown = String::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            for line in &lines[lines.len().saturating_sub(SHOWN)..] {
                shown.push_str(&format!("{}/{file}: {line}\n", self.name));
            }
        }
        shown
    }

    fn description(&self) -> PathBuf {
        self.folder.join("machine.json")
    }

    fn supervisor(&self) -> PathBuf {
        self.folder.join("weft-machine")
    }
}

/// What `weft-machine` and those who run it report of a system call that failed.
fn checked(returned: libc::c_int, what: &str) -> Result<libc::c_int> {
    if returned < 0 {
        bail!("{what}: {}", io::Error::last_os_error());
    }
    Ok(returned)
}
