//! What one connection may carry, and in which order it comes out.

use std::time::Duration;

use super::{WAYS, Ways, before};
use crate::bytes::{KIB, MIB, Noise};
use crate::process::until;
use crate::service::{Service, http, noise_service, saying};
use crate::sidecar::Driver;
use crate::wire::{Head, Wire};

on_each_driver!(
    pipelined_requests_are_answered_in_order,
    pipelined_bodies_are_told_apart,
    a_connection_is_kept_alive_over_every_kind_of_answer,
    no_body_follows_head_204_and_304,
    interim_answers_reach_the_client,
    a_body_that_was_asked_to_wait_goes_on,
    a_client_of_http_1_0_is_spoken_to_in_its_way,
    an_answer_up_to_the_end_keeps_the_client_connected,
    trailers_go_both_ways,
    an_answer_before_the_end_of_the_request,
    a_client_may_end_its_direction_and_read_on,
    a_client_may_end_its_direction_behind_many_requests,
    many_requests_without_a_route_do_not_fill_the_memory,
    a_slow_reader_does_not_fill_the_memory,
    hop_by_hop_fields_stay_behind,
    the_head_arrives_a_byte_at_a_time,
    a_client_that_leaves_frees_its_upstream,
);

/// A service that answers with the path and the body of each request.
fn mirror() -> Service {
    http(|head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        let text = format!("{} {} {}", head.method(), head.path(), String::from_utf8_lossy(&body));
        let body = if head.method() == "HEAD" { "" } else { &text };
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", text.len()));
    })
}

fn pipelined_requests_are_answered_in_order(driver: Driver) {
    let service = mirror();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        let requests: String = (0..200).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: service\r\n\r\n")).collect();
        wire.send(requests);
        for n in 0..200 {
            assert_eq!(wire.answer().text(), format!("GET /{n} "));
        }
    }
}

fn pipelined_bodies_are_told_apart(driver: Driver) {
    let service = mirror();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        wire.send(concat!(
        "POST /a HTTP/1.1\r\nHost: service\r\nContent-Length: 3\r\n\r\nabc",
        "POST /b HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1;x=\"y\"\r\nf\r\n0\r\n\r\n",
        "HEAD /c HTTP/1.1\r\nHost: service\r\n\r\n",
        "GET /unknown HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
        "POST /d HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\n\r\n",
        "GET /e HTTP/1.1\r\nHost: service\r\n\r\n",
    ));
        assert_eq!(wire.answer().text(), "POST /a abc");
        assert_eq!(wire.answer().text(), "POST /b def");
        let head = wire.answer_to(true).head;
        assert_eq!(head.length(), Some("HEAD /c ".len() as u64));
        assert_eq!(wire.answer().status(), 404);
        assert_eq!(wire.answer().text(), "POST /d ");
        assert_eq!(wire.answer().text(), "GET /e ");
    }
}

