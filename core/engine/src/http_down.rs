//! HTTP clients: heads in, calls out. One request at a time on a connection; answers in order by that (RFC 9112 §9.3.2).

use std::io::Write;

use shmesh_io::{Chunk, Driver, Slice};
use shmesh_policy::{HttpSpec, Snapshot, Tries};
use shmesh_proto::http1::{
    BodyKind, BodyReader, CONTINUE, Framing, OwnOut, Remote, RequestHead, RequestOut, Status, TargetForm, Version,
    write_own_response, write_reflection, write_request,
};

use crate::call::{Call, Exchange, Failure, Kind, Peer};
use crate::conn::{Conn, Finish, HttpDown, Role};
use crate::request_id::{LOGGED_BYTES_MAX, uuid};
use crate::route_key::HeadFields;
use crate::slab::Key;
use crate::upgrade;
use crate::worker::Worker;

/// Bytes of the longest address as text, an IPv6 address with an IPv4 address at its end.
const ADDRESS_BYTES_MAX: usize = 45;

impl<D: Driver> Worker<D> {
    /// Goes on with what the client sent.
    pub(crate) fn http_down_input(&mut self, key: Key<Conn>) {
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let Role::HttpDown(down) = &mut conn.role else { return };
            if conn.finish != Finish::Stay {
                conn.input = Slice::empty();
                return;
            }
            if down.body.is_some() {
                if !self.http_down_body(key) {
                    return;
                }
            } else if down.call.is_some() {
                // A request that was sent ahead waits for its turn; more than that is not taken.
                if !conn.input.is_empty() {
                    self.stop_recv(key);
                }
                return;
            } else if self.client_is_behind(key) || !self.http_down_head(key) {
                return;
            }
        }
    }

    /// Reads a head; false when it is not complete or the connection is done.
    fn http_down_head(&mut self, key: Key<Conn>) -> bool {
        let limits = self.head_limits();
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let Role::HttpDown(down) = &conn.role else { return false };
        if conn.input.is_empty() {
            return false;
        }
        let lenient = http_spec(&self.snapshot, down.listener).lenient;
        let mut head = std::mem::take(&mut self.request_head);
        let parsed = lenient.parse(conn.input.as_slice(), &limits, |buf, limits| head.parse(buf, limits));
        let go_on = match parsed {
            Ok((Status::Complete, Some(mended))) => {
                self.counters.http_mended.add(1);
                conn.input.advance(mended.taken);
                self.http_request(key, &head, &mended.bytes);
                true
            }
            Ok((Status::Complete, None)) => {
                let bytes = conn.input.split_to(head.len as usize);
                self.http_request(key, &head, bytes.as_slice());
                true
            }
            Ok((Status::Partial, _)) => {
                self.http_head_incomplete(key);
                false
            }
            Err(error) => {
                self.counters.http_malformed.add(1);
                let sentence = format!("shmesh: {error}");
                self.http_refuse(key, error.status(), error.reason(), &sentence);
                false
            }
        };
        self.request_head = head;
        go_on
    }

    fn http_head_incomplete(&mut self, key: Key<Conn>) {
        let within = self.snapshot.timeouts.head_read.as_nanos() as u64;
        let now = self.driver.now();
        if self.conns.get(key).is_some_and(|conn| conn.ended) {
            // The rest of this head will not come.
            self.finish_conn(key, Finish::Close);
            return;
        }
        let Some(Conn { role: Role::HttpDown(down), .. }) = self.conns.get_mut(key) else { return };
        if !down.head_started {
            down.head_started = true;
            self.set_conn_deadline(key, now + within);
        }
    }

    /// A request's head is complete.
    fn http_request(&mut self, key: Key<Conn>, head: &RequestHead, bytes: &[u8]) {
        let now = self.driver.now();
        let idle = self.snapshot.timeouts.idle.as_nanos() as u64;
        let Some(Conn { role: Role::HttpDown(down), .. }) = self.conns.get_mut(key) else { return };
        down.head_started = false;
        down.served = true;
        down.keep_alive = head.keep_alive && !self.draining;
        down.old = head.version == Version::Http10;
        let listener = down.listener;
        let reader = BodyReader::new(head.body);
        down.body = (!reader.is_done()).then_some(reader);
        self.set_conn_deadline(key, now + idle);

        if head.max_forwards == Some(0) {
            self.answer_as_last(key, head, bytes);
            return;
        }
        let begun = self.stages.begin();
        let way = self.snapshot.route_http(&HeadFields { head, bytes }.key());
        self.stages.routed(begun);
        let cluster = way.map(|way| way.cluster);
        let forward_proxy = cluster.and_then(|id| self.snapshot.cluster(id)).is_some_and(|c| c.dynamic_forward_proxy);
        let named_host = forward_proxy.then(|| named_host(head, bytes)).flatten();
        let connect = head.is_connect(bytes);
        if connect {
            let port = named_host.as_ref().map_or(0, |(_, port)| *port);
            if let Some((status, reason, sentence)) = self.refuses_connect(head, cluster, port) {
                self.http_refuse(key, status, reason, sentence);
                return;
            }
            // Whatever follows is no request.
            if let Some(Conn { role: Role::HttpDown(down), .. }) = self.conns.get_mut(key) {
                down.keep_alive = false;
            }
        }
        let failure = match cluster {
            None => Some(Failure::NoRoute),
            Some(_) if forward_proxy && named_host.is_none() => Some(Failure::NoRoute),
            Some(_) => None,
        };
        let (outgoing, request_id) = self.outgoing_head(key, head, bytes);
        let exchange = Exchange {
            http: true,
            connect,
            head: outgoing,
            request_id,
            upgrade: upgrade::offered(head, bytes),
            head_only: head.is_head(bytes),
            idempotent: way.and_then(|way| way.idempotent).unwrap_or_else(|| head.is_idempotent(bytes)),
            request_length: match head.body {
                BodyKind::None => Some(0),
                BodyKind::Length(length) => Some(length),
                BodyKind::Chunked | BodyKind::UntilClose => None,
            },
            request_has_body: head.body != BodyKind::None,
            pending: self.spare_chunks(),
            request_ended: self.http_body_done(key),
            ..Exchange::default()
        };
        let call =
            self.new_call(Peer::Conn(key), listener, cluster.map_or(u32::MAX, |c| c.0), Kind::Exchange(exchange));
        if let Some(call) = self.calls.get_mut(call) {
            call.named_host = named_host.map(Box::new);
        }
        if let Some(Conn { role: Role::HttpDown(down), .. }) = self.conns.get_mut(key) {
            down.call = Some(call);
        }
        self.begin_call(call, failure);
    }

    fn http_body_done(&self, key: Key<Conn>) -> bool {
        matches!(self.conns.get(key), Some(Conn { role: Role::HttpDown(HttpDown { body: None, .. }), .. }))
    }

    /// The head as it leaves, without framing and its last line; and the request's id, for the log.
    fn outgoing_head(&mut self, key: Key<Conn>, head: &RequestHead, bytes: &[u8]) -> (Slice, Option<Box<[u8]>>) {
        let (spec, address) = match self.conns.get(key) {
            Some(Conn { role: Role::HttpDown(down), .. }) => (http_spec(&self.snapshot, down.listener), down.address),
            _ => Default::default(),
        };
        let known = head.request_id(bytes);
        let made = (spec.request_id && known.is_none()).then(|| uuid(self.driver.random(), self.driver.random()));
        let made = made.as_ref().map(|id| &id[..]);
        let mut text = [0; ADDRESS_BYTES_MAX];
        let address = address.filter(|_| spec.use_remote_address).map(|address| {
            let mut rest = &mut text[..];
            // It has room for every address.
            let _ = write!(rest, "{address}");
            let left = rest.len();
            &text[..ADDRESS_BYTES_MAX - left]
        });
        let how = RequestOut {
            framing: if head.body == BodyKind::None { Framing::None } else { Framing::Unframed },
            host: (head.form == TargetForm::Absolute).then(|| head.authority.of(bytes)),
            request_id: made,
            remote: spec.use_remote_address.then_some(Remote { address, scheme: "http" }),
            ..RequestOut::default()
        };
        self.scratch.clear();
        write_request(&mut self.scratch, head, bytes, &how);
        let logged = if self.log.is_some() { known.or(made) } else { None };
        let logged = logged.map(|id| id[..id.len().min(LOGGED_BYTES_MAX)].into());
        (self.driver.pool().append(&self.scratch), logged)
    }

    /// Max-Forwards is used up: the request is answered here (RFC 9110 §7.6.2).
    fn answer_as_last(&mut self, key: Key<Conn>, head: &RequestHead, bytes: &[u8]) {
        let now = self.driver.now();
        let request_ended = self.http_body_done(key);
        let Some(Conn { role: Role::HttpDown(down), .. }) = self.conns.get(key) else { return };
        let (close, listener) = (!down.keep_alive || !request_ended, down.listener);
        let date = Some(self.date.at(now));
        self.scratch.clear();
        if head.method.of(bytes) == b"TRACE" {
            write_reflection(&mut self.scratch, head, bytes, close, date);
        } else {
            let (reason, sentence) = ("max-forwards", "shmesh: the request was not to be forwarded any further");
            let own = OwnOut { status: 200, reason, sentence, close, no_body: false, date };
            write_own_response(&mut self.scratch, &own);
        }
        let answer = self.driver.pool().append(&self.scratch);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.out.push(answer);
            if let Role::HttpDown(down) = &mut conn.role {
                down.body = None;
            }
        }
        self.touch_conn(key);
        self.http_down_answered(key, request_ended, close);
        self.count(listener, u32::MAX, 200, now);
    }

    /// Moves body bytes; false when there are none left to move.
    fn http_down_body(&mut self, key: Key<Conn>) -> bool {
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let Role::HttpDown(down) = &mut conn.role else { return false };
        let Some(reader) = &mut down.body else { return false };
        let Some(call) = down.call else {
            // The answer is out already and the connection is closing.
            conn.input = Slice::empty();
            return false;
        };
        let step = match reader.read(conn.input.as_slice()) {
            Ok(step) => step,
            Err(error) => {
                tracing::debug!(?key, %error, "a request's body is malformed");
                self.counters.http_malformed.add(1);
                self.fail(call, Failure::MalformedBody(error));
                return false;
            }
        };
        if step.consumed == 0 && !step.done {
            if conn.ended {
                self.cancel(call);
                self.drop_conn(key);
            }
            return false;
        }
        let mut taken = conn.input.split_to(step.consumed);
        let trailers = if step.done { reader.trailers().to_vec() } else { Vec::new() };
        if step.done {
            down.body = None;
        }
        if !step.data.is_empty() {
            taken.advance(step.data.start);
            taken.truncate(step.data.len());
            self.request_data(call, Chunk::Private(taken));
        }
        if step.done {
            if let Some(exchange) = self.calls.get_mut(call).and_then(Call::exchange) {
                exchange.request_trailers = trailers;
            }
            self.request_end(call);
        }
        true
    }

    /// The client sends no more.
    pub(crate) fn http_down_ended(&mut self, key: Key<Conn>, broken: bool) {
        let Some(Conn { role: Role::HttpDown(down), input, .. }) = self.conns.get_mut(key) else { return };
        let waiting = !input.is_empty();
        match down.call {
            // A client may end its direction and still want the answer; one that ended inside its request does not.
            Some(_) if !broken && down.body.is_none() => {}
            // Its last bytes are still to be looked at.
            _ if !broken && waiting => self.revisit.push(key),
            Some(call) => {
                self.cancel(call);
                self.drop_conn(key);
            }
            None => {
                let unsent = self.conns.get(key).is_some_and(|conn| conn.unsent() > 0);
                if broken || !unsent { self.drop_conn(key) } else { self.finish_conn(key, Finish::Close) }
            }
        }
    }

    /// Answers a message that cannot be served, and closes.
    pub(crate) fn http_refuse(&mut self, key: Key<Conn>, status: u16, reason: &str, sentence: &str) {
        let now = self.driver.now();
        self.scratch.clear();
        let date = Some(self.date.at(now));
        let own = OwnOut { status, reason, sentence, close: true, no_body: false, date };
        write_own_response(&mut self.scratch, &own);
        let answer = self.driver.pool().append(&self.scratch);
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.input = Slice::empty();
        conn.out.push(answer);
        let listener = if let Role::HttpDown(down) = &mut conn.role {
            down.call = None;
            down.body = None;
            down.listener
        } else {
            0
        };
        self.finish_conn(key, Finish::Close);
        self.count(listener, u32::MAX, status, now);
    }

    /// The answer to the current request is complete (or was made here): the connection goes on with the next one, or closes.
    pub(crate) fn http_down_answered(&mut self, key: Key<Conn>, request_ended: bool, close: bool) {
        let now = self.driver.now();
        let idle = self.idle_for(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::HttpDown(down) = &mut conn.role else { return };
        down.call = None;
        if close || !down.keep_alive || !request_ended || (conn.ended && conn.input.is_empty()) {
            self.finish_conn(key, Finish::Close);
            return;
        }
        self.touch_conn(key);
        self.set_conn_deadline(key, now + idle);
        self.start_recv(key);
        if self.conns.get(key).is_some_and(|conn| !conn.input.is_empty()) {
            self.revisit.push(key);
        }
    }

    /// Tells a client that waits for it to go on with its body.
    pub(crate) fn http_continue(&mut self, key: Key<Conn>) {
        if let Some(conn) = self.conns.get_mut(key)
            && matches!(&conn.role, Role::HttpDown(down) if down.body.is_some() && !down.old)
        {
            conn.out.push(self.driver.pool().append(CONTINUE));
            self.touch_conn(key);
        }
    }

    /// Makes a call of what was understood.
    #[inline]
    pub(crate) fn new_call(&mut self, origin: Peer, listener: u16, cluster: u32, kind: Kind) -> Key<Call> {
        let now = self.driver.now();
        let (tries, within) = match self.clusters.get_mut(cluster as usize) {
            Some(state) => (state.turn.tries(state.endpoints.len()), state.request),
            None => (Tries::default(), u64::MAX),
        };
        let hard_deadline = if kind.is_raw() { u64::MAX } else { now.saturating_add(within) };
        let call = Call { tries, started: now, hard_deadline, ..Call::new(origin, listener, cluster, kind) };
        let key = self.calls.insert(call);
        if matches!(origin, Peer::Conn(_)) {
            self.note_socket(key);
        }
        let within = self.first_byte_timeout(cluster);
        self.set_call_deadline(key, now + within);
        key
    }

    /// Nanoseconds that the first byte of an answer may take.
    pub(crate) fn first_byte_timeout(&self, cluster: u32) -> u64 {
        let own = self.clusters.get(cluster as usize).map(|cluster| cluster.first_byte);
        own.unwrap_or(self.snapshot.timeouts.first_byte.as_nanos() as u64)
    }
}

fn http_spec(snapshot: &Snapshot, listener: u16) -> HttpSpec {
    snapshot.listeners.get(usize::from(listener)).map(|listener| listener.http).unwrap_or_default()
}

/// Host and port that a request in absolute form, or a CONNECT, names; `None` if it is in no such form (then nobody asked for a
/// proxy).
fn named_host(head: &RequestHead, bytes: &[u8]) -> Option<(Box<str>, u16)> {
    if !matches!(head.form, TargetForm::Absolute | TargetForm::Authority) {
        return None;
    }
    let (host, port) = shmesh_proto::http1::authority_parts(head.authority.of(bytes))?;
    Some((std::str::from_utf8(host).ok()?.into(), port.unwrap_or(80)))
}
