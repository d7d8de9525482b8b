//! A byte stream over a lane for a tokio runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UnixStream;

use crate::call::CallId;
use crate::calls::ReadOutcome;
use crate::clock;
use crate::lane::Lane;

/// What [`AsyncStream`](crate::AsyncStream) is while there is a sidecar.
#[derive(Debug)]
pub(crate) struct AsyncLaneStream {
    lane: Lane,
    id: CallId,
    bell: UnixStream,
    /// Ends when the sidecar does, before the bell.
    end: Option<AsyncFd<OwnedFd>>,
    alarm: Alarm,
    /// Something was written since something came.
    expects: bool,
    wakers: Arc<Wakers>,
}

/// Reader and writer may be different tasks, but a descriptor wakes one: so it wakes this, which wakes both.
#[derive(Debug, Default)]
struct Wakers {
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    ToRead,
    ToWrite,
}

impl AsyncLaneStream {
    pub fn new(lane: Lane, id: CallId) -> io::Result<AsyncLaneStream> {
        let wire = &lane.calls().wire;
        // The bell is a stream socket, and nonblocking already.
        let bell = UnixStream::from_std(StdUnixStream::from(wire.bell().try_clone_to_owned()?))?;
        let end = wire.session.liveness().map(|end| end.try_clone_to_owned()).transpose()?;
        let end = end.map(watch).transpose()?;
        Ok(AsyncLaneStream { lane, id, bell, end, alarm: Alarm::new()?, expects: false, wakers: Arc::default() })
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let id = self.id;
            let calls = self.lane.calls_mut();
            calls.turn();
            match calls.read(id, into.initialize_unfilled())? {
                ReadOutcome::Bytes(len) => {
                    calls.wire.moved();
                    calls.turn();
                    self.expects = false;
                    into.advance(len);
                    self.went_on(Waits::ToRead);
                    return Poll::Ready(Ok(()));
                }
                ReadOutcome::End => {
                    self.went_on(Waits::ToRead);
                    return Poll::Ready(Ok(()));
                }
                ReadOutcome::Empty => ready!(self.poll_news(cx, Waits::ToRead))?,
            }
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut waited = self.wakers.is_set(Waits::ToWrite);
        loop {
            let id = self.id;
            let calls = self.lane.calls_mut();
            calls.turn();
            match calls.write(id, bytes)? {
                0 if calls.is_sent(id) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                0 => ready!(self.poll_news(cx, Waits::ToWrite))?,
                len => {
                    calls.flush();
                    self.wrote(waited);
                    self.went_on(Waits::ToWrite);
                    return Poll::Ready(Ok(len));
                }
            }
            waited = true;
        }
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let id = self.id;
        self.lane.calls_mut().end(id);
        loop {
            let calls = self.lane.calls_mut();
            calls.turn();
            if calls.is_sent(id) {
                self.went_on(Waits::ToWrite);
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_news(cx, Waits::ToWrite))?;
        }
    }

