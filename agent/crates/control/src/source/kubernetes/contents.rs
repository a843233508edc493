//! What is known of a cluster, and what that changes in the model.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};
use kube::Resource as _;

use super::super::{Changes, Update};
use super::News;
use super::watched::Watched;
use crate::manifest::{Reading, read_sent};
use crate::object::{Interner, Kind, ObjectId};
use crate::problem::Problem;
use crate::translate::{TranslationOptions, Translator};

/// All kinds.
#[derive(Debug)]
pub(super) struct Contents {
    translator: Translator,
    interner: Interner,
    kinds: HashMap<Kind, Objects>,
    problems: BTreeMap<ObjectId, Vec<Problem>>,
}

/// The objects of one kind.
#[derive(Debug, Default)]
struct Objects {
    /// Those in force, and whether they are valid. One that becomes invalid stays as it was; where there was no valid
    /// version, what stands in for it is in force.
    known: HashMap<ObjectId, bool>,
    /// Those that the list under way has named so far.
    listed: Option<HashSet<ObjectId>>,
    /// A list came to its end.
    is_complete: bool,
}

impl Contents {
    /// Nothing yet. It is complete when these kinds were listed.
    pub(super) fn new(translation: TranslationOptions, kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            translator: Translator::new(translation),
            interner: Interner::default(),
            kinds: kinds.into_iter().map(|kind| (kind, Objects::default())).collect(),
            problems: BTreeMap::new(),
        }
    }

    /// Whether all kinds have been listed once.
    pub(super) fn is_complete(&self) -> bool {
        self.kinds.values().all(|objects| objects.is_complete)
    }

    /// Takes in what a watch has to say.
    pub(super) fn note(&mut self, kind: Kind, news: News) {
        match news {
            News::Listing => self.objects(kind).listed = Some(HashSet::new()),
            News::Listed(object) => {
                if let Some(id) = self.put(kind, &object)
                    && let Some(listed) = &mut self.objects(kind).listed
                {
                    listed.insert(id);
                }
            }
            News::ListEnd => {
                let listed = self.objects(kind).listed.take().unwrap_or_default();
                self.keep(kind, &listed);
            }
            News::Put(object) => {
                self.put(kind, &object);
            }
            News::Removed(object) => {
                let namespace = object.meta().namespace.as_deref().filter(|_| kind.is_namespaced());
                let id = ObjectId {
                    kind,
                    namespace: self.interner.text(namespace.unwrap_or_default()),
                    name: self.interner.text(object.meta().name.as_deref().unwrap_or_default()),
                };
                self.remove(&id);
            }
            News::Absent => self.keep(kind, &HashSet::new()),
        }
    }

    /// What changed since the last time, and all else that there is to say.
    pub(super) fn flush(&mut self) -> (Changes, Update) {
        let changes = Changes::of(&mut self.translator);
        if changes.are_many() {
            self.translator.trim();
            self.interner.forget_unused();
        }
        let (local_pods, notes) = self.translator.local_pods();
        let mut problems: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        problems.extend(notes.into_iter().map(|(object, note)| note.at(None, None, Some(object))));
        let namespaces = self.translator.namespaces_of_a_node();
        let objects = self.translator.counts();
        (changes, Update { local_pods, namespaces, problems, objects, ..Update::default() })
    }

    /// The translation of all that is in force, and what is wrong with single objects.
    pub(super) fn into_parts(mut self) -> (Translator, Vec<Problem>) {
        Changes::of(&mut self.translator);
        (self.translator, self.problems.into_values().flatten().collect())
    }

    fn objects(&mut self, kind: Kind) -> &mut Objects {
        self.kinds.entry(kind).or_default()
    }

    /// Only these of a kind are left.
    fn keep(&mut self, kind: Kind, listed: &HashSet<ObjectId>) {
        let objects = self.objects(kind);
        objects.listed = None;
        objects.is_complete = true;
        let gone: Vec<ObjectId> = objects.known.keys().filter(|id| !listed.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| self.remove(id));
        self.problems.retain(|id, _| id.kind != kind || listed.contains(id));
    }

    fn put(&mut self, kind: Kind, object: &Watched) -> Option<ObjectId> {
        let (entry, problems) = read_sent(kind, object.text(), &mut self.interner);
        // An API server has no object without a name.
        let entry = entry?;
        if problems.is_empty() {
            self.problems.remove(&entry.id);
        } else {
            self.problems.insert(entry.id.clone(), problems);
        }
        let has_valid_version = self.objects(kind).known.get(&entry.id) == Some(&true);
        let (is_valid, object) = match entry.reading {
            Reading::Valid(object) => (true, Some(object)),
            Reading::Invalid(substitute) => (false, substitute.filter(|_| !has_valid_version)),
        };
        if let Some(object) = object {
            self.objects(kind).known.insert(entry.id.clone(), is_valid);
            self.translator.put(object);
        }
        Some(entry.id)
    }

    fn remove(&mut self, id: &ObjectId) {
        self.problems.remove(id);
        let objects = self.objects(id.kind);
        if let Some(listed) = &mut objects.listed {
            listed.remove(id);
        }
        if objects.known.remove(id).is_some() {
            self.translator.remove(id);
        }
    }
}
