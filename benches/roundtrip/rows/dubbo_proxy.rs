//! Dubbo from TCP to TCP: shmesh and Envoy's dubbo_proxy, each with one worker, between the same client and the same service, and beside
//! them a forwarder that parses nothing, as the limit.

use super::Bench;
use crate::envoy::HOW_TO_GET;
use crate::goal::{Goal, Report};
use crate::path::{self, Protocol};
use crate::peer;
use crate::processes::{Stage, free_addresses};
use crate::series::{Series, Turn, p50, rps, take_turns};
use crate::shmesh::{Load, Measured};

pub const NAME: &str = "dubbo-proxy";

/// Connections of the busy client.
const CONNECTIONS: usize = 64;

const TARGET: &str = "com.demo.EchoTcp";
const P50: Goal = Goal::AtMost(0.4);
const RPS: Goal = Goal::AtLeast(5.0);

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let stage = Stage::set_up()?;
    let [service, listener, admin, beside] = free_addresses()?;
    let file = &bench.tools.shmesh.file;
    let echo = ["echo", "--protocol", "dubbo", "--listen", &format!("tcp:{service}")];
    stage.start("the service", file, &echo, path::ECHO_UP)?;
    let config = format!(
        "admin: {{ address: \"{admin}\" }}\n\
         listeners: [ {{ name: tcp, tcp: \"{listener}\", protocol: dubbo }} ]\n\
         routes: [ {{ match: {{ service: {TARGET} }}, cluster: tcp }} ]\n\
         clusters: [ {{ name: tcp, endpoints: [ \"tcp:{service}\" ] }} ]\n"
    );
    let config = stage.write("shmesh.yaml", &config)?;
    let args = ["run", "--config", &config, "--workers", "1", "--driver", &bench.tools.driver];
    let sidecar = stage.start("the sidecar", file, &args, path::SIDECAR_UP)?;
    let driver = path::driver_of(&sidecar.line);
    let (forwarder, _) = peer::start_forwarder(&stage, driver, service)?;
    let mut ways = vec![
        ("direct".to_owned(), service),
        (format!("shmesh, driver {driver}"), listener),
        (format!("forwarder, driver {driver}"), forwarder),
    ];
    match &bench.tools.envoy {
        Some(envoy) => ways.push((envoy.start(Protocol::Dubbo, beside, service, &stage)?.0, beside)),
        None => report.missing(NAME, "requests/s, 64 connections / Envoy's dubbo_proxy", RPS, HOW_TO_GET),
    }
    let measure = |connections: usize| {
        let load = Load { connections, ..bench.options.load() };
        let turns = ways.iter().map(|(name, address)| {
            let via = format!("tcp:{address}");
            Turn::new(&**name, move || bench.tools.shmesh.bench(Protocol::Dubbo, &via, TARGET, &load))
        });
        take_turns(bench.options.rounds, turns.collect())
    };
    let one = measure(1)?;
    report.measured(NAME, "one connection, client → proxy → service", &one);
    let many = measure(CONNECTIONS)?;
    report.measured(NAME, &format!("{CONNECTIONS} connections, client → proxy → service"), &many);
    let mut compare = |own: usize, other: usize, goals: [Goal; 2]| {
        let ratio = |series: &[Series], value: fn(&Measured) -> f64| series[own].against(&series[other], value);
        let (name, beside) = (&one[own].name, &one[other].name);
        report.found(NAME, format!("{name}: p50, 1 connection / {beside}"), goals[0], ratio(&one, p50));
        report.found(NAME, format!("{name}: requests/s, 64 connections / {beside}"), goals[1], ratio(&many, rps));
    };
    compare(1, 2, [Goal::Stated; 2]);
    if ways.len() > 3 {
        compare(1, 3, [P50, RPS]);
        compare(2, 3, [Goal::Stated; 2]);
    }
    Ok(())
}
