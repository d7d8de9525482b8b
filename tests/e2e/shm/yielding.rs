//! A sidecar that has too little CPU: calls go elsewhere, none fails, and they come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shmesh_shm::{Flags, Header, INLINE_KEY, Kind, Protocol};

use super::death::learn;
use super::handmade::Session;
use super::{CONFIG, client, put};
use crate::cgroup::Quota;
use crate::process::until;
use crate::service::noise_service;
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    a_starved_sidecar_sends_calls_elsewhere_and_takes_them_back,
    what_the_sidecar_costs_is_shown,
    a_sidecar_that_waits_for_its_one_caller_yields_nothing,
    signs_of_life_rouse_nobody,
);

/// Cores that the starved sidecar has: less than calls without a pause take on any machine.
const CORES: f64 = 0.05;
/// Threads that call.
const CALLERS: usize = 4;
/// Its own answers cost CPU as well, so a starved sidecar is not asked in a tight loop.
const ASKED_EVERY: Duration = Duration::from_millis(300);

fn start(driver: Driver, more: &str, endpoint: &str) -> Sidecar {
    let words = [("up", endpoint), ("raw_cluster", "service")];
    // A call waits for as long as the machine may stand still.
    let config = CONFIG.replace("first_byte: 10s", "first_byte: 10m");
    Sidecar::start_with(driver, &format!("{config}{more}"), &words, &["--workers", "1"])
}

fn share(sidecar: &Sidecar, priority: &str) -> f64 {
    sidecar.metric(&format!("shmesh_yield_share{{priority=\"{priority}\"}}"))
}

fn a_starved_sidecar_sends_calls_elsewhere_and_takes_them_back(driver: Driver) {
    let service = noise_service();
    let sidecar = start(driver, "yield: { max_percent: 30 }", &service.endpoint);
    let client = client(&sidecar);
    learn(&client, || put("service", b"x"));
    let through = || sidecar.requests("apps", "service", 200);
    let before = through();
    let quota = match Quota::of(sidecar.process.pid() as u32, CORES) {
        Ok(quota) => quota,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, stop, made) = (client.clone(), stop.clone(), made.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // What goes round does not go faster than that, so that the test needs no CPU of its own.
                    thread::sleep(Duration::from_micros(100));
                    assert_eq!(client.call(put("service", b"hello")).expect("an answer").body, b"hello");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    until("it yields all that it may", || {
        thread::sleep(ASKED_EVERY);
        share(&sidecar, "default") == 300.0
    });
    let shown = sidecar.metrics();
    assert_eq!(shown["shmesh_yield_share{priority=\"low\"}"], 600.0);
    assert_eq!(shown["shmesh_yield_share{priority=\"high\"}"], 0.0);
    assert_eq!(shown["shmesh_yield_reason{reason=\"quota\"}"], 1.0);
    assert_eq!(shown["shmesh_cpu_quota_millicores"], CORES * 1000.0);
    assert!(shown["shmesh_yields_total{reason=\"quota\"}"] >= 1.0);
    // Where it is asked, the kernel counts the same.
    let stopped = quota.throttled().expect("it is counted");
    assert!(
        stopped >= shown["shmesh_cpu_throttled_periods_total"] && shown["shmesh_cpu_throttled_periods_total"] >= 1.0
    );
    until("calls go elsewhere", || {
        thread::sleep(ASKED_EVERY);
        // Those that go through are counted before their caller counts them, but for one each.
        let (through, made) = (through() - before, made.load(Ordering::Relaxed) as f64);
        made - through > 10.0
    });
    drop(quota);
    until("they come back", || share(&sidecar, "default") == 0.0);
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().expect("no call fails");
    }
    let before = through();
    for _ in 0..20 {
        assert_eq!(client.call(put("service", b"x")).expect("an answer").status, 200);
    }
    until("they are counted", || through() >= before + 20.0);
    assert!(sidecar.log().contains("too little CPU") && sidecar.log().contains("for want of CPU any more"));
}

/// Its worker spins between calls, with all of a quota of one core.
fn a_sidecar_that_waits_for_its_one_caller_yields_nothing(driver: Driver) {
    const CALLED_FOR: Duration = Duration::from_secs(2);
    let service = noise_service();
    let sidecar = start(driver, "max_spin: 100us", &service.endpoint);
    let client = client(&sidecar);
    learn(&client, || put("service", b"x"));
    let _quota = match Quota::of(sidecar.process.pid() as u32, 1.0) {
        Ok(quota) => quota,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let began = Instant::now();
    while began.elapsed() < CALLED_FOR {
        assert_eq!(client.call(put("service", b"hello")).expect("an answer").body, b"hello");
    }
    let shown = sidecar.metrics();
    assert_eq!(shown["shmesh_yields_total{reason=\"quota\"}"], 0.0);
    assert!(shown["shmesh_worker_spin_nanoseconds_total"] > 0.0);
}

fn signs_of_life_rouse_nobody(driver: Driver) {
    /// How often the app rings, and the pause between: longer than it takes the thread to fall asleep, altogether.
    const RINGS: usize = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    let sidecar = start(driver, "", "tcp:127.0.0.1:1");
    let mut session = Session::attach(&sidecar);
    let shown = |name: &str| sidecar.metric(name);
    let key = b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n";
    let mut generation = 0;
    until("a call rouses it from its sleep", || {
        thread::sleep(ASKED_EVERY);
        generation += 1;
        let mut open = Header::new(Kind::Open, 0, generation);
        (open.code, open.flags, open.route) = (Protocol::Http as u16, Flags::END, INLINE_KEY);
        open.head_len = key.len() as u32;
        session.put(&open, &[key]);
        assert_eq!(session.next().code, 404);
        shown("shmesh_load_roused_total") > 0.0
    });
    let (roused, parks) = (shown("shmesh_load_roused_total"), shown("shmesh_worker_parks_total"));
    for _ in 0..RINGS {
        thread::sleep(PAUSE);
        session.ring();
    }
    until("the worker heard it", || shown("shmesh_worker_parks_total") > parks);
    assert_eq!(shown("shmesh_load_roused_total"), roused);
}

fn what_the_sidecar_costs_is_shown(driver: Driver) {
    let service = noise_service();
    let sidecar = start(driver, "stages: true", &service.endpoint);
    let client = client(&sidecar);
    let shown = |name: &str| sidecar.metrics().get(name).copied();
    assert_eq!(shown("shmesh_mesh_tax_cpu_permille"), None, "nothing to compare with yet");
    until("the app's CPU time is compared with", || {
        for _ in 0..100 {
            assert_eq!(client.call(put("service", b"x")).expect("an answer").status, 200);
        }
        shown("shmesh_mesh_tax_cpu_permille").is_some_and(|permille| permille > 0.0)
    });
    let latency = shown("shmesh_mesh_tax_latency_permille").expect("stages are on");
    assert!(latency > 0.0, "{latency}");
    let cpu = shown("shmesh_cpu_nanoseconds_total").expect("it is always there");
    assert!(cpu > 0.0 && shown("shmesh_cpu_nanoseconds_total") >= Some(cpu));
    assert_eq!(share(&sidecar, "default"), 0.0);
}
