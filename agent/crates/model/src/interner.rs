//! One copy of each string that repeats.
//!
//! Thousands of workloads share their namespace, node, owner and policies. Whoever makes changes for the store takes
//! such strings from [`intern`]; the store does so with what it is given otherwise, but then every workload's own
//! copies have been allocated before, all of a batch at once.

use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::workload::Workload;

/// Below this many strings none is looked for that has gone out of use.
const SMALL: usize = 1024;

/// How many strings are remembered as shared copies, by where they lie.
const RECENT: usize = 256;

/// The strings of the process. A table for each maker of changes and one for the store would keep each other's
/// strings in use.
static STRINGS: LazyLock<Mutex<Interner>> = LazyLock::new(|| Mutex::new(Interner::new()));

/// The shared copy of a string. It is kept for as long as anyone has it, and some time longer.
#[must_use]
pub fn intern(text: &str) -> Arc<str> {
    with(|interner| interner.intern(text))
}

/// Gives the strings that a workload has in common with others their shared copies. Uid, instance and name are its own.
pub(crate) fn intern_workload(workload: &mut Workload) {
    let locality = &mut workload.locality;
    let strings = [
        &mut workload.namespace,
        workload.identity.uri_mut(),
        &mut workload.cluster,
        &mut workload.network,
        &mut workload.node,
        &mut workload.workload_name,
        &mut workload.workload_type,
        &mut workload.canonical_service,
        &mut workload.canonical_revision,
        &mut workload.app,
        &mut workload.version,
        &mut locality.region,
        &mut locality.zone,
        &mut locality.subzone,
    ];
    let services = workload.services.iter_mut().map(|membership| &mut membership.service);
    let instance = Some(&mut workload.instance).filter(|instance| instance.is_empty());
    let strings = strings.into_iter().chain(&mut workload.policies).chain(services).chain(instance);
    with(|interner| strings.for_each(|string| interner.share(string)));
}

/// Replaces strings by their shared copies.
pub(crate) fn share<'s>(strings: impl IntoIterator<Item = &'s mut Arc<str>>) {
    with(|interner| strings.into_iter().for_each(|string| interner.share(string)));
}

fn with<T>(act: impl FnOnce(&mut Interner) -> T) -> T {
    // A panic under the lock leaves the table whole: strings are added in one step.
    act(&mut STRINGS.lock().unwrap_or_else(PoisonError::into_inner))
}

#[derive(Debug)]
struct Interner {
    hasher: DefaultHashBuilder,
    strings: HashTable<Arc<str>>,
    /// Some of them, by address. Most strings that are to be shared are shared copies already: these are recognised
    /// without being read.
    recent: Vec<Option<Arc<str>>>,
    /// Strings nobody uses any more are dropped when there are this many.
    sweep_at: usize,
}

impl Interner {
    fn new() -> Self {
        let (hasher, strings) = (DefaultHashBuilder::default(), HashTable::new());
        Self { hasher, strings, recent: vec![None; RECENT], sweep_at: SMALL }
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        let hash = self.hasher.hash_one(text);
        if let Some(known) = self.strings.find(hash, |known| **known == *text) {
            return Arc::clone(known);
        }
        let string: Arc<str> = text.into();
        self.insert(hash, &string);
        string
    }

    fn share(&mut self, string: &mut Arc<str>) {
        let recent = recent_index(string);
        if self.recent[recent].as_ref().is_some_and(|known| Arc::ptr_eq(known, string)) {
            return;
        }
        let hash = self.hasher.hash_one(&**string);
        match self.strings.find(hash, |known| known == string) {
            Some(known) => *string = Arc::clone(known),
            None => self.insert(hash, string),
        }
        self.recent[recent_index(string)] = Some(Arc::clone(string));
    }

    fn insert(&mut self, hash: u64, string: &Arc<str>) {
        if self.strings.len() >= self.sweep_at {
            self.recent.fill(None);
            self.strings.retain(|string| Arc::strong_count(string) > 1);
            self.sweep_at = SMALL.max(2 * self.strings.len());
        }
        self.strings.insert_unique(hash, Arc::clone(string), |known| self.hasher.hash_one(&**known));
    }
}

/// Allocations lie 16 bytes apart at least.
fn recent_index(string: &Arc<str>) -> usize {
    Arc::as_ptr(string).addr() / 16 % RECENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_become_one() {
        let first = intern("a string that repeats");
        let mut second: Arc<str> = "a string that repeats".into();
        share([&mut second]);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&first, &intern("a string that repeats")));
    }

    #[test]
    fn strings_out_of_use_are_dropped_and_others_kept() {
        let mut interner = Interner::new();
        let kept = interner.intern("kept");
        for number in 0..100_000 {
            drop(interner.intern(&format!("node-{number}")));
        }
        assert!(interner.strings.len() <= SMALL, "{} strings are left", interner.strings.len());
        assert!(Arc::ptr_eq(&kept, &interner.intern("kept")));
    }
}
