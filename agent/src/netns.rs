//! Network namespaces: open one, name it as the kernel does, run something inside it.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The kernel's name for a network namespace: unique since boot and never given to another one.
///
/// The eBPF programs know a pod by it (`SO_NETNS_COOKIE`, Linux 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsCookie(pub u64);

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An open network namespace. Holding it keeps the namespace alive.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    cookie: NetnsCookie,
}

impl Netns {
    /// Opens the namespace at `path`, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened, is not a network namespace, or may not be entered (`CAP_SYS_ADMIN`).
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(OwnedFd::from(File::open(path)?))
    }

    /// Takes an open file of a namespace, such as one that came over a socket.
    ///
    /// # Errors
    /// As [`Netns::open`].
    pub fn from_fd(file: OwnedFd) -> io::Result<Self> {
        let cookie = enter(file.as_fd(), own_cookie)?;
        Ok(Self { file, cookie })
    }

    /// The kernel's name for it.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// The addresses of its devices, each with the index of its device.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel refuses.
    pub fn devices(&self) -> io::Result<Vec<(IpAddr, u32)>> {
        self.enter(devices)
    }

    /// Runs `inside` on this thread in the namespace, and returns to where the thread was.
    ///
    /// The process is aborted if the thread cannot return: a worker that stayed in a pod's namespace would make
    /// another pod's sockets there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `inside` returns.
    pub fn enter<T>(&self, inside: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        enter(self.file.as_fd(), inside)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The cookie of the namespace that the calling thread is in.
///
/// # Errors
/// When the kernel does not know the option (before 5.14).
pub fn own_cookie() -> io::Result<NetnsCookie> {
    // Not declared by the C library's headers everywhere: asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(NetnsCookie(cookie)) } else { Err(io::Error::last_os_error()) }
}

fn enter<T>(namespace: BorrowedFd<'_>, inside: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // Opened each time: a thread may itself have been moved, and one `open` is small beside the two changes.
    let home = File::open("/proc/thread-self/ns/net")?;
    set(namespace)?;
    let home = Home(home);
    let result = inside();
    drop(home);
    result
}

/// The way back, taken also when a panic unwinds.
struct Home(File);

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = set(self.0.as_fd()) {
            tracing::error!(%error, "a thread cannot leave a pod's network namespace; aborting");
            std::process::abort();
        }
    }
}

fn set(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which the borrow keeps open, and no pointers.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn devices() -> io::Result<Vec<(IpAddr, u32)>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes a pointer to a list, which is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut devices = Vec::new();
    let mut next = list;
    // SAFETY: each entry is valid until the list is freed, and the last one points to null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: an entry's address is null or a valid one of the family that it names, and its name is a string.
        unsafe {
            if let Some(address) = address(entry.ifa_addr) {
                devices.push((address, libc::if_nametoindex(entry.ifa_name)));
            }
        }
    }
    // SAFETY: the list came from getifaddrs, and nothing of it is used any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(devices)
}

/// # Safety
/// `address` must be null or point to an address that is as long as its family says.
unsafe fn address(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller sees to it.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let octets = (*address.cast::<libc::sockaddr_in>()).sin_addr.s_addr.to_ne_bytes();
                Some(IpAddr::from(octets))
            }
            libc::AF_INET6 => Some(IpAddr::from((*address.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr)),
            _ => None,
        }
    }
}
