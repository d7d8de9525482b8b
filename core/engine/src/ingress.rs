//! Records from apps: what is taken from the rings, checked, and turned into calls, streams and their parts.

use shmesh_io::{Chunk, Chunks, Driver, SharedSlice, Slice};
use shmesh_policy::Protocol as Spoken;
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};
use shmesh_shm::{
    CallState, Header, INLINE_KEY, Kind as RecordKind, Protocol, ROUTE_IDS, Reset, TOTAL_UNKNOWN, Violation,
};

use crate::call::{Call, Exchange, Failure, Kind, Peer};
use crate::conn::Pipe;
use crate::dubbo_route::{Routed, agreeing};
use crate::egress::TURN_BYTES;
use crate::lane::{Lane, Partial, SlotRef, Terms, User};
use crate::quota::Quota;
use crate::route_key::RouteKey;
use crate::slab::Key;
use crate::timer::Owner;
use crate::worker::{LANE_COOLS_AFTER, Worker};

/// Records taken from one lane in one turn, so that a busy app does not keep the others waiting.
const RECORDS_PER_TURN: usize = 64;

/// Payloads up to this many bytes are copied out of a block; longer ones are sent from where they lie.
pub(crate) const COPY_MAX: u32 = 4096;

/// Frames that come in parts, and heads, never exceed what they declare; this is what is set aside at first.
pub(crate) const PARTIAL_RESERVE: usize = 64 * 1024;

/// Frames up to this many bytes do not count for the bytes of their session: the number of its calls bounds them.
const UNCOUNTED_MAX: usize = 16 * 1024;

/// The longest body whose length is said to a peer: some keep it in a signed word, as the HTTP codec assumes of all.
pub(crate) const LENGTH_MAX: u64 = i64::MAX as u64;

/// Bytes of all keys that one lane defines; calls with further ones are answered `overloaded`. 1,024 ids of 512 bytes.
pub const KEY_BYTES_MAX: usize = 512 * 1024;

/// Why a session has to end: what the app did against the page.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error(transparent)]
    Shm(#[from] Violation),
    #[error("OPEN in a slot that is in use")]
    SlotInUse,
    #[error("a generation that is not greater than the slot's last")]
    OldGeneration,
    #[error("a record for a call that was never opened")]
    UnknownCall,
    #[error("more payload than credit")]
    OverCredit,
    #[error("credit beyond 2^31")]
    TooMuchCredit,
    #[error("payload after END")]
    AfterEnd,
    #[error("a route id that was not defined")]
    UndefinedRoute,
    #[error("a record that this kind of lane does not take")]
    WrongLane,
    #[error("ANSWER twice")]
    AnsweredTwice,
}

impl Breach {
    /// The label of the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Breach::Shm(violation) => violation.reason(),
            Breach::SlotInUse => "slot-in-use",
            Breach::OldGeneration => "old-generation",
            Breach::UnknownCall => "unknown-call",
            Breach::OverCredit => "over-credit",
            Breach::TooMuchCredit => "too-much-credit",
            Breach::AfterEnd => "after-end",
            Breach::UndefinedRoute => "undefined-route",
            Breach::WrongLane => "wrong-lane",
            Breach::AnsweredTwice => "answered-twice",
        }
    }
}

impl<D: Driver> Worker<D> {
    /// Takes records from every hot lane; true if there were any.
    #[inline(never)]
    pub(crate) fn lanes_ingress(&mut self) -> bool {
        let now = self.driver.now();
        let mut worked = false;
        let mut index = 0;
        while index < self.hot.len() {
            let key = self.hot[index];
            match self.lane_ingress(key, now) {
                Ok(0) => {
                    let Some(lane) = self.lanes.get_mut(key) else {
                        self.hot.swap_remove(index);
                        continue;
                    };
                    if now.saturating_sub(lane.active) > LANE_COOLS_AFTER && lane.end.park(lane.blocked) {
                        lane.hot = false;
                        lane.usage.rest();
                        self.hot.swap_remove(index);
                        continue;
                    }
                }
                Ok(_) => worked = true,
                Err(breach) => {
                    self.breach(key, breach);
                    worked = true;
                    continue;
                }
            }
            index += 1;
        }
        worked
    }

