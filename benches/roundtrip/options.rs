//! What the command line asks for: options of our own, and those that `cargo bench` users pass to criterion or libtest.

use std::str::FromStr;
use std::time::Duration;
use std::{env, fs, thread};

use crate::path::{self, Path};
use crate::rows::{self, Row};
use crate::shmesh::{Load, Shmesh};

pub const HELP: &str = "\
Usage: cargo bench -p shmesh-benches --bench roundtrip -- [OPTIONS] [PART-OF-A-NAME]...

Without a name everything is measured: all paths, and all rows of the table of goals. `--list` prints the names.

      --rounds N         rounds in which all that are compared take turns [5]
      --duration TIME    of one path in one round, such as 2s or 500ms [2s]
      --payload BYTES    of each call [64]
      --connections N    of the paths: connections, or lanes [1]
      --inflight N       of the paths: calls outstanding on each connection [1]
      --driver NAME      of the sidecar: auto, uring or epoll [auto]
      --test             one very short round, to see that everything works
      --quick            2 rounds of 500ms
      --json FILE        write everything that was measured there, too
      --list             print the names of paths and rows

Environment: SHMESH=FILE takes that binary (else `cargo build --release -p shmesh` makes one), ENVOY=FILE that Envoy
(else benches/.cache/envoy, see benches/fetch-envoy.sh). Other options of criterion and libtest are accepted and have no
effect.
";

/// Options of criterion and libtest that take a value, which is skipped with them.
const IGNORED_WITH_VALUE: [&str; 22] = [
    "-c",
    "--color",
    "--colour",
    "--format",
    "--output-format",
    "--sample-size",
    "--warm-up-time",
    "--measurement-time",
    "--nresamples",
    "--noise-threshold",
    "--confidence-level",
    "--significance-level",
    "--profile-time",
    "-s",
    "--save-baseline",
    "-b",
    "--baseline",
    "--baseline-lenient",
    "--load-baseline",
    "--plotting-backend",
    "--test-threads",
    "--skip",
];

/// A load average above this is told of: others compute, too.
const LOAD_MAX: f64 = 1.0;

pub enum Wanted {
    Run(Options),
    List,
    Help,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub rounds: usize,
    /// Of one path in one round.
    pub duration: Duration,
    /// Bytes of each call's payload.
    pub payload: usize,
    pub connections: usize,
    pub inflight: usize,
    pub driver: String,
    /// The run is to be short: fixed waits are, too.
    pub quick: bool,
    /// Where to write everything that was measured.
    pub json: Option<String>,
    filters: Vec<String>,
    exact: bool,
}

impl Options {
    /// Reads the arguments behind the program's name. Without `--bench`, which `cargo bench` passes, this is a test run, as
    /// criterion has it: `cargo test --benches` is to be short.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Wanted, String> {
        let mut options = Options {
            rounds: 5,
            duration: Duration::from_secs(2),
            payload: 64,
            connections: 1,
            inflight: 1,
            driver: "auto".to_owned(),
            quick: false,
            json: None,
            filters: Vec::new(),
            exact: false,
        };
        let (mut bench, mut test, mut list) = (false, false, false);
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let (name, mut value) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (arg, None),
            };
            let mut value = || value.take().or_else(|| args.next()).ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "-h" | "--help" => return Ok(Wanted::Help),
                "--list" => list = true,
                "--bench" => bench = true,
                "--test" => test = true,
                "--exact" => options.exact = true,
                "--quick" => {
                    (options.rounds, options.duration, options.quick) = (2, Duration::from_millis(500), true);
                }
                "--json" => options.json = Some(value()?),
                "--rounds" => options.rounds = count(&name, &value()?)?,
                "--payload" => options.payload = number(&name, &value()?)?,
                "--connections" => options.connections = count(&name, &value()?)?,
                "--inflight" => options.inflight = count(&name, &value()?)?,
                "--duration" => options.duration = duration(&value()?)?,
                "--driver" => options.driver = driver(value()?)?,
                name if IGNORED_WITH_VALUE.contains(&name) => drop(value()?),
                name if name.starts_with('-') => eprintln!("roundtrip: {name} has no effect here"),
                _ => options.filters.push(name),
            }
        }
        if test || !bench {
            (options.rounds, options.duration, options.quick) = (1, Duration::from_millis(100), true);
        }
        Ok(if list { Wanted::List } else { Wanted::Run(options) })
    }

    /// The paths that are asked for.
    pub fn paths(&self) -> Vec<Path> {
        path::ALL.iter().filter(|path| self.asks_for(&path.id())).copied().collect()
    }

    /// The rows of the table of goals that are asked for.
    pub fn rows(&self) -> Vec<&'static Row> {
        rows::ALL.iter().filter(|row| self.asks_for(row.name)).collect()
    }

    fn asks_for(&self, name: &str) -> bool {
        let takes = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        self.filters.is_empty() || self.filters.iter().any(takes)
    }

    /// What a client does unless a row says otherwise.
    pub fn load(&self) -> Load {
        let &Options { payload, connections, inflight, duration, .. } = self;
        Load { payload, connections, inflight, rate: None, duration }
    }

    pub fn filters_shown(&self) -> String {
        self.filters.join(" or ")
    }

    /// What runs where, and what else the machine is doing: figures from a machine that does anything else mean little.
    pub fn headline(&self, shmesh: &Shmesh) -> String {
        let system = |file: &str| fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let loads = system("loadavg");
        let load = loads.split(' ').next().unwrap_or_default();
        let quiet = load.parse::<f64>().is_ok_and(|load| load < LOAD_MAX);
        format!(
            "{}, Linux {} on {}, {cores} core(s), load average {load}{}\n\
             {} bytes, {} connection(s) with {} in flight each, {} round(s) of {:?} each\n",
            shmesh.version,
            system("sys/kernel/osrelease").trim(),
            env::consts::ARCH,
            if quiet { "" } else { ": THIS MACHINE IS BUSY, ITS FIGURES MEAN LITTLE" },
            self.payload,
            self.connections,
            self.inflight,
            self.rounds,
            self.duration
        )
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name} {value}: write a whole number"))
}

fn count(name: &str, value: &str) -> Result<usize, String> {
    match number(name, value)? {
        0 => Err(format!("{name} must be at least 1")),
        count => Ok(count),
    }
}

/// `2s`, `500ms`, or a bare number of seconds.
fn duration(value: &str) -> Result<Duration, String> {
    let wrong = || format!("--duration {value}: write a time such as 2s or 500ms");
    let (digits, unit) = match value.strip_suffix("ms") {
        Some(digits) => (digits, 0.001),
        None => (value.strip_suffix('s').unwrap_or(value), 1.0),
    };
    let seconds = digits.parse::<f64>().map_err(|_| wrong())? * unit;
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero()).ok_or_else(wrong)
}

fn driver(value: String) -> Result<String, String> {
    match value.as_str() {
        "auto" | "uring" | "epoll" => Ok(value),
        _ => Err(format!("--driver {value}: write auto, uring or epoll")),
    }
}
