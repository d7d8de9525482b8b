//! A byte stream over a lane for a tokio runtime: what hyper and the like run on.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::call::CallId;
use crate::calls::ReadOutcome;
use crate::error::CallError;
use crate::lane::Lane;

/// A byte stream. Use it as a `TcpStream`; `tokio::io::split` works. Dropping it ends it. It never spins: the runtime's
/// other tasks run meanwhile.
#[derive(Debug)]
pub struct AsyncStream {
    lane: Lane,
    id: CallId,
    bell: UnixStream,
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

impl AsyncStream {
    pub(crate) fn new(lane: Lane, id: CallId) -> Result<AsyncStream, CallError> {
        let descriptor = |error: io::Error| CallError::SidecarGone(error.to_string());
        // The bell is a stream socket, and nonblocking already.
        let bell = lane.calls().wire.bell().try_clone_to_owned().map_err(descriptor)?;
        let bell = UnixStream::from_std(StdUnixStream::from(bell)).map_err(descriptor)?;
        Ok(AsyncStream { lane, id, bell, wakers: Arc::default() })
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

    fn went_on(&mut self, waited: Waits) {
        self.wakers.set(waited, None);
        if !self.wakers.is_set(Waits::ToRead) && !self.wakers.is_set(Waits::ToWrite) {
            self.lane.calls_mut().wire.end.unpark();
        }
    }
}

impl AsyncRead for AsyncStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let id = this.id;
            let calls = this.lane.calls_mut();
            calls.turn();
            match calls.read(id, into.initialize_unfilled())? {
                ReadOutcome::Bytes(len) => {
                    calls.turn();
                    into.advance(len);
                    this.went_on(Waits::ToRead);
                    return Poll::Ready(Ok(()));
                }
                ReadOutcome::End => {
                    this.went_on(Waits::ToRead);
                    return Poll::Ready(Ok(()));
                }
                ReadOutcome::Empty => ready!(this.poll_news(cx, Waits::ToRead))?,
            }
        }
    }
}

impl AsyncWrite for AsyncStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let id = this.id;
            let calls = this.lane.calls_mut();
            calls.turn();
            match calls.write(id, bytes)? {
                0 if calls.is_sent(id) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                0 => ready!(this.poll_news(cx, Waits::ToWrite))?,
                len => {
                    calls.flush();
                    this.went_on(Waits::ToWrite);
                    return Poll::Ready(Ok(len));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written was published with it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let id = this.id;
        this.lane.calls_mut().end(id);
        loop {
            let calls = this.lane.calls_mut();
            calls.turn();
            if calls.is_sent(id) {
                this.went_on(Waits::ToWrite);
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_news(cx, Waits::ToWrite))?;
        }
    }
}

impl Drop for AsyncStream {
    fn drop(&mut self) {
        let id = self.id;
        let calls = self.lane.calls_mut();
        calls.wire.end.unpark();
        calls.detach(id);
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
