//! Programs at their hooks: attached and pinned, or put in the place of those that an earlier agent left.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::CaptureError;
use super::kernel::{self, Context, KernelError};
use super::object::{HOOKS, Hook, STEER};
use crate::netns::Netns;

/// Puts the programs of all hooks, in the order of `HOOKS`, in place.
pub(super) fn attach_hooks(programs: &[OwnedFd], cgroup: &File, links: &Path) -> Result<(), CaptureError> {
    for (hook, program) in HOOKS.into_iter().zip(programs) {
        put(program.as_fd(), cgroup.as_fd(), hook.attach_type, &links.join(hook.program)).map_err(|error| {
            // Flags that forbid others to stand beside a program give this error and no other.
            match exclusive(cgroup, hook) {
                Some(others) if error.errno() == libc::EPERM => {
                    CaptureError::ForeignProgram { hook: hook.name, others }
                }
                _ => error.into(),
            }
        })?;
    }
    Ok(())
}

/// Puts a pod's program in place.
pub(super) fn attach_steer(program: &OwnedFd, netns: &Netns, pin: &Path) -> Result<(), KernelError> {
    put(program.as_fd(), netns.as_fd(), STEER.attach_type, pin)
}

/// Takes the link that is pinned at `pin` off its hook, and the pin away. True if there was one.
pub(super) fn detach(pin: &Path) -> Result<bool, KernelError> {
    let Some(link) = kernel::pinned(pin)? else {
        return Ok(false);
    };
    match kernel::link_detach(link.as_fd()) {
        // What it was attached to is gone.
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
            return Err(error).on("LINK_DETACH", pin.display());
        }
        _ => {}
    }
    fs::remove_file(pin).on("unlink", pin.display())?;
    Ok(true)
}

fn put(program: BorrowedFd<'_>, target: BorrowedFd<'_>, attach_type: u32, pin: &Path) -> Result<(), KernelError> {
    if let Some(link) = kernel::pinned(pin)? {
        if kernel::link_is_attached(link.as_fd()).on("OBJ_GET_INFO_BY_FD", pin.display())? {
            return kernel::link_update(link.as_fd(), program).on("LINK_UPDATE", pin.display());
        }
        fs::remove_file(pin).on("unlink", pin.display())?;
    }
    let link: OwnedFd = kernel::link_create(program, target, attach_type).on("LINK_CREATE", pin.display())?;
    kernel::pin(link.as_fd(), pin)
}

/// A program of somebody else at the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignProgram {
    /// The hook.
    pub hook: &'static str,
    /// The kernel's number for the program.
    pub id: u32,
    /// The name that its author gave it.
    pub name: String,
    /// True if it allows no other program beside it, so that capture cannot be attached.
    pub is_exclusive: bool,
}

/// The programs at the root cgroup's hooks that are not Weft's.
pub(super) fn foreign(cgroup: &File) -> Result<Vec<ForeignProgram>, KernelError> {
    let mut programs = Vec::new();
    for hook in HOOKS {
        programs.extend(foreign_at(cgroup, hook).on("PROG_QUERY", hook.name)?);
    }
    Ok(programs)
}

fn foreign_at(cgroup: &File, hook: Hook) -> io::Result<Vec<ForeignProgram>> {
    const ALLOW_MULTI: u32 = 2;
    let (ids, flags) = kernel::query(cgroup.as_fd(), hook.attach_type)?;
    Ok(ids
        .into_iter()
        // A program may go between the two questions.
        .filter_map(|id| Some((id, kernel::program_name(id).ok()?)))
        .filter(|(_, name)| name != hook.program)
        .map(|(id, name)| ForeignProgram { hook: hook.name, id, name, is_exclusive: flags & ALLOW_MULTI == 0 })
        .collect())
}

fn exclusive(cgroup: &File, hook: Hook) -> Option<String> {
    let programs = foreign_at(cgroup, hook).ok()?;
    let names: Vec<_> =
        programs.iter().filter(|program| program.is_exclusive).map(|p| format!("{} (id {})", p.name, p.id)).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The hooks at which this node's program is in place.
pub(super) fn attached(links: &Path) -> Result<Vec<(&'static str, bool)>, KernelError> {
    HOOKS
        .iter()
        .map(|hook| {
            let pin = links.join(hook.program);
            let is_attached = match kernel::pinned(&pin)? {
                Some(link) => kernel::link_is_attached(link.as_fd()).on("OBJ_GET_INFO_BY_FD", pin.display())?,
                None => false,
            };
            Ok((hook.name, is_attached))
        })
        .collect()
}

/// True if the pod's link is in place, false if its namespace is gone.
pub(super) fn is_alive(pin: &Path) -> Result<bool, KernelError> {
    match kernel::pinned(pin)? {
        Some(link) => kernel::link_is_attached(link.as_fd()).on("OBJ_GET_INFO_BY_FD", pin.display()),
        None => Ok(false),
    }
}