fn a_connection_is_kept_alive_over_every_kind_of_answer(driver: Driver) {
    let service = http(|head, wire| {
        wire.body(head, false, |_| ());
        wire.send(match head.path() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            "/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "/error" => "HTTP/1.1 500 Oh dear\r\nContent-Length: 2\r\n\r\nok",
            _ => "HTTP/1.1 204 Nothing\r\n\r\n",
        });
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for _ in 0..20 {
            for (path, status, body) in [
                ("/length", 200, "ok"),
                ("/chunked", 200, "ok"),
                ("/empty", 200, ""),
                ("/error", 500, "ok"),
                ("/none", 204, ""),
            ] {
                let answer = wire.ask(format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n"));
                assert_eq!((answer.status(), answer.text().as_str()), (status, body), "{path}");
            }
        }
    }
    assert!(service.accepted() <= WAYS.len(), "keep-alive on the way up, too");
}

fn no_body_follows_head_204_and_304(driver: Driver) {
    let service = http(|head, wire| {
        wire.send(match head.path() {
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
            "/head-chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/204" => "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 777\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend",
        });
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        wire.send("HEAD /head HTTP/1.1\r\nHost: service\r\n\r\n");
        assert_eq!(wire.answer_to(true).head.length(), Some(12345));
        wire.send("HEAD /head-chunked HTTP/1.1\r\nHost: service\r\n\r\n");
        assert_eq!(wire.answer_to(true).status(), 200);
        let answer = wire.ask("GET /204 HTTP/1.1\r\nHost: service\r\n\r\n");
        assert_eq!((answer.status(), answer.head.get("x-a")), (204, Some("b")));
        assert_eq!(answer.head.get("content-length"), None, "RFC 9110 §8.6");
        let answer = wire.ask("GET /304 HTTP/1.1\r\nHost: service\r\n\r\n");
        assert_eq!((answer.status(), answer.head.get("etag")), (304, Some("\"x\"")));
        assert_eq!(wire.ask("GET /end HTTP/1.1\r\nHost: service\r\n\r\n").text(), "end");
    }
}

fn interim_answers_reach_the_client(driver: Driver) {
    let service = http(|head, wire| {
        wire.body(head, false, |_| ());
        wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for _ in 0..3 {
            wire.send("GET / HTTP/1.1\r\nHost: service\r\n\r\n");
            let hints = wire.head().expect("hints");
            assert_eq!((hints.status(), hints.get("link")), (103, Some("</a.css>")));
            assert_eq!(wire.head().expect("it").status(), 102);
            assert_eq!(wire.answer().text(), "ok");
        }
        // Who speaks 1.0 knows of none (RFC 9110 §15.2).
        let mut old = ways.connect(way);
        old.send("GET / HTTP/1.0\r\nHost: service\r\n\r\n");
        assert_eq!(old.head().expect("an answer").status(), 200);
    }
}

fn a_body_that_was_asked_to_wait_goes_on(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        while let Some(head) = wire.head() {
            assert_eq!(head.get("expect").map(str::to_ascii_lowercase).as_deref(), Some("100-continue"));
            if head.path() == "/no" {
                wire.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return;
            }
            wire.send("HTTP/1.1 100 Continue\r\n\r\n");
            let mut body = Vec::new();
            wire.body(&head, false, |piece| body.extend_from_slice(piece));
            assert_eq!(body, b"body");
            wire.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for _ in 0..3 {
            wire.send("PUT /yes HTTP/1.1\r\nHost: service\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
            assert_eq!(wire.head().expect("an interim answer").status(), 100);
            assert_eq!(wire.ask("body").status(), 201);
        }
        let answer = wire.ask("PUT /no HTTP/1.1\r\nHost: service\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(answer.status(), 417);
    }
}

fn a_client_of_http_1_0_is_spoken_to_in_its_way(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        // Without a request to keep it, the connection ends with the answer.
        let mut wire = ways.connect(way);
        let answer = wire.ask("GET /give/1/1000/length HTTP/1.0\r\nHost: service\r\n\r\n");
        Noise::new(1).check(&answer.body);
        wire.expect_closed();
        // No chunks for one that does not know them.
        let mut wire = ways.connect(way);
        let answer = wire.ask("GET /give/2/200000/chunked HTTP/1.0\r\nHost: service\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(answer.head.get("transfer-encoding"), None);
        assert_eq!(answer.body.len(), 200_000);
        Noise::new(2).check(&answer.body);
        wire.expect_closed();
        // Kept when it asks for it and the length is known.
        let mut wire = ways.connect(way);
        for _ in 0..3 {
            let answer = wire.ask("GET /give/3/10/length HTTP/1.0\r\nHost: service\r\nConnection: keep-alive\r\n\r\n");
            assert_eq!(answer.head.get("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
            Noise::new(3).check(&answer.body);
        }
    }
}

fn an_answer_up_to_the_end_keeps_the_client_connected(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for len in [0, 1, 300_000] {
            let answer = wire.ask(format!("GET /give/1/{len}/close HTTP/1.1\r\nHost: service\r\n\r\n"));
            assert_eq!(answer.head.get("transfer-encoding"), Some("chunked"));
            assert_eq!(answer.body.len(), len);
            Noise::new(1).check(&answer.body);
        }
    }
    assert_eq!(service.accepted(), 3 * WAYS.len());
}

fn trailers_go_both_ways(driver: Driver) {
    let service = http(|head, wire| {
        let trailers = wire.body(head, false, |_| ());
        assert_eq!(trailers, ["x-sum: 1"], "of the request; what would change its framing is dropped");
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-done\r\n\r\n2\r\nok\r\n0\r\n");
        wire.send("x-done: yes\r\nContent-Length: 5\r\n\r\n");
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for _ in 0..2 {
            let answer = wire.ask(concat!(
                "POST / HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n",
                "3\r\nabc\r\n0\r\nx-sum: 1\r\nHost: other\r\n\r\n"
            ));
            assert_eq!((answer.text().as_str(), answer.trailers), ("ok", vec!["x-done: yes".to_owned()]));
        }
    }
}

/// The service refuses a large body without reading it; its answer must reach the client.
fn an_answer_before_the_end_of_the_request(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        wire.head().expect("a request");
        wire.send("HTTP/1.1 413 Too much\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much");
        // A closing server reads on for a while (RFC 9112 §9.6).
        wire.end();
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        let mut up = wire.twin();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let head = format!("PUT / HTTP/1.1\r\nHost: service\r\nContent-Length: {}\r\n\r\n", 32 * MIB);
                let _ = up.try_send(head.as_bytes());
                let piece = vec![b'x'; 100_000];
                // It ends when the sidecar closes.
                while up.try_send(&piece).is_ok() {}
            });
            let answer = wire.answer();
            assert_eq!((answer.status(), answer.text().as_str()), (413, "too much"));
            let _ = wire.rest();
        });
    }
}

fn a_client_may_end_its_direction_and_read_on(driver: Driver) {
    let service = http(|head, wire| {
        wire.body(head, false, |_| ());
        std::thread::sleep(Duration::from_millis(50));
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        wire.send("POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 2\r\n\r\nhi");
        wire.end();
        assert_eq!(wire.answer().text(), "ok");
        wire.expect_closed();
        // In the middle of a request it is the end of the call.
        let mut wire = ways.connect(way);
        wire.send("POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 20\r\n\r\nhi");
        wire.end();
        let (bytes, _) = wire.rest();
        assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&bytes));
    }
}

fn a_slow_reader_does_not_fill_the_memory(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    let before = sidecar.process.resident();
    let mut readers: Vec<Wire> = (0..8).map(|_| sidecar.connect("web")).collect();
    for wire in &mut readers {
        wire.send(format!("GET /give/5/{}/length HTTP/1.1\r\nHost: service\r\n\r\n", 64 * MIB));
    }
    let mut heads: Vec<Head> = readers.iter_mut().map(|wire| wire.head().expect("an answer")).collect();
    std::thread::sleep(Duration::from_millis(500));
    let grown = sidecar.process.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "512 MiB are asked for by clients that read nothing: {} KiB are held", grown / KIB);
    // And one of them gets everything when it reads at last.
    let mut wire = readers.swap_remove(0);
    let head = heads.swap_remove(0);
    let mut noise = Noise::new(5);
    wire.body(&head, false, |piece| noise.check(piece));
    assert_eq!(noise.made(), 64 * MIB);
}

