//! What the process has to work with: a thread that looks every [`EVERY`] how much CPU it gets, says which share of the calls of apps is
//! yielded (`shmesh_policy::yielding`), and keeps what /metrics shows of it. It also looks whether there is memory for new work (`memory.rs`).
//!
//! All of it is seen from outside, but for the time in which workers find nothing to do. While they sleep the thread sleeps too; a worker
//! that does something rouses it, which is one load there. A sign of life is nothing.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use nix::unistd::{Pid, gettid};
use shmesh_policy::yielding::Reason;
use shmesh_policy::{Load, Yielding};
use shmesh_shm::{cgroup, host};

use crate::counters::lock;
use crate::memory::Memory;
use crate::shared::Shared;
use crate::usage::{self, Process, Run};

/// How often is looked.
const EVERY: Duration = Duration::from_millis(100);
/// CPU time of all other threads in this time with which they are as good as asleep.
const QUIET: Duration = Duration::from_micros(200);
/// So many quiet times, and the thread sleeps.
const QUIET_TIMES: u32 = 2;
/// How often the quota is read.
const QUOTA_EVERY: u64 = 1_000_000_000;
/// How long the CPU time of the sidecar is compared with that of the apps, at least.
const TAX_WINDOW: u64 = 5_000_000_000;

/// What the thread has found, and how it is roused.
#[derive(Default)]
pub(crate) struct LoadDesk {
    yielded: AtomicU16,
    short_of_memory: AtomicBool,
    asleep: AtomicBool,
    /// How often the thread was roused.
    roused: AtomicU64,
    thread: OnceLock<Thread>,
    /// The workers' threads, by their index.
    workers: Mutex<Vec<(usize, Pid)>>,
    seen: Mutex<Seen>,
}

/// What was found last.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// Thousandths of a core.
    pub quota: Option<u64>,
    /// Use of the quota, in 1/1000.
    pub used_permille: Option<u32>,
    /// How long each worker waited for a CPU, on the average, in the order of [`LoadDesk::workers`].
    pub lags: Vec<(usize, Duration)>,
    pub reason: Option<Reason>,
    /// How often the sidecar began to yield, by reason.
    pub began: [u64; Reason::ALL.len()],
    /// CPU time of the sidecar by that of its apps, in 1/1000.
    pub tax_permille: Option<u64>,
}

impl LoadDesk {
    /// Of a thousand calls so many are yielded, were they all of default priority.
    pub fn yielded(&self) -> u16 {
        self.yielded.load(Ordering::Relaxed)
    }

    /// There is too little memory for new calls and sessions.
    #[inline]
    pub fn is_short_of_memory(&self) -> bool {
        self.short_of_memory.load(Ordering::Relaxed)
    }

    /// The calling thread is a worker.
    pub fn add_worker(&self, index: usize) {
        lock(&self.workers).push((index, gettid()));
    }

    /// How often the thread was roused from its sleep.
    pub fn roused(&self) -> u64 {
        self.roused.load(Ordering::Relaxed)
    }

    /// A worker did something.
    #[inline]
    pub fn rouse(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            self.roused.fetch_add(1, Ordering::Relaxed);
            thread.unpark();
        }
    }

    /// What was found last.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// How the workers came to run, as far as the kernel tells.
    pub fn runs(&self) -> Vec<(usize, Run)> {
        let workers = lock(&self.workers).clone();
        workers.into_iter().filter_map(|(index, id)| Some((index, usage::thread(id)?))).collect()
    }
}

/// The thread's work.
pub(crate) struct Observer {
    shared: Arc<Shared>,
    yielding: Yielding,
    before: Reading,
    quota_at: u64,
    quiet: u32,
    tax: Tax,
    memory: Memory,
}

/// What the kernel said at one time.
struct Reading {
    at: u64,
    cpu: Duration,
    /// Without this thread.
    others: Duration,
    runs: Vec<(usize, Run)>,
    /// Time in which workers that did not sleep found nothing to do, in the order of their indices.
    spun: Vec<Duration>,
    throttled: Option<cgroup::Throttled>,
}

