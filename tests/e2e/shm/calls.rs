//! Calls of an app to services: sizes, protocols, many at once, and every way to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shmesh_client::{Call, CallError, Client, DubboKey, Protocol, Ran, Request, Response, SubmitError, Target, Wait};
use shmesh_proto::dubbo::{
    FrameHeader, HEADER_LEN, Invocation, PeekOutcome, Reply, first_argument, peek_request, read_reply, serialization,
    write_request, write_value_response,
};

use super::{before, client, put};
use crate::bytes::{KIB, MIB, Noise, noise};
use crate::process::{PATIENCE, until};
use crate::service::{Service, http, noise_service, saying};
use crate::sidecar::{Driver, Sidecar, free_port};

on_each_driver!(
    http_calls_of_every_size,
    dubbo_calls_of_every_size,
    the_tag_of_the_key_saves_the_walk,
    large_answers_of_servers_are_not_copied,
    raw_calls_of_every_size,
    heads_pass_both_ways,
    sixty_four_calls_in_flight,
    large_and_small_calls_side_by_side,
    many_threads_share_a_client,
    keys_beyond_those_that_are_interned,
    failures_are_told_as_http_tells_them,
    failures_of_dubbo_are_statuses,
    a_dubbo_frame_that_is_too_long_goes_nowhere,
    failures_of_raw_calls_are_typed,
    a_deadline_ends_a_call,
    a_cancelled_call_frees_its_slot,
    a_one_way_call_is_forwarded,
    a_slow_app_does_not_fill_the_memory,
);

const SIZES: [u64; 12] = [0, 1, 64, 448, 464, 465, 1000, 64 * KIB, 256 * KIB - 1, 256 * KIB + 1, MIB + 3, 8 * MIB];

fn http_calls_of_every_size(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for len in SIZES {
        let body = noise(len, len);
        let response = client.call(put("service", &body)).unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        assert_eq!(response.status, 200);
        assert!(response.body == body, "{len} bytes");
        for framing in ["length", "chunked", "close"] {
            let path = format!("/give/{len}/{len}/{framing}");
            let response = client.call(Request::http("GET", "service", &path)).expect("an answer");
            assert!(response.body == body, "{len} bytes, {framing}");
        }
    }
    assert_eq!(sidecar.requests("apps", "service", 200), 4.0 * SIZES.len() as f64);
}

fn frame_of(id: u64, two_way: bool, argument: &str) -> Vec<u8> {
    let invocation = Invocation {
        path: "com.demo.GreetService",
        version: Some("1.0.0"),
        group: Some("g1"),
        method: "sayHello",
        argument: Some(argument.as_bytes()),
        timeout_ms: None,
        attachments: &[],
    };
    let mut frame = Vec::new();
    write_request(&mut frame, id, two_way, serialization::HESSIAN2, &invocation);
    frame
}

const KEY: DubboKey<'static> = DubboKey {
    service: "com.demo.GreetService",
    method: "sayHello",
    group: Some("g1"),
    version: Some("1.0.0"),
    tag: None,
};

fn reply_of(response: &Response, id: u64) -> Reply {
    let (header, body) = response.body.split_first_chunk::<HEADER_LEN>().expect("a frame");
    let header = FrameHeader::parse(header, u32::MAX).expect("a header");
    assert_eq!((header.id, u16::from(header.status)), (id, response.status));
    read_reply(&header, body).expect("an answer")
}

/// A provider that answers with the first argument.
fn provider() -> Service {
    Service::tcp(|mut wire| {
        while let Some(header) = wire.exactly(HEADER_LEN) {
            let header = FrameHeader::parse(header.first_chunk().expect("16 bytes"), u32::MAX).expect("a header");
            let body = wire.exactly(header.body_len as usize).expect("a body");
            if !header.two_way {
                continue;
            }
            let Ok(PeekOutcome::Done(peek)) = peek_request(header.serialization, &body, true) else {
                panic!("the provider got a request that cannot be read");
            };
            let argument = first_argument(header.serialization, &body, &peek).expect("an argument");
            let mut answer = Vec::new();
            write_value_response(&mut answer, &header, argument.of(&body));
            wire.send(answer);
        }
    })
}

