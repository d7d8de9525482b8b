//! How to wait: pause, yield or park, decided by elapsed time and by what earlier waits caught.
//!
//! On shared cores a yield hands the core to the very peer that is waited for and costs half a microsecond; a parked
//! thread costs ten. On busy cores a yield can cost milliseconds. So the waiter yields for a budget, learns whether that
//! catches anything, and stops at once for a while when a yield comes back late.

use std::time::Duration;

/// The longest spin where there is CPU enough.
pub const DEFAULT_MAX_SPIN: Duration = Duration::from_micros(100);

/// The longest spin of so many threads of this process unless configured otherwise: none where the cgroup's CPU quota is less
/// than a core for each. Waiting would use up what work needs, and the time until the quota's next period is far longer than a wake-up.
#[cfg(not(loom))]
pub fn default_max_spin(threads: usize) -> Duration {
    match crate::host::cpu_quota() {
        Some(thousandths) if thousandths < 1000 * threads as u64 => Duration::ZERO,
        _ => DEFAULT_MAX_SPIN,
    }
}

/// A yield that takes longer than this met a busy neighbour, in nanoseconds.
const LATE_YIELD_NS: u64 = 50_000;
/// How long not to spin after a late yield, in nanoseconds; doubled when the next try is late again.
const BUSY_REST_NS: u64 = 4_000_000;
/// The longest rest after late yields, in nanoseconds.
const BUSY_REST_MAX_NS: u64 = 500_000_000;
/// Yields in time, one after the other, that end the doubling.
const YIELDS_IN_TIME: u32 = 64;
/// Waits in a row that caught nothing before the budget is halved.
const MISSES_TO_SHRINK: u32 = 3;
/// Below this a budget is not worth a clock reading and becomes 0, in nanoseconds.
const MIN_BUDGET_NS: u64 = 2_000;
/// What waking a parked thread adds to a wait, in nanoseconds: so much longer may a parked wait have been and still
/// count as one that spinning would have caught.
const WAKE_NS: u64 = 15_000;

/// What to do next while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A few `spin_loop` hints, then look again.
    Pause,
    /// One `sched_yield`, then look again.
    Yield,
    /// Announce sleep, look once more, sleep.
    Park,
}

/// Decides how one thread (or one lane) waits. Reads no clock: every call takes `now` in nanoseconds of a monotonic
/// clock. A wait is: [`Waiter::begin`], then look and [`Waiter::step`] in turns, then [`Waiter::end`].
#[derive(Clone, Debug)]
pub struct Waiter {
    max_spin_ns: u64,
    pause_ns: u64,
    budget_ns: u64,
    misses: u32,
    began: u64,
    yielded: Option<u64>,
    parked: bool,
    rest_until: u64,
    rest_ns: u64,
    in_time: u32,
}

impl Waiter {
    /// `max_spin`: never spin longer than this; 0 = park at once.
    pub fn new(max_spin: Duration) -> Waiter {
        let max_spin_ns = u64::try_from(max_spin.as_nanos()).unwrap_or(u64::MAX);
        Waiter {
            max_spin_ns,
            pause_ns: 0,
            budget_ns: max_spin_ns,
            misses: 0,
            began: 0,
            yielded: None,
            parked: false,
            rest_until: 0,
            rest_ns: BUSY_REST_NS,
            in_time: 0,
        }
    }

    /// Pauses for so long before the first yield: worth it only where the peer has a core of its own.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Waiter {
        self.pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self
    }

    /// A wait begins.
    pub fn begin(&mut self, now: u64) {
        self.began = now;
        self.yielded = None;
        self.parked = false;
    }

    /// Nothing was there: what to do now.
    pub fn step(&mut self, now: u64) -> Step {
        self.judge_yield(now);
        let waited = now.saturating_sub(self.began);
        if now < self.rest_until || waited >= self.budget_ns {
            return self.park(now);
        }
        if waited < self.pause_ns {
            return Step::Pause;
        }
        self.yielded = Some(now);
        Step::Yield
    }

    /// What was waited for came.
    pub fn end(&mut self, now: u64) {
        self.judge_yield(now);
        let waited = now.saturating_sub(self.began);
        if !self.parked {
            self.misses = 0;
            self.budget_ns = grown(self.budget_ns, self.max_spin_ns);
        } else if waited < self.max_spin_ns.saturating_add(WAKE_NS) && now >= self.rest_until {
            // Spinning the whole maximum would have caught it.
            self.misses = 0;
            self.budget_ns = grown(self.budget_ns, self.max_spin_ns);
        }
    }

    /// The longest spin.
    pub fn max_spin(&self) -> Duration {
        Duration::from_nanos(self.max_spin_ns)
    }

    /// Nanoseconds that the next wait may spin.
    pub fn budget_ns(&self) -> u64 {
        self.budget_ns
    }

    fn judge_yield(&mut self, now: u64) {
        let Some(yielded) = self.yielded.take() else {
            return;
        };
        if now.saturating_sub(yielded) > LATE_YIELD_NS {
            self.in_time = 0;
            self.rest_until = now.saturating_add(self.rest_ns);
            self.rest_ns = (self.rest_ns * 2).min(BUSY_REST_MAX_NS);
            return;
        }
        self.in_time += 1;
        if self.in_time >= YIELDS_IN_TIME {
            self.in_time = 0;
            self.rest_ns = BUSY_REST_NS;
        }
    }

    fn park(&mut self, now: u64) -> Step {
        if !self.parked && now >= self.rest_until {
            self.misses += 1;
            if self.misses >= MISSES_TO_SHRINK {
                self.misses = 0;
                self.budget_ns /= 2;
                if self.budget_ns < MIN_BUDGET_NS {
                    self.budget_ns = 0;
                }
            }
        }
        self.parked = true;
        Step::Park
    }
}

