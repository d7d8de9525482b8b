//! How apps come to their end: forked, stopped, killed in the middle of everything.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmesh_shm::handshake;

use super::Scene;
use crate::app::{App, hello};
use crate::entry::{
    ANSWER, CODE, DEFINE, DUBBO, END, Entry, FLAGS, GENERATION, HEAD_LEN, HTTP, KIND, NONE, OPEN, ROUTE, SLOT, STREAM,
};
use crate::process::PATIENCE;
use crate::role::{self, Actor};
use crate::sidecar::Driver;
use crate::wire::Wire;

on_each_driver!(one_that_forks, one_that_is_stopped, one_that_is_killed_at_each_step);

/// A request to the app that serves.
const TO_LOCAL: &str = "POST / HTTP/1.1\r\nHost: local\r\nContent-Length: 2\r\n\r\nhi";

fn one_that_forks(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let mut actor = Actor::start("forks", &scene.sidecar.path("apps.sock"));
    let heir = Heir(actor.hear().parse().expect("a pid"));
    actor.kill();
    // The heir holds the socket and says nothing: the session stays, its calls end by their deadline, and it disturbs nobody.
    scene.others_are_served();
    scene.sidecar.expect_metric("shmesh_sessions", 1.0);
    scene.sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    scene.idles();
    drop(heir);
    scene.nothing_is_left(descriptors);
}

/// A process that nobody waits for, killed when it is dropped.
struct Heir(i32);

impl Drop for Heir {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.0), Signal::SIGKILL).expect("it runs");
    }
}

/// An actor with a child that inherits everything of the session.
#[expect(clippy::zombie_processes, reason = "it outlives this process; the test kills it")]
pub fn fork(socket: &Path) {
    let mut app = App::attach_patiently(socket, 2, None);
    call(&mut app, 0, "/never", 300_000);
    let held = [app.socket.as_fd(), app.memfds[0].as_fd(), app.memfds[1].as_fd()];
    let bells = app.worker_bells.iter().chain(&app.lane_bells).map(AsFd::as_fd);
    for descriptor in held.into_iter().chain(bells) {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    }
    let mut heir = Command::new("sleep");
    let heir = heir.arg("120").stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    role::say(&heir.id().to_string());
    role::await_cue();
}

/// Opens a call of this deadline, in microseconds.
fn call(app: &mut App, slot: u64, path: &str, deadline_us: u64) {
    let key = format!("POST {path} HTTP/1.1\r\nHost: service\r\n\r\n").into_bytes();
    let open = Entry::new(OPEN, slot, 1).with(CODE, HTTP).with(FLAGS, END).with(ROUTE, NONE);
    let open = open.with(HEAD_LEN, key.len() as u64).with(crate::entry::DEADLINE, deadline_us);
    app.say(0, open, &key);
}

fn one_that_is_stopped(driver: Driver) {
    stopped_for(driver, Duration::from_secs(3));
}

/// As long as the issue asks for: `cargo test -- --ignored stopped_for_a_minute`.
#[test]
#[ignore = "takes two minutes"]
fn stopped_for_a_minute() {
    for driver in [Driver::Epoll, Driver::Uring] {
        if driver.is_available() {
            stopped_for(driver, Duration::from_secs(60));
        }
    }
}

fn stopped_for(driver: Driver, time: Duration) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let mut actor = Actor::start("serves", &scene.sidecar.path("apps.sock"));
    actor.expect("serving");
    assert_eq!(scene.sidecar.connect("web").ask(TO_LOCAL).status(), 200);
    actor.signal(Signal::SIGSTOP);
    crate::process::until("it stands still", || actor.is_stopped());
    let until = Instant::now() + time;
    let began = Instant::now();
    let answer = scene.sidecar.connect("web").ask(TO_LOCAL);
    // The cluster's first_byte_timeout is 2 s.
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert!(began.elapsed() < Duration::from_secs(10));
    // More than it has slots for.
    let mut waiting: Vec<Wire> = (0..100)
        .map(|_| {
            let mut wire = scene.sidecar.connect("web");
            wire.send(TO_LOCAL);
            wire
        })
        .collect();
    scene.others_are_served();
    assert!(waiting.iter_mut().all(|wire| wire.answer().status() == 504));
    drop(waiting);
    while Instant::now() < until {
        scene.others_are_served();
        std::thread::sleep(Duration::from_millis(50));
    }
    scene.sidecar.expect_metric("shmesh_sessions", 1.0);
    scene.idles();
    actor.signal(Signal::SIGCONT);
    let mut answer = 0;
    crate::process::until("it serves again", || {
        answer = scene.sidecar.connect("web").ask(TO_LOCAL).status();
        answer == 200
    });
    actor.kill();
    scene.nothing_is_left(descriptors);
}

