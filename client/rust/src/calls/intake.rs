//! Records that come in, and the end of calls.

use shmesh_shm::{Header, Kind, TOTAL_UNKNOWN, Violation};

use super::Calls;
use crate::call::{Answer, CallId};
use crate::error::CallError;

/// Longest sentence of a RESET that is kept, in bytes.
const SENTENCE_MAX: u32 = 1024;

impl Calls {
    pub(super) fn take_records(&mut self) {
        loop {
            let outcome = match self.wire.end.peek() {
                Ok(Some(header)) => self.take(&header),
                Ok(None) => return,
                Err(violation) => Err(violation),
            };
            if let Err(violation) = outcome {
                self.wire.session.set_gone();
                return self.lose(CallError::Violation(violation));
            }
            self.wire.end.advance();
            self.taken += 1;
        }
    }

    /// One record; it is advanced over afterwards.
    fn take(&mut self, header: &Header) -> Result<(), Violation> {
        let state = &mut self.slots[header.slot as usize];
        if header.generation > state.generation {
            return Err(Violation::Generation);
        }
        if !state.busy || header.generation != state.generation {
            return Ok(());
        }
        match header.kind {
            Kind::Answer if state.begun => return Err(Violation::Kind),
            Kind::Data if !state.begun => return Err(Violation::Kind),
            Kind::Answer => {
                state.begun = true;
                state.response.status = header.code;
                if !state.paced && header.total != TOTAL_UNKNOWN {
                    self.buffers.lend(&mut state.response.body, header.total as usize);
                }
                self.wire.end.append_payload(0..header.head_len, &mut state.response.head)?;
                self.take_body(header, header.head_len)?;
            }
            Kind::Data => self.take_body(header, 0)?,
            Kind::Credit => {
                state.out.grant(header.credit);
                self.enqueue(header.slot);
            }
            Kind::Reset => self.take_reset(header)?,
            Kind::Define | Kind::Open => return Err(Violation::Direction),
        }
        Ok(())
    }

    fn take_body(&mut self, header: &Header, from: u32) -> Result<(), Violation> {
        let state = &mut self.slots[header.slot as usize];
        if state.inbound.is_ended() {
            return Err(Violation::Kind);
        }
        state.inbound.came(header.length, header.flags.end())?;
        if state.detached && header.length > 0 {
            self.resets.push_back(CallId { slot: header.slot, generation: header.generation });
            self.close(header.slot);
            return Ok(());
        }
        let body = &mut state.response.body;
        self.wire.end.append_payload(from..header.length, body)?;
        if !state.paced {
            if body.len() > self.answer_bytes_max {
                let failure = CallError::AnswerTooLong { limit: self.answer_bytes_max };
                let id = CallId { slot: header.slot, generation: header.generation };
                self.resets.push_back(id);
                self.fail(header.slot, failure);
                return Ok(());
            }
            state.inbound.used(header.length);
        } else {
            state.inbound.used(from);
        }
        if state.inbound.due().is_some() {
            self.enqueue(header.slot);
        }
        self.close_if_over(header.slot);
        Ok(())
    }

    fn take_reset(&mut self, header: &Header) -> Result<(), Violation> {
        let mut sentence = Vec::new();
        self.wire.end.append_payload(0..header.length.min(SENTENCE_MAX), &mut sentence)?;
        let sentence = String::from_utf8_lossy(&sentence).into_owned();
        let reset = header.reset_code().ok_or(Violation::Code)?;
        let ran = self.ran(CallId { slot: header.slot, generation: header.generation });
        self.fail(header.slot, CallError::of_reset(reset, ran, sentence));
        Ok(())
    }

    /// Ends a call that has its whole answer. What of the request was not sent is not wanted any more.
    pub(super) fn close_if_over(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !state.busy || !state.inbound.is_ended() {
            return;
        }
        if !state.out.is_ended() {
            if state.paced {
                return;
            }
            state.out.abandon(&mut self.buffers);
            self.resets.push_back(CallId { slot, generation: state.generation });
        }
        if !state.paced {
            let id = CallId { slot, generation: state.generation };
            let spare = self.spare.pop().unwrap_or_default();
            let response = std::mem::replace(&mut state.response, spare);
            self.ready.push_back(Answer { id, outcome: Ok(response) });
        }
        self.close(slot);
    }

    pub(super) fn fail(&mut self, slot: u32, failure: CallError) {
        let state = &mut self.slots[slot as usize];
        if state.paced {
            state.failure = Some(failure);
        } else {
            let id = CallId { slot, generation: state.generation };
            self.ready.push_back(Answer { id, outcome: Err(failure) });
        }
        self.close(slot);
    }

    pub(super) fn close(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        state.busy = false;
        state.out.abandon(&mut self.buffers);
        if state.deadline != 0 {
            state.deadline = 0;
            self.deadlines -= 1;
        }
        if std::mem::take(&mut state.detached) {
            self.detached -= 1;
        }
        self.active -= 1;
        self.free.push(slot);
    }
}
