//! A sequence of endpoints, ordered by place, whose copies are cheap.

use std::ops::Range;
use std::sync::Arc;

use super::{Endpoint, Place};

/// A chunk is split above this length, and joined with a neighbour when both together are below half of it. A change
/// in a service of 100,000 endpoints thus copies a list of some 500 chunks and one chunk of some 200 endpoints.
pub(super) const CHUNK: usize = 256;

/// Endpoints in the order of their group (none, the node, the zone), and scattered within it. Any position and any
/// group are found by binary search. A copy shares the chunks; a change copies the list of chunks and one chunk.
#[derive(Clone, Debug)]
pub(crate) struct Roster {
    grouping: Grouping,
    /// None is empty, and of two neighbours not both are small.
    chunks: Vec<Chunk>,
}

/// What endpoints are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    None,
    Node,
    Zone,
}

#[derive(Clone, Debug)]
struct Chunk {
    /// How many endpoints stand before this chunk; right once [`Roster::seal`] has run.
    start: usize,
    endpoints: Arc<Vec<Endpoint>>,
}

/// The group, then what scatters the endpoints of a group. Different endpoints may have the same.
type Key = (Place, u32);

impl Grouping {
    fn key(self, endpoint: &Endpoint) -> Key {
        let place = match self {
            Self::None => 0,
            Self::Node => endpoint.node,
            Self::Zone => endpoint.zone,
        };
        (place, endpoint.scatter)
    }
}

impl Roster {
    pub(super) fn new(grouping: Grouping) -> Self {
        Self { grouping, chunks: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Needs [`Roster::seal`] after changes, like everything that deals with positions.
    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |chunk| chunk.start + chunk.endpoints.len())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.chunks.iter().flat_map(|chunk| chunk.endpoints.iter())
    }

    /// All endpoints, provided that there are fewer than half a chunk of them.
    pub(super) fn as_slice(&self) -> &[Endpoint] {
        debug_assert!(self.chunks.len() <= 1, "small neighbours are joined");
        self.chunks.first().map_or(&[], |chunk| &chunk.endpoints)
    }

    pub(super) fn get(&self, position: usize) -> Option<&Endpoint> {
        let after = self.chunks.partition_point(|chunk| chunk.start <= position);
        let chunk = self.chunks.get(after.checked_sub(1)?)?;
        chunk.endpoints.get(position - chunk.start)
    }

    /// The positions of a group.
    pub(super) fn group(&self, place: Place) -> Range<usize> {
        let start = self.lower_bound((place, 0));
        match place.checked_add(1) {
            Some(next) => start..self.lower_bound((next, 0)),
            None => start..self.len(),
        }
    }

    /// The position of an endpoint of that workload, object by object.
    pub(super) fn position(&self, endpoint: &Endpoint) -> Option<usize> {
        let (at, index) = self.locate(self.grouping.key(endpoint), |other| other.is(endpoint))?;
        Some(self.chunks[at].start + index)
    }

    /// The endpoint of the workload of that uid, in a roster without groups.
    pub(super) fn find(&self, uid: &str, scatter: u32) -> Option<&Endpoint> {
        let (at, index) = self.locate((0, scatter), |endpoint| *endpoint.workload.uid == *uid)?;
        Some(&self.chunks[at].endpoints[index])
    }

    pub(super) fn insert(&mut self, endpoint: Endpoint) {
        if self.chunks.is_empty() {
            // Most services have a handful of endpoints: the usual growth to four chunks would be wasted on them.
            self.chunks.reserve_exact(1);
            self.chunks.push(Chunk { start: 0, endpoints: Arc::new(vec![endpoint]) });
            return;
        }
        let grouping = self.grouping;
        let key = grouping.key(&endpoint);
        let at = self.first_chunk(key).min(self.chunks.len() - 1);
        let endpoints = Arc::make_mut(&mut self.chunks[at].endpoints);
        let index = endpoints.partition_point(|other| grouping.key(other) < key);
        endpoints.insert(index, endpoint);
        if endpoints.len() > CHUNK {
            let upper = endpoints.split_off(CHUNK / 2);
            self.chunks.insert(at + 1, Chunk { start: 0, endpoints: Arc::new(upper) });
        }
    }

    /// Removes the endpoint of that workload, object by object.
    pub(super) fn remove(&mut self, endpoint: &Endpoint) {
        let Some((at, index)) = self.locate(self.grouping.key(endpoint), |other| other.is(endpoint)) else {
            return;
        };
        let endpoints = Arc::make_mut(&mut self.chunks[at].endpoints);
        endpoints.remove(index);
        if endpoints.is_empty() {
            self.chunks.remove(at);
            return;
        }
        if at + 1 < self.chunks.len() {
            self.join(at);
        }
        if at > 0 {
            self.join(at - 1);
        }
    }

    /// Counts anew what stands before each chunk, and gives back spare room. It is left to the end of a batch, so that
    /// loading a large service does not count its chunks once for each endpoint.
    pub(super) fn seal(&mut self) {
        let mut start = 0;
        for chunk in &mut self.chunks {
            chunk.start = start;
            start += chunk.endpoints.len();
            // Only a chunk that is not shared has changed.
            if let Some(endpoints) = Arc::get_mut(&mut chunk.endpoints) {
                endpoints.shrink_to_fit();
            }
        }
    }

    /// Joins a chunk with the next one if both are small.
    fn join(&mut self, at: usize) {
        if self.chunks[at].endpoints.len() + self.chunks[at + 1].endpoints.len() < CHUNK / 2 {
            let next = self.chunks.remove(at + 1);
            Arc::make_mut(&mut self.chunks[at].endpoints).extend(next.endpoints.iter().cloned());
        }
    }

    /// The first chunk that may hold `key`; past the end if none does.
    fn first_chunk(&self, key: Key) -> usize {
        let is_before = |chunk: &Chunk| chunk.endpoints.last().is_some_and(|last| self.grouping.key(last) < key);
        self.chunks.partition_point(is_before)
    }

    fn locate(&self, key: Key, is_it: impl Fn(&Endpoint) -> bool) -> Option<(usize, usize)> {
        // Endpoints of the same key may have come to lie on both sides of a split.
        for at in self.first_chunk(key)..self.chunks.len() {
            let endpoints = &self.chunks[at].endpoints;
            let start = endpoints.partition_point(|endpoint| self.grouping.key(endpoint) < key);
            for (index, endpoint) in endpoints.iter().enumerate().skip(start) {
                if self.grouping.key(endpoint) != key {
                    return None;
                }
                if is_it(endpoint) {
                    return Some((at, index));
                }
            }
        }
        None
    }

    fn lower_bound(&self, key: Key) -> usize {
        let Some(chunk) = self.chunks.get(self.first_chunk(key)) else {
            return self.len();
        };
        chunk.start + chunk.endpoints.partition_point(|endpoint| self.grouping.key(endpoint) < key)
    }
}

#[cfg(test)]
mod tests;
