//! The calls of bpf(2) that pins, links and maps need.
//!
//! aya parses and loads the object. What lives longer than the process is handled here: aya's types detach what they
//! own when they are dropped, cannot replace the program of a cgroup link, and want exclusive access to change a map.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a failed call was about, for messages.
#[derive(Debug, thiserror::Error)]
#[error("bpf({call}) on {subject}: {source}")]
pub struct KernelError {
    /// The command.
    pub call: &'static str,
    /// What it was about.
    pub subject: String,
    /// What the kernel said.
    pub source: io::Error,
}

impl KernelError {
    /// The kernel's error number.
    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or_default()
    }
}

/// Says what was done to what, should it fail.
pub(super) trait Context<T> {
    fn on(self, call: &'static str, subject: impl ToString) -> Result<T, KernelError>;
}

impl<T> Context<T> for io::Result<T> {
    fn on(self, call: &'static str, subject: impl ToString) -> Result<T, KernelError> {
        self.map_err(|source| KernelError { call, subject: subject.to_string(), source })
    }
}

// enum bpf_cmd of linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// The parts of `union bpf_attr` that are used; each command reads one, and the kernel takes what is missing for 0.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` begins with the fields that the command reads, is as long as the kernel is told, and what it
    // points at outlives the call: the functions below see to both.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads the value of `key` into `value`. False when there is none.
///
/// # Safety
/// `key` and `value` must have the sizes of the map's keys and values.
pub(super) unsafe fn map_lookup<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<bool> {
    let key = std::ptr::from_ref(key) as u64;
    let mut attr =
        Element { map: map.as_raw_fd() as u32, zero: 0, key, value: std::ptr::from_mut(value) as u64, flags: 0 };
    found(bpf(MAP_LOOKUP_ELEM, &mut attr))
}

/// Writes the value of `key`.
///
/// # Safety
/// As [`map_lookup`].
pub(super) unsafe fn map_update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let key = std::ptr::from_ref(key) as u64;
    let mut attr =
        Element { map: map.as_raw_fd() as u32, zero: 0, key, value: std::ptr::from_ref(value) as u64, flags: 0 };
    bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Deletes `key`. False when it is not there.
///
/// # Safety
/// `key` must have the size of the map's keys.
pub(super) unsafe fn map_delete<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let key = std::ptr::from_ref(key) as u64;
    let mut attr = Element { map: map.as_raw_fd() as u32, zero: 0, key, value: 0, flags: 0 };
    found(bpf(MAP_DELETE_ELEM, &mut attr))
}

/// The key after `key`, or the first one. False at the end.
///
/// # Safety
/// `key` and `next` must have the size of the map's keys.
pub(super) unsafe fn map_next_key<K>(map: BorrowedFd<'_>, key: Option<&K>, next: &mut K) -> io::Result<bool> {
    let key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    let mut attr =
        Element { map: map.as_raw_fd() as u32, zero: 0, key, value: std::ptr::from_mut(next) as u64, flags: 0 };
    found(bpf(MAP_GET_NEXT_KEY, &mut attr))
}

fn found(result: io::Result<libc::c_int>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned at `path`; `None` when there is nothing.
pub(super) fn pinned(path: &Path) -> Result<Option<OwnedFd>, KernelError> {
    let name = c_path(path).on("OBJ_GET", path.display())?;
    let mut attr = Pin { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    match bpf_fd(OBJ_GET, &mut attr) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error).on("OBJ_GET", path.display()),
    }
}

/// Pins a link or a map at `path`, so that it outlives the process.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    let name = c_path(path).on("OBJ_PIN", path.display())?;
    let mut attr = Pin { path: name.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 };
    bpf(OBJ_PIN, &mut attr).map(drop).on("OBJ_PIN", path.display())
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup or a network namespace for as long as the link lives.
pub(super) fn link_create(program: BorrowedFd<'_>, target: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: program.as_raw_fd() as u32,
        target: target.as_raw_fd() as u32,
        attach_type,
        // Links to cgroups always stand beside others; asking for it is an error.
        flags: 0,
    };
    bpf_fd(LINK_CREATE, &mut attr)
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces the program of a link: each connection meets either the old one or the new one.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdate { link: link.as_raw_fd() as u32, program: program.as_raw_fd() as u32, flags: 0, old_program: 0 };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link's program off, whoever else holds the link open.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    bpf(LINK_DETACH, &mut attr).map(drop)
}

/// What a link says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkInfo {
    /// The id of its program.
    pub(super) program: u32,
    /// False when what it was attached to is gone.
    pub(super) is_attached: bool,
}

/// `struct bpf_link_info`, as far as cgroup and netns links go.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    zero: u32,
    // cgroup: u64 cgroup_id; netns: u32 netns_ino, u32 attach_type.
    first: u32,
    second: u32,
    third: u32,
    pad: u32,
}

const LINK_TYPE_CGROUP: u32 = 3;

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// Asks a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attr = Info {
        fd: link.as_raw_fd() as u32,
        length: size_of::<RawLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let target = match info.kind {
        LINK_TYPE_CGROUP => u64::from(info.first) | u64::from(info.second) << 32,
        _ => u64::from(info.first),
    };
    Ok(LinkInfo { program: info.program, is_attached: target != 0 })
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// Asks a map.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attr = Info {
        fd: map.as_raw_fd() as u32,
        length: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    zero: u32,
    // Kernels from 6.3 and 6.17 on write more behind these, so that room must be there.
    reserved: [u64; 5],
}

/// The programs attached to exactly this cgroup, and the flags that they were attached with.
pub(super) fn query(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = [0_u32; 64];
    let mut attr = Query {
        target: cgroup.as_raw_fd() as u32,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        zero: 0,
        reserved: [0; 5],
    };
    bpf(PROG_QUERY, &mut attr)?;
    let count = (attr.count as usize).min(ids.len());
    Ok((ids[..count].to_vec(), attr.attach_flags))
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// The name of a program that is loaded.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }
    let program = bpf_fd(PROG_GET_FD_BY_ID, &mut ById { id, next: 0, flags: 0 })?;
    let mut info = RawProgramInfo::default();
    let mut attr = Info {
        fd: program.as_raw_fd() as u32,
        length: size_of::<RawProgramInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let length = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..length]).into_owned())
}
