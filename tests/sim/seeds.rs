//! Runs the seeds: in as many processes as there are cores, each with a part of them.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::time::Instant;

use crate::journal;
use crate::neighbour;
use crate::scenario::{self, Outcome};

/// Seeds that are run unless told otherwise.
const SEEDS: u64 = 10_000;

/// Seeds with which the neighbour's world is run.
const NEIGHBOUR_SEEDS: u64 = 4;

/// Each of so many seeds is run twice, to see that nothing but the seed decides.
const TWICE_EVERY: u64 = 100;

/// How a process is told its part.
const PART: &str = "SIM_PART";

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What the last panic said.
pub fn last_panic() -> String {
    PANIC.with_borrow(Clone::clone)
}

/// `SIM_SEED=n` (or the first argument): that seed, with all that happens. `SIM_SEEDS=n` or `a..b`: those.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| PANIC.set(panic.to_string().replace('\n', ": "))));
    if let Some(part) = var(PART).and_then(|text| range(&text)) {
        return run_part(part);
    }
    let argument = std::env::args().nth(1).filter(|text| text.parse::<u64>().is_ok());
    if let Some(seed) = argument.or_else(|| var("SIM_SEED")).and_then(|text| text.parse().ok()) {
        return run_aloud(seed);
    }
    match beside_a_neighbour() {
        Ok(found) => println!("{found}"),
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    }
    let seeds = var("SIM_SEEDS").and_then(|text| range(&text)).unwrap_or(0..SEEDS);
    match run_all(seeds) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `a..b`, or a number for the first so many.
fn range(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => Some(0..text.parse().ok()?),
    }
}

/// How long records wait beside a saturating neighbour.
fn beside_a_neighbour() -> Result<String, String> {
    let folder = Folder::new().map_err(|error| error.to_string())?;
    let waits = (0..NEIGHBOUR_SEEDS).map(|seed| neighbour::longest_wait(seed, &folder.0));
    let waits = waits.collect::<Result<Vec<f64>, String>>()?;
    neighbour::verdict(waits.into_iter().fold(0.0, f64::max))
}

fn run_all(seeds: Range<u64>) -> io::Result<ExitCode> {
    let began = Instant::now();
    let parts = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let each = (seeds.end - seeds.start).div_ceil(parts).max(1);
    let part = |index: u64| -> io::Result<Child> {
        let from = (seeds.start + index * each).min(seeds.end);
        let to = (from + each).min(seeds.end);
        Command::new(std::env::current_exe()?).env(PART, format!("{from}..{to}")).spawn()
    };
    let children = (0..parts).map(part).collect::<io::Result<Vec<_>>>()?;
    let mut good = true;
    for mut child in children {
        good &= child.wait()?.success();
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("seeds {seeds:?} in {seconds:.1} s: {}", if good { "all hold" } else { "NOT all hold" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_part(seeds: Range<u64>) -> ExitCode {
    let Ok(folder) = Folder::new() else { return ExitCode::FAILURE };
    let (mut calls, mut answered, mut turns) = (0, 0, 0);
    let count = seeds.end - seeds.start;
    // To see how many fail, and how.
    let go_on = var("SIM_GO_ON").is_some();
    let mut code = ExitCode::SUCCESS;
    for seed in seeds {
        let outcome = scenario::run(seed, &folder.0);
        if let Some(failure) = &outcome.failure {
            if go_on {
                println!("seed {seed}: {failure}");
                code = ExitCode::FAILURE;
                continue;
            }
            report(seed, failure, &folder);
            return ExitCode::FAILURE;
        }
        if seed.is_multiple_of(TWICE_EVERY) {
            let again = scenario::run(seed, &folder.0);
            if again.fingerprint != outcome.fingerprint {
                eprintln!("seed {seed} is not the same when it is run again");
                return ExitCode::FAILURE;
            }
        }
        calls += outcome.calls;
        answered += outcome.answered;
        turns += outcome.turns;
    }
    println!("{count} seeds: {calls} calls, {answered} answered, {turns} turns");
    code
}

/// Runs it once more, to tell what happened.
fn report(seed: u64, failure: &str, folder: &Folder) {
    journal::record(false);
    let listener = tracing::subscriber::set_default(journal::Listener);
    let again = scenario::run(seed, &folder.0);
    drop(listener);
    let lines = journal::lines().join("\n");
    eprintln!("{lines}\n\nseed {seed}: {failure}\nagain: just sim {seed}");
    if again.failure.as_deref() != Some(failure) {
        eprintln!("(the second run said: {:?})", again.failure);
    }
}

fn run_aloud(seed: u64) -> ExitCode {
    let Ok(folder) = Folder::new() else { return ExitCode::FAILURE };
    // The first run sets up what a process keeps; the second one is compared with it.
    journal::record(true);
    let _listener = tracing::subscriber::set_default(journal::Listener);
    let Outcome { failure, calls, answered, turns, .. } = scenario::run(seed, &folder.0);
    println!("seed {seed}: {calls} calls, {answered} answered, {turns} turns");
    match failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("seed {seed}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A folder for sockets that goes with its process.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("shmesh-sim-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
