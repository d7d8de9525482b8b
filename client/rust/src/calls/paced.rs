//! Calls and streams whose user reads and writes in its own pace.

use shmesh_shm::{Header, Kind};

use super::Calls;
use super::slot::ReadOutcome;
use crate::call::CallId;
use crate::error::CallError;
use crate::flow::{Pumped, part_len};

impl Calls {
    /// Leaves a paced call or stream to end by itself, as closing a socket does: what was written still goes out, then END;
    /// should more come in, it is reset.
    pub fn detach(&mut self, id: CallId) {
        if !self.is_open(id) || self.wire.session.is_forked() {
            return;
        }
        let state = &mut self.slots[id.slot as usize];
        let unread = state.response.body.len() > state.read;
        state.response.clear();
        state.read = 0;
        if unread {
            self.cancel(id);
        } else {
            state.detached = true;
            self.detached += 1;
            self.end(id);
        }
        self.turn();
    }

    /// Sends bytes of a paced call or stream: how many were taken; 0 = none now, wait.
    pub fn write(&mut self, id: CallId, bytes: &[u8]) -> Result<usize, CallError> {
        self.check_paced(id)?;
        let state = &mut self.slots[id.slot as usize];
        if state.out.is_ended() || bytes.is_empty() {
            return Ok(0);
        }
        let part = match part_len(&mut self.wire.end, bytes.len(), state.out.credit()) {
            Ok(part) => part,
            Err(blocked) => {
                self.full = blocked == Pumped::NoRoom;
                return Ok(0);
            }
        };
        let header = Header::new(Kind::Data, id.slot, id.generation);
        if self.wire.end.put(&header, &[&bytes[..part]]).is_err() {
            self.full = true;
            return Ok(0);
        }
        state.out.was_put(part, false);
        Ok(part)
    }

    /// Ends the sending of a paced call or stream; goes out with the next turns.
    pub fn end(&mut self, id: CallId) {
        if self.is_open(id) {
            self.slots[id.slot as usize].out.end();
            self.enqueue(id.slot);
        }
    }

    /// Reads bytes of a paced call's answer, or of a stream.
    pub fn read(&mut self, id: CallId, into: &mut [u8]) -> Result<ReadOutcome, CallError> {
        let state = &mut self.slots[id.slot as usize];
        if state.generation != id.generation {
            return Ok(ReadOutcome::End);
        }
        let there = &state.response.body[state.read..];
        let len = there.len().min(into.len());
        if len > 0 {
            into[..len].copy_from_slice(&there[..len]);
            state.read += len;
            state.inbound.used(len as u32);
            if state.read == state.response.body.len() {
                state.response.body.clear();
                state.read = 0;
            }
            if state.inbound.due().is_some() {
                self.enqueue(id.slot);
            }
            return Ok(ReadOutcome::Bytes(len));
        }
        match (&state.failure, state.inbound.is_ended()) {
            // What came is whole, whatever became of the other direction.
            (_, true) => Ok(ReadOutcome::End),
            (Some(failure), false) => Err(failure.clone()),
            (None, false) if !state.busy => Ok(ReadOutcome::End),
            (None, false) => Ok(ReadOutcome::Empty),
        }
    }

    /// Status and head of a paced call's answer, once it began.
    pub fn head(&self, id: CallId) -> Result<Option<(u16, &[u8])>, CallError> {
        let state = &self.slots[id.slot as usize];
        match &state.failure {
            _ if state.begun => Ok(Some((state.response.status, &state.response.head))),
            Some(failure) => Err(failure.clone()),
            None => Ok(None),
        }
    }

    /// Why a paced call's answer broke off, or never began.
    pub fn check_answer(&self, id: CallId) -> Result<(), CallError> {
        let state = &self.slots[id.slot as usize];
        match &state.failure {
            Some(failure) if !state.inbound.is_ended() => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    /// A paced call's direction towards the sidecar: everything was put, END too.
    pub fn is_sent(&self, id: CallId) -> bool {
        !self.is_open(id) || self.slots[id.slot as usize].out.is_ended()
    }

    /// The whole answer of a paced call is there.
    pub fn is_answered(&self, id: CallId) -> bool {
        let state = &self.slots[id.slot as usize];
        state.generation == id.generation && state.inbound.is_ended()
    }

    /// Both ends of a paced call are done, or it failed.
    pub fn is_open(&self, id: CallId) -> bool {
        let state = &self.slots[id.slot as usize];
        state.busy && state.generation == id.generation
    }

    fn check_paced(&self, id: CallId) -> Result<(), CallError> {
        // What was judged of this very call goes before what became of the lane, which says nothing about whether it ran.
        let state = &self.slots[id.slot as usize];
        match &state.failure {
            Some(failure) if state.generation == id.generation => Err(failure.clone()),
            _ if self.is_open(id) => self.check(),
            _ => Ok(()),
        }
    }
}
