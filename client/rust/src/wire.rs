//! A lane with its bells: publishes and rings, waits and wakes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use shmesh_shm::handshake::LaneInfo;
use shmesh_shm::{LaneEnd, Step, Waiter, doorbell, host};

use crate::clock;
use crate::pulse::{Beat, Pulse};
use crate::session::Session;

/// `spin_loop` hints between two looks while pausing.
const PAUSES: usize = 16;

/// The app's end of one lane.
#[derive(Debug)]
pub(crate) struct Wire {
    pub end: LaneEnd,
    pub session: Arc<Session>,
    pub info: LaneInfo,
    pub max_spin: Duration,
    bell: OwnedFd,
    waiter: Waiter,
    pulse: Pulse,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Something is there, or may be: look.
    News,
    /// The time is over.
    TimedOut,
    /// The session is gone and everything that it left was taken.
    Gone,
}

impl Wire {
    pub fn new(end: LaneEnd, session: Arc<Session>, bell: OwnedFd, info: LaneInfo, max_spin: Duration) -> Wire {
        let pulse = Pulse::new(session.hang_ns());
        Wire { end, session, info, max_spin, bell, waiter: Waiter::new(max_spin), pulse }
    }

    /// Makes what was put and taken visible, and rings the worker if it sleeps for that.
    pub fn publish(&mut self) {
        if self.end.publish() {
            self.session.ring(self.info);
        }
    }

    /// Waits until there are records, or with `for_room` until the sidecar made room. `until` in nanoseconds of the
    /// clock. Everything was published before.
    pub fn wait(&mut self, until: Option<u64>, for_room: bool) -> Waited {
        if self.session.is_forked() {
            return Waited::Gone;
        }
        if self.has_news(for_room) {
            self.pulse.moved();
            return Waited::News;
        }
        let mut now = clock::now();
        self.session.look_if_due(now);
        self.waiter.begin(now);
        loop {
            if now >= self.pulse.due() {
                self.beat(now, false);
            }
            if until.is_some_and(|until| now >= until) {
                return Waited::TimedOut;
            }
            if self.session.is_gone() {
                return if self.has_news(for_room) { Waited::News } else { Waited::Gone };
            }
            // What parking sees is seen once: looking at the room takes the news of it.
            let mut news = false;
            match self.waiter.step(now) {
                Step::Pause => (0..PAUSES).for_each(|_| host::spin()),
                Step::Yield => host::yield_now(),
                Step::Park => {
                    let wake = until.unwrap_or(u64::MAX).min(self.pulse.due());
                    let timeout = (wake < u64::MAX).then(|| wake.saturating_sub(now));
                    news = !self.sleep(timeout, for_room);
                }
            }
            news |= self.has_news(for_room);
            now = clock::now();
            if news {
                self.waiter.end(now);
                self.pulse.moved();
                return Waited::News;
            }
        }
    }

    /// Something came from the sidecar, for a stream.
    pub fn moved(&mut self) {
        self.pulse.moved();
    }

    /// A stream on which nothing was to be expected expects something. True: whoever waits is to look at [`Wire::beat_if_due`] again.
    pub fn rests_no_more(&mut self) -> bool {
        self.pulse.rests_no_more()
    }

    /// For a stream on which nothing moved until now. When to look again.
    pub fn beat_if_due(&mut self, now: u64, rests: bool) -> u64 {
        if now >= self.pulse.due() {
            self.beat(now, rests);
        }
        self.pulse.due()
    }

    /// Nothing moved until now: asks for a sign of life when it is time, and ends the session when none came.
    fn beat(&mut self, now: u64, rests: bool) {
        match self.pulse.look(now, self.end.told(), rests) {
            Beat::Rest => {}
            Beat::Ask(number) => {
                self.end.ask(number);
                self.session.ring(self.info);
            }
            Beat::Hung => self.session.set_hung(),
        }
    }

    /// Whether there is something to look at. A few loads.
    pub fn has_news(&mut self, for_room: bool) -> bool {
        self.end.has_work() || for_room && self.end.room_moved()
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// After the bell rang: takes the rings off it. Its end is the session's end.
    pub fn drain_bell(&self) {
        if !doorbell::drain_lane(&self.bell).unwrap_or(false) {
            self.session.set_gone();
        }
    }

    /// Sleeps until rung, until the session ends, or for so many nanoseconds. False: there are news already.
    fn sleep(&mut self, timeout_ns: Option<u64>, for_room: bool) -> bool {
        let sleeps = self.end.park(for_room);
        if sleeps {
            sleep_on(&[(self.bell(), PollFlags::POLLIN)], &self.session, timeout_ns);
            self.end.unpark();
            self.drain_bell();
        }
        sleeps
    }
}

/// Sleeps until one of the descriptors (bells, most of them) has one of its events, the session ends, or the time is over.
pub(crate) fn sleep_on(on: &[(BorrowedFd<'_>, PollFlags)], session: &Session, timeout_ns: Option<u64>) {
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(on.len() + 1);
    // No events: only the end wakes. Without a liveness socket it may well be readable, when the sidecar pushes endpoints.
    fds.push(PollFd::new(session.sign_of_end(), PollFlags::empty()));
    fds.extend(on.iter().map(|(fd, events)| PollFd::new(*fd, *events)));
    match host::poll(&mut fds, timeout_ns.map(Duration::from_nanos)) {
        Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
        Err(_) => session.set_gone(),
    }
    if fds[0].any().unwrap_or(true) {
        session.see_end();
    }
}
