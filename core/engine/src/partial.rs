//! Dubbo frames that apps send in parts: held until they are whole, within limits, and not for ever. And the lane's timer.

use shmesh_io::{Driver, Slice};
use shmesh_proto::dubbo::HEADER_LEN;
use shmesh_shm::{Header, Reset};

use crate::call::Failure;
use crate::ingress::Breach;
use crate::lane::{Lane, Partial, SlotRef, User};
use crate::quota::Held;
use crate::slab::Key;
use crate::timer::Owner;
use crate::worker::Worker;

/// Frames of the largest size that may be incomplete on one lane.
const PARTIAL_FRAMES_MAX: usize = 4;

impl<D: Driver> Worker<D> {
    /// Another part of a Dubbo frame.
    pub(crate) fn data_partial(&mut self, at: SlotRef, header: &Header) -> Result<(), Breach> {
        let frame_max = self.snapshot.limits.dubbo_body_bytes as usize + HEADER_LEN;
        let until = self.driver.now() + self.snapshot.timeouts.idle.as_nanos() as u64;
        let Some(lane) = self.lanes.get_mut(at.lane) else { return Ok(()) };
        let held: usize = lane.slots.iter().filter_map(|slot| slot.partial.as_ref()).map(|p| p.frame.len()).sum();
        let slot = &mut lane.slots[at.slot as usize];
        let Some(partial) = slot.partial.as_mut() else { return Ok(()) };
        let too_long = partial.frame.len() + header.length as usize > frame_max;
        let too_many = held > PARTIAL_FRAMES_MAX * frame_max;
        if !too_long && !too_many {
            self.counters.copied.add(header.length.into());
            lane.end.append_payload(0..header.length, &mut partial.frame)?;
            partial.until = partial.terms.hard_deadline.min(until);
        }
        lane.end.advance();
        if too_long {
            self.counters.dubbo_malformed.add(1);
            // It would be so elsewhere, too.
            self.slot_reset(at, Failure::MalformedRequest.reset(), "the frame is longer than limits.dubbo_body_bytes");
            return Ok(());
        }
        if too_many {
            self.slot_reset(at, Reset::Overloaded, "too many frames are incomplete on this lane");
            return Ok(());
        }
        if !self.hold_part(at, header.length as usize) {
            return Ok(());
        }
        self.consumed(at, u64::from(header.length));
        if header.flags.end() {
            let partial = self.lanes.get_mut(at.lane).and_then(|lane| lane.slots[at.slot as usize].partial.take());
            if let Some(partial) = partial {
                self.occupy(at, User::Discard);
                return self.dubbo_frame(at, Slice::from_vec(partial.frame), partial.terms);
            }
        }
        Ok(())
    }

    /// Counts another part of the frame that a slot holds; false as [`Worker::hold`] says.
    pub(crate) fn hold_part(&mut self, at: SlotRef, bytes: usize) -> bool {
        let held = self.partial(at).and_then(|partial| partial.terms.held.take());
        let held = self.hold(at, held, bytes);
        let grown = held.is_some();
        if let Some(partial) = self.partial(at) {
            partial.terms.held = held;
        }
        grown
    }

    fn partial(&mut self, at: SlotRef) -> Option<&mut Partial> {
        self.lanes.get_mut(at.lane)?.slot_mut(at)?.partial.as_deref_mut()
    }

    /// Counts bytes that are held for an app; `None` if that is over a quota, and then the app was told.
    pub(crate) fn hold(&mut self, at: SlotRef, held: Option<Held>, bytes: usize) -> Option<Held> {
        let quotas = &self.snapshot.session.quotas;
        let bytes_max = self.shared.sessions.quotas.bytes_max(quotas);
        let mut held = held.or_else(|| Some(self.lanes.get(at.lane)?.usage.held()))?;
        match held.grow(bytes as u64, quotas, bytes_max) {
            Ok(()) => Some(held),
            Err(quota) => {
                self.over_quota(at.lane, quota);
                self.slot_reset(at, Reset::Overloaded, quota.sentence());
                None
            }
        }
    }

    /// Gives up the frames of a lane that do not get whole, and answers that its app does not take: the blocks in which they lie may
    /// be those of another app.
    pub(crate) fn lane_timer(&mut self, key: Key<Lane>, now: u64) {
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let (mut late, mut next) = (Vec::new(), u64::MAX);
        for (index, slot) in lane.slots.iter_mut().enumerate() {
            let (until, sentence) = match slot.user {
                User::Partial => (
                    slot.partial.as_ref().map(|partial| partial.until),
                    "the frame did not come whole by its deadline, or timeouts.idle passed without another part of it",
                ),
                User::Discard => {
                    (slot.leftover_until(now + idle), "timeouts.idle passed and nothing of the answer was taken")
                }
                User::Free | User::Call(_) | User::Relay(_) | User::Stream(_) => continue,
            };
            match until {
                Some(until) if until <= now => {
                    late.push((SlotRef { lane: key, slot: index as u32, generation: slot.generation }, sentence));
                }
                Some(until) => next = next.min(until),
                None => {}
            }
        }
        if next != u64::MAX {
            self.timers.arm(Owner::Lane(key.index() as u32), next);
        }
        for (at, sentence) in late {
            self.slot_reset(at, Failure::Timeout.reset(), sentence);
        }
    }
}
