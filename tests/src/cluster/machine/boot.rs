//! From a plain process to a machine.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process;

use anyhow::{Context, Result, ensure};

use super::super::hierarchy::{self, Hierarchy};
use super::{Description, checked, mounts, supervise};

/// Where the first process is: on version 2 the root must be empty for others to have controllers.
const FIRST: &str = "init.scope";

/// Makes the calling process, which is in the machine's network namespace already and has no other thread, the start of
/// a machine: prints the id of the machine's first process, and returns when that has set itself up.
///
/// # Errors
/// The description cannot be read, or a namespace, a cgroup or a mount cannot be made; the message says which.
pub fn boot(description: &Path) -> Result<()> {
    let text = fs::read(description).with_context(|| format!("reading {}", description.display()))?;
    let description: Description = serde_json::from_slice(&text).context("parsing the description of the machine")?;
    let hierarchies = hierarchy::mounted()?;
    enter_cgroups(&hierarchies, &description.cgroup)?;
    let spaces = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWPID;
    // SAFETY: unshare takes no pointers.
    checked(unsafe { libc::unshare(spaces) }, "unshare")?;

    let (mut done, is_done) = std::io::pipe()?;
    // SAFETY: this process has one thread, so that the child may go on with everything that it knows.
    let child = checked(unsafe { libc::fork() }, "fork")?;
    if child == 0 {
        drop(done);
        let result = begin(&description, &hierarchies, is_done);
        eprintln!("{}: {:#}", description.name, result.expect_err("a machine runs until it is ended"));
        process::exit(1);
    }
    drop(is_done);
    // It says a word when it stands, and closes the pipe without one when it fails.
    let mut word = Vec::new();
    done.read_to_end(&mut word)?;
    ensure!(!word.is_empty(), "its first process ended");
    println!("{child}");
    Ok(())
}

/// Moves this process below the machine's cgroup, and makes that the root of what it sees.
fn enter_cgroups(hierarchies: &[Hierarchy], cgroup: &str) -> Result<()> {
    let folders = hierarchies.iter().map(|hierarchy| hierarchy.create(cgroup)).collect::<Result<Vec<_>>>()?;
    let both = || hierarchies.iter().zip(&folders);
    both().try_for_each(|(hierarchy, folder)| hierarchy.enter(folder))?;
    // SAFETY: unshare takes no pointers.
    checked(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }, "unshare(CLONE_NEWCGROUP)")?;
    for (hierarchy, folder) in both() {
        let first = hierarchy.create(&format!("{cgroup}/{FIRST}"))?;
        hierarchy.enter(&first).with_context(|| format!("leaving {}", folder.display()))?;
    }
    Ok(())
}

fn begin(description: &Description, hierarchies: &[Hierarchy], mut is_done: std::io::PipeWriter) -> Result<()> {
    // SAFETY: setsid takes nothing.
    checked(unsafe { libc::setsid() }, "setsid")?;
    mounts::lay(hierarchies, &description.name, &description.binds)?;
    let name = &description.name;
    // SAFETY: the pointer is to as many bytes as the length says.
    checked(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }, "sethostname")?;
    let log = description.folder.join("weft-machine.log");
    let log =
        File::options().create(true).append(true).open(&log).with_context(|| format!("opening {}", log.display()))?;
    is_done.write_all(b"!")?;
    drop(is_done);
    for descriptor in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: dup2 takes two descriptors, of which the first is open.
        checked(unsafe { libc::dup2(log.as_raw_fd(), descriptor) }, "dup2")?;
    }
    supervise::supervise(description, hierarchies)
}
