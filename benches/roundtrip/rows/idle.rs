//! Lanes at rest: what they cost in wake-ups and memory, and what they cost a neighbour that is busy.

use std::thread;
use std::time::{Duration, Instant};

use super::Bench;
use crate::goal::{Goal, Report};
use crate::machine::process;
use crate::path::Way;
use crate::peer;
use crate::scene::Scene;
use crate::series::{Turn, p50, p99, take_turns};

pub const NAME: &str = "idle";
pub const NEIGHBOURS: &str = "neighbours";

/// Lanes that are attached, and how long nothing happens on them.
const LANES: usize = 100;
const WATCHED: Duration = Duration::from_secs(10);
/// The same for a quick run.
const WATCHED_QUICK: Duration = Duration::from_secs(2);
/// Time after the last call in which spinning ends, lanes cool down and timers run out.
const SETTLE: Duration = Duration::from_millis(1500);
/// Calls on each lane before it rests: none, one, and enough to have been all round its rings.
const CALLS: [usize; 3] = [0, 1, 1000];
/// Lanes that rest beside the busy one.
const MANY_LANES: usize = 1000;

/// Address space for that many, whatever memory limit there is: hardly any of it is touched.
const ROOM: &str = "session: { bytes_max: 65536MiB, bytes_per_uid: 65536MiB }";

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;
/// The sidecar's own memory, and all that it has resident, in MiB.
const OWN_MAX: Goal = Goal::AtMost(4.0);
const RSS_MAX: Goal = Goal::AtMost(12.0);
/// Memory of a lane that has not done much, in KiB.
const LANE_MAX: Goal = Goal::AtMost(64.0);

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    for calls in CALLS {
        let scene = Scene::start(bench.tools, "")?;
        let sidecar = scene.sidecar.pid;
        let bare = process::memfd_bytes(sidecar)?;
        let args = ["lanes", &scene.session(), &LANES.to_string(), &calls.to_string()];
        let app = peer::start(&scene.stage, "an app with idle lanes", &args)?;
        thread::sleep(SETTLE);
        let case = format!("{LANES} lanes after {calls} calls each");
        let lane = (process::memfd_bytes(sidecar)? as f64 - bare as f64) / LANES as f64 / KIB;
        let goal = if calls <= 1 { LANE_MAX } else { Goal::Stated };
        report.found(NAME, format!("{case}: KiB touched a lane"), goal, vec![lane]);
        if calls != 1 {
            continue;
        }
        let memory = process::memory(sidecar)?;
        let arenas = process::memfd_bytes(sidecar)?;
        println!(
            "{NAME}: {case}, {}\n  sidecar: RssAnon {}, RssShmem {}, VmRSS {}; touched in its memfds {}\n",
            scene.legend,
            kib(memory.anon),
            kib(memory.shmem),
            kib(memory.all),
            kib(arenas)
        );
        let own = (memory.anon + memory.shmem) as f64 - arenas as f64;
        report.found(NAME, format!("{case}: RssAnon + RssShmem - touched, MiB"), OWN_MAX, vec![own.max(0.0) / MIB]);
        report.found(NAME, format!("{case}: VmRSS, MiB"), RSS_MAX, vec![memory.all as f64 / MIB]);
        let watched = if bench.options.quick { WATCHED_QUICK } else { WATCHED };
        let before = [process::switches(sidecar)?, process::cpu_ns(sidecar)?, process::switches(app.pid)?];
        let begin = Instant::now();
        thread::sleep(watched);
        let seconds = begin.elapsed().as_secs_f64();
        let after = [process::switches(sidecar)?, process::cpu_ns(sidecar)?, process::switches(app.pid)?];
        let rate = |i: usize| vec![(after[i] - before[i]) / seconds];
        report.found(NAME, format!("{case}: wake-ups/s of the sidecar"), Goal::AtMost(0.0), rate(0));
        report.found(NAME, format!("{case}: CPU ns/s of the sidecar"), Goal::Stated, rate(1));
        report.found(NAME, format!("{case}: wake-ups/s of the app"), Goal::AtMost(0.0), rate(2));
    }
    Ok(())
}

/// The same calls through a sidecar with 1,000 idle lanes, and through one without.
pub fn run_neighbours(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let (alone, among) = (Scene::start(bench.tools, ROOM)?, Scene::start(bench.tools, ROOM)?);
    let args = ["lanes", &among.session(), &MANY_LANES.to_string(), "1"];
    peer::start(&among.stage, "an app with idle lanes", &args)?;
    thread::sleep(SETTLE);
    let load = bench.options.load();
    let turns = vec![
        Turn::new("alone", || alone.call(Way::ShmToShm, &load)),
        Turn::new("among 1,000 idle lanes", || among.call(Way::ShmToShm, &load)),
    ];
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(NEIGHBOURS, &format!("{} bytes, one call at a time, {}", load.payload, among.legend), &series);
    report.found(
        NEIGHBOURS,
        "p50 among 1,000 idle lanes / alone",
        Goal::AtMost(1.2),
        series[1].against(&series[0], p50),
    );
    report.found(NEIGHBOURS, "p99 among 1,000 idle lanes / alone", Goal::Stated, series[1].against(&series[0], p99));
    Ok(())
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes / 1024)
}
