//! The calls of one calling lane: slots, parts, answers, deadlines, and the judgement when the sidecar is gone.

mod intake;
mod judgement;
mod paced;
mod sending;
mod slot;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use shmesh_shm::geometry::MAX_HEAD_BYTES;
use shmesh_shm::{Flags, Header, INLINE_KEY, Kind, MAX_GENERATION, NoRoom, Protocol, TOTAL_UNKNOWN};

use crate::buffers::{Buffers, LARGE};
use crate::call::{Answer, Call, CallId, Response, Route, SubmitError, Target, Wait};
use crate::clock;
use crate::error::CallError;
use crate::flow::part_len;
use crate::routes::Routes;
use crate::wire::{Waited, Wire};
use slot::Slot;
pub(crate) use slot::{Opening, ReadOutcome};

/// Most bytes of an answer that is assembled, unless set otherwise.
pub(crate) const MAX_ANSWER_BYTES: usize = 128 << 20;
/// How long after the deadline the shim waits for the sidecar to end the call, in nanoseconds.
const DEADLINE_GRACE_NS: u64 = 20_000_000;
/// Records that may be taken before the sidecar is told, while nothing else is to be told.
const TAKEN_MAX: u32 = 16;
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
    buffers: Buffers,
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
            buffers: Buffers::default(),
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
        if key.len() > MAX_HEAD_BYTES as usize || self.wire.session.is_forked() {
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

    /// Puts an OPEN, and DATA as far as it goes; the rest is kept and sent while receiving. The last record, which is mostly the
    /// only one, is not visible before `flush` or `receive`.
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
        if put_gathered(&mut self.wire, &header, key, call.payload, 0, part).is_err() {
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
            self.put_rest(slot, call.payload, part - key.len(), body, ends);
        }
        Ok(CallId { slot, generation })
    }

    /// Puts what follows the first `sent` of the payload's `body` bytes as far as it goes, and keeps what is left then. The
    /// sidecar works on a part while the next one is written.
    fn put_rest(&mut self, slot: u32, payload: &[&[u8]], mut sent: usize, body: usize, ends: bool) {
        while sent < body {
            self.flush();
            let Slot { out, generation, .. } = &mut self.slots[slot as usize];
            let Ok(part) = part_len(&mut self.wire.end, body - sent, out.credit()) else { break };
            let end = ends && sent + part == body;
            let mut header = Header::new(Kind::Data, slot, *generation);
            header.flags = Flags::NONE.with_end(end);
            if put_gathered(&mut self.wire, &header, &[], payload, sent, part).is_err() {
                break;
            }
            out.was_put(part, end);
            sent += part;
        }
        if sent < body {
            let out = &mut self.slots[slot as usize].out;
            for piece in payload {
                let skipped = sent.min(piece.len());
                sent -= skipped;
                out.push(&piece[skipped..], &mut self.buffers);
            }
            if ends {
                out.end();
            }
            self.enqueue(slot);
        }
    }

    /// Makes everything that was put visible to the sidecar.
    pub fn flush(&mut self) {
        if self.wire.session.is_forked() {
            return;
        }
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
        if self.wire.session.is_forked() {
            return self.lose(CallError::Forked);
        }
        self.take_records();
        self.pump();
        // With its answers at hand the user comes again soon: what was taken is told with what is submitted then.
        let comes_again = self.active == 0 && !self.ready.is_empty() && self.taken < TAKEN_MAX;
        if !comes_again || self.wire.end.has_unpublished() {
            self.flush();
        }
        if self.wire.session.is_gone() {
            self.lose(CallError::SidecarGone(self.wire.session.why_gone()));
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
            Waited::Gone if self.wire.session.is_forked() => {
                self.lose(CallError::Forked);
                true
            }
            Waited::Gone => {
                self.lose(CallError::SidecarGone(self.wire.session.why_gone()));
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
        self.buffers.give_back(&mut response.body);
        if self.spare.len() < SPARE_MAX && response.head.capacity() <= LARGE {
            response.clear();
            self.spare.push(response);
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
}

/// As a record says it. The sidecar is not told of a deadline that is more than 71 minutes away; the shim sees to it alone.
fn deadline_us(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_micros()).map_or(0, |us| us.max(1))
}

/// Puts a record of `len` bytes: the key, then what follows the first `from` bytes of the payload.
fn put_gathered(
    wire: &mut Wire,
    header: &Header,
    key: &[u8],
    payload: &[&[u8]],
    mut from: usize,
    len: usize,
) -> Result<(), NoRoom> {
    let mut left = len - key.len();
    match payload {
        [] => wire.end.put(header, &[key]),
        [one] => wire.end.put(header, &[key, &one[from..from + left]]),
        many => {
            let cut = |piece: &&'_ [u8]| -> Range<usize> {
                let begin = from.min(piece.len());
                let part = left.min(piece.len() - begin);
                from -= begin;
                left -= part;
                begin..begin + part
            };
            let ranges: Vec<_> = many.iter().map(cut).collect();
            let pieces = many.iter().zip(ranges).map(|(piece, range)| &piece[range]);
            let all: Vec<&[u8]> = std::iter::once(key).chain(pieces).collect();
            wire.end.put(header, &all)
        }
    }
}
