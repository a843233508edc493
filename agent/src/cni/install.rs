//! Puts the plug-in into a node's network configuration, keeps it there, and takes it out.
//!
//! It goes into the configuration that container runtimes use: the first by name in the folder. What else writes that
//! folder (a network's own installer does so whenever it starts) is watched, and the entry put in again. It stays when the
//! agent ends: a pod of the mesh that starts before the next one waits for it. [`uninstall`] takes it out.

mod conflist;
mod folder;
mod kubeconfig;
mod watch;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use conflist::{Edited, Entry, Form, NotANetwork};
use folder::Network;
use serde_json::json;
use tokio::time::{Instant, sleep};
use watch::Watch;
use weft_runtime::{Backoff, Shutdown};

use super::{NAME, Remembered, kubeconfig_path};

/// How often all is looked at although nothing was reported: the account's token is rotated within the hour.
const POLL: Duration = Duration::from_secs(30);
/// How long a folder must rest before it is looked at. Installers write several files.
const SETTLING: Duration = Duration::from_millis(200);
/// How long one is waited for that never rests.
const LONGEST_SETTLING: Duration = Duration::from_secs(2);
/// The pauses after a change, at first and at last: two that undo each other's work do so seldom.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// After so long without a change the pauses are short again.
const CALM: Duration = Duration::from_secs(300);

/// Where the plug-in goes, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The folder of network configurations, `/etc/cni/net.d` on most nodes.
    pub conf_dir: PathBuf,
    /// The folder of plug-ins, `/opt/cni/bin` on most nodes.
    pub bin_dir: PathBuf,
    /// The agent's state directory, under the path that it has on the node itself.
    pub state_dir: PathBuf,
    /// The agent's admin socket, likewise.
    pub admin_socket: PathBuf,
    /// Namespaces whose pods never belong to the mesh and never wait for it: those of the cluster itself.
    pub namespaces: Vec<String>,
    /// The kubeconfig for the plug-in; `None`: one is made of this pod's service account.
    pub kubeconfig: Option<PathBuf>,
}

/// Why the plug-in could not be installed, or be removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or a folder.
    #[error("{} {}: {source}", .action, path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that another program wrote.
    #[error("{}: {problem}", path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// How the plug-in stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It was in this configuration.
    Kept(PathBuf),
    /// It was put into this one.
    Installed(PathBuf),
    /// There is none to put it in.
    Waiting,
}

/// What is known of a binary that was compared.
type Stamp = (u64, u64, u64, i64, i64);

struct Installer {
    installation: Installation,
    /// The installed binary, once it was compared with this one.
    compared: Option<Stamp>,
}

/// What one look led to.
struct Look {
    standing: Result<Standing, InstallError>,
    /// What is worth knowing beside it.
    notes: Vec<String>,
}

/// Installs the plug-in and keeps it installed until `shutdown`, then leaves it. What cannot be done now is said once,
/// and tried again.
pub async fn keep(installation: Installation, mut shutdown: Shutdown) {
    let mut watch = Watch::new(&installation.conf_dir);
    let mut installer = Installer { installation, compared: None };
    let mut pace = Pace::new(Instant::now());
    let mut said = Vec::new();
    while !shutdown.is_requested() {
        // Watching first: what changes while the folder is looked at is reported.
        watch.renew();
        let looking = tokio::task::spawn_blocking(move || {
            let look = installer.look();
            (installer, look)
        });
        let look = match looking.await {
            Ok((back, look)) => {
                installer = back;
                look
            }
            Err(error) => {
                tracing::error!(%error, "the CNI plug-in is no longer looked after");
                return;
            }
        };
        let pause = match &look.standing {
            Ok(Standing::Kept(_)) | Ok(Standing::Waiting) => Duration::ZERO,
            Ok(Standing::Installed(_)) | Err(_) => pace.pause(Instant::now()),
        };
        tell(look, &installer.installation, &mut said);
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            () = sleep(pause) => {}
        }
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            () = watch.settled(SETTLING, LONGEST_SETTLING) => {}
            () = sleep(POLL) => {}
        }
    }
}

