//! What happens to sidecars and to what is behind them, round by round.

mod between;
mod network;
mod quota;
mod sidecar;
mod traces;
mod upgrade;
mod upstream;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use shmesh_client::Client;
use tempfile::TempDir;

use crate::app::{self, Callers};
use crate::arenas::Touched;
use crate::calls::{Called, Outcome};
use crate::cgroup::Cgroup;
use crate::random::Random;
use crate::service::{self, At, Record, Service};
use crate::sidecar::{Setup, Sidecar, free_port};
use crate::stalls::{Stalls, Stood};
use crate::verdict::{Span, Verdict};
use crate::{Driver, Options};
use network::Network;
use traces::Traces;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trouble {
    /// SIGKILL, and another one is started.
    Kill,
    /// SIGSTOP, and SIGCONT after a while: shorter or longer than apps wait for a sign of life.
    Stop,
    /// One of two services resets all its connections and refuses new ones for a while.
    Upstream,
    /// One of two services is cut off without a word for a while: in a network namespace.
    Blackhole,
    /// SIGSTOP when calls are taken and not forwarded, and SIGCONT when the shim has left.
    Between,
    /// Another process takes over, with all connections.
    Upgrade,
    /// Another process that takes over dies before it has, hangs before it has, or dies when it has.
    BrokenUpgrade,
    /// A cgroup gives the sidecar next to no time for a while.
    Quota,
}

impl Trouble {
    /// Whether the shim is to find out that the sidecar gives no sign of life.
    fn waits_for_signs_of_life(self) -> bool {
        matches!(self, Trouble::Stop | Trouble::Between | Trouble::Quota)
    }
}

/// A sidecar that lives is taken to hang only after this, where nothing makes it hang but a busy machine.
pub const HANGS: Duration = Duration::from_secs(100);

/// Longer than a sidecar that lives takes to get calls again, on a busy machine.
const SETTLES_WITHIN: Duration = Duration::from_secs(180);

/// Calls in a row through the sidecar, before it is taken that the shim is settled there.
const SETTLED: usize = 12;

/// A sidecar, what is behind it, and what becomes of them.
struct World {
    setup: Setup,
    sidecar: Sidecar,
    services: Vec<Service>,
    record: Record,
    random: Random,
    network: Option<Network>,
    quota: Option<Cgroup>,
    stalls: Option<Stalls>,
    folder: TempDir,
}

/// Rounds of trouble, on fresh apps each. The error says why it is left out.
pub fn run(options: &Options, driver: Driver, trouble: Trouble) -> Result<Verdict, String> {
    // A thread of its own, as what it does to the network is done to what it starts alone.
    thread::scope(|scope| {
        let run = scope.spawn(|| run_here(options, driver, trouble));
        run.join().expect("it does not panic")
    })
}

fn run_here(options: &Options, driver: Driver, trouble: Trouble) -> Result<Verdict, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let network = (trouble == Trouble::Blackhole).then(Network::of_its_own).transpose()?;
    let quota = (trouble == Trouble::Quota).then(|| Cgroup::new("quota")).transpose()?;
    let places: Vec<At> = match trouble {
        Trouble::Blackhole => network::PORTS.map(|port| At::Tcp((network::ADDRESS, port).into())).into(),
        Trouble::Upstream => ["service", "other"].map(|name| At::Unix(folder.path().join(name))).into(),
        Trouble::Between => vec![At::Tcp((Ipv4Addr::LOCALHOST, free_port()).into())],
        _ => vec![At::Unix(folder.path().join("service"))],
    };
    let before = Traces::of_apps();
    let endpoints: Vec<String> = places.iter().map(At::endpoint).collect();
    let record = Record::default();
    let slow_us = if trouble == Trouble::Upgrade { service::AT_ONCE } else { service::SLOW };
    let services = places.into_iter().map(|at| Service::start(at, &record, slow_us)).collect();
    let keys = if trouble == Trouble::Between { between::KEYS } else { upstream::KEYS };
    let setup = Setup::new(&options.shmesh, driver, folder.path(), &endpoints, keys);
    let verdict = Verdict::new();
    let mut verdict = match trouble {
        Trouble::Kill => verdict.timed(&sidecar::ELSEWHERE, options.busy),
        Trouble::Stop => verdict.timed(&[], options.busy),
        _ => verdict,
    };
    let (sidecar, random) = (setup.start(), Random::new(options.seed));
    let mut world = World { setup, sidecar, services, record, random, network, quota, stalls: Stalls::watch(), folder };
    world.learn();
    match trouble {
        Trouble::Upgrade => world.upgrades(options, &mut verdict),
        Trouble::Between => {
            let mut found = between::Found::default();
            world.rounds(options.rounds, &mut verdict, |world, verdict| world.stop_between(verdict, &mut found));
            found.judge(&mut verdict);
        }
        Trouble::BrokenUpgrade => {
            let mut endings = upgrade::Endings::default();
            world.rounds(options.rounds, &mut verdict, |world, verdict| world.upgrade_breaks(verdict, &mut endings));
            endings.judge(&mut verdict);
        }
        _ => world.rounds(options.rounds, &mut verdict, |world, verdict| world.round(options, trouble, verdict)),
    }
    drop(world);
    Traces::settled(Traces::of_apps, Some(before)).compare(before, "the apps", &mut verdict);
    Ok(verdict)
}

