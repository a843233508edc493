//! A sequence of endpoints, ordered by place, whose copies are cheap.

use std::ops::Range;
use std::sync::Arc;

use super::Endpoint;

/// A chunk is split above this length, and joined with its neighbour when both together are below half of it.
const CHUNK: usize = 128;

/// Endpoints in the order of a 64-bit key, whose upper half is the group (a node, a zone) and whose lower half
/// scatters the endpoints of a group. Any position and any group are found by binary search. A copy shares the
/// chunks; a change copies the list of chunks and one chunk, so that a service with many thousands of endpoints stays cheap
/// to change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    /// None is empty.
    chunks: Vec<Chunk>,
}

#[derive(Clone, Debug)]
struct Chunk {
    /// How many endpoints stand before this chunk; right once [`Roster::seal`] has run.
    start: usize,
    items: Arc<Vec<Item>>,
}

#[derive(Clone, Debug)]
struct Item {
    key: u64,
    endpoint: Arc<Endpoint>,
}

impl Chunk {
    fn last_key(&self) -> u64 {
        self.items.last().map_or(0, |item| item.key)
    }
}

/// The key of an endpoint in a group.
pub(crate) fn key(group: u32, scatter: u32) -> u64 {
    u64::from(group) << 32 | u64::from(scatter)
}

impl Roster {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Needs [`Roster::seal`] after changes, like everything that deals with positions.
    pub(crate) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |chunk| chunk.start + chunk.items.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.chunks.iter().flat_map(|chunk| chunk.items.iter()).map(|item| &item.endpoint)
    }

    pub(crate) fn get(&self, position: usize) -> Option<&Arc<Endpoint>> {
        let after = self.chunks.partition_point(|chunk| chunk.start <= position);
        let chunk = self.chunks.get(after.checked_sub(1)?)?;
        chunk.items.get(position - chunk.start).map(|item| &item.endpoint)
    }

    /// The positions of a group.
    pub(crate) fn group(&self, group: u32) -> Range<usize> {
        let start = self.lower_bound(key(group, 0));
        match group.checked_add(1) {
            Some(next) => start..self.lower_bound(key(next, 0)),
            None => start..self.len(),
        }
    }

    /// The position and endpoint of this key for which `is_it` holds.
    pub(crate) fn find(&self, key: u64, is_it: impl Fn(&Arc<Endpoint>) -> bool) -> Option<(usize, &Arc<Endpoint>)> {
        let (chunk, index) = self.locate(key, is_it)?;
        let chunk = &self.chunks[chunk];
        Some((chunk.start + index, &chunk.items[index].endpoint))
    }

    pub(crate) fn insert(&mut self, key: u64, endpoint: Arc<Endpoint>) {
        let item = Item { key, endpoint };
        if self.chunks.is_empty() {
            // Most services have a handful of endpoints: the usual growth to four chunks would be wasted on them.
            self.chunks.reserve_exact(1);
            self.chunks.push(Chunk { start: 0, items: Arc::new(vec![item]) });
            return;
        }
        let at = self.chunks.partition_point(|chunk| chunk.last_key() < key).min(self.chunks.len() - 1);
        let items = Arc::make_mut(&mut self.chunks[at].items);
        let index = items.partition_point(|other| other.key < key);
        items.insert(index, item);
        if items.len() > CHUNK {
            let upper = items.split_off(CHUNK / 2);
            self.chunks.insert(at + 1, Chunk { start: 0, items: Arc::new(upper) });
        }
    }

    pub(crate) fn remove(&mut self, key: u64, is_it: impl Fn(&Arc<Endpoint>) -> bool) -> Option<Arc<Endpoint>> {
        let (at, index) = self.locate(key, is_it)?;
        let removed = Arc::make_mut(&mut self.chunks[at].items).remove(index);
        let left = self.chunks[at].items.len();
        if left == 0 {
            self.chunks.remove(at);
        } else if let Some(next) = self.chunks.get(at + 1)
            && left + next.items.len() < CHUNK / 2
        {
            let next = self.chunks.remove(at + 1);
            Arc::make_mut(&mut self.chunks[at].items).extend(next.items.iter().cloned());
        }
        Some(removed.endpoint)
    }

    /// Counts anew what stands before each chunk. It is left to the end of a batch, so that loading a large service
    /// does not count its chunks once for each endpoint.
    pub(crate) fn seal(&mut self) {
        let mut start = 0;
        for chunk in &mut self.chunks {
            chunk.start = start;
            start += chunk.items.len();
        }
    }

    fn locate(&self, key: u64, is_it: impl Fn(&Arc<Endpoint>) -> bool) -> Option<(usize, usize)> {
        let mut at = self.chunks.partition_point(|chunk| chunk.last_key() < key);
        // Endpoints of the same key may have come to lie on both sides of a split.
        while let Some(chunk) = self.chunks.get(at) {
            let start = chunk.items.partition_point(|item| item.key < key);
            for (index, item) in chunk.items.iter().enumerate().skip(start) {
                if item.key != key {
                    return None;
                }
                if is_it(&item.endpoint) {
                    return Some((at, index));
                }
            }
            at += 1;
        }
        None
    }

    fn lower_bound(&self, key: u64) -> usize {
        let at = self.chunks.partition_point(|chunk| chunk.last_key() < key);
        match self.chunks.get(at) {
            Some(chunk) => chunk.start + chunk.items.partition_point(|item| item.key < key),
            None => self.len(),
        }
    }
}

#[cfg(test)]
mod tests;
