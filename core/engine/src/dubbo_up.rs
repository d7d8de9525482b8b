//! Dubbo providers: requests to them in turn, what they send, and what becomes of calls when a connection ends.

use shmesh_io::{Chunk, Driver, Slice};
use shmesh_policy::Outcome;
use shmesh_proto::dubbo::{Event, serialization, status, write_event, write_extension_offer};
use shmesh_shm::{Protocol, TOTAL_UNKNOWN};

use crate::attempt::{Ended, kept};
use crate::call::{Call, Failure, Kind, Peer};
use crate::conn::{Conn, Role, Sender};
use crate::flow::BATCH_MAX;
use crate::frame::Frame;
use crate::ingress::remaining_us;
use crate::lane::{First, SlotRef};
use crate::slab::Key;
use crate::worker::Worker;

/// Id of our own heartbeats; no table has so many calls that one of them had it.
const HEARTBEAT_ID: u64 = u64::MAX;

/// Frames of the largest size for which there is room while they wait for their turn on one connection; a sender that is alone gets
/// half of it ([`shmesh_policy::Turns::admits`]).
const SHARED_FRAMES_MAX: u64 = 8;

/// What a call that waits takes beside its frame's body.
pub(crate) const CALL_BYTES: u64 = size_of::<Call>() as u64;

impl<D: Driver> Worker<D> {
    /// The destination can take the call: its frame leaves whole, or waits for its turn.
    pub(crate) fn forward_dubbo(&mut self, key: Key<Call>) {
        match self.calls.get(key).and_then(|call| call.dest) {
            Some(Peer::Conn(conn)) => self.dubbo_to_provider(key, conn),
            Some(Peer::Slot(at)) => self.dubbo_to_app(key, at),
            None => {}
        }
    }

    fn dubbo_to_provider(&mut self, key: Key<Call>, conn_key: Key<Conn>) {
        let bytes_max = SHARED_FRAMES_MAX * u64::from(self.snapshot.limits.dubbo_body_bytes);
        let Some(call) = self.calls.get_mut(key) else { return };
        let Kind::Dubbo(dubbo) = &mut call.kind else { return };
        let Some(conn) = self.conns.get_mut(conn_key) else { return };
        let behind = conn.unsent() >= BATCH_MAX as u64;
        let Role::DubboUp(up) = &mut conn.role else { return };
        let two_way = u32::from(dubbo.header.two_way);
        if !behind && up.turns.is_empty() {
            up.waiting += two_way;
            self.dubbo_leave(key, conn_key);
            self.touch_conn(conn_key);
            return;
        }
        // It has a place among the calls and none in the kernel: whatever becomes of the connection, it did not run.
        call.forwarded = false;
        let sender = Sender::from(call.origin);
        let cost = CALL_BYTES + (dubbo.told.len() + dubbo.body.len_bytes()) as u64;
        if !up.turns.admits(sender, cost, bytes_max) {
            self.fail(key, Failure::Overloaded);
            return;
        }
        up.waiting += two_way;
        dubbo.turn = Some(up.turns.push(sender, cost, key));
        self.touch_conn(conn_key);
    }

    /// The call's frame goes to the provider, now.
    fn dubbo_leave(&mut self, key: Key<Call>, conn_key: Key<Conn>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let Kind::Dubbo(dubbo) = &mut call.kind else { return };
        let Some(conn) = self.conns.get_mut(conn_key) else { return };
        let Role::DubboUp(up) = &mut conn.role else { return };
        call.forwarded = true;
        dubbo.turn = None;
        let mut header = dubbo.header;
        header.id = key.to_bits();
        let mut body = std::mem::take(&mut dubbo.body);
        dubbo.replay = (dubbo.idempotent && header.two_way).then(|| kept(&body)).flatten();
        self.scratch.clear();
        if up.agreement.wants_offer(&dubbo.told) {
            write_extension_offer(&mut self.scratch);
        }
        up.agreement.write_header(&mut self.scratch, header, &dubbo.told, self.snapshot.limits.dubbo_body_bytes);
        conn.out.push(self.driver.pool().append(&self.scratch));
        conn.out.append(&mut body);
        self.keep_chunks(body);
        if !header.two_way {
            self.dubbo_one_way_taken(key);
        }
    }

