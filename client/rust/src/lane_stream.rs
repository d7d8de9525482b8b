//! A byte stream over a lane.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use shmesh_shm::{Step, Waiter, host};

use crate::call::CallId;
use crate::calls::ReadOutcome;
use crate::clock;
use crate::error::CallError;
use crate::lane::Lane;
use crate::session::Session;
use crate::wire::sleep_on;

/// What [`Stream`](crate::Stream) is while there is a sidecar.
#[derive(Debug)]
pub(crate) struct LaneStream {
    shared: Arc<Shared>,
    waiter: Waiter,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
    session: Arc<Session>,
    bell: OwnedFd,
    /// Wakes the thread that sleeps on the bell, when another handle shuts down.
    nudge: EventFd,
}

#[derive(Debug)]
struct State {
    lane: Lane,
    id: CallId,
    /// A thread sleeps on the bell; others sleep on `woken` until it wakes.
    asleep: bool,
    /// Threads that wait for room.
    for_room: usize,
    read_shut: bool,
    /// Something was written since something came.
    expects: bool,
}

impl LaneStream {
    pub(crate) fn new(lane: Lane, id: CallId) -> Result<LaneStream, CallError> {
        let descriptor = |error: io::Error| CallError::SidecarGone(error.to_string());
        let wire = &lane.calls().wire;
        let waiter = Waiter::new(wire.max_spin);
        let session = wire.session.clone();
        let bell = wire.bell().try_clone_to_owned().map_err(descriptor)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let nudge = EventFd::from_flags(flags).map_err(|errno| descriptor(errno.into()))?;
        let state = State { lane, id, asleep: false, for_room: 0, read_shut: false, expects: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new(), session, bell, nudge });
        Ok(LaneStream { shared, waiter, read_timeout: None, write_timeout: None })
    }

    /// A second handle to the same stream.
    pub fn try_clone(&self) -> io::Result<LaneStream> {
        Ok(LaneStream {
            shared: self.shared.clone(),
            waiter: self.waiter.clone(),
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
        })
    }

    /// Ends one direction or both. Reading after the reading side was shut gives the end at once, also in a thread that
    /// waits in `read` now.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let mut state = self.shared.lock();
        if how != Shutdown::Read {
            let id = state.id;
            state.lane.calls_mut().end(id);
            state.lane.calls_mut().turn();
        }
        if how != Shutdown::Write {
            state.read_shut = true;
        }
        self.shared.wake(&state)
    }

    /// How long a read may wait before it fails with `WouldBlock`; of this handle only.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// How long a write may wait before it fails with `WouldBlock`; of this handle only.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }
}

impl Read for LaneStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let until = until(self.read_timeout);
        let mut state = self.shared.lock();
        self.waiter.begin(clock::now());
        loop {
            let id = state.id;
            if state.read_shut {
                return Ok(0);
            }
            let calls = state.lane.calls_mut();
            calls.turn();
            match calls.read(id, into)? {
                ReadOutcome::Bytes(len) => {
                    calls.wire.moved();
                    // Credit for what was read; and the next thread that sleeps must find everything said.
                    calls.turn();
                    state.expects = false;
                    self.waiter.end(clock::now());
                    return Ok(len);
                }
                ReadOutcome::End => return Ok(0),
                ReadOutcome::Empty => {}
            }
            state = self.shared.wait(state, &mut self.waiter, until, false)?;
        }
    }
}

impl Write for LaneStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let until = until(self.write_timeout);
        let mut state = self.shared.lock();
        let mut waited = false;
        self.waiter.begin(clock::now());
        loop {
            let id = state.id;
            let calls = state.lane.calls_mut();
            calls.turn();
            match calls.write(id, bytes)? {
                0 if calls.is_sent(id) => return Err(io::ErrorKind::BrokenPipe.into()),
                0 => waited = true,
                len => {
                    calls.flush();
                    self.waiter.end(clock::now());
                    self.shared.wrote(&mut state, waited)?;
                    return Ok(len);
                }
            }
            state = self.shared.wait(state, &mut self.waiter, until, true)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shared.lock().lane.flush();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After an attempt that was in vain, with the lock held since: a moment later, or once there may be something to do.
    /// The lock is open meanwhile, so what came may have been taken by another thread: the attempt decides.
    ///
    /// One thread sleeps on the bell; while it does, the lane stays parked whatever other threads take or put, so every later
    /// record rings it, and it wakes the others.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        waiter: &mut Waiter,
        until: Option<u64>,
        for_room: bool,
    ) -> io::Result<MutexGuard<'a, State>> {
        let now = clock::now();
        let rests = !state.expects && !for_room && state.for_room == 0;
        let wire = &mut state.lane.calls_mut().wire;
        let beat = wire.beat_if_due(now, rests);
        if wire.session.is_gone() {
            return Ok(state);
        }
        if until.is_some_and(|until| now >= until) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match waiter.step(now) {
            Step::Pause | Step::Yield => {
                drop(state);
                host::yield_now();
                Ok(self.lock())
            }
            Step::Park => {
                let for_room = for_room || state.lane.calls().is_full();
                state.for_room += usize::from(for_room);
                let wake = until.unwrap_or(u64::MAX).min(beat);
                state = self.sleep(state, (wake < u64::MAX).then(|| wake.saturating_sub(now)));
                state.for_room -= usize::from(for_room);
                Ok(state)
            }
        }
    }

    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>, timeout_ns: Option<u64>) -> MutexGuard<'a, State> {
        let for_room = state.for_room > 0;
        let end = &mut state.lane.calls_mut().wire.end;
        if !end.announce(for_room) {
            // The thread that sleeps, if there is one, may be waiting for just this.
            let _ = self.wake(&state);
            return state;
        }
        if state.asleep {
            let limit = Duration::from_nanos(timeout_ns.unwrap_or(u64::MAX));
            return self.woken.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.asleep = true;
        drop(state);
        let bells = [self.bell.as_fd(), self.nudge.as_fd()].map(|bell| (bell, PollFlags::POLLIN));
        sleep_on(&bells, &self.session, timeout_ns);
        let mut state = self.lock();
        state.asleep = false;
        let wire = &mut state.lane.calls_mut().wire;
        wire.end.unpark();
        wire.drain_bell();
        let _ = self.nudge.read();
        self.woken.notify_all();
        state
    }

    /// Bytes were taken, perhaps after the sidecar made room.
    fn wrote(&self, state: &mut State, waited: bool) -> io::Result<()> {
        let wire = &mut state.lane.calls_mut().wire;
        if waited {
            wire.moved();
        }
        if !std::mem::replace(&mut state.expects, true) && state.lane.calls_mut().wire.rests_no_more() {
            // A thread that reads sleeps for a time that is too long now.
            self.wake(state)?;
        }
        Ok(())
    }

    /// Wakes all threads that wait in a read or write.
    fn wake(&self, state: &State) -> io::Result<()> {
        if state.asleep {
            self.nudge.write(1)?;
        }
        self.woken.notify_all();
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let id = state.id;
        let calls = state.lane.calls_mut();
        calls.turn();
        calls.detach(id);
    }
}

fn until(timeout: Option<Duration>) -> Option<u64> {
    timeout.map(|timeout| clock::now().saturating_add(clock::nanos(timeout)))
}
