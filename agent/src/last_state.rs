//! What the control plane said last, kept for the next agent process: it serves by that while the control plane is away.
//!
//! The file has no private key in it, is for its owner only, and is hostile until it was read. See
//! [`weft_control::last_state`] for its form.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval, sleep};
use weft_control::discovery::Discovery;
use weft_control::last_state::{self, LONGEST, LastState};
use weft_model::SnapshotCell;
use weft_runtime::Shutdown;

use crate::duty::Duty;
use crate::proxy::demand::Demand;

/// In the state directory.
const NAME: &str = "last-state";
/// How often it is written, at most.
const INTERVAL: Duration = Duration::from_secs(10);

/// The file, and whose word it holds.
#[derive(Debug, Clone)]
pub struct KeptState {
    path: PathBuf,
    source: String,
    network: String,
}

/// What is written down.
#[derive(Debug)]
pub struct Known {
    /// What is in force.
    pub snapshots: Arc<SnapshotCell>,
    /// On demand: what was answered.
    pub demand: Option<Arc<Demand>>,
    /// Whether it is what the control plane says.
    pub discovery: Discovery,
    /// To write it.
    pub duty: Duty,
}

impl KeptState {
    /// What the control plane of this address says of this network.
    #[must_use]
    pub fn of(state_dir: &Path, control_plane: &str, network: &str) -> Self {
        Self {
            path: state_dir.join(NAME),
            source: format!("{control_plane} of network {network:?}"),
            network: network.to_owned(),
        }
    }

    /// What was kept; `None` where nothing was.
    ///
    /// # Errors
    /// What the kernel says, or that the file is not what it should be.
    fn read(&self) -> io::Result<Option<LastState>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
        last_state::decode(&bytes, &self.source).map(Some).map_err(io::Error::other)
    }

    /// Keeps this, all or nothing of it.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.path.with_extension("new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        drop(file);
        fs::rename(&unfinished, &self.path)
    }
}

/// Goes by what was kept if the control plane has not spoken after `patience`.
pub async fn recall(kept: KeptState, discovery: Discovery, patience: Duration) {
    sleep(patience).await;
    if discovery.status().is_synced {
        return;
    }
    let path = kept.path.clone();
    match tokio::task::spawn_blocking(move || kept.read()).await {
        Ok(Ok(Some(last))) => discovery.remember(last).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            tracing::warn!(file = %path.display(), %error, "what was known before cannot be used");
        }
        Err(error) => tracing::error!(%error, "reading what was known before failed"),
    }
}

/// Keeps the file in step with what the control plane says, and writes it a last time at the end.
pub async fn keep(kept: KeptState, known: Known, mut shutdown: Shutdown) {
    let mut interval = interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = None;
    loop {
        let is_end = tokio::select! {
            biased;
            () = shutdown.requested() => true,
            _ = interval.tick() => false,
        };
        written = known.keep_up(&kept, written).await;
        if is_end {
            return;
        }
    }
}

impl Known {
    /// Writes it if it is another thing than was `written`; returns what is written then, as generations.
    async fn keep_up(&self, kept: &KeptState, written: Option<(u64, u64)>) -> Option<(u64, u64)> {
        let answers = self.demand.as_ref().map_or(0, |demand| demand.generation());
        let snapshot = self.snapshots.load();
        let now = (snapshot.generation(), answers);
        let act = self.duty.act().await;
        // What is only remembered is in the file already, with its time.
        if written == Some(now) || !self.discovery.status().is_synced || act.number().is_none() {
            return written;
        }
        let (kept, demand) = (kept.clone(), self.demand.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let answered = demand.map_or_else(Vec::new, |demand| demand.answered());
            let KeptState { source, network, .. } = &kept;
            kept.write(&last_state::encode(&snapshot, &answered, source, network, SystemTime::now()))
        });
        match writing.await {
            Ok(Ok(())) => Some(now),
            Ok(Err(error)) => {
                tracing::warn!(%error, "what the control plane says cannot be kept for the next agent");
                written
            }
            Err(error) => {
                tracing::error!(%error, "keeping what the control plane says failed");
                written
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::telemetry::fixtures;

    #[test]
    fn what_was_kept_is_read_again_by_its_owner_and_of_its_source_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = KeptState::of(folder.path(), "https://a:1", "net");
        assert!(kept.read().expect("no file is no error").is_none());
        let snapshot = fixtures::snapshot();
        let encode = || last_state::encode(&snapshot, &[], &kept.source, &kept.network, SystemTime::now());
        for _ in 0..2 {
            kept.write(&encode()).expect("it can be written");
        }
        assert!(kept.read().expect("it can be read").is_some());
        let mode = fs::metadata(&kept.path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(KeptState::of(folder.path(), "https://b:1", "net").read().is_err());
        fs::write(&kept.path, &encode()[..100]).expect("it can be written");
        assert!(kept.read().is_err(), "half of it is nothing");
    }
}
