//! Apps that wait for each other, or that stand still with their hands full: everybody else goes on, and what is stuck ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shmesh_client::{Client, DubboKey, Request};
use shmesh_proto::dubbo::{HEADER_LEN, Invocation, serialization, write_request};

use crate::app::App;
use crate::corpus::SERVICE;
use crate::entry::{
    ANSWER, BLOCK, CODE, CREDIT, CREDITS, DEADLINE, DEFINE, DUBBO, END, Entry, FLAGS, GENERATION, HEAD_LEN, HTTP, KIND,
    LENGTH, NONE, OPEN, RESET, ROUTE, SLOT,
};
use crate::idle::expect_idle;
use crate::neighbour::percentiles;
use crate::process::{PATIENCE, until};
use crate::service::{Service, http};
use crate::sidecar::{Driver, Sidecar};
use crate::upstream::Upstream;

on_each_driver!(
    two_that_call_each_other_with_all_slots_full,
    one_that_stands_still_on_a_shared_connection,
    arenas_that_are_full_in_both_directions,
    rings_full_of_the_longest_keys,
);

const CONFIG: &str = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
routes:
  - { match: { host: a }, cluster: a }
  - { match: { host: b }, cluster: b }
  - { match: { host: service }, cluster: service }
  - { match: { host: sink }, cluster: sink }
  - { match: { service: com.demo.GreetService }, cluster: greeter }