    /// Takes records from one lane; says how many.
    fn lane_ingress(&mut self, key: Key<Lane>, now: u64) -> Result<usize, Breach> {
        let mut taken = 0;
        let outcome = self.take_records(key, &mut taken);
        self.forward_taken(key);
        outcome?;
        if let Some(lane) = self.lanes.get_mut(key) {
            if taken > 0 {
                lane.active = now;
                self.idle.stirred = true;
                self.stages.waited(lane.looked, taken);
            }
            lane.looked = self.stages.begin();
        }
        if taken > 0 {
            self.touch_lane(key);
        }
        Ok(taken)
    }

    /// Bytes that were copied or will be, or were read as keys and heads, ever: what ends a turn.
    fn handled(&self) -> u64 {
        self.counters.copied.get() + self.parsed
    }

    fn take_records(&mut self, key: Key<Lane>, taken: &mut usize) -> Result<(), Breach> {
        let handled = self.handled();
        while *taken < RECORDS_PER_TURN && self.handled() - handled < TURN_BYTES {
            let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
            let Some(header) = lane.end.peek()? else { return Ok(()) };
            *taken += 1;
            self.record(key, &header)?;
        }
        Ok(())
    }

    fn record(&mut self, key: Key<Lane>, header: &Header) -> Result<(), Breach> {
        match header.kind {
            RecordKind::Define => self.define(key, header),
            RecordKind::Open => self.open(key, header),
            RecordKind::Answer => self.answer(key, header),
            RecordKind::Data => self.data(key, header),
            RecordKind::Credit => self.credit(key, header),
            RecordKind::Reset => self.reset(key, header),
        }
    }

    fn define(&mut self, key: Key<Lane>, header: &Header) -> Result<(), Breach> {
        // What was opened under the id before has its head to be sent still.
        self.forward_taken(key);
        let mut route = self.read_key(key, header, header.length)?;
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
        lane.end.advance();
        let index = header.route as usize;
        if lane.routes.len() <= index {
            lane.routes.resize_with(index + 1, || None);
        }
        let mut over = None;
        match lane.routes[index].as_ref().filter(|old| !old.is_uncounted()) {
            Some(old) => lane.key_bytes -= old.bytes as usize,
            None => over = lane.usage.session().take_route_id(&self.snapshot.session.quotas).err(),
        }
        if lane.key_bytes + header.length as usize > KEY_BYTES_MAX {
            over = over.or(Some(Quota::KeyBytes));
        }
        match over {
            Some(quota) => route = RouteKey::unusable(route.protocol, Failure::OverQuota(quota)),
            None => {
                route.bytes = header.length;
                lane.key_bytes += header.length as usize;
            }
        }
        // A key that does not parse leaves its id undefined in effect: calls with it are answered as malformed.
        lane.routes[index] = Some(route);
        debug_assert!(header.route < ROUTE_IDS);
        if let Some(quota) = over {
            self.over_quota(key, quota);
        }
        Ok(())
    }

    /// Reads the first `length` bytes of the peeked record's payload as a routing key.
    fn read_key(&mut self, key: Key<Lane>, header: &Header, length: u32) -> Result<RouteKey, Breach> {
        let Some(lane) = self.lanes.get_mut(key) else { return Err(Breach::UnknownCall) };
        let protocol = header.protocol().ok_or(Violation::Code)?;
        let mut bytes = vec![0; length as usize];
        self.parsed += u64::from(length);
        lane.end.read_payload(0, &mut bytes)?;
        let read = RouteKey::read(protocol, &bytes, &self.snapshot, &mut self.request_head, &mut self.scratch);
        Ok(read.unwrap_or_else(|failure| RouteKey::unusable(protocol, failure)))
    }

