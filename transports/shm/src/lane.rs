//! One side of one lane: both rings, both arenas, the flags. What engine and shim talk through.

mod open_block;
mod rest;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering as StdOrdering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::arena::Arena;
use crate::atomics::{Ordering, fence};
use crate::call_words::CallState;
use crate::geometry::{Geometry, PARKED, SIGN_OF_LIFE, SLOT_WORDS, WITHDRAWN};
use crate::record::{Entry, Header, INLINE};
use crate::region::Mapping;
use crate::release::{Reclaim, Releases};
use crate::ring::{Consumer, Producer};
use crate::violation::Violation;
pub use open_block::OpenBlock;
pub use rest::{Implausible, LaneRest};

/// `parked`: asleep until there are records.
const FOR_RECORDS: u64 = 1;
/// `parked`: waits for room.
const FOR_ROOM: u64 = 2;

/// Which process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    App,
    Sidecar,
}

/// Why a record could not be put. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error("the ring is full")]
    Ring,
    #[error("the arena has no block of this size now")]
    Arena,
    #[error("the payload is longer than the largest block")]
    TooLong,
}

/// A piece of a payload that is put.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    Bytes(&'a [u8]),
    /// Bytes of a block of another lane, moved without being looked at. A range outside of the block is cut to it.
    Block(&'a BlockLease, u32, u32),
}

/// Payload of a record that was peeked, and may be consumed since: its bytes stay where they are until the lane's next
/// [`LaneEnd::publish`], which tells the peer that it may write there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPlace {
    at: usize,
    len: u32,
    block: u32,
    record: u64,
}

impl InPlace {
    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// One side of one lane. It has one owner at a time; all its truth is private, and what the peer wrote is validated.
pub struct LaneEnd {
    side: Side,
    geometry: Geometry,
    mine: Arc<Mapping>,
    theirs: Arc<Mapping>,
    lane_at: usize,
    producer: Producer,
    consumer: Consumer,
    arena: Arena,
    releases: Releases,
    reclaim: Reclaim,
    returns: Arc<Returns>,
    /// Blocks of this side that were opened and not put.
    unused: Arc<Returns>,
    /// Means something while `is_peeked`, as does `payload_at`.
    peeked: Entry,
    is_peeked: bool,
    /// Offset in the peer's segment of the peeked record's payload.
    payload_at: usize,
    broken: Option<Violation>,
    /// Sidecar: the sign of life that was given last.
    told: u64,
}

impl LaneEnd {
    /// One side of lane `lane`. The mappings cover the lane, and the segment of `side` is mapped to write.
    ///
    /// # Panics
    /// When the mapping of this side's own segment is read-only.
    pub fn new(side: Side, to_proxy: &Arc<Mapping>, to_app: &Arc<Mapping>, geometry: &Geometry, lane: u16) -> LaneEnd {
        let (mine, theirs) = match side {
            Side::App => (to_proxy, to_app),
            Side::Sidecar => (to_app, to_proxy),
        };
        assert!(mine.is_writable(), "a side writes its own segment");
        let lane_at = geometry.lane_at(lane);
        LaneEnd {
            side,
            geometry: *geometry,
            mine: mine.clone(),
            theirs: theirs.clone(),
            lane_at,
            producer: Producer::new(mine, theirs, geometry, lane_at),
            consumer: Consumer::new(mine, theirs, geometry, lane_at, side == Side::Sidecar),
            arena: Arena::new(geometry),
            releases: Releases::new(mine, geometry, lane_at),
            reclaim: Reclaim::new(theirs, geometry, lane_at),
            returns: Arc::default(),
            unused: Arc::default(),
            peeked: Entry::NONE,
            is_peeked: false,
            payload_at: 0,
            broken: None,
            told: 0,
        }
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The next record: its header, copied once and validated. Does not advance. When there is none this costs one
    /// load. An error says that the peer broke the page; the session is over then.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Header>, Violation> {
        if !self.is_peeked {
            if let Some(violation) = self.broken {
                return Err(violation);
            }
            match self.consumer.next(&mut self.peeked) {
                Ok(false) => return Ok(None),
                Ok(true) => {
                    #[cfg(shmesh_sim)]
                    crate::host::note(|| format!("lane {:#x} takes {:?}", self.lane_at, self.peeked.header));
                    self.is_peeked = true;
                    self.payload_at = match self.peeked.block {
                        INLINE => self.consumer.inline_at(),
                        block => self.arena_at() + block as usize,
                    };
                }
                Err(violation) => {
                    self.broken = Some(violation);
                    return Err(violation);
                }
            }
        }
        Ok(Some(self.peeked.header))
    }

