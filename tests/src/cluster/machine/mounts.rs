//! A machine's file system: the host's, of which nothing can be changed by accident, with file systems of the
//! machine's own where a node keeps its state.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{Context, Result};

use super::super::hierarchy::Hierarchy;
use super::checked;

/// Folders of the host that the machine sees, but does not change: its changes are in memory.
const OVERLAID: [&str; 4] = ["/etc", "/opt", "/var/lib", "/var/log"];

/// Settings of the whole kernel that a kubelet wants to be so, or sets. It finds these files in their place, and the host
/// stays as it is.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Mounts everything, in the calling process' own mount namespace.
pub(super) fn lay(hierarchies: &[Hierarchy], host_name: &str, binds: &[(PathBuf, PathBuf)]) -> Result<()> {
    propagate(libc::MS_PRIVATE)?;
    // Copies of these mounts would keep the namespaces of others alive.
    // SAFETY: the path ends in NUL; where nothing is mounted nothing happens.
    unsafe { libc::umount2(c"/run/netns".as_ptr(), libc::MNT_DETACH) };
    mount("tmpfs", "/run", "mode=755")?;
    for folder in OVERLAID {
        let own = Path::new("/run/overlay").join(folder.trim_start_matches('/').replace('/', "-"));
        let (upper, work) = (own.join("upper"), own.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
        mount("overlay", folder, &options)?;
    }
    mount("proc", "/proc", "")?;
    mount("sysfs", "/sys", "")?;
    mount("bpf", "/sys/fs/bpf", "mode=700")?;
    if hierarchies.iter().any(|hierarchy| hierarchy.version_1.is_some()) {
        mount("tmpfs", "/sys/fs/cgroup", "mode=755")?;
    }
    for Hierarchy { folder, version_1 } in hierarchies {
        fs::create_dir_all(folder)?;
        match version_1 {
            Some(options) => mount("cgroup", folder, options)?,
            None => {
                mount("cgroup2", folder, "")?;
                super::super::hierarchy::enable_controllers(folder);
            }
        }
    }
    for (setting, value) in SETTINGS {
        let target = Path::new("/proc/sys").join(setting);
        let file = Path::new("/run/settings").join(setting.replace('/', "."));
        fs::create_dir_all("/run/settings")?;
        fs::write(&file, format!("{value}\n"))?;
        if target.exists() {
            bind(&file, &target)?;
        }
    }
    fs::write("/etc/hostname", format!("{host_name}\n"))?;
    for (from, to) in binds {
        fs::create_dir_all(from).with_context(|| format!("making {}", from.display()))?;
        fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
        bind(from, to)?;
    }
    // Volumes that the kubelet mounts must reach the containers.
    propagate(libc::MS_SHARED)
}

fn propagate(kind: libc::c_ulong) -> Result<()> {
    // SAFETY: the target ends in NUL; a change of propagation takes no other pointer.
    let changed = unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_REC | kind, ptr::null()) };
    checked(changed, "changing the propagation of /").map(drop)
}

fn mount(kind: &str, target: impl AsRef<Path>, options: &str) -> Result<()> {
    let what = format!("mounting {kind} on {} with {options:?}", target.as_ref().display());
    let (kind, target, options) = (CString::new(kind)?, c_path(target.as_ref())?, CString::new(options)?);
    // SAFETY: all strings end in NUL and outlive the call.
    let mounted = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    checked(mounted, &what).map(drop)
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    let what = format!("mounting {} on {}", from.display(), to.display());
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both paths end in NUL and outlive the call; a bind mount takes neither type nor data.
    let mounted =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), libc::MS_BIND | libc::MS_REC, ptr::null()) };
    checked(mounted, &what).map(drop)
}

fn c_path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
