//! When calls are to start: the schedule of an open loop, which no slow answer moves.

use std::time::{Duration, Instant};

use super::plan::Plan;

/// The intended starts of one connection's calls: every `1/rate` seconds over all connections,
/// dealt out in turn, so that the whole is as even as each part.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    begin: Instant,
    /// Seconds between two calls of all connections.
    gap_s: f64,
    /// This connection's place in the turn, and the length of a turn.
    place: u64,
    connections: u64,
    /// Calls that were taken.
    taken: u64,
}

impl Pace {
    /// `rate` calls per second over all `connections`, from `begin` on; `place` < `connections`.
    pub fn new(begin: Instant, rate: f64, place: usize, connections: usize) -> Self {
        Self { begin, gap_s: 1.0 / rate, place: place as u64, connections: connections as u64, taken: 0 }
    }

    /// Intended start of the next call. It stays until [`take`](Self::take), however late it gets.
    pub fn next(&self) -> Instant {
        let turn = self.taken * self.connections + self.place;
        // From the number, not from the start before: no error adds up.
        let after = Duration::try_from_secs_f64(turn as f64 * self.gap_s);
        self.begin + after.unwrap_or(Duration::from_secs(u64::from(u32::MAX)))
    }

    pub fn take(&mut self) {
        self.taken += 1;
    }

    /// Calls that were to start in the plan's measured time and were not taken.
    pub fn left(mut self, plan: &Plan) -> u64 {
        let mut left = 0;
        while self.next() < plan.ends {
            left += u64::from(plan.counts(self.next()));
            self.take();
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_dealt_out_evenly_and_exactly() {
        let begin = Instant::now();
        let mut starts: Vec<Duration> = Vec::new();
        for place in 0..3 {
            let mut pace = Pace::new(begin, 3000.0, place, 3);
            for _ in 0..1000 {
                starts.push(pace.next() - begin);
                pace.take();
            }
        }
        starts.sort();
        for (i, start) in starts.iter().enumerate() {
            let exact = i as f64 / 3000.0;
            assert!((start.as_secs_f64() - exact).abs() < 1e-8, "{i} {start:?}");
        }
    }

    #[test]
    fn a_late_call_keeps_its_intended_start() {
        let begin = Instant::now() - Duration::from_secs(10);
        let mut pace = Pace::new(begin, 2.0, 0, 1);
        assert_eq!(pace.next(), begin);
        pace.take();
        assert_eq!(pace.next(), begin + Duration::from_millis(500));
        assert_eq!(pace.next(), begin + Duration::from_millis(500));
    }

    #[test]
    fn what_is_left_is_counted_in_the_measured_time() {
        let plan = Plan::from_now(Duration::from_secs(1), 1);
        let mut pace = Pace::new(plan.starts, 100.0, 0, 2);
        // Every 20 ms: five in the warm-up of 100 ms, fifty behind it.
        assert_eq!(pace.left(&plan), 50);
        for _ in 0..15 {
            pace.take();
        }
        assert_eq!(pace.left(&plan), 40);
    }

    #[test]
    fn a_call_that_never_comes_is_far_away() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin, 1e-300, 0, 1);
        pace.take();
        assert!(pace.next() > begin + Duration::from_secs(1_000_000));
    }
}
