//! What waits for room or credit, and goes out when there is some.

use shmesh_shm::{Header, Reset};

use super::Calls;
use crate::flow::Pumped;

impl Calls {
    /// Puts what waits for room or credit.
    pub(super) fn pump(&mut self) {
        self.full = false;
        if !self.put_resets() {
            return;
        }
        for _ in 0..self.sending.len() {
            let Some(slot) = self.sending.pop_front() else { return };
            if self.pump_slot(slot) == Pumped::NoRoom {
                self.sending.push_back(slot);
                self.full = true;
                return;
            }
            self.slots[slot as usize].queued = false;
            self.close_if_over(slot);
        }
    }

    /// False: there is no room for all of them.
    pub(super) fn put_resets(&mut self) -> bool {
        while let Some(id) = self.resets.front() {
            let header = Header::reset(id.slot, id.generation, Reset::Cancelled);
            if self.wire.end.put(&header, &[]).is_err() {
                self.full = true;
                return false;
            }
            self.resets.pop_front();
        }
        true
    }

    fn pump_slot(&mut self, slot: u32) -> Pumped {
        let state = &mut self.slots[slot as usize];
        if !state.busy {
            return Pumped::Empty;
        }
        if let Some(bytes) = state.inbound.due() {
            if self.wire.end.put(&Header::credit(slot, state.generation, bytes), &[]).is_err() {
                return Pumped::NoRoom;
            }
            state.inbound.granted();
        }
        state.out.pump(&mut self.wire, &mut self.buffers, slot, state.generation)
    }

    pub(super) fn enqueue(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !state.queued {
            state.queued = true;
            self.sending.push_back(slot);
        }
    }
}