    #[inline]
    fn peeked(&self) -> Option<&Entry> {
        self.is_peeked.then_some(&self.peeked)
    }

    /// Copies bytes `from .. from + dst.len()` of the peeked record's payload. What is in `dst` afterwards is private.
    /// Refuses a range that is not in the payload, and any range when nothing was peeked.
    pub fn read_payload(&self, from: u32, dst: &mut [u8]) -> Result<(), Violation> {
        let entry = self.peeked().ok_or(Violation::PayloadRange)?;
        let end = u64::from(from) + dst.len() as u64;
        if end > u64::from(entry.header.length) {
            return Err(Violation::PayloadRange);
        }
        self.theirs.read_bytes(self.payload_at + from as usize, dst);
        Ok(())
    }

    /// Appends a range of the peeked record's payload to `out`; as [`LaneEnd::read_payload`].
    pub fn append_payload(&self, range: Range<u32>, out: &mut Vec<u8>) -> Result<(), Violation> {
        let entry = self.peeked().ok_or(Violation::PayloadRange)?;
        let len = range.end.checked_sub(range.start).ok_or(Violation::PayloadRange)?;
        if range.end > entry.header.length {
            return Err(Violation::PayloadRange);
        }
        self.theirs.append_bytes(self.payload_at + range.start as usize, len as usize, out);
        Ok(())
    }

    /// Where the peeked record's payload lies from byte `from` on. Nothing when no record was peeked or it has no such byte.
    #[inline(always)]
    pub fn place(&self, from: u32) -> Option<InPlace> {
        let entry = self.peeked()?;
        let len = entry.header.length.checked_sub(from)?;
        let at = self.payload_at + from as usize;
        Some(InPlace { at, len, block: entry.block, record: self.consumer.taken() })
    }

    /// Where the rest of the peeked record's payload lies if it begins with `head`, 8 bytes or more, of which nothing is read
    /// a second time.
    #[inline(always)]
    pub fn place_behind(&self, head: &[u8]) -> Option<InPlace> {
        let place = self.place(u32::try_from(head.len()).ok()?)?;
        self.theirs.holds(self.payload_at, head).then_some(place)
    }

    /// Consumes the peeked record and leaves its payload, from byte `from` on, in place. To be followed by
    /// [`LaneEnd::give_back`] or [`LaneEnd::keep`] before the next publish, or its block is lost until the session ends.
    #[inline(always)]
    pub fn advance_in_place(&mut self, from: u32) -> Option<InPlace> {
        let place = self.place(from)?;
        self.is_peeked = false;
        self.consumer.advance();
        Some(place)
    }

    /// The payload is not needed any more.
    #[inline]
    pub fn give_back(&mut self, place: InPlace) {
        if place.block != INLINE {
            self.releases.put(place.block);
        }
    }

    /// Keeps the block, to be sent from where it lies. Nothing for an inline payload.
    pub fn keep(&mut self, place: InPlace) -> Option<BlockLease> {
        (place.block != INLINE).then(|| BlockLease {
            segment: self.theirs.clone(),
            at: place.at,
            len: place.len,
            block: place.block,
            returns: self.returns.clone(),
        })
    }

    /// Copies payload that lies in place; false when `dst` is longer, or the record was given back to the peer.
    #[must_use]
    pub fn read_in_place(&self, place: &InPlace, dst: &mut [u8]) -> bool {
        let readable = self.is_in_place(place) && dst.len() <= place.len();
        if readable {
            self.theirs.read_bytes(place.at, dst);
        }
        readable
    }

