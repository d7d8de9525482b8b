//! What a run counted, and how it is told: a table for people, one JSON object for scripts.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::stages::Spent;

/// Latencies above this are recorded as this, in nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;
/// Digits of a latency that are kept.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Different reasons of errors that are remembered.
const REASONS_MAX: usize = 5;

/// Counts of one thread, or of all. Only calls whose (intended) start lies in the measured time count.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Answers that came, those of the warm-up included.
    answered: u64,
    ok: u64,
    errors: u64,
    latency_ns: Histogram<u64>,
    /// When the last counted answer was there.
    last: Option<Instant>,
    /// Why calls failed, and connections, and how often.
    reasons: Vec<(String, u64)>,
}

impl Default for Tally {
    fn default() -> Self {
        // The bounds are constants within what the histogram takes.
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS).expect("valid bounds");
        Self { answered: 0, ok: 0, errors: 0, latency_ns, last: None, reasons: Vec::new() }
    }
}

impl Tally {
    /// An answer came, in the measured time or not.
    pub fn answer(&mut self) {
        self.answered += 1;
    }

    pub fn ok(&mut self, latency: Duration, now: Instant) {
        self.ok += 1;
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency_ns.saturating_record(ns.max(1));
        self.last = Some(now);
    }

    pub fn error(&mut self, reason: &str, calls: u64) {
        self.errors += calls;
        self.note(reason, calls.max(1));
    }

    /// Calls that no answer came to, each with whether it counts: those of the warm-up are no errors of the result, but a run
    /// in which a call hung is not one to believe.
    pub fn give_up(&mut self, calls: impl Iterator<Item = bool>) {
        for counts in calls {
            match counts {
                true => self.error(super::NO_ANSWER, 1),
                false => self.note(super::NO_ANSWER, 1),
            }
        }
    }

    /// Remembers a reason without counting a call.
    pub fn note(&mut self, reason: &str, times: u64) {
        if let Some((_, count)) = self.reasons.iter_mut().find(|(known, _)| known == reason) {
            *count += times;
        } else if self.reasons.len() < REASONS_MAX {
            self.reasons.push((reason.to_owned(), times));
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.answered += other.answered;
        self.ok += other.ok;
        self.errors += other.errors;
        // Both have the same bounds, so the addition cannot fail.
        let _ = self.latency_ns.add(&other.latency_ns);
        self.last = self.last.max(other.last);
        for (reason, count) in &other.reasons {
            self.note(reason, *count);
        }
    }

    /// Sums up; `begin` and `duration` are of the measured time, `payload` is in bytes.
    pub fn report(&self, begin: Instant, duration: Duration, payload: usize) -> Report {
        // A tail that was waited for is time that the calls took.
        let took = self.last.map_or(duration, |last| duration.max(last - begin));
        let quantile = |q| match self.ok {
            0 => 0,
            _ => self.latency_ns.value_at_quantile(q),
        };
        Report {
            sent: self.ok + self.errors,
            ok: self.ok,
            errors: self.errors,
            answered: self.answered,
            rps: (self.ok as f64 / took.as_secs_f64() * 10.0).round() / 10.0,
            payload,
            latency_ns: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: match self.ok {
                    0 => 0,
                    _ => self.latency_ns.max(),
                },
            },
        }
    }

    /// Why calls failed, a line each, for stderr.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        self.reasons.iter().map(|(reason, count)| match count {
            1 => reason.clone(),
            _ => format!("{reason} ({count} times)"),
        })
    }
}

/// The result of a run, as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Calls that were sent: `ok + errors`.
    pub sent: u64,
    pub ok: u64,
    pub errors: u64,
    /// All answers that came, those of the warm-up and of its end included: what CPU time and system calls of the whole
    /// run are divided by.
    pub answered: u64,
    /// Right answers per second.
    pub rps: f64,
    /// Bytes of a call's payload.
    pub payload: usize,
    pub latency_ns: Latency,
}

/// Of the right answers, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Report {
    pub fn json(&self, spent: Option<&Spent>) -> String {
        /// In the order of the table.
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            #[serde(skip_serializing_if = "Option::is_none")]
            stages_ns: Option<serde_json::Value>,
        }
        serde_json::to_string(&Whole { report: self, stages_ns: spent.map(Spent::json) }).unwrap_or_default()
    }

    /// Three lines for a person.
    pub fn table(&self) -> String {
        let Latency { p50, p90, p99, p999, max } = self.latency_ns;
        format!(
            "calls     {} sent, {} ok, {} errors\n\
             rate      {:.0} calls/s\n\
             latency   p50 {}   p90 {}   p99 {}   p99.9 {}   max {}\n",
            self.sent,
            self.ok,
            self.errors,
            self.rps,
            time(p50),
            time(p90),
            time(p99),
            time(p999),
            time(max),
        )
    }
}

/// Nanoseconds in the unit that reads well.
pub fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..100_000 => format!("{:.1} µs", ns as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..100_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        100_000_000..1_000_000_000 => format!("{:.0} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_tallies_sum_up() {
        let begin = Instant::now();
        let (mut a, mut b) = (Tally::default(), Tally::default());
        for us in 1..=99 {
            a.ok(Duration::from_micros(us), begin + Duration::from_millis(us));
        }
        b.ok(Duration::from_secs(1), begin + Duration::from_secs(4));
        b.answer();
        b.error("it broke", 3);
        b.error("it broke", 2);
        a.merge(&b);
        let report = a.report(begin, Duration::from_secs(2), 64);
        assert_eq!((report.sent, report.ok, report.errors), (105, 100, 5));
        assert_eq!(report.answered, 1);
        // 100 answers until the last one, 4 s after the begin.
        assert_eq!(report.rps, 25.0);
        let near = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 500;
        assert!(near(report.latency_ns.p50, 50_000), "{report:?}");
        assert!(near(report.latency_ns.p90, 90_000), "{report:?}");
        assert!(near(report.latency_ns.p99, 99_000), "{report:?}");
        assert!(near(report.latency_ns.max, 1_000_000_000), "{report:?}");
        assert_eq!(a.complaints().collect::<Vec<_>>(), ["it broke (5 times)"]);
    }

    #[test]
    fn a_run_without_answers_reports_zeros() {
        let report = Tally::default().report(Instant::now(), Duration::from_secs(1), 0);
        assert_eq!(report.rps, 0.0);
        assert_eq!(
            report.json(None),
            r#"{"sent":0,"ok":0,"errors":0,"answered":0,"rps":0.0,"payload":0,"latency_ns":{"p50":0,"p90":0,"p99":0,"p999":0,"max":0}}"#
        );
    }

    #[test]
    fn times_read_well() {
        for (ns, text) in [
            (999, "999 ns"),
            (17_480, "17.5 µs"),
            (123_456, "123 µs"),
            (1_500_000, "1.5 ms"),
            (123_000_000, "123 ms"),
            (2_000_000_000, "2.0 s"),
        ] {
            assert_eq!(time(ns), text);
        }
    }
}
