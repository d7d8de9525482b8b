//! Every size of payload, filled, read and compared on both sides, against direct UDS and the crate shmipc.

use super::Bench;
use crate::beside::shmipc::Shmipc;
use crate::goal::{Goal, Report};
use crate::path::Way;
use crate::processes::Stage;
use crate::scene::Scene;
use crate::series::{Turn, p50, rps, take_turns};
use crate::shmesh::Load;

pub const NAME: &str = "payloads";

const SIZES: [(usize, &str); 7] = [
    (64, "64 B"),
    (512, "512 B"),
    (4 << 10, "4 KB"),
    (16 << 10, "16 KB"),
    (64 << 10, "64 KB"),
    (1 << 20, "1 MB"),
    (4 << 20, "4 MB"),
];
/// Sizes up to here are measured with many calls in flight, too: shmipc is made for that.
const MANY_BYTES_MAX: usize = 64 << 10;
const MANY: usize = 64;
/// Calls a second of the low rate, at which every call finds everybody asleep.
const LOW_RATE: f64 = 1000.0;

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let scene = Scene::start(bench.tools, "")?;
    let mut failures = Vec::new();
    for (payload, size) in SIZES {
        let load = Load { payload, connections: 1, inflight: 1, ..bench.options.load() };
        if let Err(sentence) = compare(bench, report, &scene, size, load) {
            failures.push(format!("{size}: {sentence}"));
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.join("; ")),
    }
}

/// One size, with a shmipc service of its own.
fn compare(bench: &Bench<'_>, report: &mut Report, scene: &Scene<'_>, size: &str, one: Load) -> Result<(), String> {
    let stage = Stage::set_up()?;
    let shmipc = Shmipc::start(&stage, one.payload)?;
    let turns = vec![
        Turn::new(format!("{size}: shm → shm"), || scene.call(Way::ShmToShm, &one)),
        Turn::new(format!("{size}: direct-uds"), || scene.call(Way::DirectUds, &one)),
        Turn::new(format!("{size}: shmipc"), || shmipc.call(&one)),
    ];
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(NAME, "one call at a time", &series);
    report.found(NAME, format!("{size}: calls/s / direct UDS"), Goal::AtLeast(1.0), series[0].against(&series[1], rps));
    report.found(NAME, format!("{size}: calls/s / shmipc"), Goal::AtLeast(1.0), series[0].against(&series[2], rps));
    if one.payload <= MANY_BYTES_MAX {
        let many = Load { inflight: MANY, ..one };
        let turns = vec![
            Turn::new(format!("{size}: shm → shm"), || scene.call(Way::ShmToShm, &many)),
            Turn::new(format!("{size}: shmipc, 64 streams"), || shmipc.call(&many)),
        ];
        let series = take_turns(bench.options.rounds, turns)?;
        report.measured(NAME, "64 calls in flight", &series);
        let what = format!("{size}: calls/s / shmipc, 64 in flight");
        report.found(NAME, what, Goal::AtLeast(1.0), series[0].against(&series[1], rps));
    }
    if one.payload == SIZES[0].0 {
        low_rate(bench, report, scene, &shmipc, one)?;
    }
    Ok(())
}

/// A thousand calls a second: the rate is the same for all, so the time that a call takes is compared.
fn low_rate(
    bench: &Bench<'_>,
    report: &mut Report,
    scene: &Scene<'_>,
    shmipc: &Shmipc,
    one: Load,
) -> Result<(), String> {
    let slow = Load { rate: Some(LOW_RATE), ..one };
    let turns = vec![
        Turn::new("64 B: shm → shm", || scene.call(Way::ShmToShm, &slow)),
        Turn::new("64 B: direct-uds", || scene.call(Way::DirectUds, &slow)),
        Turn::new("64 B: shmipc", || shmipc.call(&slow)),
    ];
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(NAME, "1,000 calls/s", &series);
    report.found(
        NAME,
        "64 B at 1,000 calls/s: p50 / direct UDS",
        Goal::AtMost(1.0),
        series[0].against(&series[1], p50),
    );
    report.found(NAME, "64 B at 1,000 calls/s: p50 / shmipc", Goal::AtMost(1.0), series[0].against(&series[2], p50));
    Ok(())
}
