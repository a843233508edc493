//! Objects at numbers of four bytes.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// The number of a `T` in its [`Slab`]. It is used again once the `T` is gone.
pub(crate) struct Id<T> {
    index: u32,
    of: PhantomData<fn() -> T>,
}

/// Keeps objects at numbers: references between objects that come and go take four bytes each.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub fn insert(&mut self, value: T) -> Id<T> {
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(value);
                index
            }
            None => {
                self.slots.push(Some(value));
                u32::try_from(self.slots.len() - 1).expect("four billion objects exceed any memory")
            }
        };
        Id::at(index)
    }

    /// Takes out what is there.
    ///
    /// # Panics
    /// When nothing is: an [`Id`] was kept beyond what it stands for.
    pub fn remove(&mut self, id: Id<T>) -> T {
        self.free.push(id.index);
        self.slots[id.index as usize].take().expect("ids are forgotten with what they stand for")
    }

    pub fn get(&self, id: Id<T>) -> Option<&T> {
        self.slots.get(id.index as usize)?.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| Some((Id::at(index), slot.as_ref()?)))
    }

    pub fn shrink(&mut self) {
        self.slots.shrink_to_fit();
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Index<Id<T>> for Slab<T> {
    type Output = T;

    fn index(&self, id: Id<T>) -> &T {
        self.get(id).expect("ids are forgotten with what they stand for")
    }
}

impl<T> IndexMut<Id<T>> for Slab<T> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        self.slots[id.index as usize].as_mut().expect("ids are forgotten with what they stand for")
    }
}

impl<T> Id<T> {
    fn at(index: u32) -> Self {
        Self { index, of: PhantomData }
    }
}

// Derived, these would ask the same of `T`.
impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.index.cmp(&other.index)
    }
}

impl<T> std::hash::Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.index.hash(state);
    }
}

impl<T> std::fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.index)
    }
}
