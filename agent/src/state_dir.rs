//! The folder of what an agent keeps, and who owns it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

/// Whoever has this file locked owns the folder.
const LOCK: &str = "agent.lock";

/// Makes the folder, if there is none.
///
/// # Errors
/// What the kernel says.
pub fn make(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making the state directory {}", path.display()))
}

/// Keeps other agents out of the folder for as long as the file is open; `None` when another one has it.
///
/// # Errors
/// What the kernel says.
pub fn try_lock(path: &Path) -> anyhow::Result<Option<File>> {
    let lock = path.join(LOCK);
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock)
        .with_context(|| format!("opening {}", lock.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("locking {}", lock.display())),
    }
}

/// [`try_lock`], for one who will not wait.
///
/// # Errors
/// As there, and when another agent has it.
pub fn lock(path: &Path) -> anyhow::Result<File> {
    try_lock(path)?.with_context(|| {
        format!(
            "another agent runs with the state directory {}: stop it, give this one a --state-dir of its own, or have it \
             --take-over",
            path.display()
        )
    })
}
