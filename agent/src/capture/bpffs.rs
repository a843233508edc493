//! The folder of pins: on the host's own bpffs, one for each node, one in it for each layout of the maps.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use weft_common::LAYOUT;

use super::CaptureError;
use crate::netns::NetnsCookie;

/// Where the host has its bpffs.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// The first namespace of processes has this number on every kernel (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The first mount namespace has this one since Linux 6.18 (`MNT_NS_INIT_INO`).
const INITIAL_MOUNT_NAMESPACE: u64 = 0xEFFF_FFF8;

/// The pins of one node under one layout.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    pub(super) maps: PathBuf,
    pub(super) links: PathBuf,
    pub(super) pods: PathBuf,
}

impl Pins {
    /// Under a layout's own folder.
    pub(super) fn at(layout: &Path) -> Self {
        Self { maps: layout.join("maps"), links: layout.join("links"), pods: layout.join("pods") }
    }

    /// The pin of a pod's `sk_lookup` link.
    pub(super) fn pod(&self, cookie: NetnsCookie) -> PathBuf {
        self.pods.join(cookie.to_string())
    }

    /// The pods that have a link.
    pub(super) fn pods(&self) -> io::Result<Vec<NetnsCookie>> {
        Ok(entries(&self.pods)?
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok().map(NetnsCookie))
            .collect())
    }
}

/// The folder of one node.
#[derive(Debug, Clone)]
pub(super) struct NodeFolder(PathBuf);

impl NodeFolder {
    /// Names it, without touching it.
    pub(super) fn of(bpf_dir: &Path, node: &str) -> Self {
        Self(bpf_dir.join(file_name(node)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of the layout that this agent speaks.
    pub(super) fn layout(&self) -> PathBuf {
        self.0.join(format!("v{LAYOUT}"))
    }

    /// The folders of other layouts, left by agents of other versions.
    pub(super) fn other_layouts(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = entries(&self.0)?;
        folders.retain(|path| *path != self.layout());
        Ok(folders)
    }

    /// Makes the folders, mounting a bpffs if the host has none.
    pub(super) fn create(&self, bpf_dir: &Path) -> Result<Pins, CaptureError> {
        ensure_host_bpffs(bpf_dir)?;
        let pins = Pins::at(&self.layout());
        for folder in [&pins.maps, &pins.links, &pins.pods] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| CaptureError::Bpffs(format!("making the folder {}: {source}", folder.display())))?;
        }
        Ok(pins)
    }

    /// Waits until no other process starts or removes capture for this node, until the file is dropped.
    pub(super) fn lock(&self) -> Result<File, CaptureError> {
        lock(&self.0).map_err(|source| CaptureError::Bpffs(format!("locking {}: {source}", self.0.display())))
    }
}

/// Whether an agent of this node has left pods captured. What cannot be looked at holds none: whoever captures looks again.
#[must_use]
pub fn has_pods(bpf_dir: &Path, node: &str) -> bool {
    let layouts = entries(&NodeFolder::of(bpf_dir, node).0).unwrap_or_default();
    layouts.iter().any(|layout| Pins::at(layout).pods().is_ok_and(|pods| !pods.is_empty()))
}

/// A node's name as a file name. bpffs keeps names with dots for itself, and a name must not lead out of the folder.
fn file_name(node: &str) -> String {
    let mut name = String::with_capacity(node.len());
    for byte in node.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("_{byte:02x}"));
        }
    }
    name
}

/// What a folder holds; nothing when it does not exist.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn lock(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    // SAFETY: flock takes a descriptor, which `folder` keeps open, and no pointers.
    while unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX) } != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(folder)
}

/// Sees that `bpf_dir` is on the host's own bpffs.
///
/// One that was mounted inside a container goes with the container: its links detach, and pods go out in clear.
fn ensure_host_bpffs(bpf_dir: &Path) -> Result<(), CaptureError> {
    if !is_bpffs(bpf_dir) {
        mount(bpf_dir)?;
    }
    if is_hosts(bpf_dir).map_err(|error| CaptureError::Bpffs(format!("examining {}: {error}", bpf_dir.display())))? {
        Ok(())
    } else {
        Err(CaptureError::Bpffs(format!(
            "{} is a BPF file system of this container alone, and would go with it: mount the host's {MOUNT_POINT} \
             into the container (hostPath, mountPropagation: HostToContainer)",
            bpf_dir.display()
        )))
    }
}

