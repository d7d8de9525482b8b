//! A table whose keys go stale: an index that is used again gets another generation, and one whose generations are used up is
//! not used again. So a key may be kept for as long as one likes: it never names another entry.

use std::fmt;
use std::marker::PhantomData;

/// Names an entry of a [`Slab`]; stale after the entry was removed.
pub struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

/// Bits of a generation that fit into a driver's tag beside its kind and the index.
const TAG_MASK: u32 = 0x00FF_FFFF;

impl<T> Key<T> {
    /// Position in the table, for tables that run alongside.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Whether its place is not used again after it.
    pub fn is_last(self) -> bool {
        self.generation == u32::MAX
    }

    /// The key as 64 bits.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key that [`to_bits`](Self::to_bits) gave.
    pub fn from_bits(bits: u64) -> Key<T> {
        Key { index: bits as u32, generation: (bits >> 32) as u32, of: PhantomData }
    }

    /// The key as 56 bits, for [`Slab::tagged`].
    pub fn to_tag(self) -> u64 {
        u64::from(self.generation & TAG_MASK) << 32 | u64::from(self.index)
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
///
/// One that is `TRACKED` knows which entries nobody could change since they were drafted.
pub struct Slab<T, const TRACKED: bool = false> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// Entries whose generations are used up.
    retired: usize,
}

struct Entry<T> {
    generation: u32,
    /// Nobody could change it since [`Slab::set_drafted`]. Nothing is in it: that it was so does not matter.
    drafted: bool,
    value: Option<T>,
}

impl<T, const TRACKED: bool> Default for Slab<T, TRACKED> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new(), retired: 0 }
    }
}

