//! Rules by their paths.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{ByName, Entries, Entry, first};
use crate::request::Request;
use crate::route::Pattern;

/// The rules of one host, by what they ask of the path.
#[derive(Debug, Default)]
pub(super) struct Paths {
    pub(super) exact: HashMap<Arc<str>, Entries>,
    /// Prefixes, without a slash at the end.
    pub(super) prefixes: ByElements<Entries>,
    /// Patterns, by the elements that every match of theirs begins with.
    pub(super) patterns: ByElements<Box<[(u32, Pattern)]>>,
    /// Patterns come before prefixes.
    pub(super) are_patterns_first: bool,
}

/// Something kept by the first elements of paths.
#[derive(Debug, Default)]
pub(super) struct ByElements<T> {
    by_elements: ByName<T>,
    /// What concerns all paths.
    root: Option<T>,
    /// The greatest number of elements of a key.
    deepest: usize,
}

impl<T> ByElements<T> {
    /// Of keys that begin with a slash and end with none; or are empty: all paths.
    pub(super) fn new(values: impl IntoIterator<Item = (Box<str>, T)>) -> Self {
        let mut new = Self { by_elements: ByName::default(), root: None, deepest: 0 };
        for (elements, value) in values {
            if elements.is_empty() {
                new.root = Some(value);
            } else {
                new.deepest = new.deepest.max(memchr::memchr_iter(b'/', elements.as_bytes()).count());
                new.by_elements.insert(elements, value);
            }
        }
        new
    }

    /// What is kept for a path, that of the most elements first, without what concerns all paths.
    fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a T> {
        let mut end = if self.deepest == 0 {
            0
        } else {
            // The slash after as many elements as any key has; whatever follows is of no interest.
            memchr::memchr_iter(b'/', path.as_bytes()).nth(self.deepest).unwrap_or(path.len())
        };
        std::iter::from_fn(move || {
            while end > 0 {
                let elements = &path[..end];
                end = memchr::memrchr(b'/', elements.as_bytes()).unwrap_or(0);
                if let Some(value) = self.by_elements.get(elements) {
                    return Some(value);
                }
            }
            None
        })
    }
}

impl Paths {
    /// The entry of the highest precedence that matches.
    pub(super) fn find(&self, request: &Request<'_>, of: &[Entry]) -> Option<u32> {
        if let Some(found) = self.exact.get(request.path).and_then(|entries| first(entries, request, of)) {
            return Some(found);
        }
        let by_pattern = || self.by_pattern(request, of);
        let by_prefix = || self.prefixes.below(request.path).find_map(|entries| first(entries, request, of));
        let found =
            if self.are_patterns_first { by_pattern().or_else(by_prefix) } else { by_prefix().or_else(by_pattern) };
        found.or_else(|| self.prefixes.root.as_ref().and_then(|entries| first(entries, request, of)))
    }

    fn by_pattern(&self, request: &Request<'_>, of: &[Entry]) -> Option<u32> {
        let mut best = u32::MAX;
        for patterns in self.patterns.below(request.path).chain(&self.patterns.root) {
            for (entry, pattern) in patterns {
                if *entry >= best {
                    break;
                }
                if of[*entry as usize].meets(request) && pattern.is_match(request.path) {
                    best = *entry;
                    break;
                }
            }
        }
        (best != u32::MAX).then_some(best)
    }
}
