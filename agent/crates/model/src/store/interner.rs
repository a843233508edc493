//! One copy of each string that repeats.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::identity::Identity;
use crate::workload::Workload;

/// Below this many strings none is looked for that has gone out of use.
const SMALL: usize = 1024;

/// Gives equal strings one allocation. Thousands of workloads share their namespace, node, owner and policies.
#[derive(Debug)]
pub(super) struct Interner {
    hasher: DefaultHashBuilder,
    strings: HashTable<Arc<str>>,
    /// Strings nobody uses any more are dropped when there are this many.
    sweep_at: usize,
}

impl Interner {
    pub(super) fn new() -> Self {
        Self { hasher: DefaultHashBuilder::default(), strings: HashTable::new(), sweep_at: SMALL }
    }

    /// Replaces `string` by the copy that everybody shares.
    pub(super) fn intern(&mut self, string: &mut Arc<str>) {
        let hasher = self.hasher.clone();
        let hash = hasher.hash_one(&**string);
        match self.strings.find(hash, |known| known == string) {
            Some(known) => *string = Arc::clone(known),
            None => {
                self.strings.insert_unique(hash, Arc::clone(string), |known| hasher.hash_one(&**known));
            }
        }
    }

    /// Interns what workloads have in common. Uid, instance and name are their own.
    pub(super) fn intern_workload(&mut self, workload: &mut Workload) {
        let locality = &mut workload.locality;
        for string in [
            &mut workload.namespace,
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
        ] {
            self.intern(string);
        }
        if workload.instance.is_empty() {
            self.intern(&mut workload.instance);
        }
        workload.policies.iter_mut().for_each(|key| self.intern(key));
        workload.services.iter_mut().for_each(|membership| self.intern(&mut membership.service));
        self.intern_identity(&mut workload.identity);
    }

    pub(super) fn intern_identity(&mut self, identity: &mut Identity) {
        self.intern(identity.uri_mut());
    }

    /// Drops what nobody uses any more, once there may be enough of it to be worth looking.
    pub(super) fn sweep(&mut self) {
        if self.strings.len() < self.sweep_at {
            return;
        }
        self.strings.retain(|string| Arc::strong_count(string) > 1);
        self.sweep_at = SMALL.max(2 * self.strings.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_become_one() {
        let mut interner = Interner::new();
        let (mut first, mut second): (Arc<str>, Arc<str>) = ("default".into(), "default".into());
        interner.intern(&mut first);
        interner.intern(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn strings_out_of_use_are_dropped() {
        let mut interner = Interner::new();
        let mut kept: Arc<str> = "kept".into();
        interner.intern(&mut kept);
        for number in 0..100_000 {
            interner.intern(&mut Arc::from(format!("node-{number}")));
            interner.sweep();
        }
        assert!(interner.strings.len() <= SMALL, "{} strings are left", interner.strings.len());
        let mut again: Arc<str> = "kept".into();
        interner.intern(&mut again);
        assert!(Arc::ptr_eq(&kept, &again));
    }
}
