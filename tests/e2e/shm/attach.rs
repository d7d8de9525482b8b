//! The handshake, with good and bad apps; and what is shown of sessions.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use shmesh_client::{CallError, Client, ConnectError, Request};
use shmesh_shm::handshake::RefusedCode;

use super::{before, before_app, client, expect_sessions};
use crate::process::{PATIENCE, until};
use crate::service::saying;
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    a_session_is_shown_and_ends,
    an_app_of_another_version_is_told_both_versions,
    what_is_no_hello_is_refused,
    who_says_nothing_is_closed,
    an_app_of_another_uid_is_refused,
    limits_of_sessions_and_lanes_hold,
    a_session_ends_without_a_trace,
);

fn a_session_is_shown_and_ends(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &service.endpoint);
    let client = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .name("orders")
        .lanes(3)
        .connect()
        .expect("it attaches");
    let sessions = sidecar.json("/sessions");
    let session = &sessions[0];
    assert_eq!(sessions.as_array().map(Vec::len), Some(1));
    assert_eq!((&session["app"], &session["lanes"], &session["calling"]), (&"orders".into(), &3.into(), &3.into()));
    assert_eq!(session["uid"], nix::unistd::getuid().as_raw());
    assert_eq!(session["pid"], std::process::id());
    assert!(session["serving"].is_null() && session["isolation"].is_boolean() && session["id"].is_u64());
    assert_eq!((sidecar.metric("shmesh_sessions"), sidecar.metric("shmesh_lanes")), (1.0, 3.0));
    assert_eq!(client.call(Request::http("GET", "service", "/")).expect("an answer").body, b"ok");
    drop(client);
    expect_sessions(&sidecar, 0);
    assert_eq!((sidecar.json("/sessions"), sidecar.metric("shmesh_lanes")), (serde_json::json!([]), 0.0));
}

/// A header of the handshake, by hand from docs/spec/shm-v1.md §6.
fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x534d_4853_u32.to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn hello(version_min: u16, version_max: u16) -> Vec<u8> {
    let mut payload = Vec::new();
    for word in [version_min, version_max, 1] {
        payload.extend(word.to_le_bytes());
    }
    // Not serving; no features; no name.
    payload.extend([0; 2]);
    payload.extend([0; 8]);
    payload.extend(0_u16.to_le_bytes());
    message(1, &payload)
}

/// What a sidecar refused with: code, its versions, its sentence. It must close behind it.
fn refusal(sidecar: &Sidecar, bytes: &[u8]) -> (u16, u16, u16, String) {
    let mut socket = UnixStream::connect(sidecar.path("apps.sock")).expect("it accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket.write_all(bytes).expect("it reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer, then the end");
    assert!(answer.len() > 24, "{} bytes", answer.len());
    let word = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
    assert_eq!(answer[..4], 0x534d_4853_u32.to_le_bytes());
    assert_eq!(word(4), 3, "REFUSED");
    let sentence = String::from_utf8(answer[24..].to_vec()).expect("text");
    assert_eq!(word(22) as usize, sentence.len());
    (word(16), word(18), word(20), sentence)
}

fn an_app_of_another_version_is_told_both_versions(driver: Driver) {
    let sidecar = before_app(driver);
    for (min, max) in [(2, 7), (0, 0), (u16::MAX, u16::MAX)] {
        let (code, ours_min, ours_max, sentence) = refusal(&sidecar, &hello(min, max));
        assert_eq!((code, ours_min, ours_max), (1, 1, 1), "{sentence}");
        for version in [1, min, max] {
            assert!(sentence.contains(&version.to_string()), "{sentence}");
        }
    }
    expect_sessions(&sidecar, 0);
    drop(client(&sidecar));
}

fn what_is_no_hello_is_refused(driver: Driver) {
    let mut sidecar = before_app(driver);
    let good = hello(1, 1);
    let mut magic = good.clone();
    magic[0] ^= 1;
    let mut long = good.clone();
    long[8..12].copy_from_slice(&70_000_u32.to_le_bytes());
    let unknown = message(99, &[]);
    let early_lookup = message(4, &[0; 16]);
    let short = message(1, &[0; 5]);
    let mut name_past_end = good.clone();
    let at = name_past_end.len() - 2;
    name_past_end[at..].copy_from_slice(&50_u16.to_le_bytes());
    for bytes in
        [magic, long, unknown, early_lookup, short, name_past_end, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()]
    {
        let (code, .., sentence) = refusal(&sidecar, &bytes);
        assert_eq!(code, 5, "{sentence}");
        assert!(sentence.starts_with("shmesh: "), "{sentence}");
    }
    // Serving without a name.
    let mut nameless = good;
    nameless[16 + 6] = 1;
    let (code, ..) = refusal(&sidecar, &nameless);
    assert_eq!(code, 5);
    assert!(sidecar.process.ended().is_none());
    drop(client(&sidecar));
}

fn who_says_nothing_is_closed(driver: Driver) {
    let sidecar = before_app(driver);
    let started = Instant::now();
    let mut silent = UnixStream::connect(sidecar.path("apps.sock")).expect("it accepts");
    let mut halting = UnixStream::connect(sidecar.path("apps.sock")).expect("it accepts");
    halting.write_all(&hello(1, 1)[..20]).expect("it reads");
    for socket in [&mut silent, &mut halting] {
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("the end");
    }
    let took = started.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(15), "{took:?}");
    drop(client(&sidecar));
}

