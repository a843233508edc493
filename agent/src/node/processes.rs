//! What `/proc` says of a Kubernetes node: which network namespaces its pods have, and where its kubelet runs.
//!
//! A pod's processes are known by their cgroup, whose path names the pod's uid in each layout: `pod<uid>` (cgroupfs),
//! `…-pod<uid with underscores>.slice` (systemd), in whichever hierarchy. What a pod puts below its own cgroup names
//! nobody else: the outermost name counts. The agent has to see the host's processes (`hostPID`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files of `/proc` are longer than this only if something is wrong with them.
const LONGEST: u64 = 64 * 1024;
/// What the process that is a node's kubelet is called: itself, or the distributions that have it inside.
const KUBELETS: [&str; 5] = ["kubelet", "k3s-server", "k3s-agent", "rke2", "kubelite"];
/// How far below the root of the hierarchy a kubelet's cgroup is looked for.
const DEEPEST: usize = 8;

/// A namespace's device and inode number.
pub(super) type Inode = (u64, u64);

/// The network namespace of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it can be opened for as long as the pod's first process lives.
    pub path: PathBuf,
    /// Which one that is: a process id is used again.
    pub inode: Inode,
}

/// The network namespaces of the pods that `wanted` names by uid, each that of the pod's oldest process: what a pod
/// starts in namespaces of its own is younger. Processes on the host's network do not count.
pub(super) fn network_namespaces(proc: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<HashMap<String, Found>> {
    let host = inode(&proc.join("1/ns/net"))?;
    let mut oldest: HashMap<String, (u64, Found)> = HashMap::new();
    for process in processes(proc)? {
        // A process that ends meanwhile is none.
        let Ok(Some(uid)) = pod_of(&process) else { continue };
        if !wanted(&uid) {
            continue;
        }
        let path = process.join("ns/net");
        let (Ok(inode), Ok(started)) = (inode(&path), started(&process)) else { continue };
        if inode == host || oldest.get(&uid).is_some_and(|(before, _)| *before <= started) {
            continue;
        }
        oldest.insert(uid, (started, Found { path, inode }));
    }
    Ok(oldest.into_iter().map(|(uid, (_, found))| (uid, found)).collect())
}

/// Which namespace a path leads to now.
pub(super) fn inode(path: &Path) -> io::Result<Inode> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The cgroup of this node's kubelet, as a folder below `root`, the root of the cgroup v2 hierarchy.
///
/// # Errors
/// Why there is none that could be used, in words: there is no kubelet, or it has no cgroup of its own.
pub(super) fn kubelet_cgroup(proc: &Path, root: &Path) -> Result<PathBuf, String> {
    let listed = processes(proc).map_err(|error| format!("listing {}: {error}", proc.display()))?;
    let is_kubelet = |process: &Path| {
        let name = read(&process.join("comm")).unwrap_or_default();
        // What runs in a pod may call itself anything.
        KUBELETS.contains(&name.trim_end()) && matches!(pod_of(process), Ok(None))
    };
    let Some(process) = listed.into_iter().find(|process| is_kubelet(process)) else {
        return Err("no kubelet runs on this host".to_owned());
    };
    let failed = |error: io::Error| format!("reading the cgroup of the kubelet: {error}");
    let cgroups = read(&process.join("cgroup")).map_err(failed)?;
    let Some(shown) = cgroups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Err("the kubelet is not in the cgroup v2 hierarchy".to_owned());
    };
    let pid = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Seen from a cgroup namespace the path begins with `..`: where it leads from here is found out by looking.
    let below: PathBuf = shown.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
    let shown = root.join(below);
    let folder = match holds(&shown, &pid) {
        true => shown,
        false => {
            find(root, &pid, DEEPEST).ok_or("the cgroup of the kubelet was not found: is /sys/fs/cgroup the host's?")?
        }
    };
    if folder == root {
        return Err(
            "the kubelet has no cgroup of its own: it is in the root, to which any process could belong".to_owned()
        );
    }
    if has_pods(&folder, DEEPEST) {
        return Err(format!("the cgroup of the kubelet, {}, holds pods", folder.display()));
    }
    Ok(folder)
}

/// The folder at or below `root` that holds the process.
fn find(root: &Path, pid: &str, depth: usize) -> Option<PathBuf> {
    if holds(root, pid) {
        return Some(root.to_owned());
    }
    let deeper = depth.checked_sub(1)?;
    folders(root).find_map(|folder| find(&folder, pid, deeper))
}

fn holds(cgroup: &Path, pid: &str) -> bool {
    read_all(&cgroup.join("cgroup.procs")).is_ok_and(|processes| processes.lines().any(|process| process == pid))
}

/// Whether pods' cgroups are below this one.
fn has_pods(cgroup: &Path, depth: usize) -> bool {
    let is_pod = |folder: &Path| folder.file_name().and_then(|name| uid_in(name.to_str()?)).is_some();
    depth > 0 && folders(cgroup).any(|folder| is_pod(&folder) || has_pods(&folder, depth - 1))
}

fn folders(cgroup: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// The folders of all processes.
fn processes(proc: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(proc)?.flatten();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    Ok(entries.filter(|entry| entry.file_name().to_str().is_some_and(is_process)).map(|entry| entry.path()).collect())
}

/// The uid of the pod that a process belongs to.
fn pod_of(process: &Path) -> io::Result<Option<String>> {
    let cgroups = read(&process.join("cgroup"))?;
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    Ok(paths.filter_map(|path| path.split('/').find_map(uid_in)).next())
}

/// The uid of the pod that a part of a cgroup's path names.
fn uid_in(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.strip_prefix("pod") {
        Some(uid) => uid,
        None => part.rsplit_once("-pod")?.1,
    };
    // A UUID, or the hash of a static pod.
    let is_uid = uid.len() >= 32
        && uid.len() <= 36
        && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'_');
    is_uid.then(|| uid.replace('_', "-"))
}

