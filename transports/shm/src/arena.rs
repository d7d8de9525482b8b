//! The allocator of an arena. Its bookkeeping is private to the side that writes the arena; what the peer gives back
//! is an offset that is checked here.
//!
//! A buddy allocator: block sizes are `block_min · 2^order` up to `block_max`, free blocks are kept in one LIFO list an
//! order so that warm memory is used again first, and memory that was never used is touched last.

use crate::geometry::Geometry;

/// A block was given back that is not lent out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no block is lent out at this offset")]
pub struct NotLent;

/// The allocator of one arena.
#[derive(Debug)]
pub struct Arena {
    block_min: u32,
    orders: u8,
    /// One byte for every `block_min` bytes of the arena, meaningful where a block begins.
    states: Vec<State>,
    /// Next and previous in the free list, as index + 1 (0 = none), so that untouched memory stays untouched.
    links: Vec<[u32; 2]>,
    /// The first free block of each order, as index + 1.
    free: Vec<u32>,
    /// Index from which on nothing was ever used.
    fresh: u32,
    lent: u32,
    lent_bytes: u64,
}

/// `0` = nothing begins here; else the order in the low bits and one of the marks.
type State = u8;
const FREE: State = 0x40;
const LENT: State = 0x80;
const ORDER: State = 0x1f;

const NEXT: usize = 0;
const PREVIOUS: usize = 1;

impl Arena {
    /// An arena of which nothing is lent. `geometry` was validated.
    pub fn new(geometry: &Geometry) -> Arena {
        let blocks = (geometry.arena_bytes / geometry.block_min) as usize;
        let orders = (geometry.block_max / geometry.block_min).trailing_zeros() as u8 + 1;
        Arena {
            block_min: geometry.block_min,
            orders,
            states: vec![0; blocks],
            links: vec![[0; 2]; blocks],
            free: vec![0; usize::from(orders)],
            fresh: 0,
            lent: 0,
            lent_bytes: 0,
        }
    }

    /// Of an arena that was just made, lends these blocks: offset and bytes. An error says which of them cannot be; the arena is to be
    /// dropped then.
    pub fn lend_again(&mut self, lent: &[(u32, u32)]) -> Result<(), (u32, u32)> {
        let arena_bytes = self.states.len() as u64 * u64::from(self.block_min);
        let mut blocks = Vec::with_capacity(lent.len());
        for &(offset, bytes) in lent {
            let order = self.order_of(bytes).filter(|&order| self.block_min << order == bytes);
            let inside = u64::from(offset) + u64::from(bytes) <= arena_bytes;
            match order {
                Some(order) if inside && offset.is_multiple_of(bytes) => blocks.push((offset / self.block_min, order)),
                _ => return Err((offset, bytes)),
            }
        }
        blocks.sort_unstable();
        let overlap = blocks.windows(2).find(|pair| pair[0].0 + (1 << pair[0].1) > pair[1].0);
        if let Some(&[_, (index, order)]) = overlap {
            return Err((index * self.block_min, self.block_min << order));
        }
        let largest = self.orders - 1;
        // Up to the last block that is lent everything was used once.
        let mut rest = &blocks[..];
        while !rest.is_empty() {
            let start = self.fresh;
            self.fresh += 1 << largest;
            let (within, behind) = rest.split_at(rest.partition_point(|(index, _)| *index < self.fresh));
            self.divide(start, largest, within);
            rest = behind;
        }
        Ok(())
    }

    /// A block of which these parts are lent: what is left of it is free.
    fn divide(&mut self, index: u32, order: u8, lent: &[(u32, u8)]) {
        match lent {
            [] => self.push(index, order),
            &[(_, whole)] if whole == order => {
                self.states[index as usize] = LENT | order;
                self.lent += 1;
                self.lent_bytes += u64::from(self.block_min) << order;
            }
            _ => {
                let half = index + (1 << (order - 1));
                let (left, right) = lent.split_at(lent.partition_point(|(index, _)| *index < half));
                self.divide(index, order - 1, left);
                self.divide(half, order - 1, right);
            }
        }
    }

