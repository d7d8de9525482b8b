//! How long a whole request may take, whatever moves meanwhile.

use std::time::Duration;

use shmesh_client::Request;

use super::upgrade::{echo, upgraded};
use super::{WAYS, Ways, quoted};
use crate::bytes::Noise;
use crate::process::PATIENCE;
use crate::service::{Service, http};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    a_request_that_takes_too_long_is_504,
    an_answer_that_takes_too_long_is_a_cut,
    what_takes_its_time_goes_on_where_it_may,
);

/// `$within` for all but the cluster `patient`. Nothing else ends a call while bytes move.
const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: web-uds, unix: $dir/web.sock, protocol: http }
  - { name: apps, shm: $dir/apps.sock }
routes:
  - { match: { host: service }, cluster: service }
  - { match: { host: hasty }, cluster: hasty }
  - { match: { host: patient }, cluster: patient }
clusters:
  - { name: service, endpoints: [ $up ] }
  - { name: hasty, endpoints: [ $up ], request_timeout: 200ms }
  - { name: patient, endpoints: [ $up ], request_timeout: 0s }
timeouts: { request: $within }
";

const WITHIN: Duration = Duration::from_millis(1500);

fn start(driver: Driver, within: Duration, service: &Service) -> Sidecar {
    let within = format!("{}ms", within.as_millis());
    Sidecar::start(driver, CONFIG, &[("up", &quoted(&[&service.endpoint])), ("within", &within)])
}

fn a_request_that_takes_too_long_is_504(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let sidecar = start(driver, Duration::from_secs(3600), &service);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        // The service says nothing, or the client goes on and on.
        let answer = ways.connect(way).ask("GET / HTTP/1.1\r\nHost: hasty\r\n\r\n");
        assert_eq!((answer.status(), answer.reason()), (504, "request-timeout"));
        let mut wire = ways.connect(way);
        let mut up = wire.twin();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let head = b"PUT / HTTP/1.1\r\nHost: hasty\r\nTransfer-Encoding: chunked\r\n\r\n";
                let mut sent = up.try_send(head);
                // It ends when the sidecar closes.
                while sent.is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                    sent = up.try_send(b"1\r\nx\r\n");
                }
            });
            let answer = wire.answer();
            assert_eq!((answer.status(), answer.reason()), (504, "request-timeout"));
            assert_eq!(answer.head.get("connection"), Some("close"));
            wire.expect_closed();
        });
    }
    assert_eq!(sidecar.requests("web", "hasty", 504), 2.0);
    // A call over shared memory; its own deadline would be later.
    let answer = ways.app.call(Request::http("GET", "hasty", "/").timeout(PATIENCE)).expect("an answer");
    assert_eq!(answer.status, 504);
    let reason = "x-shmesh-reason: request-timeout\r\n";
    assert!(String::from_utf8_lossy(&answer.head).contains(reason), "{}", String::from_utf8_lossy(&answer.head));
}

fn an_answer_that_takes_too_long_is_a_cut(driver: Driver) {
    let service = http(|head, wire| {
        let line = match head.path() {
            "/length" => "Content-Length: 1000000000",
            _ => "Transfer-Encoding: chunked",
        };
        let mut sent = wire.try_send(format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n").as_bytes());
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(5));
            sent = wire.try_send(b"1\r\nx\r\n");
        }
    });
    let sidecar = start(driver, WITHIN, &service);
    let ways = Ways::into(&sidecar);
    std::thread::scope(|scope| {
        for way in WAYS {
            for path in ["/length", "/chunked"] {
                let ways = &ways;
                scope.spawn(move || {
                    let mut wire = ways.connect(way);
                    wire.send(format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n"));
                    assert_eq!(wire.head().expect("its head came").status(), 200, "{way} {path}");
                    let (body, _) = wire.rest();
                    assert!(!body.is_empty() && body.len() < 1_000_000_000, "{way} {path}");
                    assert!(!body.ends_with(b"0\r\n\r\n"), "{way} {path}: it looks complete");
                });
            }
        }
    });
    for listener in ["web", "web-uds", "apps"] {
        assert_eq!(sidecar.requests(listener, "service", 504), 2.0, "{listener}");
    }
}

/// A cluster without the timeout, and a connection that is no call any more.
fn what_takes_its_time_goes_on_where_it_may(driver: Driver) {
    let slow = http(|_, wire| {
        std::thread::sleep(WITHIN + WITHIN / 2);
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    });
    let (patient, tunnels) = (start(driver, WITHIN, &slow), echo());
    let sidecar = start(driver, WITHIN, &tunnels);
    let (late, ways) = (Ways::into(&patient), Ways::into(&sidecar));
    std::thread::scope(|scope| {
        for way in WAYS {
            let (late, ways) = (&late, &ways);
            scope.spawn(move || {
                let answer = late.connect(way).ask("GET / HTTP/1.1\r\nHost: patient\r\n\r\n");
                assert_eq!((answer.status(), answer.text().as_str()), (200, "late"), "{way}");
            });
            scope.spawn(move || {
                let mut wire = ways.connect(way);
                upgraded(&mut wire);
                std::thread::sleep(WITHIN + WITHIN / 2);
                let bytes = Noise::new(3).take(1000);
                wire.send(&bytes);
                assert!(wire.exactly(1000).as_deref() == Some(&bytes), "{way}");
            });
        }
    });
}
