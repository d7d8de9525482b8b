//! `--stages`: where the sidecar's workers spent their time during the run, from its counters before and after.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::cli::admin;

const PREFIX: &str = "shmesh_stage_";
const SUFFIX: &str = "_nanoseconds_total";

/// The stages in the order of a call, with what they are, and whether they are work of the worker outside of its wait loop.
const STAGES: [(&str, bool, &str); 8] = [
    ("ring_wait", false, "a record in its ring, at most"),
    ("ingress", true, "records taken, checked, made calls"),
    ("route", false, "of that, the look-up of the route"),
    ("dispatch", true, "forwarded stored, withdrawn read, requests put"),
    ("egress", true, "published, rung, sent"),
    ("driver", true, "sockets, timers, mail"),
    ("wait", false, "turns that found nothing"),
    ("parked", false, "asleep"),
];

/// Counters of the stages at one moment.
pub struct Reading(BTreeMap<String, u64>);

impl Reading {
    /// Asks the admin interface.
    pub fn take(address: SocketAddr) -> Result<Reading, String> {
        let (_, text) = admin::get(address, "/metrics")
            .map_err(|error| format!("cannot read http://{address}/metrics: {error}"))?;
        let counters: BTreeMap<String, u64> = text
            .lines()
            .filter_map(|line| line.strip_prefix(PREFIX)?.split_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect();
        if counters.is_empty() {
            return Err(format!("{address} has no counters of stages: is it the admin interface of a shmesh?"));
        }
        Ok(Reading(counters))
    }

    fn since(&self, earlier: &Reading, name: &str) -> u64 {
        let of = |reading: &Reading| reading.0.get(name).copied().unwrap_or(0);
        of(self).saturating_sub(of(earlier))
    }
}

/// Nanoseconds of each stage per call.
pub struct Spent {
    calls: u64,
    stages: Vec<(&'static str, f64)>,
    work: f64,
    upstream: f64,
}

impl Spent {
    /// What was spent between two readings.
    pub fn between(earlier: &Reading, later: &Reading) -> Result<Spent, String> {
        let calls = later.since(earlier, "calls_total");
        if calls == 0 {
            return Err("the sidecar measured no call: write `stages: true` into its configuration".into());
        }
        let time = |name: &str| later.since(earlier, &format!("{name}{SUFFIX}")) as f64;
        let records = later.since(earlier, "records_total").max(1);
        let per = |name: &str| if name == "ring_wait" { records } else { calls } as f64;
        let stages: Vec<_> = STAGES.iter().map(|&(name, _, _)| (name, time(name) / per(name))).collect();
        let work = STAGES.iter().zip(&stages).filter(|(stage, _)| stage.1).map(|(_, spent)| spent.1).sum();
        Ok(Spent { calls, stages, work, upstream: time("upstream") / calls as f64 })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!("stages of the sidecar's workers, ns per call ({} calls)\n", self.calls);
        for (&(name, ns), (_, _, what)) in self.stages.iter().zip(STAGES) {
            let _ = writeln!(out, "  {name:<10} {ns:>10.0}  {what}");
        }
        let _ = writeln!(out, "  {:<10} {:>10.0}  from its record to its answer", "upstream", self.upstream);
        let _ = writeln!(out, "  {:<10} {:>10.0}  outside of the wait loop", "work", self.work);
        out
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let mut object = json!({ "calls": self.calls, "work": self.work, "upstream": self.upstream });
        for &(name, ns) in &self.stages {
            object[name] = json!(ns);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(values: &[(&str, u64)]) -> Reading {
        Reading(values.iter().map(|&(name, value)| (name.to_owned(), value)).collect())
    }

    #[test]
    fn work_is_what_lies_outside_of_the_wait_loop() {
        let earlier = reading(&[("calls_total", 10), ("ingress_nanoseconds_total", 1_000)]);
        let later = reading(&[
            ("calls_total", 20),
            ("records_total", 40),
            ("ring_wait_nanoseconds_total", 400),
            ("ingress_nanoseconds_total", 2_000),
            ("route_nanoseconds_total", 100),
            ("egress_nanoseconds_total", 500),
            ("wait_nanoseconds_total", 9_000),
        ]);
        let spent = Spent::between(&earlier, &later).unwrap();
        assert_eq!(spent.work, 150.0);
        assert_eq!(spent.stages[0], ("ring_wait", 10.0));
        assert_eq!(spent.json()["wait"], json!(900.0));
        assert!(spent.table().contains("outside of the wait loop"));
    }

    #[test]
    fn a_sidecar_that_does_not_measure_is_named() {
        let nothing = reading(&[("calls_total", 0)]);
        assert!(Spent::between(&nothing, &nothing).err().unwrap().contains("stages: true"));
    }
}
