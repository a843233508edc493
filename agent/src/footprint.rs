//! What a start, and reading a large configuration, would leave in memory, and how it is given back.
//!
//! An agent reads much once: manifests, certificates, programs for the kernel. The memory and the code of that are of no
//! use to it afterwards, and there is an agent on every node.

use std::ffi::c_void;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// So long after a large change the rest of it is done as well: new enrolments, certificates.
const SETTLING: Duration = Duration::from_millis(500);

/// Has the allocator give back what was large. To be called before there is a second thread.
///
/// By default glibc keeps memory for each thread apart, and once a large piece was freed it takes such pieces from there
/// as well, where whatever is allocated behind them keeps them. Workers hardly allocate: they keep their buffers, and
/// those are smaller than these thresholds.
pub fn spare() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 512 << 10), (libc::M_TRIM_THRESHOLD, 1 << 20)]
    {
        // SAFETY: no other thread runs yet, and each of these settings takes any positive number.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Settles each time that it is told of a large change, a moment later.
pub(crate) async fn settle_after(changes: Arc<Notify>) {
    loop {
        changes.notified().await;
        tokio::time::sleep(SETTLING).await;
        settle();
    }
}

/// Gives back memory that is free, and lets go of the program's own pages. Those that are still needed come back from the
/// page cache with their next use, sixteen at a time; those of the start do not. It takes a few milliseconds.
fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes any number and touches nothing but memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
    for (start, length) in unchanged(&fs::read_to_string("/proc/self/smaps").unwrap_or_default()) {
        // SAFETY: the kernel says that this process has mapped these pages of a file, cannot write to them and has not
        // done so: what they held is what they will hold when they are touched again.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
    }
}

/// The mappings, as address and length in bytes, that have nothing but what is in their file: those of programs and
/// libraries that nobody may write to, and nobody has, as the loader does where it relocates. The text is that of
/// `/proc/PID/smaps` (proc_pid_smaps(5)).
fn unchanged(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Anonymous", amount)) if amount.trim() == "0 kB" => found.extend(current.take()),
            Some((name, _)) if !name.contains(' ') => {}
            _ => current = file(line),
        }
    }
    found
}

/// A line that begins a mapping, when that is one of a file that is read or run only.
fn file(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let is_read_only = matches!(words.next()?, "r-xp" | "r--p");
    let is_of_file = words.nth(3)?.starts_with('/');
    (is_read_only && is_of_file).then(|| end.checked_sub(start).map(|length| (start, length)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_file_has_as_well_is_let_go() {
        let smaps = "\
55d0c0000000-55d0c0400000 r--p 00000000 fe:00 100                        /usr/bin/weft
Rss:                2048 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d0c0400000-55d0c0c00000 r-xp 00400000 fe:00 100                        /usr/bin/a weft: one
Anonymous:             0 kB
55d0c0c00000-55d0c0d00000 r--p 00c00000 fe:00 100                        /usr/bin/weft
Anonymous:          1024 kB
55d0c0d00000-55d0c0d01000 rw-p 00d00000 fe:00 100                        /usr/bin/weft
Anonymous:             0 kB
55d0c1000000-55d0c1021000 r--p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
7f0000000000-7f0000001000 r--s 00000000 fe:00 101                        /shared
Anonymous:             0 kB
7f0000001000-7f0000002000 r--p 00000000 00:00 0
Anonymous:             0 kB
";
        assert_eq!(unchanged(smaps), [(0x55d0_c000_0000, 0x40_0000), (0x55d0_c040_0000, 0x80_0000)]);
    }

    #[test]
    fn the_program_goes_on_after_it_has_settled() {
        let file_pages = || -> u64 {
            let status = fs::read_to_string("/proc/self/status").expect("reading the status");
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("the line of file pages");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let before = file_pages();
        settle();
        let after = file_pages();
        assert!(after < before, "{after} kB after {before} kB");
        // Relocated data, constants and code of all kinds are still what they were.
        assert_eq!("1.5".parse::<f64>().map(|number| format!("{number:.2}")), Ok("1.50".to_owned()));
        assert!(std::thread::spawn(|| std::env::vars().count()).join().is_ok());
    }
}
