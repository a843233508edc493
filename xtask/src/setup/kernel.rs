//! Whether this machine can run nodes, pods and agents: tried out, not guessed from a version number.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Result, bail};

/// Tries one thing; if it fails, what to do about it.
type Check = fn() -> Result<(), String>;

/// Checks everything, and names all that is missing at once.
///
/// # Errors
/// Something is missing; the message says what, and what to do about it.
pub(crate) fn check() -> Result<()> {
    // SAFETY: geteuid takes nothing and always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        bail!(
            "nodes, pods and eBPF programs need root: run this with sudo, as `sudo env PATH=\"$PATH\" cargo xtask …`"
        );
    }
    let checks: [(&str, Check); 5] = [
        ("BTF, the kernel's own types", btf),
        ("eBPF programs of the type sk_lookup", sk_lookup),
        ("cgroup version 2", cgroup),
        ("bpffs", bpffs),
        ("network namespaces", network_namespaces),
    ];
    let missing: Vec<String> = checks
        .into_iter()
        .filter_map(|(what, check)| check().err().map(|remedy| format!("\n  - {what}: {remedy}")))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    bail!("this machine (Linux {}) cannot run Weft; it lacks:{}", kernel.trim(), missing.concat())
}

fn btf() -> Result<(), String> {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Ok(());
    }
    Err("there is no /sys/kernel/btf/vmlinux; take a kernel with CONFIG_DEBUG_INFO_BTF, as Debian and Ubuntu ship"
        .into())
}

fn cgroup() -> Result<(), String> {
    let is_there = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|folder| Path::new(folder).join("cgroup.controllers").exists());
    if is_there {
        return Ok(());
    }
    Err("none is mounted; run: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified".into())
}

fn bpffs() -> Result<(), String> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|name| name == "bpf") {
        return Ok(());
    }
    Err("the kernel does not know the file system `bpf`; take one with CONFIG_BPF_SYSCALL".into())
}

/// Loads the smallest program of the youngest type that Weft needs.
fn sk_lookup() -> Result<(), String> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
    const BPF_SK_LOOKUP: u32 = 36;
    // r0 = 1 (SK_PASS); exit
    let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"Apache-2.0";
    #[repr(C)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let load = Load {
        program_type: BPF_PROG_TYPE_SK_LOOKUP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach_type: BPF_SK_LOOKUP,
    };
    // SAFETY: the structure is the beginning of `union bpf_attr` for this command, its size is given, and everything that
    // it points to outlives the call.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if loaded < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EPERM) => "the kernel does not permit it (a container?); run on the host, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".into(),
            Some(libc::ENOSYS) => "the kernel has no bpf system call; take one with CONFIG_BPF_SYSCALL".into(),
            _ => format!("loading one failed ({error}); Linux 5.15 or later is needed"),
        });
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(loaded as libc::c_int) });
    Ok(())
}

/// Makes a namespace with the links that a node has, on a thread that ends here.
fn network_namespaces() -> Result<(), String> {
    let attempt = thread::spawn(|| {
        // SAFETY: unshare takes no pointers, and only this thread changes its namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = io::Error::last_os_error();
            return Err(format!("making one failed ({error}); take a kernel with CONFIG_NET_NS, and CAP_SYS_ADMIN"));
        }
        for (link, option) in [("veth", "CONFIG_VETH"), ("bridge", "CONFIG_BRIDGE")] {
            let mut command = Command::new("ip");
            command.args(["link", "add", &format!("try-{link}"), "type", link]);
            let made = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            // Where `ip` is still to be installed, nothing can be said yet.
            if made.is_ok_and(|status| !status.success()) {
                return Err(format!("a link of the type {link} cannot be made; take a kernel with {option}"));
            }
        }
        Ok(())
    });
    attempt.join().expect("the attempt does not panic")
}
