//! How long something took, many times over, and what that is held against.

use std::time::Duration;

use hdrhistogram::Histogram;

/// On a machine that does other work meanwhile only the median is bounded, by so many times the first goal.
const BUSY: u32 = 20;

/// The longest that something may take at this quantile.
pub type Goal = (f64, Duration);

pub struct Times(Histogram<u64>);

impl Times {
    pub fn new() -> Times {
        Times(Histogram::new_with_bounds(1, 60_000_000, 3).expect("microseconds up to a minute"))
    }

    pub fn note(&mut self, time: Duration) {
        self.0.saturating_record(time.as_micros() as u64);
    }

    /// In words.
    pub fn at(&self, quantiles: &[f64]) -> String {
        let figures: Vec<_> = quantiles.iter().map(|&quantile| format!("{:.2}", self.ms(quantile))).collect();
        format!("{} ms", figures.join(" / "))
    }

    /// What must hold, in words, and whether it does. No goals: nothing.
    pub fn hold(&self, goals: &[Goal], busy: bool) -> (String, bool) {
        let bounds = match goals {
            [(_, first), ..] if busy => &[(0.5, *first * BUSY)],
            _ => goals,
        };
        let must = |(quantile, bound): &Goal| format!("p{} ≤ {} ms", quantile * 100.0, bound.as_millis());
        let must: Vec<_> = bounds.iter().map(must).collect();
        let holds = |(quantile, bound): &Goal| !self.0.is_empty() && self.ms(*quantile) <= bound.as_secs_f64() * 1000.0;
        (must.join(", "), bounds.iter().all(holds))
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_hold_or_do_not_and_busy_machines_have_a_wider_one() {
        let goals = [(0.5, Duration::from_millis(1)), (0.99, Duration::from_millis(5))];
        let mut times = Times::new();
        assert_eq!(times.hold(&goals, false), ("p50 ≤ 1 ms, p99 ≤ 5 ms".into(), false), "of nothing");
        (0..98).for_each(|_| times.note(Duration::from_micros(900)));
        assert_eq!(times.at(&[0.5, 0.999]), "0.90 / 0.90 ms");
        assert!(times.hold(&goals, false).1);
        (0..2).for_each(|_| times.note(Duration::from_millis(6)));
        assert!(!times.hold(&goals, false).1);
        assert_eq!(times.hold(&goals, true), ("p50 ≤ 20 ms".into(), true));
        (0..200).for_each(|_| times.note(Duration::from_millis(21)));
        assert!(!times.hold(&goals, true).1);
        assert_eq!(times.hold(&[], true), (String::new(), true));
    }
}
