//! A worker's buffers: a slab of equal slots, reference-counted, never shared between threads.
//!
//! Two things are taken from it: whole slots to receive into, and small ranges written one after the
//! other into a current slot ([`Pool::append`]), for heads and small payloads. Both end as a [`Slice`], and a slot is
//! free again when its last slice is dropped.
//!
//! **Nobody can starve the receivers.** Slices may be held for long: by a slow consumer, or by a message that waits for
//! its other half. When they hold more than [`HELD_PERCENT_MAX`] of the slots, what is received is copied to
//! the heap and what is appended is written there, so that the rest of the slots keep turning over. It is slower, and
//! counted ([`Pool::heap_fallbacks`]).
//!
//! The memory is one anonymous mapping: a page costs nothing until it is first used, slots that were used last are
//! taken first, and small messages touch only the first page of a slot.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::slice::Slice;

/// Size of a slot, in bytes.
pub const SLOT_BYTES: usize = 16 * 1024;

/// Slots of a pool unless configured: 4 MiB of address space.
pub const SLOTS_DEFAULT: u32 = 256;

/// The smallest pool: there must be slots to receive into beside the ones that slices may hold.
pub const SLOTS_MIN: u32 = 16;

/// The largest pool: a slot's number is a 16-bit buffer id on `uring`.
pub const SLOTS_MAX: u32 = 32 * 1024;

/// The part of the slots that slices may hold before bytes are kept on the heap instead, in percent.
pub const HELD_PERCENT_MAX: u32 = 75;

/// A worker's buffers. Cheap to clone; all clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool(Rc<Slots>);

impl Pool {
    /// Maps a pool of `slots` slots (brought between [`SLOTS_MIN`] and [`SLOTS_MAX`]).
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub fn new(slots: u32) -> io::Result<Self> {
        let count = slots.clamp(SLOTS_MIN, SLOTS_MAX);
        Ok(Self(Rc::new(Slots {
            region: Region::new(count as usize * SLOT_BYTES)?,
            refs: (0..count).map(|_| Cell::new(0)).collect(),
            free: RefCell::new((0..count).rev().collect()),
            held: Cell::new(0),
            held_max: count * HELD_PERCENT_MAX / 100,
            cursor: Cell::new(None),
            heap_fallbacks: Cell::new(0),
        })))
    }

    /// Number of slots.
    pub fn capacity(&self) -> u32 {
        self.0.refs.len() as u32
    }

    /// Slots that nobody has: neither a slice, nor a driver that receives into them.
    pub fn free(&self) -> u32 {
        self.0.free.borrow().len() as u32
    }

    /// Slots that slices (and the current slot of [`append`](Self::append)) hold.
    pub fn held(&self) -> u32 {
        self.0.held.get()
    }

    /// How often bytes went to the heap because slices held too many slots, or none was free.
    pub fn heap_fallbacks(&self) -> u64 {
        self.0.heap_fallbacks.get()
    }

    /// Copies `bytes` into the current slot. Consecutive calls yield adjacent slices, which
    /// [`Chunks::push`](crate::Chunks::push) merges.
    pub fn append(&self, bytes: &[u8]) -> Slice {
        self.append_with(bytes.len(), |room| room.copy_from_slice(bytes))
    }

    /// Lets `write` fill `len` bytes of the current slot. What `write` leaves alone has arbitrary earlier content.
    pub fn append_with(&self, len: usize, write: impl FnOnce(&mut [u8])) -> Slice {
        self.append_up_to(len, |room| {
            write(room);
            len
        })
    }

