//! Calls between two apps whose request and answer are one record each. Such a call is in no table: the slot on the
//! calling lane and the slot on the serving lane name each other ([`User::Relay`]), and each record is moved at once from where one app
//! wrote it to where the other reads. Whatever else happens to it (parts, RESET, a deadline, the end of a session) first puts it into the table of
//! calls ([`Worker::unlink`]) and is done there, as for all others.

use shmesh_io::{Chunk, Driver, Nanos, SharedSlice};
use shmesh_shm::{CallState, Flags, Header, INLINE_KEY, InPlace, Kind as RecordKind, LaneEnd, Protocol, TOTAL_UNKNOWN};

use crate::call::{Call, Exchange, Failure, Kind, Peer};
use crate::ingress::{Breach, COPY_MAX, deadline, remaining_us};
use crate::lane::{Lane, Slot, SlotRef, User};
use crate::slab::Key;
use crate::stages::Stage;
use crate::timer::Owner;
use crate::upstream::EndpointState;
use crate::worker::{Worker, head_limits};

/// Records up to this many bytes are moved whole; longer ones are lent, or moved in parts as credit allows.
const WHOLE_MAX: u32 = 16 * 1024;

/// The other slot of a relayed call.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub lane: Key<Lane>,
    pub slot: u32,
}

/// What the serving slot of a relayed call keeps of it.
#[derive(Copy, Clone, Default)]
pub struct Relay {
    pub listener: u16,
    pub cluster: u32,
    pub started: Nanos,
    /// When it fails with a timeout.
    pub deadline: Nanos,
    /// As [`Call::hard_deadline`].
    pub hard_deadline: Nanos,
}

/// A request that was taken and not forwarded yet; there are none but while the records of its lane are taken.
pub(crate) struct Taken {
    slot: u32,
    route: u32,
    to: Link,
    place: InPlace,
}

/// Why a request was not moved.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Unmoved {
    Withdrawn,
    /// It has to wait: for credit, or for room in the ring or the arena.
    NoRoom,
}

impl<D: Driver> Worker<D> {
    /// Takes a call of one record with a defined route, if an app that serves has a slot for it. False: it has to go the
    /// general way, and nothing was changed.
    pub(crate) fn open_relay(&mut self, at: SlotRef, header: &Header) -> bool {
        let Some(lane) = self.lanes.get(at.lane) else { return false };
        let Some(Some(route)) = lane.routes.get(header.route as usize) else { return false };
        let body_len = u64::from(header.length);
        if !header.flags.end()
            || header.length > WHOLE_MAX
            || header.total != TOTAL_UNKNOWN && header.total != body_len
            || !route.relayable
            || route.declared.is_some_and(|declared| declared != body_len)
            // It is refused there.
            || self.shared.load.is_short_of_memory()
        {
            return false;
        }
        let Some(cluster) = route.known_cluster(&self.snapshot) else { return false };
        let length = body_len + route.head.len() as u64;
        let Some(state) = self.clusters.get_mut(cluster as usize) else { return false };
        let mut turn = state.turn;
        let picked = turn.pick(state.endpoints.len());
        let Some(&EndpointState::Shm { lane: Some(serving), .. }) = state.endpoints.get(picked) else { return false };
        let Some((from, to)) = self.lanes.pair_mut(at.lane, serving) else { return false };
        // Nothing is to go before it.
        if !to.queue.is_empty() {
            return false;
        }
        let Some(&slot) = to.free.last() else { return false };
        let Some(place) = from.end.advance_in_place(0) else { return false };
        to.free.pop();
        state.turn = turn;

        let now = self.driver.now();
        let hard_deadline = deadline(now, header.deadline_us).min(now.saturating_add(state.request));
        let deadline = hard_deadline.min(now + state.first_byte);
        let window = u64::from(to.end.geometry().window);
        let opened = &mut to.slots[slot as usize];
        opened.begin(opened.generation + 1, window, User::Relay(Link { lane: at.lane, slot: at.slot }));
        to.relays[slot as usize] = Relay { listener: from.listener, cluster, started: now, deadline, hard_deadline };
        let link = Link { lane: serving, slot };
        from.slots[at.slot as usize].user = User::Relay(link);
        self.relayed += 1;
        self.parsed += length;
        self.timers.arm(Owner::Lane(serving.index() as u32), deadline);
        self.taken.push(Taken { slot: at.slot, route: header.route, to: link, place });
        true
    }

    /// Forwards what was taken from a lane, as one batch; as `forward_ready` does it.
    #[inline]
    pub(crate) fn forward_taken(&mut self, key: Key<Lane>) {
        if !self.taken.is_empty() {
            self.forward_batch(key);
        }
    }

