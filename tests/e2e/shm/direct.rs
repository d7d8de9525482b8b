//! The switch: apps go round the sidecar, or come back, by one command; and waiting for a sidecar to be ready.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use shmesh_client::{Call, CallError, Client, Exchange, Lane, Protocol, Request, Stream, SubmitError, Target, Wait};

use super::death::learn;
use super::{CONFIG, before, client, put};
use crate::process::{PATIENCE, shmesh, shmesh_ok, until};
use crate::service::{Gate, http, noise_service, saying};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    one_command_sends_all_calls_round_and_back,
    the_switch_survives_a_restart_of_the_sidecar,
    a_call_in_flight_finishes_where_it_is,
    new_exchanges_and_streams_obey_it,
    a_lane_obeys_it,
    calls_that_go_round_go_where_the_sidecar_says_now,
    ready_is_waited_for,
);

const ALL: &str = "shmesh_direct_share{app=\"*\"}";

/// `shmesh direct` with these words, which has to succeed: what it shows.
fn direct(sidecar: &Sidecar, words: &[&str]) -> serde_json::Value {
    let admin = sidecar.tcp("admin").to_string();
    let args = [&["direct"], words, &["--admin", &admin]].concat();
    serde_json::from_slice(&shmesh_ok(&args)).expect("JSON")
}

/// Whether a call goes through the sidecar. It is answered in any case.
fn is_through(sidecar: &Sidecar, client: &Client) -> bool {
    let before = sidecar.requests("apps", "service", 200);
    assert_eq!(client.call(put("service", b"x")).expect("an answer").status, 200);
    sidecar.requests("apps", "service", 200) > before
}

/// Waits until calls go one way, and makes sure of it.
fn expect_way(sidecar: &Sidecar, client: &Client, through: bool) {
    until("the shim was told", || is_through(sidecar, client) == through);
    let before = sidecar.requests("apps", "service", 200);
    for _ in 0..10 {
        assert_eq!(client.call(put("service", b"x")).expect("an answer").status, 200);
    }
    if through {
        until("ten are counted", || sidecar.requests("apps", "service", 200) >= before + 10.0);
    } else {
        assert_eq!(sidecar.requests("apps", "service", 200), before);
    }
}

fn one_command_sends_all_calls_round_and_back(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let (client, others) =
        (client(&sidecar), Client::builder().hang_timeout(PATIENCE).socket(sidecar.path("apps.sock")).name("other"));
    let other = others.connect().expect("it attaches");
    for client in [&client, &other] {
        learn(client, || put("service", b"x"));
    }
    assert_eq!(direct(&sidecar, &[])["share"], 0);
    assert_eq!(direct(&sidecar, &["on"])["share"], 1000);
    expect_way(&sidecar, &client, false);
    expect_way(&sidecar, &other, false);
    assert_eq!(sidecar.metric(ALL), 1000.0);
    // Who attaches now is told so; until it knows another way, its calls go through.
    let late = super::client(&sidecar);
    learn(&late, || put("service", b"x"));
    expect_way(&sidecar, &late, false);

    assert_eq!(direct(&sidecar, &["off", "--app", "other"])["apps"]["other"], 0);
    expect_way(&sidecar, &other, true);
    expect_way(&sidecar, &client, false);
    let off = direct(&sidecar, &["off"]);
    assert_eq!((&off["share"], off["apps"].as_object().map(|apps| apps.len())), (&0.into(), Some(0)));
    for client in [&client, &other, &late] {
        expect_way(&sidecar, client, true);
    }
    assert_eq!(sidecar.metric(ALL), 0.0);
}

fn the_switch_survives_a_restart_of_the_sidecar(driver: Driver) {
    let service = noise_service();
    let mut sidecar = before(driver, &service.endpoint);
    let again = |sidecar: &mut Sidecar| {
        sidecar.process.signal(Signal::SIGKILL);
        sidecar.process.wait();
        sidecar.start_again();
    };
    direct(&sidecar, &["on", "--app", "test"]);
    again(&mut sidecar);
    assert_eq!(direct(&sidecar, &[])["apps"]["test"], 1000);
    let client = client(&sidecar);
    learn(&client, || put("service", b"x"));
    expect_way(&sidecar, &client, false);
    // A file that cannot be read is none, and is told of.
    std::fs::write(sidecar.path("apps.sock.direct"), "yes").expect("a file");
    again(&mut sidecar);
    assert_eq!(direct(&sidecar, &[])["apps"].as_object().map(|apps| apps.len()), Some(0));
    assert!(sidecar.log().contains("direct mode cannot be read"), "{}", sidecar.log());
    until("calls come back", || is_through(&sidecar, &client));
}

fn calls_that_go_round_go_where_the_sidecar_says_now(driver: Driver) {
    let (one, other) = (saying("one"), saying("other"));
    let mut sidecar = before(driver, &one.endpoint);
    let config = |endpoint: &str| CONFIG.replace("$up", endpoint).replace("$raw_cluster", "service");
    let client = client(&sidecar);
    learn(&client, || put("service", b"x"));
    let goes_to = |text: &str| {
        until("calls go there", || client.call(put("service", b"x")).expect("an answer").body == text.as_bytes());
    };
    direct(&sidecar, &["on"]);
    expect_way(&sidecar, &client, false);
    goes_to("one");
    // The sidecar that told it says what changed.
    sidecar.write_config(&config(&other.endpoint));
    goes_to("other");
    // The next one is asked, though no call goes through it.
    sidecar.process.signal(Signal::SIGKILL);
    sidecar.process.wait();
    sidecar.write_config(&config(&one.endpoint));
    sidecar.start_again();
    goes_to("one");
    expect_way(&sidecar, &client, false);
    assert_eq!(sidecar.requests("apps", "service", 200), 0.0);
}