    /// Nothing could be done: arranges to be woken. Ready: look again.
    fn poll_news(&mut self, cx: &mut Context<'_>, waits: Waits) -> Poll<io::Result<()>> {
        self.wakers.set(waits, Some(cx.waker().clone()));
        // Stays parked while either task waits: the sidecar then rings for every record, also for those of the other.
        let for_room = self.wakers.is_set(Waits::ToWrite);
        let wire = &mut self.lane.calls_mut().wire;
        if !wire.end.announce(for_room) {
            self.wakers.wake_one(waits.other());
            return Poll::Ready(Ok(()));
        }
        let waker = Waker::from(self.wakers.clone());
        let mut cx = Context::from_waker(&waker);
        if self.poll_beat(&mut cx)? || self.poll_end(&mut cx)? {
            // The other task is to hear of it, too.
            self.wakers.wake_one(waits.other());
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.bell.poll_read_ready(&mut cx))?;
            match self.bell.try_read(&mut [0; 64]) {
                Ok(0) => self.lane.calls().wire.session.set_gone(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.wakers.wake_one(waits.other());
            return Poll::Ready(Ok(()));
        }
    }

    /// Asks for a sign of life when it is time, and arranges to be woken when it is time again. True: the session is over.
    fn poll_beat(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        loop {
            let waits_for_room = self.wakers.is_set(Waits::ToWrite);
            let wire = &mut self.lane.calls_mut().wire;
            let due = wire.beat_if_due(clock::now(), !self.expects && !waits_for_room);
            if wire.session.is_gone() {
                return Ok(true);
            }
            match self.alarm.poll(due, cx) {
                Poll::Ready(rang) => rang?,
                Poll::Pending => return Ok(false),
            }
        }
    }

    /// True: the session is over.
    fn poll_end(&self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(end) = &self.end else { return Ok(false) };
        let ended = end.poll_read_ready(cx)?.is_ready();
        if ended {
            self.lane.calls().wire.session.see_end();
        }
        Ok(ended)
    }

    /// Bytes were taken, perhaps after the sidecar made room.
    fn wrote(&mut self, waited: bool) {
        let wire = &mut self.lane.calls_mut().wire;
        if waited {
            wire.moved();
        }
        if !std::mem::replace(&mut self.expects, true) && wire.rests_no_more() {
            // Its reader waits for a time that is too long now.
            self.wakers.wake_one(Waits::ToRead);
        }
    }

    fn went_on(&mut self, waited: Waits) {
        self.wakers.set(waited, None);
        if !self.wakers.is_set(Waits::ToRead) && !self.wakers.is_set(Waits::ToWrite) {
            self.lane.calls_mut().wire.end.unpark();
        }
    }
}

impl Drop for AsyncLaneStream {
    fn drop(&mut self) {
        let id = self.id;
        let calls = self.lane.calls_mut();
        calls.wire.end.unpark();
        calls.detach(id);
    }
}

/// Wakes a task at a time that is mostly put off before it comes. A descriptor, so that the runtime need not have a clock.
#[derive(Debug)]
struct Alarm {
    timer: AsyncFd<Timer>,
    /// When it rings, in nanoseconds of the clock; `u64::MAX` = never.
    rings_at: u64,
}

#[derive(Debug)]
struct Timer(TimerFd);

impl Alarm {
    fn new() -> io::Result<Alarm> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        Ok(Alarm { timer: watch(timer)?, rings_at: u64::MAX })
    }

    /// Ready at `due`, or some time before.
    fn poll(&mut self, due: u64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // One that rings earlier is left as it is: setting it costs more than waking once in a while.
        if due < self.rings_at {
            let left = Duration::from_nanos(due.saturating_sub(clock::now()).max(1));
            let timer = &self.timer.get_ref().0;
            timer.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
            self.rings_at = due;
        }
        loop {
            let mut ready = ready!(self.timer.poll_read_ready(cx))?;
            match ready.get_inner().0.wait() {
                Ok(()) => {
                    self.rings_at = u64::MAX;
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }
}

/// The runtime is to say when the descriptor is readable.
#[allow(deprecated, reason = "its successor is unsafe for types whose descriptor changes; these own theirs")]
fn watch<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Wakers {
    fn set(&self, waits: Waits, waker: Option<Waker>) {
        *self.place(waits).lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    fn is_set(&self, waits: Waits) -> bool {
        self.place(waits).lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn wake_one(&self, waits: Waits) {
        // Woken outside of the lock: a waker may run its task at once.
        let waker = self.place(waits).lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn place(&self, waits: Waits) -> &Mutex<Option<Waker>> {
        match waits {
            Waits::ToRead => &self.reader,
            Waits::ToWrite => &self.writer,
        }
    }
}

impl Waits {
    fn other(self) -> Waits {
        match self {
            Waits::ToRead => Waits::ToWrite,
            Waits::ToWrite => Waits::ToRead,
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_one(Waits::ToRead);
        self.wake_one(Waits::ToWrite);
    }
}
