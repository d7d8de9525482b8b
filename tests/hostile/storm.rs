//! The hostile peer at full speed, beside neighbours who must not notice.

use std::time::{Duration, Instant};

use crate::app::App;
use crate::attacker::{Attacker, Tally};
use crate::choices::Choices;
use crate::flipper::Flipper;
use crate::idle::expect_idle;
use crate::neighbour::{Neighbour, Steady, Victim, percentiles};
use crate::process::{Process, until};
use crate::sidecar::{Driver, Sidecar};
use crate::upstream::Upstream;

on_each_driver!(a_million_lies_harm_nobody_else);

/// Lies told on each driver; `SHMESH_HOSTILE_MUTATIONS` says otherwise.
const MUTATIONS: u64 = 600_000;

/// The seed; `SHMESH_HOSTILE_SEED` says otherwise.
const SEED: u64 = 20_261_121;

/// A session that was not ended by then ends by itself.
const ROUNDS: usize = 200;

/// How much longer than alone a neighbour's calls may take beside an attacker: p99, as a factor and in addition. Both, the attacker,
/// its victim and the upstreams share the cores of the machine with the sidecar, so this is what the scheduler does, several times over.
const SLOWER: u32 = 10;
const SLOWER_BY: Duration = Duration::from_millis(30);

/// What enough lies come upon, each a check of the sidecar's that strikes. (`consumed`, `old-generation`, `over-credit` and
/// `too-much-credit` are rarer.)
const OFFENCES: [&str; 18] = [
    "after-end",
    "answered-twice",
    "block",
    "code",
    "flags",
    "generation",
    "head",
    "kind",
    "length",
    "published",
    "released",
    "released-block",
    "route",
    "slot",
    "slot-in-use",
    "undefined-route",
    "unknown-call",
    "wrong-lane",
];

/// How long a neighbour is watched alone.
const ALONE: Duration = Duration::from_secs(2);

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
routes:
  - { match: { host: service }, cluster: service }
  - { match: { host: flaky }, cluster: flaky }
  - { match: { host: local }, cluster: local }
  - { match: { host: good }, cluster: good }
  - { match: { service: com.demo.GreetService }, cluster: greeter }
