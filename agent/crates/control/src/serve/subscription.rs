//! What one stream has asked for of one type, and what it has yet to hear.
//!
//! A wildcard subscription is no more than a place in the catalog's order. One on demand has the names that it was
//! given, and the names of what was sent for them: a name may be a resource's own, or an address; a service comes with
//! the workloads that are its endpoints, since it leads nowhere without them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashSet;
use thiserror::Error;

use super::catalog::{Catalog, Content, Entry};

/// Names that one stream may ask for.
const MAX_NAMES: usize = 100_000;
/// Bytes of such a name.
const MAX_NAME: usize = 1024;

/// Stands for everything.
const WILDCARD: &str = "*";

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SubscriptionError {
    /// The client is told to begin anew, with what it has.
    #[error("too much has changed since this stream was last read: connect again")]
    LeftBehind,
    #[error("more than {MAX_NAMES} names are asked for")]
    TooMany,
    #[error("a name that is asked for is longer than {MAX_NAME} bytes")]
    TooLong,
}

/// Part of a request that concerns one type.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub subscribe: Vec<String>,
    pub unsubscribe: Vec<String>,
    /// Versions, by name, of what the client has. Only the first wish of a stream counts.
    pub known: BTreeMap<String, String>,
}

/// What is to be sent next.
#[derive(Debug)]
pub(crate) struct Push {
    pub entries: Vec<Arc<Entry>>,
    /// Names that are not there (any more).
    pub removed: Vec<Arc<str>>,
    /// More follows that belongs to it.
    pub is_part: bool,
    /// How far the stream is with it.
    pub place: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Subscription {
    scope: Scope,
    /// All changes up to this place have been looked at.
    place: u64,
    /// The place where it began: removals up to there concern what it never had.
    fresh: u64,
    /// A client that has heard nothing cannot tell "there is nothing" from "not yet".
    owes_answer: bool,
    /// What differs from what the client said to have, by place. What changes meanwhile comes later, at its new place.
    resync: VecDeque<u64>,
    /// Names that are looked at before the next push: sent if they are wanted, else taken back.
    dirty: BTreeSet<Arc<str>>,
    /// Names that fewer wishes lead to than before: taken back unless some other does.
    doubtful: BTreeSet<Arc<str>>,
    /// Names that are not there, to be said.
    absent: Vec<Arc<str>>,
    wanted: HashSet<Box<str>>,
    /// What was sent and not taken back. Empty for a wildcard.
    held: HashSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    /// Nothing was said yet.
    #[default]
    Unasked,
    All,
    Named,
}

impl Subscription {
    /// Whether the client has not said yet what it wants.
    pub fn is_unasked(&self) -> bool {
        self.scope == Scope::Unasked
    }

    /// Takes in what the client wishes.
    pub fn wish(&mut self, catalog: &Catalog, wish: Wish) -> Result<(), SubscriptionError> {
        if wish.subscribe.iter().any(|name| name.len() > MAX_NAME) {
            return Err(SubscriptionError::TooLong);
        }
        let is_first = self.scope == Scope::Unasked;
        let names_all = wish.subscribe.iter().any(|name| name == WILDCARD);
        let was_all = self.scope == Scope::All;
        if is_first {
            // A first request that names nothing means everything.
            self.scope = if names_all || wish.subscribe.is_empty() { Scope::All } else { Scope::Named };
            self.owes_answer = true;
        } else if names_all {
            self.scope = Scope::All;
        }
        if wish.unsubscribe.iter().any(|name| name == WILDCARD) {
            self.scope = Scope::Named;
        }
        if self.scope == Scope::All && !was_all {
            self.begin_all(catalog, &wish.known);
        } else if self.scope == Scope::Named && (is_first || was_all) {
            self.place = catalog.head();
            self.fresh = self.place;
            self.resync = VecDeque::new();
        }
        for name in wish.subscribe.into_iter().filter(|name| name != WILDCARD) {
            self.subscribe(catalog, name);
        }
        for name in wish.unsubscribe.iter().filter(|name| *name != WILDCARD) {
            self.unsubscribe(catalog, name);
        }
        if self.wanted.len() > MAX_NAMES {
            return Err(SubscriptionError::TooMany);
        }
        if is_first && self.scope == Scope::Named {
            self.resume(catalog, &wish.known);
        }
        Ok(())
    }

