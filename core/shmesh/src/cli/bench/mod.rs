//! `shmesh bench`: calls to an echo, every payload different, every answer compared.
//!
//! A closed loop keeps `--inflight` calls outstanding on each connection; an open loop (`--rate`)
//! starts calls on a schedule and counts latency from the intended start, so that a stall is seen
//! by every call that it delays.

mod connection;
mod dubbo;
mod http;
mod outstanding;
mod pace;
pub mod payload;
mod plan;
mod raw;
mod report;
mod shm;
mod sockets;
mod stages;
mod wire;

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::ExitCode;

use connection::Connection;
use dubbo::{DubboWire, Target};
use http::HttpWire;
use pace::Pace;
use payload::Payload;
use plan::Plan;
use raw::RawWire;
pub use report::time;
use report::{Report, Tally};
use shm::{Callee, Caller};
use stages::{Reading, Spent};
use wire::Wire;

use crate::address::Address;
use crate::cli::{BenchArgs, Protocol, Rate, fail};

/// The largest payload, in bytes: what a Dubbo frame or a test service can be expected to take.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Host that is asked for when no target is given.
const DEFAULT_HOST: &str = "localhost";
/// Interface that is called when no target is given.
const DEFAULT_INTERFACE: &str = "com.demo.GreetService";
const DEFAULT_DUBBO_METHOD: &str = "sayHello";
const DEFAULT_HTTP_METHOD: &str = "PUT";

/// Said of calls that were outstanding when the run gave up.
const NO_ANSWER: &str = "no answer came";
/// Said of calls that `--rate` asked for and `--inflight` held back to the end.
const UNSENT: &str = "a call was due and never sent, as earlier ones had no answer";

/// Runs what the arguments say and prints the result. Fails if no call had the right answer.
pub fn bench(args: &BenchArgs) -> ExitCode {
    let ((tally, report), spent) = match measured(args) {
        Ok(result) => result,
        Err(sentence) => return fail(&sentence),
    };
    match args.json {
        true => println!("{}", report.json(spent.as_ref())),
        false => print!("{}\n{}", headline(args), report.table()),
    }
    if let Some(spent) = spent.filter(|_| !args.json) {
        print!("{}", spent.table());
    }
    for complaint in tally.complaints() {
        eprintln!("shmesh: {complaint}");
    }
    match report.ok {
        0 => fail("no call had the right answer"),
        _ => ExitCode::SUCCESS,
    }
}

/// Runs, and reads the stages before and after if they are wanted.
fn measured(args: &BenchArgs) -> Result<((Tally, Report), Option<Spent>), String> {
    let Some(admin) = args.stages else { return Ok((run(args)?, None)) };
    let earlier = Reading::take(admin)?;
    let result = run(args)?;
    Ok((result, Some(Spent::between(&earlier, &Reading::take(admin)?)?)))
}

fn run(args: &BenchArgs) -> Result<(Tally, Report), String> {
    check(args)?;
    let salt = RandomState::new().hash_one(0u8);
    let payload = |i: usize| {
        let text = args.protocol == Protocol::Dubbo;
        Payload::new(salt.wrapping_add(i as u64), args.payload, text)
    };
    if let Address::Shm(socket) = &args.via {
        return over_shm(args, socket, payload);
    }
    match args.protocol {
        Protocol::Http => {
            let host = args.target.as_deref().unwrap_or(DEFAULT_HOST);
            let method = args.method.as_deref().unwrap_or(DEFAULT_HTTP_METHOD);
            over_sockets(args, |i| HttpWire::new(method, host, payload(i)))
        }
        Protocol::Dubbo => {
            let target = dubbo_target(args);
            over_sockets(args, |i| DubboWire::new(target.clone(), payload(i)))
        }
        Protocol::Raw => over_sockets(args, |i| RawWire::new(payload(i))),
    }
}

