//! An app that serves and says heads which are ambiguous, or say something else than their record (docs/spec/shm-v1.md §3.1). The caller gets
//! 502 or a broken-off answer, whether it comes by TCP or is an app itself; the session goes on, and so do the calls behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmesh_client::{Client, Request};

use super::{CONFIG, Scene};
use crate::app::App;
use crate::entry::{ANSWER, CODE, DATA, END, Entry, FLAGS, GENERATION, HEAD_LEN, KIND, OPEN, SLOT, TOTAL};
use crate::process::PATIENCE;
use crate::sidecar::Driver;

on_each_driver!(one_that_answers_ambiguously);

/// Total of an answer that does not say how long it is.
const UNSAID: u64 = u64::MAX;

/// An answer in parts, the last of which ends it.
struct Said {
    head: String,
    total: u64,
    parts: &'static [&'static str],
    /// What the caller gets as body; nothing if the answer is broken.
    body: Option<&'static str>,
}

fn said() -> Vec<Said> {
    let in_order = [
        "",
        "Content-Length: 2\r\n",
        "Connection: close, x\r\nX: y\r\nKeep-Alive: 5\r\n",
        "Connection: content-length\r\n",
    ];
    let ambiguous = [
        "Content-Length: 3\r\n",
        "Content-Length: 1\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length:\r\n",
        "Content-Length : 2\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "X: a\r\n b\r\n",
        "X: a\nContent-Length: 2\r\n",
        "X: a\rContent-Length: 2\r\n",
        "X: a\0b\r\n",
        " X: a\r\n",
        "X\r\n",
        ": a\r\n",
        "\r\nHTTP/1.1 200 OK\r\n",
        "\r\n",
    ];
    let no_heads = [
        "",
        "\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        // No body follows these (RFC 9112 §6.3).
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
    ];
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let hi = |head, body| Said { head, total: UNSAID, parts: &["hi"], body };
    let mut all: Vec<Said> = in_order.iter().map(|fields| hi(ok(fields), Some("hi"))).collect();
    all.extend(ambiguous.iter().map(|fields| hi(ok(fields), None)));
    all.extend(no_heads.iter().map(|head| hi((*head).to_owned(), None)));
    // The record's own length against its parts, and against the head.
    let five: [(&str, u64, &[&str], bool); 10] = [
        ("", 5, &["hello"], true),
        ("", 5, &["hel", "lo"], true),
        ("", UNSAID, &["", "hello"], true),
        ("Content-Length: 5\r\n", 5, &["hel", "lo"], true),
        ("Content-Length: 5\r\n", 6, &["hello", "!"], false),
        ("Content-Length: 5\r\n", UNSAID, &["hel", "lo"], false),
        ("", 6, &["hello"], false),
        ("", 4, &["hello"], false),
        ("", 5, &["hel", "l"], false),
        ("", 5, &["hel", "lo!"], false),
    ];
    all.extend(five.map(|(fields, total, parts, good)| Said {
        head: ok(fields),
        total,
        parts,
        body: good.then_some("hello"),
    }));
    all
}

fn one_that_answers_ambiguously(driver: Driver) {
    // No answer is late here, however busy the machine is.
    let scene = Scene::start_with(driver, &CONFIG.replace("first_byte_timeout: 2s", "first_byte_timeout: 30s"));
    let said = Arc::new(said());
    let done = Arc::new(AtomicBool::new(false));
    let socket = scene.sidecar.path("apps.sock");
    let (answers, end) = (said.clone(), done.clone());
    let mut app = App::attach_patiently(&socket, 1, Some("hostile"));
    let serving = std::thread::spawn(move || serve(&mut app, &answers, &end));
    let client = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(&socket)
        .lanes(1)
        .fallback(false)
        .connect()
        .expect("a session");
    let mut wrong = Vec::new();
    // Twice, as what was said once may be known again.
    for (n, answer) in said.iter().enumerate().flat_map(|case| [case, case]) {
        let (socket, call) = (by_socket(&scene, n), by_call(&client, n));
        if (socket.as_deref(), call.as_deref()) != (answer.body, answer.body) {
            wrong.push(format!("{:?} {:?}: {socket:?}, {call:?}", answer.head, answer.parts));
        }
        // The first one, which is in order.
        assert_eq!(by_call(&client, 0).as_deref(), Some("hi"), "behind {:?} {:?}", answer.head, answer.parts);
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * said.len(), wrong.join("\n"));
    done.store(true, Ordering::Relaxed);
    serving.join().expect("the session of an app that is only ambiguous goes on");
    assert_eq!(scene.offence(), None);
}

/// Body of the n-th answer over TCP, if that is whole.
fn by_socket(scene: &Scene, n: usize) -> Option<String> {
    let mut wire = scene.sidecar.connect("web");
    wire.send(format!("GET /{n} HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n"));
    let text = String::from_utf8(wire.rest().0).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        assert!(head.is_empty() || head.contains("x-shmesh-reason: upstream-malformed"), "{text}");
        return None;
    }
    let fields = head.to_ascii_lowercase();
    let length = fields.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => {
            let length: usize = length.parse().expect("one length");
            assert!(body.len() <= length && !fields.contains("transfer-encoding"), "{text}");
            (body.len() == length).then(|| body.to_owned())
        }
        None => {
            // Chunks, as they are made of these few bytes: whole if the last one is there.
            let body = body.strip_suffix("0\r\n\r\n")?;
            Some(body.split("\r\n").skip(1).step_by(2).collect())
        }
    }
}

/// Body of the n-th answer as a call of an app, if that is whole.
fn by_call(client: &Client, n: usize) -> Option<String> {
    let request = Request::http("GET", "local", &format!("/{n}")).timeout(PATIENCE);
    let response = client.call(request).ok().filter(|response| response.status != 502)?;
    Some(String::from_utf8(response.body).expect("text"))
}

/// Says the n-th answer to `/n`.
fn serve(app: &mut App, said: &[Said], done: &AtomicBool) {
    let lane = app.lanes.iter().position(|lane| lane.info.serving).expect("it serves");
    while !done.load(Ordering::Relaxed) {
        let Some(taken) = app.await_next(lane, Duration::from_millis(20)) else {
            assert!(!app.is_over(), "the session was ended");
            continue;
        };
        if taken.entry.get(KIND) != OPEN {
            continue;
        }
        let head = String::from_utf8(taken.payload[..taken.entry.get(HEAD_LEN) as usize].to_vec()).expect("text");
        let n: usize = head.split(' ').nth(1).and_then(|path| path[1..].parse().ok()).expect("a number");
        for (part, text) in said[n].parts.iter().enumerate() {
            let kind = if part == 0 { ANSWER } else { DATA };
            let mut entry = Entry::new(kind, taken.entry.get(SLOT), taken.entry.get(GENERATION));
            let mut payload = text.as_bytes().to_vec();
            if part == 0 {
                entry = entry.with(CODE, 200).with(HEAD_LEN, said[n].head.len() as u64).with(TOTAL, said[n].total);
                payload.splice(0..0, said[n].head.bytes());
            }
            if part + 1 == said[n].parts.len() {
                entry = entry.with(FLAGS, END);
            }
            app.say(lane, entry, &payload);
        }
    }
}
