//! What troubles did to calls: counted, and held against what must hold.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use shmesh_client::{CallError, Retry};

use crate::app::{Called, TIMEOUT};
use crate::service::Record;

/// No call takes longer, whatever happens: its timeout, and what a busy machine adds.
const RETURNS_WITHIN: Duration = Duration::from_secs(10);

/// What was counted.
pub struct Verdict {
    calls: u64,
    /// Calls in flight when trouble came.
    hit: u64,
    late: u64,
    run_twice: u64,
    idempotent_failed: u64,
    /// Calls that are not idempotent, in flight when trouble came.
    open: u64,
    maybe: u64,
    /// Errors that say that nothing ran, of calls that ran.
    wrong: u64,
    /// Calls that are not idempotent and failed some other way.
    failed: u64,
    /// Successes that the service knows nothing of.
    invented: u64,
    elsewhere: Histogram<u64>,
    /// Bounds of the time to the first answer from elsewhere, at p50 and p99; what is not bounded is shown.
    bounds: Option<(Duration, Duration)>,
    left: Vec<(&'static str, i64, i64)>,
    first: Option<String>,
}

impl Verdict {
    pub fn new(bounds: Option<(Duration, Duration)>) -> Verdict {
        Verdict {
            calls: 0,
            hit: 0,
            late: 0,
            run_twice: 0,
            idempotent_failed: 0,
            open: 0,
            maybe: 0,
            wrong: 0,
            failed: 0,
            invented: 0,
            elsewhere: Histogram::new_with_bounds(1, 60_000_000, 3).expect("microseconds up to a minute"),
            bounds,
            left: Vec::new(),
            first: None,
        }
    }

    /// What one caller called around one trouble.
    pub fn judge(&mut self, calls: &[Called], record: &Record, trouble: Instant) {
        let mut elsewhere = None;
        for called in calls {
            self.calls += 1;
            let runs = record.runs(called.call);
            let in_flight = called.started <= trouble && trouble < called.ended;
            self.hit += u64::from(in_flight);
            self.open += u64::from(in_flight && !called.idempotent);
            if called.ended - called.started > RETURNS_WITHIN.max(TIMEOUT) {
                self.late += 1;
            }
            if !called.idempotent && runs.all() > 1 {
                self.run_twice += 1;
                self.note(called, "ran twice");
            }
            match &called.outcome {
                Ok(()) if runs.all() == 0 => {
                    self.invented += 1;
                    self.note(called, "was answered and never ran");
                }
                Ok(()) => {
                    if runs.direct > 0 && called.ended > trouble {
                        elsewhere.get_or_insert(called.ended - trouble);
                    }
                }
                Err(error) if called.idempotent => {
                    self.idempotent_failed += 1;
                    self.note(called, &format!("failed: {error}"));
                }
                Err(CallError::MaybeExecuted(_)) => self.maybe += 1,
                Err(error) => {
                    self.failed += 1;
                    self.note(called, &format!("failed: {error}"));
                }
            }
            if called.outcome.as_ref().is_err_and(|error| error.retry() == Retry::Safe) && runs.all() > 0 {
                self.wrong += 1;
                self.note(called, "ran, and its caller was told that it did not");
            }
        }
        if let Some(time) = elsewhere {
            self.elsewhere.saturating_record(time.as_micros() as u64);
        }
    }

    /// Something of which as much should be there afterwards as before, within `slack`.
    pub fn left_behind(&mut self, what: &'static str, more: i64, slack: i64) {
        self.left.push((what, more, slack));
    }

    fn note(&mut self, called: &Called, what: &str) {
        let method = if called.idempotent { "PUT" } else { "POST" };
        self.first.get_or_insert_with(|| format!("call {} ({method}) {what}", called.call));
    }

    /// Says all of it; whether everything holds.
    pub fn print(&self) -> bool {
        let mut holds = true;
        let mut row = |what: &str, found: String, must: &str, ok: bool| {
            println!("| {what} | {found} | {must} | {} |", if ok { "holds" } else { "**does not hold**" });
            holds &= ok;
        };
        println!("{} calls, {} of them in flight when it happened\n", self.calls, self.hit);
        println!("| what | found | must be | |");
        println!("|---|---|---|---|");
        let mut none = |what: &str, found: u64| row(what, found.to_string(), "0", found == 0);
        none("calls that did not return in time", self.late);
        none("answers to calls that never ran", self.invented);
        none("non-idempotent calls that ran twice", self.run_twice);
        none("idempotent calls that failed", self.idempotent_failed);
        none("non-idempotent calls that failed otherwise than as `MaybeExecuted`", self.failed);
        none("calls that ran, and were said not to have", self.wrong);
        row("`MaybeExecuted` errors", self.maybe.to_string(), &format!("≤ {}", self.open), self.maybe <= self.open);
        let ms = |quantile: f64| self.elsewhere.value_at_quantile(quantile) as f64 / 1000.0;
        let (p50, p99) = (ms(0.5), ms(0.99));
        let found = format!("{p50:.2} / {p99:.2} ms");
        let what = "time to a caller's first answer from elsewhere, p50 / p99";
        match self.bounds {
            Some((a, b)) => {
                let (a, b) = (a.as_secs_f64() * 1000.0, b.as_secs_f64() * 1000.0);
                row(what, found, &format!("≤ {a} / {b} ms"), !self.elsewhere.is_empty() && p50 <= a && p99 <= b);
            }
            None => row(what, found, "", true),
        }
        for (what, more, slack) in &self.left {
            row(what, format!("{more:+}"), &format!("≤ +{slack}"), more <= slack);
        }
        if let Some(first) = &self.first {
            println!("\nthe first: {first}");
        }
        holds
    }
}
