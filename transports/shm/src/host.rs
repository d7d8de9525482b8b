//! What a process asks of the machine that it runs on: the time, and ways to wait. The machine's own, or, under
//! `--cfg shmesh_sim`, those of a simulator that runs many processes on one thread (tests/sim). Everything of engine and shim
//! that waits or looks at a clock does it through here.

#[cfg(not(shmesh_sim))]
pub(crate) use real::in_pieces;
#[cfg(not(shmesh_sim))]
pub use real::{cpu_quota, now, poll, sleep, spin, yield_now};
#[cfg(shmesh_sim)]
pub use simulated::*;

#[cfg(not(shmesh_sim))]
mod real {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    use nix::poll::{PollFd, ppoll};
    use nix::sys::time::TimeSpec;

    static START: OnceLock<Instant> = OnceLock::new();

    /// Nanoseconds since this process first looked; monotonic.
    pub fn now() -> u64 {
        u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The CPU that this process may use, in thousandths of a core, where there is a limit.
    pub fn cpu_quota() -> Option<u64> {
        crate::cgroup::cpu_quota()
    }

    /// A moment inside a loop that looks again and again.
    #[inline]
    pub fn spin() {
        std::hint::spin_loop();
    }

    /// Lets others run.
    #[inline]
    pub fn yield_now() {
        std::thread::yield_now();
    }

    /// Sleeps.
    pub fn sleep(time: Duration) {
        std::thread::sleep(time);
    }

    /// ppoll(2) without a signal mask: how many descriptors have events. No timeout = until there is one.
    pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> nix::Result<i32> {
        ppoll(fds, timeout.map(TimeSpec::from_duration), None)
    }

    /// Copies `len` bytes of payload in one piece: `copy(from, len)`.
    #[inline(always)]
    pub(crate) fn in_pieces(len: usize, mut copy: impl FnMut(usize, usize)) {
        copy(0, len);
    }
}

/// The simulator's side: it installs a [`Scheduler`](simulated::Scheduler) on its thread and switches between processes whenever
/// one of these functions is called.
#[cfg(shmesh_sim)]
mod simulated {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::time::Duration;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollTimeout};

    /// Who decides which process runs.
    pub trait Scheduler {
        /// The virtual time in nanoseconds.
        fn now(&self) -> u64;
        /// The running process used up its steps: others may run. Says how many steps it has next.
        fn preempt(&self) -> u64;
        /// The running process lets others run.
        fn yield_now(&self);
        /// Something happened that the log of a run should show.
        fn note(&self, line: &dyn Fn() -> String);
        /// The running process sleeps until this time, or until one of the descriptors has events; or returns early.
        fn block(&self, until: Option<u64>, fds: &mut [PollFd<'_>]);
    }

    thread_local! {
        static SCHEDULER: RefCell<Option<Rc<dyn Scheduler>>> = const { RefCell::new(None) };
        static STEPS_LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
        static ALIVE: Cell<bool> = const { Cell::new(true) };
        static COPIED: Cell<u64> = const { Cell::new(0) };
    }

    /// Payload is copied in pieces of at most so many bytes, with an access to shared memory each.
    const PIECE_MAX: usize = 4096;

    /// Simulated machines have none.
    pub fn cpu_quota() -> Option<u64> {
        None
    }

    /// Puts a scheduler on this thread, or takes it away.
    pub fn install(scheduler: Option<Rc<dyn Scheduler>>) {
        SCHEDULER.set(scheduler);
    }

    /// The process that runs from now on: whether it is alive, and after how many steps it is interrupted.
    pub fn enter(alive: bool, steps: u64) {
        ALIVE.set(alive);
        STEPS_LEFT.set(steps);
    }

    /// Steps until the running process is interrupted.
    pub fn steps_left() -> u64 {
        STEPS_LEFT.get()
    }

    /// False once the running process was killed: its stack is unwound so that its descriptors close, and whatever its
    /// destructors want to say must not be heard.
    #[inline]
    pub fn is_alive() -> bool {
        ALIVE.get()
    }

    /// An access to shared memory: a point where the process may be interrupted, stopped or killed. False: it is dead, and the
    /// access must not have an effect.
    #[inline]
    pub fn step() -> bool {
        let left = STEPS_LEFT.get();
        if left == 0 {
            interrupted();
        } else {
            STEPS_LEFT.set(left - 1);
        }
        ALIVE.get()
    }

    /// Copies `len` bytes of payload: `copy(from, len)` for each piece, as long as the process lives. In two pieces at least, so
    /// that it can be interrupted in the middle.
    pub(crate) fn in_pieces(len: usize, mut copy: impl FnMut(usize, usize)) {
        let piece_max = len.div_ceil(2).clamp(1, PIECE_MAX);
        let mut from = 0;
        while from < len && step() {
            let piece = piece_max.min(len - from);
            COPIED.set(COPIED.get() + piece as u64);
            copy(from, piece);
            from += piece;
        }
    }

    /// Bytes of payload that were copied since this was asked last.
    pub fn take_copied() -> u64 {
        COPIED.take()
    }

    #[cold]
    fn interrupted() {
        if let Some(scheduler) = scheduler().filter(|_| ALIVE.get()) {
            STEPS_LEFT.set(scheduler.preempt());
        }
    }

    /// For the log of a run.
    pub fn note(line: impl Fn() -> String) {
        if let Some(scheduler) = scheduler().filter(|_| ALIVE.get()) {
            scheduler.note(&line);
        }
    }

    fn scheduler() -> Option<Rc<dyn Scheduler>> {
        SCHEDULER.with_borrow(Clone::clone)
    }

    /// The virtual time in nanoseconds.
    pub fn now() -> u64 {
        scheduler().map_or(0, |scheduler| scheduler.now())
    }

    /// As [`yield_now`]: on one thread there is no other way to let time pass.
    pub fn spin() {
        yield_now();
    }

    /// Lets others run.
    pub fn yield_now() {
        if let Some(scheduler) = scheduler().filter(|_| ALIVE.get()) {
            scheduler.yield_now();
        }
    }

    /// Sleeps in virtual time.
    pub fn sleep(time: Duration) {
        let until = now().saturating_add(time.as_nanos() as u64);
        while ALIVE.get() && now() < until {
            let Some(scheduler) = scheduler() else { return };
            scheduler.block(Some(until), &mut []);
        }
    }

    /// ppoll(2) in virtual time.
    pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> nix::Result<i32> {
        let until = timeout.map(|timeout| now().saturating_add(timeout.as_nanos() as u64));
        loop {
            if !ALIVE.get() {
                return Err(Errno::EINTR);
            }
            crate::delayed::flush_stores();
            let ready = nix::poll::poll(fds, PollTimeout::ZERO)?;
            let Some(scheduler) = scheduler() else { return Ok(ready) };
            if ready > 0 || until.is_some_and(|until| now() >= until) {
                return Ok(ready);
            }
            scheduler.block(until, fds);
        }
    }
}