impl Reading {
    fn take(shared: &Shared) -> Reading {
        let (cpu, own) = usage::own_cpu();
        let others = cpu.saturating_sub(own);
        // Each worker registers its counters before the next one starts.
        let counters = lock(&shared.registry.workers);
        let spun = counters.iter().map(|worker| Duration::from_nanos(worker.spun.get())).collect();
        drop(counters);
        Reading { at: host::now(), cpu, others, runs: shared.load.runs(), spun, throttled: cgroup::cpu_throttled() }
    }
}

impl Observer {
    /// Runs until the process ends.
    pub fn start(shared: Arc<Shared>) -> io::Result<()> {
        thread::Builder::new().name("load".into()).spawn(move || Observer::new(shared).run())?;
        Ok(())
    }

    fn new(shared: Arc<Shared>) -> Observer {
        let before = Reading::take(&shared);
        lock(&shared.load.seen).quota = cgroup::cpu_quota();
        let at = before.at;
        let tax = Tax::begin(&shared, &before);
        Observer { shared, yielding: Yielding::new(at), before, quota_at: at, quiet: 0, tax, memory: Memory::default() }
    }

    fn run(mut self) {
        let _ = self.shared.load.thread.set(thread::current());
        loop {
            pause();
            self.look();
            let at_ease = self.yielding.share() == 0 && !self.shared.load.is_short_of_memory();
            if self.quiet >= QUIET_TIMES && at_ease {
                self.rest();
            }
        }
    }

    /// Sleeps until a worker does something.
    fn rest(&mut self) {
        let shared = self.shared.clone();
        shared.load.asleep.store(true, Ordering::SeqCst);
        // A worker that had just looked at the flag is seen by what it does next.
        pause();
        self.look();
        if self.quiet > QUIET_TIMES {
            while shared.load.asleep.load(Ordering::SeqCst) {
                thread::park();
            }
            // The time asleep says nothing.
            self.before = Reading::take(&shared);
        }
        shared.load.asleep.store(false, Ordering::SeqCst);
        self.quiet = 0;
    }

    /// Compares with the time before, and tells what follows.
    fn look(&mut self) {
        let desk = &self.shared.load;
        let now = Reading::take(&self.shared);
        let before = std::mem::replace(&mut self.before, now);
        let now = &self.before;
        let is_quiet = now.others.saturating_sub(before.others) < QUIET;
        self.quiet = if is_quiet { self.quiet.saturating_add(1) } else { 0 };

        let mut seen = desk.seen();
        if now.at.saturating_sub(self.quota_at) >= QUOTA_EVERY {
            self.quota_at = now.at;
            seen.quota = cgroup::cpu_quota();
        }
        seen.used_permille = seen.quota.map(|quota| used_permille(&before, now, quota));
        seen.lags = lags(&before, now);
        if let Some(permille) = self.tax.look(&self.shared, now) {
            seen.tax_permille = permille;
        }

        let load = Load { cpu_permille: seen.used_permille, lag: seen.lags.iter().map(|(_, lag)| *lag).max() };
        let (spec, limits) = {
            let snapshot = self.shared.snapshot.load();
            (snapshot.yielding, snapshot.limits)
        };
        desk.short_of_memory.store(self.memory.look(now.at, &limits), Ordering::Relaxed);
        let had = self.yielding.share();
        let share = self.yielding.tell(now.at, load, &spec);
        seen.reason = self.yielding.reason();
        if let (0, Some(reason)) = (had, seen.reason) {
            seen.began[reason as usize] += 1;
            tracing::warn!(
                reason = reason.as_str(),
                used_permille = seen.used_permille,
                lag = ?load.lag,
                "the sidecar has too little CPU: a share of the calls of apps goes round it"
            );
        } else if had > 0 && share == 0 {
            tracing::info!("no call goes round the sidecar for want of CPU any more");
        }
        *lock(&desk.seen) = seen;
        if share != had {
            desk.yielded.store(share, Ordering::Relaxed);
            self.shared.sessions.wake();
        }
    }
}

