//! When the machine itself stood still: on each CPU a thread that comes before all others sleeps and looks at the clock. What it sleeps too long,
//! nobody had that CPU: a hypervisor gave it to another guest, most likely.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use thread_priority::{RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

/// How long it sleeps, and how much longer is nothing to speak of.
const LOOKS_EVERY: Duration = Duration::from_micros(300);
const SLACK: Duration = Duration::from_micros(200);

/// Of the real-time priorities the one in the middle: before all that is not real-time, and after the kernel's own that matter.
const PRIORITY: u8 = 50;

type Seen = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// Looks on until it is dropped.
pub struct Stalls {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Seen,
}

impl Stalls {
    /// None where the system gives nobody here a thread that comes before all others.
    pub fn watch() -> Option<Stalls> {
        let mut stalls = Stalls { stop: Arc::default(), threads: Vec::new(), seen: Seen::default() };
        let here = sched_getaffinity(Pid::from_raw(0)).ok()?;
        for cpu in (0..CpuSet::count()).filter(|&cpu| here.is_set(cpu).unwrap_or(false)) {
            let (stop, seen) = (stalls.stop.clone(), stalls.seen.clone());
            let (ready, is_ready) = std::sync::mpsc::channel();
            stalls.threads.push(thread::spawn(move || {
                let first = come_first(cpu);
                let _ = ready.send(first.is_some());
                if first.is_some() {
                    look_on(&stop, &seen);
                }
            }));
            if is_ready.recv() != Ok(true) {
                return None;
            }
        }
        Some(stalls)
    }

    /// What it saw so far.
    pub fn seen(&self) -> Stood {
        let mut stalls = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stalls.sort();
        let mut apart: Vec<(Instant, Instant)> = Vec::new();
        for (began, ended) in stalls {
            match apart.last_mut() {
                Some(last) if began <= last.1 => last.1 = last.1.max(ended),
                _ => apart.push((began, ended)),
            }
        }
        Stood(apart)
    }
}

/// When one CPU or another stood still: times that do not touch, in their order.
#[derive(Default)]
pub struct Stood(Vec<(Instant, Instant)>);

impl Stood {
    /// For how long in that time.
    pub fn within(&self, from: Instant, to: Instant) -> Duration {
        let first = self.0.partition_point(|&(_, ended)| ended <= from);
        let met = self.0[first..].iter().take_while(|&&(began, _)| began < to);
        met.map(|&(began, ended)| ended.min(to) - began.max(from)).sum()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("it does not panic"));
    }
}

/// This thread stays on that CPU, and comes first there.
fn come_first(cpu: usize) -> Option<()> {
    let mut only = CpuSet::new();
    only.set(cpu).ok()?;
    sched_setaffinity(Pid::from_raw(0), &only).ok()?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let priority = ThreadPriority::Crossplatform(PRIORITY.try_into().ok()?);
    thread_priority::set_thread_priority_and_policy(thread_priority::thread_native_id(), priority, policy).ok()
}

fn look_on(stop: &AtomicBool, seen: &Seen) {
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(LOOKS_EVERY);
        let (due, now) = (looked + LOOKS_EVERY, Instant::now());
        if now > due + SLACK {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push((due, now));
        }
        looked = now;
    }
}
