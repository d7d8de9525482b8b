//! Rings of records: docs/spec/shm-v1.md §2 and §3. Each index is written by one side and known privately there; what is
//! read of the peer's indices is checked before anything is done with it.

use std::sync::Arc;

use crate::geometry::{CONSUMED, Geometry, HEADER_BYTES, PUBLISHED};
use crate::record::{Entry, Header};
use crate::region::Mapping;
use crate::violation::Violation;

/// The side that puts records: its ring lies in the segment that it writes.
pub(crate) struct Producer {
    mine: Arc<Mapping>,
    theirs: Arc<Mapping>,
    lane_at: usize,
    ring_at: usize,
    stride: usize,
    entries: u64,
    pub put: u64,
    /// Offset in the segment of the entry that is put next.
    next_at: usize,
    visible: u64,
    /// The peer's `consumed` as last seen.
    pub consumed: u64,
}

impl Producer {
    pub fn new(mine: &Arc<Mapping>, theirs: &Arc<Mapping>, geometry: &Geometry, lane_at: usize) -> Producer {
        Producer {
            mine: mine.clone(),
            theirs: theirs.clone(),
            lane_at,
            ring_at: lane_at + geometry.ring_at(),
            stride: geometry.stride as usize,
            entries: u64::from(geometry.entries),
            put: 0,
            next_at: lane_at + geometry.ring_at(),
            visible: 0,
            consumed: 0,
        }
    }

    /// Goes on where another process stopped, which had made all of it visible.
    pub fn go_on(&mut self, put: u64, consumed: u64) {
        (self.put, self.visible, self.consumed) = (put, put, consumed);
        self.next_at = self.ring_at + (put & (self.entries - 1)) as usize * self.stride;
    }

    /// Entries that can be put now. Looks at the peer's index only when the last look leaves none.
    #[inline(always)]
    pub fn room(&mut self) -> Result<u32, Violation> {
        if self.put - self.consumed == self.entries {
            self.refresh()?;
        }
        Ok((self.entries - (self.put - self.consumed)) as u32)
    }

    /// Records that the peer has not consumed, as of now.
    pub fn unconsumed(&mut self) -> Result<u32, Violation> {
        self.refresh()?;
        Ok((self.put - self.consumed) as u32)
    }

    /// Whether the peer consumed something since the last look; one Relaxed load.
    pub fn is_moved(&self) -> bool {
        self.theirs.load(self.lane_at + CONSUMED) != self.consumed
    }

    /// Offset in the segment of the next entry's inline space. There is room.
    #[inline]
    pub fn inline_at(&self) -> usize {
        self.next_at + HEADER_BYTES as usize
    }

    /// Writes the next entry's header; seen by the peer after `publish`. There is room.
    #[inline]
    pub fn put(&mut self, header: &Header, length: u32, block: u32) {
        self.mine.store_words(self.next_at, header.encode(length, block));
        self.put += 1;
        self.next_at = self.ring_at + (self.put & (self.entries - 1)) as usize * self.stride;
    }

    /// Whether something was put that is not visible yet.
    pub fn has_unpublished(&self) -> bool {
        self.put != self.visible
    }

    /// Makes what was put visible. True if there was something.
    pub fn publish(&mut self) -> bool {
        if self.put == self.visible {
            return false;
        }
        self.visible = self.put;
        // Release: pairs with the Acquire load in `Consumer::next`, which then reads the entries and payloads.
        self.mine.store_release(self.lane_at + PUBLISHED, self.put); // model: published
        true
    }

    #[inline(never)]
    fn refresh(&mut self) -> Result<(), Violation> {
        // Acquire: pairs with the Release store in `Consumer::publish`, so that the peer's reads of an entry
        // happened before it is written again.
        let consumed = self.theirs.load_acquire(self.lane_at + CONSUMED); // model: consumed-seen
        if consumed.wrapping_sub(self.consumed) > self.visible - self.consumed {
            return Err(Violation::Consumed);
        }
        self.consumed = consumed;
        Ok(())
    }
}

/// The side that takes records: the ring lies in the peer's segment, `consumed` in its own.
pub(crate) struct Consumer {
    mine: Arc<Mapping>,
    theirs: Arc<Mapping>,
    lane_at: usize,
    ring_at: usize,
    geometry: Geometry,
    from_app: bool,
    taken: u64,
    /// Offset in the segment of the entry that is taken next.
    next_at: usize,
    visible: u64,
    /// The peer's `published` as last seen.
    published: u64,
}

impl Consumer {
    pub fn new(
        mine: &Arc<Mapping>,
        theirs: &Arc<Mapping>,
        geometry: &Geometry,
        lane_at: usize,
        from_app: bool,
    ) -> Consumer {
        Consumer {
            mine: mine.clone(),
            theirs: theirs.clone(),
            lane_at,
            ring_at: lane_at + geometry.ring_at(),
            geometry: *geometry,
            from_app,
            taken: 0,
            next_at: lane_at + geometry.ring_at(),
            visible: 0,
            published: 0,
        }
    }

    /// Goes on where another process stopped, which had told of all that it took.
    pub fn go_on(&mut self, taken: u64) {
        (self.taken, self.visible, self.published) = (taken, taken, taken);
        self.next_at = self.place_of(taken);
    }

    /// Whether the peer was not told of everything that was taken.
    pub fn has_untold(&self) -> bool {
        self.taken != self.visible
    }

    /// The next entry, copied once and validated; false if there is none.
    #[inline]
    pub fn next(&mut self, entry: &mut Entry) -> Result<bool, Violation> {
        if self.taken == self.published && !self.refresh()? {
            return Ok(false);
        }
        entry.decode(self.theirs.load_words(self.next_at), &self.geometry, self.from_app)?;
        Ok(true)
    }

    /// Whether there are records; one Relaxed load at most.
    pub fn has_more(&self) -> bool {
        self.taken != self.published || self.theirs.load(self.lane_at + PUBLISHED) != self.taken
    }

    /// Offset in the peer's segment of the current entry's inline space.
    #[inline]
    pub fn inline_at(&self) -> usize {
        self.next_at + HEADER_BYTES as usize
    }

    /// Goes on to the next entry; seen by the peer after `publish`.
    #[inline]
    pub fn advance(&mut self) {
        self.taken += 1;
        self.next_at = self.place_of(self.taken);
    }

    #[inline]
    fn place_of(&self, record: u64) -> usize {
        let index = record & (u64::from(self.geometry.entries) - 1);
        self.ring_at + index as usize * self.geometry.stride as usize
    }

    /// Records taken since attach.
    #[inline]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Of these, the records whose places the peer may use again.
    #[inline]
    pub fn given_back(&self) -> u64 {
        self.visible
    }

    /// Makes what was taken visible. True if there was something.
    pub fn publish(&mut self) -> bool {
        if self.taken == self.visible {
            return false;
        }
        self.visible = self.taken;
        // Release: pairs with the Acquire load in `Producer::refresh`: the entries were read before they are reused.
        self.mine.store_release(self.lane_at + CONSUMED, self.taken); // model: consumed
        true
    }

    #[inline(never)]
    fn refresh(&mut self) -> Result<bool, Violation> {
        // Acquire: pairs with the Release store in `Producer::publish`.
        let published = self.theirs.load_acquire(self.lane_at + PUBLISHED); // model: published-seen
        // Measured from what this side made visible: the peer may not use an entry before it was told that it is free.
        if published.wrapping_sub(self.visible) > u64::from(self.geometry.entries) || published < self.taken {
            return Err(Violation::Published);
        }
        self.published = published;
        Ok(published != self.taken)
    }
}
