//! The calls of bpf(2) that pins, links and maps need.
//!
//! aya reads the object and relocates it. Loading is done here: aya's loader parses the types of the whole kernel first,
//! 70 ms and 20 MB for each pod, which these programs do not refer to. Its types also detach what they own when they are
//! dropped, cannot replace the program of a cgroup link, and want exclusive access to change a map.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
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
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const BTF_LOAD: libc::c_int = 18;
const MAP_FREEZE: libc::c_int = 22;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// Gives the kernel one of the parts of `union bpf_attr`; it takes what is missing behind for 0. None of those below has
/// padding, which would be there and not be 0.
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

/// Fixes what a map of constants holds, so that the verifier may rely on it.
pub(super) fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = map.as_raw_fd() as u32;
    bpf(MAP_FREEZE, &mut attr).map(drop)
}

/// The fields of `union bpf_attr` for making a map, with their names there.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct MapCreate {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_flags: u32,
    pub(super) inner_map_fd: u32,
    pub(super) numa_node: u32,
    pub(super) map_name: [u8; 16],
    pub(super) map_ifindex: u32,
    pub(super) btf_fd: u32,
    pub(super) btf_key_type_id: u32,
    pub(super) btf_value_type_id: u32,
}

/// Makes a map. Types of keys and values are those of `btf`.
pub(super) fn map_create(name: &str, btf: Option<BorrowedFd<'_>>, mut attr: MapCreate) -> io::Result<OwnedFd> {
    attr.map_name = short_name(name);
    attr.btf_fd = btf.map_or(0, |btf| btf.as_raw_fd() as u32);
    bpf_fd(MAP_CREATE, &mut attr)
}

/// Gives the kernel the types of an object.
pub(super) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct BtfLoad {
        btf: u64,
        log: u64,
        size: u32,
        log_size: u32,
    }
    let size = btf.len() as u32;
    bpf_fd(BTF_LOAD, &mut BtfLoad { btf: btf.as_ptr() as u64, log: 0, size, log_size: 0 })
}

/// A program for the verifier.
#[derive(Debug)]
pub(super) struct ProgramCode<'a> {
    pub(super) name: &'a str,
    /// The number of `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// The number of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
    /// Instructions of eight bytes each.
    pub(super) instructions: &'a [aya_obj::generated::bpf_insn],
    pub(super) license: &'a CStr,
    pub(super) btf: BorrowedFd<'a>,
    /// Records on functions, and the size of one.
    pub(super) functions: (&'a [u8], usize),
    /// Records on source lines, and the size of one.
    pub(super) lines: (&'a [u8], usize),
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
    btf: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_size: u32,
    lines: u64,
    line_count: u32,
    attach_btf_id: u32,
}

/// Loads a program. `log` takes what the verifier says; it costs time, and may be empty.
pub(super) fn program_load(code: &ProgramCode<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let count = |(bytes, size): (&[u8], usize)| bytes.len().checked_div(size).unwrap_or(0) as u32;
    let mut attr = ProgramLoad {
        kind: code.kind,
        instruction_count: code.instructions.len() as u32,
        instructions: code.instructions.as_ptr() as u64,
        license: code.license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        name: short_name(code.name),
        attach_type: code.attach_type,
        btf: code.btf.as_raw_fd() as u32,
        function_size: code.functions.1 as u32,
        functions: code.functions.0.as_ptr() as u64,
        function_count: count(code.functions),
        line_size: code.lines.1 as u32,
        lines: code.lines.0.as_ptr() as u64,
        line_count: count(code.lines),
        ..ProgramLoad::default()
    };
    bpf_fd(PROG_LOAD, &mut attr)
}

/// The kernel keeps 15 bytes of a name, and a zero.
fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (byte, from) in short.iter_mut().take(15).zip(name.bytes()) {
        *byte = from;
    }
    short
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

/// True if a link is attached, false if what it was attached to is gone.
pub(super) fn link_is_attached(link: BorrowedFd<'_>) -> io::Result<bool> {
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
    Ok(target != 0)
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

/// The number of a program that is loaded.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    program_info(program).map(|info| info.id)
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
    let info = program_info(program.as_fd())?;
    let length = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..length]).into_owned())
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<RawProgramInfo> {
    let mut info = RawProgramInfo::default();
    let mut attr = Info {
        fd: program.as_raw_fd() as u32,
        length: size_of::<RawProgramInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}
