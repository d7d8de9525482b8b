//! How a worker waits: spinning, yielding or asleep.

use std::time::Duration;

use shmesh_io::Nanos;
use shmesh_shm::wait::{DEFAULT_MAX_SPIN, default_max_spin};
use shmesh_shm::{Step, Waiter};

/// How often the cgroup's CPU quota is read while there is something to do.
const QUOTA_EVERY: Nanos = 100_000_000;

/// How long waits for calls tell that calls are rare. While something is in flight all the time there are no such waits.
const CALLS_TELL: Nanos = 100_000_000;

/// How the worker waits when a turn found nothing.
///
/// What it waits for decides how long spinning is worth it, and the two are learned apart: while calls are in flight their answers
/// come soon. Where calls are rare it does not spin for these either.
pub(crate) struct Idle {
    for_answers: Waiter,
    for_calls: Waiter,
    /// The last turn found nothing.
    pub waiting: bool,
    /// Which of the two waits.
    answers_due: bool,
    /// When the driver was asked last.
    pub asked: Nanos,
    /// The setting `max_spin`.
    configured: Option<Duration>,
    /// When the CPU quota was looked at last.
    quota_seen: Nanos,
    /// When a wait for calls ended last.
    called: Nanos,
    /// More was done, since it was last asked, than to hear who asks for a sign of life.
    pub stirred: bool,
    /// When the turn before ended, if it did not sleep.
    turned: Option<Nanos>,
}

impl Idle {
    pub fn new(now: Nanos) -> Idle {
        let waiter = Waiter::new(DEFAULT_MAX_SPIN);
        Idle {
            for_answers: waiter.clone(),
            for_calls: waiter,
            waiting: false,
            answers_due: false,
            asked: now,
            configured: None,
            quota_seen: now,
            called: now,
            stirred: false,
            turned: None,
        }
    }

    /// The setting `max_spin`.
    pub fn configure(&mut self, max_spin: Option<Duration>, workers: usize) {
        self.configured = max_spin;
        self.set_max_spin(workers);
    }

    /// Looks, now and then, whether there is CPU to wait with.
    pub fn look_at_quota(&mut self, now: Nanos, workers: impl FnOnce() -> usize) {
        if self.configured.is_none() && now.saturating_sub(self.quota_seen) >= QUOTA_EVERY {
            self.quota_seen = now;
            self.set_max_spin(workers());
        }
    }

    fn set_max_spin(&mut self, workers: usize) {
        let max_spin = self.configured.unwrap_or_else(|| default_max_spin(workers));
        if self.for_calls.max_spin() != max_spin {
            self.for_calls = Waiter::new(max_spin);
            self.for_answers = Waiter::new(max_spin);
        }
    }

    fn waiter(&mut self) -> &mut Waiter {
        if self.answers_due { &mut self.for_answers } else { &mut self.for_calls }
    }

    /// A turn that did not sleep found nothing: for so long.
    pub fn nothing_for(&mut self, now: Nanos) -> Nanos {
        self.turned.replace(now).map_or(0, |turned| now.saturating_sub(turned))
    }

    /// The worker slept, and found something.
    pub fn woken(&mut self, now: Nanos) {
        self.found(now);
        // What this turn does yet is no waiting.
        self.turned = None;
    }

    /// A turn found something.
    pub fn found(&mut self, now: Nanos) {
        self.turned = Some(now);
        if self.waiting {
            self.waiting = false;
            self.waiter().end(now);
            if !self.answers_due {
                self.called = now;
            }
        }
    }

    /// A turn found nothing: what to do now.
    pub fn step(&mut self, now: Nanos, calls_in_flight: bool) -> Step {
        if !self.waiting {
            self.waiting = true;
            self.answers_due = calls_in_flight;
            self.waiter().begin(now);
        }
        let rare = self.for_calls.budget_ns() == 0 && now.saturating_sub(self.called) < CALLS_TELL;
        if self.answers_due && rare {
            // Calls are rare. Who answers has to be woken, and should find a core.
            return Step::Park;
        }
        self.waiter().step(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for so long, and says whether that was asleep.
    fn wait(idle: &mut Idle, now: &mut Nanos, takes: Nanos, in_flight: bool) -> bool {
        let until = *now + takes;
        let mut slept = false;
        while *now < until && !slept {
            slept = idle.step(*now, in_flight) == Step::Park;
            *now = if slept { until } else { *now + 500 };
        }
        idle.found(*now);
        slept
    }

    #[test]
    fn turns_that_find_nothing_are_what_is_spun() {
        let mut idle = Idle::new(0);
        assert_eq!(idle.nothing_for(5), 0, "nobody knows what was before");
        assert_eq!(idle.nothing_for(7), 2);
        idle.found(100);
        assert_eq!((idle.nothing_for(103), idle.nothing_for(104)), (3, 1), "a turn that found something is no waiting");
        idle.woken(1000);
        assert_eq!((idle.nothing_for(1500), idle.nothing_for(1501)), (0, 1), "nor is one that slept");
    }

    #[test]
    fn where_calls_are_rare_nothing_is_spun_for() {
        let (mut idle, mut now) = (Idle::new(0), 0);
        let slept = (0..100).filter(|_| {
            wait(&mut idle, &mut now, 10_000_000, false);
            wait(&mut idle, &mut now, 20_000, true)
        });
        assert!(slept.count() > 50);
    }

    #[test]
    fn calls_that_were_rare_and_are_not_any_more_are_spun_for() {
        let (mut idle, mut now) = (Idle::new(0), 0);
        for _ in 0..100 {
            wait(&mut idle, &mut now, 10_000_000, false);
        }
        // From now on something is in flight all the time.
        let slept = (0..50_000).filter(|_| wait(&mut idle, &mut now, 20_000, true)).count();
        assert!(slept < 10_000, "{slept} of 50,000 times, which are a second");
    }
}
