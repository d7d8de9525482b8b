//! What an app can do to the doorbells.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use nix::unistd::{read, write};
use shmesh_shm::geometry::PARKED;

use super::Scene;
use crate::app::App;
use crate::entry::{ANSWER, CODE, END, Entry, FLAGS, HEAD_LEN, HTTP, KIND, NONE, OPEN, ROUTE};
use crate::process::PATIENCE;
use crate::sidecar::Driver;

on_each_driver!(
    a_worker_bell_that_is_drained,
    a_worker_bell_that_is_full,
    a_worker_bell_that_blocks,
    a_worker_bell_that_never_rests,
    a_lane_bell_that_is_full,
    a_lane_bell_that_is_closed,
);

fn attached(driver: Driver) -> (Scene, usize, App) {
    let scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let app = App::attach_patiently(&scene.sidecar.path("apps.sock"), 1, None);
    (scene, descriptors, app)
}

/// Asks for what no route takes: the answer is the sidecar's own.
fn ask(app: &mut App, generation: u64) {
    let key = b"GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n";
    let open = Entry::new(OPEN, 0, generation).with(CODE, HTTP).with(FLAGS, END).with(ROUTE, NONE);
    app.say(0, open.with(HEAD_LEN, key.len() as u64), key);
}

fn is_answered(app: &mut App) {
    let answer = app.await_next(0, PATIENCE).expect("an answer");
    assert_eq!((answer.entry.get(KIND), answer.entry.get(CODE)), (ANSWER, 404), "{answer:?}");
}

fn nonblocking(bell: &OwnedFd, on: bool) {
    let flag = if on { OFlag::O_NONBLOCK } else { OFlag::empty() };
    fcntl(bell, FcntlArg::F_SETFL(flag)).expect("a flag");
}

fn a_worker_bell_that_is_drained(driver: Driver) {
    let (mut scene, descriptors, mut app) = attached(driver);
    for generation in 1..=200 {
        ask(&mut app, generation);
        while read(&app.worker_bells[0], &mut [0; 8]).is_ok() {}
        // Who takes its own ring back before the worker wakes has not rung.
        if app.await_next(0, Duration::from_millis(50)).is_none() {
            app.ring(0);
            is_answered(&mut app);
        }
        if generation % 50 == 0 {
            // Long enough for the worker to sleep: the next ring has to wake it all the same.
            std::thread::sleep(Duration::from_millis(20));
            scene.others_are_served();
        }
    }
    drop(app);
    scene.nothing_is_left(descriptors);
}

fn a_worker_bell_that_is_full(driver: Driver) {
    let (mut scene, descriptors, mut app) = attached(driver);
    let full = (u64::MAX - 1).to_ne_bytes();
    write(&app.worker_bells[0], &full).expect("an eventfd takes as much");
    scene.others_are_served();
    // Whoever spoils its bell may have to wait for itself, and rings in vain.
    ask(&mut app, 1);
    scene.idles();
    scene.others_are_served();
    read(&app.worker_bells[0], &mut [0; 8]).expect("it was full");
    app.ring(0);
    is_answered(&mut app);
    drop(app);
    scene.nothing_is_left(descriptors);
}

fn a_worker_bell_that_blocks(driver: Driver) {
    let (mut scene, descriptors, mut app) = attached(driver);
    // The flag is the open file's, which the sidecar shares.
    nonblocking(&app.worker_bells[0], false);
    for generation in 1..=20 {
        ask(&mut app, generation);
        is_answered(&mut app);
        scene.others_are_served();
    }
    write(&app.worker_bells[0], &(u64::MAX - 1 - 20).to_ne_bytes()).expect("there is as much room");
    scene.others_are_served();
    // Empty: a read would block now.
    read(&app.worker_bells[0], &mut [0; 8]).expect("it was full");
    scene.others_are_served();
    ask(&mut app, 21);
    is_answered(&mut app);
    drop(app);
    scene.nothing_is_left(descriptors);
}

fn a_worker_bell_that_never_rests(driver: Driver) {
    let (mut scene, descriptors, app) = attached(driver);
    let until = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < until {
                app.ring(0);
            }
        });
        while Instant::now() < until {
            scene.others_are_served();
        }
    });
    drop(app);
    scene.nothing_is_left(descriptors);
}

fn a_lane_bell_that_is_full(driver: Driver) {
    let (mut scene, descriptors, mut app) = attached(driver);
    nonblocking(&app.lane_bells[0], false);
    // Towards the sidecar, which does not listen there.
    while send(app.lane_bells[0].as_raw_fd(), &[1; 4096], MsgFlags::MSG_DONTWAIT).is_ok() {}
    // And towards the app, which sleeps, it says, and is rung for each answer.
    for generation in 1..=1_500 {
        app.to_proxy.store(app.lanes[0].at + PARKED, 3);
        ask(&mut app, generation);
        is_answered(&mut app);
    }
    scene.others_are_served();
    scene.idles();
    drop(app);
    scene.nothing_is_left(descriptors);
}

fn a_lane_bell_that_is_closed(driver: Driver) {
    let (mut scene, descriptors, mut app) = attached(driver);
    for (generation, how) in [(1, Some(Shutdown::Read)), (2, Some(Shutdown::Both)), (3, None)] {
        match how {
            Some(how) => shutdown(app.lane_bells[0].as_raw_fd(), how).expect("a socket"),
            None => app.lane_bells.clear(),
        }
        app.to_proxy.store(app.lanes[0].at + PARKED, 1);
        ask(&mut app, generation);
        is_answered(&mut app);
        scene.others_are_served();
        scene.idles();
    }
    drop(app);
    scene.nothing_is_left(descriptors);
}
