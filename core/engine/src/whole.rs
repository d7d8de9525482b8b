//! Calls between two apps whose request and answer are one record each: moved at once from where one app wrote them to where
//! the other reads, without passing through a slot's queue. Whatever does not fit goes the general way (`exchange.rs`,
//! `egress.rs`), and nothing was changed then.

use shmesh_io::{Chunks, Driver, SharedSlice};
use shmesh_proto::http1::{
    BodyKind, ConnectionOption, Framing, HeadLimits, ResponseHead, ResponseOut, Status, Version, write_response,
};
use shmesh_shm::{CallState, Flags, Header, INLINE_KEY, InPlace, Kind as RecordKind, Protocol, TOTAL_UNKNOWN};

use crate::call::{Call, Exchange, Failure, Kind, Peer};
use crate::ingress::{Breach, COPY_MAX, deadline, remaining_us};
use crate::lane::{Lane, SlotRef, User};
use crate::slab::Key;
use crate::upstream::EndpointState;
use crate::worker::{Worker, head_limits};

/// Records up to this many bytes are moved whole; longer ones are lent, or moved in parts as credit allows.
pub(crate) const WHOLE_MAX: usize = 16 * 1024;

/// An answer's head that a serving app said before, and what becomes of it. Servers say the same head again and again;
/// comparing is cheaper than parsing.
#[derive(Default)]
pub struct KnownHead {
    /// As it came.
    raw: Vec<u8>,
    /// As it leaves: without framing and hop-by-hop fields.
    out: Vec<u8>,
    status: u16,
    /// Its Content-Length, if it has one.
    declared: Option<u64>,
    /// The snapshot under whose limits it was read.
    version: u64,
}

impl<D: Driver> Worker<D> {
    /// Opens a call of one record with a defined route on the lane of an app that serves, if a slot is free there: as
    /// `open_exchange` and `dispatch` do it, in one go. False: these have to, and nothing was changed.
    pub(crate) fn open_whole(&mut self, at: SlotRef, header: &Header) -> bool {
        let Some(lane) = self.lanes.get_mut(at.lane) else { return false };
        let Some(Some(route)) = lane.routes.get_mut(header.route as usize) else { return false };
        let body_len = u64::from(header.length);
        if !header.flags.end()
            || header.length as usize > WHOLE_MAX
            || header.total != TOTAL_UNKNOWN && header.total != body_len
            || route.protocol != Protocol::Http
            || route.flaw.is_some()
            || route.declared.is_some_and(|declared| declared != body_len)
        {
            return false;
        }
        let begun = self.stages.begin();
        let cluster = route.cluster(&self.snapshot);
        self.stages.routed(begun);
        let Some(cluster) = cluster else { return false };
        let (head, head_only, idempotent) = (route.head.clone(), route.head_only, route.idempotent);
        let (request_has_body, listener) = (body_len > 0 || route.declared.is_some(), lane.listener);
        let Some(state) = self.clusters.get_mut(cluster as usize) else { return false };
        let mut turn = state.turn;
        let mut tries = turn.tries(state.endpoints.len());
        let endpoint = tries.next().and_then(|index| state.endpoints.get(index));
        let Some(&EndpointState::Shm { lane: Some(serving), .. }) = endpoint else { return false };
        let Some((from, to)) = self.lanes.pair_mut(at.lane, serving) else { return false };
        if to.free.is_empty() {
            return false;
        }
        let Some(place) = from.end.advance_in_place(0) else { return false };
        let Some(slot) = to.free.pop() else { return false };
        state.turn = turn;

        let now = self.driver.now();
        let opened = &mut to.slots[slot as usize];
        let generation = opened.generation + 1;
        let exchange = Exchange {
            http: true,
            tunnel: false,
            head,
            head_only,
            idempotent,
            request_length: Some(body_len),
            request_has_body,
            request_trailers: Vec::new(),
            in_place: Some(place),
            pending: Chunks::new(),
            replay: None,
            request_ended: true,
            response_chunked: false,
            head_put_at: None,
            response_has_trailers: false,
            status: 0,
            received: body_len,
            answer_left: None,
        };
        let key = self.calls.insert(Call {
            origin: Peer::Slot(at),
            dest: Some(Peer::Slot(SlotRef { lane: serving, slot, generation })),
            listener,
            cluster,
            named_host: None,
            tries,
            attempts: 0,
            connects: 0,
            queued: true,
            started: now,
            deadline: u64::MAX,
            hard_deadline: deadline(now, header.deadline_us),
            last_failure: Failure::Refused,
            on_socket: false,
            fresh: false,
            forwarded: false,
            answered: false,
            kind: Kind::Exchange(exchange),
        });
        opened.begin(generation, u64::from(to.end.geometry().window), User::Call(key));
        from.slots[at.slot as usize].user = User::Call(key);
        self.ready.push(key);
        self.in_place.push((key, at.lane, place));
        self.unsettled += 1;
        let within = self.first_byte_timeout(cluster);
        self.set_call_deadline(key, now + within);
        true
    }

