//! What apps leave with the sidecar: answers that nobody takes, blocks that outlive their session, keys to remember. It ends, or it counts.

use std::io::{Read, Write};

use shmesh_proto::dubbo::{Invocation, serialization, write_request};
use shmesh_shm::Protocol;
use shmesh_shm::handshake::{Lookup, Message};

use crate::app::App;
use crate::corpus::SERVICE;
use crate::entry::{
    ANSWER, CODE, CREDIT, DATA, DUBBO, END, Entry, FLAGS, GENERATION, HEAD_LEN, HTTP, KIND, NONE, OPEN, RESET, ROUTE,
    SLOT,
};
use crate::process::{PATIENCE, until};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    answers_that_nobody_takes_go_back,
    files_that_are_still_needed_count,
    keys_to_look_up_are_bounded_in_bytes,
    frames_that_wait_count_for_who_sent_them,
);

const CONFIG: &str = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
routes:
  - { match: { host: a }, cluster: a }
  - { match: { service: com.demo.GreetService }, cluster: a }
clusters: [ { name: a, endpoints: [ \"shm:a\" ] } ]
timeouts: { idle: $idle, first_byte: 60s }
session: { bytes_per_session: 64MiB }
workers: 1
";

/// Bytes of each answer. A lane's worth of them is more than its arena takes.
const LARGE: usize = 100_000;

fn start(driver: Driver, idle: &str) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("idle", idle)])
}

/// An app with a call in each slot, all answered in full by one that serves, and not one answer taken.
fn untaken(sidecar: &Sidecar) -> (App, App) {
    let path = sidecar.path("apps.sock");
    let mut serving = App::attach_patiently(&path, 0, Some("a"));
    let mut calling = App::attach_patiently(&path, 1, None);
    let slots = u64::from(calling.geometry.slots);
    let key = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for slot in 0..slots {
        let open = Entry::new(OPEN, slot, 1).with(CODE, HTTP).with(FLAGS, END).with(ROUTE, NONE);
        calling.say(0, open.with(HEAD_LEN, key.len() as u64), key);
    }
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    let answer = [&head[..], &[b'l'; LARGE]].concat();
    for _ in 0..slots {
        let asked = serving.await_next(0, PATIENCE).expect("a call");
        assert_eq!(asked.entry.get(KIND), OPEN);
        let said = Entry::new(ANSWER, asked.entry.get(SLOT), asked.entry.get(GENERATION)).with(CODE, 200);
        serving.say(0, said.with(FLAGS, END).with(HEAD_LEN, head.len() as u64), &answer);
    }
    until("all are answered", || serving.consumed(0) == serving.lanes[0].put);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    (calling, serving)
}

/// Who takes no answers has them in his own arena, and not for ever in that of the one who gave them.
fn answers_that_nobody_takes_go_back(driver: Driver) {
    let sidecar = start(driver, "1s");
    let (mut calling, serving) = untaken(&sidecar);
    let slots = u64::from(calling.geometry.slots);
    assert!(serving.given_back(0) < slots, "all of it fits: this tests nothing");
    until("its blocks come back to the app that serves", || serving.given_back(0) == slots);
    // Each call has an end for its caller, too.
    let mut ended = 0;
    while ended < slots {
        let taken = calling.await_next(0, PATIENCE).expect("the end of a call");
        ended += u64::from(taken.entry.has(END) || taken.entry.get(KIND) == RESET);
    }
    assert!(!calling.is_over() && !serving.is_over());
}

/// An app that leaves while somebody still has its blocks cannot attach again and again on the same quota.
fn files_that_are_still_needed_count(driver: Driver) {
    let sidecar = start(driver, "60s");
    let (calling, serving) = untaken(&sidecar);
    let both = sidecar.metric("shmesh_session_bytes");
    drop(serving);
    sidecar.expect_metric("shmesh_sessions", 1.0);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", sidecar.process.pid())).expect("it runs");
    assert_eq!(maps.matches("shmesh-to-proxy").count(), 2, "nothing is needed any more: this tests nothing");
    assert_eq!(sidecar.metric("shmesh_session_bytes"), both);
    drop(calling);
    sidecar.expect_metric("shmesh_session_bytes", 0.0);
}

