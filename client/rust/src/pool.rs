//! The lanes of a client: handed out, given back, attached anew.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::attachment::{Attachment, Progress};
use crate::calls::Calls;
use crate::clock;
use crate::error::{CallError, ConnectError, Ran};
use crate::session::{Attach, Session};
use shmesh_shm::handshake::RefusedCode;

/// The first pause after a failed attempt to attach; doubled up to the longest.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause between attempts to attach.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// How long a thread waits for WELCOME before it looks round: the sessions that there are may turn out lost meanwhile.
const WELCOME_LOOK: Duration = Duration::from_millis(20);

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
    attaching: Attaching,
    failure: Option<Failure>,
}

/// The attachment under way; one at a time.
#[derive(Debug, Default)]
enum Attaching {
    #[default]
    No,
    /// Whoever wants a lane looks after it.
    Pending(Attachment),
    /// A thread waits for it.
    Awaited,
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
        self.take_or(true, None).map(|lane| lane.expect("it was waited for"))
    }

    /// As [`Pool::take_until`], but does not wait for a sidecar of which no session is attached.
    pub fn take_attached(&self, until: Option<u64>) -> Result<Option<Calls>, CallError> {
        self.take_or(false, until)
    }

    /// As [`Pool::take`], but waits no longer than until then, on the shim's clock. None: attaching is under way.
    pub fn take_until(&self, until: u64) -> Result<Option<Calls>, CallError> {
        self.take_or(true, Some(until))
    }

    fn take_or(&self, waits: bool, until: Option<u64>) -> Result<Option<Calls>, CallError> {
        let mut state = self.lock();
        let mut deadline = None;
        loop {
            while let Some(calls) = state.idle.pop() {
                // After a pause the sidecar may be gone, or going.
                if is_good(&calls.wire.session) && !calls.is_lost() {
                    return Ok(Some(calls));
                }
            }
            state.sessions.retain(|session| session.upgrade().is_some_and(|session| is_good(&session)));
            let more = state.sessions.len() < self.sessions_max;
            if more && !matches!(state.attaching, Attaching::Awaited) {
                match self.attach(&mut state) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => {
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
            let lanes = usize::from(self.attach.calling_lanes) * state.sessions.len();
            match until {
                _ if lanes == 0 && !waits => return Ok(None),
                Some(until) if now >= until && lanes == 0 => return Ok(None),
                Some(until) if now >= until => {
                    let sentence = format!("all {lanes} lanes are in use");
                    return Err(CallError::Timeout { ran: Ran::No, sentence });
                }
                _ => {}
            }
            let left = Duration::from_nanos(until.map_or(u64::MAX, |until| until - now));
            match std::mem::take(&mut state.attaching) {
                Attaching::Pending(attachment) => {
                    state = self.wait_welcome(state, attachment, left);
                    continue;
                }
                other => state.attaching = other,
            }
            let deadline = *deadline.get_or_insert_with(|| now.saturating_add(clock::nanos(self.patience)));
            if now >= deadline {
                return Err(CallError::NoLane { lanes });
            }
            state = self.wait_freed(state, left.min(Duration::from_nanos(deadline - now)));
        }
    }

    /// Gives a lane back. What is in flight on it is given up.
    pub fn give_back(&self, mut calls: Calls) {
        if calls.in_flight() > 0 {
            calls.cancel_all();
        }
        calls.answer_bytes_max = self.answer_bytes_max;
        let session = calls.wire.session.clone();
        self.lock().idle.push(calls);
        self.freed.notify_one();
        session.tick_if_due(clock::now());
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

    /// Begins to attach, or goes on with it. True: lanes were added; false: the sidecar has not answered yet.
    fn attach(&self, state: &mut State) -> Result<bool, CallError> {
        if let Some(failure) = state.failure.as_ref().filter(|failure| clock::now() < failure.retry_at) {
            return Err(failure.error.clone().into());
        }
        let attachment = match std::mem::take(&mut state.attaching) {
            Attaching::Pending(attachment) if !attachment.is_forked() => Ok(attachment),
            _ => Attachment::begin(&self.attach),
        };
        let attached = match attachment.and_then(Attachment::advance) {
            Ok(Progress::Pending(attachment)) => {
                state.attaching = Attaching::Pending(attachment);
                return Ok(false);
            }
            Ok(Progress::Done(welcomed)) => Session::open(welcomed, &self.attach),
            Err(error) => Err(error),
        };
        self.freed.notify_all();
        match attached {
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
                Ok(true)
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

    /// Waits for the sidecar's answer with the lanes free for others.
    fn wait_welcome<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        attachment: Attachment,
        longest: Duration,
    ) -> MutexGuard<'a, State> {
        state.attaching = Attaching::Awaited;
        drop(state);
        attachment.wait(WELCOME_LOOK.min(longest));
        let mut state = self.lock();
        state.attaching = Attaching::Pending(attachment);
        self.freed.notify_all();
        state
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
