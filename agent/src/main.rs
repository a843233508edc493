//! The `weft` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    spare_memory();
    weft::command::main()
}

/// Has the allocator give back what a large configuration took while it was read.
///
/// By default glibc keeps memory for each thread apart, and once a large piece was freed it takes such pieces from there
/// as well, where whatever is allocated behind them keeps them. Workers hardly allocate: they keep their buffers, and
/// those are smaller than these thresholds.
#[cfg(target_env = "gnu")]
fn spare_memory() {
    const SETTINGS: [(libc::c_int, libc::c_int); 3] =
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 512 << 10), (libc::M_TRIM_THRESHOLD, 1 << 20)];
    for (setting, value) in SETTINGS {
        // SAFETY: no other thread runs yet, and each of these settings takes any positive number.
        unsafe { libc::mallopt(setting, value) };
    }
}
