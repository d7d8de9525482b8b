//! Records from apps that serve: their answers, and how these become the answers of the calls that were opened there.

use shmesh_io::{Chunk, Driver, Slice};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};
use shmesh_proto::http1::{BodyKind, Status};
use shmesh_shm::{Header, INLINE_KEY, TOTAL_UNKNOWN};

use crate::call::{Call, Exchange, Failure, Kind};
use crate::ingress::{Breach, LENGTH_MAX, PARTIAL_RESERVE};
use crate::lane::{Lane, Partial, SlotRef, Terms, User};
use crate::slab::Key;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    /// The answer of a serving app begins.
    pub(crate) fn answer(&mut self, key: Key<Lane>, header: &Header) -> Result<(), Breach> {
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
        if lane.serves.is_none() {
            return Err(Breach::WrongLane);
        }
        let Some(user) = lane.take_part(header)? else { return Ok(()) };
        let at = SlotRef { lane: key, slot: header.slot, generation: header.generation };
        if let User::Relay(origin) = user
            && self.answer_relay(at, origin, header)?
        {
            return Ok(());
        }
        let User::Call(call_key) = self.unlinked(at, user) else {
            self.skip(key);
            self.consumed(at, u64::from(header.length));
            if header.flags.end() {
                self.slot_discard(at);
            }
            return Ok(());
        };
        let Some(call) = self.calls.get_mut(call_key) else {
            self.skip(key);
            return Ok(());
        };
        if call.answered {
            return Err(Breach::AnsweredTwice);
        }
        match &call.kind {
            Kind::Dubbo(dubbo) if !dubbo.header.two_way => {
                self.skip(key);
                self.slot_finish(at);
                self.dubbo_one_way_taken(call_key);
                Ok(())
            }
            Kind::Dubbo(_) => self.answer_dubbo(at, call_key, header),
            Kind::Exchange(exchange) if exchange.http => self.answer_http(at, call_key, header),
            Kind::Exchange(_) => {
                self.raw_answer_begins(call_key);
                self.answer_part(at, call_key, header)
            }
        }
    }

    fn answer_dubbo(&mut self, at: SlotRef, call: Key<Call>, header: &Header) -> Result<(), Breach> {
        let frame = self.copy_payload(at.lane, header, 0)?;
        if let Some(state) = self.calls.get_mut(call) {
            state.answered = true;
        }
        if header.flags.end() {
            self.slot_finish(at);
            self.dubbo_answer_frame(call, frame);
            return Ok(());
        }
        let mut held = Vec::with_capacity(PARTIAL_RESERVE);
        held.extend_from_slice(frame.as_slice());
        if let Some(slot) = self.lanes.get_mut(at.lane).and_then(|lane| lane.slot_mut(at)) {
            // Its call has deadlines of its own.
            let terms = Terms { key: None, route: INLINE_KEY, one_way: false, hard_deadline: u64::MAX, held: None };
            slot.partial = Some(Box::new(Partial { terms, frame: held, until: u64::MAX }));
        }
        if !self.hold_part(at, header.length as usize) {
            self.fail(call, Failure::Overloaded);
            return Ok(());
        }
        self.consumed(at, u64::from(header.length));
        Ok(())
    }

    /// A whole frame of a serving app.
    fn dubbo_answer_frame(&mut self, call: Key<Call>, mut frame: Slice) {
        let body_max = self.snapshot.limits.dubbo_body_bytes;
        let parsed = frame.as_slice().first_chunk::<HEADER_LEN>().map(|bytes| FrameHeader::parse(bytes, body_max));
        match parsed {
            Some(Ok(header))
                if !header.request && !header.event && header.body_len as usize == frame.len() - HEADER_LEN =>
            {
                frame.advance(HEADER_LEN);
                self.dubbo_answer(call, header, frame);
            }
            _ => {
                if let Some(state) = self.calls.get_mut(call) {
                    state.dest = None;
                }
                self.fail(call, Failure::MalformedAnswer);
            }
        }
    }

    fn answer_http(&mut self, at: SlotRef, call: Key<Call>, header: &Header) -> Result<(), Breach> {
        let limits = self.head_limits();
        let mut head = std::mem::take(&mut self.response_head);
        let mut bytes = std::mem::take(&mut self.head_bytes);
        bytes.clear();
        let Some(lane) = self.lanes.get_mut(at.lane) else { return Ok(()) };
        self.parsed += u64::from(header.head_len);
        lane.end.append_payload(0..header.head_len, &mut bytes)?;
        let chunk = self.take_payload(at.lane, header, header.head_len)?;
        let body_len = u64::from(header.length - header.head_len);
        let to_head = self.calls.get_mut(call).and_then(Call::exchange).is_some_and(|exchange| exchange.head_only);
        let known = match (header.flags.end(), header.total) {
            (true, _) => Some(body_len),
            (false, TOTAL_UNKNOWN) => None,
            (false, total) => Some(total),
        };
        let valid = matches!(head.parse(&bytes, &limits, to_head), Ok(Status::Complete))
            && head.len as usize == bytes.len()
            && known.is_none_or(|known| known <= LENGTH_MAX)
            && (!header.flags.end() || header.total == TOTAL_UNKNOWN || header.total == body_len)
            && !head.is_interim()
            && match head.body {
                BodyKind::None | BodyKind::UntilClose => true,
                BodyKind::Length(length) => known == Some(length),
                BodyKind::Chunked => false,
            };
        if valid {
            let bodiless = to_head || matches!(head.status, 204 | 304);
            let body = match known {
                _ if bodiless => BodyKind::None,
                Some(length) => BodyKind::Length(length),
                None => BodyKind::Chunked,
            };
            if let Some(exchange) = self.calls.get_mut(call).and_then(Call::exchange) {
                exchange.answer_left = if bodiless { Some(0) } else { known };
            }
            self.response_head(call, &head, &bytes, body);
            self.note_ungranted(at, u64::from(header.length));
            self.answer_bytes(at, call, chunk, header.flags.end());
        } else {
            self.fail(call, Failure::MalformedAnswer);
        }
        self.head_bytes = bytes;
        self.response_head = head;
        Ok(())
    }

    /// The next part of a serving app's answer.
    pub(crate) fn answer_part(&mut self, at: SlotRef, call: Key<Call>, header: &Header) -> Result<(), Breach> {
        if let Some(Kind::Dubbo(_)) = self.calls.get(call).map(|call| &call.kind) {
            let frame_max = self.snapshot.limits.dubbo_body_bytes as usize + HEADER_LEN;
            let Some(lane) = self.lanes.get_mut(at.lane) else { return Ok(()) };
            let partial = lane.slots[at.slot as usize].partial.as_mut();
            let whole = match partial {
                Some(partial) if partial.frame.len() + header.length as usize <= frame_max => {
                    self.counters.copied.add(header.length.into());
                    lane.end.append_payload(0..header.length, &mut partial.frame)?;
                    header.flags.end().then(|| std::mem::take(&mut partial.frame))
                }
                _ => {
                    lane.end.advance();
                    self.fail(call, Failure::MalformedAnswer);
                    return Ok(());
                }
            };
            lane.end.advance();
            if whole.is_none() && !self.hold_part(at, header.length as usize) {
                self.fail(call, Failure::Overloaded);
                return Ok(());
            }
            self.consumed(at, u64::from(header.length));
            if let Some(frame) = whole {
                self.slot_finish(at);
                self.dubbo_answer_frame(call, Slice::from_vec(frame));
            }
            return Ok(());
        }
        let chunk = self.take_payload(at.lane, header, 0)?;
        self.note_ungranted(at, u64::from(header.length));
        let tunnel =
            matches!(self.calls.get(call).map(|call| &call.kind), Some(Kind::Exchange(Exchange { tunnel: true, .. })));
        if !tunnel && self.calls.get(call).is_some_and(|call| !call.answered) {
            // DATA before ANSWER: there is no head to go with it.
            self.fail(call, Failure::MalformedAnswer);
            return Ok(());
        }
        if tunnel {
            if let Some(chunk) = chunk {
                self.response_data(call, chunk);
            }
            if header.flags.end() {
                self.raw_slot_ended(call);
            }
        } else {
            self.answer_bytes(at, call, chunk, header.flags.end());
        }
        Ok(())
    }

    /// Body bytes of a serving app's answer, which may not exceed or fall short of what was announced.
    fn answer_bytes(&mut self, at: SlotRef, call: Key<Call>, chunk: Option<Chunk>, end: bool) {
        let length = chunk.as_ref().map_or(0, Chunk::len) as u64;
        let Some(exchange) = self.calls.get_mut(call).and_then(Call::exchange) else { return };
        if let Some(left) = exchange.answer_left {
            if length > left || end && length != left {
                self.fail(call, Failure::MalformedAnswer);
                return;
            }
            exchange.answer_left = Some(left - length);
        }
        if let Some(chunk) = chunk {
            self.response_data(call, chunk);
        } else {
            self.grant(at);
        }
        if end {
            let Some(state) = self.calls.get_mut(call) else { return };
            // The slot has said everything; whether the app still has to read the request does not matter any more.
            if let Some(exchange) = state.exchange()
                && exchange.request_ended
            {
                self.slot_finish(at);
            }
            self.response_end(call);
        }
    }
}