    /// Like [`append_with`](Self::append_with) when the length is not known before: `write` gets room for `len_max`
    /// bytes and returns how many it used.
    pub fn append_up_to(&self, len_max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Slice {
        if len_max == 0 {
            return Slice::empty();
        }
        let Some((slot, start)) = self.0.reserve(len_max) else {
            let mut bytes = vec![0; len_max];
            let used = write(&mut bytes).min(len_max);
            bytes.truncate(used);
            return Slice::from_vec(bytes);
        };
        let mut slice = Slice::pooled(self.clone(), slot, start, len_max);
        // SAFETY: `reserve` gave this range to nobody else and never does again while the slot is referenced, which
        // `slice` does; `write` cannot reach `slice`; the memory was zeroed by the kernel when it was mapped.
        let room = unsafe { std::slice::from_raw_parts_mut(self.0.address(slot).as_ptr().add(start), len_max) };
        let used = write(room).min(len_max);
        self.0.give_back(slot, start + len_max, start + used);
        slice.truncate(used);
        slice
    }

    /// A free slot to receive into.
    pub(crate) fn vacant(&self) -> Option<Vacant> {
        let slot = self.0.free.borrow_mut().pop()?;
        Some(Vacant { pool: Some(self.clone()), slot })
    }

    /// Makes the first `len` bytes of a slot that was received into readable: where they are, or on the heap when
    /// slices hold too many slots already.
    pub(crate) fn deliver(&self, vacant: Vacant, len: usize) -> Slice {
        if self.0.held.get() < self.0.held_max { vacant.into_slice(len) } else { self.deliver_to_heap(vacant, len) }
    }

    /// The same, always on the heap: for what nobody is going to consume soon.
    pub(crate) fn deliver_to_heap(&self, vacant: Vacant, len: usize) -> Slice {
        self.count_heap_fallback();
        Slice::from_vec(vacant.bytes()[..len].to_vec())
    }

    /// Receives at most a slot's worth: into a slot, or to the heap when none is free. No bytes: an empty slice.
    pub(crate) fn receive_with(&self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Slice> {
        match self.vacant() {
            Some(mut slot) => {
                let len = read(slot.bytes_mut())?;
                Ok(if len == 0 { Slice::empty() } else { self.deliver(slot, len) })
            }
            None => {
                self.count_heap_fallback();
                let mut bytes = vec![0; SLOT_BYTES];
                let len = read(&mut bytes)?;
                bytes.truncate(len);
                Ok(Slice::from_vec(bytes))
            }
        }
    }

    pub(crate) fn count_heap_fallback(&self) {
        let count = &self.0.heap_fallbacks;
        count.set(count.get() + 1);
    }

    pub(crate) fn same_as(&self, other: &Pool) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// One more slice of `slot`.
    pub(crate) fn retain(&self, slot: u32) {
        self.0.retain(slot);
    }

    /// One slice less of `slot`.
    pub(crate) fn release(&self, slot: u32) {
        self.0.release(slot);
    }

    /// The bytes of a range that the caller's slice references.
    ///
    /// # Safety
    /// A slice that covers the range exists for as long as the result is used: then nobody writes there.
    pub(crate) unsafe fn range(&self, slot: u32, start: usize, len: usize) -> &[u8] {
        assert!(start + len <= SLOT_BYTES);
        // SAFETY: inside the slot (asserted), inside the region (`address`), initialised (zeroed when mapped), and
        // not written to while referenced (promised by the caller).
        unsafe { std::slice::from_raw_parts(self.0.address(slot).as_ptr().add(start), len) }
    }
}

/// A slot that has one owner and no slice: to receive into. Free again when dropped.
#[derive(Debug)]
pub(crate) struct Vacant {
    /// `None` only while it is turned into a slice.
    pool: Option<Pool>,
    slot: u32,
}

impl Vacant {
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    /// Where the slot is, [`SLOT_BYTES`] long: for the kernel to write to while this value is kept.
    pub(crate) fn address(&self) -> NonNull<u8> {
        self.pool().0.address(self.slot)
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slot is inside the region, initialised (zeroed when mapped), and this value is its only owner,
        // borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address().as_ptr(), SLOT_BYTES) }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`, borrowed shared.
        unsafe { std::slice::from_raw_parts(self.address().as_ptr(), SLOT_BYTES) }
    }

    /// The first `len` bytes as a slice that owns the slot from now on.
    fn into_slice(mut self, len: usize) -> Slice {
        let pool = self.pool.take().expect("present until dropped");
        pool.0.retain(self.slot);
        Slice::pooled(pool, self.slot, 0, len)
    }

    fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("present until dropped")
    }
}

impl Drop for Vacant {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.0.free.borrow_mut().push(self.slot);
        }
    }
}

