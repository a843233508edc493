//! The folder of manifests that a world's agents read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder of manifests. Files appear and change by rename, so that no reader sees half of one.
#[derive(Debug, Clone)]
pub struct ConfigDir {
    path: PathBuf,
    staging: PathBuf,
}

impl ConfigDir {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let staging = path.with_extension("staging");
        for folder in [path, &staging] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(Self { path: path.to_owned(), staging })
    }

    /// The folder, for `weft agent --config`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes or replaces `NAME.yaml`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        self.put_file(&format!("{name}.yaml"), text)
    }

    /// [`put`](Self::put) with the file's whole name, for what is not YAML.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn put_file(&self, file: &str, text: &str) -> Result<()> {
        let staged = self.staging.join(file);
        let target = self.path.join(file);
        fs::write(&staged, text).with_context(|| format!("writing {}", staged.display()))?;
        fs::rename(&staged, &target).with_context(|| format!("renaming to {}", target.display()))
    }

    /// Removes `NAME.yaml`.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.path.join(format!("{name}.yaml"));
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))
    }
}
