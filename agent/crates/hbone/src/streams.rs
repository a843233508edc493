//! The streams of a connection.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

use crate::flow::ReceiveWindow;

/// One stream that is not closed in both directions.
pub(crate) struct Stream {
    id: u32,
    pub(crate) token: u64,
    /// Bytes that may be sent. SETTINGS can make it negative (RFC 9113, 6.9.2).
    pub(crate) send_window: i64,
    pub(crate) receive: ReceiveWindow,
    /// Bytes that the peer's `content-length` still promises, or [`NO_CONTENT_LENGTH`].
    pub(crate) content_left: u64,
    /// END_STREAM was sent.
    pub(crate) is_local_closed: bool,
    /// END_STREAM was received.
    pub(crate) is_remote_closed: bool,
    /// The final response was sent or received.
    pub(crate) is_answered: bool,
    /// A CONNECT that was not turned down: no header block may follow the first (RFC 9113, 8.5).
    pub(crate) is_tunnel: bool,
}

/// The content may have any length.
pub(crate) const NO_CONTENT_LENGTH: u64 = u64::MAX;

impl Stream {
    pub(crate) fn new(id: u32, token: u64, send_window: u32, receive_window: u32) -> Self {
        Self {
            id,
            token,
            send_window: i64::from(send_window),
            receive: ReceiveWindow::new(receive_window),
            content_left: NO_CONTENT_LENGTH,
            is_local_closed: false,
            is_remote_closed: false,
            is_answered: false,
            is_tunnel: true,
        }
    }
}

/// Finds a stream by its number in constant time, and the one used last without hashing.
#[derive(Default)]
pub(crate) struct Streams {
    /// Position in `slots`.
    index: HashMap<u32, usize, Seed>,
    slots: Vec<Stream>,
    recent: usize,
}

impl Streams {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Stream> {
        match self.slots.get(self.recent) {
            Some(stream) if stream.id == id => Some(stream),
            _ => self.index.get(&id).map(|&at| &self.slots[at]),
        }
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        if self.slots.get(self.recent).is_none_or(|stream| stream.id != id) {
            self.recent = *self.index.get(&id)?;
        }
        self.slots.get_mut(self.recent)
    }

    pub(crate) fn insert(&mut self, stream: Stream) {
        self.recent = self.slots.len();
        self.index.insert(stream.id, self.recent);
        self.slots.push(stream);
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Stream> {
        let at = self.index.remove(&id)?;
        let stream = self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.id, at);
        }
        Some(stream)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Stream)> {
        self.slots.iter_mut().map(|stream| (stream.id, stream))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|stream| stream.id)
    }
}

/// Multiplication by a secret odd number: enough to spread numbers that a peer chooses, of which there are never more
/// than the stream limit, and far cheaper than the standard hash.
#[derive(Clone)]
pub(crate) struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }
}

impl BuildHasher for Seed {
    type Hasher = Product;

    fn build_hasher(&self) -> Product {
        Product { seed: self.0, hash: 0 }
    }
}

pub(crate) struct Product {
    seed: u64,
    hash: u64,
}

impl Hasher for Product {
    fn write_u32(&mut self, number: u32) {
        // The high half of a product is the mixed one, and a table looks at the low bits first.
        self.hash = u64::from(number).wrapping_mul(self.seed).rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((self.hash as u32).rotate_left(8) ^ u32::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_inserted_and_not_what_was_removed() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut streams = Streams::default();
        let mut expected = HashMap::new();
        for step in 0..20_000 {
            let id = rng.u32(..200) * 2 + 1;
            match rng.u8(..3) {
                0 if !expected.contains_key(&id) => {
                    expected.insert(id, step);
                    streams.insert(Stream::new(id, step, 0, 0));
                }
                1 => assert_eq!(streams.remove(id).map(|stream| stream.token), expected.remove(&id)),
                _ => {
                    assert_eq!(streams.get(id).map(|stream| stream.token), expected.get(&id).copied());
                    assert_eq!(streams.get_mut(id).map(|stream| stream.token), expected.get(&id).copied());
                }
            }
            assert_eq!(streams.len(), expected.len());
        }
    }
}
