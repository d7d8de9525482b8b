//! A table whose keys go stale: an index that is used again gets another generation.

use std::fmt;
use std::marker::PhantomData;

/// Names an entry of a [`Slab`]; stale after the entry was removed.
pub struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

/// Generations are kept to 24 bits so that a key fits into a driver's tag beside its kind.
const GENERATION_MASK: u32 = 0x00FF_FFFF;

impl<T> Key<T> {
    /// Position in the table, for tables that run alongside.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// The key as 56 bits.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key that [`to_bits`](Self::to_bits) gave; the top 8 bits are ignored.
    pub fn from_bits(bits: u64) -> Key<T> {
        Key { index: bits as u32, generation: (bits >> 32) as u32 & GENERATION_MASK, of: PhantomData }
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.generation == other.generation
    }
}

impl<T> Eq for Key<T> {}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.index, self.generation)
    }
}

/// Entries with stable indices; the most recently freed index is used first, so that a small working set stays small.
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds an entry.
    #[inline]
    pub fn insert(&mut self, value: T) -> Key<T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.entries.push(Entry { generation: 0, value: None });
                (self.entries.len() - 1) as u32
            }
        };
        let entry = &mut self.entries[index as usize];
        entry.value = Some(value);
        Key { index, generation: entry.generation, of: PhantomData }
    }

    /// Takes the entry out; `None` if the key is stale.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let entry = self.entries.get_mut(key.index())?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(key.index);
        Some(value)
    }

    /// Drops the entry where it is.
    #[inline]
    pub fn discard(&mut self, key: Key<T>) {
        if let Some(entry) = self.entries.get_mut(key.index())
            && entry.generation == key.generation
            && entry.value.is_some()
        {
            entry.value = None;
            entry.generation = (entry.generation + 1) & GENERATION_MASK;
            self.free.push(key.index);
        }
    }

    /// The entry; `None` if the key is stale.
    #[inline]
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        let entry = self.entries.get(key.index())?;
        if entry.generation == key.generation { entry.value.as_ref() } else { None }
    }

    /// Two entries; `None` if a key is stale or both are the same.
    #[inline]
    pub fn pair_mut(&mut self, a: Key<T>, b: Key<T>) -> Option<(&mut T, &mut T)> {
        let [first, second] = self.entries.get_disjoint_mut([a.index(), b.index()]).ok()?;
        if first.generation != a.generation || second.generation != b.generation {
            return None;
        }
        first.value.as_mut().zip(second.value.as_mut())
    }

    /// The entry; `None` if the key is stale.
    #[inline]
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index())?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    /// The key of whatever is at `index` now.
    pub fn key_at(&self, index: usize) -> Option<Key<T>> {
        let entry = self.entries.get(index)?;
        entry.value.as_ref()?;
        Some(Key { index: index as u32, generation: entry.generation, of: PhantomData })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Keys of all entries; for rare passes over everything.
    pub fn keys(&self) -> Vec<Key<T>> {
        (0..self.entries.len()).filter_map(|index| self.key_at(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_is_stale() {
        let mut slab = Slab::default();
        let first = slab.insert("a");
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b");
        assert_eq!(second.index(), first.index());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"b"));
        assert_eq!(slab.len(), 1);
        assert_eq!(Key::from_bits(0xFF00_0000_0000_0000 | second.to_bits()), second);
    }
}