clusters:
  - { name: service, endpoints: [ \"$http\" ] }
  - { name: flaky, endpoints: [ \"$flaky\" ], first_byte_timeout: 1s }
  - { name: greeter, endpoints: [ \"$dubbo\" ] }
  - { name: raw-service, endpoints: [ \"$raw\" ] }
  - { name: local, endpoints: [ \"shm:hostile\" ], first_byte_timeout: 100ms }
  - { name: good, endpoints: [ \"shm:good\" ] }
workers: 1
";

fn a_million_lies_harm_nobody_else(driver: Driver) {
    let seed = number("SHMESH_HOSTILE_SEED").unwrap_or(SEED);
    let wanted = number("SHMESH_HOSTILE_MUTATIONS").unwrap_or(MUTATIONS);
    println!("SHMESH_HOSTILE_SEED={seed}");
    let upstream = Upstream::start();
    let words =
        [("http", &*upstream.http), ("flaky", &*upstream.flaky), ("dubbo", &*upstream.dubbo), ("raw", &*upstream.raw)];
    let mut sidecar = Sidecar::start(driver, CONFIG, &words);
    let apps = sidecar.path("apps.sock");
    let served = format!("shm:{}", apps.display());
    let arguments = ["echo", "--protocol", "http", "--listen", &served, "--name", "good"];
    let good = Process::start("the app in order", &sidecar.path("good.log"), &arguments);
    until("the app in order serves", || good.log().starts_with("listening on "));

    let mut neighbour = Neighbour::attach(&apps);
    neighbour.call_around();
    let before = Holdings::of(&sidecar);
    let steady = Steady::start(Neighbour::attach(&apps));
    std::thread::sleep(ALONE);
    let mut alone = steady.stop();

    let victim = Victim::start(sidecar.tcp("web"), &apps);
    let flipper = Flipper::start(seed);
    let mut choices = Choices::Seeded(seed);
    let mut tally = Tally::default();
    let steady = Steady::start(Neighbour::attach(&apps));
    let mut settled = 0;
    let began = Instant::now();
    while tally.mutations() < wanted && !steady.is_broken() {
        let serving = (!choices.one_in(3)).then_some("hostile");
        let app = App::attach_patiently(&apps, 1 + choices.below(2) as u16, serving);
        let mut attacker = Attacker::new(app, &mut choices);
        let flips = attacker.choices.one_in(6);
        if flips {
            flipper.aim(&attacker.app, 0);
        }
        let rounds = if attacker.choices.one_in(2) { 12 } else { ROUNDS };
        let alive = attacker.run(rounds);
        flipper.rest();
        if alive && !flips && attacker.settle() {
            settled += 1;
            attacker.use_all_slots();
        }
        if tally.sessions % 8 == 0 {
            attacker.search();
        }
        tally.add(&attacker.tally);
        if attacker.tally.ended > 0 {
            assert!(attacker.app.ends_within(Duration::from_secs(30)), "the session of an offender was not ended");
        }
        assert!(sidecar.process.ended().is_none(), "the sidecar is gone");
    }
    let took = began.elapsed();
    let mut beside = steady.stop();
    let answers = victim.stop();
    let flips = flipper.flips();
    drop(flipper);

    upstream.record.check();
    let whole = upstream.record.whole.load(std::sync::atomic::Ordering::Relaxed);
    let frames = upstream.record.frames.load(std::sync::atomic::Ordering::Relaxed);
    println!("{tally:?}, {settled} settled, {flips} words while they were read, in {took:?}");
    println!("upstream: {whole} requests, {frames} frames; the victim got {answers} answers");
    let (p50, p99) = percentiles(&mut alone);
    let (p50_beside, p99_beside) = percentiles(&mut beside);
    println!("a neighbour's calls: p50 {p50:?}, p99 {p99:?} alone; p50 {p50_beside:?}, p99 {p99_beside:?} beside it");

    // Nothing is left of it all.
    until("the sidecar holds what it held before", || Holdings::of(&sidecar).are_within(&before));
    assert_eq!(sidecar.metric("shmesh_calls_in_flight"), 0.0);
    expect_idle(&sidecar.process);
    for _ in 0..100 {
        neighbour.call();
    }
    let log = sidecar.log();
    assert!(!log.contains("panicked"), "a thread of the sidecar panicked");

    // Each offence has its name, in the log and in the metric.
    let reasons = offences(&sidecar);
    let counted: f64 = reasons.iter().map(|(_, count)| count).sum();
    assert_eq!(log.matches("an app broke shm-v1").count() as f64, counted);
    println!("{counted} sessions were ended for {} reasons: {reasons:?}", reasons.len());
    assert!(settled > tally.sessions / 50, "hardly a session lives to be looked at: {settled} of {}", tally.sessions);
    for offence in OFFENCES {
        assert!(reasons.iter().any(|(reason, _)| reason == offence), "no session was ended for {offence}: {reasons:?}");
    }
    assert!(tally.ended as f64 <= counted, "{} sessions were ended, {counted} for a reason", tally.ended);
    // Who is that much slower beside an attacker is not protected from it.
    assert!(p99_beside < p99 * SLOWER + SLOWER_BY, "p99 {p99_beside:?} beside an attacker, {p99:?} alone");
    assert!(sidecar.process.ended().is_none());
}

/// What a session could leave behind.
struct Holdings {
    sessions: f64,
    lanes: f64,
    calls: f64,
    /// Descriptors, but those of connections to upstreams, which are kept for the next call.
    descriptors: f64,
}

impl Holdings {
    fn of(sidecar: &Sidecar) -> Holdings {
        let metrics = sidecar.metrics();
        let one = |name: &str| metrics.get(name).copied().unwrap_or(0.0);
        let upstream = metrics
            .iter()
            .filter(|(name, _)| name.starts_with("shmesh_endpoint_connections") && !name.contains("endpoint=\"shm:"));
        Holdings {
            sessions: one("shmesh_sessions"),
            lanes: one("shmesh_lanes"),
            calls: one("shmesh_calls_in_flight"),
            descriptors: sidecar.process.descriptors() as f64 - upstream.map(|(_, count)| count).sum::<f64>(),
        }
    }
}

impl Holdings {
    fn are_within(&self, other: &Holdings) -> bool {
        self.sessions <= other.sessions
            && self.lanes <= other.lanes
            && self.calls <= other.calls
            && self.descriptors <= other.descriptors
    }
}

/// Why sessions were ended, and how often.
fn offences(sidecar: &Sidecar) -> Vec<(String, f64)> {
    let metrics = sidecar.metrics();
    let reasons = metrics.into_iter().filter_map(|(name, count)| {
        let reason = name.strip_prefix("shmesh_session_violations_total{reason=\"")?.strip_suffix("\"}")?;
        Some((reason.to_owned(), count))
    });
    reasons.collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
