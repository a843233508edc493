//! The files of a folder, and which object comes from which.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hashbrown::{DefaultHashBuilder, HashSet};

use super::ownership::{FileId, Found, Origin, Ownership};
use super::watch::SETTLING;
use crate::manifest::{self, Entry, Format, MAX_FILE_SIZE, Manifest, Reading, Scrutiny};
use crate::object::{Kind, ObjectId};
use crate::parallel::share_out;
use crate::problem::{Problem, Severity};
use crate::translate::Translator;

/// More threads than this gain nothing.
const MAX_THREADS: usize = 4;

/// The files of a folder, as they were read last.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    scrutiny: Scrutiny,
    files: BTreeMap<OsString, FileState>,
    ownership: Ownership,
    /// Why the folder could not be read the last time.
    failure: Option<Problem>,
    is_unsettled: bool,
    hasher: DefaultHashBuilder,
}

/// One file.
#[derive(Debug)]
struct FileState {
    id: FileId,
    path: Arc<Path>,
    stamp: Stamp,
    /// Hash of what it holds; `None` when it must be read whatever its stamp.
    digest: Option<u64>,
    problems: Vec<Problem>,
}

/// By which a file is known to be the same as before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What became of reading a file.
enum Outcome {
    /// It holds what it held.
    Same(Stamp),
    Other(Stamp, u64, Manifest),
    Failed(io::Error),
}

impl Folder {
    pub fn new(dir: &Path, scrutiny: Scrutiny) -> Self {
        Self {
            dir: dir.to_owned(),
            scrutiny,
            files: BTreeMap::new(),
            ownership: Ownership::default(),
            failure: None,
            is_unsettled: false,
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Reads what changed, and tells the translator.
    pub fn read(&mut self, translator: &mut Translator) {
        let names = match list(&self.dir) {
            Ok(names) => names,
            Err(error) => {
                self.failure = Some(problem(
                    &self.dir.as_path().into(),
                    format!("the folder cannot be read ({error}): what it held stays in force"),
                    "bring the folder back, or let this user read it",
                ));
                return;
            }
        };
        self.failure = None;
        self.is_unsettled = false;
        for name in names.keys().filter(|name| !self.files.contains_key(*name)).collect::<Vec<_>>() {
            let path: Arc<Path> = self.dir.join(name).into();
            let file = FileState {
                id: self.ownership.enter(Arc::clone(&path)),
                path,
                stamp: Stamp::default(),
                digest: None,
                problems: Vec::new(),
            };
            self.files.insert(name.clone(), file);
        }
        let missing = self.files.iter().filter(|(name, _)| !names.contains_key(*name));
        let gone: HashSet<FileId> = missing.map(|(_, file)| file.id).collect();
        // An object that goes from a file may uncover the same object in another file, which is then read again.
        loop {
            let manifests = self.read_files(&names);
            let applied = self.apply(manifests, &gone, translator);
            let released = self.ownership.release(&applied, &gone);
            released.iter().for_each(|id| translator.remove(id));
            let uncovered = self.ownership.uncovered(&released);
            if uncovered.is_empty() {
                break;
            }
            for file in self.files.values_mut().filter(|file| uncovered.contains(&file.id)) {
                file.digest = None;
            }
        }
        self.files.retain(|_, file| !gone.contains(&file.id));
        gone.into_iter().for_each(|file| self.ownership.forget(file));
        self.ownership.shrink();
    }

    /// Whether a file changed so short a time ago that it should be looked at again soon.
    pub fn is_unsettled(&self) -> bool {
        self.is_unsettled
    }

    /// How many files there are.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// All that is wrong with the files.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.failure.iter().cloned().collect();
        for file in self.files.values() {
            problems.extend(file.problems.iter().cloned());
            for (id, line) in self.ownership.shadowed(file.id) {
                let other = self.origin(id).unwrap_or_default();
                let place = match (other.file.as_deref().and_then(Path::file_name), other.line) {
                    (Some(file), Some(line)) => format!("{}:{line}", file.display()),
                    _ => "another place".to_owned(),
                };
                problems.push(Problem {
                    line: Some(*line),
                    object: Some(id.clone()),
                    ..problem(&file.path, format!("is in {place} as well, and that one counts"), "keep one of the two")
                });
            }
        }
        problems
    }

    /// Where an object in force stands.
    pub fn origin(&self, id: &ObjectId) -> Option<Origin> {
        self.ownership.origin(id)
    }

    /// Reads the files that changed.
    fn read_files(&mut self, names: &BTreeMap<OsString, Stamp>) -> Vec<(OsString, Manifest)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut changed: Vec<(&OsString, &FileState)> = Vec::new();
        for (name, stamp) in names {
            let is_fresh = stamp.is_fresh(now);
            self.is_unsettled |= is_fresh;
            let file = &self.files[name];
            if file.digest.is_none() || file.stamp != *stamp || is_fresh {
                changed.push((name, file));
            }
        }
        let mut manifests = Vec::new();
        for (name, outcome) in self.read_all(&changed) {
            let Some(file) = self.files.get_mut(&name) else {
                continue;
            };
            match outcome {
                Outcome::Same(stamp) => file.stamp = stamp,
                Outcome::Other(stamp, digest, manifest) => {
                    file.stamp = stamp;
                    file.digest = Some(digest);
                    manifests.push((name, manifest));
                }
                Outcome::Failed(error) => {
                    file.digest = None;
                    file.problems = vec![problem(
                        &file.path,
                        format!("cannot be read ({error}): what it held stays in force"),
                        "let this user read the file, or remove it",
                    )];
                }
            }
        }
        manifests
    }

