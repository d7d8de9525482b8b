//! An app that serves, asked by a sidecar of the tests' own.

mod fake;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use fake::{FakeSidecar, FromApp, SMALL, Settings, ToApp, pattern};
use shmesh_client::{
    CallError, Handler, Protocol, Reset, Served, ServedResponse, Server, StreamEvent, StreamId, StreamReply,
};
use tempfile::TempDir;

/// Echoes calls and streams; the path `/fail` fails, a stream's bytes come back with its end.
#[derive(Default)]
struct Echo {
    streams: HashMap<StreamId, usize>,
}

impl Handler for Echo {
    fn call(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        if request.path() == b"/fail" {
            return response.fail(Reset::Overloaded, "too much");
        }
        if request.path() == b"/head" {
            response.header("x-long", vec![b'x'; 70_000]);
        }
        response.status(201).header("x-method", request.method()).header("bad\r\nname", "dropped");
        response.header("x-timeout", format!("{:?}", request.timeout));
        if let Some(value) = request.header("X-Ask") {
            response.header("x-answer", value);
        }
        response.body.extend_from_slice(request.body);
    }

    fn stream(&mut self, event: StreamEvent<'_>, reply: &mut StreamReply) {
        match event {
            StreamEvent::Opened(id, _) => drop(self.streams.insert(id, 0)),
            StreamEvent::Data(id, bytes) => {
                *self.streams.get_mut(&id).unwrap() += bytes.len();
                reply.bytes.extend_from_slice(bytes);
            }
            StreamEvent::Ended(id) => {
                reply.bytes.extend_from_slice(format!("|{}", self.streams[&id]).as_bytes());
                reply.end = true;
            }
            StreamEvent::Reset(id, _) => drop(self.streams.remove(&id)),
        }
    }
}

struct App {
    _dir: TempDir,
    sidecar: Option<FakeSidecar>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), CallError>>>,
}

fn app(settings: Settings, mut handler: impl Handler + Send + 'static) -> App {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let mut server = Server::builder(sidecar.path(), "echo").without_own_socket().attach().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let thread = std::thread::spawn(move || server.serve_until(&flag, &mut handler));
    App { _dir: dir, sidecar: Some(sidecar), stop, thread: Some(thread) }
}

impl App {
    fn ask(&self, to_app: ToApp) -> mpsc::Receiver<FromApp> {
        let (answer, received) = mpsc::channel();
        self.sidecar.as_ref().unwrap().call_app(ToApp { answer, ..to_app });
        received
    }

    fn answer(&self, to_app: ToApp) -> FromApp {
        self.ask(to_app).recv_timeout(Duration::from_secs(10)).expect("an answer")
    }

