//! A thousand calls a second, on a schedule that no slow answer moves; latency counts from the intended start.

use std::time::Instant;

use super::Bench;
use crate::goal::{Goal, Report};
use crate::machine::process;
use crate::path::Way;
use crate::scene::Scene;
use crate::series::{Turn, p50, p99, take_turns};
use crate::shmesh::Load;

pub const NAME: &str = "open-loop";

const RATE: f64 = 1000.0;
/// Calls that may wait for their answers, so that a late one is late by itself.
const WAITING: usize = 64;

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let scene = Scene::start(bench.tools, "")?;
    let load = Load { rate: Some(RATE), inflight: WAITING, ..bench.options.load() };
    let mut cpu = Vec::new();
    let turns = vec![
        Turn::new("direct-tcp, 1,000 calls/s", || scene.call(Way::DirectTcp, &load)),
        Turn::new("shm → shm, 1,000 calls/s", || {
            let (before, begin) = (process::cpu_ns(scene.sidecar.pid)?, Instant::now());
            let measured = scene.call(Way::ShmToShm, &load)?;
            let used = process::cpu_ns(scene.sidecar.pid)? - before;
            cpu.push(used / begin.elapsed().as_nanos() as f64 * 100.0);
            Ok(measured)
        }),
    ];
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(NAME, &format!("{} bytes, {}", load.payload, scene.legend), &series);
    report.found(
        NAME,
        "shm → shm p99 / direct TCP, 1,000 calls/s",
        Goal::AtMost(1.2),
        series[1].against(&series[0], p99),
    );
    report.found(NAME, "shm → shm p50 / direct TCP, 1,000 calls/s", Goal::Stated, series[1].against(&series[0], p50));
    report.found(NAME, "sidecar CPU, % of a core", Goal::AtMost(2.0), cpu);
    Ok(())
}