    fn read_all(&self, files: &[(&OsString, &FileState)]) -> Vec<(OsString, Outcome)> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let read = |(name, file): &(&OsString, &FileState), threads| ((*name).clone(), self.read_file(file, threads));
        // With few files it is the objects of each that are divided between threads.
        if files.len() < 2 * threads {
            return files.iter().map(|file| read(file, threads)).collect();
        }
        share_out(files, threads, || (), |(), file| read(file, 1))
    }

    fn read_file(&self, file: &FileState, threads: usize) -> Outcome {
        let (stamp, bytes) = match contents(&file.path) {
            Ok(found) => found,
            Err(error) => return Outcome::Failed(error),
        };
        let digest = self.hasher.hash_one(&bytes);
        if file.digest == Some(digest) {
            return Outcome::Same(stamp);
        }
        let format = Format::of(&file.path).unwrap_or(Format::Yaml);
        Outcome::Other(stamp, digest, manifest::read(&file.path, format, &bytes, self.scrutiny, threads))
    }

    /// Puts the objects of files in force. Pods come last: each is then matched once with all that selects it. Returns
    /// the files whose objects are those in force.
    fn apply(
        &mut self,
        manifests: Vec<(OsString, Manifest)>,
        gone: &HashSet<FileId>,
        translator: &mut Translator,
    ) -> HashSet<FileId> {
        self.ownership.begin();
        let mut applied = HashSet::new();
        let mut pods = Vec::new();
        for (name, mut manifest) in manifests {
            let Some(file) = self.files.get_mut(&name) else {
                continue;
            };
            manifest.problems.shrink_to_fit();
            file.problems = manifest.problems;
            let file = file.id;
            if !manifest.is_whole && self.ownership.owns_any(file) {
                continue;
            }
            applied.insert(file);
            self.ownership.begin_file(file, manifest.entries.len());
            for Entry { id, line, reading } in manifest.entries {
                let (is_valid, object) = match reading {
                    Reading::Valid(object) => (true, Some(object)),
                    Reading::Invalid(object) => (false, object),
                };
                let found = Found { file, id: &id, line, is_valid, has_version: object.is_some() };
                match object.filter(|_| self.ownership.claim(found, gone)) {
                    Some(object) if id.kind == Kind::Pod => pods.push(object),
                    Some(object) => translator.put(object),
                    None => {}
                }
            }
        }
        pods.into_iter().for_each(|pod| translator.put(pod));
        applied
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it may change again without its stamp showing it: the kernel's clock for these moves in steps.
    fn is_fresh(&self, now: Duration) -> bool {
        let changed = u64::try_from(self.changed.0).ok().zip(u32::try_from(self.changed.1).ok());
        changed.is_some_and(|(seconds, nanos)| now.abs_diff(Duration::new(seconds, nanos)) < SETTLING)
    }
}

/// The files of a folder that are read, links followed.
fn list(dir: &Path) -> io::Result<BTreeMap<OsString, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // What is gone again, or leads nowhere, is not there.
        if let (Some(_), Some(name), Ok(metadata)) = (Format::of(&path), path.file_name(), fs::metadata(&path))
            && metadata.is_file()
        {
            found.insert(name.to_owned(), Stamp::of(&metadata));
        }
    }
    Ok(found)
}

fn contents(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let too_large = || io::Error::other(format!("it is larger than {} MiB", MAX_FILE_SIZE >> 20));
    if metadata.len() > MAX_FILE_SIZE {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(too_large());
    }
    Ok((Stamp::of(&metadata), bytes))
}

fn problem(file: &Arc<Path>, message: String, suggestion: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        file: Some(Arc::clone(file)),
        line: None,
        object: None,
        field: None,
        message,
        suggestion: Some(suggestion.to_owned()),
    }
}
