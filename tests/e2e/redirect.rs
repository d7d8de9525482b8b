//! Connections that nothing redirected, sent to where they were going: that is here, so they go nowhere. Those that something
//! redirected are in `tests/interop/redirect`, which takes a network namespace.

use shmesh_client::{Client, Protocol, Request};

use crate::process::PATIENCE;
use crate::sidecar::{Driver, Sidecar, requests_name};
use crate::wire::{Stream, Wire};

on_each_driver!(what_nothing_redirected_goes_nowhere);

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: http, tcp: 127.0.0.1:$http, protocol: http }
  - { name: http6, tcp: \"[::1]:$http6\", protocol: http }
  - { name: uds, unix: $dir/http.sock, protocol: http }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: passthrough }
routes: [ { match: {}, cluster: passthrough } ]
clusters: [ { name: passthrough, original_dst: true } ]
";

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn what_nothing_redirected_goes_nowhere(driver: Driver) {
    let config = match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => CONFIG.to_owned(),
        Err(_) => CONFIG.lines().filter(|line| !line.contains("http6")).collect::<Vec<_>>().join("\n"),
    };
    let sidecar = Sidecar::start(driver, &config, &[]);
    let app = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .fallback(false)
        .connect()
        .expect("a session");
    let stream = app.stream(Protocol::Http, None).expect("a stream");
    let mut wires =
        vec![sidecar.connect("http"), Wire::unix(&sidecar.path("http.sock")), Wire::new(Stream::Shm(stream))];
    if config.contains("http6") {
        wires.push(Wire::tcp((std::net::Ipv6Addr::LOCALHOST, sidecar.tcp("http6").port()).into()));
    }
    for wire in &mut wires {
        // More than one, on the same connection.
        for _ in 0..2 {
            let answer = wire.ask(REQUEST);
            assert_eq!((answer.status(), answer.reason()), (503, "not-redirected"));
        }
    }
    let called = app.call(Request::http("GET", "x", "/").timeout(PATIENCE));
    assert!(called.is_err() || called.is_ok_and(|answer| answer.status == 503));
    sidecar.connect("raw").expect_closed();
    assert_eq!(sidecar.metric(&requests_name("http", "passthrough", 503)), 2.0);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}
