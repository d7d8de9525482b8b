//! A session by hand, record by record: what no client of ours would write.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shmesh_client::Request;
use shmesh_shm::handshake::{self, Hello, LaneInfo, Lookup, Message, VERSION};
use shmesh_shm::{Dirty, Flags, Header, INLINE_KEY, Kind, LaneEnd, Mapping, Protocol, Reset, Side, doorbell};

use super::{before, client, expect_sessions};
use crate::process::{PATIENCE, until};
use crate::service::http;
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    a_body_longer_than_it_said_is_refused,
    a_frame_that_does_not_get_whole_is_given_up,
    endpoints_are_told_where_all_alike_go_there,
    answers_that_change_while_an_app_does_not_read_are_kept,
);

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: service\r\n\r\n";

/// What is behind the end of a body would be the next request of the upstream connection (RFC 9112 §11.2).
fn a_body_longer_than_it_said_is_refused(driver: Driver) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = seen.clone();
    let service = http(move |head, wire| {
        heads.lock().expect("no panic").push(head.start.clone());
        wire.body(head, false, |_| ());
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let sidecar = before(driver, &service.endpoint);
    let mut session = Session::attach(&sidecar);
    for (flags, generation) in [(Flags::NONE, 1), (Flags::END, 2)] {
        let mut open = Header::new(Kind::Open, 0, generation);
        let key = "POST /first HTTP/1.1\r\nHost: service\r\n\r\n";
        (open.code, open.route, open.head_len) = (Protocol::Http as u16, INLINE_KEY, key.len() as u32);
        (open.flags, open.total) = (flags, 1);
        session.put(&open, &[key.as_bytes(), b"x", SMUGGLED.as_bytes()]);
        let answer = session.next();
        assert_eq!((answer.kind, answer.code, answer.generation), (Kind::Answer, 400, generation), "{answer:?}");
        session.put(&Header::reset(0, generation, Reset::Cancelled), &[]);
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    // Another call would follow on the same upstream connection.
    let answer = client(&sidecar).call(Request::http("GET", "service", "/next")).expect("an answer");
    assert_eq!(answer.body, b"ok");
    assert_eq!(*seen.lock().expect("no panic"), ["GET /next HTTP/1.1"]);
    // The client is gone, and this session goes on.
    expect_sessions(&sidecar, 1);
}

fn a_frame_that_does_not_get_whole_is_given_up(driver: Driver) {
    let config = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
clusters: [ { name: service, endpoints: [ \"tcp:127.0.0.1:1\" ] } ]
timeouts: { idle: 2s }
workers: 1
";
    let sidecar = Sidecar::start(driver, config, &[]);
    let mut session = Session::attach(&sidecar);
    let open = |slot: u32, deadline_us: u32| {
        let mut open = Header::new(Kind::Open, slot, 1);
        (open.code, open.route, open.deadline_us) = (Protocol::Dubbo2 as u16, INLINE_KEY, deadline_us);
        open
    };
    let begun = Instant::now();
    session.put(&open(0, 0), &[b"\xda\xbb"]);
    session.put(&open(1, 100_000), &[b"\xda\xbb"]);
    // The deadline of its own first.
    let reset = session.next();
    assert_eq!((reset.kind, reset.slot, reset.reset_code()), (Kind::Reset, 1, Some(Reset::Timeout)), "{reset:?}");
    assert!(begun.elapsed() >= Duration::from_millis(90));
    // Each part gives the other one more time.
    let (mut last, mut longest) = (begun, Duration::ZERO);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(500));
        session.put(&Header::new(Kind::Data, 0, 1), &[b"\xc2"]);
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    let reset = session.next();
    assert_eq!((reset.kind, reset.slot, reset.reset_code()), (Kind::Reset, 0, Some(Reset::Timeout)), "{reset:?}");
    // Where this thread did not get its turn, the time was over before.
    if longest < Duration::from_millis(1800) {
        let (waited, all) = (last.elapsed(), begun.elapsed());
        assert!(waited > Duration::from_millis(1500) && all > Duration::from_secs(4), "{waited:?} of {all:?}");
    }
    expect_sessions(&sidecar, 1);
}

/// A shim that lost its sidecar knows calls by authority, method and path: where routes look at more than that and lead to
/// several clusters, it must not be told one.
fn endpoints_are_told_where_all_alike_go_there(driver: Driver) {
    let config = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
routes:
  - { match: { host: a }, cluster: one }
  - { match: { host: a, path_prefix: /divided, headers: [ { name: x, present: true } ] }, cluster: two }
  - { match: { host: a, path_prefix: /query, query: [ { name: q, exact: 1 } ] }, cluster: two }
  - { match: { host: a, path_prefix: /same, headers: [ { name: x, present: true } ] }, cluster: one }
  - { match: { host: a, path: /divided/exact }, cluster: one }
  - { match: { host: '*.b', path_prefix: /put, method: PUT, headers: [ { name: x, present: true } ] }, cluster: two }
  - { match: { host: '*.b' }, cluster: one }
clusters:
  - { name: one, endpoints: [ \"tcp:127.0.0.1:1\", \"shm:app\" ] }
  - { name: two, endpoints: [ \"tcp:127.0.0.1:2\" ] }
workers: 1
";
    let sidecar = Sidecar::start(driver, config, &[]);
    let session = Session::attach(&sidecar);
    let table = [
        ("GET /", "a", true),
        ("GET /divided", "a", false),
        ("GET /divided/exact", "a", true),
        ("GET /query?q=1", "a", false),
        ("GET /query", "a", false),
        ("GET /same", "a", true),
        ("GET /put", "x.b:80", true),
        ("PUT /put", "x.b:80", false),
        ("GET /", "b", false),
    ];
    for (id, (line, host, told)) in table.into_iter().enumerate() {
        for header in ["", "x: 1\r\n"] {
            let endpoints = session.look_up(id as u32, &format!("{line} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n"));
            let expected: &[&str] = if told { &["tcp:127.0.0.1:1"] } else { &[] };
            assert_eq!(endpoints, expected, "{line} of {host} with {header:?}");
        }
    }
}

/// An app that does not read for a while has missed nothing afterwards, and its session goes on.
fn answers_that_change_while_an_app_does_not_read_are_kept(driver: Driver) {
    const LOOKUPS: u32 = 300;
    let config = |port: u16| {
        let endpoints: Vec<String> = (0..200).map(|last| format!("\"tcp:198.51.100.{last}:{port}\"")).collect();
        format!(
            "
listeners: [ {{ name: apps, shm: $dir/apps.sock }} ]
routes: [ {{ match: {{ host: a }}, cluster: one }} ]
clusters: [ {{ name: one, endpoints: [ {} ] }} ]
workers: 1
",
            endpoints.join(", ")
        )
    };
    let mut sidecar = Sidecar::start(driver, &config(1), &[]);
    let session = Session::attach(&sidecar);
    for id in 0..LOOKUPS {
        let told = session.look_up(id, &format!("GET /{id} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((told.len(), &*told[0]), (200, "tcp:198.51.100.0:1"));
    }
    // More than a megabyte each time, of which the socket takes some.
    for port in 2..=4 {
        sidecar.write_config(&config(port));
        let version = f64::from(port);
        until("it is taken", || sidecar.metric("shmesh_snapshot_version") == version);
    }
    let mut newest = BTreeMap::new();
    let mut bytes = Vec::new();
    let late = Instant::now() + PATIENCE;
    while newest.len() < LOOKUPS as usize || newest.values().any(|told| told != "tcp:198.51.100.0:4") {
        assert!(Instant::now() < late, "not all were told");
        let mut piece = vec![0; 1 << 16];
        let len = (&session.socket).read(&mut piece).expect("the session goes on");
        assert!(len > 0, "it was ended");
        bytes.extend_from_slice(&piece[..len]);
        while let Some((message, len)) = Message::decode(&bytes).expect("a message") {
            bytes.drain(..len);
            let Message::Endpoints(mut told) = message else { panic!("{message:?}") };
            newest.insert(told.id, told.endpoints.swap_remove(0));
        }
    }
    expect_sessions(&sidecar, 1);
}

/// An app with one calling lane.
pub struct Session {
    lane: LaneEnd,
    dirty: Dirty,
    info: LaneInfo,
    worker: OwnedFd,
    socket: UnixStream,
    _bell: OwnedFd,
}

impl Session {
    pub fn attach(sidecar: &Sidecar) -> Session {
        let socket = UnixStream::connect(sidecar.path("apps.sock")).expect("it accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            calling_lanes: 1,
            serving: false,
            features: 0,
            name: "by hand".to_owned(),
        };
        let mut bytes = Vec::new();
        Message::Hello(hello).encode(&mut bytes).expect("a message");
        handshake::send(socket.as_fd(), &bytes, &[]).expect("it reads");
        let mut descriptors = Vec::new();
        let welcome = match message(&socket, &mut descriptors) {
            Message::Welcome(welcome) => welcome,
            other => panic!("not welcome: {other:?}"),
        };
        assert_eq!((welcome.workers, welcome.lanes.len(), descriptors.len()), (1, 1, 4));
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().expect("a descriptor");
        let len = welcome.geometry.segment_bytes(1);
        let to_proxy = Arc::new(Mapping::read_write(next(), len).expect("a segment"));
        let to_app = Arc::new(Mapping::read_only(next(), len).expect("a segment"));
        Session {
            lane: LaneEnd::new(Side::App, &to_proxy, &to_app, &welcome.geometry, 0),
            dirty: Dirty::new(&to_proxy, &to_app),
            info: welcome.lanes[0],
            worker: next(),
            socket,
            _bell: next(),
        }
    }

    pub fn put(&mut self, header: &Header, parts: &[&[u8]]) {
        self.lane.put(header, parts).expect("there is room");
        self.lane.publish();
        self.ring();
    }

    /// Rings with nothing to say, as one does who asks for a sign of life.
    pub fn ring(&mut self) {
        self.dirty.mark(u16::from(self.info.worker), self.info.bit);
        doorbell::ring_worker(&self.worker).expect("a bell");
    }

    /// Asks where calls with this head go; the endpoints.
    fn look_up(&self, id: u32, head: &str) -> Vec<String> {
        let mut bytes = Vec::new();
        let lookup = Lookup { id, protocol: Protocol::Http, key: head.as_bytes().to_vec() };
        Message::Lookup(lookup).encode(&mut bytes).expect("a message");
        handshake::send(self.socket.as_fd(), &bytes, &[]).expect("it reads");
        match message(&self.socket, &mut Vec::new()) {
            Message::Endpoints(answer) if answer.id == id => answer.endpoints,
            other => panic!("no answer to {id}: {other:?}"),
        }
    }

    /// The next record that begins or resets something.
    pub fn next(&mut self) -> Header {
        let late = Instant::now() + PATIENCE;
        loop {
            while let Some(record) = self.lane.peek().expect("a record in order") {
                self.lane.advance();
                if matches!(record.kind, Kind::Answer | Kind::Reset) {
                    return record;
                }
            }
            assert!(Instant::now() < late, "no record comes");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// How often somebody who waits for a record looks at the ring.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// The next message of the sidecar, which says nothing before it is asked.
fn message(socket: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> Message {
    let mut bytes = Vec::new();
    loop {
        if let Some((message, len)) = Message::decode(&bytes).expect("a message") {
            assert_eq!(len, bytes.len(), "and another one");
            return message;
        }
        let mut piece = [0; 4096];
        let len = handshake::receive(socket.as_fd(), &mut piece, descriptors).expect("an answer");
        assert!(len > 0, "it closed");
        bytes.extend_from_slice(&piece[..len]);
    }
}
