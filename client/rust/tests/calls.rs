//! Calls through a sidecar of the tests' own.

mod fake;

use std::io::{Read, Write};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fake::{FakeSidecar, SMALL, Settings, other_version, pattern};
use shmesh_client::{
    Call, CallError, Client, ClientBuilder, ConnectError, DubboKey, Place, Protocol, Ran, Request, Retry, SubmitError,
    Target, Wait,
};
use tempfile::TempDir;

fn sidecar(settings: Settings) -> (TempDir, FakeSidecar, Client) {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = builder(&sidecar).connect().unwrap();
    (dir, sidecar, client)
}

fn builder(sidecar: &FakeSidecar) -> ClientBuilder {
    Client::builder().socket(sidecar.path()).name("tests").lanes(2)
}

fn small() -> Settings {
    Settings { geometry: SMALL, ..Settings::default() }
}

#[test]
fn a_call_is_answered_with_status_head_and_body() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let response = client.call(Request::http("PUT", "reviews", "/a?b=c").header("x", "y").body(b"hello")).unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]));
    assert_eq!(response.header("X-Path"), Some(&b"/a?b=c"[..]));
    assert!(response.head.ends_with(b"\r\n\r\n"));
}

#[test]
fn a_key_that_is_used_again_is_interned() {
    let (_dir, sidecar, client) = sidecar(Settings::default());
    for i in 0..10 {
        let body = pattern(i, 20);
        let response = client.call(Request::http("PUT", "reviews", "/same").body(&body)).unwrap();
        assert_eq!(response.body, body);
    }
    let counts = &sidecar.counts;
    assert_eq!((counts.opens.load(SeqCst), counts.defines.load(SeqCst)), (10, 1));
    assert_eq!(counts.inline_keys.load(SeqCst), 1, "only the first carried its key");
    assert_eq!(counts.lookups.load(SeqCst), 1, "asked about once");
}

#[test]
fn bodies_of_every_size_come_back() {
    for settings in [Settings::default(), small()] {
        let geometry = settings.geometry;
        let (_dir, _sidecar, client) = sidecar(settings);
        let (inline, block) = (geometry.inline_max() as usize, geometry.block_max as usize);
        for len in [0, 1, inline - 40, inline, inline + 1, block - 1, block, block + 1, 3 * block, 5_000_000] {
            let body = pattern(len as u64, len);
            let response = client.call(Request::http("PUT", "reviews", "/").body(&body)).unwrap();
            assert!(response.body == body, "{len} bytes");
        }
    }
}

#[test]
fn dubbo_and_raw_are_called_too() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let mut frame = b"\xda\xbb\xc2\x00\0\0\0\0\0\0\0\x07\0\0\0\x03abc".to_vec();
    let key =
        DubboKey { service: "com.demo.GreetService", method: "sayHello", group: Some("g1"), version: None, tag: None };
    let response = client.call(Request::dubbo(key, &frame)).unwrap();
    assert_eq!((response.status, response.body), (20, frame.clone()));
    frame[2] = 0x82;
    let response = client.call(Request::dubbo(key, &frame)).unwrap();
    assert_eq!(response.body, b"", "one-way: taken, that is all");
    let response = client.call(Request::raw("cluster", b"bytes")).unwrap();
    assert_eq!((response.status, &response.body[..]), (0, &b"bytes"[..]));
}

#[test]
fn pipelined_calls_each_get_their_own_answer() {
    for settings in [Settings::default(), small()] {
        let (_dir, _sidecar, client) = sidecar(settings);
        let mut lane = client.lane().unwrap();
        let key = b"PUT /pipelined HTTP/1.1\r\nHost: reviews\r\n\r\n";
        let route = lane.define(Protocol::Http, key).unwrap();
        let (mut sent, mut got) = (0, 0);
        let mut flying = std::collections::HashMap::new();
        let length = |n: u64| [0, 10, 400, 500, 3_000, 40_000][(n % 6) as usize];
        while got < 6_000 {
            while sent < 6_000 {
                let body = pattern(sent, length(sent));
                let (left, right) = body.split_at(body.len() / 2);
                let (middle, right) = right.split_at(right.len() / 2);
                match lane.submit(&Call::new(Target::Route(route), &[left, middle, right])) {
                    Ok(id) => drop(flying.insert(id, sent)),
                    Err(SubmitError::Full) => break,
                    Err(error) => panic!("{error}"),
                }
                sent += 1;
            }
            let answer = lane.receive(Wait::Forever).unwrap().unwrap();
            let number = flying.remove(&answer.id).expect("an answer to a call in flight");
            let response = answer.outcome.unwrap();
            assert!(response.body == pattern(number, length(number)), "call {number}");
            lane.recycle(response);
            got += 1;
        }
        assert_eq!(lane.receive(Wait::Forever), Ok(None), "nothing is in flight");
    }
}

