//! A calling lane in one thread's hands: pipelined calls.

use std::sync::Arc;

use crate::call::{Answer, Call, CallId, Response, Route, SubmitError, Wait};
use crate::calls::{Calls, Opening};
use crate::error::{CallError, Ran};
use crate::pool::Pool;
use shmesh_shm::Protocol;

/// A calling lane, owned: many calls in flight from one thread, none of them on another's way. Goes back to its client
/// when dropped; what is in flight then is given up.
///
/// ```no_run
/// use shmesh_client::{Call, Client, Protocol, Target, Wait};
///
/// let client = Client::connect("/run/shmesh/shmesh.sock")?;
/// let mut lane = client.lane()?;
/// let head = b"PUT / HTTP/1.1\r\nHost: reviews\r\n\r\n";
/// for body in [&b"one"[..], b"two", b"three"] {
///     let target = match lane.define(Protocol::Http, head) {
///         Some(route) => Target::Route(route),
///         None => Target::Key(Protocol::Http, head),
///     };
///     lane.submit(&Call::new(target, &[body]))?;
/// }
/// while let Some(answer) = lane.receive(Wait::Forever)? {
///     println!("{}", answer.outcome?.status);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Lane {
    calls: Option<Calls>,
    pool: Arc<Pool>,
}

impl Lane {
    pub(crate) fn new(calls: Calls, pool: Arc<Pool>) -> Lane {
        Lane { calls: Some(calls), pool }
    }

    /// Interns a routing key (docs/spec/shm-v1.md §3.1), so that calls need not carry it. A key that was interned before
    /// costs one look-up. None when the ring is full or all ids are taken: use [`Target::Key`](crate::Target::Key) then.
    pub fn define(&mut self, protocol: Protocol, key: &[u8]) -> Option<Route> {
        self.calls_mut().define(protocol, key)
    }

    /// Begins a call. The payload is copied before this returns: into shared memory as far as it goes, the rest is kept and
    /// sent while receiving. The sidecar sees it with the next [`Lane::flush`] or [`Lane::receive`]. Fails with
    /// [`CallError::ToldToGoRound`] while all calls are to go round the sidecar (`shmesh direct on`), which
    /// [`Client::call`](crate::Client::call) does where it knows another way; what is in flight is answered all the same. With
    /// [`ClientBuilder::fallback`](crate::ClientBuilder::fallback) off there is no other way, and it never does.
    pub fn submit(&mut self, call: &Call<'_>) -> Result<CallId, SubmitError> {
        if self.calls().wire.session.is_all_to_go_round() {
            return Err(CallError::ToldToGoRound.into());
        }
        self.calls_mut().submit(call, Opening::Whole)
    }

    /// Makes everything submitted visible to the sidecar now.
    pub fn flush(&mut self) {
        self.calls_mut().flush();
    }

    /// The next answer, in the order in which they come. None: the time is over, or nothing is in flight. An error: the
    /// sidecar is gone and every call was answered (each with its own judgement); get another lane.
    pub fn receive(&mut self, wait: Wait) -> Result<Option<Answer>, CallError> {
        self.calls_mut().receive(wait)
    }

    /// Gives a call up; its answer is not delivered any more. Says whether it may have run.
    pub fn cancel(&mut self, id: CallId) -> Ran {
        self.calls_mut().cancel(id)
    }

    /// Gives a response's memory back, to be used for later ones.
    pub fn recycle(&mut self, response: Response) {
        self.calls_mut().recycle(response);
    }

    /// Calls submitted whose answer was not received yet.
    pub fn in_flight(&self) -> usize {
        self.calls().in_flight()
    }

    /// How many calls can be in flight.
    pub fn slots(&self) -> usize {
        self.calls().slots()
    }

    /// Longest answer that is taken, in bytes of body; a longer one fails its call. 128 MiB at first.
    pub fn set_answer_bytes_max(&mut self, bytes: usize) {
        self.calls_mut().answer_bytes_max = bytes;
    }

    /// For the simulation: the lane can be used no more.
    #[cfg(shmesh_sim)]
    pub fn is_lost(&self) -> bool {
        self.calls().is_lost()
    }

    /// For the simulation: the sidecar has taken the call from the ring.
    #[cfg(shmesh_sim)]
    pub fn is_taken(&self, id: CallId) -> bool {
        self.calls().wire.end.state(id.slot).0 >= id.generation
    }

    /// For the simulation: blocks that the sidecar has not given back.
    #[cfg(shmesh_sim)]
    pub fn lent_blocks(&mut self) -> u32 {
        self.calls_mut().wire.end.lent_blocks()
    }

    pub(crate) fn calls(&self) -> &Calls {
        self.calls.as_ref().expect("taken only by drop")
    }

    pub(crate) fn calls_mut(&mut self) -> &mut Calls {
        self.calls.as_mut().expect("taken only by drop")
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(calls) = self.calls.take() {
            self.pool.give_back(calls);
        }
    }
}
