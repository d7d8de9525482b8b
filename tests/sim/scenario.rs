//! One run: everything is drawn from its seed, then it happens, then it must add up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmesh_engine::embed::Inspect;
use shmesh_io::sim::{Faults, Link, World};
use shmesh_io::{Nanos, Target};
use shmesh_shm::Geometry;

use crate::app::{Caller, Plan};
use crate::call::{APP, WEB};
use crate::downstream::Downstream;
use crate::journal;
use crate::ledger::Ledger;
use crate::machine::{Machine, Pace, ProcessId};
use crate::provider::Provider;
use crate::random::Random;
use crate::sidecar::{DUBBO_UP, HTTP_UP, HTTP_UP_TOO, RAW_UP, Settings, Sidecar, addr};
use crate::upstream::{self, Service};

const MS: Nanos = 1_000_000;

/// How long things may go wrong.
const TROUBLE: Nanos = 40 * MS;

/// When everybody must be done, counted from the end of the trouble: the sum of every timeout that may have to pass.
const PATIENCE: Nanos = 10_000 * MS;

/// After that: lingering and idle connections go.
const SETTLING: Nanos = 2_500 * MS;

/// Long enough for a call when nothing is wrong, and for apps that rest to look up.
const PROBING: Nanos = 200 * MS;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub fingerprint: u64,
    pub calls: usize,
    pub answered: usize,
    pub turns: u64,
    pub failure: Option<String>,
}

/// What happens to somebody.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    KillCaller(usize),
    StopCaller(usize, Nanos),
    KillSidecar,
    /// Its machine is never heard of again.
    LoseSidecar,
    StartSidecar,
    StopSidecar(Nanos),
    KillProvider,
    StartProvider,
    StopProvider(Nanos),
    Exhaust(bool),
    /// Everybody is told that it stops.
    DrainSidecar,
    /// A new snapshot.
    Publish,
    /// Another sidecar goes on with everything; or tries to, and fails.
    Upgrade {
        /// For how long workers go on working after they gave what can be given ahead; none: they give all at once.
        ahead: Option<Nanos>,
        fails: bool,
    },
}

/// Runs a seed. `folder` is for its sockets.
pub fn run(seed: u64, folder: &Path) -> Outcome {
    let descriptors = descriptors();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut run = Run::draw(seed, folder);
        run.play();
        let outcome = run.outcome();
        run.machine.end();
        outcome
    }));
    let Ok(outcome) = played else {
        let failure = Some(format!("the simulation itself panicked: {}", crate::seeds::last_panic()));
        return Outcome { failure, ..Outcome::default() };
    };
    let left = descriptors_list();
    let leak =
        (left.len() != descriptors).then(|| format!("descriptors are left open: {left:?}, {descriptors} before"));
    Outcome { failure: outcome.failure.clone().or(leak), ..outcome }
}

struct Run {
    random: Random,
    machine: Machine,
    ledger: Ledger,
    settings: Settings,
    sidecar: Option<Sidecar>,
    callers: Vec<ProcessId>,
    provider: Option<ProcessId>,
    plan: Plan,
    calls_back: bool,
    stop: Arc<AtomicBool>,
    calm: bool,
    sidecar_died: bool,
}