impl World {
    /// All of them, and what they leave behind.
    fn rounds(&mut self, rounds: u32, verdict: &mut Verdict, mut round: impl FnMut(&mut World, &mut Verdict)) {
        if rounds == 0 {
            return;
        }
        round(self, verdict);
        // What the first round leaves is what is kept for the next ones.
        let (files, sidecar) = self.rest(None);
        for _ in 1..rounds {
            round(self, verdict);
        }
        let (files_after, sidecar_after) = self.rest(Some(sidecar));
        verdict.left_behind("files beside the session socket", files_after - files, 0);
        sidecar_after.compare(sidecar, "the sidecar", verdict);
    }

    fn round(&mut self, options: &Options, trouble: Trouble, verdict: &mut Verdict) {
        let from = Instant::now();
        let client = self.client(trouble);
        let touched = matches!(trouble, Trouble::Kill | Trouble::Stop).then(|| {
            let builder = Client::builder().socket(self.setup.socket()).hang_timeout(HANGS);
            let client = builder.lanes(Touched::lanes(options.arenas)).connect();
            Touched::new(&client.expect("a session"), options.arenas)
        });
        self.settle(&client);
        let (shim, sockets) = (Callers::start(&client), Callers::over_sockets(&self.setup));
        thread::sleep(Duration::from_millis(20 + self.random.below(20)));
        let began = Instant::now();
        let (mut calls, evaded) = match trouble {
            Trouble::Kill => self.kill(shim),
            Trouble::Stop => self.stop(shim, !options.busy),
            Trouble::Upstream => self.upstream_dies(shim),
            Trouble::Blackhole => self.upstream_vanishes(shim),
            Trouble::Quota => self.starve(shim, &client, verdict),
            Trouble::Between | Trouble::Upgrade | Trouble::BrokenUpgrade => {
                unreachable!("they have rounds of their own")
            }
        };
        // Where others are busy it may look as if it hung at any time.
        let is_moody = trouble.waits_for_signs_of_life() && options.busy;
        let from = if is_moody { from } else { began };
        let span = Span { from, began, evaded, over: Instant::now() };
        calls.extend(sockets.finish());
        drop(touched);
        let stood = self.stood();
        for caller in &calls {
            verdict.judge(caller, &self.record, span, &stood);
        }
    }

    fn client(&self, trouble: Trouble) -> Client {
        let mut builder = Client::builder().socket(self.setup.socket()).policy_file(self.policies());
        if !trouble.waits_for_signs_of_life() {
            builder = builder.hang_timeout(HANGS);
        }
        builder.connect().expect("a session")
    }

    /// Lets a shim write down the way round the sidecar, so that all others know it from their start. It learns it beside the calls that it
    /// makes, on a busy machine after many of them.
    fn learn(&self) {
        let late = Instant::now() + SETTLES_WITHIN;
        let knows = |line: &[u8]| {
            let known = std::fs::read(self.policies()).unwrap_or_default();
            known.windows(line.len()).any(|part| part == line)
        };
        while !(knows(b"PUT /run") && knows(b"POST /run")) {
            assert!(Instant::now() < late, "the sidecar does not say where calls go: {}", self.setup.log());
            let client = self.client(Trouble::Kill);
            self.settle(&client);
        }
    }

    /// When the machine stood still, as far as that can be seen here.
    fn stood(&self) -> Stood {
        self.stalls.as_ref().map(Stalls::seen).unwrap_or_default()
    }

    fn policies(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    /// Calls until they go through the sidecar.
    fn settle(&self, client: &Client) {
        let late = Instant::now() + SETTLES_WITHIN;
        let mut in_a_row = 0;
        while in_a_row < SETTLED {
            let called = app::call(client);
            assert!(!matches!(called.outcome, Outcome::Failed(_)), "a healthy sidecar: {:?}", called.outcome);
            in_a_row = if self.record.runs(called.call).through_sidecar == 1 { in_a_row + 1 } else { 0 };
            assert!(Instant::now() < late, "calls go round a healthy sidecar: {}", self.setup.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Files, and what the sidecar has, when nobody is connected to it any more on either side.
    fn rest(&mut self, before: Option<Traces>) -> (i64, Traces) {
        self.services.iter_mut().for_each(Service::die);
        let sidecar = self.sidecar.pid();
        let traces = Traces::settled(|| Traces::of_sidecar(sidecar), before);
        let files = traces::entries(self.folder.path());
        self.services.iter_mut().for_each(Service::live);
        (files, traces)
    }
}

/// What callers called, and from when on calls through the shim did not meet the trouble.
type Results = (Vec<Vec<Called>>, Instant);
