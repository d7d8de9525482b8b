//! From HTTP to a tunnel: 101 Switching Protocols (RFC 9110 §7.8), as for WebSocket (RFC 6455 §4).
//!
//! The request's Upgrade goes to services on sockets only, beside a head that is without it for all others. When one answers 101, the
//! call becomes a raw one, and both connections pass bytes through from then on.

use shmesh_io::{Driver, Slice};
use shmesh_policy::Outcome;
use shmesh_proto::http1::{ConnectionOption, Framing, RequestHead, ResponseHead, ResponseOut, write_response};

use crate::call::{Call, Failure, Kind, Peer};
use crate::conn::{Conn, RawDown, RawUp, Role};
use crate::slab::Key;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    /// A service agrees to speak another protocol; it is taken at its word only if the client has offered that one.
    pub(crate) fn switch_protocols(&mut self, key: Key<Conn>, call: Key<Call>, head: &ResponseHead, bytes: &[u8]) {
        let origin = match self.calls.get(call) {
            Some(Call { origin: Peer::Conn(origin), kind: Kind::Exchange(exchange), .. })
                if exchange.request_ended
                    && exchange.upgrade.as_ref().is_some_and(|offered| head.switches_to_one_of(bytes, offered)) =>
            {
                *origin
            }
            _ => {
                self.endpoint_failed(Some(call), key);
                return self.fail(call, Failure::MalformedAnswer);
            }
        };
        let how =
            ResponseOut { framing: Framing::None, connection: ConnectionOption::Upgrade, ..ResponseOut::default() };
        self.scratch.clear();
        write_response(&mut self.scratch, head, bytes, &how);
        let agreed = self.driver.pool().append(&self.scratch);
        self.observe_call(call, key, Outcome::Good);
        self.begin_tunnel(call, origin, key, agreed, head.status);
    }

    /// Both connections of a call pass bytes through from now on, behind the answer that says so.
    pub(crate) fn begin_tunnel(
        &mut self,
        call: Key<Call>,
        origin: Key<Conn>,
        dest: Key<Conn>,
        agreed: Slice,
        status: u16,
    ) {
        let Some(down) = self.conns.get_mut(origin) else { return self.fail(call, Failure::Died) };
        down.out.push(agreed);
        down.role = Role::RawDown(RawDown { call: Some(call) });
        self.touch_conn(origin);
        if let Some(up) = self.conns.get_mut(dest)
            && let Role::HttpUp(http) = &up.role
        {
            up.role = Role::RawUp(RawUp { address: http.address, call: Some(call), connected: true });
        }
        let cluster = self.calls.get(call).map(|call| call.cluster);
        self.check_peer(dest, cluster);
        if let Some(call) = self.calls.get_mut(call) {
            call.answered = true;
            call.hard_deadline = u64::MAX;
            if let Kind::Exchange(exchange) = &mut call.kind {
                exchange.status = status;
                // Nothing is sent once more: what passes through is not kept.
                exchange.replay = None;
                (exchange.http, exchange.connect, exchange.tunnel) = (false, false, true);
                (exchange.request_has_body, exchange.request_ended) = (true, false);
            }
        }
        self.set_call_deadline(call, u64::MAX);
        let now = self.driver.now();
        for conn in [origin, dest] {
            let idle = self.idle_for(conn);
            self.set_conn_deadline(conn, now + idle);
        }
        // What either side sent ahead.
        self.raw_up_input(dest);
        self.raw_down_input(origin);
        self.start_recv(origin);
        if self.conns.get(origin).is_some_and(|conn| conn.ended) {
            self.raw_down_ended(origin, false);
        }
        if self.conns.get(dest).is_some_and(|conn| conn.ended) {
            self.raw_up_ended(dest, false);
        }
    }
}

/// The protocols that a client offers to speak instead, unless a body comes first.
pub(crate) fn offered(head: &RequestHead, bytes: &[u8]) -> Option<Box<[u8]>> {
    (head.upgrade && head.body == shmesh_proto::http1::BodyKind::None).then(|| head.upgrade_protocols(bytes).into())
}