fn a_call_in_flight_finishes_where_it_is(driver: Driver) {
    let (seen, gate) = (Arc::new(AtomicUsize::new(0)), Gate::default());
    let (count, switched) = (seen.clone(), gate.clone());
    let service = http(move |head, wire| {
        wire.body(head, false, |_| ());
        if head.path() == "/slow" {
            count.fetch_add(1, Ordering::Relaxed);
            switched.pass();
        }
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    learn(&client, || put("service", b"x"));
    let slow = std::thread::spawn({
        let client = client.clone();
        move || client.call(Request::http("POST", "service", "/slow").body(b"x"))
    });
    until("it is being answered", || seen.load(Ordering::Relaxed) == 1);
    let answered = sidecar.requests("apps", "service", 200);
    direct(&sidecar, &["on"]);
    gate.open();
    assert_eq!(slow.join().expect("no panic").expect("an answer").body, b"ok");
    until("it is counted", || sidecar.requests("apps", "service", 200) == answered + 1.0);
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

fn new_exchanges_and_streams_obey_it(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    let stream = || client.stream(Protocol::Raw, Some("service")).expect("a way");
    let exchange = || {
        let mut exchange = client.exchange(&Request::http("PUT", "service", "/echo"), Some(5)).expect("a way");
        exchange.write_all(b"hello").expect("it is taken");
        exchange
    };
    let answer = |mut exchange: Exchange| {
        exchange.finish().expect("it is taken");
        let mut body = Vec::new();
        exchange.read_to_end(&mut body).expect("an answer");
        assert_eq!(body, b"hello");
    };
    let echoed = |stream: &mut Stream| {
        stream.write_all(b"PUT /echo HTTP/1.1\r\nHost: service\r\nContent-Length: 2\r\n\r\nme").expect("it is taken");
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\nme") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            got.push(byte[0]);
        }
    };
    let (before_it, mut stream_before_it) = (exchange(), stream());
    assert!(!before_it.is_direct() && !stream_before_it.is_direct());
    // Whose cluster leads to whom is asked with the first of them, and told a little later.
    direct(&sidecar, &["on"]);
    until("both go round", || stream().is_direct() && exchange().is_direct());
    answer(exchange());
    echoed(&mut stream());
    // What was begun finishes where it is.
    answer(before_it);
    echoed(&mut stream_before_it);
    direct(&sidecar, &["off"]);
    until("both go through", || !stream().is_direct() && !exchange().is_direct());
    answer(exchange());
    echoed(&mut stream());
}

fn a_lane_obeys_it(driver: Driver) {
    let gate = Gate::default();
    let open = gate.clone();
    let service = http(move |head, wire| {
        wire.body(head, false, |_| ());
        open.pass();
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    let mut lane = client.lane().expect("a lane");
    let submit = |lane: &mut Lane| {
        let target = Target::Key(Protocol::Http, b"GET / HTTP/1.1\r\nHost: service\r\n\r\n");
        lane.submit(&Call::new(target, &[]))
    };
    submit(&mut lane).expect("a slot");
    lane.flush();
    direct(&sidecar, &["on"]);
    until("the lane takes no more", || match submit(&mut lane) {
        Ok(_) | Err(SubmitError::Full) => false,
        Err(SubmitError::Failed(error)) => {
            assert_eq!(error, CallError::ToldToGoRound);
            true
        }
    });
    gate.open();
    while lane.in_flight() > 0 {
        let answer = lane.receive(Wait::For(PATIENCE)).expect("the sidecar is there").expect("an answer in time");
        assert_eq!(answer.outcome.expect("what was in flight is answered").body, b"ok");
    }
    direct(&sidecar, &["off"]);
    until("it takes calls again", || submit(&mut lane).is_ok());
    let answer = lane.receive(Wait::For(PATIENCE)).expect("the sidecar is there").expect("an answer in time");
    assert_eq!(answer.outcome.expect("an answer").body, b"ok");
}

/// Longer than 200 ms, on a busy machine, and shorter than a single look may take.
const STOPPED_LATE: Duration = Duration::from_secs(4);

fn ready_is_waited_for(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service.endpoint);
    let (admin, socket) = (sidecar.tcp("admin").to_string(), sidecar.path("apps.sock").display().to_string());
    let wait = |timeout: &str, at: [&str; 2]| shmesh(&[&["wait-ready", "--timeout", timeout][..], &at[..]].concat());
    let places = [["--admin", &*admin], ["--socket", &*socket]];
    for place in places {
        let output = wait("30s", place);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // One that is stopped takes connections, and says nothing.
    sidecar.process.signal(Signal::SIGSTOP);
    for place in places {
        let began = Instant::now();
        let output = wait("200ms", place);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said, "shmesh: the sidecar is not ready after 200ms: it does not answer\n");
        assert!(began.elapsed() < STOPPED_LATE, "{:?}", began.elapsed());
    }
    sidecar.process.signal(Signal::SIGKILL);
    sidecar.process.wait();
    for place in places {
        let output = wait("200ms", place);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("shmesh: the sidecar is not ready after 200ms: "), "{said}");
    }
    // It may be waited for before it is started.
    std::thread::scope(|scope| {
        let waiting = places.map(|place| scope.spawn(move || wait("30s", place)));
        sidecar.start_again();
        for waited in waiting {
            assert!(waited.join().expect("no panic").status.success());
        }
    });
}
