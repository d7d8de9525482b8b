//! A worker is replaced again and again in the middle of what it does: nobody outside can tell.

mod app;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use app::{App, engine_of, snapshot};
use shmesh_engine::embed::{Ahead, Handover, LoneWorker, NewLanes, Parts, Refusal, WorkerPart, assemble};
use shmesh_io::sim::{ActorConn, ActorListener, Link, Pause, Progress, Read, SimDriver, World};
use shmesh_io::{Limits, Target};
use shmesh_policy::{
    Address, Bind, Cluster, ClusterId, HttpSpec, Listener, Priority, Protocol, Route, RouteMatch, Routes, Snapshot,
};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, Invocation, serialization, write_request};
use shmesh_shm::{Flags, Geometry, Header, INLINE_KEY, Kind, Protocol as Spoken, TOTAL_UNKNOWN};

/// More than any exchange here takes.
const TURNS_MAX: u32 = 20_000;

/// Turns between two replacements, of which each test tries all.
const EVERY: [u32; 5] = [1, 2, 3, 7, 20];

/// Turns between what a worker gives ahead and its rest.
const AHEAD: u32 = 3;

/// A worker with one listener before one service, replaced every so many turns.
struct Mesh {
    world: World,
    worker: LoneWorker<SimDriver>,
    snapshot: Arc<Snapshot>,
    socket: OwnedFd,
    service: ActorListener,
    at: SocketAddr,
    every: u32,
    turns: u32,
    replaced: u32,
    /// Not while a connection is made: that begins anew each time.
    pauses: bool,
    /// What it gave for the next replacement.
    ahead: Option<Ahead>,
}

impl Mesh {
    fn new(protocol: Protocol, every: u32) -> Mesh {
        let world = world(every);
        let at: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let upstream = "10.0.0.1:80".parse().expect("an address");
        let service = world.listen(&Target::Tcp(upstream)).expect("an address that is free");
        let listener = Listener {
            name: "in".into(),
            bind: Bind::Tcp(at),
            protocol,
            cluster: (protocol == Protocol::Raw).then_some(ClusterId(0)),
            http: HttpSpec::default(),
            allow_uids: None,
        };
        let snapshot = Arc::new(Snapshot {
            version: 1,
            listeners: vec![listener],
            routes: Routes::new(vec![Route {
                matching: RouteMatch::default(),
                cluster: ClusterId(0),
                idempotent: None,
                priority: Priority::Default,
            }]),
            clusters: vec![Cluster::new("service", [Address::Tcp(upstream)])],
            ..Snapshot::default()
        });
        let socket = world.listener(&Target::Tcp(at)).expect("an address that is free");
        let worker = worker(&world, &snapshot, &socket);
        Mesh { world, worker, snapshot, socket, service, at, every, turns: 0, replaced: 0, pauses: false, ahead: None }
    }

    fn turn(&mut self) {
        app::turn(&self.world, &mut self.worker);
        self.turns += 1;
        if (self.turns + AHEAD).is_multiple_of(self.every) {
            self.ahead = Some(self.worker.give_ahead().expect("what can be given"));
        }
        if self.turns.is_multiple_of(self.every) && !self.pauses {
            let ahead = self.ahead.take();
            let given = self.worker.give(ahead.as_ref()).expect("the driver works").expect("it comes to rest");
            // Every other time the new one is not well, and the old one goes on.
            if self.turns.is_multiple_of(2 * self.every) {
                self.worker.go_on();
                return;
            }
            let mut next = worker(&self.world, &self.snapshot, &self.socket);
            next.take(given, ahead, Vec::new()).expect("what was given can be taken");
            self.worker = next;
            self.replaced += 1;
        }
    }

    fn turns_until<T>(&mut self, what: &str, mut found: impl FnMut(&Mesh) -> Option<T>) -> T {
        for _ in 0..TURNS_MAX {
            self.turn();
            if let Some(found) = found(self) {
                return found;
            }
        }
        panic!("{what}: not in {TURNS_MAX} turns, replaced every {}", self.every);
    }