impl Run {
    fn draw(seed: u64, folder: &Path) -> Run {
        let mut random = Random::new(seed);
        let world = World::new(random.next());
        let calm = random.percent(25);
        let pace = Pace {
            steps: random.pick(&[8, 40, 200, 1_000, 10_000]),
            store_depth: random.pick(&[0, 0, 3, 12, 60]),
            yield_max: random.pick(&[8_000, 60_000, 100_000]),
        };
        journal::note(|| format!("seed {seed}, calm {calm}, {pace:?}"));
        let pace_is_coarse = pace.steps >= 200;
        let machine = Machine::new(&world, pace, random.fork());
        let (silence, wide) = draw_network(&mut random, &world, calm);
        let geometry = draw_geometry(&mut random);
        let settings = Settings {
            socket: socket(folder),
            workers: if random.percent(70) { 1 } else { 2 },
            geometry,
            buffered: random.pick(&[2_000, 16_000, 256 * 1024]),
            first_byte: Duration::from_millis(if calm { 1_000 } else { 60 }),
            pool_slots: random.pick(&[8, 32]),
            calls_per_session: if calm || random.percent(80) { 4_096 } else { random.range(1, 4) as u32 },
            calls_per_connection: if calm || random.percent(80) { 1_024 } else { random.range(1, 4) as u32 },
        };
        let served = random.percent(70);
        // A million bytes in small steps would take for ever.
        let largest = if wide && pace_is_coarse && random.percent(20) { 1_100_000 } else { 120_000 };
        let plan = Plan {
            socket: settings.socket.clone(),
            rounds: random.range(1, 5),
            threads: if random.percent(25) { 2 } else { 1 },
            lanes: random.range(1, 3) as u16,
            bytes_max: random.pick(&[
                64,
                1_000,
                u64::from(geometry.block_max) * 2,
                (u64::from(geometry.window) * 4).min(largest),
            ]),
            max_spin: Duration::from_micros(random.pick(&[0, 0, 5, 100])),
            // Sidecars are stopped for up to 80 ms.
            hang_timeout: Duration::from_millis(if calm { 200 } else { random.pick(&[0, 2, 20, 200]) }),
            served,
            fallback: random.percent(50),
            // Nobody ends a tunnel to a peer that fell silent before an hour is over.
            raw_streams: !silence,
            deadline: Duration::from_millis(random.pick(&[1, 10, 100])),
        };
        let calls_back = random.percent(40);
        // A call back may wait for its whole timeout.
        let longest = if calm && !calls_back { 400 * MS } else { PATIENCE };
        let ledger = Ledger::new(&machine, calm, longest);
        let stop = Arc::new(AtomicBool::new(false));
        Run {
            random,
            machine,
            ledger,
            settings,
            sidecar: None,
            callers: Vec::new(),
            provider: None,
            plan,
            calls_back,
            stop,
            calm,
            sidecar_died: false,
        }
    }

    fn play(&mut self) {
        let services = [
            (HTTP_UP, Service::Http),
            (HTTP_UP_TOO, Service::Http),
            (DUBBO_UP, Service::Dubbo),
            (RAW_UP, Service::Raw),
        ];
        for (at, service) in services {
            upstream::start(&self.machine, &self.ledger, self.random.fork(), Target::Tcp(addr(at)), service);
        }
        self.start_sidecar();
        if self.plan.served {
            self.start_provider();
            // Calls to it would fail before it is there.
            let sidecar = self.sidecar.as_ref();
            self.machine.run(World::EPOCH + 5 * MS, || sidecar.is_some_and(|sidecar| sidecar.sessions() > 0));
            self.machine.run(self.machine.now() + MS, || false);
        }
        self.start_callers();
        self.trouble();
        self.settle();
    }

    fn start_sidecar(&mut self) {
        self.sidecar = Some(Sidecar::start(&self.machine, &self.settings));
    }

    fn start_provider(&mut self) {
        let process = self.machine.process("provider");
        let provider = Provider {
            machine: self.machine.clone(),
            ledger: self.ledger.clone(),
            random: self.random.fork(),
            process,
            plan: self.plan.clone(),
            stop: self.stop.clone(),
            calls_back: self.calls_back,
        };
        self.machine.spawn(process, "serve", move || provider.run());
        self.provider = Some(process);
    }