    fn open(&mut self, key: Key<Lane>, header: &Header) -> Result<(), Breach> {
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
        if lane.serves.is_some() {
            return Err(Breach::WrongLane);
        }
        let window = u64::from(lane.end.geometry().window);
        let slot = lane.slots.get_or_make(header.slot);
        if header.generation <= slot.generation {
            return Err(Breach::OldGeneration);
        }
        let counted = match slot.user {
            User::Free => lane.usage.begin_call(&self.snapshot.session.quotas),
            // The answer is out and the app has it: nobody waits for the rest of the request. It was counted already.
            User::Discard => {
                slot.clear();
                Ok(())
            }
            User::Partial | User::Call(_) | User::Relay(_) | User::Stream(_) => return Err(Breach::SlotInUse),
        };
        slot.begin(header.generation, window, User::Discard);
        let left = window.checked_sub(u64::from(header.length)).ok_or(Breach::OverCredit)?;
        slot.window = left;
        slot.received_end = header.flags.end();
        lane.end.set_state(header.slot, header.generation, CallState::Accepted);
        let at = SlotRef { lane: key, slot: header.slot, generation: header.generation };
        if let Err(quota) = counted {
            lane.end.advance();
            self.over_quota(key, quota);
            self.slot_reset(at, Reset::Overloaded, quota.sentence());
            return Ok(());
        }
        let protocol = header.protocol().ok_or(Violation::Code)?;
        if header.flags.stream() {
            return self.open_stream(at, header, protocol);
        }
        match protocol {
            Protocol::Http if self.open_relay(at, header) => Ok(()),
            Protocol::Http | Protocol::Raw => self.open_exchange(at, header, protocol),
            Protocol::Dubbo2 => self.open_dubbo(at, header),
        }
    }

    /// A call that is streamed: HTTP, or raw.
    fn open_exchange(&mut self, at: SlotRef, header: &Header, protocol: Protocol) -> Result<(), Breach> {
        let mut inline =
            if header.route == INLINE_KEY { Some(self.read_key(at.lane, header, header.head_len)?) } else { None };
        let Some(lane) = self.lanes.get_mut(at.lane) else { return Ok(()) };
        let listener = lane.listener;
        let route = match &mut inline {
            Some(route) => route,
            None => {
                lane.routes.get_mut(header.route as usize).and_then(Option::as_mut).ok_or(Breach::UndefinedRoute)?
            }
        };
        let end = header.flags.end();
        let body_len = u64::from(header.length - header.head_len);
        let total = if end { body_len } else { header.total };
        let known = (end || header.total != TOTAL_UNKNOWN).then_some(total);
        let mut failure = route.flaw;
        if route.protocol != protocol
            || route.declared.is_some_and(|declared| known != Some(declared))
            || (end && header.total != TOTAL_UNKNOWN && header.total != body_len)
            || known.is_some_and(|known| body_len > known || known > LENGTH_MAX)
        {
            failure = Some(Failure::MalformedRequest);
        }
        let begun = self.stages.begin();
        let way = route.way(&self.snapshot);
        self.stages.routed(begun);
        let (head, head_only) = (route.head.clone(), route.head_only);
        let cluster = way.map(|way| way.cluster.0);
        let idempotent = way.and_then(|way| way.idempotent).unwrap_or(route.idempotent);
        let request_has_body = known != Some(0) || route.declared.is_some();
        let mut pending = Chunks::new();
        if let Some(chunk) = self.take_payload(at.lane, header, header.head_len)? {
            pending = self.spare_chunks();
            pending.push(chunk);
        }
        let exchange = Exchange {
            http: protocol == Protocol::Http,
            head,
            head_only,
            idempotent,
            request_length: known,
            request_has_body,
            pending,
            request_ended: end,
            received: body_len,
            ..Exchange::default()
        };
        let call = self.new_call(Peer::Slot(at), listener, cluster.unwrap_or(u32::MAX), Kind::Exchange(exchange));
        self.occupy(at, User::Call(call));
        if header.deadline_us != 0 {
            self.caller_deadline(call, header.deadline_us);
        }
        if !end {
            self.note_ungranted(at, u64::from(header.length));
        }
        self.begin_call(call, failure.or(cluster.is_none().then_some(Failure::NoRoute)));
        Ok(())
    }