    fn connect(&mut self) -> ActorConn {
        let conn = self.world.connect(&Target::Tcp(self.at));
        self.turns_until("a connection", |_| (conn.progress() == Progress::Connected).then_some(()));
        conn
    }

    fn accepted(&mut self) -> ActorConn {
        self.pauses = true;
        let service = self.turns_until("a connection to the service", |mesh| mesh.service.accept());
        // And the worker knows of it.
        (0..20).for_each(|_| self.turn());
        self.pauses = false;
        service
    }

    /// Says all of it, as far as there is room.
    fn say(&mut self, conn: &ActorConn, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[conn.send(rest).expect("an open connection")..];
            self.turn();
        }
    }

    fn hear(&mut self, conn: &ActorConn, expected: &[u8]) {
        let mut heard = Vec::new();
        for _ in 0..TURNS_MAX {
            if heard.len() >= expected.len() {
                break;
            }
            self.turn();
            conn.recv(&mut heard);
        }
        assert_eq!(heard.len(), expected.len(), "replaced every {}: {:?}", self.every, self.worker.inspect());
        assert!(heard == expected, "other bytes, replaced every {}", self.every);
    }

    /// Hears until the bytes end so.
    fn hear_until(&mut self, conn: &ActorConn, end: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        self.turns_until(&format!("{:?}", String::from_utf8_lossy(end)), |_| {
            conn.recv(&mut heard);
            heard.ends_with(end).then_some(())
        });
        heard
    }

    fn is_quiet(&mut self) {
        for _ in 0..50 {
            self.turn();
        }
        let inside = self.worker.inspect();
        assert_eq!((inside.calls, inside.conns_up), (0, 0), "{inside:?}");
        assert!(self.replaced > 0);
    }
}

/// A world in which whoever waits waits a little: others are there who want to do something.
fn world(seed: u32) -> World {
    let world = World::new(seed.into());
    world.set_blocker(Rc::new(|pause: &Pause<'_>| {
        let soon = pause.world.now() + 20_000;
        pause.world.advance_to(pause.until.map_or(soon, |until| until.min(soon)));
    }));
    world
}

fn worker(world: &World, snapshot: &Arc<Snapshot>, socket: &OwnedFd) -> LoneWorker<SimDriver> {
    let driver = SimDriver::new(world, "sidecar", Limits::default()).expect("a pool and an eventfd");
    let parts = Parts {
        snapshot: snapshot.clone(),
        workers: vec![WorkerPart { driver, listeners: vec![Some(socket.try_clone().expect("a descriptor"))] }],
        session_sockets: Vec::new(),
        geometry: Geometry::default(),
    };
    assemble(parts).expect("an engine").workers.remove(0)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(seed * 2 + 1) >> 3) as u8 | 1).collect()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// What comes in chunks of whatever size, without their framing.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a size line");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).expect("text"), 16).expect("a size");
        let data = &bytes[end + 2..];
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&data[..size]);
        bytes = &data[size + 2..];
    }
}

#[test]
fn http_goes_on_in_the_middle_of_bodies() {
    for every in EVERY {
        let mut mesh = Mesh::new(Protocol::Http, every);
        let client = mesh.connect();
        let mut service = None;
        for round in 1..4 {
            let (question, answer) = (noise(round, 90_000), noise(round + 10, 150_000));
            let head = b"PUT /a HTTP/1.1\r\nHost: service\r\nx-request-id: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
            assert_eq!(client.send(head).expect("open"), head.len());
            let service = service.get_or_insert_with(|| mesh.accepted());
            mesh.say(&client, &chunked(&question, 7_001));
            let request = mesh.hear_until(service, b"0\r\n\r\n");
            let body = request.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
            assert!(unchunked(&request[body..]) == question, "round {round}, every {every}");
            mesh.say(
                service,
                format!("HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: {}\r\n\r\n", answer.len()).as_bytes(),
            );
            mesh.say(service, &answer);
            let mut expected =
                format!("HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: {}\r\n", answer.len()).into_bytes();
            expected.make_ascii_lowercase();
            let mut heard = Vec::new();
            mesh.turns_until("the answer", |_| {
                client.recv(&mut heard);
                heard.ends_with(&answer).then_some(())
            });
            assert_eq!(
                heard.len() - answer.len(),
                heard.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4
            );
        }
        mesh.is_quiet();
    }
}

