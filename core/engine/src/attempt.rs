//! What becomes of a call whose upstream ended before the answer was complete: once more, or the caller is told.

use shmesh_io::{Chunk, Chunks, Driver};
use shmesh_policy::{Attempt, Retry};

use crate::call::{Call, Failure, Kind};
use crate::slab::Key;
use crate::worker::Worker;

/// Bytes of a request's body that are kept until its answer begins, should it have to be sent again.
pub(crate) const REPLAY_MAX: usize = 64 * 1024;

/// How far an attempt got on the connection that ended.
#[derive(Copy, Clone)]
pub(crate) struct Ended {
    /// The connection had carried another call before.
    pub reused_connection: bool,
    /// No byte of the request was handed to the kernel.
    pub unsent: bool,
    /// A byte of the answer came.
    pub response_started: bool,
}

impl<D: Driver> Worker<D> {
    /// A connection, or a serving app, ended before the answer was complete.
    pub(crate) fn attempt_failed(&mut self, key: Key<Call>, ended: Ended) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let forwarded = call.forwarded;
        let (idempotent, kept) = match &call.kind {
            Kind::Exchange(exchange) => (exchange.idempotent, exchange.replay.is_some() || !exchange.request_has_body),
            Kind::Dubbo(dubbo) => (dubbo.idempotent, dubbo.replay.is_some()),
        };
        let attempt = Attempt {
            idempotent,
            bytes_sent: u64::from(forwarded && !ended.unsent),
            // What was never forwarded is still there.
            replayable: !forwarded || kept,
            reused_connection: ended.reused_connection,
            endpoint_left: call.host_again.is_some() || call.tries.len() > 0 || !call.skipped.is_empty(),
            response_started: ended.response_started || call.answered,
            attempts: call.attempts.max(1),
        };
        let decision = attempt.decide();
        if decision == Retry::No {
            self.fail(key, Failure::Died);
            return;
        }
        match &mut call.kind {
            Kind::Exchange(exchange) => put_back(&mut exchange.replay, &mut exchange.pending),
            Kind::Dubbo(dubbo) => put_back(&mut dubbo.replay, &mut dubbo.body),
        }
        call.dest = None;
        call.forwarded = false;
        call.last_failure = Failure::Died;
        self.counters.retries.add(1);
        match decision {
            Retry::Again => self.dispatch_again(key),
            Retry::Elsewhere | Retry::No => {
                call.fresh = true;
                self.dispatch(key);
            }
        }
    }
}

/// What was sent goes before what was not.
fn put_back(replay: &mut Option<Chunks>, unsent: &mut Chunks) {
    if let Some(mut sent) = replay.take() {
        sent.append(unsent);
        *unsent = sent;
    }
}

/// A copy of a body that is about to leave, if it is short and nobody else's memory.
pub(crate) fn kept(body: &Chunks) -> Option<Chunks> {
    let keep = body.len_bytes() <= REPLAY_MAX && body.iter().all(|chunk| matches!(chunk, Chunk::Private(_)));
    keep.then(|| {
        let mut kept = Chunks::new();
        kept.extend(body.iter().cloned());
        kept
    })
}