/// As long as [`EVERY`], whoever rouses the thread meanwhile.
fn pause() {
    let began = host::now();
    let every = EVERY.as_nanos() as u64;
    loop {
        let passed = host::now().saturating_sub(began);
        if passed >= every {
            return;
        }
        thread::park_timeout(Duration::from_nanos(every - passed));
    }
}

/// Which part of the quota was used for work, in 1/1000. A cgroup that was stopped has used it up, if this process has a large part in
/// that; but what it used to wait for work is there for work.
fn used_permille(before: &Reading, now: &Reading, quota: u64) -> u32 {
    let may = u128::from(now.at.saturating_sub(before.at)) * u128::from(quota) / 1000;
    let permille = |time: Duration| u32::try_from(time.as_nanos() * 1000 / may.max(1)).unwrap_or(u32::MAX);
    let (all, waited) = (now.cpu.saturating_sub(before.cpu), waited_on_cpu(before, now));
    let used = permille(all.saturating_sub(waited));
    let nanos = |reading: &Reading| reading.throttled.map_or(0, |throttled| throttled.nanos);
    let stopped = nanos(now) > nanos(before);
    if stopped && used >= 500 { used.max(1000_u32.saturating_sub(permille(waited))) } else { used }
}

/// CPU time that workers used to wait for work, at least: they cannot have worked for longer than they did not wait. (While they wait
/// others may run as well, so it may be less than the time for which they waited.)
fn waited_on_cpu(before: &Reading, now: &Reading) -> Duration {
    let passed = Duration::from_nanos(now.at.saturating_sub(before.at));
    let earlier: HashMap<usize, Run> = before.runs.iter().copied().collect();
    let of_worker = |&(worker, run): &(usize, Run)| {
        let cpu = run.cpu.checked_sub(earlier.get(&worker)?.cpu)?;
        let spun = now.spun.get(worker)?.checked_sub(*before.spun.get(worker)?)?;
        Some(cpu.saturating_sub(passed.saturating_sub(spun)))
    };
    now.runs.iter().filter_map(of_worker).sum()
}

fn lags(before: &Reading, now: &Reading) -> Vec<(usize, Duration)> {
    let earlier: HashMap<usize, Run> = before.runs.iter().copied().collect();
    let passed = Duration::from_nanos(now.at.saturating_sub(before.at));
    let lag = |&(worker, run): &(usize, Run)| Some((worker, run.lag_since(*earlier.get(&worker)?, passed)?));
    now.runs.iter().filter_map(lag).collect()
}

/// The mesh tax: CPU time of the sidecar by that of its apps, over a window.
struct Tax {
    since: u64,
    cpu: Duration,
    apps: HashMap<i32, Process>,
}

impl Tax {
    fn begin(shared: &Shared, now: &Reading) -> Tax {
        Tax { since: now.at, cpu: now.cpu, apps: apps(shared) }
    }

    /// The tax in 1/1000 when a window is over; `Some(None)`: no app's time is known, or none used any.
    fn look(&mut self, shared: &Shared, now: &Reading) -> Option<Option<u64>> {
        if now.at.saturating_sub(self.since) < TAX_WINDOW {
            return None;
        }
        let before = std::mem::replace(self, Tax::begin(shared, now));
        let ours = self.cpu.saturating_sub(before.cpu);
        Some(tax_permille(ours, &before.apps, &self.apps))
    }
}

