//! Release rings: how a reader gives blocks back. docs/spec/shm-v1.md §4.

use std::sync::Arc;

use crate::arena::Arena;
use crate::geometry::{Geometry, RELEASED, RELEASES_AT};
use crate::region::Mapping;
use crate::violation::Violation;

/// The giving side: lies in the segment that this side writes.
pub(crate) struct Releases {
    mine: Arc<Mapping>,
    lane_at: usize,
    mask: u64,
    pub put: u64,
    visible: u64,
}

impl Releases {
    pub fn new(mine: &Arc<Mapping>, geometry: &Geometry, lane_at: usize) -> Releases {
        let mask = u64::from(geometry.release_entries()) - 1;
        Releases { mine: mine.clone(), lane_at, mask, put: 0, visible: 0 }
    }

    /// Goes on where another process stopped, which had made all of it visible.
    pub fn go_on(&mut self, put: u64) {
        (self.put, self.visible) = (put, put);
    }

    /// Whether the peer was not told of everything that was put.
    pub fn has_untold(&self) -> bool {
        self.put != self.visible
    }

    /// Puts a block's offset into the ring; seen by the peer after `publish`. Cannot overflow while the peer is honest
    /// (an entry for every block); a peer that lends a block twice overwrites what it would have read.
    pub fn put(&mut self, block: u32) {
        self.mine.store_u32(entry(self.lane_at, self.put & self.mask), block);
        self.put += 1;
    }

    /// Makes what was put visible. True if there was something.
    pub fn publish(&mut self) -> bool {
        if self.put == self.visible {
            return false;
        }
        self.visible = self.put;
        // Release: pairs with the Acquire load in `Reclaim::collect_into`, which then reads the offsets, and behind which the
        // blocks are written again.
        self.mine.store_release(self.lane_at + RELEASED, self.put); // model: released
        true
    }
}

/// The receiving side: reads the peer's release ring into the arena.
pub(crate) struct Reclaim {
    theirs: Arc<Mapping>,
    lane_at: usize,
    entries: u64,
    pub taken: u64,
}

impl Reclaim {
    pub fn new(theirs: &Arc<Mapping>, geometry: &Geometry, lane_at: usize) -> Reclaim {
        let entries = u64::from(geometry.release_entries());
        Reclaim { theirs: theirs.clone(), lane_at, entries, taken: 0 }
    }

    /// Whether the peer gave something back since the last time; one Relaxed load.
    pub fn is_due(&self) -> bool {
        self.theirs.load(self.lane_at + RELEASED) != self.taken
    }

    /// Takes back everything that the peer gave back; `freed` is told of each block, its offset and its bytes.
    pub fn collect_into(&mut self, arena: &mut Arena, mut freed: impl FnMut(u32, u32)) -> Result<(), Violation> {
        // Acquire: pairs with the Release store in `Releases::publish`: the offsets are there, and the peer's reads of the blocks
        // happened before they are written again.
        let released = self.theirs.load_acquire(self.lane_at + RELEASED); // model: released-seen
        if released.wrapping_sub(self.taken) > self.entries {
            return Err(Violation::Released);
        }
        while self.taken != released {
            let at = entry(self.lane_at, self.taken & (self.entries - 1));
            let block = self.theirs.load_u32(at);
            let bytes = arena.free(block).map_err(|_| Violation::ReleasedBlock)?;
            freed(block, bytes);
            self.taken += 1;
        }
        Ok(())
    }
}

fn entry(lane_at: usize, index: u64) -> usize {
    lane_at + RELEASES_AT + 4 * index as usize
}
