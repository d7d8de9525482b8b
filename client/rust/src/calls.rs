//! The calls of one calling lane: slots, parts, answers, deadlines, and the judgement when the sidecar is gone.

use std::collections::VecDeque;
use std::time::Duration;

use shmesh_shm::geometry::MAX_HEAD_BYTES;
use shmesh_shm::{
    CallState, Flags, Header, INLINE_KEY, Kind, MAX_GENERATION, NoRoom, Protocol, Reset, TOTAL_UNKNOWN, Violation,
};

use crate::call::{Answer, Call, CallId, Response, Route, SubmitError, Target, Wait};
use crate::clock;
use crate::error::{CallError, Ran};
use crate::flow::{Inbound, Outbound, Pumped, part_len};
use crate::routes::Routes;
use crate::wire::{Waited, Wire};

/// Most bytes of an answer that is assembled, unless set otherwise.
pub(crate) const MAX_ANSWER_BYTES: usize = 128 << 20;
/// How long after the deadline the shim waits for the sidecar to end the call, in nanoseconds.
const DEADLINE_GRACE_NS: u64 = 20_000_000;
/// Records that may be taken before the sidecar is told, while nothing else is to be told.
const TAKEN_MAX: u32 = 16;
/// Longest sentence of a RESET that is kept, in bytes.
const SENTENCE_MAX: u32 = 1024;
/// Responses whose memory is kept for later calls.
const SPARE_MAX: usize = 64;

/// What a calling lane carries.
#[derive(Debug)]
pub(crate) struct Calls {
    pub wire: Wire,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots with something to send.
    sending: VecDeque<u32>,
    /// Calls that were given up, and whose RESET is not put yet.
    resets: VecDeque<CallId>,
    ready: VecDeque<Answer>,
    spare: Vec<Response>,
    routes: Routes,
    active: usize,
    detached: usize,
    deadlines: usize,
    taken: u32,
    /// The last pump stopped for lack of room.
    full: bool,
    lost: Option<CallError>,
    pub answer_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u64,
    busy: bool,
    queued: bool,
    /// ANSWER came (or is not expected: streams).
    begun: bool,
    /// The user reads in its own pace: nothing is handed over at the end, credit follows the reading.
    paced: bool,
    /// The user is gone: END follows what was written, and nothing more is taken.
    detached: bool,
    /// Nanoseconds of the clock; 0 = none.
    deadline: u64,
    out: Outbound,
    inbound: Inbound,
    response: Response,
    /// Bytes of the body that a paced user has read.
    read: usize,
    failure: Option<CallError>,
}

/// What reading a paced call gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    Bytes(usize),
    /// Everything was read.
    End,
    /// Nothing is there yet.
    Empty,
}

/// How a call is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// One whole message, its answer handed over whole.
    Whole,
    /// A message whose body follows by `write` (its bytes, if known), and whose answer is read by `read`.
    Paced(Option<u64>),
    /// A byte stream.
    Stream,
}

impl Calls {
    pub fn new(wire: Wire) -> Calls {
        let slots = wire.end.geometry().slots;
        Calls {
            wire,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            free: (0..slots).rev().collect(),
            sending: VecDeque::new(),
            resets: VecDeque::new(),
            ready: VecDeque::new(),
            spare: Vec::new(),
            routes: Routes::new(),
            active: 0,
            detached: 0,
            deadlines: 0,
            taken: 0,
            full: false,
            lost: None,
            answer_bytes_max: MAX_ANSWER_BYTES,
        }
    }

    /// Calls in flight, answers that were not received yet included.
    pub fn in_flight(&self) -> usize {
        self.active - self.detached + self.ready.len()
    }