    fn dubbo_to_app(&mut self, key: Key<Call>, at: SlotRef) {
        let now = self.driver.now();
        let Some(call) = self.calls.get_mut(key) else { return };
        let deadline_us = remaining_us(call.hard_deadline, now);
        let Kind::Dubbo(dubbo) = &mut call.kind else { return };
        let header = dubbo.header;
        let mut body = std::mem::take(&mut dubbo.body);
        dubbo.replay = (dubbo.idempotent && header.two_way).then(|| kept(&body)).flatten();
        let first = First {
            open: true,
            stream: false,
            code: Protocol::Dubbo2 as u16,
            head: Slice::empty(),
            total: TOTAL_UNKNOWN,
            // The serving app says when it has it.
            one_way: !header.two_way,
            deadline_us,
        };
        self.slot_first(at, first);
        let header = self.driver.pool().append(&header.encode());
        self.slot_push(at, Chunk::Private(header));
        while let Some(chunk) = body.pop_front() {
            self.slot_push(at, chunk);
        }
        self.slot_end(at);
        self.keep_chunks(body);
    }

    /// Lets the frames that wait leave, as many as are handed over at once.
    pub(crate) fn dubbo_next_frames(&mut self, key: Key<Conn>) {
        while let Some(conn) = self.conns.get_mut(key)
            && conn.out.len_bytes() < BATCH_MAX
            && let Role::DubboUp(up) = &mut conn.role
            && let Some(call) = up.turns.take_next()
        {
            if self.is_withdrawn(call) {
                self.counters.withdrawn.add(1);
                self.fail(call, Failure::Withdrawn);
            } else {
                self.dubbo_leave(call, key);
            }
        }
    }

