//! Requests that are refused: the status, the reason, and a closed connection.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::{before, quoted};
use crate::process::until;
use crate::service::{http, saying};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(
    a_malformed_head_is_refused_and_the_connection_closed,
    a_bad_head_is_refused_before_it_ends,
    a_malformed_body_ends_the_connection,
    http_2_is_refused_clearly,
    connect_is_refused,
    no_route_says_so,
    a_head_that_does_not_end_in_time_is_refused,
    a_client_that_takes_nothing_is_cut_off_behind_its_last_answer_too,
    random_bytes_do_no_harm,
);

fn refused(mut wire: Wire, request: impl AsRef<[u8]>) -> (u16, String) {
    wire.send(request);
    let answer = wire.answer();
    assert_eq!(answer.head.get("connection"), Some("close"));
    wire.expect_closed();
    (answer.status(), answer.reason().to_owned())
}

fn a_malformed_head_is_refused_and_the_connection_closed(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: service\r\n\r\n", "a".repeat(9_000));
    let many = format!("GET / HTTP/1.1\r\nHost: service\r\n{}\r\n", "X-A: b\r\n".repeat(200));
    let large = format!("GET / HTTP/1.1\r\nHost: service\r\nX-A: {}\r\n\r\n", "b".repeat(70_000));
    let cases: [(u16, &str); 29] = [
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: service\r\nHost: service\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: user@service\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: service\r\n\r\n"),
        (400, "GET / HTTP/1.1 \r\nHost: service\r\n\r\n"),
        (400, "G@T / HTTP/1.1\r\nHost: service\r\n\r\n"),
        (400, "GET /\u{7f} HTTP/1.1\r\nHost: service\r\n\r\n"),
        (400, "GET /\r\nHost: service\r\n\r\n"),
        (400, "GET / HTTP/1.1\nHost: service\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: service\rX: y\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost : service\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n Host: service\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: service\r\nX: a\r\n b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: service\r\nX: a\0b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: service\r\n: b\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
        (400, "POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 1, 1\r\n\r\na"),
        (400, "POST / HTTP/1.1\r\nHost: service\r\nContent-Length: +1\r\n\r\na"),
        (400, "POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 99999999999999999999\r\n\r\na"),
        (400, "POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (505, "GET / HTTP/2.0\r\nHost: service\r\n\r\n"),
        (414, &long_line),
        (431, &many),
        (431, &large),
        (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n"),
    ];
    for (status, request) in cases {
        let shown = &request[..request.len().min(120)];
        let (got, reason) = refused(sidecar.connect("web"), request);
        assert_eq!(got, status, "{shown:?} ({reason})");
        assert!(!reason.is_empty(), "{shown:?}");
    }
    assert_eq!(sidecar.metric("shmesh_http_malformed_total"), cases.len() as f64);
    assert_eq!(service.accepted(), 0);
    assert_eq!(sidecar.connect("web").ask("GET / HTTP/1.1\r\nHost: service\r\n\r\n").text(), "ok");
}

fn a_bad_head_is_refused_before_it_ends(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    for head in ["GET / HTTP/1.1\r\nHost: service\r\nX y", "GET / HTP", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "G\0"] {
        let started = Instant::now();
        refused(sidecar.connect("web"), head);
        assert!(started.elapsed() < Duration::from_secs(5), "{head:?}");
    }
}

fn a_malformed_body_ends_the_connection(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "xyz\r\n",
        "-5\r\nhello\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "11111111111111111\r\n",
        "\r\n",
    ] {
        let mut wire = sidecar.connect("web");
        wire.send(format!("POST / HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        // Behind it, what would be another request if the framing were believed.
        let _ = wire.try_send(b"GET /smuggled HTTP/1.1\r\nHost: service\r\n\r\n");
        let (bytes, _) = wire.rest();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 400"), "{body:?}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{body:?}: {text}");
    }
}

fn http_2_is_refused_clearly(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let answer = wire.answer();
    assert_eq!((answer.status(), answer.reason()), (505, "http2-prior-knowledge"));
    assert!(answer.text().contains("HTTP/1.1"), "{}", answer.text());
    wire.expect_closed();
}

fn connect_is_refused(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let (status, reason) = refused(sidecar.connect("web"), "CONNECT service:443 HTTP/1.1\r\nHost: service:443\r\n\r\n");
    assert_eq!((status, reason.as_str()), (405, "connect-not-allowed"));
}

fn no_route_says_so(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    for _ in 0..3 {
        let answer = wire.ask("GET /x HTTP/1.1\r\nHost: elsewhere\r\n\r\n");
        assert_eq!((answer.status(), answer.reason()), (404, "no-route"));
        assert!(answer.text().starts_with("shmesh: no route"), "{}", answer.text());
    }
    assert_eq!(wire.ask("GET / HTTP/1.1\r\nHost: SERVICE:8080\r\n\r\n").text(), "ok", "neither case nor port count");
    // A body that nobody takes ends the connection, and the client is told so.
    let (status, reason) = refused(wire, "POST /x HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((status, reason.as_str()), (404, "no-route"));
}

fn a_head_that_does_not_end_in_time_is_refused(driver: Driver) {
    let service = saying("ok");
    let config = "
listeners: [ { name: web, tcp: 127.0.0.1:$web, protocol: http } ]
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ] } ]
timeouts: { head_read: 300ms, idle: 400ms }
";
    let sidecar = Sidecar::start(driver, config, &[("up", &quoted(&[&service.endpoint]))]);
    let mut wire = sidecar.connect("web");
    wire.send("GET / HTTP/1.1\r\nHo");
    let (bytes, _) = wire.rest();
    assert!(bytes.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&bytes));
    // One that says nothing is closed without a word.
    sidecar.connect("web").expect_closed();
}

fn a_client_that_takes_nothing_is_cut_off_behind_its_last_answer_too(driver: Driver) {
    // More than a Unix socket holds, less than what is kept for a client.
    const LEN: usize = 400_000;
    let service = http(|_, wire| {
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LEN}\r\n\r\n"));
        wire.send(vec![b'a'; LEN]);
    });
    let config = "
listeners: [ { name: web, unix: $dir/web.sock, protocol: http } ]
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ] } ]
timeouts: { head_read: 300ms, idle: 400ms }
";
    let sidecar = Sidecar::start(driver, config, &[("up", &quoted(&[&service.endpoint]))]);
    let mut wire = Wire::unix(&sidecar.path("web.sock"));
    wire.send("GET / HTTP/1.1\r\nHost: service\r\n\r\nGET / HTTP/1.1\r\nHo");
    // It even goes on with what it says.
    until("it is cut off", || {
        let sent = wire.try_send(b"x");
        matches!(sent, Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset))
    });
}

fn random_bytes_do_no_harm(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &[&service.endpoint]);
    let mut noise = crate::bytes::Noise::new(42);
    for len in 0..60 {
        let mut wire = sidecar.connect("web");
        let mut bytes = noise.take(len * 3);
        if len % 2 == 0 {
            bytes.splice(0..0, *b"GET / HTTP/1.1\r\nHost: service\r\n");
        }
        let _ = wire.try_send(&bytes);
        wire.end();
        let _ = wire.rest();
    }
    assert!(sidecar.process.ended().is_none());
    assert_eq!(sidecar.connect("web").ask("GET / HTTP/1.1\r\nHost: service\r\n\r\n").text(), "ok");
}