    /// Whether the payload is still there.
    #[inline]
    fn is_in_place(&self, place: &InPlace) -> bool {
        place.record >= self.consumer.given_back()
    }

    /// Consumes the peeked record. An inline payload is gone then, a block is given back; the peer learns of both by
    /// [`LaneEnd::publish`]. Nothing happens when nothing was peeked.
    #[inline]
    pub fn advance(&mut self) {
        if self.is_peeked {
            self.is_peeked = false;
            if self.peeked.block != INLINE {
                self.releases.put(self.peeked.block);
            }
            self.consumer.advance();
        }
    }

    /// Consumes the peeked record but keeps its block, to be sent from where it lies. Nothing for an inline payload, which
    /// is then left unconsumed.
    pub fn advance_keep(&mut self) -> Option<BlockLease> {
        let entry = self.peeked().filter(|entry| entry.block != INLINE)?;
        let lease = BlockLease {
            segment: self.theirs.clone(),
            at: self.payload_at,
            len: entry.header.length,
            block: entry.block,
            returns: self.returns.clone(),
        };
        self.is_peeked = false;
        self.consumer.advance();
        Some(lease)
    }

    /// Whether the peeked record's payload lies in a block (and [`LaneEnd::advance_keep`] can keep it).
    pub fn is_in_block(&self) -> bool {
        self.peeked().is_some_and(|entry| entry.block != INLINE)
    }

    /// Puts a record whose payload is `parts` one after the other: inline if it fits, else in one block.
    /// `header.length` is set from them. The peer sees it after [`LaneEnd::publish`].
    pub fn put(&mut self, header: &Header, parts: &[&[u8]]) -> Result<(), NoRoom> {
        self.put_each(header, parts.iter().map(|bytes| Part::Bytes(bytes)))
    }