/// Says what has changed since it was last said.
fn tell(look: Look, installation: &Installation, said: &mut Vec<String>) {
    let mut saying = look.notes;
    match look.standing {
        Ok(Standing::Kept(_)) => {}
        Ok(Standing::Installed(path)) => {
            tracing::info!(configuration = %path.display(), "the CNI plug-in was put into the node's network configuration");
        }
        Ok(Standing::Waiting) => saying.push(format!(
            "there is no network configuration in {} to put the CNI plug-in in: waiting for the node's network",
            installation.conf_dir.display()
        )),
        Err(error) => saying.push(format!("the CNI plug-in is not installed: {error}")),
    }
    for text in saying.iter().filter(|text| !said.contains(text)) {
        tracing::warn!("{text}");
    }
    *said = saying;
}

/// How soon after a change the next may come.
struct Pace {
    backoff: Backoff,
    last: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { backoff: Backoff::new(PAUSES.0, PAUSES.1), last: now }
    }

    fn pause(&mut self, now: Instant) -> Duration {
        if now.duration_since(self.last) > CALM {
            self.backoff.reset();
        }
        self.last = now;
        self.backoff.pause()
    }
}

impl Installer {
    fn look(&mut self) -> Look {
        let mut notes = Vec::new();
        // The configuration comes last: it must never name what is not there.
        let standing = self.put_binary().and_then(|()| {
            notes.extend(self.put_kubeconfig());
            self.put_entry(&mut notes)
        });
        Look { standing, notes }
    }

    /// Copies this program to where runtimes look for plug-ins, unless it is there.
    fn put_binary(&mut self) -> Result<(), InstallError> {
        let own = Path::new("/proc/self/exe");
        let there = self.installation.bin_dir.join(NAME);
        let stamp = stamp(&there);
        if stamp.is_some() && stamp == self.compared {
            return Ok(());
        }
        if stamp.is_none() || !is_same(own, &there).map_err(failed("comparing", &there))? {
            let mut source = File::open(own).map_err(failed("opening", own))?;
            folder::replace_by(&there, 0o755, |file| io::copy(&mut source, file).map(drop))
                .map_err(failed("installing", &there))?;
        }
        self.compared = self::stamp(&there);
        Ok(())
    }

    /// Writes the plug-in's kubeconfig, unless it is as it should be. Without one the plug-in works as long as the agent
    /// does, so this is only worth a note.
    fn put_kubeconfig(&self) -> Option<String> {
        if self.installation.kubeconfig.is_some() {
            return None;
        }
        let path = kubeconfig_path(&self.installation.state_dir);
        let written =
            kubeconfig::write(Path::new(kubeconfig::ACCOUNT), |name| std::env::var(name).ok()).and_then(|text| {
                match folder::text(&path) {
                    Ok(there) if there == text => Ok(()),
                    _ => folder::replace_by(&path, 0o600, |file| io::Write::write_all(file, text.as_bytes())),
                }
            });
        let error = written.err()?;
        Some(format!("the CNI plug-in cannot ask the API server while this agent is away: no kubeconfig: {error}"))
    }

    fn entry(&self) -> Entry {
        let Installation { state_dir, admin_socket, namespaces, kubeconfig, .. } = &self.installation;
        let kubeconfig = kubeconfig.clone().unwrap_or_else(|| kubeconfig_path(state_dir));
        Entry(json!({
            "type": NAME,
            "adminSocket": admin_socket,
            "kubeconfig": kubeconfig,
            "namespaces": namespaces,
        }))
    }

