//! Records to apps: what waits in the slots of a lane goes into its ring, as far as credit and room allow.

use shmesh_io::{Chunk, Driver, Slice};
use shmesh_shm::{CallState, Flags, Header, Kind as RecordKind, NoRoom, Part, Reset};

use crate::call::Peer;
use crate::landing::put_landed;
use crate::lane::{First, Lane, SlotRef, User};
use crate::slab::Key;
use crate::timer::Owner;
use crate::worker::Worker;

/// Pieces of one record's payload; more are sent as another record.
const PARTS_MAX: usize = 16;

/// Payload of one record towards an app. Smaller than the window, so that taking and giving back overlap.
pub(crate) const PART_MAX: u64 = 64 * 1024;

/// Payload that is copied from a lane in one turn, and to all of them, before what is longer than [`SMALL_PART`] waits for the next
/// turn: a call waits for no more than that of the others' payloads.
pub(crate) const TURN_BYTES: u64 = PART_MAX;

/// Parts that never wait for another turn.
const SMALL_PART: u64 = 4096;

/// Bytes that an app is given back at a time, unless its window is nearly used up: fewer CREDIT records.
const GRANT_MIN: u64 = 64 * 1024;

/// Credit that may wait for room in the ring; an app that does not consume gets no more.
const GRANT_MAX: u64 = 1 << 30;

impl<D: Driver> Worker<D> {
    /// Another turn: those that had to wait for it go first.
    pub(crate) fn begin_flush(&mut self) {
        if !self.deferred.is_empty() {
            self.deferred.append(&mut self.dirty_lanes);
            std::mem::swap(&mut self.deferred, &mut self.dirty_lanes);
        }
        self.overlooked = 0;
        self.put_bytes = 0;
    }

    /// Sends what waits, and rings the apps that sleep.
    pub(crate) fn flush_lanes(&mut self) {
        self.lending_returned();
        // A conn that is a stream may have put something on a lane after conns were flushed, and the reverse.
        while !self.dirty_lanes.is_empty() {
            let mut list = std::mem::take(&mut self.dirty_lanes);
            for key in list.drain(..) {
                self.flush_lane(key);
            }
            if self.dirty_lanes.is_empty() {
                self.dirty_lanes = list;
                break;
            }
        }
        for index in 0..self.blocked.len() {
            let key = self.blocked[index];
            if self.lanes.get(key).is_some_and(|lane| !lane.listed) {
                self.flush_lane(key);
            }
        }
        let lanes = &mut self.lanes;
        self.blocked.retain(|&key| {
            let Some(lane) = lanes.get_mut(key) else { return false };
            lane.waits_for_room = lane.blocked;
            lane.blocked
        });
    }

    fn flush_lane(&mut self, key: Key<Lane>) {
        let mut drained = std::mem::take(&mut self.drained);
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.listed = false;
        lane.blocked = false;
        let mut turns = lane.queue.len();
        let put_before = self.put_bytes;
        let mut without_credit = false;
        while turns > 0
            && let Some(index) = lane.queue.pop_front()
        {
            turns -= 1;
            let before = lane.slots[index as usize].credit;
            let outcome = send_slot(lane, index, self.put_bytes >= TURN_BYTES);
            let bytes = before - lane.slots[index as usize].credit;
            self.put_bytes += bytes;
            self.counters.copied.add(bytes);
            match outcome {
                Sent::All => {
                    lane.slots[index as usize].queued = false;
                    drained.push(SlotRef { lane: key, slot: index, generation: lane.slots[index as usize].generation });
                }
                Sent::NoCredit => {
                    lane.slots[index as usize].queued = false;
                    without_credit = true;
                }
                Sent::Part => {
                    lane.queue.push_back(index);
                    turns += 1;
                }
                Sent::Later => {
                    lane.queue.push_back(index);
                    lane.listed = true;
                }
                Sent::NoRoom => {
                    lane.queue.push_front(index);
                    lane.blocked = true;
                    break;
                }
            }
        }
        if lane.listed {
            if self.put_bytes == put_before {
                self.deferred.insert(self.overlooked, key);
                self.overlooked += 1;
            } else {
                self.deferred.push(key);
            }
        }
        if lane.blocked || without_credit {
            let until = self.driver.now() + self.snapshot.timeouts.idle.as_nanos() as u64;
            self.timers.arm(Owner::Lane(key.index() as u32), until);
        }
        if lane.blocked && !lane.waits_for_room {
            lane.waits_for_room = true;
            self.counters.ring_full.add(1);
            self.blocked.push(key);
        }
        // A lane that waits for room is looked at; so is one whose app broke the page, which ends its session.
        if (lane.blocked || lane.end.violation().is_some()) && !lane.hot {
            lane.hot = true;
            lane.end.unpark();
            self.hot.push(key);
        }
        if lane.end.publish() {
            let bell = lane.bell.clone();
            self.driver.ring(&bell);
        }
        for at in drained.drain(..) {
            self.slot_drained(at);
        }
        self.drained = drained;
    }