    /// A Dubbo call: its frame is held whole before it goes anywhere.
    fn open_dubbo(&mut self, at: SlotRef, header: &Header) -> Result<(), Breach> {
        let inline =
            if header.route == INLINE_KEY { Some(self.read_key(at.lane, header, header.head_len)?) } else { None };
        let hard_deadline = deadline(self.driver.now(), header.deadline_us);
        let until = hard_deadline.min(self.driver.now() + self.snapshot.timeouts.idle.as_nanos() as u64);
        let one_way = header.flags.one_way();
        let mut terms = Terms { key: inline, route: header.route, one_way, hard_deadline, held: None };
        if header.flags.end() {
            let frame = self.copy_payload(at.lane, header, header.head_len)?;
            return self.dubbo_frame(at, frame, terms);
        }
        let frame = self.copy_payload(at.lane, header, header.head_len)?;
        terms.held = self.hold(at, None, frame.len());
        if terms.held.is_none() {
            return Ok(());
        }
        let mut held = Vec::with_capacity(PARTIAL_RESERVE);
        held.extend_from_slice(frame.as_slice());
        let Some(lane) = self.lanes.get_mut(at.lane) else { return Ok(()) };
        if let Some(slot) = lane.slot_mut(at) {
            slot.user = User::Partial;
            slot.partial = Some(Box::new(Partial { terms, frame: held, until }));
        }
        self.timers.arm(Owner::Lane(at.lane.index() as u32), until);
        self.consumed(at, u64::from(header.length));
        Ok(())
    }

    /// A whole Dubbo frame from an app: its header must be the record's, its strings the key's.
    pub(crate) fn dubbo_frame(&mut self, at: SlotRef, mut frame: Slice, terms: Terms) -> Result<(), Breach> {
        let Terms { key: mut own, route, one_way, hard_deadline, mut held } = terms;
        let snapshot = self.snapshot.clone();
        let body_max = snapshot.limits.dubbo_body_bytes;
        let Some(lane) = self.lanes.get_mut(at.lane) else { return Ok(()) };
        let listener = lane.listener;
        let key = match own.as_mut() {
            Some(key) => key,
            None => lane.routes.get_mut(route as usize).and_then(Option::as_mut).ok_or(Breach::UndefinedRoute)?,
        };
        let way = key.way(&snapshot);
        let mut header = None;
        let routed = match frame.as_slice().first_chunk::<HEADER_LEN>() {
            Some(bytes) => match FrameHeader::parse(bytes, body_max) {
                Ok(parsed) if parsed.request && !parsed.event => {
                    header = Some(parsed);
                    let body = &frame.as_slice()[HEADER_LEN..];
                    let is_announced = body.len() == parsed.body_len as usize
                        && parsed.two_way != one_way
                        && key.protocol == Protocol::Dubbo2;
                    match agreeing(&mut self.fronts, &self.counters, key, parsed.serialization, body)
                        .filter(|_| is_announced)
                    {
                        None => Err(Failure::MalformedRequest),
                        Some(peek) => match key.asks_frame() {
                            Some(asked) => {
                                self.counters.dubbo_keys_of_skipper.add(1);
                                self.attachments.route(&snapshot, parsed.serialization, body, peek, asked)
                            }
                            None => {
                                self.counters.dubbo_keys_of_record.add(1);
                                way.ok_or(Failure::NoRoute).map(|way| match key.said_of_dubbo() {
                                    Some(key) => Routed::to(&snapshot, way, parsed.serialization, &key),
                                    None => Routed { way, told: Slice::empty() },
                                })
                            }
                        },
                    }
                }
                _ => Err(Failure::MalformedRequest),
            },
            None => Err(Failure::MalformedRequest),
        };
        let Some(header) = header else {
            self.counters.dubbo_malformed.add(1);
            self.slot_reset(at, Failure::MalformedRequest.reset(), "the payload is not a Dubbo2 request frame");
            return Ok(());
        };
        if held.is_none() && frame.len() > UNCOUNTED_MAX {
            held = self.hold(at, None, frame.len());
            if held.is_none() {
                return Ok(());
            }
        }
        frame.advance(HEADER_LEN);
        let mut body = self.spare_chunks();
        body.push(Chunk::Private(frame));
        let (routed, failure) = Routed::or_nowhere(routed);
        let call = self.new_dubbo(Peer::Slot(at), listener, header, body, routed);
        self.occupy(at, User::Call(call));
        if let Some(state) = self.calls.get_mut(call) {
            state.hard_deadline = state.hard_deadline.min(hard_deadline);
            if let Kind::Dubbo(dubbo) = &mut state.kind {
                dubbo.held = held;
            }
        }
        self.dubbo_go(call, failure);
        Ok(())
    }