#[test]
fn a_body_that_its_reader_does_not_take_waits() {
    for every in EVERY {
        let mut mesh = Mesh::new(Protocol::Http, every);
        mesh.world.set_tcp(Link { window: (8_000, 8_000), ..Link::tcp() });
        let client = mesh.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n").expect("open");
        let service = mesh.accepted();
        mesh.hear_until(&service, b"\r\n\r\n");
        let answer = noise(5, 1_000_000);
        let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()).into_bytes();
        let mut rest = &[said, answer.clone()].concat()[..];
        // Nobody reads: what is on its way fills up.
        for _ in 0..300 {
            rest = &rest[service.send(rest).expect("open")..];
            mesh.turn();
        }
        assert!(!rest.is_empty(), "all of it found room");
        let mut heard = Vec::new();
        mesh.turns_until("the answer", |_| {
            rest = &rest[service.send(rest).expect("open")..];
            client.recv(&mut heard);
            heard.ends_with(&answer).then_some(())
        });
        mesh.is_quiet();
    }
}

#[test]
fn tunnels_go_on() {
    for every in EVERY {
        for upgraded in [false, true] {
            let mut mesh = Mesh::new(if upgraded { Protocol::Http } else { Protocol::Raw }, every);
            // A raw connection wants its service's at once.
            mesh.pauses = true;
            let client = mesh.connect();
            if upgraded {
                let asked = b"GET / HTTP/1.1\r\nHost: s\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n";
                client.send(asked).expect("open");
            }
            let service = mesh.accepted();
            if upgraded {
                mesh.hear_until(&service, b"\r\n\r\n");
                mesh.say(&service, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n");
                mesh.hear_until(&client, b"\r\n\r\n");
            }
            for round in 1..6 {
                let (to, from) = (noise(round, 40_000), noise(round + 20, 70_000));
                mesh.say(&client, &to);
                mesh.say(&service, &from);
                mesh.hear(&service, &to);
                mesh.hear(&client, &from);
            }
            // Each direction ends on its own.
            client.shutdown();
            mesh.turns_until("the client's end", |_| (service.recv(&mut Vec::new()) == Read::Eof).then_some(()));
            mesh.say(&service, b"last words");
            service.shutdown();
            mesh.hear(&client, b"last words");
            mesh.turns_until("the service's end", |_| (client.recv(&mut Vec::new()) == Read::Eof).then_some(()));
            mesh.is_quiet();
        }
    }
}

/// A connection that is being made stays behind; the call gets another one.
#[test]
fn a_call_that_waits_for_its_connection_gets_another() {
    for every in [20, 33, 50] {
        let mut mesh = Mesh::new(Protocol::Http, every);
        let client = mesh.connect();
        mesh.say(&client, b"POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 2\r\n\r\nhi");
        let mut services = Vec::new();
        let mut heard = Vec::new();
        let service = mesh.turns_until("a request", |mesh| {
            services.extend(mesh.service.accept());
            let asked = services.iter().position(|service: &ActorConn| {
                service.recv(&mut heard);
                heard.ends_with(b"hi")
            })?;
            Some(services.swap_remove(asked))
        });
        mesh.say(&service, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        mesh.hear_until(&client, b"\r\n\r\nok");
        mesh.is_quiet();
    }
}

/// Many calls in flight on one shared connection, frames of all sizes, each cut anywhere.
#[test]
fn dubbo_calls_in_flight_are_answered() {
    for every in EVERY {
        let mut mesh = Mesh::new(Protocol::Dubbo, every);
        let consumers = [mesh.connect(), mesh.connect()];
        let requests: Vec<Vec<u8>> =
            (0..12).map(|id| dubbo_request(id, [3, 500, 40_000, 200_000][id as usize % 4])).collect();
        let mut unsaid: Vec<Vec<u8>> = consumers.iter().map(|_| requests.concat()).collect();
        let mut answers: Vec<Vec<u8>> = vec![Vec::new(); consumers.len()];
        let (mut asked, mut unanswered, mut served) = (Vec::new(), Vec::new(), 0);
        let first = requests[0].len();
        consumers.iter().zip(&mut unsaid).for_each(|(consumer, unsaid)| {
            assert_eq!(consumer.send(&unsaid[..first]).expect("open"), first);
            unsaid.drain(..first);
        });
        let provider = mesh.accepted();
        let expected: usize = requests.iter().map(|request| request.len() + HEADER_LEN).sum();
        mesh.turns_until("all answers", |_| {
            for (consumer, unsaid) in consumers.iter().zip(&mut unsaid) {
                let said = consumer.send(&unsaid[..unsaid.len().min(11_003)]).expect("open");
                unsaid.drain(..said);
            }
            provider.recv_up_to(30_000, &mut asked);
            while let Some((id, len)) = frame(&asked) {
                let body: Vec<u8> = asked.drain(..len).skip(HEADER_LEN).collect();
                unanswered.extend_from_slice(&dubbo_answer(id, &body));
                served += 1;
            }
            let said = provider.send(&unanswered[..unanswered.len().min(9_001)]).expect("open");
            unanswered.drain(..said);
            for (consumer, answers) in consumers.iter().zip(&mut answers) {
                consumer.recv(answers);
            }
            answers.iter().all(|answers| answers.len() >= expected + 12 * EXTRA).then_some(())
        });
        assert_eq!(served, 24, "each ran once");
        for mut answers in answers {
            let mut ids = Vec::new();
            while let Some((id, len)) = frame(&answers) {
                let body: Vec<u8> = answers.drain(..len).skip(HEADER_LEN + EXTRA + HEADER_LEN).collect();
                assert!(body == requests[id as usize][HEADER_LEN..], "the answer of another call");
                ids.push(id);
            }
            ids.sort_unstable();
            assert_eq!(ids, (0..12).collect::<Vec<_>>());
        }
        mesh.is_quiet();
    }
}

/// What an answer here has besides the request's bytes.
const EXTRA: usize = 1;

/// Id and length of the frame in front, if it is whole.
fn frame(bytes: &[u8]) -> Option<(u64, usize)> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let header = FrameHeader::parse(header, u32::MAX).expect("a frame");
    let len = HEADER_LEN + header.body_len as usize;
    (bytes.len() >= len).then_some((header.id, len))
}

fn dubbo_answer(id: u64, asked: &[u8]) -> Vec<u8> {
    // A response with a value (0x91 in Hessian), then what was asked, with a header's length between for good measure.
    let body = [&[0x91][..], &[0; HEADER_LEN], asked].concat();
    let header = FrameHeader {
        request: false,
        two_way: false,
        event: false,
        serialization: serialization::HESSIAN2,
        status: 20,
        id,
        body_len: body.len() as u32,
    };
    [&header.encode()[..], &body].concat()
}

fn dubbo_request(id: u64, len: usize) -> Vec<u8> {
    let argument = vec![b'x'; len];
    let invocation = Invocation {
        path: "com.demo.GreetService",
        version: None,
        group: None,
        method: "tell",
        argument: Some(&argument),
        timeout_ms: None,
        attachments: &[],
    };
    let mut request = Vec::new();
    write_request(&mut request, id, true, serialization::HESSIAN2, &invocation);
    request
}

/// A caller and an app that serves, before a worker that is replaced every so many turns.
struct Pair {
    world: World,
    worker: LoneWorker<SimDriver>,
    caller: App,
    server: App,
    every: u32,
    turns: u32,
    /// What it gave for the next replacement.
    ahead: Option<Ahead>,
}

impl Pair {
    fn new(every: u32) -> Pair {
        let world = world(every);
        let mut worker = lane_worker(&world);
        let caller = App::attach(&mut worker, Geometry::default(), 1, "caller", false);
        let server = App::attach(&mut worker, Geometry::default(), 2, "server", true);
        Pair { world, worker, caller, server, every, turns: 0, ahead: None }
    }

    fn turn(&mut self) {
        app::turn(&self.world, &mut self.worker);
        self.turns += 1;
        if (self.turns + AHEAD).is_multiple_of(self.every) {
            self.ahead = Some(self.worker.give_ahead().expect("what can be given"));
        }
        if self.turns.is_multiple_of(self.every) {
            let ahead = self.ahead.take();
            let given = self.worker.give(ahead.as_ref()).expect("the driver works").expect("it comes to rest");
            let mut next = lane_worker(&self.world);
            let sessions = vec![self.caller.lanes_again(&next), self.server.lanes_again(&next)];
            next.take(given, ahead, sessions).expect("what was given can be taken");
            self.worker = next;
        }
    }
}

fn lane_worker(world: &World) -> LoneWorker<SimDriver> {
    engine_of(world, Arc::new(snapshot(1))).workers.remove(0)
}

/// A message that an app sends in parts, as credit and room allow.
struct Sending {
    first: Header,
    head: Vec<u8>,
    bytes: Vec<u8>,
    sent: usize,
    credit: usize,
}

impl Sending {
    fn go_on(&mut self, app: &mut App) {
        while self.sent < self.bytes.len() {
            let part = (self.bytes.len() - self.sent).min(50_000).min(self.credit - self.head.len());
            if part == 0 {
                return;
            }
            let mut header = if self.sent == 0 {
                self.first
            } else {
                Header::new(Kind::Data, self.first.slot, self.first.generation)
            };
            header.head_len = self.head.len() as u32;
            if self.sent + part == self.bytes.len() {
                header.flags = Flags::END;
            }
            if app.end.put(&header, &[&self.head, &self.bytes[self.sent..self.sent + part]]).is_err() {
                return;
            }
            self.credit -= part + self.head.len();
            self.head.clear();
            self.sent += part;
        }
    }
}

/// What an app takes of a message.
#[derive(Default)]
struct Taking {
    bytes: Vec<u8>,
    ended: bool,
}

/// Takes all records that are there, and gives credit for them; CREDIT is told to `sending`.
fn take_records(app: &mut App, sending: &mut Option<Sending>, taking: &mut Taking) -> Option<Header> {
    let mut opened = None;
    while let Some(header) = app.end.peek().expect("the sidecar keeps to the page") {
        let mut bytes = vec![0; header.length as usize];
        app.end.read_payload(0, &mut bytes).expect("its payload");
        match header.kind {
            Kind::Credit => sending.as_mut().expect("credit for something").credit += header.credit as usize,
            Kind::Open | Kind::Answer | Kind::Data => {
                opened = opened.or((header.kind == Kind::Open).then_some(header));
                taking.bytes.extend_from_slice(&bytes[header.head_len as usize..]);
                taking.ended |= header.flags.end();
                let mut credit = Header::new(Kind::Credit, header.slot, header.generation);
                credit.credit = header.length;
                app.put(&credit, &[]);
            }
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&bytes)),
        }
        app.end.advance();
    }
    opened
}

