//! Quotas of sessions and uids: whoever is over one is refused with its name, and nobody else notices.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shmesh_client::{Answer, Call, CallError, Client, Lane, Protocol, Ran, Request, Target, Wait};
use shmesh_shm::Geometry;
use shmesh_shm::handshake::RefusedCode;

use super::{expect_sessions, put};
use crate::process::{PATIENCE, until};
use crate::service::{Service, http, saying};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    a_uid_has_so_many_lanes,
    memory_files_have_so_many_bytes,
    an_app_that_serves_needs_a_lane_on_each_worker,
    a_session_has_so_many_calls_open,
    streams_count_as_calls,
    sessions_of_a_uid_share_its_calls,
    a_session_defines_so_many_route_ids,
    a_client_over_its_quota_waits_for_its_own_lanes,
    a_thousand_lanes_are_within_the_defaults,
);

const HEAD: &[u8] = b"GET /held HTTP/1.1\r\nHost: service\r\n\r\n";

/// A sidecar with two workers before a service, with these keys under `session`.
fn with_quotas(driver: Driver, endpoint: &str, session: &str) -> Sidecar {
    let config = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ \"$up\" ] } ]
workers: 2
session: { $session }
";
    Sidecar::start(driver, config, &[("up", endpoint), ("session", session)])
}

fn attach(sidecar: &Sidecar, lanes: u16) -> Result<Client, CallError> {
    Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .lanes(lanes)
        .sessions_max(1)
        .connect()
}

fn refused(sidecar: &Sidecar, quota: &str) -> f64 {
    sidecar.metric(&format!("shmesh_quota_refused_total{{limit=\"{quota}\"}}"))
}

/// Attaching is refused with the name of this quota, and counted.
fn expect_refusal(sidecar: &Sidecar, lanes: u16, quota: &str) {
    let before = refused(sidecar, quota);
    let error = attach(sidecar, lanes).expect_err("over a quota");
    let CallError::Connect(error) = error else { panic!("{error:?}") };
    assert_eq!(error.refused(), Some(RefusedCode::Limit), "{error}");
    assert!(error.to_string().contains(&format!("{quota} = ")), "{error}");
    assert_eq!(refused(sidecar, quota), before + 1.0);
    assert!(sidecar.log().contains(quota), "the log does not say why");
}

fn a_uid_has_so_many_lanes(driver: Driver) {
    let sidecar = with_quotas(driver, "tcp:127.0.0.1:1", "lanes_per_uid: 10");
    let (first, second) = (attach(&sidecar, 4).expect("4"), attach(&sidecar, 5).expect("9"));
    expect_refusal(&sidecar, 2, "session.lanes_per_uid");
    let third = attach(&sidecar, 1).expect("10");
    assert_eq!(sidecar.metric("shmesh_lanes"), 10.0);
    drop((first, third));
    expect_sessions(&sidecar, 1);
    until("its lanes are free again", || attach(&sidecar, 5).is_ok());
    drop(second);
}

fn memory_files_have_so_many_bytes(driver: Driver) {
    let of_lane = 2 * Geometry::default().segment_bytes(1) as u64;
    assert_eq!(of_lane >> 10, 8368, "8.2 MiB: the figures below go by that");
    let sidecar = with_quotas(driver, "tcp:127.0.0.1:1", "bytes_per_session: 20MiB, bytes_per_uid: 30MiB");
    expect_refusal(&sidecar, 3, "session.bytes_per_session");
    let first = attach(&sidecar, 2).expect("17 MiB");
    assert_eq!(sidecar.metric("shmesh_session_bytes"), 2.0 * Geometry::default().segment_bytes(2) as f64);
    expect_refusal(&sidecar, 2, "session.bytes_per_uid");
    let second = attach(&sidecar, 1).expect("25 MiB");
    drop((first, second));
    sidecar.expect_metric("shmesh_session_bytes", 0.0);

    let sidecar = with_quotas(driver, "tcp:127.0.0.1:1", "bytes_max: 10MiB");
    assert_eq!(sidecar.metric("shmesh_session_bytes_max"), f64::from(10 << 20));
    expect_refusal(&sidecar, 2, "session.bytes_max");
    attach(&sidecar, 1).expect("8 MiB");
}

fn an_app_that_serves_needs_a_lane_on_each_worker(driver: Driver) {
    let sidecar = with_quotas(driver, "tcp:127.0.0.1:1", "lanes_max: 1");
    let app = super::App::launch(&sidecar, "my-app");
    until("it is refused", || app.process.log().contains("session.lanes_max = 1"));
    assert_eq!(refused(&sidecar, "session.lanes_max"), 1.0);
    attach(&sidecar, 1).expect("calling takes one lane");
}