    fn forward_batch(&mut self, key: Key<Lane>) {
        self.stages.mark(Stage::Ingress);
        let mut batch = std::mem::take(&mut self.taken);
        let Some(from) = self.lanes.get_mut(key) else { return };
        for taken in &batch {
            from.end.set_state(taken.slot, from.slots[taken.slot as usize].generation, CallState::Forwarded);
        }
        // SeqCst: pairs with the app's fence between withdrawing and reading the state.
        LaneEnd::fence();
        let lane_withdrawn = from.end.is_lane_withdrawn();
        for taken in batch.drain(..) {
            if let Err(why) = self.move_request(key, &taken, lane_withdrawn) {
                self.forward_unlinked(key, &taken, why);
            }
        }
        self.taken = batch;
        self.stages.mark(Stage::Dispatch);
    }

    /// Moves a request to its serving lane.
    fn move_request(&mut self, key: Key<Lane>, taken: &Taken, lane_withdrawn: bool) -> Result<(), Unmoved> {
        let (from, to) = self.lanes.pair_mut(key, taken.to.lane).ok_or(Unmoved::NoRoom)?;
        let asked = &from.slots[taken.slot as usize];
        if lane_withdrawn || from.end.is_slot_withdrawn(taken.slot, asked.generation) {
            return Err(Unmoved::Withdrawn);
        }
        let Some(Some(route)) = from.routes.get(taken.route as usize) else { return Err(Unmoved::NoRoom) };
        let (served, relay) = (&mut to.slots[taken.to.slot as usize], &to.relays[taken.to.slot as usize]);
        let head = route.head.as_slice();
        let length = (head.len() + taken.place.len()) as u64;
        if length > served.credit {
            return Err(Unmoved::NoRoom);
        }
        let mut header = Header::new(RecordKind::Open, taken.to.slot, served.generation);
        header.code = Protocol::Http as u16;
        header.route = INLINE_KEY;
        header.flags = Flags::END;
        header.head_len = head.len() as u32;
        header.total = taken.place.len() as u64;
        header.deadline_us = remaining_us(relay.hard_deadline, relay.started);
        to.end.put_moved(&header, head, &from.end, taken.place).map_err(|_| Unmoved::NoRoom)?;
        self.counters.copied.add(taken.place.len() as u64);
        from.end.give_back(taken.place);
        served.credit -= length;
        served.end = true;
        served.sent_end = true;
        if !to.listed {
            to.listed = true;
            self.dirty_lanes.push(taken.to.lane);
        }
        Ok(())
    }

    /// The general way for a request that could not be moved.
    #[cold]
    fn forward_unlinked(&mut self, key: Key<Lane>, taken: &Taken, why: Unmoved) {
        let Some(call) = self.unlink(key, taken.slot) else { return };
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if why == Unmoved::Withdrawn {
            lane.end.give_back(taken.place);
            self.counters.withdrawn.add(1);
            if let Some(call) = self.calls.get_mut(call) {
                call.forwarded = false;
            }
            self.fail(call, Failure::Withdrawn);
            return;
        }
        let head = lane.routes.get(taken.route as usize).and_then(Option::as_ref).map(|route| route.head.clone());
        let body = self.take_in_place(key, taken.place);
        if let Some(exchange) = self.calls.get_mut(call).and_then(Call::exchange) {
            exchange.head = head.unwrap_or_default();
            exchange.request_length = Some(taken.place.len() as u64);
            exchange.received = taken.place.len() as u64;
            if let Some(body) = body {
                exchange.pending.push(body);
            }
        }
        self.forward_exchange(call);
    }

    /// Payload that lies in place: copied if it is small, else lent until it was sent.
    fn take_in_place(&mut self, key: Key<Lane>, place: InPlace) -> Option<Chunk> {
        let lane = self.lanes.get_mut(key)?;
        if place.is_empty() {
            lane.end.give_back(place);
            return None;
        }
        if place.len() > COPY_MAX as usize
            && let Some(lease) = lane.end.keep(place)
        {
            if !lane.lends {
                lane.lends = true;
                self.lending.push(key);
            }
            return Some(Chunk::Shared(SharedSlice::from(lease)));
        }
        self.counters.copied.add(place.len() as u64);
        let body = self.driver.pool().append_with(place.len(), |dst| {
            let read = lane.end.read_in_place(&place, dst);
            debug_assert!(read, "in the turn in which the record was taken");
        });
        lane.end.give_back(place);
        Some(Chunk::Private(body))
    }

