//! A streamed call under way: the request's bytes towards its destination, the answer's bytes back, each at the pace of the
//! slower side.

use std::time::Duration;

use shmesh_io::{Chunk, Chunks, Driver, Slice};
use shmesh_proto::http1::{
    BodyKind, ConnectionOption, Framing, HeadLimits, ResponseHead, ResponseOut, Version, write_last_chunk,
    write_own_response, write_response,
};
use shmesh_shm::{Reset, TOTAL_UNKNOWN};

use crate::attempt::REPLAY_MAX;
use crate::call::{Call, Exchange, Failure, Kind, Peer};
use crate::conn::{Conn, Finish, HttpDown, Role};
use crate::ingress::remaining_us;
use crate::lane::First;
use crate::route_key::without_last_line;
use crate::slab::Key;
use crate::worker::Worker;

/// Queues of chunks whose memory is kept for later calls.
const SPARE_MAX: usize = 64;

impl<D: Driver> Worker<D> {
    // ---- The request -------------------------------------------------------------------------------------------

    /// The destination can take the request: its head, and what has come of its body.
    pub(crate) fn forward_exchange(&mut self, key: Key<Call>) {
        let now = self.driver.now();
        let Some(call) = self.calls.get_mut(key) else { return };
        let dest = call.dest;
        let deadline_us = remaining_us(call.hard_deadline, now);
        let Kind::Exchange(exchange) = &mut call.kind else { return };
        if exchange.connect {
            return self.connect_done(key);
        }
        let head = exchange.head.clone();
        let http = exchange.http;
        let upgrade = exchange.upgrade.clone();
        let framing = request_framing(exchange);
        let mut pending = std::mem::take(&mut exchange.pending);
        let ended = exchange.request_ended;
        let total = exchange.request_length;
        let tunnel = exchange.tunnel;
        let expects = exchange.request_has_body;
        exchange.replay = http.then(Chunks::new);
        match dest {
            Some(Peer::Conn(conn)) => {
                if http {
                    self.send_request_head(conn, &head, framing, upgrade.as_deref());
                }
            }
            Some(Peer::Slot(at)) => {
                let Some(lane) = self.lanes.get_mut(at.lane) else { return };
                let mut first = First {
                    open: true,
                    stream: tunnel,
                    code: if http { shmesh_shm::Protocol::Http } else { shmesh_shm::Protocol::Raw } as u16,
                    head: Slice::empty(),
                    total: total.unwrap_or(TOTAL_UNKNOWN),
                    one_way: false,
                    deadline_us,
                };
                if http {
                    first.head = head.clone();
                }
                if let Some(slot) = lane.slot_mut(at) {
                    slot.first = Some(first);
                }
                lane.enqueue(at.slot);
                self.touch_lane(at.lane);
                // An app behind a lane cannot say "100 Continue": the sidecar takes the body for it.
                if expects
                    && let Some(Call { origin: Peer::Conn(origin), .. }) = self.calls.get(key)
                    && expects_continue(&head)
                {
                    let origin = *origin;
                    self.http_continue(origin);
                }
            }
            None => return,
        }
        while let Some(chunk) = pending.pop_front() {
            self.write_request(key, chunk);
        }
        if let Some(exchange) = self.calls.get_mut(key).and_then(Call::exchange)
            && exchange.pending.is_empty()
        {
            exchange.pending = pending;
        }
        if ended {
            self.finish_request(key);
        } else {
            self.balance_request(key);
        }
    }

    /// More of the request's body.
    pub(crate) fn request_data(&mut self, key: Key<Call>, chunk: Chunk) {
        let now = self.driver.now();
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let Some(call) = self.calls.get_mut(key) else { return };
        let (forwarded, cluster, answered) = (call.forwarded, call.cluster, call.answered);
        let tunnel = call.exchange().is_some_and(|exchange| exchange.tunnel);
        if forwarded {
            self.write_request(key, chunk);
        } else if let Some(exchange) = call.exchange() {
            exchange.pending.push(chunk);
        }
        if !tunnel {
            let within = if answered { idle } else { self.first_byte_timeout(cluster) };
            self.set_call_deadline(key, now + within);
        }
        self.balance_request(key);
    }

    /// The request is complete.
    pub(crate) fn request_end(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let forwarded = call.forwarded;
        if let Some(exchange) = call.exchange() {
            exchange.request_ended = true;
        }
        if forwarded {
            self.finish_request(key);
        }
    }

