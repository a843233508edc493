//! Which object comes from which file.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use hashbrown::hash_map::EntryRef;
use hashbrown::{HashMap, HashSet};

use crate::object::ObjectId;

/// A file, for as long as it is there.
pub(super) type FileId = u32;

/// Which object comes from which file. Of an object that is in several, the version in the file that comes first by
/// name counts, and in that file the first one.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    owners: HashMap<ObjectId, Owner>,
    files: HashMap<FileId, Holding>,
    next_file: FileId,
    /// Counts the readings of the folder.
    reading: u32,
}

/// Where an object in force comes from.
#[derive(Clone, Copy, Debug)]
struct Owner {
    file: FileId,
    line: u32,
    /// The reading that saw it there last.
    seen: u32,
    /// It is not valid, and no valid version of it is known.
    is_stand_in: bool,
}

/// What a file holds.
#[derive(Debug)]
struct Holding {
    path: Arc<Path>,
    /// How many objects are in force by it.
    owned: usize,
    /// Objects in it whose version in another place counts, with their lines.
    shadowed: Vec<(ObjectId, u32)>,
}

/// Where an object stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub file: Option<Arc<Path>>,
    pub line: Option<u32>,
}

/// An object that was found in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub file: FileId,
    pub id: &'a ObjectId,
    pub line: u32,
    /// It is valid.
    pub is_valid: bool,
    /// There is something to put in force: the object, or a stand-in for an invalid one.
    pub has_version: bool,
}

impl Holding {
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

impl Ownership {
    /// A new file.
    pub fn enter(&mut self, path: Arc<Path>) -> FileId {
        let id = self.next_file;
        self.next_file += 1;
        let holding = Holding { path, owned: 0, shadowed: Vec::new() };
        self.files.insert(id, holding);
        id
    }

    /// A file that is there no longer.
    pub fn forget(&mut self, file: FileId) {
        self.files.remove(&file);
    }

    /// Begins a reading: what is not claimed in it by the files that are read is released.
    pub fn begin(&mut self) {
        self.reading = self.reading.wrapping_add(1);
    }

    /// Begins with one file; `objects` are at most in it.
    pub fn begin_file(&mut self, file: FileId, objects: usize) {
        if let Some(holding) = self.files.get_mut(&file) {
            holding.shadowed.clear();
        }
        self.owners.reserve(objects);
    }

    /// Whether any object is in force by a file.
    pub fn owns_any(&self, file: FileId) -> bool {
        self.files.get(&file).is_some_and(|holding| holding.owned > 0)
    }

    /// Whether the version of an object that was found is to be put in force. `gone` are the files that the folder has
    /// no longer.
    pub fn claim(&mut self, found: Found<'_>, gone: &HashSet<FileId>) -> bool {
        let Found { file, id, line, .. } = found;
        let claimed = Owner { file, line, seen: self.reading, is_stand_in: !found.is_valid };
        match self.owners.entry_ref(id) {
            EntryRef::Vacant(slot) => {
                if found.has_version {
                    slot.insert_with_key(id.clone(), claimed);
                    own(&mut self.files, file, 1);
                }
                found.has_version
            }
            EntryRef::Occupied(mut slot) => {
                let owner = *slot.get();
                if owner.file == file {
                    if owner.seen == self.reading {
                        shadow(&mut self.files, file, id, line);
                        return false;
                    }
                    // The last valid version stays.
                    let is_kept = !found.is_valid && !owner.is_stand_in;
                    *slot.get_mut() = Owner { is_stand_in: claimed.is_stand_in && !is_kept, ..claimed };
                    return !is_kept && found.has_version;
                }
                let other = self.files.get(&owner.file).filter(|_| !gone.contains(&owner.file));
                let is_first = match (other, self.files.get(&file)) {
                    (Some(other), Some(this)) => this.name() < other.name(),
                    _ => true,
                };
                if !is_first {
                    shadow(&mut self.files, file, id, line);
                } else if found.has_version {
                    *slot.get_mut() = claimed;
                    if other.is_some() {
                        shadow(&mut self.files, owner.file, id, owner.line);
                    }
                    own(&mut self.files, owner.file, -1);
                    own(&mut self.files, file, 1);
                }
                is_first && found.has_version
            }
        }
    }

    /// Takes out the objects that are no longer in the files `read` in this reading, and those of files that are gone.
    pub fn release(&mut self, read: &HashSet<FileId>, gone: &HashSet<FileId>) -> HashSet<ObjectId> {
        let reading = self.reading;
        let is_lost = |_: &ObjectId, owner: &mut Owner| {
            gone.contains(&owner.file) || (owner.seen != reading && read.contains(&owner.file))
        };
        let lost: Vec<(ObjectId, Owner)> = self.owners.extract_if(is_lost).collect();
        let files = &mut self.files;
        lost.into_iter()
            .map(|(id, owner)| {
                own(files, owner.file, -1);
                id
            })
            .collect()
    }

    /// The files that have any of these objects, and whose version did not count.
    pub fn uncovered(&self, released: &HashSet<ObjectId>) -> HashSet<FileId> {
        let files = self.files.iter();
        files.filter(|(_, file)| file.shadowed.iter().any(|(id, _)| released.contains(id))).map(|(id, _)| *id).collect()
    }

    /// Where an object in force stands.
    pub fn origin(&self, id: &ObjectId) -> Option<Origin> {
        let owner = self.owners.get(id)?;
        Some(Origin { file: self.files.get(&owner.file).map(|file| Arc::clone(&file.path)), line: Some(owner.line) })
    }

    /// The objects of a file whose version in another place counts, with their lines.
    pub fn shadowed(&self, file: FileId) -> &[(ObjectId, u32)] {
        self.files.get(&file).map_or(&[], |file| &file.shadowed)
    }

    pub fn shrink(&mut self) {
        self.owners.shrink_to_fit();
    }
}

fn shadow(files: &mut HashMap<FileId, Holding>, file: FileId, id: &ObjectId, line: u32) {
    if let Some(holding) = files.get_mut(&file) {
        holding.shadowed.push((id.clone(), line));
    }
}

fn own(files: &mut HashMap<FileId, Holding>, file: FileId, by: isize) {
    if let Some(holding) = files.get_mut(&file) {
        holding.owned = holding.owned.saturating_add_signed(by);
    }
}
