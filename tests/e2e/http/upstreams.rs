//! Services that refuse, die, stall, or talk nonsense; and which endpoint a call goes to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{before, quoted};
use crate::service::{Service, http, saying};
use crate::sidecar::{Driver, Sidecar, free_port};

on_each_driver!(
    one_that_refuses_is_503,
    one_that_dies_before_its_head_is_502,
    one_that_dies_in_its_body_is_a_cut,
    one_that_never_answers_is_504,
    one_that_stalls_in_its_body_is_a_cut,
    the_next_endpoint_when_one_refuses,
    endpoints_are_taken_in_turn,
    a_host_name_is_looked_up,
    a_unix_socket_is_an_endpoint,
    connections_that_close_after_an_answer_cost_no_call,
    a_post_is_not_sent_twice,
    a_post_that_is_read_in_part_is_not_sent_twice,
    a_get_is_sent_once_more_on_a_stale_connection,
    what_comes_unasked_is_no_answer,
);

const GET: &str = "GET / HTTP/1.1\r\nHost: service\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 2\r\n\r\nhi";

const IMPATIENT: &str = "
listeners: [ { name: web, tcp: 127.0.0.1:$web, protocol: http } ]
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ], first_byte_timeout: 300ms } ]
timeouts: { idle: 500ms }
";

fn one_that_refuses_is_503(driver: Driver) {
    let nobody = format!("tcp:127.0.0.1:{}", free_port());
    let sidecar = before(driver, &[&nobody, "unix:/nowhere/at/all.sock"]);
    let mut wire = sidecar.connect("web");
    for request in [GET, POST, GET] {
        let answer = wire.ask(request);
        assert_eq!((answer.status(), answer.reason()), (503, "upstream-refused"));
        assert!(answer.text().starts_with("shmesh: "), "{}", answer.text());
    }
}

fn one_that_dies_before_its_head_is_502(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        wire.head();
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    for request in [GET, POST] {
        let answer = wire.ask(request);
        assert_eq!((answer.status(), answer.reason()), (502, "upstream-died"), "{request}");
    }
    // In the middle of its head, too.
    let service = Service::tcp(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Le");
    });
    let sidecar = before(driver, &[&service.endpoint]);
    assert_eq!(sidecar.connect("web").ask(GET).status(), 502);
}

fn one_that_dies_in_its_body_is_a_cut(driver: Driver) {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nnot all\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nnot all",
    ] {
        let service = Service::tcp(move |mut wire| {
            wire.head();
            wire.send(answer);
        });
        let sidecar = before(driver, &[&service.endpoint]);
        let mut wire = sidecar.connect("web");
        wire.send(GET);
        let (bytes, _) = wire.rest();
        let text = String::from_utf8_lossy(&bytes);
        // It may come late or not at all, but it never looks complete.
        assert!(!text.contains("\r\n0\r\n"), "{text}");
        assert!(text.matches("HTTP/1.1").count() <= 1, "{text}");
    }
}

fn one_that_never_answers_is_504(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let sidecar = Sidecar::start(driver, IMPATIENT, &[("up", &quoted(&[&service.endpoint]))]);
    let mut wire = sidecar.connect("web");
    for request in [GET, POST] {
        let started = Instant::now();
        let answer = wire.ask(request);
        assert_eq!((answer.status(), answer.reason()), (504, "upstream-timeout"));
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(3), "after {took:?}");
    }
}

