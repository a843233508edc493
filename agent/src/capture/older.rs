//! What agents with other map layouts left.
//!
//! Their programs stay attached beside the new ones until no pod is in their maps: a pod is captured by the old ones
//! until it is captured by the new ones, and its connections keep the names that the old ones remember. The first start
//! that finds such a layout without pods removes it. Every layout keeps its pods in a map `PODS` of which the keys are
//! namespace cookies; that much may never change.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::attach;
use super::bpffs::{Pins, entries};
use super::kernel::{self, Context, KernelError};
use crate::netns::NetnsCookie;

/// A layout that this agent does not speak.
#[derive(Debug)]
pub(super) struct OlderLayout {
    folder: PathBuf,
    pins: Pins,
    pods: Option<OwnedFd>,
}

impl OlderLayout {
    /// Opens what is in the folder of a layout.
    pub(super) fn open(folder: PathBuf) -> Result<Self, KernelError> {
        let pins = Pins::at(&folder);
        let pods = kernel::pinned(&pins.maps.join("PODS"))?;
        if let Some(pods) = &pods {
            let info = kernel::map_info(pods.as_fd()).on("OBJ_GET_INFO_BY_FD", folder.display())?;
            if info.key_size as usize != size_of::<u64>() {
                let source = io::Error::other("PODS is not a map of pods");
                return Err(source).on("OBJ_GET", folder.display());
            }
        }
        Ok(Self { folder, pins, pods })
    }

    /// The pods that it still captures.
    pub(super) fn pods(&self) -> Result<Vec<NetnsCookie>, KernelError> {
        let mut cookies = self.pins.pods().on("readdir", self.pins.pods.display())?;
        let Some(pods) = &self.pods else {
            return Ok(cookies);
        };
        let mut last = None;
        let mut next = 0_u64;
        // SAFETY: `open` has seen that keys are of eight bytes.
        while unsafe { kernel::map_next_key(pods.as_fd(), last.as_ref(), &mut next) }.on("MAP_GET_NEXT_KEY", "PODS")? {
            cookies.push(NetnsCookie(next));
            last = Some(next);
        }
        cookies.sort_unstable();
        cookies.dedup();
        Ok(cookies)
    }

    /// Captures a pod no longer.
    pub(super) fn release(&self, cookie: NetnsCookie) -> Result<(), KernelError> {
        if let Some(pods) = &self.pods {
            // SAFETY: `open` has seen that keys are of eight bytes.
            unsafe { kernel::map_delete(pods.as_fd(), &cookie.0) }.on("MAP_DELETE_ELEM", "PODS")?;
        }
        attach::detach(&self.pins.pod(cookie)).map(drop)
    }

    /// Drops pods whose namespace is gone.
    pub(super) fn forget_dead(&self) -> Result<(), KernelError> {
        for cookie in self.pins.pods().on("readdir", self.pins.pods.display())? {
            if !attach::is_alive(&self.pins.pod(cookie))? {
                self.release(cookie)?;
            }
        }
        Ok(())
    }

    /// Removes it with everything in it.
    pub(super) fn remove(self) -> Result<usize, KernelError> {
        remove_layout(&self.folder)
    }
}

/// Detaches and removes all that is pinned under a layout's folder, and the folder. Says how many pins there were.
pub(super) fn remove_layout(folder: &Path) -> Result<usize, KernelError> {
    let pins = Pins::at(folder);
    let mut removed = 0;
    // Nothing new is captured before the pods' own programs go: their connections would find nobody.
    for links in [&pins.links, &pins.pods] {
        for pin in entries(links).on("readdir", links.display())? {
            removed += usize::from(attach::detach(&pin)?);
        }
    }
    for pin in entries(&pins.maps).on("readdir", pins.maps.display())? {
        fs::remove_file(&pin).on("unlink", pin.display())?;
        removed += 1;
    }
    for part in [&pins.links, &pins.pods, &pins.maps, &folder.to_owned()] {
        match fs::remove_dir(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).on("rmdir", part.display()),
            _ => {}
        }
    }
    Ok(removed)
}
