//! How apps learn that the sidecar is dead, or hung: the liveness sockets and the thread that holds them, and signs of life.

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use shmesh_client::{Call, CallError, Client, Protocol, Request, Target, Wait};

use super::death::learn;
use super::{before, client, expect_sessions, put};
use crate::process::{PATIENCE, until};
use crate::service::{Service, http, noise_service};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    the_sockets_are_held_by_a_thread_with_a_file_table_of_its_own,
    a_call_is_answered_elsewhere_at_once_although_a_lot_of_memory_is_shared,
    a_stopped_sidecar_is_left_and_forwards_nothing_when_it_wakes_up,
    a_call_that_takes_long_is_no_reason_to_leave,
);

/// Lanes whose arenas are used: 4 MiB of each in both directions.
const LANES: u16 = 32;
/// Calls in flight on each of them, which do not share blocks.
const CALLS: usize = 15;
/// Bytes of each, so that they need what a lane has.
const BODY: usize = 240 << 10;

/// Descriptors in the file table of the sidecar's thread of this name.
fn descriptors_of(sidecar: &Sidecar, name: &str) -> usize {
    let tasks = format!("/proc/{}/task", sidecar.process.pid());
    let named = fs::read_dir(tasks).expect("it runs").filter_map(|task| {
        let path = task.ok()?.path();
        (fs::read_to_string(path.join("comm")).ok()?.trim() == name).then_some(path)
    });
    let threads: Vec<_> = named.collect();
    let [thread] = &threads[..] else { panic!("{} threads are called {name}", threads.len()) };
    fs::read_dir(thread.join("fd")).expect("it runs").count()
}

fn the_sockets_are_held_by_a_thread_with_a_file_table_of_its_own(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    // The standard ones, and where it is told.
    assert_eq!(descriptors_of(&sidecar, "liveness"), 4, "{}", sidecar.log());
    let clients = [client(&sidecar), client(&sidecar)];
    until("it has one more for each session", || descriptors_of(&sidecar, "liveness") == 6);
    let [first, second] = clients;
    drop(first);
    expect_sessions(&sidecar, 1);
    until("one is closed with its session", || descriptors_of(&sidecar, "liveness") == 5);
    assert_eq!(second.call(put("service", b"still here")).expect("an answer").body, b"still here");
}

/// Moves bodies through so much memory of each lane that the kernel has a lot to take down.
fn touch_arenas(client: &Client) {
    let body = vec![b'x'; BODY];
    let mut lanes: Vec<_> = (0..LANES).map(|_| client.lane().expect("a lane")).collect();
    for lane in &mut lanes {
        let head = b"PUT /echo HTTP/1.1\r\nHost: service\r\n\r\n";
        for _ in 0..CALLS {
            let mut call = Call::new(Target::Key(Protocol::Http, head), &[]);
            let payload = [&body[..]];
            call.payload = &payload;
            lane.submit(&call).expect("it fits");
        }
        for _ in 0..CALLS {
            let answer = lane.receive(Wait::For(PATIENCE)).expect("the sidecar is there").expect("in time");
            assert_eq!(answer.outcome.expect("an answer").body.len(), BODY);
        }
    }
}

fn a_call_is_answered_elsewhere_at_once_although_a_lot_of_memory_is_shared(driver: Driver) {
    let service = noise_service();
    let mut sidecar = before(driver, &service.endpoint);
    let client = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .lanes(LANES)
        .connect()
        .expect("it attaches");
    touch_arenas(&client);
    let shared = sidecar.process.resident();
    learn(&client, || put("service", b"hello"));
    let killed = Instant::now();
    sidecar.process.signal(Signal::SIGKILL);
    let response = client.call(put("service", b"elsewhere")).expect("an answer");
    let took = killed.elapsed();
    assert_eq!(response.body, b"elsewhere");
    // A bound for machines that are busy; docs/RELIABILITY.md has the distribution.
    assert!(took < PATIENCE, "{took:?}");
    eprintln!("{}: {} MB resident, {took:?} from the kill to an answer", driver.name(), shared >> 20);
    sidecar.process.wait();
}

/// Answers each call after `time`, and notes the body of each that came.
fn slow(time: Duration) -> (Service, Arc<Mutex<Vec<Vec<u8>>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let service = http(move |head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        let waits = body.starts_with(b"slow");
        noted.lock().expect("no panic").push(body);
        if waits {
            thread::sleep(time);
        }
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    (service, seen)
}

/// Stops the sidecar: when this returns, none of its threads runs.
fn stop(sidecar: &Sidecar) {
    sidecar.process.signal(Signal::SIGSTOP);
    let tasks = format!("/proc/{}/task", sidecar.process.pid());
    let is_stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    until("all of its threads are stopped", || {
        fs::read_dir(&tasks).expect("it runs").all(|task| is_stopped(task.expect("an entry")))
    });
}

/// Leaves a sidecar that gives no sign of life within half a second of being asked: enough for one that runs on a busy machine.
fn impatient(sidecar: &Sidecar) -> Client {
    let client = Client::builder().socket(sidecar.path("apps.sock")).hang_timeout(Duration::from_secs(1));
    client.connect().expect("it attaches")
}

fn post(body: &'static [u8]) -> Request<'static> {
    Request::http("POST", "service", "/echo").body(body)
}

fn a_stopped_sidecar_is_left_and_forwards_nothing_when_it_wakes_up(driver: Driver) {
    let (service, seen) = slow(Duration::from_secs(2));
    let times = |body: &[u8]| seen.lock().expect("no panic").iter().filter(|known| *known == body).count();
    let sidecar = before(driver, &service.endpoint);
    let client = impatient(&sidecar);
    learn(&client, || post(b"quick"));
    learn(&client, || put("service", b"quick"));
    let forwarded = ["PUT", "POST"].map(|method| {
        let client = client.clone();
        thread::spawn(move || client.call(Request::http(method, "service", "/echo").body(b"slow")))
    });
    until("both are being answered", || times(b"slow") == 2);
    stop(&sidecar);
    // A call that the sidecar never sees, and two that it forwarded.
    assert_eq!(client.call(post(b"round")).expect("an answer").body, b"ok");
    let [put_call, post_call] = forwarded.map(|call| call.join().expect("no panic"));
    assert_eq!(put_call.expect("an idempotent call is made again").body, b"ok");
    let error = post_call.expect_err("it may have run");
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");
    assert!(error.to_string().contains("no sign of life"), "{error}");

    sidecar.process.signal(Signal::SIGCONT);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    until("calls go through it again", || {
        assert_eq!(client.call(put("service", b"after")).expect("an answer").body, b"ok");
        sidecar.requests("apps", "service", 200) > 8.0
    });
    assert_eq!((times(b"round"), times(b"slow")), (1, 3), "nothing that was withdrawn ran");
}

fn a_call_that_takes_long_is_no_reason_to_leave(driver: Driver) {
    let (service, seen) = slow(Duration::from_millis(1500));
    let sidecar = before(driver, &service.endpoint);
    // Asked for a sign of life twice.
    let client = impatient(&sidecar);
    assert_eq!(client.call(post(b"slow")).expect("an answer").body, b"ok");
    assert_eq!(sidecar.requests("apps", "service", 200), 1.0, "through the sidecar");
    assert_eq!(seen.lock().expect("no panic").len(), 1);
}