#[test]
fn many_threads_share_few_lanes() {
    let (_dir, sidecar, _) = sidecar(small());
    let client = builder(&sidecar).lanes(2).sessions_max(2).connect().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let client = &client;
            scope.spawn(move || {
                for i in 0..200 {
                    let body = pattern(thread * 1000 + i, (i as usize * 37) % 2000);
                    let response = client.call(Request::http("PUT", "reviews", "/").body(&body)).unwrap();
                    assert!(response.body == body);
                }
            });
        }
    });
    assert_eq!(sidecar.counts.opens.load(SeqCst), 2400);
}

#[test]
fn a_reset_says_where_it_failed_and_whether_to_try_again() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let sentence = || "as was asked".to_owned();
    let ran = Ran::Maybe;
    let cases = [
        (2, CallError::NoRoute(sentence()), Place::Sidecar, Retry::No),
        (3, CallError::Refused(sentence()), Place::Upstream, Retry::Safe),
        (4, CallError::Died { ran, sentence: sentence() }, Place::Upstream, Retry::IfIdempotent),
        (5, CallError::Timeout { ran, sentence: sentence() }, Place::Upstream, Retry::IfIdempotent),
        (6, CallError::Malformed { ran, sentence: sentence() }, Place::Upstream, Retry::No),
        (7, CallError::Overloaded { ran, sentence: sentence() }, Place::Sidecar, Retry::IfIdempotent),
        (9, CallError::Withdrawn, Place::Sidecar, Retry::Safe),
    ];
    for (code, error, place, retry) in cases {
        let outcome = client.call(Request::http("POST", "reviews", &format!("/reset/{code}")));
        assert_eq!(outcome, Err(error.clone()));
        assert_eq!((error.place(), error.retry()), (place, retry));
    }
    let flawed = client.call(Request::http("GET", "", "/"));
    assert!(matches!(flawed, Err(CallError::BadRequest(_))));
}

#[test]
fn a_call_that_is_not_answered_ends_by_its_timeout_and_says_whether_it_ran() {
    let (_dir, sidecar, client) = sidecar(Settings::default());
    let mut calls = 0;
    let mut ran = |path: &str, timeout: Duration| {
        calls += 1;
        let began = Instant::now();
        let outcome = client.call(Request::http("GET", "reviews", path).timeout(timeout));
        assert!(began.elapsed() >= timeout);
        match outcome {
            Err(CallError::Timeout { ran, .. }) => ran,
            other => panic!("{other:?}"),
        }
    };
    let short = Duration::from_millis(50);
    assert_eq!(ran("/accepted", short), Ran::No);
    // A sidecar that did not get its turn has not forwarded it.
    assert!((0..6).any(|doubled| ran("/forwarded", short * (1 << doubled)) == Ran::Maybe));
    let response = client.call(Request::http("PUT", "reviews", "/").body(b"the lane still works")).unwrap();
    assert_eq!(response.body, b"the lane still works");
    assert_eq!(sidecar.counts.resets.load(SeqCst), calls, "the sidecar was told");
}

#[test]
fn the_wait_for_a_lane_is_part_of_a_calls_time() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = FakeSidecar::start(&dir.path().join("s"), Settings::default());
    for fallback in [true, false] {
        let builder = Client::builder().socket(sidecar.path()).lanes(1).sessions_max(1).fallback(fallback);
        let client = builder.patience(Duration::from_secs(60)).connect().unwrap();
        let lane = client.lane().unwrap();
        let request = || Request::http("GET", "reviews", "/").timeout(Duration::from_millis(50));
        let began = Instant::now();
        for error in [client.call(request()).unwrap_err(), client.exchange(&request(), None).unwrap_err()] {
            assert!(matches!(error, CallError::Timeout { ran: Ran::No, .. }), "{error:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it waited for a lane");
        drop(lane);
        assert_eq!(client.call(Request::http("GET", "reviews", "/")).unwrap().status, 200);
    }
}

#[test]
fn a_receive_that_times_out_leaves_the_call_in_flight() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let mut lane = client.lane().unwrap();
    let key = b"GET /forwarded HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let id = lane.submit(&Call::new(Target::Key(Protocol::Http, key), &[])).unwrap();
    assert_eq!(lane.receive(Wait::No), Ok(None));
    assert_eq!(lane.receive(Wait::For(Duration::from_millis(30))), Ok(None));
    assert_eq!(lane.in_flight(), 1);
    // By the second answer the sidecar has looked at every lane.
    for _ in 0..2 {
        client.call(Request::http("GET", "reviews", "/")).unwrap();
    }
    assert_eq!(lane.cancel(id), Ran::Maybe);
    assert_eq!((lane.in_flight(), lane.receive(Wait::Forever)), (0, Ok(None)));
}

#[test]
fn an_answer_over_the_limit_fails_its_call_alone() {
    let (_dir, sidecar, _) = sidecar(small());
    let client = builder(&sidecar).answer_bytes_max(100_000).connect().unwrap();
    let body = pattern(1, 300_000);
    let outcome = client.call(Request::http("PUT", "reviews", "/").body(&body));
    assert_eq!(outcome, Err(CallError::AnswerTooLong { limit: 100_000 }));
    let response = client.call(Request::http("PUT", "reviews", "/").body(&body[..90_000])).unwrap();
    assert!(response.body == body[..90_000]);
}

