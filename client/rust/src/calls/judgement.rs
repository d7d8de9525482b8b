//! Calls that end without an answer: given up, too late, or the sidecar is gone. Each is frozen before it is judged
//! (docs/spec/shm-v1.md §5).

use shmesh_shm::CallState;

use super::Calls;
use super::slot::Slot;
use crate::call::CallId;
use crate::error::{CallError, Ran};

impl Calls {
    /// Gives a call up: nothing of it is handed over any more. Says whether it may have run.
    pub fn cancel(&mut self, id: CallId) -> Ran {
        if self.wire.session.is_forked() {
            return Ran::Maybe;
        }
        if !self.is_open(id) {
            // It is over already; an answer that was not received yet is not wanted any more.
            self.ready.retain(|answer| answer.id != id);
            return Ran::Maybe;
        }
        let ran = self.judge(id);
        self.resets.push_back(id);
        self.close(id.slot);
        self.put_resets();
        self.flush();
        ran
    }

    /// Gives up everything, so that somebody else can use the lane.
    pub fn cancel_all(&mut self) {
        if self.wire.session.is_forked() {
            return;
        }
        for slot in 0..self.slots.len() as u32 {
            let Slot { busy, detached, generation, .. } = self.slots[slot as usize];
            if busy && !detached {
                self.cancel(CallId { slot, generation });
            }
        }
        self.ready.clear();
        self.pump();
        self.flush();
    }

    pub(super) fn earliest_deadline(&self) -> Option<u64> {
        if self.deadlines == 0 {
            return None;
        }
        self.slots.iter().map(|state| state.deadline).filter(|deadline| *deadline != 0).min()
    }

    pub(super) fn expire(&mut self, now: u64) {
        for slot in 0..self.slots.len() as u32 {
            let Slot { deadline, generation, .. } = self.slots[slot as usize];
            if deadline == 0 || deadline > now {
                continue;
            }
            let id = CallId { slot, generation };
            let ran = self.judge(id);
            self.resets.push_back(id);
            let sentence = "the sidecar did not answer by the deadline".to_owned();
            self.fail(slot, CallError::Timeout { ran, sentence });
        }
        self.put_resets();
        self.flush();
    }

    /// Freezes a call and says whether it may have run.
    fn judge(&self, id: CallId) -> Ran {
        self.wire.end.withdraw(id.slot, id.generation);
        self.ran(id)
    }

    /// Whether a call may have run, as the sidecar's word says. Of a stream it says nothing: what it carried may always have run
    /// (docs/spec/shm-v1.md §3.2).
    pub(super) fn ran(&self, id: CallId) -> Ran {
        let (generation, reached) = self.wire.end.state(id.slot);
        match reached {
            _ if self.slots[id.slot as usize].stream => Ran::Maybe,
            CallState::Forwarded | CallState::Answered if generation == id.generation => Ran::Maybe,
            // Only a state of the call's own generation that says so.
            _ => Ran::No,
        }
    }

    fn fail_all(&mut self, why: &CallError) {
        for slot in 0..self.slots.len() as u32 {
            if self.slots[slot as usize].busy {
                self.fail(slot, why.clone());
            }
        }
    }

    /// The session is over: freezes the lane, takes what the sidecar left, judges every call that has no answer.
    pub(super) fn lose(&mut self, why: CallError) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(why.clone());
        if why == CallError::Forked {
            return self.fail_all(&why);
        }
        let cause = match &why {
            CallError::SidecarGone(cause) | CallError::MaybeExecuted(cause) => cause.clone(),
            other => other.to_string(),
        };
        self.wire.end.withdraw_lane();
        self.take_records();
        for slot in 0..self.slots.len() as u32 {
            let state = &self.slots[slot as usize];
            if !state.busy {
                continue;
            }
            let failure = match (self.ran(CallId { slot, generation: state.generation }), &why) {
                (Ran::No, _) => CallError::SidecarGone(cause.clone()),
                (Ran::Maybe, CallError::Violation(_)) => why.clone(),
                (Ran::Maybe, _) if state.stream => {
                    CallError::StreamReset { acknowledged: state.out.acknowledged(), sentence: cause.clone() }
                }
                (Ran::Maybe, _) => CallError::MaybeExecuted(cause.clone()),
            };
            self.fail(slot, failure);
        }
    }
}
