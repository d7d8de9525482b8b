//! One slot's payload in both directions: parts, credit, ends. docs/spec/shm-v1.md §3.3.

use shmesh_shm::{Flags, Header, Kind, LaneEnd, NoRoom, Violation};

use crate::buffers::Buffers;
use crate::wire::Wire;

/// Parts below this wait for a release instead of being cut ever smaller, in bytes.
const SMALL_PART: u32 = 16 * 1024;

/// A message longer than twice this goes in parts of it, in bytes: the sidecar takes the first while the others are written, and
/// few blocks stay warm in the processor's caches.
const LARGE_PART: usize = 64 * 1024;

/// What this side still has to send in a slot.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    credit: u64,
    /// Bytes for which the peer has given credit back.
    acknowledged: u64,
    pending: Vec<u8>,
    sent: usize,
    first: Option<First>,
    ends: bool,
    ended: bool,
}

/// The ANSWER that begins a direction; its head goes into it whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    pub code: u16,
    pub head_len: u32,
    pub total: u64,
}

/// How far sending got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Nothing is left to send now.
    Empty,
    /// The rest waits for CREDIT.
    NoCredit,
    /// The rest waits for the peer to consume or release.
    NoRoom,
}

impl Outbound {
    /// A direction begins, with the window's credit.
    pub fn begin(&mut self, window: u32) {
        self.credit = u64::from(window);
        self.acknowledged = 0;
        self.pending.clear();
        self.sent = 0;
        self.first = None;
        self.ends = false;
        self.ended = false;
    }

    /// The whole direction: an ANSWER, the bytes of its head and body, END.
    pub fn answer(&mut self, first: First, bytes: Vec<u8>) {
        self.first = Some(first);
        self.rest(bytes, 0);
    }

    /// What follows the first `sent` of these bytes, then END.
    pub fn rest(&mut self, bytes: Vec<u8>, sent: usize) {
        self.pending = bytes;
        self.sent = sent;
        self.ends = true;
    }

    /// Bytes that the peer has used up, and said so.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes that the peer still takes.
    pub fn credit(&self) -> u64 {
        self.credit
    }

    /// A record that carried so many bytes was put outside of `pump`.
    pub fn was_put(&mut self, bytes: usize, end: bool) {
        self.credit -= bytes as u64;
        self.ends |= end;
        self.ended |= end;
    }

    pub fn grant(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(u64::from(bytes));
        self.acknowledged = self.acknowledged.saturating_add(u64::from(bytes));
    }

    /// Bytes to send when there is room.
    pub fn push(&mut self, bytes: &[u8], buffers: &mut Buffers) {
        if self.sent == self.pending.len() {
            self.pending.clear();
            self.sent = 0;
            buffers.lend(&mut self.pending, bytes.len());
        }
        self.pending.extend_from_slice(bytes);
    }

    /// END follows what was pushed.
    pub fn end(&mut self) {
        self.ends = true;
    }

    pub fn left(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// END was put.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Something waits to be put.
    pub fn is_due(&self) -> bool {
        self.left() > 0 || self.first.is_some() || self.ends && !self.ended
    }

    /// Puts ANSWER and DATA as far as credit, ring and arena allow. The sidecar sees each part but the last at once.
    pub fn pump(&mut self, wire: &mut Wire, buffers: &mut Buffers, slot: u32, generation: u64) -> Pumped {
        while self.is_due() {
            let left = self.left();
            let part = match part_len(&mut wire.end, left, self.credit) {
                Ok(part) => part,
                Err(blocked) => return blocked,
            };
            let end = self.ends && part == left;
            let mut header = Header::new(Kind::Data, slot, generation);
            if let Some(first) = &self.first {
                if part < first.head_len as usize {
                    return Pumped::NoRoom;
                }
                header.kind = Kind::Answer;
                header.code = first.code;
                header.head_len = first.head_len;
                header.total = first.total;
            }
            header.flags = Flags::NONE.with_end(end);
            match wire.end.put(&header, &[&self.pending[self.sent..self.sent + part]]) {
                Ok(()) => {
                    self.first = None;
                    self.sent += part;
                    self.was_put(part, end);
                }
                Err(NoRoom::Ring | NoRoom::Arena | NoRoom::TooLong) => return Pumped::NoRoom,
            }
            if part < left {
                wire.publish();
            }
        }
        buffers.give_back(&mut self.pending);
        self.sent = 0;
        Pumped::Empty
    }

    /// Forgets what was not sent.
    pub fn abandon(&mut self, buffers: &mut Buffers) {
        buffers.give_back(&mut self.pending);
        self.sent = 0;
        self.first = None;
        self.ends = true;
        self.ended = true;
    }
}

/// How many of `left` bytes the next record can carry now, or what to wait for. 0 bytes always go.
pub(crate) fn part_len(lane: &mut LaneEnd, left: usize, credit: u64) -> Result<usize, Pumped> {
    let geometry = *lane.geometry();
    let part = if left > 2 * LARGE_PART { LARGE_PART } else { left };
    let wanted = (part as u64).min(credit).min(u64::from(geometry.block_max)) as u32;
    if wanted == 0 && left > 0 {
        return Err(Pumped::NoCredit);
    }
    if lane.room() == 0 {
        return Err(Pumped::NoRoom);
    }
    if wanted <= geometry.inline_max() {
        return Ok(wanted as usize);
    }
    let largest = lane.largest_part().max(geometry.inline_max());
    if largest >= wanted.min(SMALL_PART) || lane.lent_bytes() == 0 {
        return Ok(wanted.min(largest) as usize);
    }
    Err(Pumped::NoRoom)
}

/// What the peer may still send in a slot.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    window: u32,
    /// Bytes that may come without new credit.
    open: u64,
    /// Bytes that were used up and not granted again.
    used: u32,
    ended: bool,
}

impl Inbound {
    pub fn begin(&mut self, window: u32) {
        *self = Inbound { window, open: u64::from(window), used: 0, ended: false };
    }

    /// A record with so many payload bytes came.
    pub fn came(&mut self, bytes: u32, end: bool) -> Result<(), Violation> {
        self.open = self.open.checked_sub(u64::from(bytes)).ok_or(Violation::Length)?;
        self.ended |= end;
        Ok(())
    }

    /// Bytes were used up: the place that they took is free again.
    pub fn used(&mut self, bytes: u32) {
        self.used += bytes;
    }

    /// CREDIT that should be sent now, once half of the window was used up.
    pub fn due(&self) -> Option<u32> {
        (!self.ended && self.used > 0 && self.used >= self.window / 2).then_some(self.used)
    }

    /// The CREDIT was put.
    pub fn granted(&mut self) {
        self.open += u64::from(self.used);
        self.used = 0;
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }
}
