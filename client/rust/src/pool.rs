//! The lanes of a client: handed out, given back, attached anew.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::calls::Calls;
use crate::clock;
use crate::error::{CallError, ConnectError};
use crate::session::{Attach, Session};

/// The first pause after a failed attempt to attach; doubled up to the longest.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause between attempts to attach.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// The lanes of all sessions of a client.
#[derive(Debug)]
pub(crate) struct Pool {
    attach: Attach,
    sessions_max: usize,
    patience: Duration,
    answer_bytes_max: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Calls>,
    sessions: VecDeque<Weak<Session>>,
    attaching: bool,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    error: ConnectError,
    back_off: Duration,
    retry_at: Instant,
}

impl Pool {
    pub fn new(attach: Attach, sessions_max: usize, patience: Duration, answer_bytes_max: usize) -> Arc<Pool> {
        Arc::new(Pool {
            attach,
            sessions_max: sessions_max.max(1),
            patience,
            answer_bytes_max,
            state: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    /// A lane that is not in use. Attaches when there is none and more sessions are allowed, else waits for one.
    pub fn take(&self) -> Result<Calls, CallError> {
        let mut state = self.lock();
        let mut deadline = None;
        loop {
            while let Some(calls) = state.idle.pop() {
                // After a pause the sidecar may be gone, or going.
                if is_good(&calls.wire.session) && !calls.is_lost() {
                    return Ok(calls);
                }
            }
            state.sessions.retain(|session| session.upgrade().is_some_and(|session| is_good(&session)));
            if !state.attaching && state.sessions.len() < self.sessions_max {
                state = self.attach(state)?;
                continue;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.patience);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let lanes = usize::from(self.attach.calling_lanes) * state.sessions.len();
                return Err(CallError::NoLane { lanes });
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives a lane back. What is in flight on it is given up.
    pub fn give_back(&self, mut calls: Calls) {
        if calls.in_flight() > 0 {
            calls.cancel_all();
        }
        calls.answer_bytes_max = self.answer_bytes_max;
        self.lock().idle.push(calls);
        self.freed.notify_one();
    }

    fn attach<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, CallError> {
        if let Some(failure) = state.failure.as_ref().filter(|failure| Instant::now() < failure.retry_at) {
            return Err(failure.error.clone().into());
        }
        state.attaching = true;
        drop(state);
        let outcome = Session::attach(&self.attach);
        let mut state = self.lock();
        state.attaching = false;
        self.freed.notify_all();
        match outcome {
            Ok((session, wires)) => {
                state.failure = None;
                state.sessions.push_back(Arc::downgrade(&session));
                let calling = wires.into_iter().filter(|wire| !wire.info.serving);
                state.idle.extend(calling.map(|wire| {
                    let mut calls = Calls::new(wire);
                    calls.answer_bytes_max = self.answer_bytes_max;
                    calls
                }));
                if state.idle.is_empty() {
                    return Err(ConnectError::NoLanes.into());
                }
                Ok(state)
            }
            Err(error) => {
                let before = state.failure.as_ref().map(|failure| failure.back_off);
                let back_off = before.map_or(BACK_OFF_MIN, |before| (before * 2).min(BACK_OFF_MAX));
                let retry_at = Instant::now() + back_off;
                state.failure = Some(Failure { error: error.clone(), back_off, retry_at });
                Err(error.into())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether new calls may go through a session. In a child of `fork` those of the parent are left alone.
fn is_good(session: &Session) -> bool {
    if session.is_forked() {
        return false;
    }
    session.look_if_due(clock::now());
    !session.is_gone() && !session.is_going()
}