    /// A stream stands in for a connection to a listener.
    fn open_stream(&mut self, at: SlotRef, header: &Header, protocol: Protocol) -> Result<(), Breach> {
        let streams_max = self.snapshot.limits.streams_per_lane as usize;
        let key = if header.head_len > 0 { Some(self.read_key(at.lane, header, header.head_len)?) } else { None };
        let data = self.copy_payload(at.lane, header, header.head_len)?;
        let snapshot = self.snapshot.clone();
        let Some(lane) = self.lanes.get(at.lane) else { return Ok(()) };
        let listener = lane.listener;
        let open = lane.slots.iter().filter(|slot| matches!(slot.user, User::Stream(_))).count();
        if open >= streams_max {
            self.slot_reset(at, shmesh_shm::Reset::Overloaded, "limits.streams_per_lane is reached");
            return Ok(());
        }
        let (spoken, cluster) = match protocol {
            Protocol::Http => (Spoken::Http, None),
            Protocol::Dubbo2 => (Spoken::Dubbo, None),
            Protocol::Raw => {
                let defined = || self.lanes.get(at.lane)?.routes.get(header.route as usize)?.clone();
                let key = key.or_else(defined).filter(|key| key.protocol == Protocol::Raw);
                let cluster = key.and_then(|mut key| key.way(&snapshot)).map(|way| way.cluster.0);
                if cluster.is_none() {
                    self.slot_reset(at, Failure::NoRoute.reset(), Failure::NoRoute.sentence());
                    return Ok(());
                }
                (Spoken::Raw, cluster)
            }
        };
        self.occupy(at, User::Discard);
        let conn = self.new_downstream(Pipe::Stream(at), spoken, listener, cluster);
        if self.conns.get(conn).is_some() {
            self.occupy(at, User::Stream(conn));
        }
        if !data.is_empty() {
            self.consumed(at, data.len() as u64 + u64::from(header.head_len));
            self.conn_received(conn, data);
        }
        if header.flags.end() {
            self.conn_ended(conn, None);
        }
        Ok(())
    }

    fn data(&mut self, key: Key<Lane>, header: &Header) -> Result<(), Breach> {
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
        let Some(user) = lane.take_part(header)? else { return Ok(()) };
        let at = SlotRef { lane: key, slot: header.slot, generation: header.generation };
        match self.unlinked(at, user) {
            User::Free | User::Relay(_) => {}
            User::Discard => {
                self.skip(key);
                self.consumed(at, u64::from(header.length));
                if header.flags.end() {
                    self.slot_discard(at);
                }
            }
            User::Partial => self.data_partial(at, header)?,
            User::Stream(conn) => {
                let data = self.copy_payload(key, header, 0)?;
                if !data.is_empty() {
                    self.conn_received(conn, data);
                }
                self.note_ungranted(at, u64::from(header.length));
                self.start_recv(conn);
                if header.flags.end() {
                    self.conn_ended(conn, None);
                }
            }
            User::Call(call) => self.data_call(at, call, header)?,
        }
        Ok(())
    }

