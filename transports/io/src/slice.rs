//! Readable bytes with an owner: a range of a pool slot, or of the heap.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use crate::pool::Pool;

/// Bytes that were received or written, and that nobody changes any more. Cheap to clone and to split.
pub struct Slice {
    owner: Owner,
    start: usize,
    len: usize,
}

enum Owner {
    Nobody,
    /// Counted in the pool: cloned by `retain`, dropped by `release`.
    Slot {
        pool: Pool,
        slot: u32,
    },
    Heap(Rc<Vec<u8>>),
}

impl Slice {
    /// No bytes.
    pub const fn empty() -> Self {
        Self { owner: Owner::Nobody, start: 0, len: 0 }
    }

    /// Takes over a vector, without copying its bytes.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { owner: Owner::Heap(Rc::new(bytes)), start: 0, len }
    }

    /// Takes over one reference to `slot`.
    pub(crate) fn pooled(pool: Pool, slot: u32, start: usize, len: usize) -> Self {
        Self { owner: Owner::Slot { pool, slot }, start, len }
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.owner {
            Owner::Nobody => &[],
            // SAFETY: this slice references the slot, and lives as long as the result.
            Owner::Slot { pool, slot } => unsafe { pool.range(*slot, self.start, self.len) },
            Owner::Heap(bytes) => &bytes[self.start..self.start + self.len],
        }
    }

    /// Number of bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len, "advance past the end");
        self.start += n;
        self.len -= n;
    }

    /// Cuts off the first `n` bytes and returns them.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, n: usize) -> Slice {
        assert!(n <= self.len, "split past the end");
        let mut first = self.clone();
        first.len = n;
        self.advance(n);
        first
    }

    /// Keeps the first `len` bytes, if there are more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Whether the bytes lie in a pool slot, which they keep from being used again.
    pub const fn is_pooled(&self) -> bool {
        matches!(self.owner, Owner::Slot { .. })
    }

    /// The same bytes outside the pool: for what is going to be kept for long. Copies if they are in a slot.
    pub fn to_heap(&self) -> Slice {
        if self.is_pooled() { Slice::from_vec(self.as_slice().to_vec()) } else { self.clone() }
    }

    /// Appends `next` without copying if it lies in the same slot, right behind this slice; else gives it back.
    pub fn try_merge(&mut self, next: Slice) -> Result<(), Slice> {
        match (&self.owner, &next.owner) {
            (Owner::Slot { pool: a, slot: x }, Owner::Slot { pool: b, slot: y })
                if x == y && self.start + self.len == next.start && a.same_as(b) =>
            {
                self.len += next.len;
                Ok(())
            }
            _ => Err(next),
        }
    }
}

impl Clone for Slice {
    fn clone(&self) -> Self {
        let owner = match &self.owner {
            Owner::Nobody => Owner::Nobody,
            Owner::Slot { pool, slot } => {
                pool.retain(*slot);
                Owner::Slot { pool: pool.clone(), slot: *slot }
            }
            Owner::Heap(bytes) => Owner::Heap(bytes.clone()),
        };
        Self { owner, start: self.start, len: self.len }
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        if let Owner::Slot { pool, slot } = &self.owner {
            pool.release(*slot);
        }
    }
}

impl Default for Slice {
    fn default() -> Self {
        Self::empty()
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_vec(bytes)
    }
}

impl PartialEq for Slice {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Slice {}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.owner {
            Owner::Nobody => "nowhere",
            Owner::Slot { .. } => "pool",
            Owner::Heap(_) => "heap",
        };
        write!(f, "Slice({} bytes, {place})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_and_advancing_move_through_the_bytes() {
        let pool = Pool::new(16).unwrap();
        for mut rest in [pool.append(b"head body tail"), Slice::from_vec(b"head body tail".to_vec())] {
            let head = rest.split_to(4);
            rest.advance(1);
            let mut body = rest.clone();
            body.truncate(4);
            rest.advance(5);
            assert_eq!((&*head, &*body, &*rest), (&b"head"[..], &b"body"[..], &b"tail"[..]));
            rest.truncate(100);
            assert_eq!(rest.len(), 4);
        }
        assert_eq!(pool.held(), 1);
    }

    #[test]
    #[should_panic(expected = "split past the end")]
    fn splitting_past_the_end_is_a_bug_of_the_caller() {
        Slice::from_vec(vec![1, 2, 3]).split_to(4);
    }

    #[test]
    fn only_neighbours_in_the_same_slot_merge() {
        let pool = Pool::new(16).unwrap();
        let other = Pool::new(16).unwrap();
        let mut a = pool.append(b"aa");
        let b = pool.append(b"bb");
        let c = pool.append(b"cc");
        let a = &mut a;
        let c = a.try_merge(c).unwrap_err();
        a.try_merge(b).unwrap();
        a.try_merge(c).unwrap();
        assert_eq!(a.as_slice(), b"aabbcc");
        let foreign = other.append(b"aabbccdd");
        let mut tail = foreign.clone();
        tail.advance(6);
        assert!(a.try_merge(tail).is_err());
        assert!(a.try_merge(Slice::from_vec(vec![1])).is_err());
    }

    #[test]
    fn a_heap_copy_leaves_the_slot_free() {
        let pool = Pool::new(16).unwrap();
        let vacant = pool.vacant().unwrap();
        let pooled = pool.deliver(vacant, 10);
        let heap = pooled.to_heap();
        drop(pooled);
        assert_eq!(pool.held(), 0);
        assert!(!heap.is_pooled());
        assert_eq!(heap.len(), 10);
    }
}