#[test]
fn an_answer_may_come_before_the_request_has_ended() {
    let (_dir, _sidecar, client) = sidecar(small());
    let body = pattern(1, 1_000_000);
    let response = client.call(Request::http("PUT", "reviews", "/early").body(&body)).unwrap();
    assert_eq!(response.status, 413);
    let response = client.call(Request::http("PUT", "reviews", "/").body(b"next")).unwrap();
    assert_eq!(response.body, b"next");
}

#[test]
fn writing_ends_with_the_answer_when_no_credit_comes_any_more() {
    let (_dir, _sidecar, client) = sidecar(small());
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let mut exchange = client.exchange(&Request::http("PUT", "reviews", "/early"), None).unwrap();
        while exchange.write_body(&[1; 10_000]).unwrap() > 0 {}
        exchange.finish().unwrap();
        ended.send(exchange.head().unwrap().0).unwrap();
    });
    assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok(413));
}

#[test]
fn an_answer_to_a_call_that_was_given_up_is_not_delivered_though_it_is_there() {
    let (_dir, _sidecar, client) = sidecar(small());
    let mut lane = client.lane().unwrap();
    let key = Target::Key(Protocol::Http, b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    let calls = [lane.submit(&Call::new(key, &[])).unwrap(), lane.submit(&Call::new(key, &[])).unwrap()];
    // The sidecar answers in one go what came in one go.
    let first = lane.receive(Wait::Forever).unwrap().unwrap().id;
    let other = calls.into_iter().find(|call| *call != first).unwrap();
    lane.cancel(other);
    assert_eq!((lane.receive(Wait::For(Duration::from_millis(50))), lane.in_flight()), (Ok(None), 0));
}

#[test]
fn an_exchange_streams_both_bodies() {
    let (_dir, _sidecar, client) = sidecar(small());
    let body = pattern(3, 3_000_000);
    let request = Request::http("PUT", "reviews", "/streamed");
    let mut exchange = client.exchange(&request, Some(body.len() as u64)).unwrap();
    exchange.write_all(&body).unwrap();
    exchange.finish().unwrap();
    let (status, head) = exchange.head().unwrap();
    assert_eq!(status, 200);
    assert!(String::from_utf8(head).unwrap().contains("x-path: /streamed"));
    let mut got = Vec::new();
    exchange.read_to_end(&mut got).unwrap();
    assert!(got == body);
    drop(exchange);
    let response = client.call(Request::http("PUT", "reviews", "/").body(b"next")).unwrap();
    assert_eq!(response.body, b"next");
}

#[test]
fn a_dropped_exchange_gives_its_call_up() {
    let (_dir, sidecar, client) = sidecar(small());
    let mut exchange = client.exchange(&Request::http("PUT", "reviews", "/"), None).unwrap();
    exchange.write_all(&[1; 100_000]).unwrap();
    drop(exchange);
    assert_eq!(client.call(Request::http("GET", "reviews", "/")).unwrap().status, 200);
    assert_eq!(sidecar.counts.resets.load(SeqCst), 1);
}

#[test]
fn nothing_stays_lent_when_a_client_is_dropped() {
    let (_dir, sidecar, client) = sidecar(small());
    for i in 0..50 {
        client.call(Request::http("PUT", "reviews", "/").body(&pattern(i, 20_000))).unwrap();
    }
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(5);
    let path = sidecar.path().to_owned();
    // A session that ended is seen by the next thing that wakes the sidecar.
    while Instant::now() < deadline && std::os::unix::net::UnixStream::connect(&path).is_err() {}
    std::thread::sleep(Duration::from_millis(50));
    assert!(sidecar.counts.leaked.load(SeqCst) <= 2, "at most the last answer of each lane is not given back yet");
}

#[test]
fn without_a_sidecar_the_first_call_says_so_or_connecting_if_there_is_no_other_way() {
    let loyal = Client::builder().socket("/nonexistent/shmesh.sock").fallback(false).connect();
    let error =
        Client::connect("/nonexistent/shmesh.sock").unwrap().call(Request::http("GET", "reviews", "/")).unwrap_err();
    assert_eq!(loyal.unwrap_err(), error);
    let CallError::Connect(ConnectError::Socket { path, .. }) = &error else { panic!("{error:?}") };
    assert_eq!(path, "/nonexistent/shmesh.sock");
    assert_eq!((error.place(), error.retry()), (Place::Sidecar, Retry::Safe));
}

#[test]
fn another_version_is_refused_naming_both() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { refuse: Some(other_version()), ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let error = Client::connect(sidecar.path()).unwrap_err();
    assert_eq!(error.to_string(), "the sidecar speaks shm 7 to 9, this shim 1 to 1: update the older one");
}
