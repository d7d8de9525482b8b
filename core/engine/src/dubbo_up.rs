//! Dubbo providers: requests to them in turn, what they send, and what becomes of calls when a connection ends.

use shmesh_io::{Chunk, Driver, Slice};
use shmesh_proto::dubbo::{Event, serialization, status, write_event};
use shmesh_shm::{Protocol, TOTAL_UNKNOWN};

use crate::call::{Call, Failure, Kind, Peer};
use crate::conn::{Conn, Outgoing, Role, Sender};
use crate::dubbo::WAITING_FRAMES_MAX;
use crate::flow::BATCH_MAX;
use crate::frame::Frame;
use crate::ingress::remaining_us;
use crate::lane::First;
use crate::slab::Key;
use crate::worker::Worker;

/// Id of our own heartbeats; no table has so many calls that one of them had it.
const HEARTBEAT_ID: u64 = u64::MAX;

impl<D: Driver> Worker<D> {
    /// The destination can take the call: its frame leaves whole.
    pub(crate) fn forward_dubbo(&mut self, key: Key<Call>) {
        let frames_max = WAITING_FRAMES_MAX * u64::from(self.snapshot.limits.dubbo_body_bytes);
        let now = self.driver.now();
        let Some(call) = self.calls.get_mut(key) else { return };
        let (origin, dest) = (call.origin, call.dest);
        let deadline_us = remaining_us(call.hard_deadline, now);
        let Kind::Dubbo(dubbo) = &mut call.kind else { return };
        let mut header = dubbo.header;
        let mut body = std::mem::take(&mut dubbo.body);
        match dest {
            Some(Peer::Conn(conn_key)) => {
                let Some(conn) = self.conns.get_mut(conn_key) else { return };
                if conn.unsent() > frames_max {
                    call.forwarded = false;
                    self.fail(key, Failure::Overloaded);
                    return;
                }
                header.id = key.to_bits();
                let header_bytes = self.driver.pool().append(&header.encode());
                let behind = conn.unsent() >= BATCH_MAX as u64;
                let Role::DubboUp(up) = &mut conn.role else { return };
                up.waiting += 1;
                if behind || !up.turns.is_empty() {
                    let sender = match origin {
                        Peer::Conn(key) => Sender::Conn(key.to_bits()),
                        Peer::Slot(at) => Sender::Lane(at.lane.to_bits()),
                    };
                    let len = (header_bytes.len() + body.len_bytes()) as u64;
                    let call = header.two_way.then_some(key);
                    up.turns.push(
                        sender,
                        len,
                        Outgoing { call, header: header_bytes, body: std::mem::take(&mut body) },
                    );
                } else {
                    conn.out.push(header_bytes);
                    conn.out.append(&mut body);
                }
                self.touch_conn(conn_key);
            }
            Some(Peer::Slot(at)) => {
                let first = First {
                    open: true,
                    stream: false,
                    code: Protocol::Dubbo2 as u16,
                    head: Slice::empty(),
                    total: TOTAL_UNKNOWN,
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
            }
            None => return,
        }
        self.keep_chunks(body);
        if !header.two_way {
            self.dubbo_one_way_done(key);
        }
    }

    /// Lets the frames that wait leave, as many as are handed over at once; those of calls that have ended meanwhile never do.
    pub(crate) fn dubbo_next_frames(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::DubboUp(up) = &mut conn.role else { return };
        while conn.out.len_bytes() < BATCH_MAX
            && let Some(mut frame) = up.turns.take_next()
        {
            if frame.call.is_none_or(|call| self.calls.get(call).is_some()) {
                conn.out.push(frame.header);
                conn.out.append(&mut frame.body);
            }
        }
    }

    /// A one-way call ends when it was forwarded.
    fn dubbo_one_way_done(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get(key) else { return };
        if matches!(call.dest, Some(Peer::Slot(_))) {
            // The serving app says when it has it.
            return;
        }
        let Some(call) = self.take_call(key) else { return };
        if let Some(Peer::Conn(conn)) = call.dest
            && let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get_mut(conn)
        {
            up.waiting = up.waiting.saturating_sub(1);
        }
        self.dubbo_tell_one_way(call.origin);
        self.count(call.listener, call.cluster, u16::from(status::OK), call.started);
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
        if header.event {
            self.dubbo_event(key, &header, frame.body.as_slice());
            return;
        }
        if header.request {
            // A callback: the consumer that could take it is not known on a shared connection.
            if header.two_way {
                self.dubbo_answer_error(
                    key,
                    &header,
                    status::BAD_REQUEST,
                    "shmesh: callbacks are not carried over a shared connection",
                );
            }
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
        }
        self.dubbo_answer(id, header, frame.body);
        self.dubbo_retire(key);
    }

    /// A provider is about to leave: it keeps its calls, new ones go over another connection.
    pub(crate) fn dubbo_readonly(&mut self, key: Key<Conn>, readonly: bool) {
        let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get_mut(key) else { return };
        up.readonly = readonly;
        let address = self.addresses.get(up.address);
        if readonly {
            address.dubbo.retain(|&shared| shared != key);
            self.dubbo_retire(key);
        } else if !address.dubbo.contains(&key) {
            address.dubbo.push(key);
        }
    }

    /// A connection that takes no new calls is closed when no answer is to come any more and everything has left: nobody waits
    /// for one-way calls, and they are to arrive.
    pub(crate) fn dubbo_retire(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get(key) else { return };
        if matches!(&conn.role, Role::DubboUp(up) if up.readonly && up.waiting == 0) && conn.unsent() == 0 {
            // A call that was about to be forwarded goes over another one.
            self.dubbo_up_lost(key);
        }
    }

    /// A provider that is silent while calls wait is asked for a sign of life, and given up after three intervals, as Dubbo's own
    /// peers do (`HeartbeatTimerTask`, `ReconnectTimerTask`).
    pub(crate) fn dubbo_up_timer(&mut self, key: Key<Conn>, now: u64) {
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::DubboUp(up) = &mut conn.role else { return };
        let silent = now.saturating_sub(up.heard);
        if silent >= 3 * idle {
            if up.waiting > 0 {
                tracing::warn!("a Dubbo provider is silent; its connection is given up");
            }
            self.dubbo_up_lost(key);
            return;
        }
        if up.waiting > 0 && silent >= idle {
            self.scratch.clear();
            write_event(&mut self.scratch, HEARTBEAT_ID, serialization::HESSIAN2, Event::Heartbeat);
            conn.out.push(self.driver.pool().append(&self.scratch));
            self.touch_conn(key);
        }
        self.set_conn_deadline(key, now + idle);
    }

    /// A provider's connection is gone: its calls may have run.
    pub(crate) fn dubbo_up_lost(&mut self, key: Key<Conn>) {
        self.dubbo_up_broken(key, Failure::Died);
    }

    fn dubbo_up_broken(&mut self, key: Key<Conn>, failure: Failure) {
        if let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get(key)
            && (up.waiting > 0 || failure != Failure::Died)
        {
            let address = up.address;
            self.addresses.get(address).counters.failures.add(1);
        }
        let (forwarded, unsent): (Vec<_>, Vec<_>) = self
            .calls_where(|call| call.dest == Some(Peer::Conn(key)))
            .into_iter()
            .partition(|&call| self.calls.get(call).is_some_and(|call| call.forwarded));
        self.drop_conn(key);
        for call in forwarded {
            self.fail(call, failure);
        }
        for call in unsent {
            // Not a byte of it left: another connection will do.
            if let Some(call) = self.calls.get_mut(call) {
                call.dest = None;
            }
            self.dispatch_again(call);
        }
    }
}