    /// The next part of a call's payload: of the request on a calling lane, of the answer on a serving lane.
    fn data_call(&mut self, at: SlotRef, call: Key<Call>, header: &Header) -> Result<(), Breach> {
        if self.lanes.get(at.lane).is_some_and(|lane| lane.serves.is_some()) {
            return self.answer_part(at, call, header);
        }
        let length = u64::from(header.length);
        let chunk = self.take_payload(at.lane, header, 0)?;
        let mut wrong_length = false;
        if let Some(exchange) = self.calls.get_mut(call).and_then(Call::exchange) {
            exchange.received += length;
            if let Some(total) = exchange.request_length {
                wrong_length = exchange.received > total || header.flags.end() && exchange.received != total;
            }
        }
        self.note_ungranted(at, length);
        if wrong_length {
            self.fail(call, Failure::MalformedRequest);
            return Ok(());
        }
        if let Some(chunk) = chunk {
            self.request_data(call, chunk);
        }
        if header.flags.end() {
            self.request_end(call);
        }
        Ok(())
    }

    fn credit(&mut self, key: Key<Lane>, header: &Header) -> Result<(), Breach> {
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
        lane.end.advance();
        let Some(slot) = lane.slots.get_mut(header.slot as usize) else { return Err(Breach::UnknownCall) };
        if header.generation > slot.generation {
            return Err(Breach::UnknownCall);
        }
        if header.generation < slot.generation || slot.user == User::Free {
            return Ok(());
        }
        slot.credit += u64::from(header.credit);
        if slot.credit > 1 << 31 {
            return Err(Breach::TooMuchCredit);
        }
        let user = slot.user;
        if slot.has_output() {
            lane.enqueue(header.slot);
        } else if let User::Call(call) = user {
            self.land_on_credit(call);
        }
        self.touch_lane(key);
        Ok(())
    }

    fn reset(&mut self, key: Key<Lane>, header: &Header) -> Result<(), Breach> {
        self.skip(key);
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
        let serving = lane.serves.is_some();
        let Some(slot) = lane.slots.get_mut(header.slot as usize) else { return Err(Breach::UnknownCall) };
        if header.generation > slot.generation {
            return Err(Breach::UnknownCall);
        }
        if header.generation < slot.generation || slot.user == User::Free {
            return Ok(());
        }
        let at = SlotRef { lane: key, slot: header.slot, generation: header.generation };
        let user = slot.user;
        let user = self.unlinked(at, user);
        self.slot_over(at);
        match user {
            User::Call(call) if serving => {
                if let Some(state) = self.calls.get_mut(call) {
                    state.dest = None;
                }
                let failure = match Reset::from_u16(header.code) {
                    Some(Reset::Overloaded) => Failure::Overloaded,
                    Some(Reset::Refused | Reset::Draining) => Failure::Refused,
                    Some(Reset::Timeout) => Failure::Timeout,
                    _ => Failure::Died,
                };
                self.fail(call, failure);
            }
            User::Call(call) => self.cancel(call),
            User::Stream(conn) => self.conn_ended(conn, Some(std::io::ErrorKind::ConnectionReset.into())),
            User::Free | User::Partial | User::Relay(_) | User::Discard => {}
        }
        Ok(())
    }