    /// Blocks that were sent from where they lay are given back.
    fn lending_returned(&mut self) {
        let mut index = 0;
        while index < self.lending.len() {
            let key = self.lending[index];
            let Some(lane) = self.lanes.get_mut(key) else {
                self.lending.swap_remove(index);
                continue;
            };
            if lane.end.has_returns() {
                self.touch_lane(key);
            } else if !lane.end.has_leases() {
                lane.lends = false;
                self.lending.swap_remove(index);
                continue;
            }
            index += 1;
        }
    }

    /// Whether blocks wait to be given back, as those do that the flush itself was done with.
    pub(crate) fn has_returns(&self) -> bool {
        self.lending.iter().any(|&key| self.lanes.get(key).is_some_and(|lane| lane.end.has_returns()))
    }

    /// All that a slot had to say was put: its source may go on, and a call that is over frees it.
    fn slot_drained(&mut self, at: SlotRef) {
        let Some(lane) = self.lanes.get_mut(at.lane) else { return };
        let Some(slot) = lane.slot_mut(at) else { return };
        let user = slot.user;
        if slot.sent_end && slot.received_end && matches!(user, User::Discard) {
            self.slot_over(at);
            return;
        }
        match user {
            User::Call(key) => {
                let Some(call) = self.calls.get(key) else { return };
                let source = if call.dest == Some(Peer::Slot(at)) { Some(call.origin) } else { call.dest };
                if let Some(source) = source {
                    self.resume_source(source);
                    self.land_next(key);
                }
            }
            User::Stream(conn) => self.conn_drained(conn),
            User::Free | User::Partial | User::Relay(_) | User::Discard => {}
        }
    }

    // ---- What the state machines say to a slot -------------------------------------------------------------------

    /// The record that begins our direction.
    pub(crate) fn slot_first(&mut self, at: SlotRef, first: First) {
        self.with_slot(at, |slot| slot.first = Some(first));
    }

    /// More payload.
    pub(crate) fn slot_push(&mut self, at: SlotRef, chunk: Chunk) {
        self.with_slot(at, |slot| slot.out.push(chunk));
    }

    /// Our direction ends after what was pushed.
    pub(crate) fn slot_end(&mut self, at: SlotRef) {
        self.with_slot(at, |slot| slot.end = true);
    }

    /// The answer on a calling lane is complete: the slot is the app's again once END is out and its own END is in.
    pub(crate) fn slot_answered(&mut self, at: SlotRef) {
        self.with_slot(at, |slot| {
            slot.end = true;
            slot.user = User::Discard;
        });
    }

    /// Breaks off.
    pub(crate) fn slot_reset(&mut self, at: SlotRef, why: Reset, sentence: &'static str) {
        let slot = self.lanes.get_mut(at.lane).and_then(|lane| lane.slot_mut(at));
        if slot.and_then(|slot| slot.first.as_ref()).is_some_and(|first| first.open) {
            // There was no room for its OPEN yet: the app would not know what the RESET is about.
            return self.slot_over(at);
        }
        self.with_slot(at, |slot| {
            slot.reset = Some((why, sentence));
            slot.user = User::Discard;
            slot.out.clear();
            slot.first = None;
            slot.landed = None;
            slot.partial = None;
        });
    }

    /// The slot's call is over here; what the app still says in it is thrown away.
    pub(crate) fn slot_discard(&mut self, at: SlotRef) {
        let Some(lane) = self.lanes.get_mut(at.lane) else { return };
        let Some(slot) = lane.slot_mut(at) else { return };
        slot.user = User::Discard;
        if slot.received_end && slot.sent_end && !slot.has_output() {
            self.slot_over(at);
        }
    }