    /// The blocks that are lent out: offset and bytes.
    pub fn lent_blocks(&self) -> Vec<(u32, u32)> {
        if self.lent == 0 {
            return Vec::new();
        }
        let used = self.states.iter().take(self.fresh as usize).zip(0..);
        let lent = used.filter(|(state, _)| **state & LENT != 0);
        lent.map(|(state, index): (_, u32)| (index * self.block_min, self.block_min << (state & ORDER))).collect()
    }

    /// Lends a block of at least `len` bytes: its offset, or nothing when there is none or `len` is above `block_max`.
    pub fn alloc(&mut self, len: u32) -> Option<u32> {
        let wanted = self.order_of(len)?;
        let (index, mut order) = self.take_from(wanted)?;
        while order > wanted {
            order -= 1;
            self.push(index + (1 << order), order);
        }
        self.states[index as usize] = LENT | wanted;
        self.lent += 1;
        self.lent_bytes += u64::from(self.block_min) << wanted;
        Some(index * self.block_min)
    }

    /// Takes a block back; says how many bytes it has.
    pub fn free(&mut self, offset: u32) -> Result<u32, NotLent> {
        if !offset.is_multiple_of(self.block_min) {
            return Err(NotLent);
        }
        let mut index = offset / self.block_min;
        let state = *self.states.get(index as usize).ok_or(NotLent)?;
        if state & LENT == 0 {
            return Err(NotLent);
        }
        let mut order = state & ORDER;
        let bytes = self.block_min << order;
        self.lent -= 1;
        self.lent_bytes -= u64::from(bytes);
        self.states[index as usize] = 0;
        while order + 1 < self.orders {
            let buddy = index ^ (1 << order);
            if self.states[buddy as usize] != FREE | order {
                break;
            }
            self.unlink(buddy, order);
            index = index.min(buddy);
            order += 1;
        }
        self.push(index, order);
        Ok(bytes)
    }

    /// Bytes of the largest block that [`Arena::alloc`] would lend now; 0 when everything is lent.
    pub fn largest(&self) -> u32 {
        if (self.fresh as usize) < self.states.len() {
            return self.block_min << (self.orders - 1);
        }
        match self.free.iter().rposition(|&first| first != 0) {
            Some(order) => self.block_min << order,
            None => 0,
        }
    }

    /// Blocks that are lent out.
    pub fn lent(&self) -> u32 {
        self.lent
    }

    /// Bytes that are lent out, in whole blocks.
    pub fn lent_bytes(&self) -> u64 {
        self.lent_bytes
    }

    fn order_of(&self, len: u32) -> Option<u8> {
        let blocks = len.div_ceil(self.block_min).max(1);
        let order = blocks.next_power_of_two().trailing_zeros() as u8;
        (order < self.orders).then_some(order)
    }

    /// A free block of this order or the next larger one, taken from its list, and its order.
    fn take_from(&mut self, wanted: u8) -> Option<(u32, u8)> {
        for order in wanted..self.orders {
            let first = self.free[usize::from(order)];
            if first != 0 {
                self.unlink(first - 1, order);
                return Some((first - 1, order));
            }
        }
        if self.fresh as usize >= self.states.len() {
            return None;
        }
        let index = self.fresh;
        self.fresh += 1 << (self.orders - 1);
        Some((index, self.orders - 1))
    }

    fn push(&mut self, index: u32, order: u8) {
        let first = self.free[usize::from(order)];
        if first != 0 {
            self.links[first as usize - 1][PREVIOUS] = index + 1;
        }
        self.links[index as usize] = [first, 0];
        self.free[usize::from(order)] = index + 1;
        self.states[index as usize] = FREE | order;
    }

