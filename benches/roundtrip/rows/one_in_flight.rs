//! One call at a time, 64 bytes: over shared memory against the same client and service without anything between them.

use super::Bench;
use crate::beside::pingpong::PingPong;
use crate::goal::{Goal, Report};
use crate::path::Way;
use crate::processes::Stage;
use crate::scene::Scene;
use crate::series::{Turn, p50, p99, take_turns};

pub const NAME: &str = "one-in-flight";

/// How far our own direct client and service may be behind the same in C.
const DIRECT: Goal = Goal::AtMost(1.15);
const DIRECT_WHAT: &str = "direct TCP p50 / the same in C";

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let scene = Scene::start(bench.tools, "")?;
    let stage = Stage::set_up()?;
    let load = bench.options.load();
    let c = PingPong::start(&stage);
    let turn = |way: Way| {
        let (scene, load) = (&scene, &load);
        Turn::new(way.name(), move || scene.call(way, load))
    };
    let mut turns: Vec<Turn<'_>> = [Way::DirectTcp, Way::DirectUds, Way::ShmToTcp, Way::ShmToShm].map(turn).into();
    if let Ok(c) = &c {
        turns.push(Turn::new("direct-tcp in C", || c.call(&load)));
    }
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(NAME, &format!("{} bytes, one call at a time, {}", load.payload, scene.legend), &series);
    let [tcp, uds, shm_tcp, shm_shm, ..] = series.as_slice() else { return Err("a way is missing".to_owned()) };
    report.found(NAME, "shm → shm p50 / direct TCP", Goal::AtMost(0.25), shm_shm.against(tcp, p50));
    report.found(NAME, "shm → shm p99 / direct TCP", Goal::AtMost(0.6), shm_shm.against(tcp, p99));
    report.found(NAME, "shm → shm p50 / direct UDS", Goal::AtMost(0.45), shm_shm.against(uds, p50));
    report.found(NAME, "shm → TCP p50 / direct TCP", Goal::AtMost(1.0), shm_tcp.against(tcp, p50));
    match (c, series.get(4)) {
        (Ok(_), Some(c)) => report.found(NAME, DIRECT_WHAT, DIRECT, tcp.against(c, p50)),
        (Err(reason), _) => report.missing(NAME, DIRECT_WHAT, DIRECT, reason),
        (Ok(_), None) => {}
    }
    Ok(())
}