    fn put_entry(&self, notes: &mut Vec<String>) -> Result<Standing, InstallError> {
        let folder = &self.installation.conf_dir;
        let (primary, skipped) = match folder::primary(folder) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Waiting),
            Err(error) => return Err(failed("listing", folder)(error)),
        };
        notes.extend(skipped);
        let Some(Network { path, text, form }) = primary else {
            return Ok(Standing::Waiting);
        };
        match form {
            Form::List => match conflist::insert(&text, &self.entry()).map_err(wrong(&path))? {
                Edited::Same => return Ok(Standing::Kept(path)),
                Edited::Changed(text) => replace(&path, &text)?,
            },
            Form::Single => return self.make_list(&path, &text),
        }
        Ok(Standing::Installed(path))
    }

    /// Puts a list in the place of a single plug-in, which is kept beside it under a name that no runtime reads. At no
    /// moment is there neither.
    fn make_list(&self, path: &Path, text: &str) -> Result<Standing, InstallError> {
        let list = path.with_extension("conflist");
        if list.exists() && !is_ours(&list) {
            let problem = format!("it cannot become a list: there is {} already", list.display());
            return Err(InstallError::Network { path: path.to_owned(), problem });
        }
        replace(&list, &conflist::wrap(text, &self.entry()).map_err(wrong(path))?)?;
        fs::rename(path, folder::backup_of(path)).map_err(failed("renaming", path))?;
        folder::settle(&self.installation.conf_dir).map_err(failed("writing", &self.installation.conf_dir))?;
        Ok(Standing::Installed(list))
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Network configurations that the plug-in was in.
    pub networks: usize,
    /// Files of its own: itself, its kubeconfig, what it remembered.
    pub files: usize,
}

/// Takes the plug-in out of every configuration of a node, which then are what they were before, and removes it with all
/// that it has. To be called with no agent running: it would put the plug-in in again. What is not there is no error.
///
/// # Errors
/// A file cannot be written or removed. Those that were not reached by then are left.
pub fn uninstall(conf_dir: &Path, bin_dir: &Path, state_dir: &Path) -> Result<Removed, InstallError> {
    let mut removed = Removed { networks: take_out(conf_dir)?, files: 0 };
    // Only now: a runtime that finds an entry and no plug-in starts no pods at all.
    for path in [bin_dir.join(NAME), kubeconfig_path(state_dir), Remembered::path(state_dir)] {
        removed.files += usize::from(folder::remove(&path).map_err(failed("removing", &path))?);
    }
    for folder in [conf_dir, bin_dir, state_dir] {
        folder::sweep(folder).map_err(failed("clearing", folder))?;
    }
    Ok(removed)
}

fn take_out(conf_dir: &Path) -> Result<usize, InstallError> {
    let backups = match folder::backups(conf_dir) {
        Ok(backups) => backups,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("listing", conf_dir)(error)),
    };
    let mut networks = 0;
    for (backup, original) in backups {
        if original.exists() {
            // Its owner wrote it anew.
            folder::remove(&backup).map_err(failed("removing", &backup))?;
        } else {
            fs::rename(&backup, &original).map_err(failed("restoring", &original))?;
        }
        let list = original.with_extension("conflist");
        if is_ours(&list) {
            folder::remove(&list).map_err(failed("removing", &list))?;
        }
        networks += 1;
    }
    for (path, form) in folder::list(conf_dir).map_err(failed("listing", conf_dir))? {
        // What cannot be read, or is no list, does not have the entry.
        if form == Form::List
            && let Ok(text) = folder::text(&path)
            && let Ok(Edited::Changed(text)) = conflist::remove(&text)
        {
            replace(&path, &text)?;
            networks += 1;
        }
    }
    Ok(networks)
}

/// Whether a list has the entry.
fn is_ours(list: &Path) -> bool {
    folder::text(list).is_ok_and(|text| matches!(conflist::remove(&text), Ok(Edited::Changed(_))))
}

fn replace(path: &Path, text: &str) -> Result<(), InstallError> {
    folder::replace(path, text.as_bytes(), 0o600).map_err(failed("writing", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { action, path, source }
}

fn wrong(path: &Path) -> impl FnOnce(NotANetwork) -> InstallError {
    let path = path.to_owned();
    move |error| InstallError::Network { path, problem: error.to_string() }
}

/// By which an installed binary is known to be the one that was compared; `None`: it cannot be the right one.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    let is_runnable = metadata.permissions().mode() & 0o777 == 0o755;
    is_runnable.then(|| (metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut of_a, mut of_b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = a.read(&mut of_a)?;
        if count == 0 {
            return Ok(true);
        }
        b.read_exact(&mut of_b[..count])?;
        if of_a[..count] != of_b[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests;
