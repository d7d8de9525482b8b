//! Provider connections that belong to one consumer (`connection_pool_per_downstream_connection`), and the callbacks that they carry.
//!
//! What a provider asks on such a connection can only be meant for its consumer. It gets the request as it is, but for the id: providers
//! count for themselves, so that two of them may use the same one, and none of these has to do with the ids of the consumer's own calls.

use std::collections::BTreeMap;

use shmesh_io::{Driver, Nanos};
use shmesh_proto::dubbo::{FrameHeader, status};

use crate::call::{Call, Failure, Peer};
use crate::conn::{Conn, Finish, Role};
use crate::dubbo::WAITING_FRAMES_MAX;
use crate::frame::Frame;
use crate::slab::Key;
use crate::worker::Worker;

/// A consumer's own connections to providers, and what came on them that it has not answered yet.
#[derive(Default)]
pub struct Own {
    /// To all addresses; also those that take no new calls.
    pub conns: Vec<Key<Conn>>,
    /// By the id under which the consumer got them, the oldest first.
    callbacks: BTreeMap<u64, Callback>,
    last_id: u64,
}

/// A request of a provider that wants an answer.
struct Callback {
    provider: Key<Conn>,
    id: u64,
    /// When it makes room for others; its provider does not wait any more.
    until: Nanos,
}

impl Own {
    /// Forgets a connection that is gone.
    pub fn lost(&mut self, provider: Key<Conn>) {
        self.conns.retain(|&own| own != provider);
        self.callbacks.retain(|_, callback| callback.provider != provider);
    }

    /// What waits for the consumer's answer, and the last id that was used: id, connection, the provider's id, until when.
    pub fn rest(&self) -> (impl Iterator<Item = (u64, Key<Conn>, u64, Nanos)>, u64) {
        let waiting = self.callbacks.iter().map(|(&id, callback)| (id, callback.provider, callback.id, callback.until));
        (waiting, self.last_id)
    }

    /// Goes on where another process stopped.
    pub fn go_on(
        conns: Vec<Key<Conn>>,
        waiting: impl Iterator<Item = (u64, Key<Conn>, u64, Nanos)>,
        last_id: u64,
    ) -> Own {
        let callbacks = waiting.map(|(id, provider, theirs, until)| (id, Callback { provider, id: theirs, until }));
        Own { conns, callbacks: callbacks.collect(), last_id }
    }

