//! The embedded eBPF object, loaded over the pinned maps.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::{CgroupSockAddr, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use weft_common::{Address, POD_ADDRESSES};

use super::{CaptureError, LogLevel};
use crate::netns::NetnsCookie;

/// Empty when the agent was built without the eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft.bpf.o"));

/// The program of each pod.
pub(super) const STEER: &str = "weft_steer";

/// The map that carries the programs' log. It is not of a layout: each process brings its own.
pub(super) const LOG_MAP: &str = "AYA_LOGS";

/// The pinned maps.
pub(super) const MAPS: [&str; 8] =
    ["PODS", "POD_OF_ADDRESS", "LISTENERS", "RANGES", "OUTSIDE", "TUPLES", "SOCKETS", "SETTINGS"];

/// A hook at the root cgroup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    /// The name of the program, and of the pin of its link.
    pub(super) program: &'static str,
    /// What the kernel calls the hook.
    pub(super) name: &'static str,
    /// The number of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

/// In the order in which they are attached: nothing is rewritten before all that a rewritten connection needs is there.
pub(super) const HOOKS: [Hook; 5] = [
    Hook { program: "weft_handshake", name: "sock_ops", attach_type: 3 },
    Hook { program: "weft_peername4", name: "cgroup/getpeername4", attach_type: 29 },
    Hook { program: "weft_peername6", name: "cgroup/getpeername6", attach_type: 30 },
    Hook { program: "weft_connect4", name: "cgroup/connect4", attach_type: 10 },
    Hook { program: "weft_connect6", name: "cgroup/connect6", attach_type: 11 },
];

/// The number of `enum bpf_attach_type` for `sk_lookup`.
pub(super) const STEER_ATTACH_TYPE: u32 = 36;

/// Loads the object again and again over the same maps.
#[derive(Debug)]
pub(super) struct Object {
    maps: PathBuf,
    log: LogLevel,
}

impl Object {
    /// Over the maps pinned in this folder; those that are missing are made and pinned.
    pub(super) fn new(maps: &Path, log: LogLevel) -> Result<Self, CaptureError> {
        if OBJECT.is_empty() {
            return Err(CaptureError::NotBuiltIn);
        }
        // Two processes cannot read one log, and the last one may still live.
        match fs::remove_file(maps.join(LOG_MAP)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CaptureError::Bpffs(format!("removing {}/{LOG_MAP}: {error}", maps.display())));
            }
            _ => {}
        }
        Ok(Self { maps: maps.to_owned(), log })
    }

    /// The programs of the cgroup's hooks, loaded.
    pub(super) fn hooks(&self) -> Result<Ebpf, CaptureError> {
        let mut ebpf = self.load(&Pod::default())?;
        for hook in HOOKS {
            let program = ebpf.program_mut(hook.program).ok_or(CaptureError::NotBuiltIn)?;
            let loaded = match hook.name {
                "sock_ops" => <&mut SockOps>::try_from(program).and_then(SockOps::load),
                _ => <&mut CgroupSockAddr>::try_from(program).and_then(CgroupSockAddr::load),
            };
            loaded.map_err(|source| CaptureError::Program { program: hook.program, source: Box::new(source) })?;
        }
        Ok(ebpf)
    }

    /// The program of one pod, loaded.
    pub(super) fn steer(&self, pod: &Pod) -> Result<Ebpf, CaptureError> {
        let mut ebpf = self.load(pod)?;
        let program = ebpf.program_mut(STEER).ok_or(CaptureError::NotBuiltIn)?;
        <&mut SkLookup>::try_from(program)
            .and_then(SkLookup::load)
            .map_err(|source| CaptureError::Program { program: STEER, source: Box::new(source) })?;
        Ok(ebpf)
    }

    fn load(&self, pod: &Pod) -> Result<Ebpf, CaptureError> {
        let level = match self.log {
            LogLevel::Off => 0_u8,
            LogLevel::Warn => 2,
            LogLevel::Debug => 4,
        };
        let paths: Vec<_> = MAPS.iter().chain([&LOG_MAP]).map(|name| (*name, self.maps.join(name))).collect();
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .override_global("AYA_LOG_LEVEL", &level, true)
            .override_global("STEER_NETNS", &pod.netns, true)
            .override_global("STEER_WORKERS", &pod.workers, true)
            .override_global("STEER_ADDRESSES", &pod.addresses, true);
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        loader.load(OBJECT).map_err(|source| CaptureError::Load(Box::new(source)))
    }
}

/// What a pod's program is made with.
#[derive(Debug, Default)]
pub(super) struct Pod {
    netns: u64,
    workers: u32,
    addresses: [[u32; 4]; POD_ADDRESSES],
}

impl Pod {
    pub(super) fn new(cookie: NetnsCookie, workers: u32, addresses: &[Address; POD_ADDRESSES]) -> Self {
        Self { netns: cookie.0, workers, addresses: addresses.map(|address| address.0) }
    }
}
