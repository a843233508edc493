//! The cgroup hierarchies of this machine: one of version 2, or several of version 1 with or without one of version 2.
//!
//! A cluster's machine gets a folder in each of them, which its cgroup namespace then shows as the root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What the kubelet and container runtimes ask for, as far as the kernel has it.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) folder: PathBuf,
    /// The options that mount a hierarchy of version 1 again; none for version 2.
    pub(super) version_1: Option<String>,
}

/// All hierarchies that are mounted below `/sys/fs/cgroup`.
pub(super) fn mounted() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let hierarchies = parse(&mounts);
    let has_version_2 = hierarchies.iter().any(|hierarchy| hierarchy.version_1.is_none());
    ensure!(has_version_2, "no version 2 cgroup hierarchy is mounted below /sys/fs/cgroup");
    Ok(hierarchies)
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let (mut mount, mut file_system) = (mount.split(' '), file_system.split(' '));
        let (Some("/"), Some(folder)) = (mount.nth(3), mount.next()) else { continue };
        let version_1 = match (file_system.next(), file_system.nth(1)) {
            (Some("cgroup2"), _) => None,
            (Some("cgroup"), Some(options)) => Some(identity(options)),
            _ => continue,
        };
        let hierarchy = Hierarchy { folder: folder.into(), version_1 };
        if hierarchy.folder.starts_with("/sys/fs/cgroup") && !hierarchies.contains(&hierarchy) {
            hierarchies.push(hierarchy);
        }
    }
    hierarchies
}

/// Which of the options of a mounted hierarchy of version 1 tell it from others.
fn identity(options: &str) -> String {
    let says_how = |option: &&str| {
        !matches!(*option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix")
            && !option.starts_with("release_agent=")
    };
    let names: Vec<&str> = options.split(',').filter(says_how).collect();
    let is_without_controllers = names.iter().all(|name| name.starts_with("name="));
    if is_without_controllers { format!("none,{}", names.join(",")) } else { names.join(",") }
}

impl Hierarchy {
    /// Makes the cgroup `path` with its parents, so that whoever is in it may use the controllers.
    pub(super) fn create(&self, path: &str) -> Result<PathBuf> {
        let mut folder = self.folder.clone();
        for part in path.split('/') {
            if self.version_1.is_none() {
                enable_controllers(&folder);
            }
            folder.push(part);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("making the cgroup {}", folder.display()));
                }
                _ => self.inherit_processors(&folder)?,
            }
        }
        Ok(folder)
    }

    /// A new group of version 1 has no processors and no memory nodes, and takes no process until it has.
    fn inherit_processors(&self, folder: &Path) -> Result<()> {
        let Some(parent) = folder.parent().filter(|_| self.version_1.is_some()) else { return Ok(()) };
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            let file = folder.join(setting);
            let Ok(own) = fs::read_to_string(&file) else { continue };
            if own.trim().is_empty() {
                let inherited = fs::read_to_string(parent.join(setting))?;
                fs::write(&file, inherited.trim()).with_context(|| format!("writing {}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Moves the calling process into a cgroup of this hierarchy.
    pub(super) fn enter(&self, folder: &Path) -> Result<()> {
        let file = folder.join("cgroup.procs");
        fs::write(&file, "0").with_context(|| format!("entering {}", file.display()))
    }
}

/// Lets the groups below one of version 2 have controllers. What this kernel lacks, or version 1 holds, is left out; the
/// kubelet names what it misses.
pub(super) fn enable_controllers(folder: &Path) {
    let offered = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in offered.split_whitespace().filter(|name| CONTROLLERS.contains(name)) {
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_read_from_the_kernels_table() {
        let mounts = "\
25 30 0:22 / /sys rw,relatime - sysfs sysfs rw
31 25 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,release_agent=/lib/agent,name=systemd
34 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 31 0:30 /pod /somewhere/else rw - cgroup2 cgroup2 rw
";
        let of = |folder: &str, version_1: Option<&str>| Hierarchy {
            folder: folder.into(),
            version_1: version_1.map(str::to_owned),
        };
        assert_eq!(
            parse(mounts),
            [
                of("/sys/fs/cgroup/cpu,cpuacct", Some("cpu,cpuacct")),
                of("/sys/fs/cgroup/systemd", Some("none,name=systemd")),
                of("/sys/fs/cgroup/unified", None),
            ]
        );
    }
}