    /// As [`LaneEnd::put`], with parts that may lie in a block of another lane.
    pub fn put_parts(&mut self, header: &Header, parts: &[Part<'_>]) -> Result<(), NoRoom> {
        self.put_each(header, parts.iter().copied())
    }

    /// Puts a record whose payload is `head`, then what lies in place on another lane. The latter is moved without being looked
    /// at.
    ///
    /// # Panics
    /// When the payload was given back to its peer already.
    #[inline(always)]
    pub fn put_moved(&mut self, header: &Header, head: &[u8], from: &LaneEnd, place: InPlace) -> Result<(), NoRoom> {
        assert!(from.is_in_place(&place), "payload that was given back");
        let length = head.len() as u64 + u64::from(place.len);
        let (at, block) = self.reserve(length)?;
        self.mine.write_before(at, head, &from.theirs, place.at, place.len());
        #[cfg(shmesh_sim)]
        crate::host::note(|| format!("lane {:#x} puts {length} bytes, {header:?}", self.lane_at));
        self.producer.put(header, length as u32, block);
        Ok(())
    }

    /// Bytes that one block could take now, after taking back what the peer released; 0 when everything is lent.
    /// [`Geometry::inline_max`] bytes always fit into a record itself.
    pub fn largest_part(&mut self) -> u32 {
        self.take_back();
        self.arena.largest()
    }

    /// Records that can be put now.
    #[inline(always)]
    pub fn room(&mut self) -> u32 {
        self.producer.room().unwrap_or_else(|violation| {
            self.broken = Some(violation);
            0
        })
    }

    /// What the peer did against the page, if this side has noticed something: the session is over then.
    pub fn violation(&self) -> Option<Violation> {
        self.broken
    }

    /// Whether records were put that the peer cannot see yet.
    pub fn has_unpublished(&self) -> bool {
        self.producer.has_unpublished()
    }

    /// Makes puts, consumption and releases visible. True if the peer sleeps for one of them and must be rung.
    pub fn publish(&mut self) -> bool {
        let releases = &mut self.releases;
        self.returns.drain(|block| releases.put(block));
        let put = self.producer.publish();
        let taken = self.consumer.publish();
        let given_back = self.releases.publish();
        let mut moved = 0;
        if put {
            moved |= FOR_RECORDS;
        }
        if taken || given_back {
            moved |= FOR_ROOM;
        }
        if moved == 0 {
            return false;
        }
        // SeqCst: pairs with the fence in `park`. Either the peer's second look sees what was stored above, or the
        // load below sees its `parked`; without it both could miss, and the peer would sleep for ever.
        fence(Ordering::SeqCst); // model: publish
        let rings = self.theirs.load(self.lane_at + PARKED) & moved != 0;
        #[cfg(shmesh_sim)]
        crate::host::note(|| format!("lane {:#x} publishes {moved:b}, rings {rings}", self.lane_at));
        rings
    }

    /// Announces sleep until there are records, and with `for_room` also until the peer consumed or released something since
    /// the last failed [`LaneEnd::put`]. True = nothing came meanwhile, sleep; false = look again, no longer parked.
    /// Park for room directly after the `put` that failed: whatever looks at the room in between (another `put`,
    /// `largest_part`, `unconsumed` …) takes the news that this looks for.
    pub fn park(&mut self, for_room: bool) -> bool {
        let sleep = self.announce(for_room);
        if !sleep {
            self.unpark();
        }
        sleep
    }

    /// As [`LaneEnd::park`], but stays parked even when something came: for a thread that looks while another one sleeps.
    pub fn announce(&mut self, for_room: bool) -> bool {
        let bits = if for_room { FOR_RECORDS | FOR_ROOM } else { FOR_RECORDS };
        self.mine.store(self.lane_at + PARKED, bits);
        // SeqCst: pairs with the fence in `publish`.
        fence(Ordering::SeqCst); // model: parked
        let sleep = !(self.has_work() || for_room && self.room_moved());
        #[cfg(shmesh_sim)]
        crate::host::note(|| format!("lane {:#x} parks {bits:b}, sleeps {sleep}", self.lane_at));
        sleep
    }

    /// Whether the peer consumed or released something since the last look, and looks. Two loads when it did not.
    #[inline]
    pub fn room_moved(&mut self) -> bool {
        let moved = self.producer.is_moved() || self.reclaim.is_due();
        if moved {
            self.unconsumed();
            self.take_back();
        }
        moved
    }

    /// Awake again: the peer need not ring.
    pub fn unpark(&mut self) {
        self.mine.store(self.lane_at + PARKED, 0);
    }

    /// Whether there are records to take. One load.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.is_peeked || self.consumer.has_more()
    }

    /// Whether leases were given back that the peer has not been told of: `publish` is due.
    pub fn has_returns(&self) -> bool {
        self.returns.is_any()
    }

    /// Whether leases of the peer's blocks are out.
    pub fn has_leases(&self) -> bool {
        Arc::strong_count(&self.returns) > 1
    }

    /// Blocks of this side's arena that are lent to the peer, after taking back what it released.
    pub fn lent_blocks(&mut self) -> u32 {
        self.take_back();
        self.arena.lent()
    }

    /// Bytes of this side's arena that are lent to the peer, in whole blocks, as of the last look.
    pub fn lent_bytes(&self) -> u64 {
        self.arena.lent_bytes()
    }

    /// Records of this side that the peer has not consumed yet.
    pub fn unconsumed(&mut self) -> u32 {
        self.producer.unconsumed().unwrap_or_else(|violation| {
            self.broken = Some(violation);
            0
        })
    }

    /// Sidecar: says how far a call got. Release, so that whoever reads it finds every record that was published before;
    /// *forwarded* needs [`LaneEnd::fence`] behind it, and then a look at
    /// [`LaneEnd::is_withdrawn`], before anything is forwarded.
    #[inline(always)]
    pub fn set_state(&self, slot: u32, generation: u64, state: CallState) {
        if let Some(at) = self.slot_word(slot) {
            self.mine.store_release(at, state.word(generation)); // model: state
        }
    }

    /// App: how far a call got, as the sidecar says: the generation that the slot's word speaks of, and its state.
    pub fn state(&self, slot: u32) -> (u64, CallState) {
        let word = self.slot_word(slot).map_or(0, |at| self.theirs.load_acquire(at)); // model: state-seen
        CallState::of_word(word)
    }

