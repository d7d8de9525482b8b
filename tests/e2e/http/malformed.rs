//! Requests that are refused: the status, the reason, and a closed connection.

use std::io::ErrorKind;

use super::{WAYS, Ways, before, quoted};
use crate::process::until;
use crate::service::{http, saying};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(
    a_malformed_message_is_refused_by_its_name_and_counted,
    a_bad_head_is_refused_before_it_ends,
    http_2_is_refused_clearly,
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

/// Which messages are refused is in `ambiguous`; here, as what (RFC 9112 §3, §6.1; RFC 6585 §5).
fn a_malformed_message_is_refused_by_its_name_and_counted(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: service\r\n{fields}\r\n");
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: service\r\n{fields}\r\n\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    let cases: [(u16, &str, String); 40] = [
        (400, "bad-method", "G@T / HTTP/1.1\r\nHost: service\r\n\r\n".into()),
        (501, "method-too-long", format!("{} / HTTP/1.1\r\n", "A".repeat(65))),
        (400, "bad-target", "GET  / HTTP/1.1\r\nHost: service\r\n\r\n".into()),
        (400, "bad-target-form", "GET index.html HTTP/1.1\r\nHost: service\r\n\r\n".into()),
        (400, "unsupported-scheme", "GET https://service/ HTTP/1.1\r\nHost: service\r\n\r\n".into()),
        (400, "bad-authority", "GET http://user@service/ HTTP/1.1\r\nHost: service\r\n\r\n".into()),
        (400, "missing-version", "GET /\r\nHost: service\r\n\r\n".into()),
        (400, "bad-version", "GET / HTTP/1.1 \r\nHost: service\r\n\r\n".into()),
        (505, "unsupported-version", "GET / HTTP/2.0\r\nHost: service\r\n\r\n".into()),
        (505, "http2-prior-knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (414, "start-line-too-long", format!("GET /{} HTTP/1.1\r\n", "a".repeat(9_000))),
        (400, "bare-lf", "GET / HTTP/1.1\nHost: service\n\n".into()),
        (400, "bare-cr", get("X: a\rY: b\r\n")),
        (400, "leading-whitespace", "GET / HTTP/1.1\r\n Host: service\r\n\r\n".into()),
        (400, "obs-fold", get("X: a\r\n b\r\n")),
        (400, "space-before-colon", get("X : a\r\n")),
        (400, "bad-header-name", get(": a\r\n")),
        (400, "bad-header-value", get("X: a\0b\r\n")),
        (431, "too-many-headers", get(&"X: y\r\n".repeat(200))),
        (431, "head-too-large", get(&format!("X: {}\r\n", "b".repeat(70_000)))),
        (400, "missing-host", "GET / HTTP/1.1\r\n\r\n".into()),
        (400, "duplicate-host", get("Host: service\r\n")),
        (400, "bad-host", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into()),
        (400, "bad-content-length", post("Content-Length: 1, 1", "a")),
        (400, "duplicate-content-length", post("Content-Length: 1\r\nContent-Length: 1", "a")),
        (400, "length-and-transfer-encoding", post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        (400, "bad-transfer-encoding", post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n")),
        (501, "unknown-transfer-coding", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")),
        (
            400,
            "transfer-encoding-in-http10",
            "POST / HTTP/1.0\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        ),
        (431, "too-many-connection-options", get(&format!("Connection: {}\r\n", ["a"; 33].join(",")))),
        (400, "bad-chunk-size", chunked("xyz\r\n")),
        (400, "chunk-size-too-large", chunked("11111111111111111\r\n")),
        (400, "bad-chunk-extension", chunked("5 a\r\n")),
        (400, "chunk-line-too-long", chunked(&format!("5;{}\r\n", "a".repeat(5_000)))),
        (400, "bad-chunk-end", chunked("5\r\nhelloXX0\r\n\r\n")),
        (400, "bad-line-end", chunked("5\nhello\r\n0\r\n\r\n")),
        (400, "bad-trailer", chunked("0\r\nX y\r\n\r\n")),
        (431, "trailers-too-large", chunked(&format!("0\r\nX: {}\r\n\r\n", "a".repeat(9_000)))),
        (405, "connect-not-allowed", "CONNECT service:443 HTTP/1.1\r\nHost: service:443\r\n\r\n".into()),
        (400, "bad-method", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".into()),
    ];
    for (status, reason, request) in &cases {
        for way in WAYS {
            let shown = &request[..request.len().min(120)];
            let (got, said) = refused(ways.connect(way), request);
            assert_eq!((got, said.as_str()), (*status, *reason), "{shown:?}");
        }
    }
    // CONNECT is in order, and not wanted.
    assert_eq!(sidecar.metric("shmesh_http_malformed_total"), ((cases.len() - 1) * WAYS.len()) as f64);
    assert_eq!(sidecar.connect("web").ask("GET / HTTP/1.1\r\nHost: service\r\n\r\n").text(), "ok");
}

fn a_bad_head_is_refused_before_it_ends(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for head in ["GET / HTTP/1.1\r\nHost: service\r\nX y", "GET / HTP", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "G\0"] {
        for way in WAYS {
            let (status, _) = refused(ways.connect(way), head);
            assert_ne!(status, 408, "{head:?} was waited for");
        }
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