    /// The id for a callback that waits for an answer; `None` if `max` wait already.
    fn expect_answer(&mut self, callback: Callback, now: Nanos, max: u32) -> Option<u64> {
        while self.callbacks.first_key_value().is_some_and(|(_, first)| first.until <= now) {
            self.callbacks.pop_first();
        }
        if self.callbacks.len() >= max as usize {
            return None;
        }
        let id = self.next_id();
        self.callbacks.insert(id, callback);
        Some(id)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl<D: Driver> Worker<D> {
    /// The consumer whose own connections the call goes over, if its cluster has them so.
    pub(crate) fn dubbo_consumer_of(&self, key: Key<Call>) -> Option<Key<Conn>> {
        let Call { origin: Peer::Conn(consumer), cluster, .. } = self.calls.get(key)? else { return None };
        let own = self.clusters.get(*cluster as usize)?.pool_per_consumer;
        (own && self.is_consumer(*consumer)).then_some(*consumer)
    }

    /// Whether the consumer is still there.
    pub(crate) fn is_consumer(&self, key: Key<Conn>) -> bool {
        matches!(self.conns.get(key), Some(Conn { role: Role::DubboDown(_), .. }))
    }

    /// A provider asks the consumer whose own its connection is.
    pub(crate) fn dubbo_callback(&mut self, key: Key<Conn>, consumer: Key<Conn>, frame: Frame) {
        let mut header = frame.header;
        match self.dubbo_callback_id(key, consumer, &header) {
            Ok(id) => header.id = id,
            Err(failure) if header.two_way => {
                self.dubbo_answer_error(key, &header, status::SERVER_ERROR, failure.sentence());
                return;
            }
            Err(_) => return,
        }
        if let Some(conn) = self.conns.get_mut(consumer) {
            conn.out.push(self.driver.pool().append(&header.encode()));
            conn.out.push(frame.body);
        }
        self.touch_conn(consumer);
    }

    fn dubbo_callback_id(
        &mut self,
        provider: Key<Conn>,
        consumer: Key<Conn>,
        header: &FrameHeader,
    ) -> Result<u64, Failure> {
        let now = self.driver.now();
        let until = now + self.snapshot.timeouts.first_byte.as_nanos() as Nanos;
        let max = self.snapshot.limits.calls_per_connection;
        match self.conns.get_mut(consumer) {
            Some(Conn { role: Role::DubboDown(down), ended: false, finish: Finish::Stay, .. }) if header.two_way => {
                let callback = Callback { provider, id: header.id, until };
                down.own.expect_answer(callback, now, max).ok_or(Failure::Overloaded)
            }
            Some(Conn { role: Role::DubboDown(down), finish: Finish::Stay, .. }) if !header.two_way => {
                Ok(down.own.next_id())
            }
            _ => Err(Failure::Died),
        }
    }

    /// A consumer answers: the provider that asked gets its own id back, everything else as it came.
    pub(crate) fn dubbo_callback_answer(&mut self, consumer: Key<Conn>, frame: Frame) {
        let Some(Conn { role: Role::DubboDown(down), .. }) = self.conns.get_mut(consumer) else { return };
        let mut header = frame.header;
        let Some(callback) = down.own.callbacks.remove(&header.id) else {
            self.counters.late_answers.add(1);
            return;
        };
        header.id = callback.id;
        let provider = callback.provider;
        if let Some(conn) = self.conns.get_mut(provider) {
            conn.out.push(self.driver.pool().append(&header.encode()));
            conn.out.push(frame.body);
        }
        self.touch_conn(provider);
        self.dubbo_cut_if_stuck(provider);
    }

    /// Ends the connection of a provider that asks, and takes no answers.
    pub(crate) fn dubbo_cut_if_stuck(&mut self, provider: Key<Conn>) {
        let bytes_max = WAITING_FRAMES_MAX * u64::from(self.snapshot.limits.dubbo_body_bytes);
        if self.conns.get(provider).is_some_and(|conn| conn.out.len_bytes() as u64 > bytes_max) {
            tracing::warn!("a Dubbo provider takes no answers; its connection is cut");
            self.dubbo_up_lost(provider);
        }
    }

    /// While a consumer takes nothing, nothing more is received for it.
    pub(crate) fn dubbo_pause_for(&mut self, consumer: Key<Conn>, provider: Key<Conn>) {
        if self.backlog(Peer::Conn(consumer)) >= self.backlog_max() {
            self.stop_recv(provider);
        }
    }

    /// A consumer has taken everything.
    pub(crate) fn dubbo_resume_own(&mut self, consumer: Key<Conn>) {
        let mut index = 0;
        while let Some(Conn { role: Role::DubboDown(down), .. }) = self.conns.get(consumer)
            && let Some(&provider) = down.own.conns.get(index)
        {
            if matches!(self.conns.get(provider), Some(Conn { role: Role::DubboUp(up), .. }) if up.connected) {
                self.start_recv(provider);
            }
            index += 1;
        }
    }

    /// A consumer is gone: its connections end when what still has to leave on them, one-way calls, has left.
    pub(crate) fn dubbo_leave_own(&mut self, own: Own) {
        for key in own.conns {
            if let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get_mut(key) {
                let calls = &self.calls;
                up.queue.retain(|&call| calls.get(call).is_some());
            }
            // What it still answers goes nowhere, and is not to be in the way.
            if matches!(self.conns.get(key), Some(Conn { role: Role::DubboUp(up), .. }) if up.connected) {
                self.start_recv(key);
            }
            // One that is about to carry a call ends when that has left.
            let to_it = |call: &Call| call.dest == Some(Peer::Conn(key));
            if !self.ready.iter().any(|&call| self.calls.get(call).is_some_and(to_it)) {
                self.dubbo_retire(key);
            }
        }
    }

    /// Whether a provider's connection takes no new calls.
    pub(crate) fn dubbo_is_leaving(&self, key: Key<Conn>) -> bool {
        let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get(key) else { return false };
        up.readonly || up.consumer.is_some_and(|consumer| !self.is_consumer(consumer))
    }
}
