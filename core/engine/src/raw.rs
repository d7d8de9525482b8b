//! Bytes that are passed through: raw connections both ways, and raw calls of apps to a socket.

use shmesh_io::{Chunk, Driver, Slice};

use crate::call::{Call, Exchange, Failure, Kind, Peer};
use crate::conn::{Conn, Finish, Role};
use crate::slab::Key;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    /// A client connected to a raw listener, or opened a raw stream.
    pub(crate) fn raw_begin(&mut self, key: Key<Conn>, listener: u16, cluster: Option<u32>) {
        let exchange = self.raw_exchange(true);
        let call = self.new_call(Peer::Conn(key), listener, cluster.unwrap_or(u32::MAX), Kind::Exchange(exchange));
        self.set_call_deadline(call, u64::MAX);
        if let Some(Conn { role: Role::RawDown(down), .. }) = self.conns.get_mut(key) {
            down.call = Some(call);
        }
        let idle = self.driver.now() + self.idle_for(key);
        self.set_conn_deadline(key, idle);
        self.begin_call(call, None);
    }

    /// State of a raw call. `tunnel`: a connection, whose two directions are independent.
    pub(crate) fn raw_exchange(&mut self, tunnel: bool) -> Exchange {
        Exchange { tunnel, request_has_body: true, pending: self.spare_chunks(), ..Exchange::default() }
    }

    pub(crate) fn raw_down_input(&mut self, key: Key<Conn>) {
        if let Some((call, bytes)) = self.raw_take(key) {
            self.request_data(call, Chunk::Private(bytes));
        }
    }

    pub(crate) fn raw_up_input(&mut self, key: Key<Conn>) {
        if self.conns.get(key).and_then(Conn::call).is_some_and(|call| self.is_connecting(call)) {
            return;
        }
        if let Some((call, bytes)) = self.raw_take(key) {
            self.raw_answer_begins(call);
            self.response_data(call, Chunk::Private(bytes));
        }
    }

    fn raw_take(&mut self, key: Key<Conn>) -> Option<(Key<Call>, Slice)> {
        let conn = self.conns.get_mut(key)?;
        let call = conn.call()?;
        let bytes = std::mem::replace(&mut conn.input, Slice::empty());
        (!bytes.is_empty()).then_some((call, bytes))
    }

    /// A raw call (not a tunnel) needs the record that begins its answer.
    pub(crate) fn raw_answer_begins(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if call.answered {
            return;
        }
        call.answered = true;
        let origin = call.origin;
        if let Kind::Exchange(Exchange { tunnel: false, .. }) = call.kind
            && let Peer::Slot(at) = origin
        {
            self.slot_first(at, crate::lane::First::answer(0, Slice::empty(), shmesh_shm::TOTAL_UNKNOWN));
        }
    }

    /// The client sends no more.
    pub(crate) fn raw_down_ended(&mut self, key: Key<Conn>, broken: bool) {
        let Some(call) = self.conns.get(key).and_then(Conn::call) else {
            self.drop_conn(key);
            return;
        };
        if broken {
            self.cut_dest(call);
            self.cancel(call);
            self.drop_conn(key);
            return;
        }
        self.request_end(call);
        self.raw_close_if_done(call);
    }

    /// The upstream sends no more.
    pub(crate) fn raw_up_ended(&mut self, key: Key<Conn>, broken: bool) {
        let Some(call_key) = self.conns.get(key).and_then(Conn::call) else {
            self.drop_conn(key);
            return;
        };
        let tunnel = matches!(
            self.calls.get(call_key).map(|call| &call.kind),
            Some(Kind::Exchange(Exchange { tunnel: true, .. }))
        );
        if broken {
            self.fail(call_key, Failure::Died);
            return;
        }
        if self.is_connecting(call_key) {
            // The client is told of the connection first.
            return;
        }
        if !tunnel && self.conns.get(key).is_some_and(|conn| conn.sending > 0) {
            // A connection that was reset looks ended in order to whoever receives after a send had the error: how the send
            // ends decides (`conn_sent`).
            return;
        }
        if tunnel {
            if let Some(Peer::Conn(origin)) = self.calls.get(call_key).map(|call| call.origin) {
                self.finish_conn(origin, Finish::Shutdown);
            }
            self.raw_close_if_done(call_key);
        } else {
            self.raw_answer_begins(call_key);
            if let Some(call) = self.calls.get_mut(call_key)
                && let Kind::Exchange(exchange) = &mut call.kind
            {
                exchange.request_ended = true;
                call.dest = None;
            }
            self.drop_conn(key);
            self.response_end(call_key);
        }
    }

    /// The upstream of a raw call, which is no tunnel, has ended; its end was put off while something was being sent.
    pub(crate) fn raw_end_is_due(&self, key: Key<Conn>) -> bool {
        let Some(Conn { role: Role::RawUp(up), ended: true, .. }) = self.conns.get(key) else { return false };
        let call = up.call.and_then(|call| self.calls.get(call));
        matches!(call.map(|call| &call.kind), Some(Kind::Exchange(Exchange { tunnel: false, .. })))
    }

    /// The peer on a serving lane ended its direction of a tunnel.
    pub(crate) fn raw_slot_ended(&mut self, key: Key<Call>) {
        if let Some(Peer::Conn(origin)) = self.calls.get(key).map(|call| call.origin) {
            self.finish_conn(origin, Finish::Shutdown);
        }
        self.raw_close_if_done(key);
    }

    /// When both directions of a tunnel have ended, what is left is flushed and closed.
    fn raw_close_if_done(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get(key) else { return };
        let Kind::Exchange(Exchange { tunnel: true, request_ended: true, status, .. }) = call.kind else { return };
        let answered_end = match call.dest {
            Some(Peer::Conn(dest)) => self.conns.get(dest).is_none_or(|conn| conn.ended),
            Some(Peer::Slot(at)) => self.slot_received_end(at),
            None => false,
        };
        if !answered_end {
            return;
        }
        let Some(mut call) = self.take_call(key) else { return };
        for peer in [Some(call.origin), call.dest] {
            if let Some(Peer::Conn(conn_key)) = peer
                && let Some(conn) = self.conns.get_mut(conn_key)
            {
                match &mut conn.role {
                    Role::RawDown(down) => down.call = None,
                    Role::RawUp(up) => up.call = None,
                    _ => {}
                }
                self.finish_conn(conn_key, Finish::Close);
            }
        }
        if let Some(Peer::Slot(at)) = call.dest {
            self.slot_discard(at);
        }
        let request_id = call.exchange().and_then(|exchange| exchange.request_id.take());
        self.count_request(call.listener, call.cluster, status, call.started, request_id);
    }

    /// A client broke off: its upstream is told in the same way.
    fn cut_dest(&mut self, key: Key<Call>) {
        if let Some(Peer::Conn(dest)) = self.calls.get(key).and_then(|call| call.dest)
            && self.conns.get(dest).is_some_and(Conn::is_made)
        {
            self.cut_conn(dest);
        }
    }
}
