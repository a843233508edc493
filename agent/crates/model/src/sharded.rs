//! A hash map whose copies are cheap.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// A value that knows the key it is stored under, so that the map need not hold the key a second time.
pub(crate) trait Keyed {
    /// What it is looked up by.
    type Key: Hash + Eq + ?Sized;

    /// Its key.
    fn key(&self) -> &Self::Key;
}

/// A hash map that shares its shards with its clones: cloning copies one pointer, and a write to a map that has
/// clones copies the list of shards (once until the next clone) and the shard that it falls into.
#[derive(Debug)]
pub(crate) struct ShardedMap<T> {
    hasher: DefaultHashBuilder,
    shards: Arc<[Arc<HashTable<T>>]>,
    len: usize,
}

impl<T> Clone for ShardedMap<T> {
    fn clone(&self) -> Self {
        Self { hasher: self.hasher.clone(), shards: Arc::clone(&self.shards), len: self.len }
    }
}

impl<T: Keyed + Clone> ShardedMap<T> {
    /// An empty map of 2^`bits` shards. A write costs the number of shards plus the number of entries in one, so
    /// the best number is the square root of the number of entries that must still be fast.
    pub(crate) fn new(bits: u32) -> Self {
        let empty = Arc::new(HashTable::new());
        Self { hasher: DefaultHashBuilder::default(), shards: vec![empty; 1 << bits].into(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &T::Key) -> Option<&T> {
        let hash = self.hasher.hash_one(key);
        self.shards[self.shard_of(hash)].find(hash, |entry| entry.key() == key)
    }

    /// The entry for `key`, to be changed in place; its key must stay as it is.
    pub(crate) fn get_mut(&mut self, key: &T::Key) -> Option<&mut T> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard_of(hash);
        // Looking first keeps a miss from copying the shard.
        self.shards[shard].find(hash, |entry| entry.key() == key)?;
        self.shard_mut(shard).find_mut(hash, |entry| entry.key() == key)
    }

    /// Puts `value` in the place of the entry with its key, which is returned.
    pub(crate) fn insert(&mut self, value: T) -> Option<T> {
        let hasher = self.hasher.clone();
        let hash = hasher.hash_one(value.key());
        let shard = self.shard_mut(self.shard_of(hash));
        if let Some(entry) = shard.find_mut(hash, |entry| entry.key() == value.key()) {
            return Some(std::mem::replace(entry, value));
        }
        shard.insert_unique(hash, value, |entry| hasher.hash_one(entry.key()));
        self.len += 1;
        None
    }

    /// Makes room for that many more entries at once, if they are many beside those that there are.
    pub(crate) fn reserve(&mut self, additional: usize) {
        if additional < self.len.max(8 * self.shards.len()) {
            return;
        }
        // Shards differ: room for a sixth more than the average spares most of them from growing.
        let each = (self.len + additional) / self.shards.len() * 7 / 6;
        for shard in Arc::make_mut(&mut self.shards) {
            let shard = Arc::make_mut(shard);
            shard.reserve(each.saturating_sub(shard.len()), |entry| self.hasher.hash_one(entry.key()));
        }
    }

    pub(crate) fn remove(&mut self, key: &T::Key) -> Option<T> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard_of(hash);
        self.shards[shard].find(hash, |entry| entry.key() == key)?;
        let entry = self.shard_mut(shard).find_entry(hash, |entry| entry.key() == key).ok()?;
        let (value, _) = entry.remove();
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// A number derived from the key, the same in all clones and different from process to process.
    pub(crate) fn fingerprint(&self, key: &T::Key) -> u32 {
        (spread(self.hasher.hash_one(key)) >> 32) as u32
    }

    fn shard_of(&self, hash: u64) -> usize {
        let bits = self.shards.len().trailing_zeros();
        // With one shard the shift would be by all 64 bits.
        spread(hash).checked_shr(64 - bits).unwrap_or(0) as usize
    }

    fn shard_mut(&mut self, shard: usize) -> &mut HashTable<T> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard])
    }
}

/// Moves the entropy of all bits into the upper ones. The tables themselves use the lowest and the uppermost bits of
/// the hash; a shard chosen by the same ones would fill only some of its table's buckets.
fn spread(hash: u64) -> u64 {
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for (u32, &'static str) {
        type Key = u32;

        fn key(&self) -> &u32 {
            &self.0
        }
    }

    #[test]
    fn a_clone_keeps_what_it_had() {
        for bits in [0, 1, 5] {
            let mut map = ShardedMap::new(bits);
            for key in 0..1000 {
                assert_eq!(map.insert((key, "old")), None);
            }
            let before = map.clone();
            assert_eq!(map.insert((7, "new")), Some((7, "old")));
            assert_eq!(map.remove(&8), Some((8, "old")));
            map.get_mut(&9).expect("it was inserted").1 = "changed";
            assert_eq!(map.get(&7), Some(&(7, "new")));
            assert_eq!((map.get(&8), map.len(), map.iter().count()), (None, 999, 999));
            assert_eq!(map.get(&9), Some(&(9, "changed")));
            for key in [7, 8, 9] {
                assert_eq!(before.get(&key), Some(&(key, "old")));
            }
            assert_eq!((before.len(), before.iter().count()), (1000, 1000));
        }
    }

    #[test]
    fn a_write_copies_one_shard() {
        let mut map = ShardedMap::new(6);
        for key in 0..1000 {
            map.insert((key, "old"));
        }
        let before = map.clone();
        map.insert((7, "new"));
        let copied = before.shards.iter().zip(map.shards.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
    }

    #[test]
    fn room_is_made_for_many_at_once_and_keeps_what_is_there() {
        let mut map = ShardedMap::new(4);
        for (first, count) in [(0, 10), (10, 1000), (1010, 100), (1110, 5000)] {
            let before = map.clone();
            map.reserve(count as usize);
            for key in first..first + count {
                assert_eq!(map.insert((key, "new")), None);
            }
            assert_eq!((before.len(), map.len()), (first as usize, (first + count) as usize));
            assert!((0..first + count).all(|key| map.get(&key).is_some()));
        }
    }

    #[test]
    fn a_miss_copies_nothing() {
        let mut map = ShardedMap::new(6);
        map.insert((1, "old"));
        let before = map.clone();
        assert_eq!(map.remove(&2), None);
        assert_eq!(map.get_mut(&2), None);
        assert!(Arc::ptr_eq(&before.shards, &map.shards));
    }
}
