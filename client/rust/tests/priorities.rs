//! Which calls go round a sidecar that has too much to do: those of low priority before the others.

mod fake;
mod service;

use std::time::{Duration, Instant};

use fake::{FakeSidecar, Settings};
use service::Service;
use shmesh_client::{Call, CallError, Client, Priority, Protocol, Request, SubmitError, Target, Wait};
use shmesh_shm::DirectShares;
use shmesh_shm::handshake::Policy;

/// Generous: how long the answer to a look-up may take.
const SOON: Duration = Duration::from_secs(20);
/// The sidecar answers with this status, the service with 202.
const THROUGH: u16 = 200;

fn request(priority: Option<Priority>) -> Request<'static> {
    let request = Request::http("GET", "reviews", "/");
    match priority {
        Some(priority) => request.priority(priority),
        None => request,
    }
}

/// Whether calls of each kind go through a sidecar that says so: `[nothing said, low, default, high]` by the caller.
fn through(direct: DirectShares, by_route: Option<Priority>) -> [bool; 4] {
    let (dir, service) = (tempfile::tempdir().unwrap(), Service::tcp());
    let policy = Policy { endpoints: vec![service.address.clone()], priority: by_route, ..Policy::default() };
    let settings = Settings { policy: Some(policy), direct: Some(direct), ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = Client::builder().hang_timeout(SOON).socket(sidecar.path()).lanes(1).connect().unwrap();
    let goes_through = |priority| client.call(request(priority)).unwrap().status == THROUGH;
    // Until the shim knows another way, every call goes through.
    let late = Instant::now() + SOON;
    while goes_through(Some(Priority::Low)) {
        assert!(Instant::now() < late, "nothing goes round");
    }
    let of = |priority| {
        let first = goes_through(priority);
        assert!((0..20).all(|_| goes_through(priority) == first), "{priority:?} goes both ways");
        first
    };
    [None, Some(Priority::Low), Some(Priority::Default), Some(Priority::High)].map(of)
}

#[test]
fn the_caller_says_then_the_route() {
    let low = DirectShares { low: 1000, default: 0, high: 0 };
    assert_eq!(through(low, None), [true, false, true, true]);
    assert_eq!(through(low, Some(Priority::Low)), [false, false, true, true]);
    assert_eq!(through(low, Some(Priority::High)), [true, false, true, true]);
}

/// Who has a lane has no other way in hand: it is refused where every call is to go round, and not for a share of them, nor where none
/// goes round.
#[test]
fn a_lane_takes_no_calls_while_all_are_to_go_round() {
    let dir = tempfile::tempdir().unwrap();
    let some = DirectShares { low: 1000, default: 1000, high: 999 };
    let all = DirectShares::all(1000);
    for (number, direct, fallback, is_taken) in [(0, all, true, false), (1, some, true, true), (2, all, false, true)] {
        let settings = Settings { direct: Some(direct), ..Settings::default() };
        let sidecar = FakeSidecar::start(&dir.path().join(number.to_string()), settings);
        let client = Client::builder().hang_timeout(SOON).socket(sidecar.path()).lanes(1).fallback(fallback);
        let client = client.connect().unwrap();
        let mut lane = client.lane().unwrap();
        let target = Target::Key(Protocol::Http, b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        match lane.submit(&Call::new(target, &[])) {
            Ok(_) => assert!(is_taken && lane.receive(Wait::Forever).unwrap().unwrap().outcome.is_ok()),
            Err(error) => assert_eq!((error, is_taken), (SubmitError::Failed(CallError::ToldToGoRound), false)),
        }
        drop(lane);
        // Nobody said another way of it.
        assert_eq!(client.call(request(None)).unwrap().status, THROUGH);
    }
}

#[test]
fn high_priority_stays_longest() {
    let most = DirectShares { low: 1000, default: 1000, high: 0 };
    assert_eq!(through(most, None), [false, false, false, true]);
    assert_eq!(through(most, Some(Priority::High)), [true, false, false, true]);
    assert_eq!(through(DirectShares::all(1000), None), [false; 4]);
}
