//! The socket of its own on which a serving app is reached while its sidecar is gone.

mod fake;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fake::{FakeSidecar, FromApp, Settings, ToApp, pattern};
use shmesh_client::{
    CallError, Client, ConnectError, DubboKey, Handler, Protocol, Ran, Request, Reset, Served, ServedResponse, Server,
    StreamEvent, StreamId, StreamReply,
};
use shmesh_shm::handshake::Policy;
use tempfile::TempDir;

/// Longer than anything takes that is not stuck, also on a machine that stands still for a while.
const PATIENCE: Duration = Duration::from_secs(300);

/// Echoes calls and streams. `/fail` fails, `/lies` says something of its own about framing; a stream ends with its length.
#[derive(Default)]
struct Echo {
    streams: HashMap<StreamId, usize>,
    reset: Arc<Mutex<Vec<Reset>>>,
    calls: Arc<AtomicUsize>,
}

impl Handler for Echo {
    fn call(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        self.calls.fetch_add(1, SeqCst);
        match request.path() {
            b"/fail" => return response.fail(Reset::Overloaded, "too much"),
            b"/lies" => drop(response.header("content-length", "99").header("transfer-encoding", "chunked")),
            b"/none" => drop(response.status(204)),
            _ => {}
        }
        if let Some(value) = request.header("x-ask") {
            response.header("x-answer", value);
        }
        std::mem::swap(request.body, &mut response.body);
        if request.protocol == Protocol::Dubbo2 {
            response.body[2] &= 0x1f;
            response.body[3] = 20;
        }
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
            StreamEvent::Reset(id, why) => {
                self.streams.remove(&id).expect("a stream that was opened");
                self.reset.lock().unwrap().push(why);
            }
        }
    }
}

struct App {
    dir: TempDir,
    sidecar: Option<FakeSidecar>,
    own: PathBuf,
    reset: Arc<Mutex<Vec<Reset>>>,
    /// Calls that its handler was given.
    calls: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), CallError>>>,
}

impl App {
    fn start() -> App {
        let dir = tempfile::tempdir().unwrap();
        let sidecar = FakeSidecar::start(&dir.path().join("s"), settings());
        let mut server = Server::attach(sidecar.path(), "echo").unwrap();
        let own = server.own_socket().unwrap().to_owned();
        let (stop, mut handler) = (Arc::new(AtomicBool::new(false)), Echo::default());
        let (reset, calls) = (handler.reset.clone(), handler.calls.clone());
        let flag = stop.clone();
        let thread = std::thread::spawn(move || server.serve_until(&flag, &mut handler));
        App { dir, sidecar: Some(sidecar), own, reset, calls, stop, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.own).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What comes back until the end when this is all that is sent.
    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let outcome = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            outcome.unwrap().unwrap();
            assert!(!self.own.exists(), "it leaves no file");
        }
    }
}

fn settings() -> Settings {
    Settings { policy: Some(Policy::default()), ..Settings::default() }
}

/// A client whose sidecar said that calls go to this app's socket, and died.
fn caller(app: &App) -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy { app_sockets: vec![format!("unix:{}", app.own.display())], ..Policy::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), Settings { policy: Some(policy), ..Settings::default() });
    let client = Client::builder().socket(sidecar.path()).lanes(1).connect().unwrap();
    client.call(Request::http("GET", "echo", "/")).unwrap();
    client.call(Request::dubbo(key(), &frame(1, b"x"))).unwrap();
    client.call(Request::raw("echo", b"x")).unwrap();
    sidecar.wait_for_lookups(3);
    sidecar.kill();
    (dir, client)
}

fn key() -> DubboKey<'static> {
    DubboKey { service: "s", method: "m", group: None, version: None, tag: None }
}