fn grown(budget_ns: u64, max_ns: u64) -> u64 {
    budget_ns.saturating_mul(2).max(2 * MIN_BUDGET_NS).min(max_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    fn waiter() -> Waiter {
        Waiter::new(Duration::from_micros(100))
    }

    /// One wait for something that comes after `takes` ns; a yield costs `each`. Says whether it parked.
    fn wait(waiter: &mut Waiter, now: &mut u64, takes: u64, each: u64) -> bool {
        let due = *now + takes;
        waiter.begin(*now);
        loop {
            if *now >= due {
                waiter.end(*now);
                return false;
            }
            match waiter.step(*now) {
                Step::Park => {
                    *now = due + 10 * US;
                    waiter.end(*now);
                    return true;
                }
                Step::Pause | Step::Yield => *now += each,
            }
        }
    }

    #[test]
    fn zero_parks_at_once_and_for_ever() {
        let mut waiter = Waiter::new(Duration::ZERO);
        let mut now = 1;
        for _ in 0..50 {
            assert!(wait(&mut waiter, &mut now, US, 500));
            assert_eq!(waiter.budget_ns(), 0);
        }
    }

    #[test]
    fn what_comes_within_the_budget_keeps_it() {
        let (mut waiter, mut now) = (waiter(), 0);
        for _ in 0..100 {
            assert!(!wait(&mut waiter, &mut now, 30 * US, 500));
        }
        assert_eq!(waiter.budget_ns(), 100 * US);
    }

    #[test]
    fn long_waits_shrink_the_budget_to_nothing_and_short_ones_bring_it_back() {
        let (mut waiter, mut now) = (waiter(), 0);
        for _ in 0..60 {
            assert!(wait(&mut waiter, &mut now, 10_000 * US, 500));
        }
        assert_eq!(waiter.budget_ns(), 0);
        assert!(wait(&mut waiter, &mut now, 3 * US, 500), "with no budget it parks first");
        assert!(waiter.budget_ns() > 0);
        for _ in 0..10 {
            wait(&mut waiter, &mut now, 3 * US, 500);
        }
        assert_eq!(waiter.budget_ns(), 100 * US);
        assert!(!wait(&mut waiter, &mut now, 3 * US, 500));
    }

    #[test]
    fn a_late_yield_stops_the_spinning_for_a_while() {
        let (mut waiter, mut now) = (waiter(), 0);
        assert!(wait(&mut waiter, &mut now, 3_000 * US, 2_000 * US), "the second step sees the late yield");
        waiter.begin(now);
        assert_eq!(waiter.step(now), Step::Park, "resting");
        let rested = now + BUSY_REST_NS;
        waiter.begin(rested);
        assert_eq!(waiter.step(rested), Step::Yield);
        assert_eq!(waiter.budget_ns(), 100 * US, "a busy neighbour says nothing about the peer");
    }

    #[test]
    fn late_again_and_again_rests_longer_until_yields_are_in_time() {
        let (mut waiter, mut now) = (waiter(), 0);
        let mut rests = Vec::new();
        for _ in 0..10 {
            wait(&mut waiter, &mut now, 3_000 * US, 2_000 * US);
            rests.push(waiter.rest_ns);
            now = now.max(waiter.rest_until);
        }
        assert_eq!(&rests[..3], &[2 * BUSY_REST_NS, 4 * BUSY_REST_NS, 8 * BUSY_REST_NS]);
        assert_eq!(*rests.last().unwrap(), BUSY_REST_MAX_NS);
        for _ in 0..70 {
            wait(&mut waiter, &mut now, US, 500);
        }
        assert_eq!(waiter.rest_ns, BUSY_REST_NS);
    }

    #[test]
    fn pauses_come_before_yields() {
        let mut waiter = waiter().with_pause(Duration::from_micros(1));
        waiter.begin(0);
        assert_eq!(waiter.step(0), Step::Pause);
        assert_eq!(waiter.step(999), Step::Pause);
        assert_eq!(waiter.step(1_000), Step::Yield);
        assert_eq!(waiter.step(100 * US), Step::Park);
    }
}
