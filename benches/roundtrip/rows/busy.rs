//! A neighbour on each core that computes all the time.

use std::thread;

use super::Bench;
use crate::goal::{Goal, Report};
use crate::path::Way;
use crate::peer;
use crate::processes::Stage;
use crate::scene::Scene;
use crate::series::{Turn, p50, p99, take_turns};

pub const NAME: &str = "hogs";

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let scene = Scene::start(bench.tools, "")?;
    let hogs = Stage::set_up()?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..cores {
        peer::start(&hogs, "a CPU hog", &["hog"])?;
    }
    let load = bench.options.load();
    let turns = vec![
        Turn::new("direct-tcp beside the hogs", || scene.call(Way::DirectTcp, &load)),
        Turn::new("shm → shm beside the hogs", || scene.call(Way::ShmToShm, &load)),
    ];
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(
        NAME,
        &format!("{} bytes, {cores} hogs, one for each core, {}", load.payload, scene.legend),
        &series,
    );
    report.found(
        NAME,
        "shm → shm p50 / direct TCP, both beside the hogs",
        Goal::AtMost(2.5),
        series[1].against(&series[0], p50),
    );
    report.found(
        NAME,
        "shm → shm p99 / direct TCP, both beside the hogs",
        Goal::Stated,
        series[1].against(&series[0], p99),
    );
    Ok(())
}
