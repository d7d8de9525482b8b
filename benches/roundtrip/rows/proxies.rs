//! HTTP from TCP to TCP: shmesh, HAProxy, Envoy, and a forwarder that parses nothing, each with one worker, between the same wrk
//! and the same nginx. The forwarder is the limit: no proxy on the same driver can do with less.

use super::Bench;
use crate::beside::haproxy::HaProxy;
use crate::beside::nginx::Nginx;
use crate::beside::wrk;
use crate::envoy::HOW_TO_GET;
use crate::goal::{Goal, Report};
use crate::machine::process;
use crate::path::{self, Protocol};
use crate::peer;
use crate::processes::{Stage, free_addresses};
use crate::series::{Series, Turn, p50, p99, rps, take_turns};
use crate::shmesh::Measured;

pub const NAME: &str = "proxies";

/// Connections of the busy client.
const CONNECTIONS: usize = 64;

/// A proxy before the nginx.
struct Proxy {
    name: String,
    address: std::net::SocketAddr,
    pid: u32,
    /// CPU microseconds a request with many connections, one entry a round.
    cpu: Vec<f64>,
}

/// By how much we are to be better than another: p50 of one connection, requests/s of many, CPU time a request.
struct Goals {
    p50: Goal,
    rps: Goal,
    cpu: Goal,
}

const HAPROXY: Goals = Goals { p50: Goal::AtMost(0.9), rps: Goal::AtLeast(1.15), cpu: Goal::AtMost(0.7) };
const ENVOY: Goals = Goals { p50: Goal::Stated, rps: Goal::AtLeast(3.3), cpu: Goal::Stated };
const LIMIT: Goals = Goals { p50: Goal::Stated, rps: Goal::Stated, cpu: Goal::Stated };

pub fn run(bench: &Bench<'_>, report: &mut Report) -> Result<(), String> {
    let stage = Stage::set_up()?;
    let nginx = match Nginx::start(&stage) {
        Ok(nginx) => nginx,
        Err(reason) => {
            report.missing(NAME, "TCP → TCP, requests/s / HAProxy's", HAPROXY.rps, reason);
            return Ok(());
        }
    };
    let (own, driver) = start_shmesh(bench, &stage, &nginx)?;
    let mut others = vec![(start_forwarder(&driver, &stage, &nginx)?, LIMIT)];
    match HaProxy::start(&stage, nginx.address) {
        Ok(HaProxy { address, pid, version }) => {
            others.push((Proxy { name: format!("HAProxy {version}"), address, pid, cpu: Vec::new() }, HAPROXY));
        }
        Err(reason) => report.missing(NAME, "TCP → TCP, requests/s / HAProxy's", HAPROXY.rps, reason),
    }
    match &bench.tools.envoy {
        Some(envoy) => {
            let [address] = free_addresses()?;
            let (name, pid) = envoy.start(Protocol::Http, address, nginx.address, &stage)?;
            others.push((Proxy { name, address, pid, cpu: Vec::new() }, ENVOY));
        }
        None => report.missing(NAME, "TCP → TCP, requests/s / Envoy's", ENVOY.rps, HOW_TO_GET),
    }
    let (mut others, goals): (Vec<Proxy>, Vec<Goals>) = others.into_iter().unzip();
    others.insert(0, own);
    let duration = bench.options.load().duration;
    let one = take_turns(
        bench.options.rounds,
        std::iter::once(Turn::new(format!("wrk → {}", nginx.version), || wrk::call(nginx.address, 1, duration)))
            .chain(others.iter().map(|proxy| Turn::new(&*proxy.name, || wrk::call(proxy.address, 1, duration))))
            .collect(),
    )?;
    report.measured(NAME, &format!("one connection, wrk → proxy → {}", nginx.version), &one);
    let direct = Turn::new(format!("wrk → {}", nginx.version), || wrk::call(nginx.address, CONNECTIONS, duration));
    let through = others.iter_mut().map(|proxy| {
        let Proxy { name, address, pid, cpu } = proxy;
        Turn::new(&**name, move || {
            let before = process::cpu_ns(*pid)?;
            let measured: Measured = wrk::call(*address, CONNECTIONS, duration)?;
            cpu.push((process::cpu_ns(*pid)? - before) / 1e3 / measured.answered);
            Ok(measured)
        })
    });
    let many = take_turns(bench.options.rounds, std::iter::once(direct).chain(through).collect())?;
    report.measured(NAME, &format!("{CONNECTIONS} connections, wrk → proxy → {}", nginx.version), &many);
    report.found(NAME, "shmesh: CPU µs a request, 64 connections", Goal::Stated, others[0].cpu.clone());
    for (index, goals) in goals.iter().enumerate() {
        // In front: the direct way, and shmesh.
        compare(report, goals, (&one[1], &one[index + 2]), (&many[1], &many[index + 2]));
        let ratios = others[0].cpu.iter().zip(&others[index + 1].cpu).map(|(own, other)| own / other).collect();
        let name = &others[index + 1].name;
        report.found(NAME, format!("CPU a request, 64 connections / {name}"), goals.cpu, ratios);
    }
    Ok(())
}

fn compare(report: &mut Report, goals: &Goals, one: (&Series, &Series), many: (&Series, &Series)) {
    let name = &one.1.name;
    report.found(NAME, format!("p50, 1 connection / {name}"), goals.p50, one.0.against(one.1, p50));
    report.found(NAME, format!("p99, 1 connection / {name}"), Goal::Stated, one.0.against(one.1, p99));
    report.found(NAME, format!("requests/s, 64 connections / {name}"), goals.rps, many.0.against(many.1, rps));
}

fn start_forwarder(driver: &str, stage: &Stage, nginx: &Nginx) -> Result<Proxy, String> {
    let (address, pid) = peer::start_forwarder(stage, driver, nginx.address)?;
    Ok(Proxy { name: format!("forwarder, driver {driver}"), address, pid, cpu: Vec::new() })
}

/// The sidecar, and its driver.
fn start_shmesh(bench: &Bench<'_>, stage: &Stage, nginx: &Nginx) -> Result<(Proxy, String), String> {
    let [address, admin] = free_addresses()?;
    let config = format!(
        "admin: {{ address: \"{admin}\" }}\n\
         listeners: [ {{ name: web, tcp: \"{address}\", protocol: http }} ]\n\
         routes: [ {{ match: {{ path_prefix: / }}, cluster: nginx }} ]\n\
         clusters: [ {{ name: nginx, endpoints: [ \"tcp:{}\" ] }} ]\n",
        nginx.address
    );
    let config = stage.write("shmesh.yaml", &config)?;
    let args = ["run", "--config", &config, "--workers", "1", "--driver", &bench.tools.driver];
    let started = stage.start("the sidecar", &bench.tools.shmesh.file, &args, path::SIDECAR_UP)?;
    let driver = path::driver_of(&started.line).to_owned();
    Ok((Proxy { name: format!("shmesh, driver {driver}"), address, pid: started.pid, cpu: Vec::new() }, driver))
}