    /// Calls that can be in flight.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The lane can be used no more.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some() || self.wire.session.is_gone()
    }

    /// The route of a key, interned now if it was not. None: full, or all ids are taken; send the key with the call.
    pub fn define(&mut self, protocol: Protocol, key: &[u8]) -> Option<Route> {
        if let Some(route) = self.routes.get(protocol, key) {
            return Some(route);
        }
        let id = self.routes.vacant()?;
        if key.len() > MAX_HEAD_BYTES as usize {
            return None;
        }
        let mut header = Header::new(Kind::Define, 0, 0);
        header.code = protocol as u16;
        header.route = id;
        header.head_len = key.len() as u32;
        self.wire.end.put(&header, &[key]).ok()?;
        self.routes.insert(protocol, key);
        Some(Route { id, protocol })
    }

    /// The route of a key that is used often enough, else none.
    pub fn route_of(&mut self, protocol: Protocol, key: &[u8]) -> Option<Route> {
        match self.routes.get(protocol, key) {
            None if self.routes.is_again(key) => self.define(protocol, key),
            known => known,
        }
    }

    /// Whether the key is interned.
    pub fn knows(&self, protocol: Protocol, key: &[u8]) -> bool {
        self.routes.get(protocol, key).is_some()
    }

    /// Puts an OPEN, and DATA as far as it goes; the rest is kept and sent while receiving. Not visible before `flush`
    /// or `receive`.
    pub fn submit(&mut self, call: &Call<'_>, opening: Opening) -> Result<CallId, SubmitError> {
        self.check()?;
        // The sidecar must learn that a slot is free before it is used again.
        if !self.put_resets() {
            return Err(SubmitError::Full);
        }
        let slot = *self.free.last().ok_or(SubmitError::Full)?;
        let (route, key) = match call.target {
            Target::Route(route) => (route.id, &[][..]),
            Target::Key(_, key) => (INLINE_KEY, key),
        };
        let geometry = *self.wire.end.geometry();
        if key.len() > MAX_HEAD_BYTES.min(geometry.block_max) as usize {
            return Err(CallError::BadRequest("the routing key is too long").into());
        }
        let body: usize = call.payload.iter().map(|piece| piece.len()).sum();
        let part = match part_len(&mut self.wire.end, key.len() + body, u64::from(geometry.window)) {
            Ok(part) if part >= key.len() => part,
            Ok(_) | Err(_) => return Err(SubmitError::Full),
        };
        let whole = part == key.len() + body;
        let ends = opening == Opening::Whole;
        let generation = self.slots[slot as usize].generation + 1;
        if generation > MAX_GENERATION {
            return Err(CallError::SidecarGone("the lane is used up".into()).into());
        }
        let mut header = Header::new(Kind::Open, slot, generation);
        header.flags = Flags::NONE.with_end(ends && whole);
        if call.one_way {
            header.flags = header.flags | Flags::ONE_WAY;
        }
        header.code = call.target.protocol() as u16;
        header.route = route;
        header.head_len = key.len() as u32;
        header.deadline_us = call.timeout.map_or(0, deadline_us);
        header.total = match opening {
            Opening::Whole => body as u64,
            Opening::Paced(total) => total.unwrap_or(TOTAL_UNKNOWN),
            Opening::Stream => {
                header.flags = header.flags | Flags::STREAM;
                TOTAL_UNKNOWN
            }
        };
        if put_gathered(&mut self.wire, &header, key, call.payload, part).is_err() {
            return Err(SubmitError::Full);
        }
        self.free.pop();
        self.active += 1;
        let state = &mut self.slots[slot as usize];
        state.begin(generation, geometry.window, opening);
        state.out.was_put(part, ends && whole);
        if let Some(timeout) = call.timeout {
            let after = clock::nanos(timeout).saturating_add(DEADLINE_GRACE_NS);
            state.deadline = clock::now().saturating_add(after).max(1);
            self.deadlines += 1;
        }
        if !whole {
            push_rest(&mut state.out, call.payload, part - key.len());
            if ends {
                state.out.end();
            }
            self.enqueue(slot);
        }
        Ok(CallId { slot, generation })
    }

    /// Makes everything that was put visible to the sidecar.
    pub fn flush(&mut self) {
        self.taken = 0;
        self.wire.publish();
    }

    /// The next answer. None: the time is over, or nothing is in flight. An error: the lane is lost, and nothing is in
    /// flight on it any more.
    pub fn receive(&mut self, wait: Wait) -> Result<Option<Answer>, CallError> {
        let until = match wait {
            Wait::No => Some(0),
            Wait::For(time) => Some(clock::now().saturating_add(clock::nanos(time))),
            Wait::Forever => None,
        };
        loop {
            // What is ready goes first: the records that the user submits meanwhile leave together.
            if let Some(answer) = self.ready.pop_front() {
                return Ok(Some(answer));
            }
            self.turn();
            if let Some(answer) = self.ready.pop_front() {
                return Ok(Some(answer));
            }
            if self.active == self.detached {
                return self.lost.clone().map_or(Ok(None), Err);
            }
            if !self.wait(until) {
                return Ok(None);
            }
        }
    }

    /// Everything that can be done without waiting: takes records, sends parts, gives credit, publishes.
    pub fn turn(&mut self) {
        self.take_records();
        self.pump();
        // With its answers at hand the user comes again soon: what was taken is told with what is submitted then.
        let comes_again = self.active == 0 && !self.ready.is_empty() && self.taken < TAKEN_MAX;
        if !comes_again || self.wire.end.has_unpublished() {
            self.flush();
        }
        if self.wire.session.is_gone() {
            self.lose(CallError::SidecarGone("its end of the session is closed".into()));
        }
    }

    /// Waits for something to do. False: the time is over. Deadlines of calls that passed are seen to.
    pub fn wait(&mut self, until: Option<u64>) -> bool {
        let deadline = self.earliest_deadline();
        let wake = match (until, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match self.wire.wait(wake, self.full) {
            Waited::News => true,
            Waited::Gone => {
                self.lose(CallError::SidecarGone("its end of the session is closed".into()));
                true
            }
            Waited::TimedOut => {
                let now = clock::now();
                let expired = deadline.is_some_and(|deadline| now >= deadline);
                if expired {
                    self.expire(now);
                }
                expired || until.is_none_or(|until| now < until)
            }
        }
    }

    /// Something waits for room.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Waits for the sidecar to make room, after a `submit` that was just refused. False: the time is over.
    pub fn wait_for_room(&mut self, until: Option<u64>) -> bool {
        self.full = true;
        self.wait(until)
    }

    /// Gives a response back so that its memory is used again.
    pub fn recycle(&mut self, mut response: Response) {
        if self.spare.len() < SPARE_MAX && response.body.capacity() <= 64 << 10 {
            response.clear();
            self.spare.push(response);
        }
    }

    /// Gives a call up: nothing of it is handed over any more. Says whether it may have run.
    pub fn cancel(&mut self, id: CallId) -> Ran {
        if !self.is_open(id) {
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

    /// Leaves a paced call or stream to end by itself, as closing a socket does: what was written still goes out, then END;
    /// should more come in, it is reset.
    pub fn detach(&mut self, id: CallId) {
        if !self.is_open(id) {
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
            (Some(failure), _) => Err(failure.clone()),
            (None, true) => Ok(ReadOutcome::End),
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

    /// A paced call's direction towards the sidecar: everything was put, END too.
    pub fn is_sent(&self, id: CallId) -> bool {
        !self.is_open(id) || self.slots[id.slot as usize].out.is_ended()
    }

    /// Both ends of a paced call are done, or it failed.
    pub fn is_open(&self, id: CallId) -> bool {
        let state = &self.slots[id.slot as usize];
        state.busy && state.generation == id.generation
    }

    /// Puts what waits for room or credit.
    fn pump(&mut self) {
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
    fn put_resets(&mut self) -> bool {
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
        state.out.pump(&mut self.wire.end, slot, state.generation)
    }

    fn enqueue(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !state.queued {
            state.queued = true;
            self.sending.push_back(slot);
        }
    }

    fn take_records(&mut self) {
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
        let (generation, state) = self.wire.end.state(header.slot);
        let ran = ran(generation == header.generation, state);
        self.fail(header.slot, CallError::of_reset(reset, ran, sentence));
        Ok(())
    }

    /// Ends a call that has its whole answer. What of the request was not sent is not wanted any more.
    fn close_if_over(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !state.busy || !state.inbound.is_ended() {
            return;
        }
        if !state.out.is_ended() {
            if state.paced {
                return;
            }
            state.out.abandon();
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

    fn fail(&mut self, slot: u32, failure: CallError) {
        let state = &mut self.slots[slot as usize];
        if state.paced {
            state.failure = Some(failure);
        } else {
            let id = CallId { slot, generation: state.generation };
            self.ready.push_back(Answer { id, outcome: Err(failure) });
        }
        self.close(slot);
    }

    fn close(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        state.busy = false;
        state.out.abandon();
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

    fn earliest_deadline(&self) -> Option<u64> {
        if self.deadlines == 0 {
            return None;
        }
        self.slots.iter().map(|state| state.deadline).filter(|deadline| *deadline != 0).min()
    }

    fn expire(&mut self, now: u64) {
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
        let (generation, state) = self.wire.end.state(id.slot);
        ran(generation == id.generation, state)
    }

    /// The session is over: freezes the lane, takes what the sidecar left, judges every call that has no answer.
    fn lose(&mut self, why: CallError) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(why.clone());
        self.wire.end.withdraw_lane();
        self.take_records();
        for slot in 0..self.slots.len() as u32 {
            let state = &self.slots[slot as usize];
            if !state.busy {
                continue;
            }
            let (generation, reached) = self.wire.end.state(slot);
            let failure = match (ran(generation == state.generation, reached), &why) {
                (Ran::No, _) => CallError::SidecarGone(why.to_string()),
                (Ran::Maybe, CallError::Violation(_)) => why.clone(),
                (Ran::Maybe, _) => CallError::MaybeExecuted(why.to_string()),
            };
            self.fail(slot, failure);
        }
    }

    fn check(&self) -> Result<(), CallError> {
        if self.wire.session.is_forked() {
            return Err(CallError::Forked);
        }
        match &self.lost {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    fn check_paced(&self, id: CallId) -> Result<(), CallError> {
        self.check()?;
        let state = &self.slots[id.slot as usize];
        match &state.failure {
            Some(failure) if state.generation == id.generation => Err(failure.clone()),
            _ => Ok(()),
        }
    }
}

impl Slot {
    fn begin(&mut self, generation: u64, window: u32, opening: Opening) {
        self.generation = generation;
        self.busy = true;
        self.begun = opening == Opening::Stream;
        self.paced = opening != Opening::Whole;
        self.out.begin(window);
        self.inbound.begin(window);
        self.response.clear();
        self.read = 0;
        self.failure = None;
    }
}

/// Only a state of the call's own generation that says so means that it may have run.
fn ran(same_generation: bool, state: CallState) -> Ran {
    match state {
        CallState::Forwarded | CallState::Answered if same_generation => Ran::Maybe,
        _ => Ran::No,
    }
}

fn deadline_us(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX).max(1)
}

/// Puts a record of `len` bytes: the key, then as much of the payload as belongs to it.
fn put_gathered(wire: &mut Wire, header: &Header, key: &[u8], payload: &[&[u8]], len: usize) -> Result<(), NoRoom> {
    let mut left = len - key.len();
    let cut = |piece: &&'_ [u8]| -> usize {
        let part = piece.len().min(left);
        left -= part;
        part
    };
    match payload {
        [] => wire.end.put(header, &[key]),
        [one] => wire.end.put(header, &[key, &one[..len - key.len()]]),
        many => {
            let lengths: Vec<usize> = many.iter().map(cut).collect();
            let pieces = many.iter().zip(lengths).map(|(piece, len)| &piece[..len]);
            let all: Vec<&[u8]> = std::iter::once(key).chain(pieces).collect();
            wire.end.put(header, &all)
        }
    }
}

/// Keeps what follows the first `sent` bytes of the payload.
fn push_rest(out: &mut Outbound, payload: &[&[u8]], mut sent: usize) {
    for piece in payload {
        let skipped = sent.min(piece.len());
        sent -= skipped;
        out.push(&piece[skipped..]);
    }
}