/// When a process started, in ticks since boot: field 22 of proc_pid_stat(5). The name before it may hold anything.
fn started(process: &Path) -> io::Result<u64> {
    let stat = read(&process.join("stat"))?;
    let field = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(19)?.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a start time is missing in /proc/PID/stat"))
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a list that may be long.
fn read_all(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    /// A `/proc` with some processes: their ids, cgroups, namespaces and start times.
    fn world(processes: &[(u32, &str, &str, u64, &str)]) -> tempfile::TempDir {
        let world = tempfile::tempdir().expect("a folder");
        for (pid, cgroup, netns, started, comm) in processes {
            let process = world.path().join(pid.to_string());
            fs::create_dir_all(process.join("ns")).expect("a folder");
            let namespace = world.path().join(netns);
            fs::write(&namespace, "").expect("a file");
            symlink(&namespace, process.join("ns/net")).expect("a link");
            fs::write(process.join("cgroup"), cgroup).expect("a file");
            fs::write(process.join("comm"), format!("{comm}\n")).expect("a file");
            let fields = ["0"; 18].join(" ");
            fs::write(process.join("stat"), format!("{pid} (a) b) S {fields} {started} 0")).expect("a file");
        }
        world
    }

    #[test]
    fn a_pod_is_named_by_its_cgroup_in_every_layout() {
        let underscored = UID.replace('-', "_");
        for part in [
            format!("pod{UID}"),
            format!("kubepods-burstable-pod{underscored}.slice"),
            format!("kubepods-pod{underscored}.slice"),
        ] {
            assert_eq!(uid_in(&part).as_deref(), Some(UID), "{part}");
        }
        for part in ["kubepods", "podman.slice", "kubepods.slice", "pod", "system.slice", "user-pods.slice"] {
            assert_eq!(uid_in(part), None, "{part}");
        }
        assert_eq!(uid_in("pod0123456789abcdef0123456789abcdef").as_deref(), Some("0123456789abcdef0123456789abcdef"));
    }

    #[test]
    fn a_pods_namespace_is_that_of_its_oldest_process_off_the_hosts_network() {
        let inside = format!("1:cpu:/\n0::/../../kubepods/burstable/pod{UID}/a\n");
        let nested = "0::/kubepods/podffffffff-1111-2222-3333-444455556666/pod0a1b2c3d-1111-2222-3333-444455556666/x\n";
        let world = world(&[
            (1, "0::/init.scope\n", "host", 1, "init"),
            (50, &inside, "pod", 60, "pause"),
            (40, &inside, "docker-in-docker", 70, "dockerd"),
            (30, &inside, "host", 10, "nsenter"),
            (60, nested, "forged", 5, "forger"),
        ]);
        let found = network_namespaces(world.path(), &|uid| uid == UID).expect("it can be read");
        assert_eq!(found.len(), 1);
        assert_eq!(found[UID].path, world.path().join("50/ns/net"));
        assert_eq!(found[UID].inode, inode(&world.path().join("pod")).expect("a file"));
    }

    fn cgroup(root: &Path, path: &str, processes: &str) {
        fs::create_dir_all(root.join(path)).expect("a folder");
        fs::write(root.join(path).join("cgroup.procs"), processes).expect("a file");
    }

    #[test]
    fn the_kubelets_cgroup_is_found_from_within_a_cgroup_namespace_too() {
        let root = tempfile::tempdir().expect("a folder");
        cgroup(root.path(), "", "1\n");
        cgroup(root.path(), "system.slice/kubelet.service", "7\n");
        cgroup(root.path(), "node1/system/kubelet", "9\n");
        let forger = format!("0::/kubepods/pod{UID}/x\n");
        for (pid, shown, expected) in [
            (7, "0::/system.slice/kubelet.service\n", "system.slice/kubelet.service"),
            (7, "0::/../../../system.slice/kubelet.service\n", "system.slice/kubelet.service"),
            (9, "0::/../system/kubelet\n", "node1/system/kubelet"),
        ] {
            let world = world(&[
                (1, "0::/\n", "host", 1, "init"),
                (5, &forger, "pod", 2, "kubelet"),
                (pid, shown, "host", 3, "kubelet"),
            ]);
            assert_eq!(kubelet_cgroup(world.path(), root.path()), Ok(root.path().join(expected)), "{shown}");
        }
    }

    #[test]
    fn a_cgroup_that_others_share_is_not_the_kubelets() {
        let root = tempfile::tempdir().expect("a folder");
        cgroup(root.path(), "", "7\n");
        cgroup(root.path(), "all", "8\n");
        cgroup(root.path(), &format!("all/kubepods/pod{UID}"), "9\n");
        for (pid, shown, reason) in
            [(7, "0::/\n", "in the root"), (8, "0::/all\n", "holds pods"), (6, "0::/elsewhere\n", "was not found")]
        {
            let world = world(&[(1, "0::/\n", "host", 1, "init"), (pid, shown, "host", 3, "kubelet")]);
            let error = kubelet_cgroup(world.path(), root.path()).expect_err("it is not its own");
            assert!(error.contains(reason), "{error}");
        }
        let nobody = world(&[(1, "0::/\n", "host", 1, "init")]);
        assert_eq!(kubelet_cgroup(nobody.path(), root.path()), Err("no kubelet runs on this host".to_owned()));
    }
}
