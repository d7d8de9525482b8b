//! Large answers of HTTP servers to apps: received straight into a block of the app's lane, without a copy.
//!
//! The head and what comes with it is received into the worker's buffers. Once that is put, and as long as much of the body is to come,
//! the driver is given one block after the other; each becomes a DATA record as it is. Without credit nothing is received. While bytes
//! trickle, or the arena has no block, the ordinary way is taken.

use shmesh_io::{Driver, Slice};
use shmesh_shm::{CallState, Header, Kind as RecordKind, LaneEnd, OpenBlock};

use crate::call::{Call, Peer};
use crate::conn::{Conn, HttpUp, Pipe, Role};
use crate::egress::PART_MAX;
use crate::lane::{Slot, SlotRef};
use crate::slab::Key;
use crate::worker::Worker;

/// Less of a body than this is not worth a block, and a receive that brought less is no reason to expect more at once.
pub(crate) const LANDING_MIN: u64 = 8 * 1024;

/// Blocks of one lane into which is being received: 1 MiB of its arena.
const LANDINGS_MAX: u32 = 16;

impl<D: Driver> Worker<D> {
    /// This conn will bring the answer of this call: for an app in pieces between which blocks can be given.
    pub(crate) fn expect_answer(&mut self, key: Key<Conn>, call: Key<Call>) {
        let for_app = matches!(self.calls.get(call), Some(Call { origin: Peer::Slot(_), .. }));
        if let Some(Conn { pipe: Pipe::Socket(sock), role: Role::HttpUp(up), .. }) = self.conns.get_mut(key)
            && up.for_app != for_app
        {
            up.for_app = for_app;
            self.driver.receive_alone(*sock, for_app);
        }
    }

    /// All that an answer had so far is put: what comes next may go into a block.
    pub(crate) fn land_next(&mut self, call: Key<Call>) {
        // Of a conn that has not begun yet the driver receives nothing.
        if self.resting || !self.beginning.is_empty() {
            return;
        }
        let Some(Call { origin: Peer::Slot(at), dest: Some(Peer::Conn(key)), .. }) = self.calls.get(call) else {
            return;
        };
        let (at, key) = (*at, *key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Conn { pipe: Pipe::Socket(sock), role: Role::HttpUp(up), receiving: true, ended: false, input, .. } = conn
        else {
            return;
        };
        let HttpUp { body: Some(reader), landing: None, in_bulk: true, .. } = up else { return };
        let left = reader.run_left();
        if left < LANDING_MIN || !input.is_empty() {
            return;
        }
        let Some(lane) = self.lanes.get_mut(at.lane).filter(|lane| lane.landings < LANDINGS_MAX) else { return };
        let Some(slot) = lane.slots.get_mut(at.slot as usize).filter(|slot| slot.generation == at.generation) else {
            return;
        };
        let len = left.min(slot.credit).min(PART_MAX);
        if slot.has_output() {
            return;
        }
        if len == 0 {
            up.awaits_credit = true;
            return self.stop_recv(key);
        }
        let Ok(block) = lane.end.open_block(len as u32) else { return };
        slot.credit -= len;
        lane.landings += 1;
        self.landings += 1;
        up.landing = Some((at, len));
        self.driver.land(*sock, block);
    }

    /// The app takes more.
    pub(crate) fn land_on_credit(&mut self, call: Key<Call>) {
        let Some(&Call { origin: Peer::Slot(_), dest: Some(Peer::Conn(key)), .. }) = self.calls.get(call) else {
            return;
        };
        let Some(Conn { role: Role::HttpUp(up), .. }) = self.conns.get_mut(key) else { return };
        if std::mem::take(&mut up.awaits_credit) {
            self.start_recv(key);
            self.land_next(call);
        }
    }

    /// Bytes arrived in a block.
    pub(crate) fn landed(&mut self, key: Key<Conn>, block: OpenBlock, len: u32) {
        let now = self.driver.now();
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let landing = self.end_landing(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.active = now;
        let Role::HttpUp(HttpUp { call: Some(call), body: Some(reader), in_bulk, .. }) = &mut conn.role else {
            return self.drop_conn(key);
        };
        let taken = u64::from(len);
        if taken > reader.run_left() {
            // Bytes came the ordinary way after the block was given, so that it took framing as well.
            let mut bytes = vec![0; len as usize];
            if block.read(0, &mut bytes) {
                self.counters.copied.add(taken);
                self.conn_received(key, Slice::from_vec(bytes));
            }
            return;
        }
        reader.skip(taken);
        *in_bulk = taken >= LANDING_MIN || taken == block.len() as u64;
        let (call, done) = (*call, reader.is_done());
        // Goes on when this is put: what comes later may not pass it.
        self.stop_recv(key);
        self.set_call_deadline(call, now + idle);
        if let Some(at) = landing
            && let Some(slot) = self.lanes.get_mut(at.lane).and_then(|lane| lane.slot_mut(at))
        {
            slot.credit -= taken;
            slot.landed = Some(Box::new((block, taken as u32)));
            self.touch_slot(at);
        }
        if done {
            self.http_up_done(key, call);
        }
    }

    /// No block waits for this conn any more: the credit that was set aside for it is the slot's again.
    pub(crate) fn end_landing(&mut self, key: Key<Conn>) -> Option<SlotRef> {
        let Some(Conn { role: Role::HttpUp(up), .. }) = self.conns.get_mut(key) else { return None };
        let (at, len) = up.landing.take()?;
        self.landings -= 1;
        let lane = self.lanes.get_mut(at.lane)?;
        lane.landings -= 1;
        lane.slot_mut(at)?.credit += len;
        Some(at)
    }
}

/// Puts the record of a block that bytes arrived in; false when the ring has no room.
pub(crate) fn put_landed(end: &mut LaneEnd, slot: &mut Slot, index: u32, answers: bool) -> bool {
    let Some((block, len)) = slot.landed.take().map(|landed| *landed) else { return true };
    let mut header = Header::new(RecordKind::Data, index, slot.generation);
    header.flags = header.flags.with_end(slot.end);
    if let Err(block) = end.put_block(&header, block, len) {
        slot.landed = Some(Box::new((block, len)));
        return false;
    }
    if slot.end && answers {
        // As for every record that ends an answer: before it is published.
        end.set_state(index, slot.generation, CallState::Answered);
    }
    slot.sent_end = slot.end;
    true
}