fn check(args: &BenchArgs) -> Result<(), String> {
    if args.payload > PAYLOAD_BYTES_MAX {
        return Err(format!("--payload is at most {PAYLOAD_BYTES_MAX} bytes"));
    }
    let over_shm = matches!(args.via, Address::Shm(_));
    match args.protocol {
        Protocol::Raw if args.payload == 0 && !over_shm => {
            Err("raw answers without a byte cannot be told apart: --payload is at least 1".into())
        }
        Protocol::Raw if args.target.is_none() && over_shm => {
            Err("raw calls over shared memory go to a cluster: name it with --target".into())
        }
        Protocol::Raw if args.method.is_some() => Err("raw calls have no --method".into()),
        Protocol::Http | Protocol::Raw if args.group.is_some() || args.version.is_some() => {
            Err("--group and --version are for --protocol dubbo".into())
        }
        _ => Ok(()),
    }
}

fn dubbo_target(args: &BenchArgs) -> Target {
    let given_or = |given: &Option<String>, default: &str| match given {
        Some(text) => text.clone(),
        None => default.to_owned(),
    };
    Target {
        interface: given_or(&args.target, DEFAULT_INTERFACE),
        method: given_or(&args.method, DEFAULT_DUBBO_METHOD),
        group: args.group.clone(),
        version: args.version.clone(),
    }
}

/// Connects everything first, so that connecting is not measured, then runs.
fn over_sockets<W: Wire + 'static>(args: &BenchArgs, wire: impl Fn(usize) -> W) -> Result<(Tally, Report), String> {
    let mut connections = Vec::new();
    for i in 0..args.connections {
        let connection =
            Connection::open(&args.via, wire(i)).map_err(|error| format!("cannot connect to {}: {error}", args.via))?;
        connections.push(connection);
    }
    let plan = Plan::from_now(args.duration, args.inflight);
    if let Rate::PerSecond(rate) = args.rate {
        for (i, connection) in connections.iter_mut().enumerate() {
            connection.set_pace(Pace::new(plan.starts, rate, i, args.connections));
        }
    }
    let tally = sockets::run(connections, plan);
    let report = tally.report(plan.begins, args.duration, args.payload);
    Ok((tally, report))
}

/// As [`over_sockets`], with a lane for each connection.
fn over_shm(args: &BenchArgs, socket: &Path, payload: impl Fn(usize) -> Payload) -> Result<(Tally, Report), String> {
    let wrong = |error| format!("cannot attach to {}: {error}", args.via);
    let callee = match args.protocol {
        Protocol::Http => Callee::Http {
            method: args.method.clone().unwrap_or(DEFAULT_HTTP_METHOD.into()),
            host: args.target.clone().unwrap_or(DEFAULT_HOST.into()),
        },
        Protocol::Dubbo => Callee::Dubbo(dubbo_target(args)),
        Protocol::Raw => Callee::Raw { cluster: args.target.clone().unwrap_or_default() },
    };
    let client = shm::attach(socket, args.connections).map_err(wrong)?;
    let mut callers = Vec::new();
    for i in 0..args.connections {
        let caller = Caller::new(&client, callee.clone(), payload(i)).map_err(wrong)?;
        callers.push(caller);
    }
    let plan = Plan::from_now(args.duration, args.inflight);
    if let Rate::PerSecond(rate) = args.rate {
        for (i, caller) in callers.iter_mut().enumerate() {
            caller.set_pace(Pace::new(plan.starts, rate, i, args.connections));
        }
    }
    let tally = shm::run(callers, plan);
    let report = tally.report(plan.begins, args.duration, args.payload);
    Ok((tally, report))
}

fn headline(args: &BenchArgs) -> String {
    let protocol = match args.protocol {
        Protocol::Http => "http",
        Protocol::Dubbo => "dubbo",
        Protocol::Raw => "raw",
    };
    let loop_kind = match args.rate {
        Rate::Max => "as fast as answers come".to_owned(),
        Rate::PerSecond(rate) => format!("{rate} calls/s whatever the answers do"),
    };
    format!(
        "{protocol} via {}: {} bytes, {} connections with {} in flight each, {loop_kind}, for {:?}",
        args.via, args.payload, args.connections, args.inflight, args.duration
    )
}
