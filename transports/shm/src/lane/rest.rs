//! A lane between two processes of the sidecar: what one of them knew privately, so that another goes on as if it had been there from
//! the start. Nothing of it is read back from the segments.

use std::sync::Arc;

use super::{BlockLease, LaneEnd, Violation};

/// What a side knew of its lane when it stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneRest {
    /// Records put into this side's ring, all of them published.
    pub put: u64,
    /// Of these, the ones that the peer had consumed, as last seen.
    pub consumed: u64,
    /// Records taken from the peer's ring, all of them told.
    pub taken: u64,
    /// Blocks of the peer that were given back.
    pub released: u64,
    /// Blocks of this side that were taken back.
    pub reclaimed: u64,
    /// Blocks of this side's arena that the peer has: offset and bytes, in any order.
    pub lent: Vec<(u32, u32)>,
}

/// Why a lane cannot go on from what it is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    #[error("a ring of {entries} entries has {records} records in it")]
    Ring { entries: u32, records: u64 },
    #[error("the arena has no block of {bytes} bytes at {offset}, or not beside the others")]
    Block { offset: u32, bytes: u32 },
}

impl LaneEnd {
    /// Takes back what the peer has given back, for the last time, and says what it did against the page, if anything.
    pub fn violation_at_rest(&mut self) -> Option<Violation> {
        self.take_back();
        self.broken
    }

    /// What another process needs to go on with this lane. Nothing while something is not published, or after the peer broke the page.
    /// A block that was opened and neither put nor dropped counts as lent. Leases go with [`LaneEnd::whereabouts`].
    pub fn rest(&mut self) -> Option<LaneRest> {
        self.take_back();
        let told = !self.producer.has_unpublished() && !self.consumer.has_untold() && !self.releases.has_untold();
        if !told || self.returns.is_any() || self.broken.is_some() {
            return None;
        }
        Some(LaneRest {
            put: self.producer.put,
            consumed: self.producer.consumed,
            taken: self.consumer.taken(),
            released: self.releases.put,
            reclaimed: self.reclaim.taken,
            lent: self.arena.lent_blocks(),
        })
    }

    /// Has the memory of its rings mapped before it is needed: the first look at a page costs a fault, and a look maps what there is around it.
    pub fn touch(&self) {
        for segment in [&self.mine, &self.theirs] {
            std::hint::black_box(segment.load_u32(self.lane_at));
        }
    }

    /// Goes on where another process stopped. This end was just made; after an error it is to be dropped.
    pub fn go_on(&mut self, rest: &LaneRest) -> Result<(), Implausible> {
        let (entries, records) = (self.geometry.entries, rest.put.wrapping_sub(rest.consumed));
        if records > u64::from(entries) {
            return Err(Implausible::Ring { entries, records });
        }
        self.arena.lend_again(&rest.lent).map_err(|(offset, bytes)| Implausible::Block { offset, bytes })?;
        self.producer.go_on(rest.put, rest.consumed);
        self.consumer.go_on(rest.taken);
        self.releases.go_on(rest.released);
        self.reclaim.taken = rest.reclaimed;
        Ok(())
    }

    /// Which block of the peer a lease of this lane is of, and where in the block its payload begins. Nothing for a lease of another lane.
    pub fn whereabouts(&self, lease: &BlockLease) -> Option<(u32, u32)> {
        if !Arc::ptr_eq(&lease.returns, &self.returns) {
            return None;
        }
        let from = lease.at.checked_sub(self.arena_at() + lease.block as usize)?;
        Some((lease.block, u32::try_from(from).ok()?))
    }

    /// Has a block of the peer again that a lane before this one kept: `len` bytes from `from` on. Once for each block; nothing if it
    /// is not within the arena.
    pub fn lease_again(&mut self, block: u32, from: u32, len: u32) -> Option<BlockLease> {
        let end = u64::from(block) + u64::from(from) + u64::from(len);
        let within = from <= self.geometry.block_max && end <= u64::from(self.geometry.arena_bytes);
        within.then(|| BlockLease {
            segment: self.theirs.clone(),
            at: self.arena_at() + block as usize + from as usize,
            len,
            block,
            returns: self.returns.clone(),
        })
    }
}
