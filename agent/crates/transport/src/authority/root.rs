//! The authority's root on disk.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::material::{AuthorityMaterial, Root, new_key, read_key, self_signed};

const CERTIFICATE: &str = AuthorityMaterial::CERTIFICATE;
const KEY: &str = AuthorityMaterial::KEY;
const LOCK: &str = ".lock";

/// Why an authority could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The disk refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file is there without the one that belongs to it.
    #[error("{present} is there but {missing} is not: put it there, or remove the former to have a new root made")]
    Incomplete {
        /// The file that is there.
        present: PathBuf,
        /// The file that is missing.
        missing: PathBuf,
    },
    /// A file, or another place that holds a part of it, cannot be used.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file or place.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A root could not be made.
    #[error("making a root certificate: {0}")]
    Make(String),
}

/// Opens the root in `directory`, or makes one.
pub(super) fn open(directory: &Path, trust_domain: &str, now: SystemTime) -> Result<Root, AuthorityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("creating the directory", directory))?;
    let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
    // Complete: nothing will be written, so that a read-only directory (a mounted secret) serves.
    if !(exists(&certificate)? && exists(&key)?) {
        let _held = lock(&directory.join(LOCK))?;
        match (exists(&certificate)?, exists(&key)?) {
            (true, true) => {}
            (true, false) => {
                return Err(AuthorityError::Incomplete { present: certificate, missing: key });
            }
            (false, has_key) => make(directory, has_key, trust_domain, now)?,
        }
    }
    load(directory, now)
}

/// Makes a root. The certificate is written last: whoever finds one finds its key. A key without certificate is what a
/// process leaves that died in between, and is used.
fn make(directory: &Path, has_key: bool, trust_domain: &str, now: SystemTime) -> Result<(), AuthorityError> {
    let key_path = directory.join(KEY);
    let key = if has_key {
        read_key(&read_key_file(&key_path)?, &key_path)?
    } else {
        let mut key = new_key()?;
        let pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        write_whole(&key_path, pem.as_bytes())?;
        key
    };
    write_whole(&directory.join(CERTIFICATE), self_signed(&key, trust_domain, now)?.as_bytes())?;
    tracing::info!(directory = %directory.display(), "made a new root for the embedded certificate authority");
    Ok(())
}

fn load(directory: &Path, now: SystemTime) -> Result<Root, AuthorityError> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).map_err(failed("reading", &path))
    };
    let read_if_there = |name: &str| exists(&directory.join(name))?.then(|| read(name)).transpose();
    let material = AuthorityMaterial {
        key: read_key_file(&directory.join(KEY))?,
        certificate: read(CERTIFICATE)?,
        roots: read_if_there(AuthorityMaterial::ROOTS)?,
        chain: read_if_there(AuthorityMaterial::CHAIN)?,
    };
    material.read(directory, now)
}

fn read_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let pem = std::fs::read(path).map(Zeroizing::new).map_err(failed("reading", path))?;
    let mode = std::fs::metadata(path).map_err(failed("reading", path))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            key = %path.display(),
            mode = format!("{:o}", mode & 0o777),
            "others can read the certificate authority's key: chmod 600 it"
        );
    }
    Ok(pem)
}

/// Holds the lock until the file is closed; the kernel releases it if the process dies.
fn lock(path: &Path) -> Result<File, AuthorityError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("opening", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            tracing::info!(lock = %path.display(), "waiting for another agent that makes the root");
            file.lock().map_err(failed("locking", path))?;
            Ok(file)
        }
        Err(TryLockError::Error(error)) => Err(failed("locking", path)(error)),
    }
}

/// Writes a file of mode 0600 so that nobody ever sees a part of it, and that it survives a loss of power.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let partial = path.with_extension("pem.part");
    // One of a process that died; the lock is ours.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &partial)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&partial)
        .map_err(failed("creating", &partial))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("writing", &partial))?;
    std::fs::rename(&partial, path).map_err(failed("renaming", &partial))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("writing", directory))
}

fn exists(path: &Path) -> Result<bool, AuthorityError> {
    path.try_exists().map_err(failed("looking for", path))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Io { doing, path, source }
}
