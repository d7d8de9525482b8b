//! One side is killed: what it held is freed, others go on, and calls find another way if they may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use shmesh_client::{CallError, Client, Ran, Request};
use tempfile::TempDir;

use super::{App, before, before_app, client, expect_sessions, put};
use crate::bytes::MIB;
use crate::process::{Process, until};
use crate::service::{Gate, Service, http, noise_service, saying};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    an_app_that_is_killed_leaves_nothing,
    an_app_that_is_killed_with_bodies_on_the_way_leaves_nothing,
    a_serving_app_that_is_killed_fails_its_calls_only,
    calls_go_direct_when_the_sidecar_is_gone,
    a_call_in_flight_is_judged_when_the_sidecar_dies,
    a_client_attaches_again_to_a_new_sidecar,
    sigterm_lets_calls_over_shared_memory_finish,
);

/// `shmesh bench` as an app that calls without a pause.
fn busy_app(sidecar: &Sidecar, folder: &TempDir, payload: &str) -> Process {
    let via = format!("shm:{}", sidecar.path("apps.sock").display());
    let args = [
        "bench",
        "--via",
        &via,
        "--protocol",
        "http",
        "--target",
        "service",
        "--payload",
        payload,
        "--inflight",
        "32",
        "--connections",
        "2",
        "--duration",
        "60s",
    ];
    Process::start("the busy app", &folder.path().join("stderr"), &args)
}

/// A service that answers with the body, but not at once, so that calls are always in flight.
fn slow_echo() -> Service {
    http(|head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        std::thread::sleep(Duration::from_millis(5));
        let _ = wire.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        let _ = wire.try_send(&body);
    })
}

fn an_app_that_is_killed_leaves_nothing(driver: Driver) {
    killed_app(driver, &slow_echo(), "64");
}

fn an_app_that_is_killed_with_bodies_on_the_way_leaves_nothing(driver: Driver) {
    killed_app(driver, &slow_echo(), "600000");
}

