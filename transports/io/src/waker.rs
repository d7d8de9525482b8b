//! Ends a driver's wait from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Makes the driver's current or next `poll` return with [`Event::Woken`](crate::Event::Woken).
///
/// What the waking thread wrote before `wake` is visible to the worker after the event. Wakes that come before the
/// event share it.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// True from a wake to the event it causes: one system call for any number of wakes.
    pending: AtomicBool,
    eventfd: EventFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let eventfd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Shared { pending: AtomicBool::new(false), eventfd })))
    }

    /// Wakes the driver. Never blocks.
    pub fn wake(&self) {
        // AcqRel, with the swap in `take`: whoever finds `true` here has its earlier writes seen by the `take` that
        // turns it into `false`; otherwise a worker could miss what it was woken for.
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            // The counter is never read and holds 2^64-2 wakes; a write to our own eventfd has no other failure.
            let _ = self.0.eventfd.write(1);
        }
    }

    /// Called by the driver before it reports the event.
    pub(crate) fn take(&self) {
        // Pairs with the swap in `wake`.
        self.0.pending.swap(false, Ordering::AcqRel);
    }
}

/// For a driver that asks in memory first, and polls the eventfd level-triggered.
impl Waker {
    /// Whether [`wake`](Self::wake) was called since the last event. A hint: only `take` makes the waking thread's writes visible.
    pub(crate) fn is_pending(&self) -> bool {
        self.0.pending.load(Ordering::Relaxed)
    }

    /// Makes the eventfd unreadable again. Before `take`, so that a wake between the two is not lost: its event comes with
    /// that `take`, at the price of a readable eventfd that nobody woke for.
    pub(crate) fn drain(&self) {
        // EAGAIN: it was not readable, which is just as well.
        let _ = self.0.eventfd.read();
    }
}

/// The eventfd, readable from the first wake on: it is watched edge-triggered.
impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }
}