    /// App: nothing of this lane may be forwarded any more. What [`LaneEnd::state`] says afterwards is final.
    pub fn withdraw_lane(&self) {
        self.mine.store(self.lane_at + WITHDRAWN, 1);
        // SeqCst: pairs with the sidecar's fence between *forwarded* and `is_withdrawn`. One of the two sees the other.
        fence(Ordering::SeqCst); // model: lane-withdrawn
    }

    /// App: this call may not be forwarded any more. What [`LaneEnd::state`] says of it afterwards is final.
    pub fn withdraw(&self, slot: u32, generation: u64) {
        if let Some(at) = self.slot_word(slot) {
            self.mine.store(at, generation);
        }
        // SeqCst: as in `withdraw_lane`.
        fence(Ordering::SeqCst); // model: withdrawn
    }

    /// Sidecar: whether the app withdrew this call, or the lane.
    #[inline]
    pub fn is_withdrawn(&self, slot: u32, generation: u64) -> bool {
        self.is_lane_withdrawn() || self.is_slot_withdrawn(slot, generation)
    }

    /// Sidecar: whether the app withdrew the lane.
    #[inline]
    pub fn is_lane_withdrawn(&self) -> bool {
        self.theirs.load(self.lane_at + WITHDRAWN) != 0
    }

    /// Sidecar: whether the app withdrew this call apart from its lane.
    #[inline]
    pub fn is_slot_withdrawn(&self, slot: u32, generation: u64) -> bool {
        self.slot_word(slot).is_some_and(|at| self.theirs.load(at) >= generation)
    }

    /// App: asks for a sign of life, with a number that was not used before. The lane is to be marked, and its worker rung, behind it.
    pub fn ask(&self, number: u64) {
        self.mine.store(self.lane_at + SIGN_OF_LIFE, number);
        // SeqCst: pairs with the fence in `DirtyWatch::take`. A worker that finds the lane marked finds the number.
        fence(Ordering::SeqCst); // model: asked
    }

    /// App: the number of the sign of life that the sidecar gave last.
    pub fn told(&self) -> u64 {
        self.theirs.load(self.lane_at + SIGN_OF_LIFE)
    }

    /// Sidecar, whenever the lane was found marked: gives the sign of life that the app asked for, if it did.
    pub fn tell(&mut self) {
        let asked = self.theirs.load(self.lane_at + SIGN_OF_LIFE);
        if asked != self.told {
            self.told = asked;
            self.mine.store(self.lane_at + SIGN_OF_LIFE, asked);
        }
    }

    /// The SeqCst fence between storing *forwarded* for a batch and looking at what is withdrawn. One for the whole batch.
    pub fn fence() {
        fence(Ordering::SeqCst); // model: forwarded
    }

    #[inline]
    fn put_each<'a>(&mut self, header: &Header, parts: impl Iterator<Item = Part<'a>> + Clone) -> Result<(), NoRoom> {
        let length = parts.clone().map(|part| u64::from(part.len())).sum();
        let (mut at, block) = self.reserve(length)?;
        for part in parts {
            at += part.write(&self.mine, at);
        }
        #[cfg(shmesh_sim)]
        crate::host::note(|| format!("lane {:#x} puts {length} bytes, {header:?}", self.lane_at));
        self.producer.put(header, length as u32, block);
        Ok(())
    }

    /// Room for a record with so many bytes of payload: where they go, and their block.
    #[inline(always)]
    fn reserve(&mut self, length: u64) -> Result<(usize, u32), NoRoom> {
        if self.room() == 0 {
            return Err(if length > u64::from(self.geometry.block_max) { NoRoom::TooLong } else { NoRoom::Ring });
        }
        if length <= u64::from(self.geometry.inline_max()) {
            return Ok((self.producer.inline_at(), INLINE));
        }
        let block = self.lend(length)?;
        Ok((self.arena_at() + block as usize, block))
    }