    /// A call was made of a record whose payload still lies where its app wrote it. It stays there if the call is
    /// forwarded to a serving lane in this turn, and is taken from there now otherwise.
    pub(crate) fn leave_in_place(&mut self, key: Key<Call>, lane: Key<Lane>, place: InPlace) {
        self.in_place.push((key, lane, place));
        self.unsettled += 1;
        if self.calls.get(key).is_none_or(|call| !call.queued || !matches!(call.dest, Some(Peer::Slot(_)))) {
            self.settle_last();
        }
    }

    /// Before lanes are published: what was not moved is taken from its place.
    #[inline]
    pub(crate) fn settle_in_place(&mut self) {
        while self.unsettled > 0 && !self.in_place.is_empty() {
            self.settle_last();
        }
        self.in_place.clear();
        self.unsettled = 0;
    }

    fn settle_last(&mut self) {
        let Some((key, lane_key, place)) = self.in_place.pop() else { return };
        let Some(lane) = self.lanes.get_mut(lane_key) else { return };
        let Some(exchange) = self.calls.get_mut(key).and_then(Call::exchange) else {
            // It failed before it was moved.
            lane.end.give_back(place);
            return;
        };
        if exchange.in_place.is_none() {
            return;
        }
        self.unsettled = self.unsettled.saturating_sub(1);
        exchange.in_place = None;
        if place.is_empty() {
            lane.end.give_back(place);
            return;
        }
        if exchange.pending.is_unused() {
            exchange.pending = self.spare.pop().unwrap_or_default();
        }
        if place.len() > COPY_MAX as usize
            && let Some(lease) = lane.end.keep(place)
        {
            exchange.pending.push(SharedSlice::from(lease));
            if !lane.lends {
                lane.lends = true;
                self.lending.push(lane_key);
            }
            return;
        }
        self.counters.copied.add(place.len() as u64);
        let body = self.driver.pool().append_with(place.len(), |dst| {
            let read = lane.end.read_in_place(&place, dst);
            debug_assert!(read, "in the turn in which the record was taken");
        });
        exchange.pending.push(body);
        lane.end.give_back(place);
    }

    /// Puts a whole request on a serving lane. False: it has to go the general way.
    pub(crate) fn forward_whole(&mut self, key: Key<Call>) -> bool {
        if self.move_request(key) {
            return true;
        }
        if let Some(index) = self.in_place.iter().position(|entry| entry.0 == key) {
            let last = self.in_place.len() - 1;
            self.in_place.swap(index, last);
            self.settle_last();
        }
        false
    }

    fn move_request(&mut self, key: Key<Call>) -> bool {
        let now = self.driver.now();
        let Some(Call {
            origin: Peer::Slot(origin),
            dest: Some(Peer::Slot(at)),
            kind: Kind::Exchange(exchange),
            hard_deadline,
            ..
        }) = self.calls.get_mut(key)
        else {
            return false;
        };
        let Some(place) = exchange.in_place else { return false };
        let (origin, at) = (*origin, *at);
        let Some((from, to)) = self.lanes.pair_mut(origin.lane, at.lane) else { return false };
        let Some(slot) = to.slots.get_mut(at.slot as usize) else { return false };
        let head = exchange.head.as_slice();
        let length = (head.len() + place.len()) as u64;
        if !exchange.http || length > slot.credit || !to.queue.is_empty() {
            return false;
        }
        let mut header = Header::new(RecordKind::Open, at.slot, at.generation);
        header.code = Protocol::Http as u16;
        header.route = INLINE_KEY;
        header.flags = Flags::END;
        header.head_len = head.len() as u32;
        header.total = place.len() as u64;
        header.deadline_us = remaining_us(*hard_deadline, now);
        if to.end.put_moved(&header, head, &from.end, place).is_err() {
            return false;
        }
        self.counters.copied.add(place.len() as u64);
        exchange.in_place = None;
        from.end.give_back(place);
        self.unsettled -= 1;
        slot.credit -= length;
        slot.end = true;
        slot.sent_end = true;
        if !to.listed {
            to.listed = true;
            self.dirty_lanes.push(at.lane);
        }
        true
    }

