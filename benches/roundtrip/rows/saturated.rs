//! Two lanes of two apps on one worker: one moves payloads of 1 MB as fast as it can, the other makes small calls.

use std::thread;
use std::time::Duration;

use super::Bench;
use crate::goal::{Goal, Report};
use crate::path::Way;
use crate::scene::Scene;
use crate::series::{Turn, p50, p99, take_turns};
use crate::shmesh::Load;

pub const NAME: &str = "saturated";

/// The neighbour's payload, and how many of them it has under way.
const LARGE: usize = 1 << 20;
const LARGE_IN_FLIGHT: usize = 4;
/// Longer than any run; it is ended when all is measured.
const WHILE_MEASURED: Duration = Duration::from_secs(3600);
/// Time for the neighbour to get under way.
const SETTLE: Duration = Duration::from_millis(300);

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let scene = Scene::start(bench.tools, "")?;
    scene.start_bulk_app()?;
    let load = bench.options.load();
    let bulk = Load { payload: LARGE, connections: 1, inflight: LARGE_IN_FLIGHT, rate: None, duration: WHILE_MEASURED };
    let neighbour = scene.saturate(&bulk)?;
    thread::sleep(SETTLE);
    let turns = vec![
        Turn::new("direct-tcp beside the neighbour", || scene.call(Way::DirectTcp, &load)),
        Turn::new("shm → shm beside the neighbour", || scene.call(Way::ShmToShm, &load)),
    ];
    let series = take_turns(bench.options.rounds, turns)?;
    neighbour.end_if_running()?;
    report.measured(NAME, &format!("{} bytes beside 1 MB payloads, {}", load.payload, scene.legend), &series);
    for (value, name) in [(p50 as fn(&_) -> f64, "p50"), (p99, "p99")] {
        let what = format!("shm → shm {name} / direct TCP, both beside the neighbour");
        report.found(NAME, what, Goal::AtMost(1.0), series[1].against(&series[0], value));
    }
    Ok(())
}
