//! Network namespaces, made and entered without `ip netns`: that remounts `/sys` and hides the cgroups.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;
use std::{ffi::CString, ptr};

use anyhow::{Context, Result, ensure};

use crate::sweep;

/// Where named network namespaces are found by `ip`, by Weft's annotation `weft.dev/netns`, and by people.
pub(crate) const FOLDER: &str = "/run/netns";

/// A named network namespace. It goes away when this is dropped and nothing runs in it any more.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    file: File,
}

impl Netns {
    /// Makes a network namespace with a loopback interface that is up, without IPv6 duplicate address detection
    /// (it would hold each address back for a second), and pins it under `/run/netns/NAME`.
    ///
    /// # Errors
    /// Not root, or the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        sweep::ensure_not_interrupted()?;
        let path = Path::new(FOLDER).join(name);
        share_folder().with_context(|| format!("preparing {FOLDER} for network namespaces"))?;
        File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        let made = thread::scope(|scope| {
            let maker = scope.spawn(|| -> Result<()> {
                // SAFETY: unshare takes no pointers, and this thread, which alone changes namespace, ends here.
                check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).context("unshare(CLONE_NEWNET)")?;
                bind_mount(Path::new("/proc/thread-self/ns/net"), &path)
                    .with_context(|| format!("mounting the namespace on {}", path.display()))?;
                for family in ["all", "default"] {
                    for (setting, value) in [("accept_dad", "0"), ("accept_ra", "0")] {
                        let file = format!("/proc/sys/net/ipv6/conf/{family}/{setting}");
                        fs::write(&file, value).with_context(|| format!("writing {file}"))?;
                    }
                }
                raise_loopback().context("bringing lo up")
            });
            maker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        });
        if let Err(error) = made {
            unpin(&path);
            return Err(error.context(format!("making the network namespace {name}")));
        }
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { name: name.to_owned(), path, file })
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names this namespace to `setns`, `nsenter --net=…` and the annotation `weft.dev/netns`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new descriptor of the namespace, for a child process that is to enter it.
    pub(crate) fn descriptor(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Runs `work` on a thread of its own inside this namespace and returns what it returns; a panic of `work` goes on
    /// in the caller. Sockets made in there stay in this namespace, whichever thread uses them later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                enter_thread(&self.file).unwrap_or_else(|error| panic!("setns({}): {error}", self.path.display()));
                work()
            });
            worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Sets `net.…` inside this namespace, for example `("ipv4/tcp_fastopen", "3")`.
    ///
    /// # Errors
    /// There is no such setting, or it refuses the value.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/net/{setting}");
        self.enter(|| fs::write(&file, value)).with_context(|| format!("writing {value} to {file} in {}", self.name))
    }

    /// Unpins the namespace from `/run/netns`, as a container runtime does when it removes a pod. The kernel frees it
    /// once no process and no socket is left in it; this value alone keeps it until it is dropped.
    pub fn unpin(&self) {
        unpin(&self.path);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.unpin();
    }
}

/// Moves the calling thread into a network namespace. Safe to call between fork and exec.
pub(crate) fn enter_thread(netns: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: setns takes a descriptor that the borrow keeps open, and no pointers.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Removes a pinned namespace, if it is there.
pub(crate) fn unpin(path: &Path) {
    if let Ok(target) = CString::new(path.as_os_str().as_bytes()) {
        // SAFETY: `target` is a string that ends in NUL and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
    let _ = fs::remove_file(path);
}

/// Makes `/run/netns` the shared mount that `ip netns` makes of it, under the same lock, so that the two can be used
/// side by side.
fn share_folder() -> Result<()> {
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder)?;
    let lock = File::open(folder)?;
    lock.lock()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if mounts.lines().any(|line| line.split(' ').nth(4) == Some(FOLDER)) {
        return Ok(());
    }
    bind_mount(folder, folder)?;
    let target = CString::new(FOLDER)?;
    // SAFETY: `target` is a string that ends in NUL; the other pointers may be null for a change of propagation.
    let shared =
        unsafe { libc::mount(ptr::null(), target.as_ptr(), ptr::null(), libc::MS_SHARED | libc::MS_REC, ptr::null()) };
    ensure!(shared == 0, "mount(MS_SHARED): {}", io::Error::last_os_error());
    Ok(())
}

fn bind_mount(from: &Path, to: &Path) -> Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both paths end in NUL and outlive the call; a bind mount takes neither type nor data.
    let mounted = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) };
    ensure!(mounted == 0, "mount(MS_BIND): {}", io::Error::last_os_error());
    Ok(())
}

/// Brings `lo` of the calling thread's namespace up.
fn raise_loopback() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) })
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
