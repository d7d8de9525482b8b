//! CONNECT (RFC 9110 §9.3.6): a tunnel to the host and port that a client names, where a cluster allows that port.
//!
//! The client's connection stays one of HTTP until the other one is made: so what fails is answered in HTTP, and what was sent
//! ahead waits. Then comes the 200, and what a tunnel does is in `upgrade.rs` and `raw.rs`.

use shmesh_io::Driver;
use shmesh_policy::ClusterId;
use shmesh_proto::http1::{BodyKind, RequestHead, write_connected};

use crate::call::{Call, Exchange, Failure, Kind, Peer};
use crate::slab::Key;
use crate::worker::Worker;

/// Why a CONNECT is not served: status, reason and sentence.
pub(crate) type Refusal = (u16, &'static str, &'static str);

const NOT_ALLOWED: Refusal = (
    405,
    "connect-not-allowed",
    "shmesh: CONNECT is not served here, or not to this port (`connect_ports` of the cluster); send requests in absolute form",
);

const WITH_CONTENT: Refusal = (400, "connect-with-content", "shmesh: a CONNECT has no content");

impl<D: Driver> Worker<D> {
    /// Whether a CONNECT that is routed to `cluster` may be served.
    pub(crate) fn refuses_connect(&self, head: &RequestHead, cluster: Option<ClusterId>, port: u16) -> Option<Refusal> {
        // What follows would be content to one reader, and the tunnel's first bytes to another.
        if !matches!(head.body, BodyKind::None | BodyKind::Length(0)) {
            return Some(WITH_CONTENT);
        }
        let cluster = cluster.and_then(|id| self.snapshot.cluster(id));
        let allowed = cluster.is_some_and(|cluster| cluster.connect_ports.contains(&port));
        (!allowed).then_some(NOT_ALLOWED)
    }

    /// The connection is made: the client is told, and what it has sent ahead follows.
    pub(crate) fn connect_done(&mut self, key: Key<Call>) {
        let now = self.driver.now();
        let Some(Call { origin: Peer::Conn(origin), dest: Some(Peer::Conn(dest)), .. }) = self.calls.get(key) else {
            return self.fail(key, Failure::Died);
        };
        let (origin, dest) = (*origin, *dest);
        self.scratch.clear();
        write_connected(&mut self.scratch, Some(self.date.at(now)));
        let agreed = self.driver.pool().append(&self.scratch);
        self.begin_tunnel(key, origin, dest, agreed, 200);
    }

    /// The client of this call waits for a connection; nothing that comes on it is passed on yet.
    pub(crate) fn is_connecting(&self, key: Key<Call>) -> bool {
        matches!(self.calls.get(key).map(|call| &call.kind), Some(Kind::Exchange(Exchange { connect: true, .. })))
    }
}
