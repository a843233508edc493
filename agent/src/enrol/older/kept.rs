//! What the next agent of this node must know of older connections, in a file of the state directory.
//!
//! Capture outlives the agent, and leaves alone what goes elsewhere than to the mesh. An agent that takes captured pods
//! over could not tell such connections from older ones.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::OlderConnection;
use crate::netns::NetnsCookie;

/// Connections by what identifies them: both ends, and the kernel's number for the pod's socket.
pub(crate) type Kept = HashSet<(SocketAddr, SocketAddr, u64)>;

/// The file.
#[derive(Debug)]
pub(crate) struct KeptFile(PathBuf);

/// What is in it. Numbers of namespaces and sockets are those of one boot of the kernel.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    boot: String,
    pods: BTreeMap<u64, Vec<OlderConnection>>,
}

impl KeptFile {
    /// The file in this state directory.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("older-connections.json"))
    }

    /// The connections that an earlier agent has written down, by the pods that it had enrolled. Empty without a file of
    /// this boot.
    ///
    /// # Errors
    /// The file cannot be read, or is none of these.
    pub(crate) fn read(&self) -> io::Result<BTreeMap<NetnsCookie, Kept>> {
        let bytes = match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            result => result?,
        };
        let contents: Contents = serde_json::from_slice(&bytes)?;
        if contents.boot != boot()? {
            return Ok(BTreeMap::new());
        }
        let identified = |connection: OlderConnection| (connection.local, connection.remote, connection.cookie);
        let pods = contents.pods.into_iter();
        Ok(pods.map(|(pod, kept)| (NetnsCookie(pod), kept.into_iter().map(identified).collect())).collect())
    }

    /// Writes down what all pods have, in place of what was written before.
    ///
    /// # Errors
    /// The file cannot be written; what was written before stays.
    pub(crate) fn write(&self, pods: &[(NetnsCookie, Arc<[OlderConnection]>)]) -> io::Result<()> {
        let pods = pods.iter().map(|(pod, kept)| (pod.0, kept.to_vec())).collect();
        let bytes = serde_json::to_vec(&Contents { boot: boot()?, pods })?;
        let new = self.0.with_extension("new");
        fs::write(&new, bytes)?;
        fs::rename(&new, &self.0)
    }
}

/// The kernel's name for the time since it was started.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Direction;

    fn connection(cookie: u64) -> OlderConnection {
        let (local, remote) = ("10.0.0.1:40000".parse().unwrap(), "[fd00::2]:5432".parse().unwrap());
        OlderConnection { direction: Direction::Outbound, local, remote, cookie }
    }

    #[test]
    fn what_is_written_is_read_by_the_next_agent_of_the_same_boot() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeptFile::of(folder.path());
        assert_eq!(file.read().unwrap(), BTreeMap::new(), "no agent ran before");
        file.write(&[(NetnsCookie(1), Arc::new([])), (NetnsCookie(7), Arc::new([connection(3), connection(4)]))])
            .unwrap();
        let read = KeptFile::of(folder.path()).read().unwrap();
        assert_eq!(read.len(), 2);
        assert!(read[&NetnsCookie(1)].is_empty(), "that there are none is on record");
        let expected = connection(4);
        assert!(read[&NetnsCookie(7)].contains(&(expected.local, expected.remote, 4)));
        assert!(!read[&NetnsCookie(7)].contains(&(expected.local, expected.remote, 5)), "another socket");

        let path = folder.path().join("older-connections.json");
        let other_boot = fs::read_to_string(&path).unwrap().replace(&boot().unwrap(), "another");
        fs::write(&path, other_boot).unwrap();
        assert_eq!(file.read().unwrap(), BTreeMap::new(), "of another boot");
    }

    #[test]
    fn a_file_that_is_none_of_these_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for contents in ["", "[]", "{\"boot\": 1}", "{\"boot\": \"x\", \"pods\": {\"a\": []}}"] {
            fs::write(folder.path().join("older-connections.json"), contents).unwrap();
            assert!(KeptFile::of(folder.path()).read().is_err(), "{contents}");
        }
    }
}