fn large_answers_of_servers_are_not_copied(driver: Driver) {
    const LENGTHS: [u64; 9] = [100 * 1024, 5, MIB, 0, 4 * MIB + 3, 16 * MIB, 7, 1000, 64 * 1024];
    let service = http(|head, wire| {
        let len: u64 = head.path()[1..].parse().expect("a length");
        wire.body(head, false, |_| ());
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"));
        wire.send(noise(len, len));
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for len in LENGTHS {
        let copied = || {
            let before = sidecar.metric("shmesh_copied_bytes_total");
            let response = client.call(Request::http("GET", "service", &format!("/{len}"))).expect("an answer");
            assert!(response.body == noise(len, len), "{len} bytes: {} came", response.body.len());
            sidecar.metric("shmesh_copied_bytes_total") - before
        };
        // What comes with the head, its head, and an end that is not worth a block. When a busy machine stops the service within a
        // write, what came of it so far is a trickle, after which one more piece is copied: then the next answer tells.
        let mut tries = Vec::new();
        while tries.last().is_none_or(|copied| *copied >= 26.0 * 1024.0) {
            assert!(tries.len() < 50, "{len} bytes: {tries:?} were copied");
            tries.push(copied());
        }
    }
    assert_eq!(service.accepted(), 1, "connections are used again");
}

fn dubbo_calls_of_every_size(driver: Driver) {
    let service = provider();
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for len in SIZES.into_iter().filter(|len| *len < 8 * MIB) {
        let text: String = (0..len).map(|at| char::from(b'a' + (at % 25) as u8)).collect();
        let id = len ^ (1 << 63);
        let response = client.call(Request::dubbo(KEY, &frame_of(id, true, &text))).expect("an answer");
        assert!(reply_of(&response, id) == Reply::Value(text), "{len} bytes");
    }
    assert_eq!(key_source(&sidecar, "skipper"), 0.0, "the key says the group");
    assert!(key_source(&sidecar, "record") > 0.0);
    assert_eq!(service.accepted(), 1);
}

fn key_source(sidecar: &Sidecar, source: &str) -> f64 {
    sidecar.metric(&format!("shmesh_dubbo_key_source_total{{source=\"{source}\"}}"))
}

fn the_tag_of_the_key_saves_the_walk(driver: Driver) {
    let (one, two) = (provider(), provider());
    let config = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
routes:
  - { match: { service: com.demo.GreetService, tag: gray }, cluster: one }
  - { match: { service: com.demo.GreetService, attachments: [ { name: tenant, exact: a } ] }, cluster: one }
  - { match: { service: com.demo.GreetService }, cluster: two }
clusters: [ { name: one, endpoints: [ \"$one\" ] }, { name: two, endpoints: [ \"$two\" ] } ]
";
    let sidecar = Sidecar::start(driver, config, &[("one", &one.endpoint), ("two", &two.endpoint)]);
    let client = client(&sidecar);
    let frame = |id, attachments: &[(&str, &str)]| {
        let invocation = Invocation {
            path: "com.demo.GreetService",
            version: Some("1.0.0"),
            method: "sayHello",
            argument: Some(b"a"),
            attachments,
            ..Default::default()
        };
        let mut frame = Vec::new();
        write_request(&mut frame, id, true, serialization::HESSIAN2, &invocation);
        frame
    };
    // What the key says, what the frame says, and how often each cluster and each source was used so far.
    type Case = (Option<&'static str>, &'static [(&'static str, &'static str)], [f64; 4]);
    let cases: [Case; 7] = [
        (Some("gray"), &[], [1.0, 0.0, 1.0, 0.0]),
        // The key's word counts, as it does for the group.
        (Some(""), &[("dubbo.tag", "gray"), ("tenant", "a")], [2.0, 0.0, 1.0, 1.0]),
        (Some("blue"), &[("dubbo.tag", "gray")], [2.0, 1.0, 1.0, 2.0]),
        (None, &[("dubbo.tag", "gray")], [3.0, 1.0, 1.0, 3.0]),
        (None, &[("dubbo.tag", "blue"), ("tenant", "b")], [3.0, 2.0, 1.0, 4.0]),
        // Under the same key another frame goes elsewhere.
        (None, &[("tenant", "a")], [4.0, 2.0, 1.0, 5.0]),
        (Some("gray"), &[("tenant", "b")], [5.0, 2.0, 2.0, 5.0]),
    ];
    for (id, (tag, attachments, expected)) in cases.into_iter().enumerate() {
        let key = DubboKey { tag, ..KEY };
        let response = client.call(Request::dubbo(key, &frame(id as u64, attachments))).expect("an answer");
        assert_eq!(reply_of(&response, id as u64), Reply::Value("a".to_owned()));
        let clusters = ["one", "two"].map(|cluster| sidecar.requests("apps", cluster, 20));
        let sources = ["record", "skipper"].map(|source| key_source(&sidecar, source));
        assert_eq!([clusters, sources].concat(), expected, "{tag:?} {attachments:?}");
    }
}

fn raw_calls_of_every_size(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        let (bytes, in_order) = wire.rest();
        assert!(in_order);
        wire.send(bytes);
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for len in SIZES {
        let bytes = noise(len + 1, len);
        let response = client.call(Request::raw("service", &bytes)).unwrap_or_else(|error| panic!("{len}: {error}"));
        assert!(response.body == bytes, "{len} bytes: {} came", response.body.len());
    }
}

fn heads_pass_both_ways(driver: Driver) {
    let service = http(|head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        assert_eq!(head.path(), "/a/b?c=d");
        assert_eq!(head.get("host"), Some("service:8080"));
        assert_eq!(head.get("x-trace"), Some("1 2"));
        assert_eq!(head.get("via"), Some("1.1 shmesh"));
        assert_eq!((head.length(), body.as_slice()), (Some(4), &b"body"[..]));
        wire.send("HTTP/1.1 201 Made\r\nX-Own: yes\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok");
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for _ in 0..3 {
        let request = Request::http("POST", "service:8080", "/a/b?c=d").header("X-Trace", "1 2").body(b"body");
        let response = client.call(request).expect("an answer");
        assert_eq!((response.status, response.body.as_slice()), (201, &b"ok"[..]));
        assert_eq!(response.header("x-own"), Some(&b"yes"[..]));
        assert_eq!(response.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"set-cookie")).count(), 2);
    }
}

/// Submits a PUT to /echo, waiting for room.
fn submit(lane: &mut shmesh_client::Lane, body: &[u8]) -> shmesh_client::CallId {
    let head = b"PUT /echo HTTP/1.1\r\nHost: service\r\n\r\n";
    let target = match lane.define(Protocol::Http, head) {
        Some(route) => Target::Route(route),
        None => Target::Key(Protocol::Http, head),
    };
    let late = Instant::now() + PATIENCE;
    loop {
        match lane.submit(&Call::new(target, &[body])) {
            Err(SubmitError::Full) if Instant::now() < late => {
                lane.flush();
                std::thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome.expect("room"),
        }
    }
}

fn sixty_four_calls_in_flight(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    let mut lane = client.lane().expect("a lane");
    assert_eq!(lane.slots(), 64);
    let mut noise = Noise::new(3);
    for _ in 0..20 {
        let mut open = std::collections::HashMap::new();
        for at in 0..64 {
            let body = noise.take(at * 7);
            open.insert(submit(&mut lane, &body), body);
        }
        assert_eq!(lane.in_flight(), 64);
        let head = b"PUT /echo HTTP/1.1\r\nHost: service\r\n\r\n";
        let one_more = lane.submit(&Call::new(Target::Key(Protocol::Http, head), &[b"x"]));
        assert_eq!(one_more, Err(SubmitError::Full));
        while !open.is_empty() {
            let answer =
                lane.receive(Wait::For(Duration::from_secs(10))).expect("the sidecar is there").expect("in time");
            let body = open.remove(&answer.id).expect("one of ours");
            assert!(answer.outcome.expect("an answer").body == body);
        }
    }
    assert_eq!(sidecar.requests("apps", "service", 200), 1280.0);
}

fn large_and_small_calls_side_by_side(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    let mut lane = client.lane().expect("a lane");
    // 16 of 1 MiB are four times the arena, and all are sent in parts.
    for round in 0..3 {
        let mut open = std::collections::HashMap::new();
        for at in 0..48_u64 {
            let len = if at % 3 == 0 { MIB + at } else { at * 100 };
            let body = noise(at + round, len);
            open.insert(submit(&mut lane, &body), body);
        }
        while !open.is_empty() {
            let answer =
                lane.receive(Wait::For(Duration::from_secs(20))).expect("the sidecar is there").expect("in time");
            let body = open.remove(&answer.id).expect("one of ours");
            let response = answer.outcome.expect("an answer");
            assert!(response.body == body, "{} bytes, {} came", body.len(), response.body.len());
        }
    }
}

fn many_threads_share_a_client(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    std::thread::scope(|scope| {
        for thread in 0..10_u64 {
            let client = client.clone();
            scope.spawn(move || {
                let mut noise = Noise::new(thread);
                for call in 0..40 {
                    let body = noise.take(call * 100);
                    let response = client.call(put("service", &body)).expect("an answer");
                    assert!(response.body == body, "thread {thread}, call {call}");
                }
            });
        }
    });
    assert_eq!(sidecar.requests("apps", "service", 200), 400.0);
}

fn keys_beyond_those_that_are_interned(driver: Driver) {
    let service = http(|head, wire| {
        let text = head.path().to_owned();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    // More than the 1,024 ids of a lane, each twice so that it is worth an id.
    for path in (0..1500).map(|n| format!("/{n}")) {
        for _ in 0..2 {
            let response = client.call(Request::http("GET", "service", &path)).expect("an answer");
            assert_eq!(response.body, path.as_bytes());
        }
    }
}

fn failures_are_told_as_http_tells_them(driver: Driver) {
    let get =
        |client: &Client, host| client.call(Request::http("GET", host, "/")).expect("an answer of the sidecar's own");
    let sidecar = before(driver, &format!("tcp:127.0.0.1:{}", free_port()));
    let to_nobody = client(&sidecar);
    let response = get(&to_nobody, "elsewhere");
    assert_eq!((response.status, response.header("x-shmesh-reason")), (404, Some(&b"no-route"[..])));
    assert!(response.body.starts_with(b"shmesh: no route"));
    let response = to_nobody.call(Request::http("HEAD", "elsewhere", "/")).expect("an answer of the sidecar's own");
    assert_eq!((response.status, response.body.len()), (404, 0), "an answer to HEAD has no body");
    let response = get(&to_nobody, "service");
    assert_eq!((response.status, response.header("x-shmesh-reason")), (503, Some(&b"upstream-refused"[..])));
    let dies = Service::tcp(|mut wire| {
        wire.head();
    });
    let sidecar = before(driver, &dies.endpoint);
    let response = get(&client(&sidecar), "service");
    assert_eq!((response.status, response.header("x-shmesh-reason")), (502, Some(&b"upstream-died"[..])));
    // Once its head is out, the end is a reset that says that it may have run.
    let dies = Service::tcp(|mut wire| {
        wire.head();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all");
    });
    let sidecar = before(driver, &dies.endpoint);
    let error = client(&sidecar).call(Request::http("GET", "service", "/")).expect_err("no whole answer");
    assert!(matches!(error, CallError::Died { ran: Ran::Maybe, .. }), "{error:?}");
}

fn failures_of_dubbo_are_statuses(driver: Driver) {
    let sidecar = before(driver, &format!("tcp:127.0.0.1:{}", free_port()));
    let client = client(&sidecar);
    let frame = frame_of(5, true, "x");
    let response = client.call(Request::dubbo(KEY, &frame)).expect("an answer of the sidecar's own");
    assert!(matches!(reply_of(&response, 5), Reply::Error { status: 80, .. }));
    // The key decides, and another group has no route.
    let key = DubboKey { group: Some("other"), ..KEY };
    let response = client.call(Request::dubbo(key, &frame)).expect("an answer of the sidecar's own");
    let Reply::Error { status: 60, sentence } = reply_of(&response, 5) else { panic!("{response:?}") };
    assert!(sentence.starts_with("shmesh: no route"), "{sentence}");
}

/// Not round the sidecar either: its limit is for all.
fn a_dubbo_frame_that_is_too_long_goes_nowhere(driver: Driver) {
    let provider = provider();
    let sidecar = before(driver, &provider.endpoint);
    let client = client(&sidecar);
    let short = frame_of(1, true, "x");
    let short = || Request::dubbo(KEY, &short).timeout(PATIENCE);
    until("it knows the way round", || {
        assert_eq!(client.call(short()).expect("an answer").status, 20);
        client.knows_way_round(&short())
    });
    let long = frame_of(2, true, &"x".repeat(9 * MIB as usize));
    let error = client.call(Request::dubbo(KEY, &long).timeout(PATIENCE)).expect_err("8 MiB are taken");
    let CallError::Malformed { ran: Ran::No, sentence } = error else { panic!("{error:?}") };
    assert!(sentence.contains("limits.dubbo_body_bytes"), "{sentence}");
    assert_eq!(client.call(short()).expect("an answer").status, 20);
}

fn failures_of_raw_calls_are_typed(driver: Driver) {
    let sidecar = before(driver, &format!("tcp:127.0.0.1:{}", free_port()));
    let client = client(&sidecar);
    let error = client.call(Request::raw("service", b"x")).expect_err("nobody listens");
    assert!(matches!(&error, CallError::Refused(sentence) if sentence.starts_with("shmesh: ")), "{error:?}");
    let error = client.call(Request::raw("unknown", b"x")).expect_err("there is no such cluster");
    assert!(matches!(error, CallError::NoRoute(_)), "{error:?}");
}

fn a_deadline_ends_a_call(driver: Driver) {
    let heard = Arc::new(AtomicBool::new(false));
    let hears = heard.clone();
    let service = Service::tcp(move |mut wire| {
        let _ = wire.each_piece(u64::MAX, |_| hears.store(true, Ordering::SeqCst));
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for body in [&b"x"[..], &noise(1, MIB)] {
        let started = Instant::now();
        let timeout = Duration::from_millis(300);
        heard.store(false, Ordering::SeqCst);
        let outcome = client.call(Request::http("PUT", "service", "/").body(body).timeout(timeout));
        let took = started.elapsed();
        // The sidecar counts from the turn in which it takes the call, which began a little before.
        assert!(took >= timeout * 9 / 10 && took < Duration::from_secs(10), "{took:?}");
        match outcome {
            Ok(response) => assert_eq!(response.status, 504),
            Err(CallError::Timeout { ran: Ran::Maybe, .. }) => {}
            // A worker that did not get to it in time has sent nothing.
            Err(CallError::Timeout { ran: Ran::No, .. } | CallError::Withdrawn) => {
                assert!(!heard.load(Ordering::SeqCst), "the service was called");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn a_cancelled_call_frees_its_slot(driver: Driver) {
    let silent = Service::tcp(|mut wire| {
        let head = wire.head().expect("a request");
        if head.path() == "/answer" {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let sidecar = before(driver, &silent.endpoint);
    let client = client(&sidecar);
    let mut lane = client.lane().expect("a lane");
    for _ in 0..3 {
        // As many as the lane has slots, three times over.
        let calls: Vec<_> = (0..64).map(|_| submit(&mut lane, b"never answered")).collect();
        lane.flush();
        sidecar.expect_metric("shmesh_calls_in_flight", 64.0);
        for call in calls {
            lane.cancel(call);
        }
        lane.flush();
        sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
        assert_eq!(lane.in_flight(), 0);
    }
    drop(lane);
    let answer = client.call(Request::http("GET", "service", "/answer")).expect("an answer");
    assert_eq!((answer.status, String::from_utf8_lossy(&answer.body)), (200, "ok".into()));
}

fn a_one_way_call_is_forwarded(driver: Driver) {
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = seen.clone();
    let service = Service::tcp(move |mut wire| {
        while let Some(header) = wire.exactly(HEADER_LEN) {
            let header = FrameHeader::parse(header.first_chunk().expect("16 bytes"), u32::MAX).expect("a header");
            assert!(!header.two_way);
            wire.exactly(header.body_len as usize).expect("a body");
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for id in 0..10 {
        let response = client.call(Request::dubbo(KEY, &frame_of(id, false, "notice"))).expect("it was forwarded");
        assert!(response.body.is_empty());
    }
    until("all came", || seen.load(std::sync::atomic::Ordering::Relaxed) == 10);
}

/// Answers of 64 MiB for an app that takes nothing: they wait where they are.
fn a_slow_app_does_not_fill_the_memory(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    let mut lane = client.lane().expect("a lane");
    // The arena of the lane is there already.
    assert_eq!(client.call(put("service", &noise(1, 8 * MIB))).expect("an answer").status, 200);
    let before = sidecar.process.resident();
    let head = format!("GET /give/1/{}/length HTTP/1.1\r\nHost: service\r\n\r\n", 64 * MIB);
    for _ in 0..8 {
        lane.submit(&Call::new(Target::Key(Protocol::Http, head.as_bytes()), &[])).expect("room");
    }
    lane.flush();
    std::thread::sleep(Duration::from_millis(500));
    let grown = sidecar.process.resident().saturating_sub(before);
    assert!(grown < 24 * MIB, "{} KiB are held", grown / KIB);
    drop(lane);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    // And nothing of that stands in the way of others.
    let text = saying("ok");
    let sidecar = super::before(driver, &text.endpoint);
    assert_eq!(super::client(&sidecar).call(Request::http("GET", "service", "/")).expect("an answer").body, b"ok");
}
