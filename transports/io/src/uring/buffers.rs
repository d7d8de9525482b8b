//! The provided-buffer ring: slots of the pool that the kernel receives into.
//!
//! A slot is lent by writing its address and number into the ring, and comes back with the completion that names it.
//! While it is lent, its [`Vacant`] is kept here, so nobody else can have it.
//!
//! No incremental consumption and no bundles: one receive, one slot.

use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::pool::{Pool, Region, SLOT_BYTES, Vacant};

/// The group's name in the ring; there is only one.
pub(super) const GROUP: u16 = 0;

/// Most slots that are lent at a time. More would let more sockets receive in one turn before some of them have to ask
/// again, and take more memory: the kernel uses lent slots in turn, so all of them get touched.
const LENT_MAX: u32 = 128;

/// Must not be dropped while an operation of the ring may use a buffer.
pub(super) struct Buffers {
    /// Entries of 16 bytes; the tail lies in the last two bytes of the first one.
    memory: Region,
    entries: u16,
    /// Counts what was ever lent, wrapping: the kernel takes it modulo `entries`.
    tail: u16,
    /// By slot number.
    lent: Box<[Option<Vacant>]>,
    lent_count: u16,
    pool: Pool,
}

impl Buffers {
    /// Registers a ring for at most half of the pool's slots.
    pub(super) fn register(ring: &IoUring, pool: &Pool) -> io::Result<Self> {
        let half = (pool.capacity() / 2).min(LENT_MAX);
        // A power of two, by the kernel's rule.
        let entries = 1u16 << half.ilog2();
        let memory = Region::new(usize::from(entries) * size_of::<BufRingEntry>())?;
        let address = memory.start().as_ptr() as u64;
        // SAFETY: page-aligned, long enough for `entries`, and kept until the ring is gone (by the owner's contract).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, entries, GROUP, 0)?;
        }
        Ok(Self {
            memory,
            entries,
            tail: 0,
            lent: (0..pool.capacity()).map(|_| None).collect(),
            lent_count: 0,
            pool: pool.clone(),
        })
    }

    /// Lends free slots until the ring is full or the pool is empty.
    pub(super) fn refill(&mut self) {
        if self.lent_count == self.entries {
            return;
        }
        while self.lent_count < self.entries {
            let Some(vacant) = self.pool.vacant() else {
                break;
            };
            self.write(&vacant);
            let slot = vacant.slot() as usize;
            debug_assert!(self.lent[slot].is_none());
            self.lent[slot] = Some(vacant);
            self.lent_count += 1;
        }
        let base: *const BufRingEntry = self.memory.start().as_ptr().cast_const().cast();
        // SAFETY: `base` is the first entry of the registered ring; the tail in it is aligned to two bytes and is only
        // accessed as an atomic here.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        // Release: pairs with the kernel's acquire load of the tail; else it could read entries before they are written.
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes back the slot that a completion names.
    pub(super) fn take(&mut self, slot: u16) -> Option<Vacant> {
        let vacant = self.lent.get_mut(usize::from(slot))?.take();
        if vacant.is_some() {
            self.lent_count -= 1;
        }
        vacant
    }

    /// Whether the kernel has a slot to receive into.
    pub(super) fn any_lent(&self) -> bool {
        self.lent_count > 0
    }

    /// Writes the entry at the tail, which the kernel does not read before the tail moves past it.
    fn write(&mut self, vacant: &Vacant) {
        let at = usize::from(self.tail & (self.entries - 1));
        let base: *mut BufRingEntry = self.memory.start().as_ptr().cast();
        // SAFETY: `at` is less than `entries`, so inside the memory; zeroed memory is a valid entry; the kernel does not
        // look at it now: at most `entries` are lent, so this one was consumed. The setters leave the tail alone.
        let entry = unsafe { &mut *base.add(at) };
        entry.set_addr(vacant.address().as_ptr() as u64);
        entry.set_len(SLOT_BYTES as u32);
        // Fits: a pool has at most 2^15 slots.
        entry.set_bid(vacant.slot() as u16);
        self.tail = self.tail.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_pool_is_lent_and_comes_back() {
        let Ok(ring) = IoUring::new(8) else {
            eprintln!("SKIPPED, nothing checked: no io_uring here");
            return;
        };
        let pool = Pool::new(40).unwrap();
        let mut buffers = Buffers::register(&ring, &pool).unwrap();
        buffers.refill();
        assert_eq!((buffers.entries, pool.free()), (16, 24));
        // As if the kernel had used them, more often than the tail's 16 bits count.
        for turn in 0..70_000u32 {
            let slot = buffers.lent.iter().position(Option::is_some).expect("lent");
            let vacant = buffers.take(slot as u16).unwrap();
            assert!(buffers.take(slot as u16).is_none());
            drop(vacant);
            buffers.refill();
            assert_eq!(u32::from(buffers.tail), (turn + 17) & 0xFFFF);
        }
        assert_eq!(buffers.take(u16::MAX).map(|v| v.slot()), None);
        drop(ring);
        drop(buffers);
        assert_eq!(pool.free(), 40);
    }
}