    /// What there is to say, of about `budget` bytes; `None`: nothing.
    pub fn next(&mut self, catalog: &Catalog, budget: usize) -> Result<Option<Push>, SubscriptionError> {
        if self.scope == Scope::Unasked {
            return Ok(None);
        }
        if !catalog.reaches_back_to(self.place.max(self.fresh)) {
            return Err(SubscriptionError::LeftBehind);
        }
        let mut push = Push { entries: Vec::new(), removed: Vec::new(), is_part: false, place: 0 };
        let mut left = budget;
        push.removed.append(&mut self.absent);
        if self.scope == Scope::Named {
            self.note_changes(catalog);
        }
        for name in std::mem::take(&mut self.doubtful) {
            let is_wanted = catalog.get(&name).is_some_and(|(_, content)| self.is_wanted(catalog, &name, content));
            if !is_wanted && self.held.remove(&name) {
                push.removed.push(name);
            }
        }
        while left > 0
            && let Some(name) = self.dirty.pop_first()
        {
            self.look_at(catalog, name, &mut push, &mut left);
        }
        while left > 0
            && let Some(place) = self.resync.pop_front()
        {
            if let Some(entry) = catalog.at(place) {
                add(entry, &mut push, &mut left);
            }
        }
        if self.scope == Scope::All && self.resync.is_empty() {
            for entry in catalog.after(self.place) {
                if left == 0 {
                    push.is_part = true;
                    break;
                }
                self.place = entry.place;
                if entry.content.is_some() || entry.place > self.fresh {
                    add(entry, &mut push, &mut left);
                }
            }
        }
        push.is_part |= !self.dirty.is_empty() || !self.resync.is_empty();
        push.place = self.place;
        let has_news = !push.entries.is_empty() || !push.removed.is_empty();
        if has_news || self.owes_answer {
            self.owes_answer = false;
            return Ok(Some(push));
        }
        Ok(None)
    }

    fn begin_all(&mut self, catalog: &Catalog, known: &BTreeMap<String, String>) {
        self.fresh = catalog.head();
        self.held = HashSet::new();
        if known.is_empty() {
            self.place = 0;
            return;
        }
        self.place = catalog.head();
        let is_other = |(entry, content): &(&Arc<Entry>, &Content)| {
            !known.get(&*entry.name).is_some_and(|version| content.version.is(version))
        };
        self.resync = catalog.present().filter(is_other).map(|(entry, _)| entry.place).collect();
        self.absent =
            known.keys().filter(|name| catalog.get(name).is_none()).map(|name| name.as_str().into()).collect();
    }

    /// Goes on where a stream on demand has ended: what the client has is not sent again.
    fn resume(&mut self, catalog: &Catalog, known: &BTreeMap<String, String>) {
        for (name, version) in known {
            match catalog.get(name) {
                Some((entry, content)) if self.is_wanted(catalog, &entry.name, content) => {
                    if content.version.is(version) {
                        self.dirty.remove(&**name);
                    }
                    self.held.insert(Arc::clone(&entry.name));
                }
                _ => self.absent.push(name.as_str().into()),
            }
        }
    }

    fn subscribe(&mut self, catalog: &Catalog, name: String) {
        let mut is_there = false;
        for answer in catalog.answering(&name) {
            is_there = true;
            self.dirty.insert(Arc::clone(answer));
            self.dirty.extend(catalog.members(answer).cloned());
        }
        // There may be endpoints of a service that is not known itself.
        self.dirty.extend(catalog.members(&name).cloned());
        if !is_there {
            self.absent.push(name.as_str().into());
        }
        // With everything there is nothing to remember, and the answer is owed all the same.
        if self.scope == Scope::Named {
            self.wanted.insert(name.into());
        }
    }

    fn unsubscribe(&mut self, catalog: &Catalog, name: &str) {
        if self.wanted.remove(name) {
            let answers = catalog.answering(name).flat_map(|answer| catalog.members(answer).chain([answer]));
            self.doubtful.extend(answers.chain(catalog.members(name)).cloned());
        }
    }

    /// Notes which changes since the last time concern this stream.
    fn note_changes(&mut self, catalog: &Catalog) {
        for entry in catalog.after(self.place) {
            let is_held = self.held.contains(&entry.name);
            let is_wanted = entry.content.as_ref().is_some_and(|content| self.is_wanted(catalog, &entry.name, content));
            if is_held || is_wanted {
                self.dirty.insert(Arc::clone(&entry.name));
            }
            if is_held != is_wanted {
                self.dirty.extend(catalog.members(&entry.name).cloned());
            }
        }
        self.place = catalog.head();
    }

    /// Sends, takes back or leaves alone what is noted under a name.
    fn look_at(&mut self, catalog: &Catalog, name: Arc<str>, push: &mut Push, left: &mut usize) {
        match catalog.get(&name) {
            Some((entry, content)) if self.is_wanted(catalog, &name, content) => {
                if self.scope == Scope::Named {
                    self.held.insert(name);
                }
                add(entry, push, left);
            }
            _ => {
                if self.held.remove(&name) {
                    push.removed.push(name);
                }
            }
        }
    }

    /// Whether a resource was asked for: by its name, by an address, or as an endpoint of a service that was.
    fn is_wanted(&self, catalog: &Catalog, name: &str, content: &Content) -> bool {
        let is_named = |name: &str, content: Option<&Content>| {
            self.wanted.contains(name)
                || content.is_some_and(|content| content.aliases.iter().any(|alias| self.wanted.contains(alias)))
        };
        let is_of_service = |service: &Arc<str>| is_named(service, catalog.get(service).map(|(_, content)| content));
        self.scope == Scope::All || is_named(name, Some(content)) || content.services.iter().any(is_of_service)
    }
}

fn add(entry: &Arc<Entry>, push: &mut Push, left: &mut usize) {
    let size = match &entry.content {
        Some(content) => {
            push.entries.push(Arc::clone(entry));
            content.bytes.len()
        }
        None => {
            push.removed.push(Arc::clone(&entry.name));
            entry.name.len()
        }
    };
    *left = left.saturating_sub(size);
}

#[cfg(test)]
mod tests;