    fn start_callers(&mut self) {
        for index in 0..self.random.range(1, 4) {
            let process = self.machine.process(&format!("app-{index}"));
            let caller = Caller {
                machine: self.machine.clone(),
                ledger: self.ledger.clone(),
                process,
                random: self.random.fork(),
                plan: self.plan.clone(),
            };
            self.machine.spawn(process, "call", move || caller.run());
            self.callers.push(process);
        }
        for index in 0..self.random.below(3) {
            let process = self.machine.process(&format!("client-{index}"));
            let client = Downstream {
                machine: self.machine.clone(),
                ledger: self.ledger.clone(),
                process,
                random: self.random.fork(),
                rounds: self.random.range(1, 8),
                bytes_max: self.plan.bytes_max,
                served: self.plan.served,
            };
            match self.random.below(10) {
                0..=4 => self.machine.spawn(process, "http", move || client.http()),
                5..=6 if self.plan.raw_streams => self.machine.spawn(process, "raw", move || client.raw()),
                _ => self.machine.spawn(process, "dubbo", move || client.dubbo()),
            }
            self.callers.push(process);
        }
    }

    fn trouble(&mut self) {
        let mut plan: Vec<(Nanos, Trouble)> = Vec::new();
        if !self.calm && self.random.percent(70) {
            for _ in 0..self.random.range(1, 4) {
                self.draw_trouble(&mut plan);
            }
        }
        if self.random.percent(25) {
            // Nobody may notice, whatever else happens.
            for _ in 0..self.random.range(1, 4) {
                let at = if self.random.percent(70) { self.random.below(3 * MS) } else { self.random.below(TROUBLE) };
                let ahead = self.random.percent(80).then(|| self.random.below(2 * MS));
                plan.push((at, Trouble::Upgrade { ahead, fails: self.random.percent(30) }));
            }
        }
        plan.sort_by_key(|(at, _)| *at);
        let began = self.machine.now();
        for (at, trouble) in plan {
            self.machine.run(began + at, || false);
            if self.machine.failure().is_some() {
                return;
            }
            journal::note(|| format!("{trouble:?}"));
            self.strike(trouble);
        }
        if !self.calm {
            self.machine.run(began + TROUBLE, || false);
            self.machine.world().set_faults(Faults::default());
        }
    }

    fn draw_trouble(&mut self, plan: &mut Vec<(Nanos, Trouble)>) {
        // Most calls happen early.
        let random = &mut self.random;
        let at = if random.percent(70) { random.below(3 * MS) } else { random.below(TROUBLE - 10 * MS) };
        let longest = if random.percent(50) { MS } else { 80 * MS };
        let pause = random.range(10_000, longest);
        let who = random.below(self.callers.len() as u64) as usize;
        match random.below(13) {
            0 | 1 => plan.push((at, Trouble::KillCaller(who))),
            2 | 3 => plan.push((at, Trouble::StopCaller(who, pause))),
            4 | 5 => {
                let death = if random.percent(80) { Trouble::KillSidecar } else { Trouble::LoseSidecar };
                plan.push((at, death));
                if random.percent(70) {
                    plan.push((at + random.below(8 * MS), Trouble::StartSidecar));
                }
            }
            6 => plan.push((at, Trouble::StopSidecar(pause))),
            7 => {
                plan.push((at, Trouble::KillProvider));
                plan.push((at + random.below(8 * MS), Trouble::StartProvider));
            }
            8 => plan.push((at, Trouble::StopProvider(pause))),
            9 => {
                plan.push((at, Trouble::DrainSidecar));
                plan.push((at + 5 * MS, Trouble::KillSidecar));
                plan.push((at + 6 * MS, Trouble::StartSidecar));
            }
            10 | 11 => plan.push((at, Trouble::Publish)),
            _ => {
                plan.push((at, Trouble::Exhaust(true)));
                plan.push((at + random.below(5 * MS), Trouble::Exhaust(false)));
            }
        }
    }