/// Apps that were there all the time count.
fn tax_permille(ours: Duration, before: &HashMap<i32, Process>, now: &HashMap<i32, Process>) -> Option<u64> {
    let used = now.iter().filter_map(|(pid, process)| {
        let before = before.get(pid).filter(|before| before.started == process.started)?;
        process.cpu.checked_sub(before.cpu)
    });
    let apps: Duration = used.sum();
    let permille = (1000 * ours.as_nanos()).checked_div(apps.as_nanos())?;
    Some(u64::try_from(permille).unwrap_or(u64::MAX))
}

/// The processes that are attached and can be seen from here, each once, however many sessions it has.
fn apps(shared: &Shared) -> HashMap<i32, Process> {
    let pids: Vec<i32> = lock(&shared.sessions.list).values().map(|session| session.pid).collect();
    let mut apps = HashMap::new();
    for pid in pids {
        if !apps.contains_key(&pid)
            && let Some(process) = usage::process(pid)
        {
            apps.insert(pid, process);
        }
    }
    apps
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn reading(at: u64, cpu_ms: u64, throttled: u64) -> Reading {
        let cpu = Duration::from_millis(cpu_ms);
        let throttled = Some(cgroup::Throttled { periods: 0, nanos: throttled });
        Reading { at, cpu, others: cpu, runs: Vec::new(), spun: Vec::new(), throttled }
    }

    #[test]
    fn the_use_is_a_part_of_the_quota() {
        let before = reading(SECOND, 1000, 7);
        // A second of half a core.
        let used = |cpu_ms: u64, throttled| used_permille(&before, &reading(2 * SECOND, 1000 + cpu_ms, throttled), 500);
        assert_eq!([used(0, 7), used(100, 7), used(450, 7), used(600, 7)], [0, 200, 900, 1200]);
        // Others in the cgroup may have used up the quota.
        assert_eq!([used(100, 8), used(300, 8), used(600, 8)], [200, 1000, 1200]);
        assert_eq!(used_permille(&before, &before, 500), 0);
    }

    #[test]
    fn waiting_for_work_is_no_use() {
        /// After a second in which one worker was on a CPU for so long, waited for work so long, and the process used 10 ms beside that.
        fn used(cpu_ms: u64, spun_ms: u64, quota: u64, stopped: bool) -> u32 {
            let at = |seconds, cpu_ms, spun_ms, throttled| {
                let run = Run { cpu: Duration::from_millis(cpu_ms), ..Run::default() };
                let spun = vec![Duration::from_millis(spun_ms)];
                Reading {
                    runs: vec![(0, run)],
                    spun,
                    ..reading(seconds * SECOND, cpu_ms + 10 * (seconds - 1), throttled)
                }
            };
            used_permille(&at(1, 500, 70, 0), &at(2, 500 + cpu_ms, 70 + spun_ms, stopped.into()), quota)
        }
        assert_eq!(used(990, 700, 1000, false), 310);
        assert_eq!(used(990, 0, 1000, false), 1000);
        assert_eq!(used(300, 0, 1000, false), 310, "the worker slept");
        assert_eq!(used(480, 500, 500, false), 980, "others ran while it yielded; it worked all the rest of the time");
        // It waited for more than it worked, and the cgroup was stopped for that.
        assert_eq!([used(990, 700, 1000, true), used(990, 390, 1000, true)], [310, 620]);
        assert_eq!(used(600, 100, 1000, true), 1000, "others used it up");
    }

    #[test]
    fn only_processes_that_were_there_all_the_time_are_compared_with() {
        let process = |started, ms| Process { started, cpu: Duration::from_millis(ms) };
        let before = HashMap::from([(1, process(1, 100)), (2, process(1, 500)), (3, process(1, 9))]);
        let now = HashMap::from([(1, process(1, 300)), (2, process(2, 600)), (4, process(1, 1000))]);
        assert_eq!(tax_permille(Duration::from_millis(50), &before, &now), Some(250));
        assert_eq!(tax_permille(Duration::from_millis(50), &before, &HashMap::new()), None);
        assert_eq!(tax_permille(Duration::from_millis(50), &now, &now), None, "no app used any");
    }
}