    fn unlink(&mut self, index: u32, order: u8) {
        let [next, previous] = self.links[index as usize];
        match previous {
            0 => self.free[usize::from(order)] = next,
            _ => self.links[previous as usize - 1][NEXT] = next,
        }
        if next != 0 {
            self.links[next as usize - 1][PREVIOUS] = previous;
        }
        self.states[index as usize] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Geometry {
        let geometry = Geometry {
            entries: 8,
            stride: 64,
            slots: 4,
            arena_bytes: 8192,
            block_min: 64,
            block_max: 1024,
            window: 1024,
        };
        geometry.validate().unwrap();
        geometry
    }

    #[test]
    fn sizes_are_rounded_up_to_a_block() {
        let mut arena = Arena::new(&small());
        arena.alloc(1).unwrap();
        assert_eq!(arena.lent_bytes(), 64);
        arena.alloc(65).unwrap();
        assert_eq!(arena.lent_bytes(), 64 + 128);
        arena.alloc(1024).unwrap();
        assert_eq!(arena.lent_bytes(), 64 + 128 + 1024);
        assert_eq!(arena.alloc(1025), None);
    }

    #[test]
    fn everything_lent_and_given_back_is_whole_again() {
        let mut arena = Arena::new(&small());
        let offsets: Vec<u32> = std::iter::from_fn(|| arena.alloc(64)).collect();
        assert_eq!(offsets.len(), 128);
        assert_eq!(arena.largest(), 0);
        for offset in offsets.iter().rev() {
            arena.free(*offset).unwrap();
        }
        assert_eq!((arena.lent(), arena.lent_bytes()), (0, 0));
        let whole: Vec<u32> = std::iter::from_fn(|| arena.alloc(1024)).collect();
        assert_eq!(whole.len(), 8, "the buddies did not all merge");
    }

    #[test]
    fn what_was_given_back_last_is_lent_next() {
        let mut arena = Arena::new(&small());
        let a = arena.alloc(64).unwrap();
        let _b = arena.alloc(64).unwrap();
        arena.free(a).unwrap();
        assert_eq!(arena.alloc(64), Some(a));
    }

    #[test]
    fn only_what_is_lent_can_be_given_back() {
        let mut arena = Arena::new(&small());
        let a = arena.alloc(200).unwrap();
        for wrong in [a + 1, a + 64, a + 256, 8192, u32::MAX, u32::MAX - 63] {
            assert_eq!(arena.free(wrong), Err(NotLent), "{wrong}");
        }
        arena.free(a).unwrap();
        assert_eq!(arena.free(a), Err(NotLent));
    }

    #[test]
    fn what_is_lent_can_be_given_back_elsewhere() {
        let mut arena = Arena::new(&small());
        let mut lent: Vec<u32> = [64, 300, 1024, 65, 64, 128, 700].map(|len| arena.alloc(len).unwrap()).into();
        for gone in [5, 0] {
            arena.free(lent.swap_remove(gone)).unwrap();
        }
        let known = arena.lent_blocks();
        let mut other = Arena::new(&small());
        other.lend_again(&known).unwrap();
        assert_eq!((other.lent(), other.lent_bytes()), (arena.lent(), arena.lent_bytes()));
        let mut sorted = other.lent_blocks();
        sorted.sort_unstable();
        assert_eq!(sorted, known);
        while let Some(offset) = other.alloc(64) {
            assert!(!lent.contains(&offset));
            lent.push(offset);
        }
        assert_eq!(lent.len() as u64 - 5, (8192 - arena.lent_bytes()) / 64, "all that is free is found");
        lent.into_iter().for_each(|offset| assert!(other.free(offset).is_ok()));
        assert_eq!(std::iter::from_fn(|| other.alloc(1024)).count(), 8);
    }

    #[test]
    fn blocks_that_cannot_be_are_refused() {
        for wrong in [
            &[(64, 100)][..],
            &[(64, 128)],
            &[(8192, 64)],
            &[(0, 2048)],
            &[(0, 0)],
            &[(0, 128), (64, 64)],
            &[(128, 64), (128, 64)],
            &[(u32::MAX - 63, 64)],
        ] {
            assert!(Arena::new(&small()).lend_again(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_fragmented_arena_says_what_it_can_still_lend() {
        let mut arena = Arena::new(&small());
        let offsets: Vec<u32> = std::iter::from_fn(|| arena.alloc(64)).collect();
        arena.free(offsets[3]).unwrap();
        arena.free(offsets[5]).unwrap();
        assert_eq!(arena.largest(), 64);
        assert_eq!(arena.alloc(65), None);
    }
}