    /// Takes a serving app's whole answer, the peeked record, straight to the calling lane. False: the general way.
    pub(crate) fn answer_whole(&mut self, at: SlotRef, key: Key<Call>, header: &Header) -> Result<bool, Breach> {
        let Some(call) = self.calls.get_mut(key) else { return Ok(false) };
        let (Peer::Slot(origin), Kind::Exchange(exchange)) = (call.origin, &mut call.kind) else { return Ok(false) };
        let body_len = header.length - header.head_len;
        if !header.flags.end()
            || header.length as usize > WHOLE_MAX
            || header.total != TOTAL_UNKNOWN && header.total != u64::from(body_len)
            || !exchange.http
            || exchange.tunnel
            || exchange.head_only
            || !exchange.request_ended
        {
            return Ok(false);
        }
        let Some((from, to)) = self.lanes.pair_mut(at.lane, origin.lane) else { return Ok(false) };
        let (Some(served), Some(asked)) =
            (from.slots.get_mut(at.slot as usize), to.slots.get_mut(origin.slot as usize))
        else {
            return Ok(false);
        };
        // Both slots are over with this record, and nothing is to go before it.
        if !served.sent_end
            || served.has_output()
            || asked.user != User::Call(key)
            || asked.generation != origin.generation
            || !asked.received_end
            || asked.has_output()
            || !to.queue.is_empty()
        {
            return Ok(false);
        }

        self.head_bytes.clear();
        from.end.append_payload(0..header.head_len, &mut self.head_bytes)?;
        let (known, version) = (&mut *from.known_head, self.snapshot.version);
        if known.raw != self.head_bytes || known.version != version || known.raw.is_empty() {
            let limits = head_limits(&self.snapshot);
            if !known.learn(&self.head_bytes, version, &limits, &mut self.response_head) {
                return Ok(false);
            }
        }
        if known.declared.is_some_and(|declared| declared != u64::from(body_len)) {
            return Ok(false);
        }

        let Some(place) = from.end.place(header.head_len) else { return Ok(false) };
        if asked.credit < (known.out.len() + place.len()) as u64 {
            return Ok(false);
        }
        let mut answer = Header::new(RecordKind::Answer, origin.slot, origin.generation);
        answer.code = known.status;
        answer.flags = Flags::END;
        answer.head_len = known.out.len() as u32;
        answer.total = u64::from(body_len);
        if to.end.put_moved(&answer, &known.out, &from.end, place).is_err() {
            return Ok(false);
        }
        self.counters.copied.add(u64::from(body_len));
        // Release, and before the record that ends the answer is published.
        to.end.set_state(origin.slot, origin.generation, CallState::Answered);
        from.end.advance();
        asked.user = User::Free;
        to.usage.end_call();
        served.user = User::Free;
        from.free.push(at.slot);
        if !to.listed {
            to.listed = true;
            self.dirty_lanes.push(origin.lane);
        }

        let status = known.status;
        let waiting = !from.waiting.is_empty();
        let spare = std::mem::take(&mut exchange.pending);
        let (listener, cluster, started) = (call.listener, call.cluster, call.started);
        self.drop_call(key);
        self.keep_chunks(spare);
        self.count(listener, cluster, status, started);
        if waiting {
            self.open_waiting(at.lane);
        }
        Ok(true)
    }
}

impl KnownHead {
    /// Reads another head. False: it is not valid, or not one that goes this way; then nothing is known.
    fn learn(&mut self, raw: &[u8], version: u64, limits: &HeadLimits, head: &mut ResponseHead) -> bool {
        self.raw.clear();
        let complete = matches!(head.parse(raw, limits, false), Ok(Status::Complete)) && head.len as usize == raw.len();
        if !complete || head.is_interim() || matches!(head.status, 204 | 304) {
            return false;
        }
        self.declared = match head.body {
            BodyKind::None | BodyKind::UntilClose => None,
            BodyKind::Length(length) => Some(length),
            BodyKind::Chunked => return false,
        };
        let how = ResponseOut {
            framing: Framing::Unframed,
            connection: ConnectionOption::KeepAlive,
            version: Version::Http11,
        };
        self.out.clear();
        write_response(&mut self.out, head, raw, &how);
        self.raw.extend_from_slice(raw);
        self.status = head.status;
        self.version = version;
        true
    }
}
