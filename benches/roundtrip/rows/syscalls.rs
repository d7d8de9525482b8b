//! System calls for a call over shared memory at both ends: of the client, the sidecar and the serving app together.

use super::Bench;
use super::in_flight::IN_FLIGHT;
use crate::goal::{Goal, Report};
use crate::machine::perf;
use crate::path::Way;
use crate::scene::Scene;
use crate::series::Series;
use crate::shmesh::Load;

pub const NAME: &str = "syscalls";

const GOAL: Goal = Goal::AtMost(0.05);
const WHAT: &str = "system calls a call of all three, without sched_yield";
/// Kinds of system calls that are shown of each process.
const SHOWN: usize = 4;

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    if let Err(reason) = perf::probe() {
        report.missing(NAME, WHAT, GOAL, reason);
        return Ok(());
    }
    let scene = Scene::start(bench.tools, "")?;
    let load = Load { inflight: IN_FLIGHT, ..bench.options.load() };
    let client = scene.command(Way::ShmToShm, &load);
    let others = [("sidecar", scene.sidecar.pid), ("app", scene.app.pid)];
    let folder = |name: &str| scene.stage.path(name);
    let (mut sums, mut yields, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    let mut series = Series { name: "shm → shm, 64 on one lane, counted".to_owned(), rounds: Vec::new() };
    for _ in 0..bench.options.rounds {
        let (measured, counted) = perf::count(&client, &others, &folder)?;
        sums.push(counted.iter().map(|process| process.calls).sum::<f64>() / measured.answered);
        yields.push(counted.iter().map(|process| process.yields).sum::<f64>() / measured.answered);
        texts = counted.iter().map(|process| line(process, measured.answered)).collect();
        series.rounds.push(measured);
    }
    report.measured(
        NAME,
        &format!("{} bytes, 64 in flight, {}; by process in the last round:", load.payload, scene.legend),
        &[series],
    );
    println!("{}\n", texts.join("\n"));
    report.found(NAME, WHAT, GOAL, sums);
    report.found(NAME, "sched_yield a call of all three", Goal::Stated, yields);
    Ok(())
}

fn line(process: &perf::Counted, answered: f64) -> String {
    let kinds = process.kinds.iter().take(SHOWN).map(|(kind, count)| format!("{kind} {:.4}", count / answered));
    format!(
        "  {:<8} {:.4} a call: {}; sched_yield {:.4}",
        process.name,
        process.calls / answered,
        kinds.collect::<Vec<_>>().join(", "),
        process.yields / answered
    )
}