/// Both bodies are larger than a window, and than what a lane's arena has: they move part by part, from blocks, while workers change.
#[test]
fn calls_over_lanes_go_on_in_the_middle_of_bodies() {
    for every in EVERY {
        let mut pair = Pair::new(every);
        for round in 1..3 {
            let (question, answer) = (noise(round, 700_000), noise(round + 7, 5_000_000));
            let mut first = Header::new(Kind::Open, 0, round);
            first.code = Spoken::Http as u16;
            first.route = INLINE_KEY;
            first.total = question.len() as u64;
            let head = b"PUT / HTTP/1.1\r\nHost: local\r\n\r\n".to_vec();
            let mut asking = Some(Sending { first, head, bytes: question.clone(), sent: 0, credit: 256 << 10 });
            let (mut answering, mut asked, mut answered) = (None, Taking::default(), Taking::default());
            for _ in 0..TURNS_MAX {
                if let Some(asking) = &mut asking {
                    asking.go_on(&mut pair.caller);
                }
                take_records(&mut pair.caller, &mut asking, &mut answered);
                if let Some(open) = take_records(&mut pair.server, &mut answering, &mut asked) {
                    let mut first = Header::new(Kind::Answer, open.slot, open.generation);
                    first.code = 200;
                    first.total = TOTAL_UNKNOWN;
                    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
                    answering = Some(Sending { first, head, bytes: answer.clone(), sent: 0, credit: 256 << 10 });
                }
                if let Some(answering) = &mut answering {
                    answering.go_on(&mut pair.server);
                }
                pair.caller.publish();
                pair.server.publish();
                if answered.ended && asked.ended {
                    break;
                }
                pair.turn();
            }
            assert!(asked.bytes == question, "round {round}, every {every}: {} bytes came", asked.bytes.len());
            assert!(answered.bytes == answer, "round {round}, every {every}: {} bytes came", answered.bytes.len());
        }
        for _ in 0..100 {
            pair.turn();
        }
        let inside = pair.worker.inspect();
        assert_eq!(
            (inside.calls, inside.slots_used, inside.slots_lost, inside.blocks_lent),
            (0, 0, 0, 0),
            "{inside:?}"
        );
        assert_eq!((pair.caller.end.lent_blocks(), pair.server.end.lent_blocks()), (0, 0));
    }
}