    /// Goes on with what a provider sent.
    pub(crate) fn dubbo_up_input(&mut self, key: Key<Conn>) {
        let body_max = self.snapshot.limits.dubbo_body_bytes;
        let now = self.driver.now();
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let Role::DubboUp(up) = &mut conn.role else { return };
            up.heard = now;
            match up.frames.next(&mut conn.input, body_max) {
                Ok(Some(frame)) => self.dubbo_frame_up(key, frame),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a Dubbo provider's frame is refused");
                    self.dubbo_up_broken(key, Failure::MalformedAnswer);
                    return;
                }
            }
        }
    }

    fn dubbo_frame_up(&mut self, key: Key<Conn>, frame: Frame) {
        let header = frame.header;
        let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get(key) else { return };
        let consumer = up.consumer;
        if header.event {
            self.dubbo_event(key, &header, frame.body.as_slice());
            self.dubbo_cut_if_stuck(key);
            return;
        }
        if header.request {
            if let Some(consumer) = consumer {
                self.dubbo_callback(key, consumer, frame);
                self.dubbo_pause_for(consumer, key);
            } else if header.two_way {
                // The consumer that could take it is not known on a shared connection.
                self.dubbo_answer_error(
                    key,
                    &header,
                    status::BAD_REQUEST,
                    "shmesh: callbacks are not carried over a shared connection; see \
                     connection_pool_per_downstream_connection",
                );
            }
            self.dubbo_cut_if_stuck(key);
            return;
        }
        let id = Key::<Call>::from_bits(header.id);
        let known = self.calls.get(id).is_some_and(|call| call.dest == Some(Peer::Conn(key)) && call.forwarded);
        if !known {
            self.counters.late_answers.add(1);
            return;
        }
        if let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get_mut(key) {
            up.waiting = up.waiting.saturating_sub(1);
            up.answered = true;
        }
        self.observe_call(id, key, Outcome::Good);
        self.dubbo_answer(id, header, frame.body);
        if let Some(consumer) = consumer {
            self.dubbo_pause_for(consumer, key);
        }
        self.dubbo_retire(key);
    }

    /// A provider is about to leave: it keeps its calls, new ones go over another connection.
    pub(crate) fn dubbo_readonly(&mut self, key: Key<Conn>, readonly: bool) {
        let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get_mut(key) else { return };
        up.readonly = readonly;
        let shared = up.consumer.is_none();
        let address = self.addresses.get(up.address);
        if readonly {
            address.dubbo.retain(|&shared| shared != key);
            self.dubbo_retire(key);
        } else if shared && !address.dubbo.contains(&key) {
            address.dubbo.push(key);
        }
    }

    /// A connection that takes no new calls is closed when no answer is to come any more and everything has left: nobody waits
    /// for one-way calls, and they are to arrive.
    pub(crate) fn dubbo_retire(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get(key) else { return };
        let Role::DubboUp(up) = &conn.role else { return };
        if up.waiting == 0 && up.queue.is_empty() && conn.unsent() == 0 && self.dubbo_is_leaving(key) {
            // A call that was about to be forwarded goes over another one.
            self.dubbo_up_lost(key);
        }
    }

    /// A provider that is silent while calls wait is asked for a sign of life, and given up after three intervals, as Dubbo's own
    /// peers do (`HeartbeatTimerTask`, `ReconnectTimerTask`).
    pub(crate) fn dubbo_up_timer(&mut self, key: Key<Conn>, now: u64) {
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        // One that nobody uses for now is kept as long as its consumer: callbacks may come.
        let leaving = self.dubbo_is_leaving(key);
        if leaving {
            self.dubbo_retire(key);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (unsent, active) = (conn.unsent(), conn.active);
        let Role::DubboUp(up) = &mut conn.role else { return };
        let wanted = up.waiting > 0 || unsent > 0 || up.consumer.is_some() && !leaving;
        if !conn.receiving {
            // It is not heard while its consumer takes nothing.
            up.heard = now;
        }
        // Nothing is to be heard of one-way calls: that they are taken is the sign of life.
        let alive = if up.waiting == 0 { up.heard.max(active) } else { up.heard };
        let silent = now.saturating_sub(alive);
        if silent >= 3 * idle {
            if up.waiting > 0 || unsent > 0 {
                tracing::warn!("a Dubbo provider is silent; its connection is given up");
            }
            self.dubbo_up_lost(key);
            return;
        }
        if wanted && silent >= idle {
            self.scratch.clear();
            write_event(&mut self.scratch, HEARTBEAT_ID, serialization::HESSIAN2, Event::Heartbeat);
            conn.out.push(self.driver.pool().append(&self.scratch));
            self.touch_conn(key);
        }
        self.set_conn_deadline(key, now + idle);
    }

    /// A provider's connection is gone: what left on it may have run, and the rest goes elsewhere.
    pub(crate) fn dubbo_up_lost(&mut self, key: Key<Conn>) {
        self.dubbo_up_broken(key, Failure::Died);
    }

    fn dubbo_up_broken(&mut self, key: Key<Conn>, failure: Failure) {
        let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get(key) else { return };
        // The calls that are asked about below were forwarded: how many bytes of a frame are still here is not known.
        let ended = Ended { reused_connection: up.answered, unsent: false, response_started: false };
        let failed = up.waiting > 0 || failure != Failure::Died;
        let (forwarded, unsent): (Vec<_>, Vec<_>) = self
            .calls_where(|call| call.dest == Some(Peer::Conn(key)))
            .into_iter()
            .partition(|&call| self.calls.get(call).is_some_and(|call| call.forwarded));
        if failed || !forwarded.is_empty() {
            self.endpoint_failed(forwarded.first().copied(), key);
        }
        self.drop_conn(key);
        for call in forwarded {
            match failure {
                Failure::Died => self.attempt_failed(call, ended),
                failure => self.fail(call, failure),
            }
        }
        for key in unsent {
            // Not a byte of it left: another connection will do.
            if let Some(call) = self.calls.get_mut(key) {
                call.dest = None;
                if let Kind::Dubbo(dubbo) = &mut call.kind {
                    dubbo.turn = None;
                }
            }
            self.dispatch_again(key);
        }
    }
}