    fn strike(&mut self, trouble: Trouble) {
        let machine = self.machine.clone();
        let until = |pause| machine.now() + pause;
        match trouble {
            Trouble::KillCaller(who) if machine.is_alive(self.callers[who]) => machine.kill(self.callers[who]),
            Trouble::StopCaller(who, pause) => machine.stop(self.callers[who], until(pause)),
            Trouble::KillSidecar => {
                if let Some(sidecar) = self.sidecar.take() {
                    self.sidecar_died = true;
                    machine.kill(sidecar.process);
                }
            }
            Trouble::LoseSidecar => {
                if let Some(sidecar) = self.sidecar.take() {
                    self.sidecar_died = true;
                    machine.world().vanish("sidecar");
                    machine.kill(sidecar.process);
                }
            }
            Trouble::StartSidecar if self.sidecar.is_none() => self.start_sidecar(),
            Trouble::StopSidecar(pause) => {
                if let Some(sidecar) = &self.sidecar {
                    machine.stop(sidecar.process, until(pause));
                }
            }
            Trouble::KillProvider => {
                if let Some(provider) = self.provider.take() {
                    machine.kill(provider);
                }
            }
            Trouble::StartProvider if self.provider.is_none() && self.plan.served => self.start_provider(),
            Trouble::StopProvider(pause) => {
                if let Some(provider) = self.provider {
                    machine.stop(provider, until(pause));
                }
            }
            Trouble::DrainSidecar => {
                if let Some(sidecar) = &self.sidecar {
                    sidecar.drain();
                }
            }
            Trouble::Publish => {
                if let Some(sidecar) = &mut self.sidecar {
                    sidecar.publish(&self.settings);
                }
            }
            Trouble::Upgrade { ahead, fails } => {
                if let Some(sidecar) = &self.sidecar {
                    sidecar.upgrade(&machine, ahead, fails);
                }
            }
            Trouble::Exhaust(yes) => machine.world().exhaust_descriptors("sidecar", yes),
            _ => {}
        }
    }

    /// Everybody finishes; nothing may be left.
    fn settle(&mut self) {
        let machine = self.machine.clone();
        let (ledger, callers) = (self.ledger.clone(), self.callers.clone());
        let done = || callers.iter().all(|caller| !machine.is_alive(*caller) || ledger.rests(*caller));
        if !machine.run(machine.now() + PATIENCE, done) && machine.failure().is_none() {
            self.ledger.close();
            machine.fail(format!("somebody never ends: {}", machine.places()));
        }
        if machine.failure().is_some() {
            return;
        }
        machine.run(machine.now() + SETTLING, || false);
        self.find_quiet();
        self.probe();
        self.find_quiet();
        if machine.failure().is_some() {
            return;
        }
        self.ledger.release();
        self.stop.store(true, Ordering::Relaxed);
        let mut apps = self.callers.clone();
        apps.extend(self.provider);
        let over = || apps.iter().all(|app| !machine.is_alive(*app) || machine.is_over(*app));
        if !machine.run(machine.now() + 1_000 * MS, over) {
            machine.fail(format!("an app cannot leave: {}", machine.places()));
        }
        self.ledger.close();
        machine.run(machine.now() + MS, || false);
        for counts in self.inspect() {
            if counts.sessions + counts.lanes > 0 {
                machine.fail(format!("a worker keeps sessions of apps that are gone: {counts:?}"));
            }
        }
        if let Some(sidecar) = &self.sidecar
            && sidecar.sessions() > 0
        {
            machine.fail("the list of sessions is not empty though all apps are gone");
        }
        // What a sidecar that died had is gone with it, and an app that rests does not look.
        if self.ledger.kept() > 0 && !self.sidecar_died {
            machine.fail(format!("the sidecar kept {} blocks of apps", self.ledger.kept()));
        }
    }

    /// Whoever is left calls once more, and is answered.
    fn probe(&self) {
        let machine = &self.machine;
        if self.sidecar.is_none() || machine.failure().is_some() {
            return;
        }
        let mut hosts = vec![WEB];
        if self.provider.is_some() {
            hosts.push(APP);
        }
        self.ledger.probe(hosts);
        let gone = |caller: ProcessId| !machine.is_alive(caller) || machine.is_over(caller);
        let done = || self.callers.iter().all(|caller| gone(*caller) || self.ledger.is_probed(*caller));
        if !machine.run(machine.now() + PROBING, done) {
            machine.fail(format!("a call does not end though everything is well again: {}", machine.places()));
        }
        machine.run(machine.now() + PROBING, || false);
    }