impl<T, const TRACKED: bool> Slab<T, TRACKED> {
    /// Adds an entry.
    #[inline]
    pub fn insert(&mut self, value: T) -> Key<T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.entries.push(Entry { generation: 0, drafted: false, value: None });
                (self.entries.len() - 1) as u32
            }
        };
        let entry = &mut self.entries[index as usize];
        entry.value = Some(value);
        entry.drafted = false;
        Key { index, generation: entry.generation, of: PhantomData }
    }

    /// Takes the entry out; `None` if the key is stale.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let entry = self.entries.get_mut(key.index())?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        self.vacated(key.index);
        Some(value)
    }

    /// An entry is empty by now.
    #[inline]
    fn vacated(&mut self, index: u32) {
        match self.entries[index as usize].generation.checked_add(1) {
            Some(next) => {
                self.entries[index as usize].generation = next;
                self.free.push(index);
            }
            None => self.retired += 1,
        }
    }

    /// The entry; `None` if the key is stale.
    #[inline]
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        let entry = self.entries.get(key.index())?;
        if entry.generation == key.generation { entry.value.as_ref() } else { None }
    }

    /// Two entries; `None` if a key is stale or both are the same.
    #[inline(always)]
    pub fn pair_mut(&mut self, a: Key<T>, b: Key<T>) -> Option<(&mut T, &mut T)> {
        let [first, second] = self.entries.get_disjoint_mut([a.index(), b.index()]).ok()?;
        if first.generation != a.generation || second.generation != b.generation {
            return None;
        }
        if TRACKED {
            (first.drafted, second.drafted) = (false, false);
        }
        first.value.as_mut().zip(second.value.as_mut())
    }

    /// The entry; `None` if the key is stale.
    #[inline]
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index())?;
        if entry.generation != key.generation {
            return None;
        }
        if TRACKED {
            entry.drafted = false;
        }
        entry.value.as_mut()
    }

    /// Nothing is drafted.
    pub fn forget_drafts(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.drafted = false);
    }

    /// Somebody else knows the entry as it is now.
    pub fn set_drafted(&mut self, key: Key<T>) {
        let entry = self.entries.get_mut(key.index()).filter(|_| TRACKED);
        if let Some(entry) = entry.filter(|entry| entry.generation == key.generation) {
            entry.drafted = true;
        }
    }

    /// Whether the entry is there, and as it was drafted.
    pub fn is_as_drafted(&self, key: Key<T>) -> bool {
        let entry = self.entries.get(key.index());
        entry.is_some_and(|entry| entry.generation == key.generation && entry.drafted && entry.value.is_some())
    }

    /// The key of whatever is at `index` now.
    pub fn key_at(&self, index: usize) -> Option<Key<T>> {
        let entry = self.entries.get(index)?;
        entry.value.as_ref()?;
        Some(Key { index: index as u32, generation: entry.generation, of: PhantomData })
    }

    /// The key of which [`Key::to_tag`] gave this tag; the top 8 bits are ignored. Of an entry that is gone for 2^24 others it may be the
    /// wrong one: whoever keeps tags that long has to compare something else as well.
    pub fn tagged(&self, tag: u64) -> Option<Key<T>> {
        let key = self.key_at(tag as u32 as usize)?;
        (key.generation & TAG_MASK == (tag >> 32) as u32 & TAG_MASK).then_some(key)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len() - self.retired
    }

    /// The generations of all places, for another process to go on with. Keys of entries that do not go along are stale there; what was drafted
    /// does.
    pub fn generations(&self, goes_along: impl Fn(&T) -> bool) -> Vec<u32> {
        let generation = |entry: &Entry<T>| match &entry.value {
            Some(value) if !goes_along(value) => entry.generation.saturating_add(1),
            _ => entry.generation,
        };
        let generation = |entry: &Entry<T>| if entry.drafted { entry.generation } else { generation(entry) };
        self.entries.iter().map(generation).collect()
    }

    /// Has keys go on from these generations. What was in it has to be put back with [`Slab::put_back`], and then [`Slab::go_on`] called. Entries
    /// that are there already stay, but those whose keys are stale by then: these are given back.
    #[must_use]
    pub fn begin(&mut self, generations: &[u32]) -> Vec<T> {
        let mut stale = Vec::new();
        for (entry, &generation) in self.entries.iter_mut().zip(generations) {
            if entry.generation != generation {
                entry.generation = generation;
                stale.extend(entry.value.take());
            }
        }
        let beyond = self.entries.drain(generations.len().min(self.entries.len())..);
        stale.extend(beyond.filter_map(|entry| entry.value));
        let more = generations.iter().skip(self.entries.len());
        self.entries.extend(more.map(|&generation| Entry { generation, drafted: false, value: None }));
        stale
    }

    /// Takes out an entry that was put back, to put it back as something else.
    pub fn take_back(&mut self, key: Key<T>) -> Option<T> {
        self.entries.get_mut(key.index()).filter(|entry| entry.generation == key.generation)?.value.take()
    }

    /// Whether [`Slab::put_back`] can put something there.
    pub fn is_vacant(&self, key: Key<T>) -> bool {
        let entry = self.entries.get(key.index());
        entry.is_some_and(|entry| entry.generation == key.generation && entry.value.is_none())
    }

    /// Puts an entry where it was; false if there is no such place, or something in it.
    #[must_use]
    pub fn put_back(&mut self, key: Key<T>, value: T) -> bool {
        let can = self.is_vacant(key);
        if can {
            self.entries[key.index()].value = Some(value);
        }
        can
    }

    /// Everything was put back: the places that are left are free.
    pub fn go_on(&mut self) {
        let empty = self.entries.iter().enumerate().filter(|(_, entry)| entry.value.is_none());
        let (free, retired): (Vec<_>, Vec<_>) = empty.partition(|(_, entry)| entry.generation < u32::MAX);
        (self.retired, self.free) = (retired.len(), free.into_iter().rev().map(|(index, _)| index as u32).collect());
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
        let mut slab = Slab::<_>::default();
        let first = slab.insert("a");
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b");
        assert_eq!(second.index(), first.index());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"b"));
        assert_eq!(slab.len(), 1);
        assert_eq!(Key::from_bits(second.to_bits()), second);
        assert_eq!(slab.tagged(0xFF00_0000_0000_0000 | second.to_tag()), Some(second));
        assert_eq!(slab.tagged(first.to_tag()), None);
    }

    /// At a million calls a second a place is used so often in 17 s. What still waits under the old key (a call in the queue of
    /// an app that serves, an answer that is late) must not find another app's call.
    #[test]
    fn a_key_stays_stale_however_often_its_place_is_used() {
        let mut slab = Slab::<_>::default();
        let old = slab.insert(0);
        slab.remove(old);
        for turn in 1..=(1 << 24) + 1 {
            let key = slab.insert(turn);
            assert_eq!(slab.get(old), None, "after {turn} others");
            assert_eq!(slab.tagged(key.to_tag()), Some(key));
            slab.remove(key);
        }
    }

    #[test]
    fn keys_mean_the_same_in_another_process() {
        let mut slab = Slab::<_>::default();
        let keys: Vec<_> = (0..5).map(|number| slab.insert(number)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        let reused = slab.insert(30);
        let mut next = Slab::<_>::default();
        assert!(next.begin(&slab.generations(|_| true)).is_empty());
        for key in slab.keys() {
            assert!(next.put_back(key, slab.remove(key).unwrap()));
        }
        assert!(!next.put_back(reused, 31), "there is something");
        assert!(!next.put_back(keys[1], 10), "that key is stale");
        next.go_on();
        assert_eq!(next.keys(), [keys[0], keys[2], reused, keys[4]]);
        assert_eq!((next.get(reused), next.get(keys[3]), next.len()), (Some(&30), None, 4));
        let first = next.insert(40);
        assert_eq!((first.index(), next.get(keys[1])), (1, None));
        assert_eq!(next.insert(50).index(), 5);
    }

    #[test]
    fn what_was_put_back_early_stays_if_its_key_does() {
        let mut slab = Slab::<_>::default();
        let keys: Vec<_> = (0..4).map(|number| slab.insert(number)).collect();
        let mut next = Slab::<_>::default();
        assert!(next.begin(&slab.generations(|_| true)).is_empty());
        assert!(keys.iter().all(|&key| next.put_back(key, key.index())));
        // Meanwhile one is gone, the place of another is used again, and there is one more.
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        let (again, more) = (slab.insert(5), slab.insert(6));
        let last = slab.insert(7);
        assert_eq!((again.index(), more.index(), last.index()), (3, 1, 4));
        assert_eq!(next.begin(&slab.generations(|_| true)), [1, 3]);
        assert_eq!([0, 2].map(|at| next.get(keys[at]).copied()), [Some(0), Some(2)]);
        assert!([again, more, last].iter().all(|&key| next.is_vacant(key)));
        assert_eq!((next.take_back(keys[2]), next.take_back(keys[3]), next.take_back(last)), (Some(2), None, None));
        assert!(next.put_back(keys[2], 20) && next.put_back(last, 70));
        next.go_on();
        assert_eq!(next.len(), 3);
        // A table that is shorter than before is another one.
        assert_eq!(next.begin(&[0]), [20, 70]);
    }

    #[test]
    fn what_nobody_could_change_is_as_drafted() {
        let mut slab = Slab::<_, true>::default();
        let keys: Vec<_> = (0..6).map(|number| slab.insert(number)).collect();
        assert!(keys.iter().all(|key| !slab.is_as_drafted(*key)));
        keys[..5].iter().for_each(|&key| slab.set_drafted(key));
        *slab.get_mut(keys[0]).unwrap() += 1;
        assert!(slab.get(keys[1]).is_some());
        slab.pair_mut(keys[2], keys[3]).unwrap();
        slab.remove(keys[4]);
        let again = slab.insert(50);
        slab.set_drafted(keys[4]);
        let as_drafted: Vec<_> = keys.iter().map(|key| slab.is_as_drafted(*key)).collect();
        assert_eq!(as_drafted, [false, true, false, false, false, false]);
        assert!(!slab.is_as_drafted(again));
        // What was drafted goes along, whatever one thinks of others.
        assert_eq!(slab.generations(|_| false), [1, 0, 1, 1, 2, 1]);
        slab.forget_drafts();
        assert!(slab.keys().iter().all(|key| !slab.is_as_drafted(*key)));
    }

    #[test]
    fn a_place_whose_generations_are_used_up_is_left() {
        let mut slab = Slab::<_>::default();
        let key = slab.insert("a");
        slab.entries[0].generation = u32::MAX;
        let last = slab.key_at(key.index()).unwrap();
        assert_eq!(slab.remove(last), Some("a"));
        assert_eq!((slab.len(), slab.get(last)), (0, None));
        let next = slab.insert("b");
        assert_ne!(next.index(), last.index());
        assert_eq!((slab.len(), slab.keys()), (1, vec![next]));
    }
}