fn mount(bpf_dir: &Path) -> Result<(), CaptureError> {
    let failed = |problem: String| CaptureError::Bpffs(problem);
    if !bpf_dir.starts_with(MOUNT_POINT) {
        return Err(failed(format!("{} is not on a BPF file system", bpf_dir.display())));
    }
    if !is_host_itself() {
        return Err(failed(format!(
            "there is no BPF file system at {MOUNT_POINT} in this container: mount the host's into it (hostPath, \
             mountPropagation: HostToContainer)"
        )));
    }
    let mount_point = Path::new(MOUNT_POINT);
    // Two nodes that start together must not mount one over the other's pins.
    let locked = lock(mount_point).map_err(|error| failed(format!("locking {MOUNT_POINT}: {error}")))?;
    if !is_bpffs(mount_point) {
        // SAFETY: mount reads the strings up to their ends, and no data is given.
        let result = unsafe {
            libc::mount(c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast())
        };
        if result != 0 {
            return Err(failed(format!("mounting a BPF file system at {MOUNT_POINT}: {}", io::Error::last_os_error())));
        }
    }
    drop(locked);
    Ok(())
}

/// True if the path, or the nearest folder above it that exists, is on a bpffs.
fn is_bpffs(path: &Path) -> bool {
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    let Some(existing) = path.ancestors().find(|path| path.exists()) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(existing.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    // SAFETY: an all-zero statfs is a value, the kernel fills it, and both pointers outlive the call.
    let (result, stat) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        (libc::statfs(name.as_ptr(), &raw mut stat), stat)
    };
    result == 0 && stat.f_type as u32 == BPF_FS_MAGIC
}

/// True if this process is in no container: it sees the host's processes, and its file systems are the host's.
fn is_host_itself() -> bool {
    let own = fs::metadata("/proc/self/ns/mnt").map(|metadata| metadata.ino());
    let first = fs::metadata("/proc/1/ns/mnt").map(|metadata| metadata.ino());
    match (own, first) {
        _ if !is_initial_pid_namespace() => false,
        (Ok(own), Ok(first)) => own == first,
        // Without the right to look at the first process: what Linux 6.18 and later call the first namespace.
        (Ok(own), Err(_)) => own == INITIAL_MOUNT_NAMESPACE,
        (Err(_), _) => false,
    }
}

fn is_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == INITIAL_PID_NAMESPACE)
}

/// True if the bpffs under `path` outlives this container, or this is no container.
fn is_hosts(path: &Path) -> io::Result<bool> {
    if is_host_itself() {
        return Ok(true);
    }
    let own = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).metadata()?.dev();
    if is_initial_pid_namespace()
        // The host's first process sees the host's file systems.
        && let Ok(host) = fs::metadata(Path::new("/proc/1/root").join(&MOUNT_POINT[1..]))
    {
        return Ok(host.dev() == own);
    }
    // The host's processes cannot be seen. What comes from outside receives the host's mounts (HostToContainer); what
    // was mounted in here belongs to no group of mounts.
    Ok(mount_of_device(&fs::read_to_string("/proc/self/mountinfo")?, own).is_some_and(|options| {
        options.iter().any(|option| option.starts_with("master:") || option.starts_with("shared:"))
    }))
}

/// The optional fields of the mount with this device, from `/proc/self/mountinfo` (proc(5)).
fn mount_of_device(mountinfo: &str, device: u64) -> Option<Vec<&str>> {
    let wanted = format!("{}:{}", libc::major(device), libc::minor(device));
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next()? == wanted).then(|| fields.skip(3).take_while(|field| *field != "-").collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_one_file_name_without_dots() {
        assert_eq!(file_name("node-1"), "node-1");
        assert_eq!(file_name("ip-10-0-0-1.ec2.internal"), "ip-10-0-0-1_2eec2_2einternal");
        assert_eq!(file_name("../x"), "_2e_2e_2fx");
        assert_ne!(file_name("a.b"), file_name("a_2eb"));
    }

    #[test]
    fn the_propagation_of_a_mount_is_found_by_its_device() {
        let mountinfo = "29 1 0:26 / / rw,relatime - ext4 /dev/root rw\n\
                         40 29 0:38 / /sys/fs/bpf rw,nosuid master:9 - bpf bpf rw,mode=700\n\
                         41 29 0:39 / /run rw - tmpfs tmpfs rw\n";
        assert_eq!(mount_of_device(mountinfo, libc::makedev(0, 38)), Some(vec!["master:9"]));
        assert_eq!(mount_of_device(mountinfo, libc::makedev(0, 39)), Some(vec![]));
        assert_eq!(mount_of_device(mountinfo, libc::makedev(0, 40)), None);
    }
}