fn frame(id: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = b"\xda\xbb\xc2\x00\0\0\0\0\0\0\0".to_vec();
    frame.push(id);
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// A raw call as it goes to the own socket of an app, in these pieces.
fn raw(pieces: &[&[u8]]) -> Vec<u8> {
    let mut sent = b"\x05".to_vec();
    for piece in pieces.iter().chain([&&b""[..]]) {
        sent.extend_from_slice(&(piece.len() as u64).to_le_bytes());
        sent.extend_from_slice(piece);
    }
    sent
}

fn raw_answer(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u64).to_le_bytes(), body].concat()
}

/// The answer to an exchange whose body goes on like this.
fn exchanged(client: &Client, request: &Request<'_>, more: &[u8]) -> Vec<u8> {
    let mut exchange = client.exchange(request, None).unwrap();
    for piece in more.chunks(3) {
        exchange.write_all(piece).unwrap();
    }
    exchange.finish().unwrap();
    exchange.head().unwrap();
    let mut body = Vec::new();
    exchange.read_to_end(&mut body).unwrap();
    assert!(exchange.is_direct());
    body
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn it_is_beside_the_session_socket_and_the_sidecar_is_told() {
    let app = App::start();
    assert_eq!(app.own, app.dir.path().join("echo.app.sock"));
    assert_eq!(std::fs::metadata(&app.own).unwrap().permissions().mode() & 0o777, 0o660);
    let counts = &app.sidecar.as_ref().unwrap().counts;
    let told = || counts.served_at.lock().unwrap().clone();
    until("the sidecar was told", || told().is_some());
    assert_eq!(told(), Some(app.own.display().to_string()));
}

#[test]
fn http_is_answered_request_by_request() {
    let app = App::start();
    let mut bytes = b"PUT /a HTTP/1.1\r\nHost: echo\r\nx-ask: 42\r\nContent-Length: 5\r\n\r\nhello".to_vec();
    bytes.extend_from_slice(
        b"PUT /b HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    bytes.extend_from_slice(b"GET /none HTTP/1.1\r\nHost: echo\r\n\r\nHEAD / HTTP/1.1\r\nHost: echo\r\n\r\n");
    bytes.extend_from_slice(
        b"GET /fail HTTP/1.1\r\nHost: echo\r\n\r\nPUT /lies HTTP/1.1\r\nHost: echo\r\nContent-Length: 1\r\n\r\n!",
    );
    let answers = String::from_utf8(app.ask(&bytes)).unwrap();
    let expected = "HTTP/1.1 200 OK\r\nx-answer: 42\r\ncontent-length: 5\r\nvia: 1.1 shmesh\r\n\r\nhello\
                    HTTP/1.1 200 OK\r\ncontent-length: 5\r\nvia: 1.1 shmesh\r\n\r\nabcde\
                    HTTP/1.1 204 No Content\r\nvia: 1.1 shmesh\r\n\r\n\
                    HTTP/1.1 200 OK\r\nvia: 1.1 shmesh\r\n\r\n";
    assert!(answers.starts_with(expected), "{answers}");
    assert!(answers.contains("HTTP/1.1 503 ") && answers.contains("too much"), "{answers}");
    let refused = "\r\nx-shmesh-reason: malformed\r\n\r\nthe app's answer is malformed\n";
    assert!(answers.contains("HTTP/1.1 502 ") && answers.ends_with(refused), "{answers}");

    for (bad, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "400"),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", "400"),
    ] {
        let answer = String::from_utf8(app.ask(bad)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains("connection: close"), "{answer}");
    }
}

#[test]
fn a_client_that_waits_for_a_100_gets_it_and_one_that_asks_to_close_is_closed() {
    let app = App::start();
    let mut stream = app.connect();
    stream
        .write_all(
            b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
        )
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[test]
fn dubbo_and_raw_are_answered() {
    let app = App::start();
    let mut asked = frame(7, b"abc");
    // A heartbeat that wants an answer, a one-way call, another call; cut where it hurts.
    asked.extend_from_slice(b"\xda\xbb\xe2\x00\0\0\0\0\0\0\0\x01\0\0\0\x01N");
    let mut one_way = frame(8, b"nobody waits");
    one_way[2] = 0x82;
    asked.extend_from_slice(&one_way);
    asked.extend_from_slice(&frame(9, b"last"));
    let mut stream = app.connect();
    for piece in asked.chunks(7) {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let answered = |id: u8, body: &[u8]| {
        let mut answer = frame(id, body);
        (answer[2], answer[3]) = (0x02, 20);
        answer
    };
    let heartbeat = b"\xda\xbb\x22\x14\0\0\0\0\0\0\0\x01\0\0\0\x01N";
    let expected = [answered(7, b"abc"), heartbeat.to_vec(), answered(9, b"last")].concat();
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, expected);

    assert_eq!(app.ask(&raw(&[b"piece by ", b"piece"])), raw_answer(b"piece by piece"));
    assert_eq!(app.ask(&raw(&[])), raw_answer(b""));
    assert_eq!(app.ask(b"\x04stream"), b"stream|6");
    assert_eq!(app.ask(b""), b"");
    assert_eq!(app.ask(b"\xda"), b"", "what ends in the middle is not answered");
    assert_eq!(app.ask(b"\xda\xbc\xc2\x00\0\0\0\0\0\0\0\x07\0\0\0\x03abc"), b"", "no Dubbo");
}

/// Of a caller that dies in the middle of its request nothing is to be run.
#[test]
fn a_raw_request_that_is_cut_off_does_not_run() {
    let app = App::start();
    let whole = raw(&[b"hello", b"you"]);
    for len in 0..whole.len() {
        assert_eq!(app.ask(&whole[..len]), b"", "{len} bytes of it");
    }
    // One that is too long, and one of those that said nothing of their length.
    assert_eq!(app.ask(&[&b"\x05"[..], &u64::MAX.to_le_bytes(), b"much"].concat()), b"");
    assert!(app.ask(b"\x03until the end").starts_with(b"HTTP/1.1 400 "));
    assert_eq!(app.calls.load(SeqCst), 0);
    assert_eq!(app.ask(&whole), raw_answer(b"helloyou"));
    assert_eq!(app.calls.load(SeqCst), 1);
}

#[test]
fn bodies_and_streams_of_any_size_pass() {
    let app = App::start();
    let body = pattern(3, 5_000_000);
    let mut stream = app.connect();
    let mut reader = stream.try_clone().unwrap();
    let sent = body.clone();
    let writer = std::thread::spawn(move || {
        stream.write_all(b"\x04").unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).unwrap();
    writer.join().unwrap();
    assert!(answer == [&body[..], b"|5000000"].concat(), "{} bytes", answer.len());

    let (_dir, client) = caller(&app);
    assert!(client.call(Request::http("PUT", "echo", "/").body(&body)).unwrap().body == body);
    assert!(client.call(Request::raw("echo", &body)).unwrap().body == body);
}

#[test]
fn a_stream_whose_peer_leaves_is_in_nobodys_way() {
    let app = App::start();
    let mut stream = app.connect();
    stream.write_all(b"\x04hello").unwrap();
    let mut piece = [0; 5];
    stream.read_exact(&mut piece).unwrap();
    drop(stream);
    // Whoever leaves has sent everything first: the echo ends it, or finds nobody to tell.
    assert_eq!(app.ask(b"\x04on"), b"on|2");
}

#[test]
fn callers_reach_an_app_whose_sidecar_is_gone_and_it_comes_back() {
    let mut app = App::start();
    let (_dir, client) = caller(&app);
    let socket = app.sidecar.as_ref().unwrap().path().to_owned();
    let all = |client: &Client| {
        let response = client.call(Request::http("POST", "echo", "/").body(b"http")).unwrap();
        assert_eq!((response.status, &response.body[..]), (200, &b"http"[..]));
        assert_eq!(client.call(Request::dubbo(key(), &frame(5, b"dubbo"))).unwrap().body[16..], *b"dubbo");
        assert_eq!(client.call(Request::raw("echo", b"raw")).unwrap().body, b"raw");
        assert_eq!(exchanged(client, &Request::dubbo(key(), &frame(6, b"dubbo")[..16]), b"dubbo")[16..], *b"dubbo");
        assert_eq!(exchanged(client, &Request::raw("echo", b"some "), b"more"), b"some more");
        assert_eq!(exchanged(client, &Request::raw("echo", b""), b""), b"");
        let mut stream = client.stream(Protocol::Raw, Some("echo")).unwrap();
        stream.write_all(b"stream").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"stream|6");
    };
    // With the sidecar there as well as without it.
    all(&client);
    app.sidecar.take().unwrap().kill();
    all(&client);
    let again = FakeSidecar::start(&socket, settings());
    until("it attached again", || again.counts.served_at.lock().unwrap().is_some());
    let (answer, received) = mpsc::channel();
    let head = b"PUT / HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec();
    let body = b"shm".to_vec();
    again.call_app(ToApp { protocol: Protocol::Http, stream: false, one_way: false, head, body, answer });
    let FromApp::Answer { body, .. } = received.recv_timeout(PATIENCE).unwrap() else { panic!("no answer") };
    assert_eq!(body, b"shm");
    all(&client);
    assert_eq!(*app.reset.lock().unwrap(), []);
    app.sidecar = Some(again);
}

/// Whoever gives a raw exchange up, or dies in the middle of it, has asked for nothing.
#[test]
fn a_raw_exchange_that_is_not_finished_does_not_run() {
    let app = App::start();
    let (_dir, client) = caller(&app);
    assert_eq!(exchanged(&client, &Request::raw("echo", b"first"), b""), b"first");
    let before = app.calls.load(SeqCst);
    let mut exchange = client.exchange(&Request::raw("echo", b"half"), None).unwrap();
    exchange.write_all(b" of it").unwrap();
    assert!(exchange.is_direct());
    drop(exchange);
    assert_eq!(exchanged(&client, &Request::raw("echo", b"whole"), b""), b"whole");
    assert_eq!(app.calls.load(SeqCst) - before, 1);
}

/// A raw answer says how long it is: what ends before is none.
#[test]
fn a_raw_answer_that_is_not_whole_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("app");
    let listener = std::os::unix::net::UnixListener::bind(&own).unwrap();
    let policy = Policy { app_sockets: vec![format!("unix:{}", own.display())], ..Policy::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), Settings { policy: Some(policy), ..Settings::default() });
    let client = Client::builder().socket(sidecar.path()).lanes(1).connect().unwrap();
    client.call(Request::raw("echo", b"x")).unwrap();
    sidecar.wait_for_lookups(1);
    sidecar.kill();
    let answers: [&[u8]; 6] = [
        b"",
        b"\x05\0",
        b"\x05\0\0\0\0\0\0\0",
        b"\x05\0\0\0\0\0\0\0hell",
        b"\x05\0\0\0\0\0\0\0hello",
        b"\0\0\0\0\0\0\0\0",
    ];
    std::thread::spawn(move || {
        for answer in answers.into_iter().chain(answers) {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).unwrap();
            assert_eq!(asked, raw(&[b"once"]));
            stream.write_all(answer).unwrap();
        }
    });
    for (number, answer) in answers.into_iter().enumerate() {
        match client.call(Request::raw("echo", b"once").timeout(PATIENCE)) {
            Ok(response) => assert_eq!((number >= 4, &response.body[..]), (true, &answer[8..])),
            Err(CallError::Direct { ran: Ran::Maybe, .. }) => assert!(number < 4),
            other => panic!("{other:?}"),
        }
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let mut exchange = client.exchange(&Request::raw("echo", b"once").timeout(PATIENCE), None).unwrap();
        exchange.finish().unwrap();
        let mut body = Vec::new();
        match exchange.read_to_end(&mut body) {
            Ok(_) => assert_eq!((number >= 4, &body[..]), (true, &answer[8..])),
            Err(error) => assert!(number < 4, "{error}"),
        }
    }
}