fn hop_by_hop_fields_stay_behind(driver: Driver) {
    let service = http(|head, wire| {
        assert_eq!(head.get("connection"), None);
        assert_eq!(head.get("x-own"), None, "named by Connection");
        for name in ["keep-alive", "proxy-connection", "te", "upgrade"] {
            assert_eq!(head.get(name), None, "{name}");
        }
        assert_eq!(head.get("via"), Some("1.1 shmesh"));
        assert_eq!(head.get("host"), Some("service"));
        assert_eq!(head.all("x-kept"), ["1", "2"]);
        wire.send("HTTP/1.1 200 Fine\r\nConnection: x-theirs\r\nX-Theirs: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n");
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let answer = ways.connect(way).ask(concat!(
            "GET / HTTP/1.1\r\nHost: service\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n",
            "X-Kept: 1\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\nX-Kept: 2\r\nUpgrade: h2c\r\n\r\n"
        ));
        assert_eq!(answer.head.start, "HTTP/1.1 200 Fine");
        assert_eq!(answer.head.get("x-theirs"), None);
        assert_eq!(answer.head.get("via"), Some("1.1 shmesh"));
        assert_eq!(answer.head.all("set-cookie"), ["a", "b"]);
    }
}

fn the_head_arrives_a_byte_at_a_time(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for byte in b"POST /x HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
            wire.send([*byte]);
        }
        assert_eq!(wire.answer().text(), "ok");
    }
}

fn a_client_that_leaves_frees_its_upstream(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    let idle = sidecar.process.descriptors();
    for _ in 0..20 {
        let mut wire = sidecar.connect("web");
        wire.send(format!("GET /give/1/{}/length HTTP/1.1\r\nHost: service\r\n\r\n", 64 * MIB));
        wire.head().expect("an answer");
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    until("the descriptors are closed", || sidecar.process.descriptors() <= idle);
}

fn a_client_may_end_its_direction_behind_many_requests(driver: Driver) {
    let service = mirror();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        for count in [1, 2, 7, 300] {
            let mut wire = ways.connect(way);
            let requests: String = (0..count).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: service\r\n\r\n")).collect();
            wire.send(requests);
            wire.end();
            for n in 0..count {
                assert_eq!(wire.answer().text(), format!("GET /{n} "), "of {count}");
            }
            wire.expect_closed();
        }
    }
}

/// Answers that the sidecar makes itself count like those that an upstream sends: nobody reads, so it reads no more.
fn many_requests_without_a_route_do_not_fill_the_memory(driver: Driver) {
    const COUNT: usize = 20_000;
    let service = saying("ok");
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    assert_eq!(wire.ask("GET / HTTP/1.1\r\nHost: nope\r\n\r\n").status(), 404);
    let before = sidecar.process.resident();
    let mut writer = wire.twin();
    let sending = std::thread::spawn(move || writer.send("GET / HTTP/1.1\r\nHost: nope\r\n\r\n".repeat(COUNT)));
    let mut most = before;
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(10));
        most = most.max(sidecar.process.resident());
    }
    for n in 0..COUNT {
        assert_eq!(wire.answer().status(), 404, "answer {n}");
    }
    sending.join().expect("all is sent");
    let grown = (most - before) / MIB;
    assert!(grown < 40, "it grew by {grown} MiB");
    assert_eq!(sidecar.requests("web", "-", 404), 1.0 + COUNT as f64);
    assert_eq!(service.accepted(), 0);
}