    /// Takes a serving app's whole answer, the peeked record, straight to the calling slot. False: the call goes the general way,
    /// and nothing was changed.
    pub(crate) fn answer_relay(&mut self, at: SlotRef, origin: Link, header: &Header) -> Result<bool, Breach> {
        let body_len = header.length - header.head_len;
        if !header.flags.end()
            || header.length > WHOLE_MAX
            || header.total != TOTAL_UNKNOWN && header.total != u64::from(body_len)
        {
            return Ok(false);
        }
        let Some((from, to)) = self.lanes.pair_mut(at.lane, origin.lane) else { return Ok(false) };
        let (served, asked) = (&mut from.slots[at.slot as usize], &mut to.slots[origin.slot as usize]);
        debug_assert_eq!(asked.user, User::Relay(Link { lane: at.lane, slot: at.slot }));
        debug_assert!(asked.received_end && !asked.has_output() && served.sent_end && !served.has_output());
        // Nothing is to go before it.
        if !to.queue.is_empty() {
            return Ok(false);
        }

        self.parsed += u64::from(header.head_len);
        let (known, version) = (&mut *from.known_head, self.snapshot.version);
        let body = match known.body(&from.end, header.head_len, version) {
            Some(place) => Some(place),
            None => {
                self.head_bytes.clear();
                from.end.append_payload(0..header.head_len, &mut self.head_bytes)?;
                let limits = head_limits(&self.snapshot);
                let known = known.learn(&self.head_bytes, version, &limits, &mut self.response_head);
                known.then(|| from.end.place(header.head_len)).flatten()
            }
        };
        let Some(place) = body else { return Ok(false) };
        if known.declared.is_some_and(|declared| declared != u64::from(body_len)) {
            return Ok(false);
        }

        if asked.credit < (known.out.len() + place.len()) as u64 {
            return Ok(false);
        }
        let mut answer = Header::new(RecordKind::Answer, origin.slot, asked.generation);
        answer.code = known.status;
        answer.flags = Flags::END;
        answer.head_len = known.out.len() as u32;
        answer.total = u64::from(body_len);
        if to.end.put_moved(&answer, &known.out, &from.end, place).is_err() {
            return Ok(false);
        }
        self.counters.copied.add(u64::from(body_len));
        // Release, and before the record that ends the answer is published.
        to.end.set_state(origin.slot, asked.generation, CallState::Answered);
        from.end.advance();
        asked.user = User::Free;
        to.usage.end_call();
        served.user = User::Free;
        from.free.push(at.slot);
        self.relayed -= 1;
        if !to.listed {
            to.listed = true;
            self.dirty_lanes.push(origin.lane);
        }

        let Relay { listener, cluster, started, .. } = from.relays[at.slot as usize];
        let status = known.status;
        let waiting = !from.waiting.is_empty();
        self.count(listener, cluster, status, started);
        if waiting {
            self.open_waiting(at.lane);
        }
        Ok(true)
    }

    /// Puts a relayed call into the table, from either of its slots.
    pub(crate) fn unlink(&mut self, lane: Key<Lane>, slot: u32) -> Option<Key<Call>> {
        let state = self.lanes.get(lane)?;
        let User::Relay(there) = state.slots.get(slot as usize)?.user else { return None };
        let here = Link { lane, slot };
        let (asked_at, served_at) = if state.serves.is_some() { (there, here) } else { (here, there) };
        let (from, to) = self.lanes.pair_mut(asked_at.lane, served_at.lane)?;
        let (asked, served) = (&mut from.slots[asked_at.slot as usize], &mut to.slots[served_at.slot as usize]);
        let relay = to.relays[served_at.slot as usize];
        let peer = |at: Link, generation| Peer::Slot(SlotRef { lane: at.lane, slot: at.slot, generation });
        let exchange = Exchange { http: true, request_ended: true, ..Exchange::default() };
        let mut call =
            Call::new(peer(asked_at, asked.generation), relay.listener, relay.cluster, Kind::Exchange(exchange));
        call.dest = Some(peer(served_at, served.generation));
        call.attempts = 1;
        call.forwarded = true;
        call.started = relay.started;
        call.hard_deadline = relay.hard_deadline;
        let key = self.calls.insert(call);
        asked.user = User::Call(key);
        served.user = User::Call(key);
        self.relayed -= 1;
        self.set_call_deadline(key, relay.deadline);
        Some(key)
    }

    /// Puts all relayed calls of a lane into the table.
    pub(crate) fn unlink_all(&mut self, key: Key<Lane>) {
        if self.relayed == 0 {
            return;
        }
        let slots = self.lanes.get(key).map_or(0, |lane| lane.slots.len());
        for slot in 0..slots {
            self.unlink(key, slot as u32);
        }
    }

    /// Ends the calls that were relayed to a lane and not answered in time.
    pub(crate) fn relays_timer(&mut self, key: Key<Lane>, now: Nanos) {
        let Some(lane) = self.lanes.get(key).filter(|lane| lane.serves.is_some()) else { return };
        let mut next = Nanos::MAX;
        for slot in 0..lane.slots.len() {
            let Some(lane) = self.lanes.get(key) else { return };
            let (Slot { user: User::Relay(_), .. }, relay) = (&lane.slots[slot], &lane.relays[slot]) else { continue };
            if relay.deadline > now {
                next = next.min(relay.deadline);
            } else if let Some(call) = self.unlink(key, slot as u32) {
                self.call_timer(call, now);
            }
        }
        if next != Nanos::MAX {
            self.timers.arm(Owner::Lane(key.index() as u32), next);
        }
    }
}
