//! What happens to sidecars, round by round.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::sys::signal::Signal;
use shmesh_client::Client;

use crate::app::{self, Callers};
use crate::arenas::Touched;
use crate::random::Random;
use crate::service::{self, Record};
use crate::sidecar::{Setup, Sidecar};
use crate::verdict::Verdict;
use crate::{Driver, Options};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trouble {
    /// SIGKILL, and another one is started.
    Kill,
    /// SIGSTOP, and SIGCONT after a while: shorter or longer than apps wait for a sign of life.
    Stop,
}

/// A caller goes on calling for so long after trouble came.
const AFTERMATH: Duration = Duration::from_millis(30);

/// Descriptors that come and go.
const DESCRIPTORS_SLACK: i64 = 8;

/// Threads that serve connections end a little after these.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// How long a sidecar is stopped.
const STOPPED_MS: [u64; 4] = [20, 150, 400, 900];

/// Rounds of trouble, on fresh apps each.
pub fn run(options: &Options, driver: Driver, trouble: Trouble) -> Verdict {
    let folder = tempfile::tempdir().expect("a folder");
    let record = service::start(&folder.path().join("service")).expect("a socket");
    let setup = Setup::new(&options.shmesh, driver, folder.path());
    let mut random = Random::new(options.seed);
    let bounded = trouble == Trouble::Kill && !options.unbounded_times;
    let bounds = bounded.then_some((Duration::from_millis(1), Duration::from_millis(5)));
    let mut verdict = Verdict::new(bounds);
    let before = Traces::of();
    let mut sidecar = setup.start();
    let mut files = None;
    for _ in 0..options.rounds {
        sidecar = round(options, &setup, sidecar, trouble, &record, &mut random, &mut verdict);
        // What the first round leaves is what is kept for the next ones.
        files.get_or_insert_with(|| entries(folder.path()));
    }
    let more_files = files.map_or(0, |files| entries(folder.path()) - files);
    verdict.left_behind("files beside the session socket", more_files, 0);
    // With the connections that it kept to the service, which is in this process.
    drop(sidecar);
    let after = Traces::settled(&before);
    verdict.left_behind("descriptors of the apps' process", after.descriptors - before.descriptors, DESCRIPTORS_SLACK);
    verdict.left_behind("segments mapped by the apps' process", after.segments - before.segments, 0);
    verdict
}

fn round(
    options: &Options,
    setup: &Setup,
    mut sidecar: Sidecar,
    trouble: Trouble,
    record: &Record,
    random: &mut Random,
    verdict: &mut Verdict,
) -> Sidecar {
    let client = Client::connect(setup.socket()).expect("a session");
    let touched = Client::builder().socket(setup.socket()).lanes(Touched::lanes(options.arenas)).connect();
    let touched = Touched::new(&touched.expect("a session"), options.arenas);
    warm_up(&client, record);
    let callers = Callers::start(&client);
    thread::sleep(Duration::from_millis(10 + random.below(20)));
    let at = Instant::now();
    match trouble {
        Trouble::Kill => {
            sidecar.signal(Signal::SIGKILL);
            thread::sleep(AFTERMATH);
        }
        Trouble::Stop => {
            sidecar.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(STOPPED_MS[random.below(STOPPED_MS.len() as u64) as usize]));
            sidecar.signal(Signal::SIGCONT);
            thread::sleep(10 * AFTERMATH);
        }
    }
    let calls = callers.finish();
    if trouble == Trouble::Kill {
        sidecar.wait();
        sidecar = setup.start();
    }
    drop(touched);
    for caller in &calls {
        verdict.judge(caller, record, at);
    }
    sidecar
}

/// Calls until the shim knows the way round the sidecar.
fn warm_up(client: &Client, record: &Record) {
    for _ in 0..12 {
        let called = app::call(client);
        called.outcome.unwrap_or_else(|error| panic!("a call through a healthy sidecar: {error}"));
        assert_eq!(record.runs(called.call).through_sidecar, 1, "it went round a healthy sidecar");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What troubles could leave behind in the process of the apps.
struct Traces {
    descriptors: i64,
    /// Shared memory that is still mapped.
    segments: i64,
}

impl Traces {
    fn of() -> Traces {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Traces {
            descriptors: entries(Path::new("/proc/self/fd")),
            segments: maps.lines().filter(|line| line.contains("memfd:shmesh")).count() as i64,
        }
    }

    /// Once what ends by itself has ended.
    fn settled(before: &Traces) -> Traces {
        let late = Instant::now() + SETTLES_WITHIN;
        loop {
            let traces = Traces::of();
            let more = (traces.descriptors - before.descriptors, traces.segments - before.segments);
            if more.0 <= DESCRIPTORS_SLACK && more.1 <= 0 || Instant::now() > late {
                return traces;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn entries(folder: &Path) -> i64 {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count() as i64)
}
