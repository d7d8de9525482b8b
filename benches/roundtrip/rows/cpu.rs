//! CPU time of the proxy for a call: all of it, and without its wait loop where the sidecar tells; beside Envoy's.

use std::net::SocketAddr;

use super::Bench;
use super::in_flight::IN_FLIGHT;
use crate::envoy::HOW_TO_GET;
use crate::goal::{Goal, Report};
use crate::machine::process;
use crate::path::{Protocol, Way};
use crate::processes::{Stage, free_addresses};
use crate::scene::Scene;
use crate::series::{Turn, median, take_turns};
use crate::shmesh::{Load, Measured};

pub const NAME: &str = "cpu";

/// Makes a sidecar measure where its workers' time goes.
const STAGES: &str = "stages: true";
/// Its counters of time in turns that found something to do: everything but the wait loop and sleep.
const BUSY_NS: [&str; 4] = ["driver", "ingress", "dispatch", "egress"];
/// Its counter of payload bytes that it copied on their way.
const COPIED_BYTES: &str = "shmesh_copied_bytes_total";
/// What a large payload is.
const LARGE: usize = 1 << 20;

const SHM_GOAL: Goal = Goal::AtMost(0.5);
const TCP_GOAL: Goal = Goal::AtMost(0.2);

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let scene = Scene::start(bench.tools, "")?;
    // A sidecar of its own, as measuring costs a little.
    let staged = Scene::start(bench.tools, STAGES);
    let stage = Stage::set_up()?;
    let envoy = start_envoy(bench, &stage, scene.service());
    let load = Load { inflight: IN_FLIGHT, ..bench.options.load() };
    let connections = Load { connections: IN_FLIGHT, ..bench.options.load() };
    // CPU microseconds a call, one entry a round.
    let (mut shm, mut busy, mut tcp, mut beside) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut turns = vec![
        Turn::new("shm → shm, 64 on one lane", || {
            let (measured, us) = with_cpu(scene.sidecar.pid, || scene.call(Way::ShmToShm, &load))?;
            shm.push(us);
            Ok(measured)
        }),
        Turn::new("shm → TCP, 64 on one lane", || {
            let (measured, us) = with_cpu(scene.sidecar.pid, || scene.call(Way::ShmToTcp, &load))?;
            tcp.push(us);
            Ok(measured)
        }),
    ];
    if let Ok((address, pid, words)) = &envoy {
        let (beside, connections) = (&mut beside, &connections);
        turns.push(Turn::new(format!("{words}, 64 connections"), move || {
            let via = format!("tcp:{address}");
            let call = || bench.tools.shmesh.bench(Protocol::Http, &via, "echo-tcp", connections);
            let (measured, us) = with_cpu(*pid, call)?;
            beside.push(us);
            Ok(measured)
        }));
    }
    if let Ok(staged) = &staged {
        let (busy, load) = (&mut busy, &load);
        turns.push(Turn::new("shm → shm, 64 on one lane, stages on", move || {
            let before = busy_ns(staged)?;
            let (measured, us) = with_cpu(staged.sidecar.pid, || staged.call(Way::ShmToShm, load))?;
            let on_the_clock = (busy_ns(staged)? - before) / 1e3 / measured.answered;
            // Each is at least what is asked for: the clock runs on when somebody else gets the core, and all CPU time
            // has the waiting in it.
            busy.push(on_the_clock.min(us));
            Ok(measured)
        }));
    }
    let series = take_turns(bench.options.rounds, turns)?;
    report.measured(NAME, &format!("{} bytes, 64 in flight, {}", load.payload, scene.legend), &series);
    report.found(NAME, "sidecar, shm → shm: CPU µs a call, its waiting included", Goal::Stated, shm);
    let what = "sidecar, shm → shm: CPU µs a call, without its wait loop";
    match staged {
        Ok(_) => report.found(NAME, what, SHM_GOAL, busy),
        Err(reason) => report.missing(NAME, what, SHM_GOAL, reason),
    }
    report.found(NAME, "sidecar, shm → TCP HTTP: CPU µs a request", Goal::Stated, tcp.clone());
    let what = "sidecar, shm → TCP HTTP: CPU a request / Envoy's";
    match envoy {
        Ok(_) => {
            println!("  Envoy: {:.1} µs of CPU a request\n", median(beside.clone()));
            let ratios = tcp.iter().zip(&beside).map(|(own, envoy)| own / envoy).collect();
            report.found(NAME, what, TCP_GOAL, ratios);
        }
        Err(reason) => report.missing(NAME, what, TCP_GOAL, reason),
    }
    copies(bench, report, &scene)
}

/// Runs a client, and says how many microseconds of CPU time a process used for each of its calls.
fn with_cpu(pid: u32, call: impl FnOnce() -> Result<Measured, String>) -> Result<(Measured, f64), String> {
    let before = process::cpu_ns(pid)?;
    let measured = call()?;
    let us = (process::cpu_ns(pid)? - before) / 1e3 / measured.answered;
    Ok((measured, us))
}

/// Time that the workers of a sidecar with stages spent on anything but waiting, so far.
fn busy_ns(scene: &Scene<'_>) -> Result<f64, String> {
    let mut sum = 0.0;
    for stage in BUSY_NS {
        let name = format!("shmesh_stage_{stage}_nanoseconds_total");
        sum += scene.counter(&name)?.ok_or_else(|| format!("the sidecar has no counter {name}"))?;
    }
    Ok(sum)
}

fn start_envoy(bench: &Bench<'_>, stage: &Stage, service: SocketAddr) -> Result<(SocketAddr, u32, String), String> {
    let binary = bench.tools.envoy.as_ref().ok_or(HOW_TO_GET)?;
    let [listen] = free_addresses()?;
    let (words, pid) = binary.start(Protocol::Http, listen, service, stage)?;
    Ok((listen, pid, words))
}

/// Bytes that the sidecar's CPU copies of a large payload, by bytes that pass: every call's payload goes there and back.
fn copies(bench: &Bench<'_>, report: &mut Report, scene: &Scene<'_>) -> Result<(), String> {
    let load = Load { payload: LARGE, connections: 1, inflight: 1, ..bench.options.load() };
    for (way, what) in [
        (Way::ShmToTcp, "sidecar, shm → TCP, 1 MB: bytes copied / bytes passed"),
        (Way::ShmToShm, "sidecar, shm → shm, 1 MB: bytes copied / bytes passed"),
    ] {
        let Some(before) = scene.counter(COPIED_BYTES)? else {
            report.missing(NAME, what, Goal::Stated, format!("the sidecar has no counter {COPIED_BYTES}"));
            continue;
        };
        let measured = scene.call(way, &load)?;
        let copied = scene.counter(COPIED_BYTES)?.unwrap_or(before) - before;
        // From one app's memory to another's nothing passes without a copy.
        if copied == 0.0 && way == Way::ShmToShm {
            report.missing(NAME, what, Goal::Stated, format!("{COPIED_BYTES} does not count these calls"));
            continue;
        }
        let passed = 2.0 * LARGE as f64 * measured.answered;
        report.found(NAME, what, Goal::Stated, vec![copied / passed]);
    }
    Ok(())
}
