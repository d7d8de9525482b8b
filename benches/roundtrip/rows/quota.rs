//! Half a core for the sidecar: how often it runs into its quota, against a sidecar that parks at once.

use super::Bench;
use crate::goal::{Goal, Report};
use crate::machine::cgroup::Quota;
use crate::path::Way;
use crate::scene::Scene;
use crate::series::{Turn, take_turns};
use crate::shmesh::Load;

pub const NAME: &str = "quota";

const CORES: f64 = 0.5;
/// What makes a sidecar park at once.
const PARK_AT_ONCE: &str = "max_spin: 0s";
/// Loads: as fast as answers come, and at a rate.
const LOADS: [(Option<f64>, &str); 2] = [(None, "closed loop"), (Some(5000.0), "5,000 calls/s")];
/// In-flight calls of the load with a rate.
const WAITING: usize = 64;

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    for (rate, name) in LOADS {
        let what = format!("{name}: periods throttled / those of parking at once");
        if let Err(reason) = compare(bench, report, rate, name, &what) {
            report.missing(NAME, what, Goal::AtMost(1.0), reason);
        }
    }
    Ok(())
}

fn compare(bench: &Bench<'_>, report: &mut Report, rate: Option<f64>, name: &str, what: &str) -> Result<(), String> {
    let spins = Scene::start(bench.tools, "")?;
    let parks = Scene::start(bench.tools, PARK_AT_ONCE).map_err(|error| match error.contains("unknown key") {
        true => format!("this sidecar has no setting `{PARK_AT_ONCE}`"),
        false => format!("a sidecar with `{PARK_AT_ONCE}` does not start: {error}"),
    })?;
    let quotas = [Quota::of(spins.sidecar.pid, CORES)?, Quota::of(parks.sidecar.pid, CORES)?];
    let load = Load { rate, inflight: if rate.is_some() { WAITING } else { 1 }, ..bench.options.load() };
    let mut throttled = [Vec::new(), Vec::new()];
    let [spun, parked] = &mut throttled;
    let turns = vec![
        Turn::new(format!("{name}, as it is"), || counted(&quotas[0], spun, || spins.call(Way::ShmToShm, &load))),
        Turn::new(format!("{name}, parks at once"), || {
            counted(&quotas[1], parked, || parks.call(Way::ShmToShm, &load))
        }),
    ];
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(
        NAME,
        &format!("{} bytes, {CORES} of a core for the sidecar, {}", load.payload, spins.legend),
        &series,
    );
    println!("  periods throttled: as it is {:?}, parks at once {:?}\n", throttled[0], throttled[1]);
    // Over all rounds together: a round has few periods, and may have none that was throttled.
    let [spun, parked] = throttled.map(|rounds| rounds.iter().sum::<f64>());
    let ratio = if spun == 0.0 { 0.0 } else { spun / parked };
    report.found(NAME, what, Goal::AtMost(1.0), vec![ratio]);
    Ok(())
}

fn counted<T>(quota: &Quota, counts: &mut Vec<f64>, run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let before = quota.throttled()?;
    let result = run()?;
    counts.push(quota.throttled()? - before);
    Ok(result)
}