    fn end(mut self) -> Result<(), CallError> {
        self.stop.store(true, SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn http(path: &str, body: &[u8]) -> ToApp {
    let head = format!("PUT {path} HTTP/1.1\r\nhost: echo\r\nx-ask:  42 \r\n\r\n").into_bytes();
    let answer = mpsc::channel().0;
    ToApp { protocol: Protocol::Http, stream: false, one_way: false, head, body: body.to_vec(), answer }
}

#[test]
fn calls_are_answered() {
    let app = app(Settings::default(), Echo::default());
    let FromApp::Answer { code, head, body } = app.answer(http("/", b"hello")) else { panic!() };
    let head = String::from_utf8(head).unwrap();
    assert_eq!((code, &body[..]), (201, &b"hello"[..]));
    assert_eq!(head, "HTTP/1.1 201 Created\r\nx-method: PUT\r\nx-timeout: None\r\nx-answer: 42\r\n\r\n");
    app.end().unwrap();
}

#[test]
fn requests_and_answers_of_every_size_pass() {
    for settings in [Settings::default(), Settings { geometry: SMALL, ..Settings::default() }] {
        let app = app(settings, Echo::default());
        for len in [0, 300, 464, 465, 5_000, 32_768, 33_000, 2_000_000] {
            let sent = pattern(len as u64, len);
            let FromApp::Answer { code: 201, body, .. } = app.answer(http("/", &sent)) else { panic!() };
            assert!(body == sent, "{len} bytes");
        }
        app.end().unwrap();
    }
}

#[test]
fn a_handler_may_fail_a_call_and_serve_on() {
    let app = app(Settings::default(), Echo::default());
    assert_eq!(app.answer(http("/fail", b"")), FromApp::Reset(Reset::Overloaded));
    assert_eq!(app.answer(http("/head", b"")), FromApp::Reset(Reset::Malformed), "a head over the limit");
    assert!(matches!(app.answer(http("/", b"")), FromApp::Answer { code: 201, .. }));
    app.end().unwrap();
}

#[test]
fn dubbo_frames_and_raw_bytes_are_served_without_heads() {
    let app = app(Settings::default(), |request: &mut Served<'_>, response: &mut ServedResponse| {
        assert!(request.head.is_empty());
        response.body.extend_from_slice(request.body);
        if request.protocol == Protocol::Dubbo2 {
            response.body[2..4].copy_from_slice(&[0x02, 20]);
        }
    });
    let frame = b"\xda\xbb\xc2\x00\0\0\0\0\0\0\0\x07\0\0\0\x03abc".to_vec();
    let mut answer = frame.clone();
    answer[2..4].copy_from_slice(&[0x02, 20]);
    let dubbo = |one_way| ToApp {
        protocol: Protocol::Dubbo2,
        one_way,
        head: Vec::new(),
        body: frame.clone(),
        ..http("/", b"")
    };
    let whole = FromApp::Answer { code: 20, head: Vec::new(), body: answer };
    assert_eq!(app.answer(dubbo(false)), whole);
    let taken = FromApp::Answer { code: 20, head: Vec::new(), body: Vec::new() };
    assert_eq!(app.answer(dubbo(true)), taken);
    let raw = ToApp { protocol: Protocol::Raw, head: Vec::new(), ..http("/", b"bytes") };
    assert_eq!(app.answer(raw), FromApp::Answer { code: 0, head: Vec::new(), body: b"bytes".to_vec() });
    app.end().unwrap();
}

#[test]
fn calls_that_come_together_are_all_answered() {
    let app = app(Settings::default(), Echo::default());
    for round in 0..20 {
        let asked: Vec<_> = (0..60).map(|i| (i, app.ask(http("/", &pattern(round * 100 + i, 700))))).collect();
        for (i, answer) in asked {
            let FromApp::Answer { body, .. } = answer.recv_timeout(Duration::from_secs(10)).unwrap() else { panic!() };
            assert!(body == pattern(round * 100 + i, 700));
        }
        std::thread::sleep(Duration::from_millis(round % 3));
    }
    app.end().unwrap();
}

#[test]
fn streams_are_served_with_backpressure_and_ends() {
    for len in [0, 10, 3_000_000] {
        let app = app(Settings { geometry: SMALL, ..Settings::default() }, Echo::default());
        let sent = pattern(1, len);
        let stream = ToApp { protocol: Protocol::Raw, stream: true, head: Vec::new(), ..http("/", &sent) };
        let FromApp::Answer { body, .. } = app.answer(stream) else { panic!() };
        let tail = format!("|{len}");
        assert_eq!(body.len(), len + tail.len());
        assert!(body[..len] == sent && &body[len..] == tail.as_bytes());
        app.end().unwrap();
    }
}

#[test]
fn a_handler_that_takes_no_streams_refuses_them() {
    let app = app(Settings::default(), |_: &mut Served<'_>, _: &mut ServedResponse| {});
    let stream = ToApp { protocol: Protocol::Raw, stream: true, head: Vec::new(), ..http("/", b"bytes") };
    assert_eq!(app.answer(stream), FromApp::Reset(Reset::Refused));
    app.end().unwrap();
}

#[test]
fn serving_ends_when_the_sidecar_dies() {
    let mut app = app(Settings::default(), Echo::default());
    app.answer(http("/", b""));
    app.sidecar.take().unwrap().kill();
    let outcome = app.thread.take().unwrap().join().unwrap();
    assert!(matches!(outcome, Err(CallError::SidecarGone(_))), "{outcome:?}");
}
