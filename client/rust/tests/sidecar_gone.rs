//! What happens to calls when the sidecar dies, and afterwards.

mod fake;
mod service;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use fake::{FakeSidecar, Settings, pattern};
use service::Service;
use shmesh_client::{CallError, Client, DubboKey, Protocol, Ran, Request, Retry, Target, Wait};

fn with_endpoints(endpoints: &[&str]) -> (tempfile::TempDir, FakeSidecar, Client) {
    let dir = tempfile::tempdir().unwrap();
    let endpoints = endpoints.iter().map(|text| (*text).to_owned()).collect();
    let settings = Settings { endpoints, ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = Client::builder().socket(sidecar.path()).lanes(2).connect().unwrap();
    (dir, sidecar, client)
}

/// A sidecar that has said already where calls to `reviews` go.
fn warm(address: &str) -> (tempfile::TempDir, FakeSidecar, Client) {
    let (dir, sidecar, client) = with_endpoints(&[address]);
    client.call(Request::http("GET", "reviews", "/warm")).unwrap();
    sidecar.wait_for_lookups(1);
    (dir, sidecar, client)
}

#[test]
fn an_idempotent_call_that_was_forwarded_goes_direct() {
    let service = Service::tcp();
    let (_dir, _sidecar, client) = warm(&service.address);
    let body = pattern(1, 10_000);
    let response = client.call(Request::http("PUT", "reviews", "/die").header("x", "y").body(&body)).unwrap();
    assert_eq!((response.status, service.requests()), (202, 1));
    assert!(response.body == body);
    assert_eq!(response.header("transfer-encoding"), None, "framing is not passed on");
}

#[test]
fn a_call_that_may_have_run_and_is_not_idempotent_is_not_made_again() {
    let service = Service::tcp();
    let (_dir, _sidecar, client) = warm(&service.address);
    let error = client.call(Request::http("POST", "reviews", "/die").body(b"once")).unwrap_err();
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");
    assert_eq!((error.retry(), service.requests()), (Retry::IfIdempotent, 0));
}

#[test]
fn a_call_that_may_have_run_may_have_run_when_it_was_not_to_be_made_directly_either() {
    let (_dir, _sidecar, client) = warm("tcp:127.0.0.1:1");
    let error = client.call(Request::http("PUT", "reviews", "/die").body(b"once")).unwrap_err();
    assert!(matches!(error, CallError::Direct { ran: Ran::Maybe, .. }), "{error:?}");
}

#[test]
fn an_exchange_that_may_have_run_says_so_each_time_it_is_asked() {
    let (_dir, _sidecar, client) = with_endpoints(&[]);
    let mut exchange = client.exchange(&Request::http("POST", "reviews", "/die"), None).unwrap();
    exchange.write_body(b"once").unwrap();
    let _ = exchange.finish();
    let errors = [
        exchange.head().unwrap_err(),
        exchange.write_body(b"more").unwrap_err(),
        exchange.read_body(&mut [0; 8]).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| matches!(error, CallError::MaybeExecuted(_))), "{errors:?}");
}

#[test]
fn a_call_that_was_not_forwarded_is_made_again_whatever_its_method() {
    let service = Service::tcp();
    let (_dir, _sidecar, client) = warm(&service.address);
    let response = client.call(Request::http("POST", "reviews", "/die-early").body(b"once")).unwrap();
    assert_eq!((response.status, &response.body[..], service.requests()), (202, &b"once"[..], 1));
}

