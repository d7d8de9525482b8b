//! The lanes of a client: handed out, given back, attached anew.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::calls::Calls;
use crate::clock;
use crate::error::{CallError, ConnectError};
use crate::session::{Attach, Session};
use shmesh_shm::handshake::RefusedCode;

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
    /// On the shim's clock.
    retry_at: u64,
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
                match self.attach(state) {
                    Ok(attached) => {
                        state = attached;
                        continue;
                    }
                    Err(error) => {
                        state = self.lock();
                        // Over a quota: then the lanes that there are have to do.
                        let full =
                            matches!(&error, CallError::Connect(why) if why.refused() == Some(RefusedCode::Limit));
                        if !full || state.sessions.is_empty() {
                            return Err(error);
                        }
                        if !state.idle.is_empty() {
                            continue;
                        }
                    }
                }
            }
            let now = clock::now();
            let deadline = *deadline.get_or_insert_with(|| now.saturating_add(clock::nanos(self.patience)));
            if now >= deadline {
                let lanes = usize::from(self.attach.calling_lanes) * state.sessions.len();
                return Err(CallError::NoLane { lanes });
            }
            state = self.wait_freed(state, Duration::from_nanos(deadline - now));
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

    #[cfg(not(shmesh_sim))]
    fn wait_freed<'a>(&'a self, state: MutexGuard<'a, State>, longest: Duration) -> MutexGuard<'a, State> {
        self.freed.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner).0
    }

    /// All threads of the simulation are one, which must not block.
    #[cfg(shmesh_sim)]
    fn wait_freed<'a>(&'a self, state: MutexGuard<'a, State>, longest: Duration) -> MutexGuard<'a, State> {
        drop(state);
        shmesh_shm::host::sleep(longest.min(Duration::from_millis(1)));
        self.lock()
    }

    fn attach<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, CallError> {
        if let Some(failure) = state.failure.as_ref().filter(|failure| clock::now() < failure.retry_at) {
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
                let retry_at = clock::now().saturating_add(clock::nanos(back_off));
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