/// What cannot be read is refused, and the worker that gave it goes on.
#[test]
fn a_state_that_is_not_understood_is_refused() {
    let mut mesh = Mesh::new(Protocol::Http, u32::MAX);
    let client = mesh.connect();
    mesh.say(&client, b"GET / HTTP/1.1\r\nHost: service\r\n\r\n");
    let service = mesh.accepted();
    let given = mesh.worker.give(None).expect("the driver works").expect("it comes to rest");
    let with = |state: Vec<u8>, sockets: usize| Handover {
        state,
        descriptors: given.descriptors[..sockets].iter().map(|fd| fd.try_clone().expect("a descriptor")).collect(),
    };
    let refusal = |handover: Handover| {
        let world = World::new(1);
        let socket = world.listener(&Target::Tcp(mesh.at)).expect("an address that is free");
        let sessions: Vec<NewLanes> = Vec::new();
        worker(&world, &mesh.snapshot, &socket).take(handover, None, sessions).expect_err("refused")
    };
    assert!(matches!(refusal(with(vec![0xff; 9], 0)), Refusal::Garbled(_)));
    assert!(matches!(refusal(with(Vec::new(), 0)), Refusal::Format { theirs: 0 }));
    let mut newer = given.state.clone();
    // Field 1 comes first: the format.
    assert_eq!(newer[..2], [8, 1]);
    newer[1] = 99;
    assert!(matches!(refusal(with(newer, given.descriptors.len())), Refusal::Format { theirs: 99 }));
    assert!(matches!(refusal(with(given.state.clone(), 1)), Refusal::Inconsistent(_) | Refusal::Io(_)));
    mesh.worker.go_on();
    mesh.hear_until(&service, b"\r\n\r\n");
    mesh.say(&service, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    mesh.hear_until(&client, b"\r\n\r\nok");
}
