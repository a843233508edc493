//! Whose connections are probes: those of one cgroup, which reach the pods directly.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use weft_common::Settings;

use super::{Capture, CaptureError};

impl Capture {
    /// Finds the probe cgroup anew: its id changes each time that its service is restarted.
    ///
    /// # Errors
    /// When there is no such cgroup, or it is the root of the hierarchy: probes are then judged like any other
    /// plaintext connection.
    pub fn refresh_probe_cgroup(&self) -> Result<(), CaptureError> {
        let path = self.probe_cgroup.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(path) = path else {
            self.settings.put(&0, &Settings::default())?;
            return Ok(());
        };
        let id = probe_cgroup_id(&path, &self.cgroup);
        let settings = Settings { probe_cgroup: id.as_ref().copied().unwrap_or_default() };
        self.settings.put(&0, &settings)?;
        id.map(drop).map_err(|problem| CaptureError::ProbeCgroup { path, problem })
    }

    /// Makes another cgroup that of the probes.
    ///
    /// # Errors
    /// As [`Capture::refresh_probe_cgroup`].
    pub fn set_probe_cgroup(&self, path: Option<PathBuf>) -> Result<(), CaptureError> {
        *self.probe_cgroup.lock().unwrap_or_else(PoisonError::into_inner) = path;
        self.refresh_probe_cgroup()
    }

    /// The root of the cgroup v2 hierarchy that the programs are attached to.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }
}

/// A cgroup's id is its inode number.
fn probe_cgroup_id(path: &Path, root: &File) -> Result<u64, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    let root = root.metadata().map_err(|error| error.to_string())?;
    if metadata.dev() != root.dev() {
        return Err("it is not in the cgroup v2 hierarchy".into());
    }
    if metadata.ino() == root.ino() {
        return Err("it is the root of the hierarchy, to which any process could belong".into());
    }
    Ok(metadata.ino())
}