fn keys_to_look_up_are_bounded_in_bytes(driver: Driver) {
    let sidecar = start(driver, "60s");
    let app = App::attach_patiently(&sidecar.path("apps.sock"), 1, None);
    let resident = sidecar.process.resident();
    let ask = |id: u32, len: usize| {
        let key = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(len)).into_bytes();
        let mut bytes = Vec::new();
        Message::Lookup(Lookup { id, protocol: Protocol::Http, key }).encode(&mut bytes).expect("a message");
        (&app.socket).write_all(&bytes).expect("it reads");
    };
    std::thread::scope(|threads| {
        // One that is asked again needs no more room. Its second answer says that all were heard.
        threads.spawn(|| await_answers(&app, 0, 2));
        for id in 0..1_000 {
            ask(id, 60_000);
        }
        ask(0, 1);
    });
    let grown = sidecar.process.resident().saturating_sub(resident);
    assert!(grown < 8 << 20, "the sidecar has grown by {grown} bytes");
}

/// An app that takes nothing, and another one that calls it with the longest frames.
fn frames_that_wait_count_for_who_sent_them(driver: Driver) {
    let sidecar = start(driver, "60s");
    let path = sidecar.path("apps.sock");
    let serving = App::attach_patiently(&path, 0, Some("a"));
    let mut calling = App::attach_patiently(&path, 1, None);
    let resident = sidecar.process.resident();
    let mut key = Vec::new();
    shmesh_shm::key::DubboKey { service: SERVICE, method: "sayHello", group: None, version: None, tag: None }
        .encode(&mut key);
    let argument = vec![b'a'; 4_000_000];
    let invocation = Invocation {
        path: SERVICE,
        version: None,
        group: None,
        method: "sayHello",
        argument: Some(&argument),
        timeout_ms: None,
        attachments: &[],
    };
    let mut refused = 0;
    for slot in 0..u64::from(calling.geometry.slots) {
        let mut frame = Vec::new();
        write_request(&mut frame, slot, true, serialization::HESSIAN2, &invocation);
        let (first, rest) = frame.split_at(1_000);
        let open = Entry::new(OPEN, slot, 1).with(CODE, DUBBO).with(ROUTE, NONE).with(HEAD_LEN, key.len() as u64);
        calling.say(0, open, &[&key, first].concat());
        let mut credit = u64::from(calling.geometry.window) - (key.len() + first.len()) as u64;
        let mut parts = rest.chunks(100_000).peekable();
        while let Some(part) = parts.next() {
            while credit < part.len() as u64 {
                let taken = calling.await_next(0, PATIENCE).expect("credit, or the end of the call");
                // What else comes is the end of this call, or of one before.
                if taken.entry.get(SLOT) == slot && taken.entry.get(KIND) == RESET {
                    assert_eq!(taken.payload, b"shmesh: session.bytes_per_session is reached");
                    refused += 1;
                    break;
                }
                credit += taken.entry.get(CREDIT);
            }
            if credit < part.len() as u64 {
                break;
            }
            credit -= part.len() as u64;
            let end = if parts.peek().is_none() { END } else { 0 };
            calling.say(0, Entry::new(DATA, slot, 1).with(FLAGS, end), part);
        }
    }
    assert!(refused > 40, "only {refused} calls are refused");
    assert!(sidecar.metric("shmesh_session_bytes") <= f64::from(128 << 20));
    let grown = sidecar.process.resident().saturating_sub(resident);
    assert!(grown < 100 << 20, "the sidecar has grown by {grown} bytes");
    drop(calling);
    sidecar.expect_metric("shmesh_session_bytes", (2 * serving.geometry.segment_bytes(1)) as f64);
}

/// Reads until so many answers to this look-up came.
fn await_answers(app: &App, id: u32, many: usize) {
    let (mut heard, mut bytes) = (0, Vec::new());
    while heard < many {
        let mut piece = [0; 4096];
        let len = (&app.socket).read(&mut piece).expect("answers");
        assert!(len > 0, "the session ended");
        bytes.extend_from_slice(&piece[..len]);
        while let Some((message, used)) = Message::decode(&bytes).expect("a message") {
            bytes.drain(..used);
            heard += usize::from(matches!(message, Message::Endpoints(answer) if answer.id == id));
        }
    }
}