    /// What occupies a slot once a relayed call in it is in the table.
    pub(crate) fn unlinked(&mut self, at: SlotRef, user: User) -> User {
        if !matches!(user, User::Relay(_)) {
            return user;
        }
        // A request that waits to be forwarded is a part of what the app said before.
        self.forward_taken(at.lane);
        self.unlink(at.lane, at.slot);
        // Forwarding may have put the call into the table itself, or ended it.
        self.lanes.get(at.lane).map_or(User::Free, |lane| lane.slots[at.slot as usize].user)
    }

    // ---- Payload -----------------------------------------------------------------------------------------------

    /// The peeked record's payload from `from` on, consumed: copied if it is small, else lent until it was sent.
    pub(crate) fn take_payload(&mut self, key: Key<Lane>, header: &Header, from: u32) -> Result<Option<Chunk>, Breach> {
        let length = header.length - from;
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(None) };
        if length == 0 {
            lane.end.advance();
            return Ok(None);
        }
        if length > COPY_MAX
            && let Some(lease) = lane.end.advance_keep()
        {
            let mut shared = SharedSlice::from(lease);
            shared.advance(from as usize);
            if !lane.lends {
                lane.lends = true;
                self.lending.push(key);
            }
            return Ok(Some(Chunk::Shared(shared)));
        }
        self.copy_payload(key, header, from).map(|slice| Some(Chunk::Private(slice)))
    }

    /// The peeked record's payload from `from` on, copied and consumed.
    pub(crate) fn copy_payload(&mut self, key: Key<Lane>, header: &Header, from: u32) -> Result<Slice, Breach> {
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(Slice::empty()) };
        let length = (header.length - from) as usize;
        let mut outcome = Ok(());
        let slice = if length == 0 {
            Slice::empty()
        } else {
            self.counters.copied.add(length as u64);
            self.driver.pool().append_with(length, |dst| outcome = lane.end.read_payload(from, dst))
        };
        outcome?;
        lane.end.advance();
        Ok(slice)
    }

    pub(crate) fn skip(&mut self, key: Key<Lane>) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.end.advance();
        }
    }

    pub(crate) fn occupy(&mut self, at: SlotRef, user: User) {
        if let Some(lane) = self.lanes.get_mut(at.lane) {
            let slot = &mut lane.slots[at.slot as usize];
            if slot.generation == at.generation {
                slot.user = user;
            }
        }
    }

    fn caller_deadline(&mut self, key: Key<Call>, deadline_us: u32) {
        let at = deadline(self.driver.now(), deadline_us);
        if at != u64::MAX
            && let Some(call) = self.calls.get_mut(key)
        {
            call.hard_deadline = call.hard_deadline.min(at);
            let now = call.deadline;
            self.set_call_deadline(key, now);
        }
    }
}

impl Lane {
    /// Checks that the peeked part belongs to what its slot serves, and takes its bytes from the app's credit. `None`: it is of an
    /// older call and was skipped.
    #[inline(always)]
    pub(crate) fn take_part(&mut self, header: &Header) -> Result<Option<User>, Breach> {
        let Some(slot) = self.slots.get_mut(header.slot as usize) else { return Err(Breach::UnknownCall) };
        if header.generation > slot.generation {
            return Err(Breach::UnknownCall);
        }
        if header.generation < slot.generation || slot.user == User::Free {
            self.end.advance();
            return Ok(None);
        }
        if slot.received_end {
            return Err(Breach::AfterEnd);
        }
        slot.window = slot.window.checked_sub(u64::from(header.length)).ok_or(Breach::OverCredit)?;
        slot.received_end = header.flags.end();
        Ok(Some(slot.user))
    }
}

pub(crate) fn deadline(now: u64, deadline_us: u32) -> u64 {
    if deadline_us == 0 { u64::MAX } else { now + u64::from(deadline_us) * 1000 }
}

/// What is left of a deadline, as a record says it; 0 = there is none.
pub(crate) fn remaining_us(deadline: u64, now: u64) -> u32 {
    if deadline == u64::MAX { 0 } else { (deadline.saturating_sub(now) / 1000).clamp(1, u64::from(u32::MAX)) as u32 }
}
