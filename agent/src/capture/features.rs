//! What capture needs of the kernel, tried out rather than read off its version.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

use crate::netns;

/// What this kernel or this process lacks for capture, by name; empty when it has everything. Linux 5.15 has.
pub fn missing_features() -> Vec<String> {
    let mut missing = Vec::new();
    if !may_use_bpf() {
        // Every other attempt would fail for this reason.
        return vec!["the right to use bpf(2): run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN".into()];
    }
    if cgroup_root().is_none() {
        missing.push("a mounted cgroup v2 hierarchy".into());
    }
    if netns::own_cookie().is_err() {
        missing.push("SO_NETNS_COOKIE (Linux 5.14)".into());
    }
    let programs = [
        (ProgramType::CgroupSockAddr, "programs at cgroup connect (CONFIG_CGROUP_BPF, Linux 4.17)"),
        (ProgramType::SockOps, "sock_ops programs (CONFIG_CGROUP_BPF, Linux 4.13)"),
        (ProgramType::SkLookup, "sk_lookup programs (Linux 5.9)"),
    ];
    for (program, name) in programs {
        if !is_program_supported(program).unwrap_or(true) {
            missing.push(name.into());
        }
    }
    let maps = [
        (MapType::SkStorage, "socket storage (Linux 5.2)"),
        (MapType::SockHash, "hashes of sockets (CONFIG_BPF_STREAM_PARSER, Linux 4.18)"),
        (MapType::LpmTrie, "longest-prefix maps (Linux 4.11)"),
        (MapType::LruHash, "LRU hashes (Linux 4.10)"),
        (MapType::RingBuf, "ring buffers (Linux 5.8)"),
    ];
    for (map, name) in maps {
        if !is_map_supported(map).unwrap_or(true) {
            missing.push(name.into());
        }
    }
    let helpers = [
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_bind, "bpf_bind at connect (Linux 4.17)"),
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_netns_cookie, "namespace cookies at connect (Linux 5.7)"),
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_current_cgroup_id, "cgroup ids at connect (Linux 5.7)"),
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_sk_storage_get, "socket storage at connect (Linux 5.8)"),
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_setsockopt, "socket options at connect (Linux 5.8)"),
        (ProgramType::SockOps, BpfHelper::BPF_FUNC_sk_storage_get, "socket storage in sock_ops (Linux 5.10)"),
        (ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie, "namespace cookies in sock_ops (Linux 5.15)"),
    ];
    for (program, helper, name) in helpers {
        if !is_helper_supported(program, helper).unwrap_or(true) {
            missing.push(name.into());
        }
    }
    missing
}

fn may_use_bpf() -> bool {
    match is_map_supported(MapType::Hash) {
        Ok(_) => true,
        Err(error) => error.io_error.kind() != io::ErrorKind::PermissionDenied,
    }
}

/// Where the cgroup v2 hierarchy is mounted, wherever the distribution has it.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    cgroup_mount(&mountinfo)
}

fn cgroup_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        // A mount of a part of the hierarchy is not its root.
        let mut fields = mount.split(' ').skip(3);
        (kind.starts_with("cgroup2 ") && fields.next()? == "/")
            .then(|| fields.next().map(|path| Path::new(path).into()))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_hierarchy_is_found_where_it_is_mounted_whole() {
        let mountinfo = "30 29 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                         31 30 0:28 /part /srv/cgroup rw shared:4 - cgroup2 cgroup2 rw\n\
                         32 30 0:28 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_mount(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup_mount("30 29 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}