/// Whoever looks for a sidecar that takes connections and says nothing still answers.
#[test]
fn an_app_serves_while_a_sidecar_does_not_answer_it() {
    let mut app = App::start();
    let sidecar = app.sidecar.take().unwrap();
    let path = sidecar.path().to_owned();
    sidecar.kill();
    let silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    silent.set_nonblocking(true).unwrap();
    until("it was answered while it waited to be welcome", || {
        let Ok((waiting, _)) = silent.accept() else { return false };
        assert_eq!(app.ask(b"\x04still here"), b"still here|10");
        waiting.set_nonblocking(true).unwrap();
        let mut hello = Vec::new();
        let outcome = (&waiting).read_to_end(&mut hello);
        // It has said HELLO, and not given up.
        !hello.is_empty() && outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    drop(silent);
    app.sidecar = Some(FakeSidecar::start(&path, settings()));
    let counts = app.sidecar.as_ref().unwrap().counts.clone();
    until("it attached", || counts.served_at.lock().unwrap().is_some());
}

/// More callers than there are places: those that have nothing to say make room for others.
#[test]
fn callers_that_rest_make_room() {
    let app = App::start();
    let request = b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n";
    let mut stream = app.connect();
    stream.write_all(b"\x04he").unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let resting: Vec<_> = (0..256)
        .map(|number| {
            let mut connection = app.connect();
            if number % 2 == 0 {
                connection.write_all(request).unwrap();
                read_head(&mut connection);
            }
            connection
        })
        .collect();
    let mut late: Vec<_> = (0..10).map(|_| app.connect()).collect();
    for connection in &mut late {
        connection.write_all(request).unwrap();
    }
    late.iter_mut().for_each(read_head);
    // A stream rests as long as it likes.
    stream.write_all(b"llo").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"llo|5");
    drop(resting);
}

fn read_head(connection: &mut UnixStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 "));
}

#[test]
fn streams_over_lanes_end_with_the_sidecar() {
    let mut app = App::start();
    let (answer, _received) = mpsc::channel();
    let open =
        ToApp { protocol: Protocol::Raw, stream: true, one_way: false, head: Vec::new(), body: pattern(1, 10), answer };
    let sidecar = app.sidecar.take().unwrap();
    sidecar.call_app(open);
    // The stream is known to the handler once it has been asked something behind it.
    let (answer, received) = mpsc::channel();
    let head = b"PUT / HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec();
    sidecar.call_app(ToApp { protocol: Protocol::Http, stream: false, one_way: false, head, body: Vec::new(), answer });
    received.recv_timeout(PATIENCE).unwrap();
    sidecar.kill();
    // It was over already if its end came along; else the handler hears of it.
    assert_eq!(app.ask(&raw(&[b"still here"])), raw_answer(b"still here"));
    assert!(app.reset.lock().unwrap().iter().all(|why| *why == Reset::Died));
}

#[test]
fn where_it_listens_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings());
    let builder = || Server::builder(sidecar.path(), "echo");
    let path = dir.path().join("chosen");
    // What an app left that was killed is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = builder().own_socket(&path).attach().unwrap();
    assert_eq!(server.own_socket(), Some(&*path));
    UnixStream::connect(&path).unwrap();
    drop(server);
    assert!(!path.exists());
    assert_eq!(builder().without_own_socket().attach().unwrap().own_socket(), None);
    for bad in [Path::new("relative"), Path::new("/nonexistent/socket")] {
        let error = builder().own_socket(bad).attach().unwrap_err();
        assert!(matches!(error, ConnectError::OwnSocket { .. }), "{error:?}");
    }
}
