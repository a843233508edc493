//! What was last known of the namespaces, on disk, for when neither the agent nor the API server answers.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// More namespaces than this are not remembered.
const MAX_NAMESPACES: usize = 10_000;
/// A larger file is none of ours.
const MAX_SIZE: u64 = 2 << 20;
/// How long another writer is waited for: it writes one small file. No pod waits longer for one that hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether it has done so.
const PAUSE: Duration = Duration::from_millis(5);

/// The namespaces of which something is known. It is a file beside the agent's admin socket, written by whoever learns
/// something: the plug-in, a process for each pod, or an agent that watches the cluster. Readers see it whole; writers take
/// turns, by a lock on another file, so that none loses what another one has learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    namespaces: BTreeMap<String, Namespace>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Namespace {
    /// What its own label says, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is_ambient: Option<bool>,
    /// A pod of it belonged to the mesh once: others may, by their own labels.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_members: bool,
}

impl Remembered {
    /// Where the agent with this state directory, which is the folder of its admin socket, has it.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("cni-namespaces.json")
    }

    /// Reads the file. What is not there, or cannot be understood, is not known.
    pub fn read(path: &Path) -> Self {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut bytes));
        read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Whether pods of a namespace belonged to the mesh when it was last heard of; `None`: it is unknown.
    pub fn is_member(&self, namespace: &str) -> Option<bool> {
        let namespace = self.namespaces.get(namespace)?;
        if namespace.has_members { Some(true) } else { namespace.is_ambient }
    }

    /// Notes what a namespace's label says: whether it enrols. Returns whether that is news.
    pub fn note_label(&mut self, namespace: &str, is_ambient: bool) -> bool {
        self.change(namespace, |known| known.is_ambient = Some(is_ambient))
    }

    /// Notes that a pod of a namespace belongs to the mesh. Returns whether that is news.
    pub fn note_member(&mut self, namespace: &str) -> bool {
        self.change(namespace, |known| known.has_members = true)
    }

    /// Writes what an agent that watches the cluster knows: each namespace, whether its label enrols, and whether pods of
    /// the mesh are in it here. Namespaces that are not among them are forgotten; that one had members stays known for as long as it is there. Nothing is written
    /// when nothing is new.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn learn<'a>(path: &Path, namespaces: impl IntoIterator<Item = (&'a str, bool, bool)>) -> io::Result<()> {
        let _turn = take_turn(path, PATIENCE)?;
        let known = Self::read(path);
        let mut learnt = Self::default();
        for (namespace, is_ambient, has_members) in namespaces {
            learnt.note_label(namespace, is_ambient);
            if has_members || known.namespaces.get(namespace).is_some_and(|known| known.has_members) {
                learnt.note_member(namespace);
            }
        }
        if learnt == known { Ok(()) } else { learnt.write(path) }
    }

    /// Notes something more, and writes it if it is news.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add(path: &Path, note: impl Fn(&mut Self) -> bool) -> io::Result<()> {
        Self::add_within(PATIENCE, path, note)
    }

    fn add_within(patience: Duration, path: &Path, note: impl Fn(&mut Self) -> bool) -> io::Result<()> {
        // What is no news, as for most pods, needs no turn.
        if !note(&mut Self::read(path)) {
            return Ok(());
        }
        let _turn = take_turn(path, patience)?;
        let mut known = Self::read(path);
        if note(&mut known) { known.write(path) } else { Ok(()) }
    }

    fn change(&mut self, namespace: &str, change: impl FnOnce(&mut Namespace)) -> bool {
        if self.namespaces.len() >= MAX_NAMESPACES && !self.namespaces.contains_key(namespace) {
            return false;
        }
        let known = self.namespaces.entry(namespace.to_owned()).or_default();
        let before = *known;
        change(known);
        *known != before
    }

    /// Writes the file, whole or not at all.
    pub(in crate::cni) fn write(&self, path: &Path) -> io::Result<()> {
        // Uninstalling removes what is left under such names.
        let staging = path.with_file_name(format!(".weft-cni-namespaces.{}.tmp", std::process::id()));
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staging)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&staging, path)
        };
        write().inspect_err(|_| {
            // The first error is the one to report.
            let _ = fs::remove_file(&staging);
        })
    }
}

/// Waits until nobody else writes. The turn ends when what is returned is dropped, and when its process ends.
fn take_turn(path: &Path, patience: Duration) -> io::Result<File> {
    let lock = path.with_file_name(".weft-cni-namespaces.lock");
    let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() > patience => return Err(io::ErrorKind::TimedOut.into()),
            Err(TryLockError::WouldBlock) => sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_was_noted_is_there_for_the_next_reader() {
        let folder = TempDir::new().unwrap();
        let path = Remembered::path(folder.path());
        let mut known = Remembered::read(&path);
        assert_eq!(known.is_member("shop"), None);
        assert!(known.note_label("shop", true));
        assert!(!known.note_label("shop", true), "that is no news");
        assert!(known.note_label("bank", false));
        known.write(&path).unwrap();
        let known = Remembered::read(&path);
        assert_eq!((known.is_member("shop"), known.is_member("bank")), (Some(true), Some(false)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn those_who_write_at_once_lose_nothing_of_each_other() {
        let folder = TempDir::new().unwrap();
        let path = Remembered::path(folder.path());
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for number in 0..20 {
                        let namespace = format!("n{writer}-{number}");
                        Remembered::add_within(Duration::MAX, path, |known| known.note_member(&namespace)).unwrap();
                    }
                });
            }
        });
        let known = Remembered::read(&path);
        let missing = (0..160).filter(|i| known.is_member(&format!("n{}-{}", i / 20, i % 20)) != Some(true)).count();
        assert_eq!(missing, 0, "of 160 that were noted");
    }

    #[test]
    fn a_writer_that_hangs_is_given_up_on() {
        let folder = TempDir::new().unwrap();
        let path = Remembered::path(folder.path());
        let turn = take_turn(&path, PATIENCE).unwrap();
        assert_eq!(take_turn(&path, Duration::ZERO).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(turn);
        Remembered::add(&path, |known| known.note_member("shop")).unwrap();
        assert_eq!(Remembered::read(&path).is_member("shop"), Some(true));
    }

    #[test]
    fn one_pod_with_a_label_of_its_own_makes_the_others_suspect() {
        let mut known = Remembered::default();
        known.note_label("shop", false);
        known.note_member("shop");
        known.note_label("shop", false);
        assert_eq!(known.is_member("shop"), Some(true));
    }

    #[test]
    fn an_agent_that_knows_all_namespaces_replaces_what_was_known() {
        let folder = TempDir::new().unwrap();
        let path = Remembered::path(folder.path());
        let mut known = Remembered::default();
        known.note_label("gone", true);
        known.note_member("shop");
        known.write(&path).unwrap();
        let namespaces = [("shop", false, false), ("bank", false, false), ("mesh", true, false), ("one", false, true)];
        Remembered::learn(&path, namespaces).unwrap();
        let known = Remembered::read(&path);
        let standing = ["gone", "shop", "bank", "mesh", "one"].map(|namespace| known.is_member(namespace));
        assert_eq!(standing, [None, Some(true), Some(false), Some(true), Some(true)]);
    }

    #[test]
    fn a_file_that_is_none_is_as_good_as_no_file() {
        let folder = TempDir::new().unwrap();
        let path = Remembered::path(folder.path());
        for text in ["", "[]", "{\"namespaces\": {\"shop\": 1}}", "{\"namespaces\": {\"shop\": {"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Remembered::read(&path), Remembered::default(), "{text}");
        }
    }
}