fn an_app_of_another_uid_is_refused(driver: Driver) {
    let somebody_else = (nix::unistd::getuid().as_raw() + 1).to_string();
    let config = "
listeners:
  - { name: apps, shm: $dir/apps.sock, allow_uids: [ $uid ] }
  - { name: own, shm: $dir/own.sock }
";
    let sidecar = Sidecar::start(driver, config, &[("uid", &somebody_else)]);
    let error = Client::connect(sidecar.path("apps.sock")).expect_err("another uid");
    let CallError::Connect(ConnectError::Refused { code, sentence }) = &error else { panic!("{error:?}") };
    assert_eq!(*code, RefusedCode::Identity as u16);
    assert!(sentence.contains("allow_uids") && sentence.contains(&nix::unistd::getuid().to_string()), "{sentence}");
    Client::connect(sidecar.path("own.sock")).expect("its own uid may");
}

fn limits_of_sessions_and_lanes_hold(driver: Driver) {
    let config = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
session: { sessions_max: 3, lanes_max: 5 }
";
    let sidecar = Sidecar::start(driver, config, &[]);
    let attach = || {
        Client::builder().hang_timeout(crate::process::PATIENCE).socket(sidecar.path("apps.sock")).lanes(100).connect()
    };
    let mut clients: Vec<Client> = (0..3).map(|_| attach().expect("it attaches")).collect();
    assert_eq!(sidecar.metric("shmesh_lanes"), 15.0, "each got what one may have");
    let error = attach().expect_err("one too many");
    let CallError::Connect(error) = error else { panic!("{error:?}") };
    assert_eq!(error.refused(), Some(RefusedCode::Limit), "{error}");
    assert!(error.to_string().contains("sessions_max"), "{error}");
    clients.pop();
    expect_sessions(&sidecar, 2);
    attach().expect("there is room again");
}

fn a_session_ends_without_a_trace(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &service.endpoint);
    let attach = || {
        let client = client(&sidecar);
        for _ in 0..3 {
            assert_eq!(client.call(Request::http("GET", "service", "/")).expect("an answer").body, b"ok");
        }
    };
    attach();
    expect_sessions(&sidecar, 0);
    let maps = || std::fs::read_to_string(format!("/proc/{}/maps", sidecar.process.pid())).expect("it runs");
    until("the segments are unmapped", || !maps().contains("shmesh-to"));
    let idle = sidecar.process.descriptors();
    for _ in 0..40 {
        attach();
    }
    expect_sessions(&sidecar, 0);
    until("the descriptors are closed", || sidecar.process.descriptors() <= idle);
    until("the segments are unmapped", || !maps().contains("shmesh-to"));
}