    /// A block for a payload that is too long to travel inline.
    #[inline(never)]
    fn lend(&mut self, length: u64) -> Result<u32, NoRoom> {
        if length > u64::from(self.geometry.block_max) {
            return Err(NoRoom::TooLong);
        }
        if self.reclaim.is_due() || self.unused.is_any() {
            self.take_back();
        }
        self.arena.alloc(length as u32).ok_or(NoRoom::Arena)
    }

    fn take_back(&mut self) {
        self.take_unused();
        #[cfg(not(shmesh_sim))]
        let freed = |_, _| {};
        #[cfg(shmesh_sim)]
        let freed =
            |block, bytes| self.mine.poison(self.lane_at + self.geometry.arena_at() + block as usize, bytes as usize);
        if let Err(violation) = self.reclaim.collect_into(&mut self.arena, freed) {
            self.broken = Some(violation);
        }
    }

    /// The same in both segments.
    #[inline]
    fn arena_at(&self) -> usize {
        self.lane_at + self.geometry.arena_at()
    }

    #[inline]
    fn slot_word(&self, slot: u32) -> Option<usize> {
        (slot < self.geometry.slots).then(|| self.lane_at + SLOT_WORDS + 8 * slot as usize)
    }
}

impl fmt::Debug for LaneEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("LaneEnd");
        out.field("side", &self.side).field("lane_at", &self.lane_at).finish_non_exhaustive()
    }
}

impl Part<'_> {
    #[inline]
    fn len(&self) -> u32 {
        match *self {
            // A longer slice is refused as too long all the same.
            Part::Bytes(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            Part::Block(lease, from, to) => to.min(lease.len).saturating_sub(from),
        }
    }

    #[inline(always)]
    fn write(&self, segment: &Mapping, at: usize) -> usize {
        let len = self.len() as usize;
        match *self {
            Part::Bytes(bytes) => segment.write_bytes(at, bytes),
            Part::Block(lease, from, _) if len > 0 => {
                segment.copy_from(at, &lease.segment, lease.at + from as usize, len)
            }
            Part::Block(..) => {}
        }
        len
    }
}

/// A block of the peer's arena that this side still uses after its record was consumed. Dropping it gives the block back;
/// the peer learns of it by the next [`LaneEnd::publish`] of the lane that it came from.
pub struct BlockLease {
    segment: Arc<Mapping>,
    at: usize,
    len: u32,
    block: u32,
    returns: Arc<Returns>,
}

impl BlockLease {
    /// Where the payload lies. The peer may write there at any moment: for system calls only, never for a reference.
    #[cfg(not(loom))]
    pub fn ptr(&self) -> *const u8 {
        self.segment.pointer(self.at, self.len as usize)
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies payload bytes out; false if the range is not in the payload.
    #[must_use]
    pub fn read(&self, from: u32, dst: &mut [u8]) -> bool {
        let fits = u64::from(from) + dst.len() as u64 <= u64::from(self.len);
        if fits {
            self.segment.read_bytes(self.at + from as usize, dst);
        }
        fits
    }
}

impl Drop for BlockLease {
    fn drop(&mut self) {
        self.returns.push(self.block);
    }
}

impl fmt::Debug for BlockLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockLease").field("block", &self.block).field("len", &self.len).finish()
    }
}

/// Blocks whose leases were dropped. The lock is never contended: a lane and its leases live on one thread, this only
/// lets the lane move between threads while no lease is held elsewhere.
#[derive(Default)]
struct Returns {
    any: AtomicBool,
    blocks: Mutex<Vec<u32>>,
}

impl Returns {
    fn push(&self, block: u32) {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        self.any.store(true, StdOrdering::Release);
    }

    /// Relaxed is enough to decide; the lock orders the blocks. A return that is missed is seen by the next look.
    fn is_any(&self) -> bool {
        self.any.load(StdOrdering::Relaxed)
    }

    fn drain(&self, take: impl FnMut(u32)) {
        if !self.is_any() {
            return;
        }
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, StdOrdering::Relaxed);
        blocks.drain(..).for_each(take);
    }
}
