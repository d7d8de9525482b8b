//! Dubbo2: frames of consumers, whose ids are remapped, and the answers that they get; `dubbo_up` has the providers' side.
//!
//! The id that a provider sees is the key of the call in the worker's table. A late answer finds another generation there, or
//! nothing, and is dropped.

use shmesh_io::{Chunk, Chunks, Driver, Slice};
use shmesh_proto::dubbo::{
    Event, FrameError, FrameHeader, event, is_of_extension_offer, status, write_error, write_extension_answer,
    write_heartbeat_reply,
};

use crate::call::{Call, Dubbo, Failure, Kind, Peer};
use crate::conn::{Conn, Finish, Role};
use crate::dubbo_route::Routed;
use crate::frame::Frame;
use crate::lane::{First, SlotRef};
use crate::slab::Key;
use crate::worker::Worker;

/// Frames of the largest size that may wait for a peer that takes no answers.
pub(crate) const WAITING_FRAMES_MAX: u64 = 4;

impl<D: Driver> Worker<D> {
    /// Goes on with what a consumer sent.
    pub(crate) fn dubbo_down_input(&mut self, key: Key<Conn>) {
        let body_max = self.snapshot.limits.dubbo_body_bytes;
        loop {
            if self.client_is_behind(key) {
                return;
            }
            let Some(conn) = self.conns.get_mut(key) else { return };
            let Role::DubboDown(down) = &mut conn.role else { return };
            if conn.finish != Finish::Stay {
                conn.input = Slice::empty();
                return;
            }
            match down.frames.next(&mut conn.input, body_max) {
                Ok(Some(frame)) => self.dubbo_frame_down(key, frame),
                Ok(None) => return,
                Err(error) => {
                    self.dubbo_bad_frame(key, &error);
                    return;
                }
            }
        }
    }

    /// Nothing after a broken header can be understood, so the connection ends; a frame that is only too large is answered first.
    fn dubbo_bad_frame(&mut self, key: Key<Conn>, error: &FrameError) {
        self.counters.dubbo_malformed.add(1);
        tracing::info!(%error, "a Dubbo consumer's frame is refused");
        match error {
            FrameError::TooLarge { header, .. } if header.request && header.two_way => {
                let sentence = format!("shmesh: {error}; limits.dubbo_body_bytes");
                self.dubbo_answer_error(key, header, status::BAD_REQUEST, &sentence);
                self.finish_conn(key, Finish::Close);
            }
            _ => self.dubbo_down_ended(key, true),
        }
    }

    fn dubbo_frame_down(&mut self, key: Key<Conn>, frame: Frame) {
        let mut header = frame.header;
        if header.event {
            self.dubbo_event(key, &header, frame.body.as_slice());
            return;
        }
        if !header.request {
            self.dubbo_callback_answer(key, frame);
            return;
        }
        let Some(Conn { role: Role::DubboDown(down), .. }) = self.conns.get_mut(key) else { return };
        let (listener, extended) = (down.listener, down.extended);
        if header.two_way {
            if down.waiting >= self.snapshot.limits.calls_per_connection {
                self.dubbo_answer_error(key, &header, status::SERVER_ERROR, Failure::Overloaded.sentence());
                return;
            }
            down.waiting += 1;
        }
        let (mut body, mut request) = (self.spare_chunks(), frame.body);
        let routed = self.dubbo_route(extended, &mut header, &mut request);
        body.push(Chunk::Private(request));
        self.dubbo_call(Peer::Conn(key), listener, header, body, routed);
    }

    /// Starts a call, or answers in its place.
    fn dubbo_call(
        &mut self,
        origin: Peer,
        listener: u16,
        header: FrameHeader,
        body: Chunks,
        routed: Result<Routed, Failure>,
    ) {
        let (routed, failure) = Routed::or_nowhere(routed);
        let call = self.new_dubbo(origin, listener, header, body, routed);
        self.dubbo_go(call, failure);
    }

    pub(crate) fn new_dubbo(
        &mut self,
        origin: Peer,
        listener: u16,
        header: FrameHeader,
        body: Chunks,
        Routed { way, told }: Routed,
    ) -> Key<Call> {
        let idempotent = way.idempotent == Some(true);
        let dubbo = Dubbo { header, body, idempotent, replay: None, told, turn: None, held: None };
        self.new_call(origin, listener, way.cluster.0, Kind::Dubbo(dubbo))
    }

    /// Sends a call on its way, or answers in its place.
    pub(crate) fn dubbo_go(&mut self, call: Key<Call>, failure: Option<Failure>) {
        if failure == Some(Failure::MalformedRequest) {
            self.counters.dubbo_malformed.add(1);
        }
        self.begin_call(call, failure);
    }

