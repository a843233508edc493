//! Reading manifests: bytes of strangers in, objects and problems out.
//!
//! A file holds Kubernetes objects as `kubectl` reads them: YAML with any number of documents, JSON with any number of
//! objects one after another, and lists of kind `List` in both. All mistakes of a file are reported at once. Size,
//! depth and aliases are bounded, so that no file can exhaust memory or stack.

mod decode;
mod document;
mod json;
mod place;
pub(crate) mod text;
mod tree;
mod yaml;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::object::{Interner, Kind, Object, ObjectId};
use crate::parallel::share_out;
use crate::problem::{Note, Problem, Severity};

/// Largest file that is read.
pub(crate) const MAX_FILE_SIZE: u64 = 64 << 20;
/// Most problems that are listed of one file.
const MAX_PROBLEMS: usize = 1000;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON (`.json`): several times as quick to read.
    Json,
    /// YAML (`.yaml`, `.yml`), of which JSON is a part.
    Yaml,
}

impl Format {
    /// The format of a file by its name; `None` when it is not read. Names that begin with a dot are those of editors
    /// and of mounted ConfigMaps, and are never read.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        if path.file_name()?.to_str()?.starts_with('.') {
            return None;
        }
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scrutiny {
    /// At what Weft uses.
    Normal,
    /// At what Weft uses, of objects that an API server has let through: it knows more fields than Weft.
    Lenient,
    /// Also at the fields of pods that Weft does not use: a mistake there keeps the pod out of a cluster.
    Full,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub entries: Vec<Entry>,
    pub problems: Vec<Problem>,
    /// Every object in it is among the entries. Otherwise nobody can tell what the file was meant to hold.
    pub is_whole: bool,
}

/// One object of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub id: ObjectId,
    /// First line of the object.
    pub line: u32,
    pub reading: Reading,
}

/// What became of an object.
#[derive(Debug)]
pub(crate) enum Reading {
    /// It is valid.
    Valid(Object),
    /// It is not, and its last valid version stays. Without one, this takes its place: what could be understood of
    /// it, and for a policy no less strict than what was meant.
    Invalid(Option<Object>),
}

/// Reads a manifest and returns all that is wrong with it. Never panics, whatever the bytes.
///
/// This looks at each object alone; [`crate::analyze`] looks at how they fit together as well.
#[must_use]
pub fn check_manifest(file: &Path, format: Format, bytes: &[u8]) -> Vec<Problem> {
    read(&file.into(), format, bytes, Scrutiny::Full, 1).problems
}

/// Reads a file with up to `threads` threads.
pub(crate) fn read(file: &Arc<Path>, format: Format, bytes: &[u8], scrutiny: Scrutiny, threads: usize) -> Manifest {
    let reader = Reader { file, scrutiny };
    let mut manifest = match std::str::from_utf8(bytes) {
        Ok(text) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            match format {
                Format::Json => json::read(&reader, text, threads),
                Format::Yaml => yaml::read(&reader, text, threads),
            }
        }
        Err(error) => {
            let mut part = Part::default();
            let line = 1 + newlines(&bytes[..error.valid_up_to()]);
            part.unreadable(&reader, line, "is not UTF-8", "save the file as UTF-8");
            part.into_manifest()
        }
    };
    if manifest.problems.len() > MAX_PROBLEMS {
        let more = manifest.problems.len() - MAX_PROBLEMS;
        manifest.problems.truncate(MAX_PROBLEMS);
        let note = Note {
            severity: Severity::Error,
            field: String::new(),
            message: format!("{more} more problems in this file are not listed"),
            suggestion: "correct those that are, then look again".to_owned(),
        };
        manifest.problems.push(note.at(Some(Arc::clone(file)), None, None));
    }
    manifest
}

/// Reads an object that an API server has: what there is of it, and what is wrong with it. Nothing: nobody can tell which
/// object it is.
pub(crate) fn read_object(kind: Kind, tree: &Value, interner: &mut Interner) -> (Option<Entry>, Vec<Problem>) {
    decode::object_of_cluster(kind, tree, interner)
}

/// The same of an object that is still the text that the API server sent.
pub(crate) fn read_sent(kind: Kind, text: &str, interner: &mut Interner) -> (Option<Entry>, Vec<Problem>) {
    decode::sent_by_cluster(kind, text, interner)
}

/// What reading needs to know.
#[derive(Clone, Copy)]
struct Reader<'a> {
    file: &'a Arc<Path>,
    scrutiny: Scrutiny,
}

/// What one thread has read.
struct Part {
    interner: Interner,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
    is_whole: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self { interner: Interner::default(), entries: Vec::new(), problems: Vec::new(), is_whole: true }
    }
}

impl Part {
    /// Notes that something in the file cannot be read, so that nobody knows which objects it holds.
    fn unreadable(&mut self, reader: &Reader<'_>, line: u32, message: impl Into<String>, suggestion: &str) {
        self.is_whole = false;
        let note = Note {
            severity: Severity::Error,
            field: String::new(),
            message: message.into(),
            suggestion: suggestion.to_owned(),
        };
        self.problems.push(note.at(Some(Arc::clone(reader.file)), Some(line), None));
    }

    fn into_manifest(self) -> Manifest {
        Manifest { entries: self.entries, problems: self.problems, is_whole: self.is_whole }
    }

    fn append(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.problems.extend(other.problems);
        self.is_whole &= other.is_whole;
    }
}

/// Divides `items` between threads, `share` at a time, and puts together what they read in the order of the items.
fn divide<T: Sync>(items: &[T], share: usize, threads: usize, read: impl Fn(&mut Part, &T) + Sync) -> Part {
    let shares: Vec<&[T]> = items.chunks(share).collect();
    let parts = share_out(&shares, threads, Interner::default, |interner, share| {
        let mut part = Part { interner: std::mem::take(interner), ..Part::default() };
        part.entries.reserve_exact(share.len());
        share.iter().for_each(|item| read(&mut part, item));
        *interner = std::mem::take(&mut part.interner);
        part
    });
    let mut all = Part::default();
    all.entries.reserve_exact(parts.iter().map(|part| part.entries.len()).sum());
    parts.into_iter().for_each(|part| all.append(part));
    all
}

/// How many lines end in `bytes`.
fn newlines(bytes: &[u8]) -> u32 {
    bytes.iter().map(|byte| u32::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests;