    /// The app has answered in full: what it was still to get does not matter any more.
    pub(crate) fn slot_finish(&mut self, at: SlotRef) {
        self.slot_discard(at);
        let unsent = self.lanes.get_mut(at.lane).and_then(|lane| lane.slot_mut(at)).is_some_and(|slot| !slot.sent_end);
        if unsent {
            self.slot_reset(at, Reset::Cancelled, "the answer is complete");
        }
    }

    /// A slot that was taken for a call and never opened.
    pub(crate) fn slot_unopened(&mut self, at: SlotRef) {
        self.slot_over(at);
    }

    /// Nothing more will come or go for this generation.
    pub(crate) fn slot_over(&mut self, at: SlotRef) {
        let Some(lane) = self.lanes.get_mut(at.lane) else { return };
        let serving = lane.serves.is_some();
        let Some(slot) = lane.slot_mut(at) else { return };
        slot.user = User::Free;
        slot.clear();
        if serving {
            lane.free.push(at.slot);
            self.open_waiting(at.lane);
        } else {
            lane.usage.end_call();
        }
    }

    pub(crate) fn slot_received_end(&self, at: SlotRef) -> bool {
        self.lanes
            .get(at.lane)
            .and_then(|lane| lane.slots.get(at.slot as usize))
            .is_none_or(|slot| slot.generation != at.generation || slot.user == User::Free || slot.received_end)
    }

    /// A stream's conn is gone.
    pub(crate) fn end_stream(&mut self, at: SlotRef, cut: bool) {
        let done = self.with_slot(at, |slot| {
            slot.user = User::Discard;
            if slot.received_end && !cut {
                slot.end = true;
            }
            slot.sent_end && slot.received_end
        });
        match done {
            Some(true) => self.slot_over(at),
            Some(false) if cut || !self.slot_received_end(at) => {
                self.slot_reset(at, if cut { Reset::Died } else { Reset::Cancelled }, "the connection was closed");
            }
            _ => {}
        }
    }

    /// Payload that is consumed for good: its credit goes back.
    pub(crate) fn consumed(&mut self, at: SlotRef, bytes: u64) {
        self.note_ungranted(at, bytes);
        self.grant(at);
    }

    /// Payload that was taken; its credit goes back when its sink has room.
    pub(crate) fn note_ungranted(&mut self, at: SlotRef, bytes: u64) {
        if let Some(slot) = self.lanes.get_mut(at.lane).and_then(|lane| lane.slot_mut(at)) {
            slot.ungranted += bytes;
        }
    }

    /// Gives credit back for what was taken, in large portions.
    pub(crate) fn grant(&mut self, at: SlotRef) {
        let Some(lane) = self.lanes.get_mut(at.lane) else { return };
        let least = GRANT_MIN.min(u64::from(lane.end.geometry().window) / 4);
        let Some(slot) = lane.slot_mut(at) else { return };
        if slot.received_end || slot.ungranted < least || u64::from(slot.grant) + slot.ungranted > GRANT_MAX {
            return;
        }
        slot.window += slot.ungranted;
        slot.grant += slot.ungranted as u32;
        slot.ungranted = 0;
        lane.enqueue(at.slot);
        self.touch_lane(at.lane);
    }

    /// A slot has something to send.
    pub(crate) fn touch_slot(&mut self, at: SlotRef) {
        self.with_slot(at, |_| ());
    }

    fn with_slot<R>(&mut self, at: SlotRef, change: impl FnOnce(&mut crate::lane::Slot) -> R) -> Option<R> {
        let lane = self.lanes.get_mut(at.lane)?;
        let result = change(lane.slot_mut(at)?);
        lane.enqueue(at.slot);
        self.touch_lane(at.lane);
        Some(result)
    }
}

/// How far a slot got in one go.
enum Sent {
    /// There is nothing left.
    All,
    /// There is more, and room for it.
    Part,
    /// The next part is for the next turn.
    Later,
    NoCredit,
    NoRoom,
}