fn one_that_stalls_in_its_body_is_a_cut(driver: Driver) {
    let service = http(|_, wire| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all");
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let sidecar = Sidecar::start(driver, IMPATIENT, &[("up", &quoted(&[&service.endpoint]))]);
    let mut wire = sidecar.connect("web");
    wire.send(GET);
    assert_eq!(wire.head().expect("its head came").length(), Some(100));
    let started = Instant::now();
    let (body, _) = wire.rest();
    assert_eq!(body, b"not all");
    assert!(started.elapsed() < Duration::from_secs(5));
}

fn the_next_endpoint_when_one_refuses(driver: Driver) {
    let service = saying("here");
    let nobody = [free_port(), free_port()].map(|port| format!("tcp:127.0.0.1:{port}"));
    let sidecar = before(driver, &[&nobody[0], &service.endpoint, "unix:/nowhere.sock", &nobody[1]]);
    for _ in 0..8 {
        for request in [GET, POST] {
            assert_eq!(sidecar.connect("web").ask(request).text(), "here");
        }
    }
    let clusters = sidecar.json("/clusters");
    let failures: Vec<u64> = clusters[0]["endpoints"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| e["failures"].as_u64().expect("one"))
        .collect();
    assert!(failures[0] > 0 && failures[1] == 0 && failures[2] > 0 && failures[3] > 0, "{failures:?}");
}

fn endpoints_are_taken_in_turn(driver: Driver) {
    let services = [saying("0"), saying("1"), saying("2")];
    let sidecar = before(driver, &[&services[0].endpoint, &services[1].endpoint, &services[2].endpoint]);
    let mut wire = sidecar.connect("web");
    let order: String = (0..9).map(|_| wire.ask(GET).text()).collect();
    let mut sorted = order.clone().into_bytes();
    sorted.sort_unstable();
    assert_eq!(sorted, b"000111222", "{order}");
    for turn in order.as_bytes().windows(3) {
        assert!(turn[0] != turn[1] && turn[1] != turn[2] && turn[0] != turn[2], "{order}");
    }
}

fn a_host_name_is_looked_up(driver: Driver) {
    let service = saying("named");
    let port = service.endpoint.rsplit_once(':').expect("a port").1;
    let sidecar = before(driver, &[&format!("tcp:localhost:{port}")]);
    for _ in 0..5 {
        assert_eq!(sidecar.connect("web").ask(GET).text(), "named");
    }
    let sidecar = before(driver, &["tcp:no-such-host.invalid:80", &service.endpoint]);
    for _ in 0..4 {
        assert_eq!(sidecar.connect("web").ask(GET).text(), "named", "the next endpoint");
    }
    let sidecar = before(driver, &["tcp:no-such-host.invalid:80"]);
    let answer = sidecar.connect("web").ask(GET);
    assert_eq!((answer.status(), answer.reason()), (503, "host-unresolved"));
}

fn a_unix_socket_is_an_endpoint(driver: Driver) {
    let folder = tempfile::TempDir::new().expect("a folder");
    let service = Service::unix(&folder.path().join("s.sock"), crate::service::serve_noise);
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    for len in [0, 1, 100_000] {
        let answer = wire.ask(format!("GET /give/9/{len}/length HTTP/1.1\r\nHost: service\r\n\r\n"));
        assert_eq!(answer.body.len(), len);
        crate::bytes::Noise::new(9).check(&answer.body);
    }
    assert_eq!(service.accepted(), 1);
}

/// Servers close keep-alive connections when they like; a request that meets such an end must not become a 502.
fn connections_that_close_after_an_answer_cost_no_call(driver: Driver) {
    const CALLS: usize = 200;
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    let service = Service::tcp(move |mut wire| {
        let mut left = 1;
        while let Some(head) = wire.head() {
            wire.body(&head, false, |_| ());
            let n = count.fetch_add(1, Ordering::Relaxed);
            if left == 1 {
                left = 1 + (n * 7) % 5;
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            left -= 1;
            if left <= 1 {
                // At once, or while the next request is on its way.
                std::thread::sleep(Duration::from_micros((n as u64 * 37) % 400));
                return;
            }
        }
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    for n in 0..CALLS {
        let request =
            if n % 2 == 0 { GET } else { "PUT / HTTP/1.1\r\nHost: service\r\nContent-Length: 5\r\n\r\nagain" };
        let answer = wire.ask(request);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "call {n}");
        std::thread::sleep(Duration::from_micros((n as u64 * 53) % 300));
    }
    assert!(service.accepted() > 20, "the service did close: {} connections", service.accepted());
}

fn a_post_is_not_sent_twice(driver: Driver) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    // The first request of a connection is answered, the second one is read and met with an end.
    let service = Service::tcp(move |mut wire| {
        let head = wire.head().expect("a request");
        wire.body(&head, false, |_| ());
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        if let Some(head) = wire.head() {
            wire.body(&head, false, |_| ());
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    assert_eq!(wire.ask(GET).status(), 200);
    assert_eq!(wire.ask(POST).status(), 502);
    assert_eq!((seen.load(Ordering::Relaxed), service.accepted()), (1, 1));
}

fn a_get_is_sent_once_more_on_a_stale_connection(driver: Driver) {
    let service = Service::tcp(move |mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        wire.head();
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    for call in 0..3 {
        assert_eq!(wire.ask(GET).status(), 200, "call {call}");
    }
    assert!(sidecar.metric("shmesh_upstream_retries_total") >= 1.0);
}

/// A second answer to one request must not become the answer of the next request (RFC 9112 §9.2).
fn what_comes_unasked_is_no_answer(driver: Driver) {
    let service = http(|head, wire| {
        let text = head.path().to_owned();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        let unasked = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        let _ = match text.as_str() {
            "/at-once" => wire.try_send(format!("{answer}{unasked}").as_bytes()),
            "/later" => wire.try_send(answer.as_bytes()).and_then(|()| {
                std::thread::sleep(Duration::from_millis(5));
                wire.try_send(unasked.as_bytes())
            }),
            _ => wire.try_send(answer.as_bytes()),
        };
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    for _ in 0..10 {
        for path in ["/at-once", "/next", "/later", "/other"] {
            let answer = wire.ask(format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n"));
            assert_eq!((answer.status(), answer.text().as_str()), (200, path));
            if path == "/later" {
                // Between two requests it can be told from an answer, and is; afterwards nobody could.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// What was sent of a body cannot be sent again, and what was not sent must not be left out.
fn a_post_that_is_read_in_part_is_not_sent_twice(driver: Driver) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = seen.clone();
    // Each connection answers its GETs and ends with a POST, of which it reads the head and a few bytes.
    let service = http(move |head, wire| {
        heads.lock().expect("no panic").push(head.start.clone());
        if head.method() == "POST" {
            wire.exactly(3);
            wire.cut();
        } else {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let head = |path: usize, framing: &str| format!("POST /{path} HTTP/1.1\r\nHost: service\r\n{framing}\r\n\r\n");
    let mut calls = 0;
    for len in [20, 20_000, 3_000_000] {
        let body = "x".repeat(len);
        for chunked in [false, true] {
            let mut wire = sidecar.connect("web");
            assert_eq!(wire.ask(GET).text(), "ok");
            let connections = service.accepted();
            seen.lock().expect("no panic").clear();
            let request = match chunked {
                true => format!("{}{len:x}\r\n{body}\r\n0\r\n\r\n", head(calls, "Transfer-Encoding: chunked")),
                false => format!("{}{body}", head(calls, &format!("Content-Length: {len}"))),
            };
            let mut writer = wire.twin();
            // The rest of the body may meet a closed connection once the answer is out.
            let sending = std::thread::spawn(move || writer.try_send(request.as_bytes()));
            assert_eq!(wire.answer().status(), 502, "{len} bytes, chunked: {chunked}");
            let _ = sending.join().expect("no panic");
            // Were it sent once more, it would be there by now, or on the way to the same service before this GET.
            assert_eq!(sidecar.connect("web").ask(GET).text(), "ok");
            let posts = [format!("POST /{calls} HTTP/1.1"), "GET / HTTP/1.1".to_owned()];
            assert_eq!(*seen.lock().expect("no panic"), posts, "{len} bytes, chunked: {chunked}");
            assert_eq!(service.accepted(), connections + 1, "one more, for the GET");
            calls += 1;
        }
    }
    assert_eq!(sidecar.requests("web", "service", 502), calls as f64);
}