#[derive(Debug)]
struct Slots {
    region: Region,
    /// Slices of each slot, plus one for the current slot. 0: free, or vacant.
    refs: Box<[Cell<u32>]>,
    /// Last in, first out: the warmest slot is used first.
    free: RefCell<Vec<u32>>,
    /// Slots with `refs > 0`.
    held: Cell<u32>,
    held_max: u32,
    /// The current slot of `append` and its first unused byte.
    cursor: Cell<Option<(u32, usize)>>,
    heap_fallbacks: Cell<u64>,
}

impl Slots {
    /// Gives out `len` bytes of the current slot, or of a new one. The caller gets a reference to the slot with it.
    fn reserve(&self, len: usize) -> Option<(u32, usize)> {
        if len > SLOT_BYTES {
            return None;
        }
        if let Some((slot, used)) = self.cursor.get() {
            // Only the cursor's own reference is left: everything written there is gone, start over.
            let start = if self.refs[slot as usize].get() == 1 { 0 } else { used };
            if start + len <= SLOT_BYTES {
                self.cursor.set(Some((slot, start + len)));
                self.retain(slot);
                return Some((slot, start));
            }
            self.cursor.set(None);
            self.release(slot);
        }
        let free = if self.held.get() < self.held_max { self.free.borrow_mut().pop() } else { None };
        let Some(slot) = free else {
            self.heap_fallbacks.set(self.heap_fallbacks.get() + 1);
            return None;
        };
        self.retain(slot);
        self.retain(slot);
        self.cursor.set(Some((slot, len)));
        Some((slot, 0))
    }

    /// Takes back the unused end of a reservation, unless something was reserved behind it meanwhile.
    fn give_back(&self, slot: u32, reserved_end: usize, used_end: usize) {
        if self.cursor.get() == Some((slot, reserved_end)) {
            self.cursor.set(Some((slot, used_end)));
        }
    }

    fn retain(&self, slot: u32) {
        let refs = &self.refs[slot as usize];
        if refs.get() == 0 {
            self.held.set(self.held.get() + 1);
        }
        refs.set(refs.get().checked_add(1).expect("fewer than 2^32 slices of a slot"));
    }

    fn release(&self, slot: u32) {
        let refs = &self.refs[slot as usize];
        refs.set(refs.get().checked_sub(1).expect("every slice is released once"));
        if refs.get() == 0 {
            self.held.set(self.held.get() - 1);
            self.free.borrow_mut().push(slot);
        }
    }

    fn address(&self, slot: u32) -> NonNull<u8> {
        assert!((slot as usize) < self.refs.len());
        // SAFETY: the region is `refs.len() * SLOT_BYTES` long, and `slot` is less than `refs.len()` (asserted).
        unsafe { self.region.start.add(slot as usize * SLOT_BYTES) }
    }
}

/// An anonymous private mapping.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