    /// Heartbeats are answered by every hop, never forwarded.
    pub(crate) fn dubbo_event(&mut self, key: Key<Conn>, header: &FrameHeader, body: &[u8]) {
        match event(header, body) {
            Event::Heartbeat if header.request && header.two_way => {
                self.counters.heartbeats.add(1);
                self.scratch.clear();
                match self.conns.get_mut(key).map(|conn| &mut conn.role) {
                    Some(Role::DubboDown(down)) if is_of_extension_offer(header) => {
                        down.extended = true;
                        write_extension_answer(&mut self.scratch, header);
                    }
                    _ => write_heartbeat_reply(&mut self.scratch, header),
                }
                let reply = self.driver.pool().append(&self.scratch);
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.out.push(reply);
                }
                self.touch_conn(key);
            }
            Event::Heartbeat if !header.request => self.dubbo_extension_answered(key, header, body),
            Event::ReadOnly => self.dubbo_readonly(key, true),
            Event::Writeable => self.dubbo_readonly(key, false),
            Event::Heartbeat | Event::Other => {}
        }
    }

    /// A provider answered: the caller gets its own id back, everything else as it came.
    pub(crate) fn dubbo_answer(&mut self, key: Key<Call>, mut header: FrameHeader, body: Slice) {
        let Some(mut call) = self.take_call(key) else { return };
        let Kind::Dubbo(dubbo) = &mut call.kind else { return };
        header.id = dubbo.header.id;
        let code = u16::from(header.status);
        match call.origin {
            Peer::Conn(conn_key) => {
                let frames_max = WAITING_FRAMES_MAX * u64::from(self.snapshot.limits.dubbo_body_bytes);
                let Some(conn) = self.conns.get_mut(conn_key) else { return };
                conn.out.push(self.driver.pool().append(&header.encode()));
                conn.out.push(body);
                let stuck = self.backlog(call.origin) > frames_max;
                self.dubbo_down_answered(conn_key);
                if stuck {
                    tracing::warn!("a Dubbo consumer takes no answers; its connection is cut");
                    self.dubbo_down_ended(conn_key, true);
                }
            }
            Peer::Slot(at) => {
                let first = First::answer(code, Slice::empty(), body.len() as u64 + 16);
                self.slot_first(at, first);
                let header = self.driver.pool().append(&header.encode());
                self.slot_push(at, Chunk::Private(header));
                if !body.is_empty() {
                    self.slot_push(at, Chunk::Private(body));
                }
                self.slot_answered(at);
            }
        }
        self.count(call.listener, call.cluster, code, call.started);
    }

    /// A one-way call is over: it has left, or a serving app has taken it.
    pub(crate) fn dubbo_one_way_taken(&mut self, key: Key<Call>) {
        let Some(call) = self.take_call(key) else { return };
        if let Peer::Slot(at) = call.origin {
            let first = First::answer(u16::from(status::OK), Slice::empty(), 0);
            self.slot_first(at, first);
            self.slot_answered(at);
        }
        self.count(call.listener, call.cluster, u16::from(status::OK), call.started);
    }

    /// The caller is told by shmesh what became of its call.
    pub(crate) fn fail_dubbo(&mut self, origin: Peer, request: &FrameHeader, failure: Failure) {
        match origin {
            Peer::Conn(key) => {
                if request.two_way {
                    self.dubbo_answer_error(key, request, failure.dubbo_status(), failure.sentence());
                    self.dubbo_down_answered(key);
                }
            }
            Peer::Slot(at) if failure.resets_apps() => self.slot_reset(at, failure.reset(), failure.sentence()),
            Peer::Slot(at) => self.dubbo_own_answer(at, request, failure),
        }
    }

    fn dubbo_own_answer(&mut self, at: SlotRef, request: &FrameHeader, failure: Failure) {
        let mut frame = Vec::new();
        write_error(&mut frame, request, failure.dubbo_status(), failure.sentence());
        let first = First::answer(u16::from(failure.dubbo_status()), Slice::empty(), frame.len() as u64);
        self.slot_first(at, first);
        self.slot_push(at, Chunk::Private(Slice::from_vec(frame)));
        self.slot_answered(at);
    }

    pub(crate) fn dubbo_answer_error(&mut self, key: Key<Conn>, request: &FrameHeader, status: u8, sentence: &str) {
        self.scratch.clear();
        write_error(&mut self.scratch, request, status, sentence);
        let answer = self.driver.pool().append(&self.scratch);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.out.push(answer);
        }
        self.touch_conn(key);
    }

    fn dubbo_down_answered(&mut self, key: Key<Conn>) {
        let draining = self.draining;
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::DubboDown(down) = &mut conn.role else { return };
        down.waiting = down.waiting.saturating_sub(1);
        if down.waiting == 0 && (draining || conn.ended) {
            conn.finish = Finish::Close;
        }
        self.touch_conn(key);
    }

    /// A consumer sends no more: with answers outstanding it may only have ended its direction.
    pub(crate) fn dubbo_down_ended(&mut self, key: Key<Conn>, broken: bool) {
        let Some(Conn { role: Role::DubboDown(down), .. }) = self.conns.get(key) else { return };
        if !broken && down.waiting > 0 {
            return;
        }
        // One-way calls, for which nobody waits, still leave.
        if broken {
            let waits = |call: &Call| matches!(&call.kind, Kind::Dubbo(dubbo) if dubbo.header.two_way);
            for call in self.calls_where(|call| call.origin == Peer::Conn(key) && waits(call)) {
                self.cancel(call);
            }
        }
        self.drop_conn(key);
    }

    /// Calls that fit; looks at all of them, for rare events.
    pub(crate) fn calls_where(&self, fits: impl Fn(&Call) -> bool) -> Vec<Key<Call>> {
        self.calls.keys().into_iter().filter(|&key| self.calls.get(key).is_some_and(&fits)).collect()
    }
}
