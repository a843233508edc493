//! The embedded eBPF object: what is in it, and how it is loaded over the pinned maps.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use weft_common::{Address, CONGESTION_CONTROL_NAME, POD_ADDRESSES};

use super::load::{Global, Loader};
use super::{CaptureError, CongestionControl, LogLevel};
use crate::netns::NetnsCookie;

/// Empty when the agent was built without the eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft.bpf.o"));

/// The map that carries the programs' log. It is of no layout: each process brings its own.
pub(super) const LOG_MAP: &str = "AYA_LOGS";
/// How many bytes of it wait to be read at most. What the library would take, four times as much, is in the agent's
/// memory twice, from the beginning.
pub(super) const LOG_SIZE: u32 = 32 << 10;

/// The maps that are pinned.
const MAPS: [&str; 9] =
    ["PODS", "POD_OF_ADDRESS", "LISTENERS", "RANGES", "OUTSIDE", "TUPLES", "SOCKETS", "SETTINGS", LOG_MAP];

/// A program and the hook that it is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    /// The name of the program, and of the pin of its link.
    pub(super) program: &'static str,
    /// What the kernel calls the hook.
    pub(super) name: &'static str,
    /// The number of `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// The number of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

/// The hooks of the root cgroup, in the order in which they are attached: nothing is rewritten before all that a
/// rewritten connection needs is there.
pub(super) const HOOKS: [Hook; 5] = [
    Hook { program: "weft_handshake", name: "sock_ops", kind: 13, attach_type: 3 },
    Hook { program: "weft_peername4", name: "cgroup/getpeername4", kind: 18, attach_type: 29 },
    Hook { program: "weft_peername6", name: "cgroup/getpeername6", kind: 18, attach_type: 30 },
    Hook { program: "weft_connect4", name: "cgroup/connect4", kind: 18, attach_type: 10 },
    Hook { program: "weft_connect6", name: "cgroup/connect6", kind: 18, attach_type: 11 },
];

/// The hook of each pod.
pub(super) const STEER: Hook = Hook { program: "weft_steer", name: "sk_lookup", kind: 30, attach_type: 36 };

/// Loads programs of the object over the same maps each time.
#[derive(Debug)]
pub(super) struct Object {
    maps: PathBuf,
    log: LogLevel,
    congestion_control: [u8; CONGESTION_CONTROL_NAME],
}

impl Object {
    /// Over the maps pinned in this folder; those that are missing are made and pinned.
    pub(super) fn new(
        maps: &Path,
        log: LogLevel,
        congestion_control: Option<CongestionControl>,
    ) -> Result<Self, CaptureError> {
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
        let congestion_control = congestion_control.map_or_else(Default::default, |CongestionControl(name)| name);
        Ok(Self { maps: maps.to_owned(), log, congestion_control })
    }

    /// The programs of [`HOOKS`], in that order.
    pub(super) fn hooks(&self) -> Result<Vec<OwnedFd>, CaptureError> {
        let loader = self.loader(&Pod::default())?;
        HOOKS.iter().map(|hook| loader.program(hook)).collect()
    }

    /// The program of one pod.
    pub(super) fn steer(&self, pod: &Pod) -> Result<OwnedFd, CaptureError> {
        self.loader(pod)?.program(&STEER)
    }

    fn loader(&self, pod: &Pod) -> Result<Loader, CaptureError> {
        let level = match self.log {
            LogLevel::Off => 0_u8,
            LogLevel::Warn => 2,
            LogLevel::Debug => 4,
        };
        let addresses: Vec<u8> =
            pod.addresses.iter().flat_map(|address| address.0).flat_map(u32::to_ne_bytes).collect();
        let globals: [Global<'_>; 5] = [
            ("AYA_LOG_LEVEL", &[level]),
            ("LOOPBACK_CONGESTION_CONTROL", &self.congestion_control),
            ("STEER_NETNS", &pod.netns.to_ne_bytes()),
            ("STEER_WORKERS", &pod.workers.to_ne_bytes()),
            ("STEER_ADDRESSES", &addresses),
        ];
        Loader::new(OBJECT, &globals, &self.maps, &MAPS)
    }
}

/// What a pod's program is made with.
#[derive(Debug, Default)]
pub(super) struct Pod {
    netns: u64,
    workers: u32,
    addresses: [Address; POD_ADDRESSES],
}

impl Pod {
    pub(super) fn new(cookie: NetnsCookie, workers: u32, addresses: &[Address; POD_ADDRESSES]) -> Self {
        Self { netns: cookie.0, workers, addresses: *addresses }
    }
}