fn killed_app(driver: Driver, service: &Service, payload: &str) {
    let sidecar = before(driver, &service.endpoint);
    let other = client(&sidecar);
    let folder = TempDir::new().expect("a folder");
    other.call(put("service", b"warm")).expect("an answer");
    let mut idle = None;
    for _ in 0..4 {
        let mut app = busy_app(&sidecar, &folder, payload);
        expect_sessions(&sidecar, 2);
        until("its calls are in flight", || sidecar.metric("shmesh_calls_in_flight") >= 8.0);
        app.signal(Signal::SIGKILL);
        app.wait();
        // Others do not notice.
        for _ in 0..10 {
            assert_eq!(other.call(put("service", b"still here")).expect("an answer").body, b"still here");
        }
        expect_sessions(&sidecar, 1);
        sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
        let descriptors = sidecar.process.descriptors();
        // Upstream connections of the first round stay in the pool; from then on nothing is added.
        let limit = *idle.get_or_insert(descriptors + 70);
        assert!(descriptors <= limit, "{descriptors} descriptors, after the first round {limit}");
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", sidecar.process.pid())).expect("it runs");
    assert_eq!(maps.matches("shmesh-to-proxy").count(), 1, "only the other app's segments are mapped");
}

fn a_serving_app_that_is_killed_fails_its_calls_only(driver: Driver) {
    let service = noise_service();
    let words = [("up", &*service.endpoint), ("raw_cluster", "service")];
    let sidecar = Sidecar::start(driver, super::CONFIG, &words);
    let client = client(&sidecar);
    let mut waiting = sidecar.connect("web");
    for round in 0..3 {
        let mut app = App::start(&sidecar, "my-app");
        assert_eq!(client.call(put("local", b"hello")).expect("an answer").body, b"hello", "round {round}");
        // Stopped, it takes calls and does not answer.
        app.process.signal(Signal::SIGSTOP);
        waiting.send("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: 2\r\n\r\nhi");
        let in_flight = std::thread::spawn({
            let client = client.clone();
            move || client.call(put("local", b"lost"))
        });
        sidecar.expect_metric("shmesh_calls_in_flight", 2.0);
        assert_eq!(client.call(put("service", b"not touched")).expect("an answer").body, b"not touched");
        app.process.signal(Signal::SIGKILL);
        app.process.wait();
        let answer = waiting.answer();
        assert_eq!((answer.status(), answer.reason()), (502, "upstream-died"));
        match in_flight.join().expect("no panic") {
            Ok(response) => assert_eq!(response.status, 502),
            Err(error) => assert!(matches!(error, CallError::Died { ran: Ran::Maybe, .. }), "{error:?}"),
        }
        expect_sessions(&sidecar, 1);
        sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
        assert_eq!(client.call(put("local", b"nobody")).expect("the sidecar's answer").status, 503);
    }
}

/// Calls until the shim knows where such calls go.
pub(super) fn learn(client: &Client, request: impl Fn() -> Request<'static>) {
    until("the shim knows the way", || {
        client.call(request()).expect("an answer");
        client.knows_way_round(&request())
    });
}

fn calls_go_direct_when_the_sidecar_is_gone(driver: Driver) {
    let service = noise_service();
    let mut sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    learn(&client, || put("service", b"hello"));
    learn(&client, || Request::http("POST", "service", "/echo").body(b"hello"));
    sidecar.process.signal(Signal::SIGKILL);
    sidecar.process.wait();
    // Not one of them fails, and none of these ran before: they were made after the sidecar's end.
    for _ in 0..20 {
        for method in ["PUT", "POST"] {
            let response = client.call(Request::http(method, "service", "/echo").body(b"direct")).expect("an answer");
            assert_eq!((response.status, response.body.as_slice()), (200, &b"direct"[..]));
        }
    }
    let large = crate::bytes::noise(1, 3 * MIB);
    assert!(client.call(put("service", &large)).expect("an answer").body == large);
    // Where the shim does not know the way, or may not go it, it says that the call did not run.
    let error = client.call(Request::http("GET", "elsewhere", "/")).expect_err("nobody knows where");
    assert!(matches!(error, CallError::SidecarGone(_) | CallError::Connect(_)), "{error:?}");
    let loyal = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .fallback(false)
        .connect();
    assert!(matches!(loyal, Err(CallError::Connect(_))), "nobody is there to attach to");
}

fn a_call_in_flight_is_judged_when_the_sidecar_dies(driver: Driver) {
    let (seen, gate) = (Arc::new(AtomicUsize::new(0)), Gate::default());
    let (count, killed) = (seen.clone(), gate.clone());
    let service = http(move |head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        if body == b"slow" && count.fetch_add(1, Ordering::Relaxed) < 2 {
            killed.pass();
        }
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    learn(&client, || put("service", b"quick"));
    learn(&client, || Request::http("POST", "service", "/echo").body(b"quick"));
    let [put_call, post_call] = ["PUT", "POST"].map(|method| {
        let client = client.clone();
        std::thread::spawn(move || client.call(Request::http(method, "service", "/echo").body(b"slow")))
    });
    until("both are being answered", || seen.load(Ordering::Relaxed) == 2);
    sidecar.process.signal(Signal::SIGKILL);
    sidecar.process.wait();
    gate.open();
    let response = put_call.join().expect("no panic").expect("an idempotent call is made again");
    assert_eq!(response.body, b"ok");
    let error = post_call.join().expect("no panic").expect_err("it may have run");
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");
    assert_eq!(seen.load(Ordering::Relaxed), 3, "the POST ran once, the PUT twice");
}

fn a_client_attaches_again_to_a_new_sidecar(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    let get = || Request::http("GET", "service", "/");
    learn(&client, get);
    for _ in 0..2 {
        sidecar.process.signal(Signal::SIGKILL);
        sidecar.process.wait();
        assert_eq!(client.call(get()).expect("an answer").body, b"ok");
        sidecar.start_again();
        until("calls go through the new sidecar", || {
            assert_eq!(client.call(get()).expect("an answer").body, b"ok");
            sidecar.requests("apps", "service", 200) > 0.0
        });
        learn(&client, get);
    }
    // An app that serves comes back as well.
    let sidecar = &mut before_app(driver);
    let app = App::start(sidecar, "my-app");
    let web = "PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(sidecar.connect("web").ask(web).text(), "hi");
    sidecar.process.signal(Signal::SIGKILL);
    sidecar.process.wait();
    sidecar.start_again();
    until("the app serves again", || sidecar.connect("web").ask(web).status() == 200);
    drop(app);
}

fn sigterm_lets_calls_over_shared_memory_finish(driver: Driver) {
    let gate = Gate::default();
    let others_went = gate.clone();
    let service = http(move |head, wire| {
        wire.body(head, false, |_| ());
        if head.path() == "/slow" {
            others_went.pass();
        }
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    learn(&client, || Request::http("GET", "service", "/"));
    let slow = std::thread::spawn({
        let client = client.clone();
        move || client.call(Request::http("POST", "service", "/slow").body(b"x"))
    });
    sidecar.expect_metric("shmesh_calls_in_flight", 1.0);
    sidecar.process.signal(Signal::SIGTERM);
    until("it is not ready any more", || sidecar.get("/ready").0 == 503);
    // Meanwhile others find their way, through it or round it.
    for _ in 0..20 {
        assert_eq!(client.call(Request::http("GET", "service", "/")).expect("an answer").body, b"ok");
        std::thread::sleep(Duration::from_millis(10));
    }
    gate.open();
    assert_eq!(slow.join().expect("no panic").expect("it was let finish").body, b"ok");
    assert_eq!(sidecar.process.wait().code(), Some(0));
    assert_eq!(client.call(Request::http("GET", "service", "/")).expect("an answer").body, b"ok");
}
