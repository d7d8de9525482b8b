//! 64 calls in flight over one lane, each a record of its own, and wrk → nginx with 64 connections beside it.

use super::Bench;
use crate::beside::nginx::Nginx;
use crate::beside::wrk;
use crate::goal::{Goal, Report};
use crate::path::Way;
use crate::processes::Stage;
use crate::scene::Scene;
use crate::series::{Turn, rps, take_turns};
use crate::shmesh::Load;

pub const NAME: &str = "64-in-flight";

/// Calls that are outstanding on the one lane, and wrk's connections.
pub const IN_FLIGHT: usize = 64;

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let scene = Scene::start(bench.tools, "")?;
    let stage = Stage::set_up()?;
    let nginx = Nginx::start(&stage);
    let load = Load { inflight: IN_FLIGHT, ..bench.options.load() };
    let connections = Load { connections: IN_FLIGHT, ..bench.options.load() };
    let mut turns = vec![
        Turn::new("shm → shm, 64 on one lane", || scene.call(Way::ShmToShm, &load)),
        Turn::new("direct-tcp, 64 connections", || scene.call(Way::DirectTcp, &connections)),
    ];
    if let Ok(nginx) = &nginx {
        turns.push(Turn::new(format!("wrk → {}, 64 connections", nginx.version), || {
            wrk::call(nginx.address, IN_FLIGHT, load.duration)
        }));
    }
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(NAME, &format!("{} bytes, 64 in flight, {}", load.payload, scene.legend), &series);
    report.found(NAME, "shm → shm calls/s, 1 lane, 1 worker", Goal::AtLeast(1_500_000.0), series[0].values(rps));
    let what = "shm → shm calls/s / wrk → nginx requests/s";
    match (nginx, series.get(2)) {
        (Ok(_), Some(wrk)) => report.found(NAME, what, Goal::AtLeast(8.0), series[0].against(wrk, rps)),
        (Err(reason), _) => report.missing(NAME, what, Goal::AtLeast(8.0), reason),
        (Ok(_), None) => {}
    }
    Ok(())
}