/// A service that answers when it is told to, and counts who waits.
fn holding() -> (Service, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (open, waiting) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (open.clone(), waiting.clone());
    let service = http(move |head, wire| {
        wire.body(head, false, |_| ());
        count.fetch_add(1, Ordering::SeqCst);
        while !gate.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        count.fetch_sub(1, Ordering::SeqCst);
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    (service, open, waiting)
}

fn submit(lane: &mut Lane, calls: usize) {
    for _ in 0..calls {
        lane.submit(&Call::new(Target::Key(Protocol::Http, HEAD), &[])).expect("a slot");
    }
    lane.flush();
}

fn answer(lane: &mut Lane) -> Answer {
    lane.receive(Wait::For(PATIENCE)).expect("the sidecar is there").expect("an answer in time")
}

/// That many calls are refused with the name of this quota.
fn expect_refused_calls(lane: &mut Lane, calls: usize, quota: &str) {
    for _ in 0..calls {
        let error = answer(lane).outcome.expect_err("over a quota");
        assert!(matches!(error, CallError::Overloaded { .. }), "{error:?}");
        assert!(error.to_string().contains(quota), "{error}");
    }
}

fn expect_answers(lane: &mut Lane, calls: usize) {
    for _ in 0..calls {
        assert_eq!(answer(lane).outcome.expect("an answer").status, 200);
    }
    assert_eq!(lane.in_flight(), 0);
}

fn a_session_has_so_many_calls_open(driver: Driver) {
    let (service, open, waiting) = holding();
    let sidecar = with_quotas(driver, &service.endpoint, "calls_per_session: 10");
    let (client, other) = (attach(&sidecar, 2).expect("lanes"), attach(&sidecar, 1).expect("a lane"));
    // On different workers.
    let mut lanes = [client.lane().expect("a lane"), client.lane().expect("a lane")];
    for round in 1..=3 {
        open.store(false, Ordering::SeqCst);
        submit(&mut lanes[0], 7);
        until("seven are held", || waiting.load(Ordering::SeqCst) == 7);
        submit(&mut lanes[1], 5);
        expect_refused_calls(&mut lanes[1], 2, "session.calls_per_session");
        submit(&mut lanes[0], 4);
        expect_refused_calls(&mut lanes[0], 4, "session.calls_per_session");
        assert_eq!(refused(&sidecar, "session.calls_per_session"), 6.0 * f64::from(round));
        // Another session is not concerned.
        let mut third = other.lane().expect("a lane");
        submit(&mut third, 3);
        until("thirteen are held", || waiting.load(Ordering::SeqCst) == 13);
        open.store(true, Ordering::SeqCst);
        expect_answers(&mut lanes[0], 7);
        expect_answers(&mut lanes[1], 3);
        expect_answers(&mut third, 3);
        // What is over counts no more, whichever lane it was on.
        for _ in 0..30 {
            submit(&mut lanes[1], 1);
            expect_answers(&mut lanes[1], 1);
        }
    }
    let said = sidecar.log().matches("an app is over a quota").count();
    assert_eq!(said, 1, "once a session");
}

fn streams_count_as_calls(driver: Driver) {
    let service = saying("ok");
    let sidecar = with_quotas(driver, &service.endpoint, "calls_per_session: 2");
    let client = attach(&sidecar, 3).expect("lanes");
    let streams = [(); 2].map(|()| {
        let mut stream = client.stream(Protocol::Http, None).expect("a stream");
        stream.write_all(HEAD).expect("it is taken");
        stream.read_exact(&mut [0; 1]).expect("an answer: it is open");
        stream
    });
    let mut third = client.stream(Protocol::Http, None).expect("a lane");
    let error = third.read(&mut [0; 1]).expect_err("over a quota");
    assert!(error.to_string().contains("session.calls_per_session"), "{error}");
    drop((streams, third));
    until("they are over", || {
        client.call(Request::http("GET", "service", "/")).is_ok_and(|response| response.body == b"ok")
    });
}

fn sessions_of_a_uid_share_its_calls(driver: Driver) {
    let (service, open, waiting) = holding();
    let sidecar = with_quotas(driver, &service.endpoint, "calls_per_uid: 6");
    let (first, second) = (attach(&sidecar, 1).expect("a lane"), attach(&sidecar, 1).expect("a lane"));
    let (mut a, mut b) = (first.lane().expect("a lane"), second.lane().expect("a lane"));
    submit(&mut a, 4);
    until("four are held", || waiting.load(Ordering::SeqCst) == 4);
    submit(&mut b, 4);
    expect_refused_calls(&mut b, 2, "session.calls_per_uid");
    until("six are held", || waiting.load(Ordering::SeqCst) == 6);
    // A session that is gone has no calls.
    drop((a, first));
    expect_sessions(&sidecar, 1);
    until("its calls are free again", || {
        submit(&mut b, 1);
        is_held(&mut b, || waiting.load(Ordering::SeqCst) == 7)
    });
    open.store(true, Ordering::SeqCst);
    expect_answers(&mut b, 3);
}

/// Waits until the newest call came to the service; false: it was refused.
fn is_held(lane: &mut Lane, came: impl Fn() -> bool) -> bool {
    let mut refused = None;
    until("it is held or refused", || {
        refused = lane.receive(Wait::No).expect("the sidecar is there");
        refused.is_some() || came()
    });
    if let Some(answer) = &refused {
        assert!(matches!(answer.outcome, Err(CallError::Overloaded { .. })), "{answer:?}");
    }
    refused.is_none()
}

fn a_session_defines_so_many_route_ids(driver: Driver) {
    let service = saying("ok");
    let sidecar = with_quotas(driver, &service.endpoint, "route_ids_per_session: 5, route_ids_per_uid: 8");
    let (client, other) = (attach(&sidecar, 2).expect("lanes"), attach(&sidecar, 1).expect("a lane"));
    let mut lanes = [client.lane().expect("a lane"), client.lane().expect("a lane")];
    let call = |lane: &mut Lane, number: usize| {
        let head = format!("GET /{number} HTTP/1.1\r\nHost: service\r\n\r\n");
        let route = lane.define(Protocol::Http, head.as_bytes()).expect("an id");
        lane.submit(&Call::new(Target::Route(route), &[])).expect("a slot");
        match answer(lane).outcome {
            Ok(response) => Ok(String::from_utf8(response.body).expect("text")),
            // It did not run, so that a shim can make it elsewhere.
            Err(CallError::Overloaded { ran: Ran::No, sentence }) => Err(sentence),
            Err(error) => panic!("{error:?}"),
        }
    };
    let good = Ok("ok".to_owned());
    for number in 0..3 {
        assert_eq!(call(&mut lanes[0], number), good);
    }
    for number in 0..2 {
        assert_eq!(call(&mut lanes[1], number), good);
    }
    for number in [2, 3, 2] {
        let sentence = call(&mut lanes[1], number).expect_err("over a quota");
        assert!(sentence.contains("session.route_ids_per_session"), "{sentence}");
    }
    // One for each id that was refused, not for each call.
    assert_eq!(refused(&sidecar, "session.route_ids_per_session"), 2.0);
    assert_eq!(call(&mut lanes[0], 1), good, "what was defined stays so");
    submit(&mut lanes[1], 1);
    expect_answers(&mut lanes[1], 1);

    let mut third = other.lane().expect("a lane");
    for number in 0..3 {
        assert_eq!(call(&mut third, number), good);
    }
    let sentence = call(&mut third, 3).expect_err("over a quota");
    assert!(sentence.contains("session.route_ids_per_uid"), "{sentence}");
    drop((lanes, client));
    expect_sessions(&sidecar, 1);
    let mut number = 4;
    until("the ids of a session that is gone are free", || {
        number += 1;
        call(&mut third, number) == good
    });
}

fn a_client_over_its_quota_waits_for_its_own_lanes(driver: Driver) {
    let (service, open, waiting) = holding();
    let sidecar = with_quotas(driver, &service.endpoint, "lanes_per_uid: 1");
    let client = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .lanes(1)
        .connect()
        .expect("a lane");
    std::thread::scope(|scope| {
        let calls =
            [(); 3].map(|()| scope.spawn(|| client.call(put("service", b"body")).map(|response| response.status)));
        until("one is held", || waiting.load(Ordering::SeqCst) == 1);
        until("another one wanted a lane of its own", || refused(&sidecar, "session.lanes_per_uid") > 0.0);
        open.store(true, Ordering::SeqCst);
        for call in calls {
            assert_eq!(call.join().expect("no panic"), Ok(200));
        }
    });
}

fn a_thousand_lanes_are_within_the_defaults(driver: Driver) {
    let service = saying("ok");
    // Where a cgroup limits the memory, the default is less.
    let sidecar = with_quotas(driver, &service.endpoint, "bytes_max: 16384MiB");
    let clients: Vec<Client> = (0..16).map(|_| attach(&sidecar, 64).expect("64 lanes")).collect();
    assert_eq!(sidecar.metric("shmesh_lanes"), 1024.0);
    for client in &clients {
        assert_eq!(client.call(Request::http("GET", "service", "/")).expect("an answer").body, b"ok");
    }
    drop(clients);
    sidecar.expect_metric("shmesh_session_bytes", 0.0);
}