    fn write_request(&mut self, key: Key<Call>, chunk: Chunk) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let dest = call.dest;
        let Kind::Exchange(exchange) = &mut call.kind else { return };
        let chunked = exchange.http && exchange.request_length.is_none();
        if let Some(replay) = &mut exchange.replay {
            if replay.len_bytes() + chunk.len() <= REPLAY_MAX && matches!(chunk, Chunk::Private(_)) {
                replay.push(chunk.clone());
            } else {
                exchange.replay = None;
            }
        }
        match dest {
            Some(Peer::Conn(conn)) => self.send_body(conn, chunk, chunked),
            Some(Peer::Slot(at)) => self.slot_push(at, chunk),
            None => {}
        }
    }

    fn finish_request(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let dest = call.dest;
        let Kind::Exchange(exchange) = &mut call.kind else { return };
        let chunked = exchange.http && exchange.request_length.is_none();
        match dest {
            Some(Peer::Conn(conn_key)) => {
                if chunked {
                    self.scratch.clear();
                    write_last_chunk(&mut self.scratch, &exchange.request_trailers);
                    let last = self.driver.pool().append(&self.scratch);
                    if let Some(conn) = self.conns.get_mut(conn_key) {
                        conn.out.push(last);
                    }
                }
                match self.conns.get_mut(conn_key) {
                    Some(Conn { role: Role::HttpUp(up), .. }) => up.request_done = true,
                    Some(conn) => conn.finish = Finish::Shutdown,
                    None => {}
                }
                self.touch_conn(conn_key);
            }
            Some(Peer::Slot(at)) => self.slot_end(at),
            None => {}
        }
    }

    /// Pauses the request's source if its sink is full; a lane's slot gets its credit back otherwise.
    fn balance_request(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get(key) else { return };
        let origin = call.origin;
        let waiting = match (&call.kind, call.dest) {
            (Kind::Exchange(exchange), dest) => {
                let sink = dest.map_or(0, |dest| self.backlog(dest));
                exchange.pending.len_bytes() as u64 + sink
            }
            (Kind::Dubbo(_), _) => 0,
        };
        if waiting >= self.backlog_max() { self.pause_source(origin) } else { self.resume_source(origin) }
    }

    // ---- The answer --------------------------------------------------------------------------------------------

    /// A 1xx: handed on to clients that speak 1.1 (RFC 9110 §15.2).
    pub(crate) fn interim_response(&mut self, key: Key<Call>, head: &ResponseHead, bytes: &[u8]) {
        let Some(call) = self.calls.get(key) else { return };
        let Peer::Conn(origin) = call.origin else { return };
        // An interim answer is a courtesy: a client that takes nothing gets none.
        if self.backlog(Peer::Conn(origin)) >= self.backlog_max() {
            return;
        }
        if matches!(self.conns.get(origin), Some(Conn { role: Role::HttpDown(HttpDown { old: false, .. }), .. })) {
            self.scratch.clear();
            let how = ResponseOut { framing: Framing::None, ..ResponseOut::default() };
            write_response(&mut self.scratch, head, bytes, &how);
            let interim = self.driver.pool().append(&self.scratch);
            if let Some(conn) = self.conns.get_mut(origin) {
                conn.out.push(interim);
            }
            self.touch_conn(origin);
        }
    }

    /// The answer's head came. `body` is how it is delimited where it comes from.
    pub(crate) fn response_head(&mut self, key: Key<Call>, head: &ResponseHead, bytes: &[u8], body: BodyKind) {
        let now = self.driver.now();
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let draining = self.draining;
        let Some(call) = self.calls.get_mut(key) else { return };
        call.answered = true;
        let origin = call.origin;
        let Some(exchange) = call.exchange() else { return };
        exchange.status = head.status;
        exchange.replay = None;
        self.set_call_deadline(key, now + idle);
        match origin {
            Peer::Conn(conn_key) => {
                let Some(conn) = self.conns.get_mut(conn_key) else { return };
                let Role::HttpDown(down) = &mut conn.role else { return };
                let framing = match body {
                    BodyKind::None => Framing::None,
                    BodyKind::Length(length) => Framing::Length(length),
                    BodyKind::Chunked | BodyKind::UntilClose if down.old => Framing::UntilClose,
                    BodyKind::Chunked | BodyKind::UntilClose => Framing::Chunked,
                };
                if framing == Framing::UntilClose || draining {
                    down.keep_alive = false;
                }
                let connection = if down.keep_alive { ConnectionOption::KeepAlive } else { ConnectionOption::Close };
                let version = if down.old { Version::Http10 } else { Version::Http11 };
                self.scratch.clear();
                let date = Some(self.date.at(now));
                write_response(&mut self.scratch, head, bytes, &ResponseOut { framing, connection, version, date });
                let head_put_at = (conn.unsent() == 0).then_some(conn.flushes);
                conn.out.push(self.driver.pool().append(&self.scratch));
                if let Some(exchange) = self.calls.get_mut(key).and_then(Call::exchange) {
                    exchange.response_chunked = framing == Framing::Chunked;
                    exchange.head_put_at = head_put_at;
                }
                self.touch_conn(conn_key);
            }
            Peer::Slot(at) => {
                self.scratch.clear();
                let how = ResponseOut::default();
                write_response(&mut self.scratch, head, bytes, &how);
                // A head travels in one record (docs/spec/shm-v1.md §8): one that never fits would wait for ever.
                let longest = self.lanes.get(at.lane).map_or(0, |lane| lane.end.geometry().block_max);
                if self.scratch.len() > longest as usize {
                    self.fail(key, Failure::Overloaded);
                    return;
                }
                let first = First::answer(
                    head.status,
                    self.driver.pool().append(&self.scratch),
                    match body {
                        BodyKind::None => 0,
                        BodyKind::Length(length) => length,
                        BodyKind::Chunked | BodyKind::UntilClose => TOTAL_UNKNOWN,
                    },
                );
                self.slot_first(at, first);
            }
        }
    }

    /// More of the answer's body.
    pub(crate) fn response_data(&mut self, key: Key<Call>, chunk: Chunk) {
        let now = self.driver.now();
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let Some(call) = self.calls.get_mut(key) else { return };
        call.answered = true;
        let (origin, dest) = (call.origin, call.dest);
        let Some(exchange) = call.exchange() else { return };
        let (chunked, tunnel) = (exchange.response_chunked, exchange.tunnel);
        match origin {
            Peer::Conn(conn) => self.send_body(conn, chunk, chunked),
            Peer::Slot(at) => self.slot_push(at, chunk),
        }
        self.set_call_deadline(key, if tunnel { u64::MAX } else { now + idle });
        let full = self.backlog(origin) >= self.backlog_max();
        if let Some(source) = dest {
            if full { self.pause_source(source) } else { self.resume_source(source) }
        }
    }

    /// Trailers of a chunked answer: handed on to a chunked client, dropped otherwise (RFC 9110 §6.5.1).
    pub(crate) fn response_trailers(&mut self, key: Key<Call>, trailers: &[u8]) {
        if trailers.is_empty() {
            return;
        }
        if let Some(exchange) = self.calls.get_mut(key).and_then(Call::exchange) {
            // The request is over by now, so its place is free.
            exchange.request_trailers = trailers.to_vec();
            exchange.response_has_trailers = true;
        }
    }

    /// The answer is complete.
    pub(crate) fn response_end(&mut self, key: Key<Call>) {
        let Some(mut call) = self.take_call(key) else { return };
        let Kind::Exchange(exchange) = &mut call.kind else { return };
        let code = exchange.status;
        match call.origin {
            Peer::Conn(conn_key) => {
                if exchange.response_chunked {
                    let trailers: &[u8] = if exchange.response_has_trailers { &exchange.request_trailers } else { &[] };
                    self.scratch.clear();
                    write_last_chunk(&mut self.scratch, trailers);
                    let last = self.driver.pool().append(&self.scratch);
                    if let Some(conn) = self.conns.get_mut(conn_key) {
                        conn.out.push(last);
                    }
                }
                self.http_down_answered(conn_key, exchange.request_ended, false);
            }
            Peer::Slot(at) => self.slot_answered(at),
        }
        let (ended, pending) = (exchange.request_ended, std::mem::take(&mut exchange.pending));
        if !ended {
            self.abandon(&call);
        }
        self.keep_chunks(pending);
        let request_id = call.exchange().and_then(|exchange| exchange.request_id.take());
        self.count_request(call.listener, call.cluster, code, call.started, request_id);
    }

    // ---- What goes wrong ---------------------------------------------------------------------------------------

    /// The call cannot be answered by an upstream: the caller is told by shmesh, or cut off if the answer had begun.
    pub(crate) fn fail(&mut self, key: Key<Call>, failure: Failure) {
        let Some(mut call) = self.take_call(key) else { return };
        self.abandon(&call);
        let code = match &mut call.kind {
            Kind::Dubbo(dubbo) => {
                let header = dubbo.header;
                self.fail_dubbo(call.origin, &header, failure);
                u16::from(failure.dubbo_status())
            }
            Kind::Exchange(exchange) => {
                let begun = call.answered && !self.take_back_answer(call.origin, exchange.head_put_at);
                match call.origin {
                    Peer::Conn(conn) if exchange.http && !begun => {
                        self.own_response(conn, failure, exchange.head_only, exchange.request_ended);
                    }
                    Peer::Conn(conn) => self.cut_conn(conn),
                    Peer::Slot(at) if exchange.http && !begun && !failure.resets_apps() => {
                        self.own_answer(at, failure, exchange.head_only);
                    }
                    Peer::Slot(at) => self.slot_reset(at, failure.reset(), failure.sentence()),
                }
                if exchange.http { failure.http_status() } else { failure.reset() as u16 }
            }
        };
        let request_id = call.exchange().and_then(|exchange| exchange.request_id.take());
        self.count_request(call.listener, call.cluster, code, call.started, request_id);
    }

    /// Takes back an answer of which no byte has left the sidecar; true if there was one.
    fn take_back_answer(&mut self, origin: Peer, head_put_at: Option<u64>) -> bool {
        let Peer::Conn(key) = origin else { return false };
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let whole = head_put_at == Some(conn.flushes);
        if whole {
            conn.out.clear();
            if let Role::HttpDown(down) = &mut conn.role {
                down.keep_alive = false;
            }
        }
        whole
    }

    /// The caller is gone: nobody is to be told.
    pub(crate) fn cancel(&mut self, key: Key<Call>) {
        let Some(mut call) = self.take_call(key) else { return };
        self.left_well(&call);
        self.abandon(&call);
        let request_id = call.exchange().and_then(|exchange| exchange.request_id.take());
        // The code that nginx gave to "client closed request".
        self.count_request(call.listener, call.cluster, 499, call.started, request_id);
    }

    /// Takes a call from its destination, which may be in the middle of it.
    fn abandon(&mut self, call: &Call) {
        let forwarded = call.forwarded;
        match call.dest {
            Some(Peer::Conn(key)) if self.conns.get(key).is_some_and(|conn| !conn.is_made()) => {
                self.leave_connecting(call.cluster, key, false)
            }
            Some(Peer::Conn(key)) => match self.conns.get_mut(key) {
                Some(Conn { role: Role::HttpUp(up), .. }) if !forwarded => {
                    up.call = None;
                    self.pool_unused(key);
                }
                Some(Conn { role: Role::DubboUp(up), .. }) => {
                    let Kind::Dubbo(dubbo) = &call.kind else { return };
                    if let Some(ticket) = dubbo.turn {
                        up.turns.give_up(call.origin.into(), ticket);
                    }
                    if dubbo.header.two_way && (forwarded || dubbo.turn.is_some()) {
                        // If it left, its answer will be late, and dropped by its id's generation.
                        up.waiting = up.waiting.saturating_sub(1);
                    }
                }
                Some(_) => self.drop_conn(key),
                None => {}
            },
            Some(Peer::Slot(at)) => {
                if forwarded {
                    self.slot_reset(at, Reset::Cancelled, "the caller is gone");
                } else {
                    self.slot_unopened(at);
                }
            }
            None => {}
        }
    }

    /// Answers an HTTP client in the upstream's place.
    fn own_response(&mut self, key: Key<Conn>, failure: Failure, head_only: bool, request_ended: bool) {
        let close = match self.conns.get(key).map(|conn| &conn.role) {
            Some(Role::HttpDown(down)) => !down.keep_alive || !request_ended,
            _ => return,
        };
        self.scratch.clear();
        let date = Some(self.date.at(self.driver.now()));
        write_own_response(&mut self.scratch, &failure.own_answer(close, head_only, date));
        let answer = self.driver.pool().append(&self.scratch);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.out.push(answer);
            if let Role::HttpDown(down) = &mut conn.role
                && close
            {
                down.body = None;
            }
        }
        self.http_down_answered(key, request_ended, close);
    }

    /// Answers an app's HTTP call in the upstream's place.
    fn own_answer(&mut self, at: crate::lane::SlotRef, failure: Failure, head_only: bool) {
        self.scratch.clear();
        write_own_response(&mut self.scratch, &failure.own_answer(false, true, None));
        let mut head = std::mem::take(&mut self.response_head);
        let own = std::mem::take(&mut self.scratch);
        if head.parse(&own, &HeadLimits::default(), false).is_ok() {
            let mut text = Vec::new();
            let how = ResponseOut::default();
            write_response(&mut text, &head, &own, &how);
            let body = if head_only { String::new() } else { format!("{}\n", failure.sentence()) };
            let first = First::answer(failure.http_status(), Slice::from_vec(text), body.len() as u64);
            self.slot_first(at, first);
            self.slot_push(at, Chunk::Private(Slice::from_vec(body.into_bytes())));
            self.slot_answered(at);
        }
        self.scratch = own;
        self.response_head = head;
    }

    /// A call's timer fired.
    pub(crate) fn call_timer(&mut self, key: Key<Call>, now: u64) {
        let Some(call) = self.calls.get(key) else { return };
        if call.deadline > now {
            let at = call.deadline;
            self.set_call_deadline(key, at);
            return;
        }
        // Bytes that went out to a slow peer are progress too.
        let until = self.moved_until(key);
        let too_long = self.calls.get(key).is_some_and(|call| call.hard_deadline <= now);
        if until > now && !too_long {
            self.set_call_deadline(key, until);
            return;
        }
        self.observe_timeout(key, too_long, now);
        self.fail(key, if too_long { Failure::TookTooLong } else { Failure::Timeout });
    }

    /// Until when a call may go on because of what its sockets moved last.
    fn moved_until(&self, key: Key<Call>) -> u64 {
        let Some(call) = self.calls.get(key) else { return 0 };
        if matches!(call.kind, Kind::Dubbo(_)) {
            // Its connections carry other calls as well.
            return 0;
        }
        let active = |peer: Option<Peer>| match peer {
            Some(Peer::Conn(key)) => self.conns.get(key).map_or(0, |conn| conn.active),
            Some(Peer::Slot(_)) | None => 0,
        };
        if call.answered {
            let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
            active(Some(call.origin)).max(active(call.dest)) + idle
        } else {
            active(call.dest) + self.first_byte_timeout(call.cluster)
        }
    }

    /// Counts a call that is over, and logs it if that is wanted.
    #[inline(always)]
    pub(crate) fn count(&mut self, listener: u16, cluster: u32, code: u16, started: u64) {
        self.count_request(listener, cluster, code, started, None);
    }

    /// As `count`, for a request that has an id in the log.
    #[inline(always)]
    pub(crate) fn count_request(
        &mut self,
        listener: u16,
        cluster: u32,
        code: u16,
        started: u64,
        request_id: Option<Box<[u8]>>,
    ) {
        let took_ns = self.driver.now().saturating_sub(started);
        self.stages.answered(took_ns);
        self.call_counters.count(&self.snapshot, listener, cluster, code, took_ns);
        if let Some(log) = &self.log
            && !log.write(&self.snapshot, listener, cluster, code, Duration::from_nanos(took_ns), request_id)
        {
            self.counters.log_dropped.add(1);
        }
    }

    /// An empty queue, with the memory of an earlier one if there is one.
    pub(crate) fn spare_chunks(&mut self) -> Chunks {
        self.spare.pop().unwrap_or_default()
    }

    pub(crate) fn keep_chunks(&mut self, mut chunks: Chunks) {
        if self.spare.len() < SPARE_MAX && !chunks.is_unused() {
            chunks.clear();
            self.spare.push(chunks);
        }
    }
}

/// How a request's body is framed towards a socket.
fn request_framing(exchange: &Exchange) -> Framing {
    match exchange.request_length {
        // A length of 0 is said only when the caller said it, so that a GET stays as it was.
        Some(0) if !exchange.request_has_body => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

fn expects_continue(head: &Slice) -> bool {
    without_last_line(head.as_slice())
        .split(|&byte| byte == b'\n')
        .any(|line| line.len() > 7 && line[..7].eq_ignore_ascii_case(b"expect:"))
}
