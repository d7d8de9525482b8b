//! HTTP servers: requests out, answers in.

use std::io;

use shmesh_io::{Chunk, Driver, Nanos, Slice};
use shmesh_policy::Outcome;
use shmesh_proto::http1::{BodyReader, Framing, ResponseHead, Status, chunk_line, end_head};

use crate::attempt::Ended;
use crate::call::{Call, Failure, Kind, Peer};
use crate::conn::{Conn, HttpUp, Role};
use crate::landing::LANDING_MIN;
use crate::route_key::without_last_line;
use crate::slab::Key;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    /// Goes on with what the server sent.
    pub(crate) fn http_up_input(&mut self, key: Key<Conn>) {
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let Role::HttpUp(up) = &mut conn.role else { return };
            if conn.input.is_empty() {
                return;
            }
            let Some(call) = up.call else {
                // Nobody asked: whatever this is, it must not become the answer of the next request (RFC 9112 §9.2).
                self.drop_conn(key);
                return;
            };
            let go_on = if up.body.is_some() { self.http_up_body(key, call) } else { self.http_up_head(key, call) };
            if !go_on {
                return;
            }
        }
    }

    /// Reads the head of an answer; false when it is not complete.
    fn http_up_head(&mut self, key: Key<Conn>, call: Key<Call>) -> bool {
        let limits = self.head_limits();
        if self.calls.get(call).is_some_and(|call| !call.forwarded) {
            // Sent before the request was: it answers nothing that we asked (a server's 408 for an idle connection, say).
            self.drop_conn(key);
            if let Some(call) = self.calls.get_mut(call) {
                call.dest = None;
            }
            self.dispatch_again(call);
            return false;
        }
        let cluster = self.calls.get(call).and_then(|call| self.snapshot.clusters.get(call.cluster as usize));
        let lenient = cluster.map(|cluster| cluster.lenient).unwrap_or_default();
        let to_head = self.calls.get_mut(call).and_then(Call::exchange).is_some_and(|exchange| exchange.head_only);
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let mut head = std::mem::take(&mut self.response_head);
        let parsed = lenient.parse(conn.input.as_slice(), &limits, |buf, limits| head.parse(buf, limits, to_head));
        let go_on = match parsed {
            Ok((Status::Partial, _)) => false,
            Ok((Status::Complete, Some(mended))) => {
                self.counters.http_mended.add(1);
                conn.input.advance(mended.taken);
                self.http_response(key, call, &head, &mended.bytes)
            }
            Ok((Status::Complete, None)) => {
                let bytes = conn.input.split_to(head.len as usize);
                self.http_response(key, call, &head, bytes.as_slice())
            }
            Err(error) => {
                tracing::warn!(%error, "an upstream's answer is malformed");
                self.endpoint_failed(Some(call), key);
                self.fail(call, Failure::MalformedAnswer);
                false
            }
        };
        self.response_head = head;
        go_on
    }

    fn http_response(&mut self, key: Key<Conn>, call: Key<Call>, head: &ResponseHead, bytes: &[u8]) -> bool {
        if head.status == 101 {
            self.switch_protocols(key, call, head, bytes);
            return false;
        }
        if head.is_interim() {
            self.interim_response(call, head, bytes);
            return true;
        }
        let now = self.driver.now();
        let Some(Conn { role: Role::HttpUp(up), .. }) = self.conns.get_mut(key) else { return false };
        up.keep_alive = head.keep_alive;
        let reader = BodyReader::new(head.body);
        let done = reader.is_done();
        up.body = Some(reader);
        up.head_at = now;
        self.response_head(call, head, bytes, head.body);
        if done {
            self.http_up_done(key, call);
            return false;
        }
        true
    }

    /// Moves body bytes; false when there are none left to move.
    fn http_up_body(&mut self, key: Key<Conn>, call: Key<Call>) -> bool {
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let Role::HttpUp(HttpUp { body: Some(reader), in_bulk, .. }) = &mut conn.role else { return false };
        let step = match reader.read(conn.input.as_slice()) {
            Ok(step) => step,
            Err(error) => {
                tracing::warn!(%error, "the body of an upstream's answer is malformed");
                self.endpoint_failed(Some(call), key);
                self.fail(call, Failure::MalformedAnswer);
                return false;
            }
        };
        if step.consumed == 0 && !step.done {
            return false;
        }
        *in_bulk = step.data.len() as u64 >= LANDING_MIN;
        let mut taken = conn.input.split_to(step.consumed);
        let trailers = if step.done { reader.trailers().to_vec() } else { Vec::new() };
        if !step.data.is_empty() {
            taken.advance(step.data.start);
            taken.truncate(step.data.len());
            self.response_data(call, Chunk::Private(taken));
        }
        if step.done {
            self.response_trailers(call, &trailers);
            self.http_up_done(key, call);
            return false;
        }
        true
    }

    /// The answer is complete: the connection goes to the pool, if it may.
    pub(crate) fn http_up_done(&mut self, key: Key<Conn>, call: Key<Call>) {
        self.answered_well(call, key);
        self.release_http_up(key);
        self.response_end(call);
    }

    /// Not before the answer is complete: one that ends in the middle of each is none to send calls to.
    #[inline]
    fn answered_well(&mut self, call: Key<Call>, dest: Key<Conn>) {
        if let Some(Kind::Exchange(exchange)) = self.calls.get(call).map(|call| &call.kind) {
            let outcome = Outcome::of_status(exchange.status);
            self.observe_call(call, dest, outcome);
        }
    }

    /// As [`Worker::answered_well`], of a call whose caller leaves in the middle of its answer.
    pub(crate) fn left_well(&mut self, call: &Call) {
        if let (Kind::Exchange(exchange), Some(Peer::Conn(dest))) = (&call.kind, call.dest)
            && call.answered
            && exchange.http
            && let Some(address) = self.address_of(dest)
        {
            self.observe(call.cluster, address, Outcome::of_status(exchange.status));
        }
    }

    /// Whether an answer whose head came then has taken longer than it might have taken to begin.
    fn is_long(&self, head_at: Nanos, call: Key<Call>) -> bool {
        let Some(call) = self.calls.get(call) else { return false };
        self.driver.now().saturating_sub(head_at) >= self.first_byte_timeout(call.cluster)
    }

    /// Puts a connection into the pool that was made for a call and has carried none.
    pub(crate) fn pool_unused(&mut self, key: Key<Conn>) {
        if let Some(Conn { role: Role::HttpUp(up), .. }) = self.conns.get_mut(key) {
            (up.keep_alive, up.request_done) = (true, true);
        }
        self.release_http_up(key);
    }

    /// Takes the connection from its call: into the pool, or closed.
    pub(crate) fn release_http_up(&mut self, key: Key<Conn>) {
        if matches!(self.conns.get(key), Some(Conn { role: Role::HttpUp(HttpUp { landing: Some(_), .. }), .. })) {
            // The block that waits for more of this answer.
            self.stop_recv(key);
        }
        let now = self.driver.now();
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let idle_max = self.snapshot.limits.pool_idle_per_cluster as usize;
        let draining = self.draining;
        let Some(conn) = self.conns.get_mut(key) else { return };
        let unsent = conn.unsent() > 0;
        let Role::HttpUp(up) = &mut conn.role else { return };
        up.call = None;
        up.body = None;
        up.reused = true;
        up.in_bulk = false;
        up.awaits_credit = false;
        let address = self.addresses.get(up.address);
        let clean = !up.broken && up.keep_alive && up.request_done && !unsent && conn.input.is_empty() && !conn.ended;
        if !clean || draining || address.idle.len() >= idle_max {
            self.drop_conn(key);
            return;
        }
        up.request_done = false;
        address.idle.push(key);
        self.start_recv(key);
        self.set_conn_deadline(key, now + idle);
    }

    /// The server sends no more.
    pub(crate) fn http_up_ended(&mut self, key: Key<Conn>, broken: bool) {
        let Some(Conn { role: Role::HttpUp(up), .. }) = self.conns.get(key) else { return };
        let Some(call) = up.call else {
            self.drop_conn(key);
            return;
        };
        let complete = !broken && up.body.as_ref().is_some_and(BodyReader::may_end_here);
        let (reused, unsent) = (up.reused, !up.sent);
        let started = up.body.is_some();
        let long = started && self.is_long(up.head_at, call);
        if complete {
            self.answered_well(call, key);
            self.drop_conn(key);
            self.response_end(call);
            return;
        }
        // Servers close connections that nobody uses when they like, and streams that went on for long: perhaps because the caller takes too little.
        self.endpoint_failed(((!reused || started) && !long).then_some(call), key);
        self.drop_conn(key);
        self.attempt_failed(call, Ended { reused_connection: reused, unsent, response_started: started });
    }

    /// A connection to an upstream is made, or is not.
    pub(crate) fn connected(&mut self, key: Key<Conn>, result: io::Result<()>) {
        let now = self.driver.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let address = match &conn.role {
            Role::HttpUp(up) => up.address,
            Role::DubboUp(up) => up.address,
            Role::RawUp(up) => up.address,
            _ => return,
        };
        if let Err(error) = result {
            self.counters.connect_failures.add(1);
            tracing::debug!(target = %self.addresses.get(address).target, %error, "an upstream refused the connection");
            self.connect_failed(key, Failure::Refused);
            return;
        }
        conn.active = now;
        let (mut waiting, mut nobody_waits, mut is_raw) = (Vec::new(), false, false);
        match &mut conn.role {
            Role::HttpUp(up) => {
                up.connected = true;
                waiting.extend(up.call);
                nobody_waits = waiting.is_empty();
            }
            Role::RawUp(up) => {
                up.connected = true;
                waiting.extend(up.call);
                (nobody_waits, is_raw) = (waiting.is_empty(), true);
            }
            Role::DubboUp(up) => {
                up.connected = true;
                waiting.append(&mut up.queue);
            }
            _ => {}
        }
        let state = self.addresses.get(address);
        state.counters.connections.add(1);
        self.counters.connects.add(1);
        let left = state.take_left(key);
        if is_raw {
            // Nobody knows what answers are.
            let told = waiting.iter().filter_map(|&call| self.calls.get(call)).map(|call| call.cluster);
            for cluster in told.chain(left).collect::<Vec<_>>() {
                self.observe(cluster, address, Outcome::Good);
            }
        }
        if nobody_waits {
            return if is_raw { self.drop_conn(key) } else { self.pool_unused(key) };
        }
        for call in waiting {
            self.make_ready(call);
        }
        self.start_recv(key);
        let idle = self.idle_for(key);
        self.set_conn_deadline(key, now + idle);
    }

    /// The connection was not made in time.
    pub(crate) fn connect_timed_out(&mut self, key: Key<Conn>) {
        self.counters.connect_failures.add(1);
        self.connect_failed(key, Failure::ConnectTimeout);
    }

    /// The calls that waited for this connection go to the next endpoint.
    fn connect_failed(&mut self, key: Key<Conn>, failure: Failure) {
        let waiting: Vec<Key<Call>> = match self.conns.get_mut(key).map(|conn| &mut conn.role) {
            Some(Role::HttpUp(up)) => up.call.into_iter().collect(),
            Some(Role::RawUp(up)) => up.call.into_iter().collect(),
            Some(Role::DubboUp(up)) => std::mem::take(&mut up.queue),
            _ => Vec::new(),
        };
        self.not_connected(&waiting, key);
        self.drop_conn(key);
        for call in waiting {
            if let Some(state) = self.calls.get_mut(call) {
                state.dest = None;
                // One that was sent before may have run, whatever becomes of it now.
                if state.attempts == 0 {
                    state.last_failure = failure;
                }
                self.dispatch(call);
            }
        }
    }

    /// Puts a request's head with the framing of its body on an upstream connection, and with the protocols to switch to.
    pub(crate) fn send_request_head(&mut self, key: Key<Conn>, head: &Slice, framing: Framing, upgrade: Option<&[u8]>) {
        self.scratch.clear();
        self.scratch.extend_from_slice(without_last_line(head.as_slice()));
        if let Some(protocols) = upgrade {
            self.scratch.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            self.scratch.extend_from_slice(protocols);
            self.scratch.extend_from_slice(b"\r\n");
        }
        end_head(&mut self.scratch, framing);
        let bytes = self.driver.pool().append(&self.scratch);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.out.push(bytes);
        }
        self.touch_conn(key);
    }

    /// Puts body bytes on a connection, as a chunk of their own if the body is chunked.
    pub(crate) fn send_body(&mut self, key: Key<Conn>, chunk: Chunk, chunked: bool) {
        let pool = self.driver.pool();
        let Some(conn) = self.conns.get_mut(key) else { return };
        if chunked {
            let (line, used) = chunk_line(chunk.len());
            conn.out.push(pool.append(&line[..used]));
            conn.out.push(chunk);
            conn.out.push(pool.append(shmesh_proto::http1::CHUNK_END));
        } else {
            conn.out.push(chunk);
        }
        self.touch_conn(key);
    }
}
