//! What the container runtime has told of sandboxes, kept for the next agent process: nobody tells it again.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::sandbox::Sandbox;

/// In the state directory.
const NAME: &str = "sandboxes.json";
/// A file that is longer is none of ours: a node has some hundred pods.
const LONGEST: u64 = 4 << 20;

/// The file of the sandboxes.
#[derive(Debug, Clone)]
pub(super) struct KeptSandboxes {
    path: PathBuf,
}

impl KeptSandboxes {
    pub(super) fn of(state_dir: &Path) -> Self {
        Self { path: state_dir.join(NAME) }
    }

    /// What was kept; nothing where there is no file. Whether it is still true is for the reader to find out.
    ///
    /// # Errors
    /// What the kernel says, or that the file is not what it should be.
    pub(super) fn read(&self) -> io::Result<Vec<Sandbox>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Keeps these, all or none of them.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn write(&self, sandboxes: &[Sandbox]) -> io::Result<()> {
        let unfinished = self.path.with_extension("json.new");
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(sandboxes)?)?;
        drop(file);
        fs::rename(&unfinished, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_what_is_something_else_is_said_to_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = KeptSandboxes::of(folder.path());
        assert_eq!(kept.read().expect("no file is no error"), []);
        let sandbox = Sandbox {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            container: "c".into(),
            netns: "/run/netns/cni-1".into(),
            addresses: vec!["10.0.0.1".parse().expect("an address")],
        };
        kept.write(std::slice::from_ref(&sandbox)).expect("it can be written");
        assert_eq!(kept.read().expect("it can be read"), [sandbox]);
        fs::write(folder.path().join(NAME), "[{").expect("it can be written");
        assert!(kept.read().is_err());
    }
}
