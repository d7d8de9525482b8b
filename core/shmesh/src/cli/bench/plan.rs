//! The times of a run.

use std::time::{Duration, Instant};

/// The part of the duration that is run before anything counts, and its bound.
const WARM_UP_PART: f64 = 0.1;
const WARM_UP_MAX: Duration = Duration::from_millis(500);
/// How long after its end a run waits for answers.
pub const TAIL: Duration = Duration::from_secs(5);

/// How long a thread sleeps without looking at the clock.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long before an intended start a thread stops sleeping: about what a wake-up takes.
pub const AWAKE_BEFORE: Duration = Duration::from_micros(40);

/// What all threads of a run agree on.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first call starts: the warm-up.
    pub starts: Instant,
    /// Calls count from here on.
    pub begins: Instant,
    /// No call is meant to start from here on.
    pub ends: Instant,
    /// Nothing is awaited from here on.
    pub gives_up: Instant,
    /// Calls outstanding on a connection at most.
    pub inflight: usize,
}

impl Plan {
    pub fn from_now(duration: Duration, inflight: usize) -> Self {
        let starts = Instant::now();
        let begins = starts + duration.mul_f64(WARM_UP_PART).min(WARM_UP_MAX);
        let ends = begins + duration;
        Self { starts, begins, ends, gives_up: ends + TAIL, inflight }
    }

    /// Whether a call with this (intended) start is part of the result.
    pub fn counts(&self, start: Instant) -> bool {
        (self.begins..self.ends).contains(&start)
    }
}