/// Puts the next record of a slot, unless it is large and only small ones may go.
fn send_slot(lane: &mut Lane, index: u32, only_small: bool) -> Sent {
    let Lane { end, slots, serves, .. } = lane;
    let slot = &mut slots[index as usize];
    let generation = slot.generation;
    if let Some((why, sentence)) = slot.reset {
        if end.put(&Header::reset(index, generation, why), &[sentence.as_bytes()]).is_err() {
            return Sent::NoRoom;
        }
        slot.reset = None;
        slot.end = false;
        slot.grant = 0;
        slot.sent_end = true;
        slot.received_end = true;
        return Sent::All;
    }
    if slot.grant > 0 {
        if end.put(&Header::credit(index, generation, slot.grant), &[]).is_err() {
            return Sent::NoRoom;
        }
        slot.grant = 0;
    }
    if !slot.has_output() {
        return Sent::All;
    }
    if slot.first.is_none() && slot.out.is_empty() && slot.landed.is_some() {
        return match put_landed(end, slot, index, serves.is_none()) {
            false => Sent::NoRoom,
            true if slot.has_output() => Sent::Part,
            true => Sent::All,
        };
    }
    let head_len = slot.first.as_ref().map_or(0, |first| first.head.len() as u64);
    if slot.credit < head_len || (slot.first.is_none() && slot.credit == 0 && !slot.out.is_empty()) {
        return Sent::NoCredit;
    }
    let inline = u64::from(end.geometry().inline_max());
    let wanted = (slot.out.len_bytes() as u64).min(slot.credit - head_len).min(PART_MAX);
    if only_small && wanted > SMALL_PART {
        return Sent::Later;
    }
    let part = if head_len + wanted <= inline {
        wanted
    } else {
        let largest = u64::from(end.largest_part()).max(inline);
        if largest < head_len {
            return Sent::NoRoom;
        }
        wanted.min(largest - head_len)
    };
    match put_part(end, slot, index, part as usize, serves.is_none()) {
        Ok(()) => {}
        Err(NoRoom::Ring | NoRoom::Arena | NoRoom::TooLong) => return Sent::NoRoom,
    }
    if slot.has_output() { Sent::Part } else { Sent::All }
}

/// Puts one record with the slot's head, if it was not put yet, and about `part` bytes of what waits.
fn put_part(
    end: &mut shmesh_shm::LaneEnd,
    slot: &mut crate::lane::Slot,
    index: u32,
    part: usize,
    answers: bool,
) -> Result<(), NoRoom> {
    let generation = slot.generation;
    let head = slot.first.as_ref().map_or(Slice::empty(), |first| first.head.clone());
    let mut parts = [Part::Bytes(&[]); PARTS_MAX + 1];
    parts[0] = Part::Bytes(head.as_slice());
    let mut gathered = 0;
    let mut count = 1;
    for chunk in slot.out.iter() {
        if gathered == part || count == parts.len() {
            break;
        }
        let want = chunk.len().min(part - gathered);
        parts[count] = match chunk {
            Chunk::Private(slice) => Part::Bytes(&slice.as_slice()[..want]),
            // Moved from the block of one app to that of the other, without being looked at.
            Chunk::Shared(slice) => match slice.in_block() {
                Some((lease, from)) => Part::Block(lease, from, from + want as u32),
                None => unreachable!("what a worker shares are blocks of lanes"),
            },
        };
        gathered += want;
        count += 1;
    }
    let last = slot.end && gathered == slot.out.len_bytes() && slot.landed.is_none();
    let mut header = match &slot.first {
        Some(first) => {
            let kind = if first.open { RecordKind::Open } else { RecordKind::Answer };
            let mut header = Header::new(kind, index, generation);
            header.code = first.code;
            header.head_len = first.head.len() as u32;
            header.total = first.total;
            header.deadline_us = first.deadline_us;
            header.route = if first.open { shmesh_shm::INLINE_KEY } else { 0 };
            if first.stream {
                header.flags = header.flags | Flags::STREAM;
            }
            if first.one_way {
                header.flags = header.flags | Flags::ONE_WAY;
            }
            header
        }
        None => Header::new(RecordKind::Data, index, generation),
    };
    header.flags = header.flags.with_end(last);
    end.put_parts(&header, &parts[..count])?;
    if last && answers {
        // Release, and before the record that ends the answer is published.
        end.set_state(index, generation, CallState::Answered);
    }
    slot.credit -= (head.len() + gathered) as u64;
    slot.first = None;
    slot.out.advance(gathered);
    slot.sent_end = last;
    Ok(())
}
