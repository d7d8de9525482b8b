//! Benchmark `roundtrip`: what a call through shmesh costs beside what else there is, side by side in one run.
//!
//! Two parts. The **paths**: 64-byte echoes of HTTP and Dubbo over direct TCP, direct UDS, shmesh and Envoy. The **rows**: the table
//! of goals in docs/BENCHMARKS.md, each row with what it is held against.
//!
//! Workload: `shmesh bench` sends calls (HTTP: PUT; Dubbo: hessian2, one string) to `shmesh echo`,
//! every payload different, every answer compared, one call at a time unless told otherwise. Client, service, sidecar
//! and everything beside them are processes of their own; sidecar, Envoy and nginx have one worker.
//! Peers: direct TCP and UDS, the same in C, Envoy 1.40 (`http_connection_manager`, `dubbo_proxy`) if `benches/fetch-envoy.sh` has
//! brought it, wrk and nginx if they are installed, the crate shmipc 0.2.1. Machine: whatever it runs on. All that are compared take
//! turns (A B C A B C …), and a ratio is the median of the ratios within the same round, so only ratios mean anything; absolute
//! numbers are medians over the rounds.
//!
//!     cargo bench -p shmesh-benches --bench roundtrip -- --help
#![forbid(unsafe_code)]

mod beside;
mod envoy;
mod goal;
mod machine;
mod options;
mod path;
mod peer;
mod processes;
mod rows;
mod scene;
mod series;
mod shmesh;
mod table;

use std::process::ExitCode;

use envoy::Envoy;
use goal::Report;
use options::{Options, Wanted};
use path::{Path, Protocol, Set, Tools};
use processes::Stage;
use rows::Bench;
use serde_json::json;
use series::Series;
use shmesh::Shmesh;
use table::Row;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(ended) = peer::main(&args) {
        return ended;
    }
    let options = match Options::parse(args.into_iter()) {
        Ok(Wanted::Run(options)) => options,
        Ok(Wanted::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::List) => {
            path::ALL.iter().for_each(|path| println!("{}: benchmark", path.id()));
            rows::ALL.iter().for_each(|row| println!("{}: benchmark", row.name));
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

/// Measures everything that is asked for, prints the tables. Fails if something failed, after all has been tried.
fn run(options: &Options) -> Result<(), String> {
    let (paths, rows) = (options.paths(), options.rows());
    if paths.is_empty() && rows.is_empty() {
        println!("roundtrip: no path or row has {} in its name", options.filters_shown());
        return Ok(());
    }
    let tools = Tools { shmesh: Shmesh::find()?, envoy: Envoy::find(), driver: options.driver.clone() };
    let headline = options.headline(&tools.shmesh);
    println!("{headline}");
    let mut report = Report::default();
    let mut failures = measure_paths(&paths, options, &tools, &mut report)?;
    let bench = Bench { options, tools: &tools };
    for row in rows {
        println!("== {}: {}\n", row.name, row.about);
        if let Err(sentence) = (row.run)(&bench, &mut report) {
            println!("  FAILED: {sentence}\n");
            failures.push(format!("{}: {sentence}", row.name));
        }
    }
    if !report.is_empty() {
        println!("{}", report.table());
    }
    if let Some(file) = &options.json {
        report.write(file, json!({ "run": headline.trim(), "driver": options.driver }))?;
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("{} of them failed:\n  {}", failures.len(), failures.join("\n  "))),
    }
}

/// The paths, protocol by protocol; returns which failed and why.
fn measure_paths(paths: &[Path], options: &Options, tools: &Tools, report: &mut Report) -> Result<Vec<String>, String> {
    let stage = Stage::set_up()?;
    let mut failures = Vec::new();
    for protocol in [Protocol::Http, Protocol::Dubbo] {
        let of_protocol: Vec<Path> = paths.iter().copied().filter(|path| path.protocol == protocol).collect();
        if of_protocol.is_empty() {
            continue;
        }
        let set = Set::start(protocol, &of_protocol, &stage, tools)?;
        let mut rows: Vec<Row> = of_protocol.into_iter().map(Row::new).collect();
        for _ in 0..options.rounds {
            for row in rows.iter_mut().filter(|row| row.is_open()) {
                row.add(set.measure(row.path, &tools.shmesh, options));
            }
        }
        println!("{}  {}\n", table::table(protocol, &rows), set.legend());
        report.keep("paths", &rows.iter().map(Row::series).collect::<Vec<Series>>());
        failures.extend(rows.iter().filter_map(Row::failure));
    }
    Ok(failures)
}