clusters:
  - { name: a, endpoints: [ \"shm:a\" ], first_byte_timeout: 60s }
  - { name: b, endpoints: [ \"shm:b\" ], first_byte_timeout: 60s }
  - { name: service, endpoints: [ \"$up\" ], first_byte_timeout: 60s }
  - { name: sink, endpoints: [ \"$sink\" ], first_byte_timeout: 60s }
  - { name: greeter, endpoints: [ \"$dubbo\" ], first_byte_timeout: 60s }
workers: 1
";

/// A stuck call's deadline.
const DEADLINE_MS: u64 = 1_500;

/// Longest that those may take who are not stuck.
const SOON: Duration = Duration::from_secs(10);

/// Bytes of the answer to `/large`, and of each request that nobody takes.
const LARGE: usize = 200_000;

struct Scene {
    sidecar: Sidecar,
    upstream: Upstream,
    _services: [Service; 2],
}

impl Scene {
    fn start(driver: Driver) -> Scene {
        let upstream = Upstream::start();
        let service = http(|head, wire| {
            wire.body(head, false, |_| ());
            let len = if head.path() == "/large" { LARGE } else { 2 };
            let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n").into_bytes();
            answer.resize(answer.len() + len, b'l');
            let _ = wire.try_send(&answer);
        });
        // Takes connections, and nothing that comes over them.
        let sink = Service::tcp(|wire| {
            std::thread::sleep(Duration::from_secs(60));
            drop(wire);
        });
        let words = [("up", &*service.endpoint), ("sink", &*sink.endpoint), ("dubbo", &*upstream.dubbo)];
        let sidecar = Sidecar::start(driver, CONFIG, &words);
        Scene { sidecar, upstream, _services: [service, sink] }
    }

    fn attach(&self, serving: Option<&str>) -> App {
        App::attach_patiently(&self.sidecar.path("apps.sock"), 1, serving)
    }

    fn client(&self) -> Client {
        let client = Client::builder()
            .hang_timeout(crate::process::PATIENCE)
            .socket(self.sidecar.path("apps.sock"))
            .lanes(1)
            .fallback(false)
            .connect();
        client.expect("it attaches")
    }

    /// Calls of somebody who has nothing to do with it.
    fn others_go_on(&self, client: &Client) {
        for path in ["/", "/large"] {
            let response = client.call(Request::http("GET", "service", path).timeout(SOON)).expect("the others go on");
            assert_eq!(response.status, 200);
        }
    }
}

fn call(app: &mut App, slot: u64, generation: u64, host: &str, path: &str, body: usize) {
    let key = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let open = Entry::new(OPEN, slot, generation).with(CODE, HTTP).with(FLAGS, END).with(ROUTE, NONE);
    let open = open.with(HEAD_LEN, key.len() as u64).with(DEADLINE, DEADLINE_MS * 1_000);
    app.say(0, open, &[key, vec![b'x'; body]].concat());
}

/// Takes answers until each of the slots has one; gives their codes. An answer that had begun ends with a RESET, whose code is below 100.
fn outcomes(app: &mut App, slots: usize) -> Vec<u64> {
    let late = Instant::now() + SOON;
    let mut codes = vec![0; slots];
    let mut ended = vec![false; slots];
    while !ended.iter().all(|ended| *ended) {
        assert!(Instant::now() < late, "{} calls did not end", ended.iter().filter(|ended| !**ended).count());
        let Some(taken) = app.await_next(0, SOON) else { continue };
        let slot = taken.entry.get(SLOT) as usize;
        if matches!(taken.entry.get(KIND), ANSWER | RESET) {
            codes[slot] = taken.entry.get(CODE);
        }
        ended[slot] |= taken.entry.has(END) && taken.entry.get(KIND) != OPEN || taken.entry.get(KIND) == RESET;
        let length = taken.payload.len() as u64;
        if length > 0 && !ended[slot] {
            let credit = Entry::new(CREDITS, slot as u64, taken.entry.get(GENERATION)).with(CREDIT, length);
            app.say(0, credit, &[]);
        }
    }
    codes
}

/// The lane on which an app serves.
fn serving(app: &App) -> usize {
    app.lanes.iter().position(|lane| lane.info.serving).expect("it serves")
}

fn two_that_call_each_other_with_all_slots_full(driver: Driver) {
    let scene = Scene::start(driver);
    let (mut a, mut b) = (scene.attach(Some("a")), scene.attach(Some("b")));
    let other = scene.client();
    let slots = u64::from(a.geometry.slots);
    let began = Instant::now();
    for slot in 0..slots {
        call(&mut a, slot, 1, "b", "/", 3_000);
        call(&mut b, slot, 1, "a", "/", 3_000);
    }
    scene.sidecar.expect_metric("shmesh_calls_in_flight", 2.0 * slots as f64);
    // One more has to wait for a slot, and ends by its own deadline.
    let waits = Request::http("GET", "a", "/").timeout(Duration::from_millis(500));
    match other.call(waits) {
        Ok(response) => assert_eq!(response.status, 504),
        Err(error) => assert!(error.to_string().contains("time"), "{error}"),
    }
    scene.others_go_on(&other);
    for app in [&mut a, &mut b] {
        assert_eq!(outcomes(app, slots as usize), vec![504; slots as usize]);
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(DEADLINE_MS * 9 / 10) && took < SOON, "{took:?}");
    scene.sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    // Both come to themselves: what they find are calls that are over, and then new ones. No slot is lost.
    for round in 2..4 {
        for slot in 0..slots {
            call(&mut a, slot, round, "b", "/", 10);
        }
        let lane = serving(&b);
        let mut served = 0;
        while served < slots {
            let taken = b.await_next(lane, PATIENCE).expect("a call");
            if taken.entry.get(KIND) != OPEN {
                continue;
            }
            let (slot, generation) = (taken.entry.get(SLOT), taken.entry.get(GENERATION));
            let head = b"HTTP/1.1 200 OK\r\n\r\n";
            let answer = Entry::new(ANSWER, slot, generation).with(CODE, 200).with(FLAGS, END);
            b.say(lane, answer.with(HEAD_LEN, head.len() as u64), head);
            // The first round's were answered too late and do not count.
            served += u64::from(taken.payload.ends_with(b"xxxxxxxxxx") && taken.payload.len() < 1_000);
        }
        assert_eq!(outcomes(&mut a, slots as usize), vec![200; slots as usize]);
    }
    scene.others_go_on(&other);
    assert!(!a.is_over() && !b.is_over());
}

const KEY: DubboKey<'static> =
    DubboKey { service: SERVICE, method: "sayHello", group: Some("g1"), version: Some("1.0.0"), tag: None };

fn frame(id: u64, len: usize) -> Vec<u8> {
    let argument = vec![b'a'; len];
    let invocation = Invocation {
        path: SERVICE,
        version: Some("1.0.0"),
        group: Some("g1"),
        method: "sayHello",
        argument: Some(&argument),
        timeout_ms: None,
        attachments: &[],
    };
    let mut frame = Vec::new();
    write_request(&mut frame, id, true, serialization::HESSIAN2, &invocation);
    frame
}

fn one_that_stands_still_on_a_shared_connection(driver: Driver) {
    let scene = Scene::start(driver);
    let other = scene.client();
    let ask = |id: u64| {
        let request = frame(id, 1_000);
        let response = other.call(Request::dubbo(KEY, &request).timeout(SOON)).expect("the others go on");
        assert_eq!(response.body[4..12], id.to_be_bytes(), "another call's answer");
        assert!(response.body.len() > HEADER_LEN + 1_000);
    };
    ask(1);
    // 64 answers of 60 KB fill its ring, its arena and its credit; it takes none of them.
    let mut still = scene.attach(None);
    let slots = u64::from(still.geometry.slots);
    let mut key = Vec::new();
    shmesh_shm::key::DubboKey {
        service: SERVICE,
        method: "sayHello",
        group: Some("g1"),
        version: Some("1.0.0"),
        tag: None,
    }
    .encode(&mut key);
    for slot in 0..slots {
        let open = Entry::new(OPEN, slot, 1).with(CODE, DUBBO).with(FLAGS, END).with(ROUTE, NONE);
        let open = open.with(HEAD_LEN, key.len() as u64).with(DEADLINE, DEADLINE_MS * 1_000);
        still.say(0, open, &[&key[..], &frame(slot, 60_000)].concat());
    }
    for id in 2..200 {
        ask(id);
    }
    // Its calls do not stay in flight: answered into its ring, or over by their deadline.
    scene.sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    let connections = scene.sidecar.metrics();
    let shared = connections
        .iter()
        .find(|(name, _)| name.starts_with("shmesh_endpoint_connections") && name.contains("cluster=\"greeter\""));
    assert_eq!(shared.map(|(_, count)| *count), Some(1.0), "all of them share one connection");
    expect_idle(&scene.sidecar.process);
    // When it wakes up, it gets what is its own, whole.
    let codes = outcomes(&mut still, slots as usize);
    assert!(codes.iter().all(|code| matches!(code, 20 | 1..=9)), "{codes:?}");
    scene.upstream.record.check();
    ask(200);
    assert!(!still.is_over());
}

fn arenas_that_are_full_in_both_directions(driver: Driver) {
    let scene = Scene::start(driver);
    let other = scene.client();
    let mut app = scene.attach(None);
    let slots = app.geometry.slots as usize;
    let half = slots as u64 / 2;
    // Half of the calls hold blocks of `to_proxy` that no upstream takes, half have answers that fill `to_app`.
    for slot in 0..half {
        call(&mut app, slot, 1, "sink", "/", LARGE);
        call(&mut app, slot + half, 1, "service", "/large", 0);
    }
    let blocks = half;
    scene.others_go_on(&other);
    until("its arena is full", || scene.sidecar.metric("shmesh_ring_full_total") > 0.0);
    let began = Instant::now();
    scene.others_go_on(&other);
    assert!(began.elapsed() < SOON);
    // The stuck ones end, and their blocks come back; nothing was taken yet, and nothing had to be.
    scene.sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    until("the blocks come back", || app.given_back(0) >= blocks);
    // A lane that waits for its app costs nothing.
    expect_idle(&scene.sidecar.process);
    let codes = outcomes(&mut app, slots);
    assert!(codes[..half as usize].iter().all(|code| matches!(code, 504 | 5)), "{codes:?}");
    assert!(codes[half as usize..].iter().all(|code| matches!(code, 200 | 504 | 5)), "{codes:?}");
    // The arenas are whole again.
    for slot in 0..slots as u64 {
        call(&mut app, slot, 2, "service", "/large", 10);
    }
    assert_eq!(outcomes(&mut app, slots), vec![200; slots]);
    scene.others_go_on(&other);
    assert!(!app.is_over());
}

/// Lanes of the app that keeps them full.
const FULL_LANES: u16 = 60;

/// Records that take long to handle do not come before those of others by the ringful.
fn rings_full_of_the_longest_keys(driver: Driver) {
    let scene = Scene::start(driver);
    let other = scene.client();
    let mut app = App::attach_patiently(&scene.sidecar.path("apps.sock"), FULL_LANES, None);
    let line = format!("X: {}\r\n", "x".repeat(1_000));
    let key = format!("GET / HTTP/1.1\r\nHost: service\r\n{}\r\n", line.repeat(60)).into_bytes();
    let lanes = app.lanes.len();
    assert_eq!(lanes, usize::from(FULL_LANES));
    // The same block again and again: it is this app that spoils its own payload.
    let define = Entry::new(DEFINE, 0, 0).with(CODE, HTTP).with(LENGTH, key.len() as u64).with(BLOCK, 0);
    let entries = u64::from(app.geometry.entries);
    let ended = AtomicBool::new(false);
    let mut times = std::thread::scope(|threads| {
        threads.spawn(|| {
            (0..lanes).for_each(|lane| app.put(lane, define, &key));
            while !ended.load(Ordering::Relaxed) {
                for lane in 0..lanes {
                    while app.lanes[lane].put - app.consumed(lane) < entries {
                        app.put(lane, define, &[]);
                    }
                    app.publish(lane);
                    app.ring(lane);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        std::thread::sleep(Duration::from_millis(200));
        let call = |_| {
            let began = Instant::now();
            let response =
                other.call(Request::http("GET", "service", "/").timeout(PATIENCE)).expect("the others go on");
            assert_eq!(response.status, 200);
            began.elapsed()
        };
        let times: Vec<Duration> = (0..25).map(call).collect();
        ended.store(true, Ordering::Relaxed);
        times
    });
    let (p50, _) = percentiles(&mut times);
    assert!(p50 < Duration::from_millis(100), "{times:?}");
}
