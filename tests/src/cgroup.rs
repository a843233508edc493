//! Version 2 cgroups, one for each pod, as a container runtime makes them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::sweep;

/// A version 2 cgroup. Dropping it kills what runs in it and removes it with all that is below it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup; `name` is relative to the root of the hierarchy and may name a nested one.
    ///
    /// # Errors
    /// Not root, or no version 2 hierarchy is mounted.
    pub fn create(name: &str) -> Result<Self> {
        sweep::ensure_not_interrupted()?;
        let path = root()?.join(name);
        fs::create_dir_all(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder of the cgroup.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The processes in this cgroup, not in those below it.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let listed = fs::read_to_string(self.path.join("cgroup.procs"))
            .with_context(|| format!("listing the processes of {}", self.path.display()))?;
        Ok(listed.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// A descriptor to which a child process writes `0` to move itself here.
    pub(crate) fn entrance(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The root of the version 2 hierarchy: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` where version 1 is mounted as well.
///
/// # Errors
/// No version 2 hierarchy is mounted at either place.
pub(crate) fn root() -> Result<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|folder| folder.join("cgroup.procs").exists() && folder.join("cgroup.controllers").exists())
        .context("no version 2 cgroup hierarchy at /sys/fs/cgroup or /sys/fs/cgroup/unified; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// Kills all processes in a cgroup and below, and removes the folders. What cannot be removed stays: the next sweep tries
/// again.
pub(crate) fn remove(path: &Path) {
    if !path.exists() {
        return;
    }
    let _ = fs::write(path.join("cgroup.kill"), "1");
    // A killed process leaves its cgroup a moment later, when its last thread is gone.
    let start = Instant::now();
    while remove_folders(path).is_err() && start.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn remove_folders(path: &Path) -> io::Result<()> {
    let listed = match fs::read_dir(path) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in listed {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
