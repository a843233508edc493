//! A pinned map with the types of its keys and values.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use weft_common::{Address, Listener, Pod, Prefix, Published, Settings, Socket, Tuple};

use super::CaptureError;
use super::kernel::{self, Context, KernelError};

/// What the kernel may copy in and out byte by byte.
///
/// # Safety
/// Every bit pattern must be a value, and there must be no padding.
pub(super) unsafe trait Plain: Copy + Default {}

// SAFETY: numbers, and structures of numbers of which `weft-common` asserts the sizes.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for Address {}
// SAFETY: as above.
unsafe impl Plain for Pod {}
// SAFETY: as above.
unsafe impl Plain for Listener {}
// SAFETY: as above.
unsafe impl Plain for Settings {}
// SAFETY: as above.
unsafe impl Plain for Socket {}
// SAFETY: as above.
unsafe impl Plain for Tuple {}
// SAFETY: as above.
unsafe impl Plain for Published {}
// SAFETY: as above.
unsafe impl Plain for Prefix {}

/// A map of the kernel. All methods take `&self`: the kernel keeps order among its users.
#[derive(Debug)]
pub(super) struct Map<K, V> {
    fd: OwnedFd,
    name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Opens the map that is pinned as `name` in `folder`.
    pub(super) fn open(folder: &Path, name: &'static str) -> Result<Self, CaptureError> {
        let path = folder.join(name);
        let fd =
            kernel::pinned(&path)?.ok_or_else(|| CaptureError::Layout(format!("{} is missing", path.display())))?;
        let info = kernel::map_info(fd.as_fd()).on("OBJ_GET_INFO_BY_FD", name)?;
        if info.key_size as usize != size_of::<K>() || info.value_size as usize != size_of::<V>() {
            return Err(CaptureError::Layout(format!(
                "{} holds keys of {} and values of {} bytes, not of {} and {}",
                path.display(),
                info.key_size,
                info.value_size,
                size_of::<K>(),
                size_of::<V>()
            )));
        }
        Ok(Self { fd, name, types: PhantomData })
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, KernelError> {
        let mut value = V::default();
        // SAFETY: `open` compared the sizes, and `Plain` types may hold what the kernel writes.
        let found = unsafe { kernel::map_lookup(self.fd.as_fd(), key, &mut value) };
        Ok(found.on("MAP_LOOKUP_ELEM", self.name)?.then_some(value))
    }

    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), KernelError> {
        // SAFETY: `open` compared the sizes.
        unsafe { kernel::map_update(self.fd.as_fd(), key, value) }.on("MAP_UPDATE_ELEM", self.name)
    }

    /// True if there was one.
    pub(super) fn remove(&self, key: &K) -> Result<bool, KernelError> {
        // SAFETY: `open` compared the sizes.
        unsafe { kernel::map_delete(self.fd.as_fd(), key) }.on("MAP_DELETE_ELEM", self.name)
    }

    /// All keys. What is changed meanwhile may be missing or come twice.
    pub(super) fn keys(&self) -> Result<Vec<K>, KernelError> {
        let mut keys: Vec<K> = Vec::new();
        let mut next = K::default();
        // SAFETY: `open` compared the sizes, and `Plain` types may hold what the kernel writes.
        while unsafe { kernel::map_next_key(self.fd.as_fd(), keys.last(), &mut next) }
            .on("MAP_GET_NEXT_KEY", self.name)?
        {
            keys.push(next);
        }
        Ok(keys)
    }
}