/// An actor that serves as `hostile` and also calls.
pub fn serve(socket: &Path) {
    let mut app = App::attach_patiently(socket, 1, Some("hostile"));
    role::say("serving");
    let lane = app.lanes.iter().position(|lane| lane.info.serving).expect("it serves");
    loop {
        let Some(taken) = app.await_next(lane, Duration::from_millis(50)) else {
            assert!(!app.is_over(), "the session of an app in order was ended");
            continue;
        };
        if taken.entry.get(KIND) == OPEN {
            answer(&mut app, lane, &taken.entry, END);
        }
    }
}

fn answer(app: &mut App, lane: usize, open: &Entry, end: u64) {
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    let entry = Entry::new(ANSWER, open.get(SLOT), open.get(GENERATION)).with(CODE, 200).with(FLAGS, end);
    app.say(lane, entry.with(HEAD_LEN, head.len() as u64), &[&head[..], b"hi"].concat());
}

/// The moments at which an app is killed, in order.
const STEPS: [&str; 17] = [
    "connected",
    "half-hello",
    "hello",
    "welcome-unread",
    "attached",
    "put",
    "published-unrung",
    "defined",
    "half-request",
    "half-request-in-block",
    "half-frame",
    "half-stream",
    "forwarded",
    "answer-untaken",
    "blocks-kept",
    "serving-silently",
    "serving-half",
];

fn one_that_is_killed_at_each_step(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    for step in STEPS {
        let mut actor = Actor::start(&format!("stops-at:{step}"), &scene.sidecar.path("apps.sock"));
        actor.expect("ready");
        let caller = step.starts_with("serving").then(|| {
            let mut wire = scene.sidecar.connect("web");
            wire.send(TO_LOCAL);
            actor.cue();
            actor.expect("called");
            wire
        });
        actor.kill();
        if let Some(mut wire) = caller {
            // What was forwarded and not answered may have run, and is told so; half an answer is cut.
            match step {
                "serving-half" => assert_eq!(wire.head().expect("the answer had begun").status(), 200),
                _ => assert_eq!(wire.answer().status(), 502),
            }
        }
        scene.others_are_served();
        scene.nothing_is_left(descriptors);
    }
}

/// An actor that gets as far as `step`, says so and waits for its end.
pub fn stop_at(socket: &Path, step: &str) {
    let mut stream = UnixStream::connect(socket).expect("it accepts");
    let bytes = hello(2, step.starts_with("serving").then_some("hostile"));
    if step == "connected" {
        return ready();
    }
    if step == "half-hello" {
        stream.write_all(&bytes[..20]).expect("it reads");
        return ready();
    }
    handshake::send(stream.as_fd(), &bytes, &[]).expect("it reads");
    if step == "hello" || step == "welcome-unread" {
        std::thread::sleep(Duration::from_millis(if step == "hello" { 0 } else { 100 }));
        return ready();
    }
    let mut app = App::welcomed(stream).expect("it is let in");
    let key = b"POST /never HTTP/1.1\r\nHost: service\r\n\r\n";
    let open = Entry::new(OPEN, 0, 1).with(CODE, HTTP).with(ROUTE, NONE).with(HEAD_LEN, key.len() as u64);
    match step {
        "attached" => {}
        "put" => app.put(0, open, key),
        "published-unrung" => {
            app.put(0, open, key);
            app.publish(0);
        }
        "defined" => app.say(0, Entry::new(DEFINE, 0, 0).with(CODE, HTTP).with(ROUTE, 3), key),
        "half-request" => app.say(0, open, &[&key[..], b"half"].concat()),
        "half-request-in-block" => app.say(0, open, &[&key[..], &[b'x'; 100_000]].concat()),
        "half-frame" => {
            let mut words = crate::choices::Choices::Seeded(1);
            let mut words = crate::corpus::Words(&mut words);
            let (key, frame) = (words.dubbo_key(), words.dubbo_frame(true));
            let open = open.with(CODE, DUBBO).with(HEAD_LEN, key.len() as u64);
            app.say(0, open, &[&key[..], &frame[..frame.len() / 2]].concat());
        }
        "half-stream" => app.say(0, open.with(FLAGS, STREAM).with(HEAD_LEN, 0), &key[..20]),
        "forwarded" => call(&mut app, 0, "/never", 0),
        "answer-untaken" => call(&mut app, 0, "/large", 0),
        "blocks-kept" => {
            call(&mut app, 0, "/large", 0);
            let late = Instant::now() + PATIENCE;
            while app.take(0).is_none() && Instant::now() < late {
                std::thread::yield_now();
            }
            app.consume(0);
        }
        "serving-silently" | "serving-half" => {
            role::say("ready");
            role::await_cue();
            let lane = app.lanes.iter().position(|lane| lane.info.serving).expect("it serves");
            let taken = app.await_next(lane, PATIENCE).expect("a call");
            if step == "serving-half" {
                answer(&mut app, lane, &taken.entry, 0);
            }
            std::thread::sleep(Duration::from_millis(50));
            role::say("called");
            role::await_cue();
            return;
        }
        other => panic!("no step {other}"),
    }
    // Time for the sidecar to get into it.
    std::thread::sleep(Duration::from_millis(50));
    ready();
}

fn ready() {
    role::say("ready");
    role::await_cue();
}
