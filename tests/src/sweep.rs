//! Finding and removing what worlds leave on the machine.
//!
//! All traces of a world carry its name, `weft-PID-N`, so they can be found without the value that made them: after a
//! panic, after Ctrl-C, and by a later process when the one that made them was killed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io, mem, process, ptr, thread};

use anyhow::{Result, ensure};

use crate::{cgroup, cluster, netns};

/// Where agents pin their eBPF links and maps, a folder for each node.
pub(crate) const PINS: &str = "/sys/fs/bpf/weft";

const PREFIX: &str = "weft-";

/// The file in a world's folder that tells not to sweep it up.
const KEPT: &str = "kept";

/// The name of the `n`th world of this process.
pub(crate) fn world_name(n: u32) -> String {
    format!("{PREFIX}{}-{n}", process::id())
}

/// The folder of a world's files.
pub(crate) fn world_folder(world: &str) -> PathBuf {
    std::env::temp_dir().join(world)
}

/// Kills every process of a world and removes its namespaces, cgroups, pinned eBPF objects and files.
pub(crate) fn remove_world(world: &str) {
    if let Ok(root) = cgroup::root() {
        cgroup::remove(&root.join(world));
    }
    let prefix = format!("{world}-");
    for folder in [PINS, netns::FOLDER] {
        for path in entries(Path::new(folder)) {
            if file_name(&path).starts_with(&prefix) {
                if folder == PINS {
                    let _ = fs::remove_dir_all(&path);
                } else {
                    netns::unpin(&path);
                }
            }
        }
    }
    let _ = fs::remove_dir_all(world_folder(world));
}

/// Removes every world and every cluster of this process, whoever holds it: for a process that is about to exit by a signal.
pub fn remove_worlds_of_this_process() {
    let own = format!("{PREFIX}{}-", process::id());
    for world in worlds().into_iter().filter(|world| world.starts_with(&own)) {
        remove_world(&world);
    }
    cluster::remove_clusters_of_this_process();
}

/// Removes, once in the life of this process, the worlds of processes that are gone.
pub(crate) fn remove_stale_worlds() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| stale_leftovers().iter().for_each(|world| remove_world(world)));
}

/// The worlds whose process is gone, by name, but for those that were to be kept.
pub fn stale_leftovers() -> Vec<String> {
    let is_stale = |world: &String| {
        !is_kept(world) && owner(world).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    worlds().into_iter().filter(is_stale).collect()
}

/// Removes the worlds of ended processes that were to be kept; returns how many there were.
pub fn remove_kept_worlds() -> usize {
    let kept: Vec<String> = worlds().into_iter().filter(|world| is_kept(world)).collect();
    kept.iter().for_each(|world| remove_world(world));
    kept.len()
}

pub(crate) fn mark_kept(world: &str) -> Result<()> {
    Ok(fs::write(world_folder(world).join(KEPT), "")?)
}

fn is_kept(world: &str) -> bool {
    world_folder(world).join(KEPT).exists()
}

/// From now on SIGINT and SIGTERM remove all worlds of this process and end it with status 130. Call it first in `main`:
/// threads that exist already would still be killed by the signal itself.
///
/// # Errors
/// The kernel refuses to block the signals.
pub fn sweep_on_interrupt() -> Result<()> {
    // SAFETY: an all-zero signal set is valid storage, and sigemptyset makes it a set.
    let signals = unsafe {
        let mut signals: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGINT);
        libc::sigaddset(&raw mut signals, libc::SIGTERM);
        signals
    };
    // SAFETY: the set outlives the call; the old mask is not asked for.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) };
    ensure!(blocked == 0, "blocking SIGINT: {}", io::Error::from_raw_os_error(blocked));
    thread::Builder::new().name("interrupt".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to values that outlive the call.
        unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
        eprintln!("\ninterrupted: removing what was set up");
        INTERRUPTED.store(true, Ordering::Relaxed);
        remove_worlds_of_this_process();
        // What was being made at that moment is there by now, and nothing comes after it.
        thread::sleep(Duration::from_millis(100));
        remove_worlds_of_this_process();
        process::exit(130);
    })?;
    Ok(())
}

/// Fails once a signal has come: a world that is being removed must not grow on another thread.
pub(crate) fn ensure_not_interrupted() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// All worlds that have left a trace on this machine.
fn worlds() -> BTreeSet<String> {
    let mut folders = vec![PathBuf::from(netns::FOLDER), PathBuf::from(PINS), std::env::temp_dir()];
    folders.extend(cgroup::root());
    folders
        .iter()
        .flat_map(|folder| entries(folder))
        .filter_map(|path| {
            let name = file_name(&path);
            let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
            let (pid, n) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
            Some(format!("{PREFIX}{pid}-{n}"))
        })
        .collect()
}

fn owner(world: &str) -> Option<u32> {
    world.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|listed| listed.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
