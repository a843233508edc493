//! The folder of a node's network configurations, as libcni reads it, and files that are replaced whole.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::conflist::Form;

/// A larger file is no configuration.
const MAX_SIZE: u64 = 1 << 20;

/// The suffix of the original of a configuration that was made a list. libcni ignores it.
const BACKUP: &str = "weft-backup";

/// What is being written bears this name, and none that libcni or anybody who lists plug-ins takes for one of theirs.
const STAGING: &str = ".weft-cni-";

/// A configuration.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) form: Form,
}

/// The configuration in use: the first by name of those that are one, and what is wrong with any before it.
pub(super) fn primary(folder: &Path) -> io::Result<(Option<Network>, Vec<String>)> {
    let mut skipped = Vec::new();
    for (path, form) in list(folder)? {
        let read = text(&path).map_err(|error| error.to_string());
        match read.and_then(|text| form.check(&text).map(|()| text).map_err(|error| error.to_string())) {
            Ok(text) => return Ok((Some(Network { path, text, form }), skipped)),
            Err(error) => skipped.push(format!("{} is passed over: {error}", path.display())),
        }
    }
    Ok((None, skipped))
}

/// The files that libcni reads, in its order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(PathBuf, Form)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let form = match path.extension().and_then(OsStr::to_str) {
            Some("conflist") => Form::List,
            Some("conf" | "json") => Form::Single,
            _ => continue,
        };
        if !path.is_dir() {
            found.push((path, form));
        }
    }
    found.sort_unstable_by(|(a, _), (b, _)| a.file_name().cmp(&b.file_name()));
    Ok(found)
}

/// The originals that were kept, and where they belong.
pub(super) fn backups(folder: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(BACKUP)) {
            found.push((path.clone(), path.with_extension("")));
        }
    }
    Ok(found)
}

pub(super) fn backup_of(original: &Path) -> PathBuf {
    let mut name = original.as_os_str().to_owned();
    name.push(".");
    name.push(BACKUP);
    name.into()
}

pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Replaces a file by one with these bytes: whoever reads it sees the one or the other, also after the power went.
/// Where it is a link, what it leads to is replaced. An existing file's mode stays.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&path).map_or(mode, |metadata| metadata.permissions().mode() & 0o7777);
    replace_by(&path, mode, |file| file.write_all(bytes))
}

/// [`replace`], by what `write` writes, with exactly this mode.
pub(super) fn replace_by(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (folder, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let staging = folder.join(format!("{STAGING}{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&staging)?;
        write(&mut file)?;
        // Neither the umask nor a file that was there counts.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&staging, path)?;
        settle(folder)
    };
    write().inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(&staging);
    })
}

/// Has the names in a folder outlast a loss of power.
pub(super) fn settle(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes what was being written when its writer was killed.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(STAGING.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file; returns whether it was there.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
