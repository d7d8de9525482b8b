//! Calls whose upstream dies after it has read them: sent once more only where that does no harm, by their method or by their route.

use std::sync::{Arc, Mutex};

use super::quoted;
use crate::service::{Service, saying};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    a_route_says_whether_a_stale_connection_costs_a_call,
    a_new_connection_that_dies_costs_no_call_if_there_is_another_endpoint,
    an_answer_that_began_is_not_begun_again,
    over_shared_memory_the_route_decides_too,
    an_app_that_dies_costs_no_idempotent_call_if_there_is_another_endpoint,
);

const CONFIG: &str = "
listeners: [ { name: web, tcp: 127.0.0.1:$web, protocol: http }, { name: apps, shm: $dir/apps.sock } ]
routes:
  - { match: { host: by-method }, cluster: service }
  - { match: { host: harmless }, cluster: service, idempotent: true }
  - { match: { host: harmful }, cluster: service, idempotent: false }
clusters: [ { name: service, endpoints: [ $up ] } ]
workers: 1
";

/// What the route and the method make of a call: whether it may be sent again.
const CALLS: [(&str, &str, bool); 6] = [
    ("by-method", "GET", true),
    ("by-method", "POST", false),
    ("harmless", "GET", true),
    ("harmless", "POST", true),
    ("harmful", "GET", false),
    ("harmful", "PUT", false),
];

fn request(method: &str, host: &str, path: &str) -> String {
    let body = if method == "GET" { "" } else { "content-length: 2\r\n" };
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{body}\r\n{}", if body.is_empty() { "" } else { "hi" })
}

/// Reads a request whole and ends the connection, unless it is for `/warm` or its path was seen before; keeps the paths.
fn dying(seen: Arc<Mutex<Vec<String>>>) -> Service {
    Service::tcp(move |mut wire| {
        while let Some(head) = wire.head() {
            wire.body(&head, false, |_| ());
            let path = head.path().to_owned();
            let again = {
                let mut seen = seen.lock().expect("no panic");
                let again = seen.contains(&path);
                seen.push(path.clone());
                again
            };
            if path != "/warm" && !again {
                return;
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhere");
        }
    })
}

fn a_route_says_whether_a_stale_connection_costs_a_call(driver: Driver) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let service = dying(seen.clone());
    let sidecar = Sidecar::start(driver, CONFIG, &[("up", &quoted(&[&service.endpoint]))]);
    for (at, (host, method, again)) in CALLS.into_iter().enumerate() {
        let mut wire = sidecar.connect("web");
        assert_eq!(wire.ask(request("GET", "by-method", "/warm")).status(), 200);
        let path = format!("/{at}");
        let answer = wire.ask(request(method, host, &path));
        let (status, reason) = if again { (200, "") } else { (502, "upstream-died") };
        assert_eq!((answer.status(), answer.reason()), (status, reason), "{method} to {host}");
        let times = seen.lock().expect("no panic").iter().filter(|seen| **seen == path).count();
        assert_eq!(times, 1 + usize::from(again), "{method} to {host}");
    }
    assert_eq!(sidecar.metric("shmesh_upstream_retries_total"), 3.0);
}

fn a_new_connection_that_dies_costs_no_call_if_there_is_another_endpoint(driver: Driver) {
    for (host, method, again) in CALLS {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let note = seen.clone();
        let sick = Service::tcp(move |mut wire| {
            if let Some(head) = wire.head() {
                wire.body(&head, false, |_| ());
                note.lock().expect("no panic").push(head.path().to_owned());
            }
        });
        let well = saying("well");
        let sidecar = Sidecar::start(driver, CONFIG, &[("up", &quoted(&[&sick.endpoint, &well.endpoint]))]);
        let mut wire = sidecar.connect("web");
        let mut answers: Vec<u16> =
            (0..2).map(|at| wire.ask(request(method, host, &format!("/{at}"))).status()).collect();
        answers.sort_unstable();
        assert_eq!(answers, if again { [200, 200] } else { [200, 502] }, "{method} to {host}");
        assert_eq!(seen.lock().expect("no panic").len(), 1, "{method} to {host}: one of two comes to the sick one");
    }
}

fn an_answer_that_began_is_not_begun_again(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        if wire.head().is_some() {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        }
    });
    let sidecar = Sidecar::start(driver, CONFIG, &[("up", &quoted(&[&service.endpoint, &service.endpoint]))]);
    let mut wire = sidecar.connect("web");
    wire.send(request("GET", "harmless", "/"));
    let (bytes, _) = wire.rest();
    assert!(String::from_utf8_lossy(&bytes).ends_with("half"), "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(service.accepted(), 1);
}

fn over_shared_memory_the_route_decides_too(driver: Driver) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let service = dying(seen.clone());
    let sidecar = Sidecar::start(driver, CONFIG, &[("up", &quoted(&[&service.endpoint]))]);
    let app = shmesh_client::Client::builder().socket(sidecar.path("apps.sock")).fallback(false).connect();
    let app = app.expect("a session");
    for (at, (host, method, again)) in CALLS.into_iter().enumerate() {
        let warm = app.call(shmesh_client::Request::http("GET", "by-method", "/warm"));
        assert_eq!(warm.expect("an answer").status, 200);
        let path = format!("/{at}");
        let answer = app.call(shmesh_client::Request::http(method, host, &path).body(b"hi"));
        assert_eq!(answer.is_ok_and(|answer| answer.status == 200), again, "{method} to {host}");
        let times = seen.lock().expect("no panic").iter().filter(|seen| **seen == path).count();
        assert_eq!(times, 1 + usize::from(again), "{method} to {host}");
    }
}

fn an_app_that_dies_costs_no_idempotent_call_if_there_is_another_endpoint(driver: Driver) {
    let well = saying("well");
    for (host, method, again) in CALLS {
        let sidecar = Sidecar::start(driver, CONFIG, &[("up", &quoted(&["shm:app", &well.endpoint]))]);
        // It attaches and answers nothing.
        let app = shmesh_client::Server::attach(sidecar.path("apps.sock"), "app").expect("a session");
        sidecar.expect_metric("shmesh_sessions", 1.0);
        let mut wires = [sidecar.connect("web"), sidecar.connect("web")];
        for wire in &mut wires {
            wire.send(request(method, host, "/"));
        }
        // One of the two is answered; the app has the other one.
        crate::process::until("the other endpoint answers", || sidecar.requests("web", "service", 200) == 1.0);
        sidecar.expect_metric("shmesh_calls_in_flight", 1.0);
        drop(app);
        let mut answers: Vec<u16> = wires.iter_mut().map(|wire| wire.answer().status()).collect();
        answers.sort_unstable();
        assert_eq!(answers, if again { [200, 200] } else { [200, 502] }, "{method} to {host}");
    }
}