    /// Nothing may be in a worker's tables but what waits to be used again.
    fn find_quiet(&self) {
        for counts in self.inspect() {
            let quiet = Inspect {
                sessions: counts.sessions,
                lanes: counts.lanes,
                conns_idle: counts.conns_idle,
                ..Inspect::default()
            };
            if counts != quiet {
                self.machine.fail(format!("something is left in a worker's tables: {counts:?}"));
            }
        }
    }

    fn inspect(&self) -> Vec<Inspect> {
        let Some(sidecar) = self.sidecar.as_ref().filter(|_| self.machine.failure().is_none()) else {
            return Vec::new();
        };
        sidecar.ask();
        self.machine.run(self.machine.now() + 100 * MS, || sidecar.answers().is_some());
        let answers = sidecar.answers();
        if answers.is_none() {
            self.machine.fail(format!("a worker does not turn: {}", self.machine.places()));
        }
        answers.unwrap_or_default()
    }

    fn outcome(&self) -> Outcome {
        let (calls, answered) = self.ledger.counts();
        Outcome {
            fingerprint: self.machine.fingerprint(),
            calls,
            answered,
            turns: self.machine.turns(),
            failure: self.machine.failure(),
        }
    }
}

/// Says whether connections may fall silent, and whether they are fast.
fn draw_network(random: &mut Random, world: &World, calm: bool) -> (bool, bool) {
    let mut link = Link::tcp();
    link.window.0 = random.pick(&[300, 5_000, 64 << 10]);
    link.window.1 = link.window.0 + random.below(100_000) as usize;
    link.segment_max = random.pick(&[1, 17, 1_460, 65_483]).max(link.window.0 / 64);
    link.cut_ppm = random.pick(&[0, 50_000, 500_000]);
    let wide = link.window.0 > 5_000 && link.segment_max > 1_000;
    world.set_tcp(link);
    if calm || random.percent(40) {
        return (false, wide);
    }
    let mut often = |most: u64| if random.percent(50) { random.below(most) as u32 } else { 0 };
    let faults = Faults {
        connect_refused_ppm: often(100_000),
        connect_lost_ppm: often(50_000),
        reset_ppm: often(200_000),
        silence_ppm: often(100_000),
        within: 10 * MS,
        delay_ppm: often(100_000),
        delay_max: 20 * MS,
        send_error_ppm: often(20_000),
        accept_pause_ppm: often(20_000),
        empty_poll_ppm: often(200_000),
        spurious_ring_ppm: often(100_000),
        late_report_ppm: often(100_000),
    };
    journal::note(|| format!("{faults:?}"));
    let silence = faults.silence_ppm > 0;
    world.set_faults(faults);
    (silence, wide)
}

/// Rings and arenas that are soon full, as often as those that apps have.
fn draw_geometry(random: &mut Random) -> Geometry {
    if random.percent(20) {
        return Geometry::default();
    }
    let block_max = random.pick(&[1_024u32, 2_048, 4_096, 16_384]);
    let slots = random.range(1, 8) as u32;
    let geometry = Geometry {
        entries: (slots.next_power_of_two() << random.below(3)).max(2),
        stride: random.pick(&[64, 128, 320, 512]),
        slots,
        arena_bytes: block_max.max(4_096) * random.range(1, 4) as u32,
        block_min: random.pick(&[64, 256, 1_024]),
        block_max,
        window: block_max * random.range(1, 4) as u32,
    };
    geometry.validate().expect("drawn to be valid");
    geometry
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("sidecar.sock")
}

fn descriptors() -> usize {
    descriptors_list().len()
}

fn descriptors_list() -> Vec<String> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        // Descriptors of standard streams may be anything; the folder itself is not there any more.
        Some(std::fs::read_link(&path).ok()?.display().to_string())
    };
    folder.filter_map(name).collect()
}
