//! A worker that has taken everything begins to work.

use std::collections::HashSet;

use shmesh_io::Driver;

use crate::call::Call;
use crate::conn::{Conn, Pipe, Role};
use crate::slab::Key;
use crate::timer::Owner;
use crate::worker::Worker;

/// Conns that begin to work before lanes are looked at again.
const CONNS_BEGUN_AT_ONCE: usize = 256;

impl<D: Driver> Worker<D> {
    /// Begins to work: nothing of this has an effect outside before.
    pub(crate) fn begin(&mut self) {
        let waiting: HashSet<u64> = self.lanes.keys().into_iter().filter_map(|key| self.lanes.get(key)).fold(
            HashSet::new(),
            |mut all, lane| {
                all.extend(lane.waiting.iter().map(|call| call.to_bits()));
                all
            },
        );
        // What was used last is waited for most.
        self.beginning.retain(|key| self.conns.get(*key).is_some());
        self.beginning.sort_by_cached_key(|key| self.conns.get(*key).map(|conn| conn.active));
        self.begin_conns();
        self.moving = true;
        for key in self.lanes.keys() {
            self.warm(key);
            self.timers.arm(Owner::Lane(key.index() as u32), self.driver.now());
            self.touch_lane(key);
        }
        for key in self.calls.keys() {
            let Some(call) = self.calls.get(key) else { continue };
            let lost = call.dest.is_none() && !waiting.contains(&key.to_bits());
            self.set_call_deadline(key, call.deadline);
            if lost {
                self.dispatch_anew(key);
            }
        }
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.session_rung(session);
        }
    }

    /// The next of the conns that were taken begin to work. They are many, and not all of them have something to do.
    pub(crate) fn begin_conns(&mut self) {
        for _ in 0..CONNS_BEGUN_AT_ONCE {
            let Some(key) = self.beginning.pop() else { return };
            self.receive_again(key);
            self.touch_conn(key);
        }
    }

    /// Has a conn that was taken wait for what comes, and for its time.
    pub(super) fn receive_again(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (receiving, deadline) = (std::mem::take(&mut conn.receiving), conn.deadline);
        if let (Pipe::Socket(sock), Role::HttpUp(up)) = (conn.pipe, &conn.role) {
            self.driver.receive_alone(sock, up.for_app);
        }
        if receiving {
            self.start_recv(key);
        }
        self.set_conn_deadline(key, deadline);
    }

    /// A call on its way to a connection that stayed behind.
    fn dispatch_anew(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if let Some(cluster) = self.clusters.get_mut(call.cluster as usize) {
            call.tries = cluster.turn.tries(cluster.endpoints.len());
        }
        self.dispatch(key);
    }
}
