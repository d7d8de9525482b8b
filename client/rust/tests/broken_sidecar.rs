//! The shim beside a sidecar that writes whatever it likes into `to_app` and onto the session socket: whatever comes of a call comes
//! in time, as an answer or as an error of a type; nothing crashes, nothing hangs.

mod broken;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use broken::BrokenSidecar;
use shmesh_client::{
    Call, Client, Handler, Protocol, Request, Served, ServedResponse, Server, StreamEvent, StreamReply, Target, Wait,
};

/// Changes of all tests of this file together; each makes its share.
const MUTATIONS: u64 = 240_000;

/// How many ends of either kind a test sees at least: neither a sidecar that tells the truth nor one that nobody believes tests
/// anything. How many calls fit beside the changes is up to the scheduler, so a test goes on until both are reached.
const ENDS: usize = 100;

/// By when a test has reached both.
const LONGEST: Duration = Duration::from_secs(120);

/// Of one call.
const TIMEOUT: Duration = Duration::from_millis(30);

/// How much later than its deadline a call may end, on a machine that does other things as well.
const LATE: Duration = Duration::from_secs(5);

fn in_time<T>(timeout: Duration, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let outcome = call();
    let took = began.elapsed();
    assert!(took < timeout + LATE, "a call of {timeout:?} took {took:?}");
    outcome
}

fn attach(sidecar: &BrokenSidecar) -> Option<Client> {
    // A handshake of garbage may be refused, and has its own five seconds.
    let builder = Client::builder().socket(sidecar.path()).lanes(2).fallback(false);
    in_time(Duration::from_secs(5), || builder.patience(TIMEOUT).connect()).ok()
}

#[test]
fn calls_end_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = BrokenSidecar::start(&dir.path().join("s"), 1);
    let (mut answered, mut failed) = (0, 0);
    let until = Instant::now() + LONGEST;
    while sidecar.mutations() < MUTATIONS / 4 || answered < ENDS || failed < ENDS {
        assert!(Instant::now() < until, "{answered} answered, {failed} failed");
        let Some(client) = attach(&sidecar) else { continue };
        for number in 0..40_usize {
            let body = vec![b'b'; [0, 10, 400, 5_000, 100_000][number % 5]];
            let request = Request::http("POST", "reviews", "/x").body(&body).timeout(TIMEOUT);
            match in_time(TIMEOUT, || client.call(request)) {
                Ok(_) => answered += 1,
                Err(_) => failed += 1,
            }
        }
    }
}

#[test]
fn many_calls_of_a_lane_end_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = BrokenSidecar::start(&dir.path().join("s"), 2);
    let key = b"POST /x HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let mut ended = 0;
    let until = Instant::now() + LONGEST;
    while sidecar.mutations() < MUTATIONS / 4 || ended < ENDS {
        assert!(Instant::now() < until, "{ended} calls ended");
        let Some(mut lane) = attach(&sidecar).and_then(|client| client.lane().ok()) else { continue };
        'rounds: for _ in 0..10 {
            let target = match lane.define(Protocol::Http, key) {
                Some(route) => Target::Route(route),
                None => Target::Key(Protocol::Http, key),
            };
            let mut call = Call::new(target, &[b"body"]);
            call.timeout = Some(TIMEOUT);
            while lane.submit(&call).is_ok() {}
            lane.flush();
            let late = Instant::now() + TIMEOUT + LATE;
            while lane.in_flight() > 0 {
                assert!(Instant::now() < late, "{} calls do not end", lane.in_flight());
                match in_time(TIMEOUT, || lane.receive(Wait::For(TIMEOUT))) {
                    Ok(Some(_)) => ended += 1,
                    Ok(None) => {}
                    // The lane is lost; its calls were told so before.
                    Err(_) => break 'rounds,
                }
            }
        }
    }
}

#[test]
fn streams_end_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = BrokenSidecar::start(&dir.path().join("s"), 3);
    while sidecar.mutations() < MUTATIONS / 4 {
        let Some(mut stream) = attach(&sidecar).and_then(|client| client.stream(Protocol::Http, None).ok()) else {
            continue;
        };
        stream.set_read_timeout(Some(TIMEOUT));
        stream.set_write_timeout(Some(TIMEOUT));
        for _ in 0..10 {
            let written = in_time(TIMEOUT, || stream.write(&[b's'; 3_000]));
            let read = in_time(TIMEOUT, || stream.read(&mut [0; 2_000]));
            if written.is_err() && read.is_err() {
                break;
            }
        }
    }
}

struct Echo;

impl Handler for Echo {
    fn call(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        response.body.extend_from_slice(request.body);
    }

    fn stream(&mut self, event: StreamEvent<'_>, reply: &mut StreamReply) {
        if let StreamEvent::Data(_, bytes) = event {
            reply.bytes.extend_from_slice(bytes);
        }
    }
}

#[test]
fn a_server_outlives_each_session() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = BrokenSidecar::start(&dir.path().join("s"), 4);
    while sidecar.mutations() < MUTATIONS / 4 {
        let attached = in_time(Duration::from_secs(5), || Server::attach(sidecar.path(), "app"));
        let Ok(mut server) = attached else { continue };
        // The sidecar ends its sessions after a while, and a server that found it out before has ended already.
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let served = std::thread::spawn(move || server.serve_until(&asked, &mut Echo));
        let late = Instant::now() + Duration::from_millis(100);
        while !served.is_finished() && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, SeqCst);
        let _ = in_time(Duration::from_secs(1), || served.join().expect("a server does not panic"));
    }
}
