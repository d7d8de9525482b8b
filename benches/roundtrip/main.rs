//! Benchmark `roundtrip`: what a call through shmesh costs beside a direct one, side by side in one run.
//!
//! Workload: `shmesh bench` sends calls with 64 bytes of payload (HTTP: PUT; Dubbo: hessian2, one string) to `shmesh echo`,
//! every payload different, every answer compared, one call at a time unless told otherwise. Client, service, sidecar
//! and Envoy are processes of their own; sidecar and Envoy have one worker.
//! Peers: direct TCP, direct UDS, Envoy 1.40 (`http_connection_manager`, `dubbo_proxy`) if `benches/fetch-envoy.sh` has
//! brought it. Machine: whatever it runs on. All paths take turns (A B C A B C …), and a ratio is the median of the
//! ratios to direct TCP of the same round, so only ratios mean anything; absolute numbers are medians over the rounds.
//!
//!     cargo bench -p shmesh-benches --bench roundtrip -- --help
#![forbid(unsafe_code)]

mod envoy;
mod options;
mod path;
mod processes;
mod shmesh;
mod table;

use std::process::ExitCode;

use envoy::Envoy;
use options::{Options, Wanted};
use path::{Path, Protocol, Set, Tools};
use processes::Stage;
use shmesh::Shmesh;
use table::Row;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Wanted::Run(options)) => options,
        Ok(Wanted::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::List) => {
            path::ALL.iter().for_each(|path| println!("{}: benchmark", path.id()));
            return ExitCode::SUCCESS;
        }
        Err(sentence) => return fail(&sentence),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(&sentence),
    }
}

fn fail(sentence: &str) -> ExitCode {
    eprintln!("roundtrip: {sentence}");
    ExitCode::FAILURE
}

/// Starts everything, measures in rounds, prints the tables. Fails if a path failed, after all have been tried.
fn run(options: &Options) -> Result<(), String> {
    let paths = options.paths();
    if paths.is_empty() {
        println!("roundtrip: no path has {} in its name", options.filters_shown());
        return Ok(());
    }
    let tools = Tools { shmesh: Shmesh::find()?, envoy: Envoy::find(), driver: options.driver.clone() };
    let stage = Stage::set_up()?;
    println!("{}", options.headline(&tools.shmesh));
    let mut failures = Vec::new();
    for protocol in [Protocol::Http, Protocol::Dubbo] {
        let of_protocol: Vec<Path> = paths.iter().copied().filter(|path| path.protocol == protocol).collect();
        if of_protocol.is_empty() {
            continue;
        }
        let set = Set::start(protocol, &of_protocol, &stage, &tools)?;
        let mut rows: Vec<Row> = of_protocol.into_iter().map(Row::new).collect();
        for _ in 0..options.rounds {
            for row in rows.iter_mut().filter(|row| row.is_open()) {
                row.add(set.measure(row.path, &tools.shmesh, options));
            }
        }
        println!("{}  {}\n", table::table(protocol, &rows), set.legend());
        failures.extend(rows.iter().filter_map(Row::failure));
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("{} of {} paths failed:\n  {}", failures.len(), paths.len(), failures.join("\n  "))),
    }
}