impl Region {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody else's memory.
        // JUSTIFICATION: a Vec would do, but it touches (or zeroes) all of it at once on some allocators, and its
        // slots would not be aligned to pages.
        let start = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        Ok(Self { start: start.cast(), len })
    }

    /// The first byte, at the beginning of a page.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; every slice and every vacant slot keeps the region alive, so
        // nothing points into it any more. Failure would only leak it.
        let _ = unsafe { munmap(self.start.cast(), self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Chunk, Chunks};

    #[test]
    fn a_slot_is_free_again_when_its_last_slice_goes() {
        let pool = Pool::new(16).unwrap();
        let vacant = pool.vacant().unwrap();
        assert_eq!((pool.free(), pool.held()), (15, 0));
        let first = pool.deliver(vacant, 100);
        let second = first.clone();
        assert_eq!((pool.free(), pool.held()), (15, 1));
        drop(first);
        assert_eq!((pool.free(), pool.held()), (15, 1));
        drop(second);
        assert_eq!((pool.free(), pool.held()), (16, 0));
    }

    #[test]
    fn a_vacant_slot_that_is_dropped_is_free_and_used_first() {
        let pool = Pool::new(16).unwrap();
        let vacant = pool.vacant().unwrap();
        let slot = vacant.slot();
        drop(vacant);
        assert_eq!(pool.free(), 16);
        assert_eq!(pool.vacant().unwrap().slot(), slot);
    }

    #[test]
    fn appended_slices_keep_their_bytes_and_share_a_slot() {
        let pool = Pool::new(16).unwrap();
        let slices: Vec<Slice> = (0..100u8).map(|i| pool.append(&[i; 50])).collect();
        assert_eq!(pool.held(), 1);
        for (i, slice) in slices.iter().enumerate() {
            assert_eq!(slice.as_slice(), &[i as u8; 50]);
        }
    }

    #[test]
    fn in_steady_state_one_slot_is_enough_and_nothing_goes_to_the_heap() {
        let pool = Pool::new(16).unwrap();
        for i in 0..10_000u32 {
            let head = pool.append(&i.to_le_bytes());
            assert!(head.is_pooled());
            assert_eq!(head.as_slice(), i.to_le_bytes());
        }
        assert_eq!(pool.held(), 1);
        assert_eq!(pool.heap_fallbacks(), 0);
    }

    #[test]
    fn unused_room_is_given_back_so_that_slices_stay_adjacent() {
        let pool = Pool::new(16).unwrap();
        let mut chunks = Chunks::new();
        for _ in 0..3 {
            chunks.push(pool.append_up_to(4000, |room| {
                room[..10].copy_from_slice(b"0123456789");
                10
            }));
        }
        assert_eq!(chunks.len_bytes(), 30);
        assert_eq!(chunks.iter().count(), 1);
        let Some(Chunk::Private(slice)) = chunks.iter().next() else {
            panic!("one private chunk");
        };
        assert_eq!(slice.as_slice(), b"012345678901234567890123456789");
    }

    #[test]
    fn an_append_inside_an_append_gets_its_own_range() {
        let pool = Pool::new(16).unwrap();
        let mut inner = Slice::empty();
        let outer = pool.append_up_to(100, |room| {
            inner = pool.append(b"inner");
            room[..5].copy_from_slice(b"outer");
            5
        });
        let third = pool.append(b"third");
        assert_eq!(outer.as_slice(), b"outer");
        assert_eq!(inner.as_slice(), b"inner");
        assert_eq!(third.as_slice(), b"third");
    }

    #[test]
    fn what_is_too_long_for_a_slot_goes_to_the_heap() {
        let pool = Pool::new(16).unwrap();
        assert!(pool.append(&[7; SLOT_BYTES]).is_pooled());
        let long = pool.append(&[7; SLOT_BYTES + 1]);
        assert!(!long.is_pooled());
        assert_eq!(long.as_slice(), &[7; SLOT_BYTES + 1]);
    }

    #[test]
    fn held_slices_never_take_the_last_quarter() {
        let pool = Pool::new(16).unwrap();
        let mut held = Vec::new();
        for i in 0..100u8 {
            let mut vacant = pool.vacant().expect("a slot to receive into is always there");
            vacant.bytes_mut()[..3].copy_from_slice(&[i; 3]);
            held.push(pool.deliver(vacant, 3));
            held.push(pool.append(&[i; 9000]));
        }
        assert_eq!(pool.held(), 12);
        assert_eq!(pool.free(), 4);
        assert!(pool.heap_fallbacks() > 0);
        for (i, pair) in held.chunks(2).enumerate() {
            assert_eq!(pair[0].as_slice(), &[i as u8; 3]);
            assert_eq!(pair[1].as_slice(), &[i as u8; 9000]);
        }
        drop(held);
        assert_eq!(pool.free() + pool.held(), 16);
    }

    #[test]
    fn slices_outlive_the_pool_handle() {
        let pool = Pool::new(16).unwrap();
        let slice = pool.append(b"still here");
        drop(pool);
        assert_eq!(slice.as_slice(), b"still here");
    }
}
