//! An eBPF object, read by aya, given to the kernel: maps, types and programs.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::EbpfSectionKind;
use aya_obj::generated::bpf_map_type::{BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_SOCKHASH};

use super::CaptureError;
use super::kernel::{self, Context, KernelError, MapCreate, ProgramCode};
use super::object::{Hook, LOG_MAP, LOG_SIZE};

/// A constant of the object, and the bytes that it is set to.
pub(super) type Global<'a> = (&'a str, &'a [u8]);

/// An object whose maps exist and whose programs refer to them.
#[derive(Debug)]
pub(super) struct Loader {
    object: aya_obj::Object,
    btf: OwnedFd,
    /// Programs refer to maps by descriptor, so that these must be open until they are loaded.
    _maps: Vec<OwnedFd>,
}

impl Loader {
    /// Reads `bytes`, sets the constants, and opens or makes the maps. Those named in `pinned` are shared by all
    /// programs, by way of `folder`; the others (constants, counters) belong to the programs that this loader loads.
    pub(super) fn new(
        bytes: &[u8],
        globals: &[Global<'_>],
        folder: &Path,
        pinned: &[&str],
    ) -> Result<Self, CaptureError> {
        let mut object = aya_obj::Object::parse(bytes).map_err(unreadable)?;
        let globals: HashMap<_, _> = globals.iter().map(|(name, bytes)| (*name, (*bytes, true))).collect();
        object.patch_map_data(globals).map_err(unreadable)?;

        let features = aya::features();
        let types = match features.btf() {
            Some(features) => {
                object.fixup_and_sanitize_btf(features).map_err(unreadable)?.map(aya_obj::btf::Btf::to_bytes)
            }
            None => None,
        };
        let types = types.ok_or_else(|| CaptureError::Missing(vec!["BTF in the kernel (Linux 4.18)".into()]))?;
        let btf = kernel::btf_load(&types).on("BTF_LOAD", "the eBPF object")?;

        let mut maps = Vec::with_capacity(object.maps.len());
        for (name, mut definition) in std::mem::take(&mut object.maps) {
            if name == LOG_MAP {
                definition.set_max_entries(LOG_SIZE);
            }
            let fd = match pinned.contains(&name.as_str()) {
                true => open_or_make(&folder.join(&name), &name, &definition, btf.as_fd())?,
                false => make(&name, &definition, btf.as_fd())?,
            };
            maps.push((name, fd, definition));
        }

        let text = object.functions.keys().map(|(section, _)| *section).collect::<HashSet<_>>();
        object
            .relocate_maps(maps.iter().map(|(name, fd, definition)| (name.as_str(), fd.as_raw_fd(), definition)), &text)
            .map_err(unreadable)?;
        object.relocate_calls(&text).map_err(unreadable)?;
        object.sanitize_functions(features);
        Ok(Self { object, btf, _maps: maps.into_iter().map(|(_, fd, _)| fd).collect() })
    }

    /// Loads one of the programs.
    pub(super) fn program(&self, hook: &Hook) -> Result<OwnedFd, CaptureError> {
        let missing = || CaptureError::Object(format!("it has no program {}", hook.program));
        let program = self.object.programs.get(hook.program).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let functions = function.func_info.func_info_bytes();
        let lines = function.line_info.line_info_bytes();
        let code = ProgramCode {
            name: hook.program,
            kind: hook.kind,
            attach_type: hook.attach_type,
            instructions: &function.instructions,
            license: &program.license,
            btf: self.btf.as_fd(),
            functions: (&functions, function.func_info_rec_size),
            lines: (&lines, function.line_info_rec_size),
        };
        kernel::program_load(&code, &mut []).map_err(|source| refused(&code, hook.program, source))
    }
}

fn unreadable(error: impl std::error::Error) -> CaptureError {
    CaptureError::Object(error.to_string())
}

/// Asks the verifier again, for its reasons.
fn refused(code: &ProgramCode<'_>, program: &'static str, source: io::Error) -> CaptureError {
    const LOG_SIZE: usize = 4 << 20;
    const KEPT: usize = 4096;
    let mut log = vec![0; LOG_SIZE];
    // The error is known; if it succeeds now, the first one was for lack of memory.
    let _ = kernel::program_load(code, &mut log);
    let length = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[length.saturating_sub(KEPT)..length]).into_owned();
    CaptureError::Program { program, source, log }
}

fn open_or_make(
    pin: &Path,
    name: &str,
    definition: &aya_obj::Map,
    btf: BorrowedFd<'_>,
) -> Result<OwnedFd, KernelError> {
    if let Some(fd) = kernel::pinned(pin)? {
        return Ok(fd);
    }
    let fd = make(name, definition, btf)?;
    kernel::pin(fd.as_fd(), pin)?;
    Ok(fd)
}

fn make(name: &str, definition: &aya_obj::Map, btf: BorrowedFd<'_>) -> Result<OwnedFd, KernelError> {
    let mut attr = MapCreate {
        map_type: definition.map_type(),
        key_size: definition.key_size(),
        value_size: definition.value_size(),
        max_entries: definition.max_entries(),
        map_flags: definition.map_flags(),
        ..MapCreate::default()
    };
    let mut types = None;
    if let aya_obj::Map::Btf(typed) = definition
        // These kinds take no types.
        && ![BPF_MAP_TYPE_SOCKHASH as u32, BPF_MAP_TYPE_RINGBUF as u32].contains(&attr.map_type)
    {
        attr.btf_key_type_id = typed.def.btf_key_type_id;
        attr.btf_value_type_id = typed.def.btf_value_type_id;
        types = Some(btf);
    }
    let fd = kernel::map_create(name, types, attr).on("MAP_CREATE", name)?;
    if !definition.data().is_empty() {
        // SAFETY: such a map has one key, 0, and a value as long as its data.
        unsafe { kernel::map_update(fd.as_fd(), &0_u32, &definition.data()[0]) }.on("MAP_UPDATE_ELEM", name)?;
    }
    if definition.section_kind() == EbpfSectionKind::Rodata {
        kernel::map_freeze(fd.as_fd()).on("MAP_FREEZE", name)?;
    }
    Ok(fd)
}