#[test]
fn while_the_sidecar_is_away_calls_go_direct_and_then_back() {
    let service = Service::tcp();
    let (dir, sidecar, client) = with_endpoints(&["tcp:127.0.0.1:1", "shm:other", &service.address]);
    let call = |method: &str| client.call(Request::http(method, "reviews", "/x").body(b"b")).unwrap().status;
    assert_eq!(call("POST"), 200);
    sidecar.wait_for_lookups(1);
    sidecar.kill();
    for _ in 0..10 {
        assert_eq!(call("POST"), 202, "refused by one endpoint, taken by the other");
    }
    assert_eq!(service.requests(), 10);
    let again = FakeSidecar::start(&dir.path().join("s"), Settings::default());
    let deadline = Instant::now() + Duration::from_secs(5);
    while call("POST") != 200 {
        assert!(Instant::now() < deadline, "it never went back");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(again.counts.opens.load(SeqCst) >= 1);
}

#[test]
fn an_app_that_starts_before_its_sidecar_goes_over_when_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let client = Client::connect(&path).unwrap();
    let call = || client.call(Request::http("GET", "reviews", "/x"));
    let error = call().unwrap_err();
    assert!(matches!(error, CallError::Connect(_)) && error.retry() == Retry::Safe, "{error:?}");
    let _sidecar = FakeSidecar::start(&path, Settings::default());
    let deadline = Instant::now() + Duration::from_secs(30);
    while call().is_err() {
        assert!(Instant::now() < deadline, "it never went over");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn calls_do_not_wait_for_a_sidecar_that_takes_connections_and_says_nothing() {
    let service = Service::tcp();
    let (dir, sidecar, client) = warm(&service.address);
    sidecar.kill();
    let path = dir.path().join("s");
    let _ = std::fs::remove_file(&path);
    let silent = UnixListener::bind(&path).unwrap();
    // Until it was tried, and some more.
    let mut connections = Vec::new();
    silent.set_nonblocking(true).unwrap();
    let mut calls = 0;
    while connections.is_empty() || calls < 50 {
        let began = Instant::now();
        assert_eq!(client.call(Request::http("POST", "reviews", "/x").body(b"b")).unwrap().status, 202);
        // The handshake's time is 5 s.
        assert!(began.elapsed() < Duration::from_secs(4), "it waited for WELCOME");
        calls += 1;
        connections.extend(silent.accept());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(service.requests(), calls);
    drop((silent, connections));
    let _again = FakeSidecar::start(&path, Settings::default());
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.call(Request::http("GET", "reviews", "/x")).unwrap().status != 200 {
        assert!(Instant::now() < deadline, "it never went back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// It waits no longer than its own time, whatever the handshake may take.
#[test]
fn a_call_that_knows_no_other_way_waits_for_its_sidecar_as_long_as_it_has_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _silent = UnixListener::bind(&path).unwrap();
    let client = Client::connect(&path).unwrap();
    let request = || Request::http("GET", "reviews", "/").timeout(Duration::from_millis(100));
    for error in [client.call(request()).unwrap_err(), client.exchange(&request(), None).unwrap_err()] {
        // Not that the sidecar was silent for five seconds.
        assert!(matches!(error, CallError::Timeout { ran: Ran::No, .. }), "{error:?}");
    }
}

#[test]
fn an_unknown_path_goes_where_all_of_its_authority_go() {
    let service = Service::tcp();
    let (_dir, sidecar, client) = with_endpoints(&[&service.address]);
    client.call(Request::http("GET", "reviews", "/known")).unwrap();
    sidecar.wait_for_lookups(1);
    sidecar.kill();
    assert_eq!(client.call(Request::http("GET", "Reviews", "/unknown")).unwrap().status, 202);
    let error = client.call(Request::http("GET", "elsewhere", "/")).unwrap_err();
    assert!(matches!(error, CallError::Connect(_)), "{error:?}");
}

#[test]
fn without_endpoints_or_with_fallback_off_the_judgement_is_told() {
    let (_dir, _sidecar, client) = with_endpoints(&["shm:other"]);
    let error = client.call(Request::http("PUT", "reviews", "/die")).unwrap_err();
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");

    let service = Service::tcp();
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { endpoints: vec![service.address.clone()], ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = Client::builder().socket(sidecar.path()).fallback(false).connect().unwrap();
    let error = client.call(Request::http("GET", "reviews", "/die-early")).unwrap_err();
    assert!(matches!(error, CallError::SidecarGone(_)), "{error:?}");
    assert_eq!((error.retry(), service.requests()), (Retry::Safe, 0));
    assert_eq!(sidecar.counts.lookups.load(SeqCst), 0);
}

#[test]
fn dubbo_and_raw_go_direct_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    let (_dir, sidecar, client) = with_endpoints(&[&format!("unix:{}", path.display())]);
    let frame = b"\xda\xbb\xc2\x00\0\0\0\0\0\0\0\x07\0\0\0\x03abc".to_vec();
    let answer = b"\xda\xbb\x02\x14\0\0\0\0\0\0\0\x07\0\0\0\x04abcd".to_vec();
    let (asked, answered) = (frame.clone(), answer.clone());
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = vec![0; asked.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, asked);
        let heartbeat = b"\xda\xbb\xe2\x00\0\0\0\0\0\0\0\x01\0\0\0\x01N";
        stream.write_all(heartbeat).unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        for piece in answered.chunks(5) {
            stream.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&got).unwrap();
    });
    let key = DubboKey { service: "s", method: "m", group: None, version: None, tag: None };
    client.call(Request::dubbo(key, &frame)).unwrap();
    client.call(Request::raw("cluster", b"x")).unwrap();
    sidecar.wait_for_lookups(2);
    sidecar.kill();
    let response = client.call(Request::dubbo(key, &frame)).unwrap();
    assert_eq!((response.status, response.body), (20, answer));
    assert_eq!(client.call(Request::raw("cluster", b"until the end")).unwrap().body, b"until the end");
    service.join().unwrap();
}

#[test]
fn every_call_in_flight_on_a_lane_is_judged_by_itself() {
    let (_dir, _sidecar, client) = with_endpoints(&[]);
    let mut lane = client.lane().unwrap();
    let mut submit = |path: &str| {
        let key = format!("GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n");
        lane.submit(&shmesh_client::Call::new(Target::Key(Protocol::Http, key.as_bytes()), &[])).unwrap()
    };
    let (accepted, forwarded, dies) = (submit("/accepted"), submit("/forwarded"), submit("/die"));
    let mut outcomes = std::collections::HashMap::new();
    for _ in 0..3 {
        let answer = lane.receive(Wait::Forever).unwrap().unwrap();
        outcomes.insert(answer.id, answer.outcome.unwrap_err());
    }
    assert!(matches!(outcomes[&accepted], CallError::SidecarGone(_)));
    assert!(matches!(outcomes[&forwarded], CallError::MaybeExecuted(_)));
    assert!(matches!(outcomes[&dies], CallError::MaybeExecuted(_)));
    assert!(lane.receive(Wait::Forever).is_err(), "the lane is lost, and says so");
    let key = Target::Key(Protocol::Http, b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert!(lane.submit(&shmesh_client::Call::new(key, &[])).is_err());
}

#[test]
fn a_direct_call_that_breaks_off_may_have_run() {
    let service = Service::tcp();
    let (_dir, sidecar, client) = with_endpoints(&[&service.address]);
    client.call(Request::http("GET", "reviews", "/")).unwrap();
    sidecar.wait_for_lookups(1);
    sidecar.kill();
    for path in ["/break", "/half"] {
        let error = client.call(Request::http("POST", "reviews", path).body(b"x")).unwrap_err();
        assert!(matches!(error, CallError::Direct { ran: Ran::Maybe, .. }), "{error:?}");
    }
    assert_eq!(service.requests(), 2);
}

#[test]
fn a_forked_child_attaches_by_itself_and_does_no_harm() {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    let (_dir, _sidecar, client) = with_endpoints(&[]);
    let mut lane = client.lane().unwrap();
    let key = Target::Key(Protocol::Http, b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    lane.submit(&shmesh_client::Call::new(key, &[])).unwrap();
    let mut stream = client.stream(Protocol::Http, None).unwrap();
    // SAFETY: the child only uses the client, which makes no use of other threads, and leaves by `_exit`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let forked = |error: CallError| error == CallError::Forked;
            let called = client.call(Request::http("GET", "reviews", "/")).is_ok();
            let received = lane.receive(Wait::Forever).unwrap().is_some_and(|answer| answer.outcome.is_err_and(forked));
            let written = stream.write(b"x").is_err() && stream.read(&mut [0; 1]).is_err();
            drop((lane, stream, client));
            let code = u8::from(called) | u8::from(received) << 1 | u8::from(written) << 2;
            // SAFETY: ends the process at once; nothing of it is used afterwards.
            unsafe { nix::libc::_exit(i32::from(code)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
            assert_eq!(lane.receive(Wait::Forever).unwrap().unwrap().outcome.unwrap().status, 200);
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0; 1]).unwrap();
        }
    }
}
