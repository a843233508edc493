//! Finding clusters and removing them, by name alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::hierarchy;
use super::plan::PREFIX;
use crate::{cgroup, netns};

/// Holds the id of the process that removes the cluster; absent in one that is kept.
const OWNER: &str = "owner";

pub(super) fn mark_owned(folder: &Path) -> Result<()> {
    Ok(fs::write(folder.join(OWNER), process::id().to_string())?)
}

pub(super) fn mark_kept(folder: &Path) -> Result<()> {
    Ok(fs::remove_file(folder.join(OWNER))?)
}

/// The names of all clusters that have left a trace on this machine.
pub fn clusters() -> Vec<String> {
    let cgroups = hierarchy::mounted().unwrap_or_default().into_iter().map(|hierarchy| hierarchy.folder);
    let mut names: Vec<String> = [std::env::temp_dir(), netns::FOLDER.into()]
        .into_iter()
        .chain(cgroups)
        .flat_map(|folder| entries(&folder))
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            Some(name.split('-').next()?.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Ends every process of a cluster and removes its namespaces, cgroups and files, also if it was never finished.
pub fn remove_cluster(name: &str) {
    let trace = format!("{PREFIX}{name}");
    // All mounts are in the machines' mount namespaces, and go with their last process.
    remove_cgroups(&trace);
    let prefix = format!("{trace}-");
    for path in entries(Path::new(netns::FOLDER)) {
        if path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&prefix)) {
            netns::unpin(&path);
        }
    }
    let _ = fs::remove_dir_all(std::env::temp_dir().join(trace));
}

/// Kills what is in a cgroup, and removes it from every hierarchy.
pub(super) fn remove_cgroups(path: &str) {
    // The one of version 2 kills as a whole: nothing can fork out of it.
    if let Ok(root) = cgroup::root() {
        cgroup::remove(&root.join(path));
    }
    for hierarchy in hierarchy::mounted().unwrap_or_default() {
        remove_groups(&hierarchy.folder.join(path));
    }
}

/// Removes the clusters of this process that are not to be kept: for one that is about to exit by a signal.
pub(crate) fn remove_clusters_of_this_process() {
    clusters().iter().filter(|name| owner(name) == Some(process::id())).for_each(|name| remove_cluster(name));
}

/// Removes the clusters whose owner is gone.
pub(crate) fn remove_stale_clusters() {
    let is_gone = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
    for name in clusters() {
        if owner(&name).is_some_and(is_gone) {
            remove_cluster(&name);
        }
    }
}

fn owner(name: &str) -> Option<u32> {
    let file = std::env::temp_dir().join(format!("{PREFIX}{name}")).join(OWNER);
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Removes a tree of cgroups whose processes have ended or are ending.
fn remove_groups(folder: &Path) {
    let start = Instant::now();
    while folder.exists() && start.elapsed() < Duration::from_secs(5) {
        remove_empty_groups(folder);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn remove_empty_groups(folder: &Path) {
    for path in entries(folder).into_iter().filter(|path| path.is_dir()) {
        remove_empty_groups(&path);
    }
    let _ = fs::remove_dir(folder);
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|listed| listed.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}
