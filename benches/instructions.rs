//! One worker on the `sim` driver between two apps, 64 calls in flight, each one record there and one back: what
//! `benches/instructions.sh` counts the instructions of. Every payload is written, read and checked.
//!
//! `cargo bench -p shmesh-engine --bench instructions -- ROUNDS` runs it natively.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use shmesh_engine::embed::{LoneWorker, NewLane, NewLanes, Parts, WorkerPart, assemble};
use shmesh_io::sim::{SimDriver, World};
use shmesh_io::{Limits, Nanos};
use shmesh_policy::{Address, Bind, Cluster, ClusterId, Listener, Protocol, Route, RouteMatch, Routes, Snapshot};
use shmesh_shm::{
    Dirty, Flags, Geometry, Header, Kind, LaneEnd, Mapping, Protocol as Spoken, Side, TOTAL_UNKNOWN, doorbell, segment,
};

const IN_FLIGHT: u32 = 64;
const PAYLOAD: usize = 64;
const KEY: &[u8] = b"PUT /echo HTTP/1.1\r\nHost: local\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: echo\r\n\r\n";
/// Turns until a parked worker has looked at its bells.
const TURNS_MAX: u32 = 1_000;
/// Of virtual time, between turns.
const TURN: Nanos = 1_000;

fn main() {
    // Cargo passes `--bench`.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10_000u64);
    let world = World::new(1);
    let mut worker = worker(&world);
    let mut caller = App::attach(&mut worker, 1, "caller", false);
    let mut server = App::attach(&mut worker, 2, "server", true);

    let mut define = Header::new(Kind::Define, 0, 0);
    define.code = Spoken::Http as u16;
    caller.put(&define, &[KEY]);
    caller.publish();
    while caller.end.unconsumed() > 0 {
        turn(&world, &mut worker);
    }
    let mut calls = 0;
    for round in 0..rounds {
        for slot in 0..IN_FLIGHT {
            let mut open = Header::new(Kind::Open, slot, round + 1);
            open.code = Spoken::Http as u16;
            open.flags = Flags::END;
            caller.put(&open, &[&payload(round, slot)]);
        }
        caller.publish();
        turn_until(&world, &mut worker, &server);

        let mut taken = Vec::new();
        while let Some(open) = server.end.peek().expect("the worker keeps to the page") {
            assert_eq!((open.kind, open.flags.end()), (Kind::Open, true), "one record a call");
            let mut body = [0; PAYLOAD];
            assert_eq!(open.length as usize, open.head_len as usize + PAYLOAD);
            server.end.read_payload(open.head_len, &mut body).expect("inside of the payload");
            server.end.advance();
            taken.push((open.slot, open.generation, body));
        }
        for (slot, generation, body) in &taken {
            let mut answer = Header::new(Kind::Answer, *slot, *generation);
            answer.flags = Flags::END;
            answer.code = 200;
            answer.head_len = ANSWER.len() as u32;
            answer.total = TOTAL_UNKNOWN;
            server.put(&answer, &[ANSWER, body]);
        }
        server.publish();
        turn_until(&world, &mut worker, &caller);

        for _ in 0..IN_FLIGHT {
            let answer = caller.end.peek().expect("the worker keeps to the page").expect("all answers in one turn");
            let mut body = [0; PAYLOAD];
            assert_eq!((answer.kind, answer.code, answer.generation), (Kind::Answer, 200, round + 1));
            assert_eq!(answer.length as usize, answer.head_len as usize + PAYLOAD);
            caller.end.read_payload(answer.head_len, &mut body).expect("inside of the payload");
            caller.end.advance();
            assert_eq!(body, payload(round, answer.slot), "an answer of another call");
            calls += 1;
        }
    }
    println!("{calls} calls");
}

/// What a call carries; its answer must say the same.
fn payload(round: u64, slot: u32) -> [u8; PAYLOAD] {
    let seed = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(slot);
    let mut bytes = [0; PAYLOAD];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&seed.rotate_left(i as u32 * 7).to_le_bytes());
    }
    bytes
}

fn turn(world: &World, worker: &mut LoneWorker<SimDriver>) {
    world.advance_to(world.now() + TURN);
    assert!(worker.turn().expect("the driver works"), "nobody told it to stop");
}

/// Turns until there is something for the app: one, once the worker is awake.
fn turn_until(world: &World, worker: &mut LoneWorker<SimDriver>, app: &App) {
    for _ in 0..TURNS_MAX {
        turn(world, worker);
        if app.end.has_work() {
            return;
        }
    }
    panic!("nothing came in {TURNS_MAX} turns");
}

fn worker(world: &World) -> LoneWorker<SimDriver> {
    let to_host =
        Route { matching: RouteMatch { host: Some("local".into()), ..RouteMatch::default() }, cluster: ClusterId(0) };
    let apps = Listener {
        name: "apps".into(),
        bind: Bind::Shm("apps.sock".into()),
        protocol: Protocol::Raw,
        cluster: None,
        allow_uids: None,
    };
    let snapshot = Snapshot {
        version: 1,
        listeners: vec![apps],
        routes: Routes::new(vec![to_host]),
        clusters: vec![Cluster::new("local", [Address::Shm("server".into())])],
        ..Snapshot::default()
    };
    let driver = SimDriver::new(world, "sidecar", Limits::default()).expect("a pool and an eventfd");
    let parts = Parts {
        snapshot: Arc::new(snapshot),
        workers: vec![WorkerPart { driver, listeners: vec![None] }],
        session_sockets: Vec::new(),
        geometry: Geometry::default(),
    };
    let mut embedded = assemble(parts).expect("an engine");
    embedded.workers.remove(0)
}

/// The app's side of a session of one lane.
struct App {
    end: LaneEnd,
    dirty: Dirty,
    worker: OwnedFd,
    _bell: OwnedFd,
}

impl App {
    fn attach(worker: &mut LoneWorker<SimDriver>, session: u64, name: &str, serving: bool) -> App {
        let geometry = Geometry::default();
        let bytes = geometry.segment_bytes(1);
        let segment = |name: &str| segment::create(name, bytes).expect("a memfd");
        let (to_proxy, to_app) = (segment("to_proxy"), segment("to_app"));
        let write = |memfd: &OwnedFd| Arc::new(Mapping::read_write(memfd, bytes).expect("mapped"));
        let read = |memfd: &OwnedFd| Arc::new(Mapping::read_only(memfd, bytes).expect("mapped"));
        let bell = doorbell::worker_bell().expect("an eventfd");
        let (theirs, ours) = doorbell::lane_bell().expect("a socket pair");
        let usage = worker.admit(0, 1, 2 * bytes as u64).expect("within the quotas");
        worker.attach(NewLanes {
            usage,
            session,
            app: name.into(),
            listener: 0,
            worker: 0,
            to_proxy: read(&to_proxy),
            to_app: write(&to_app),
            geometry,
            bell: bell.try_clone().expect("a descriptor"),
            lanes: vec![NewLane { lane: 0, bit: 0, serving, bell: theirs }],
        });
        let (to_proxy, to_app) = (write(&to_proxy), read(&to_app));
        let end = LaneEnd::new(Side::App, &to_proxy, &to_app, &geometry, 0);
        App { end, dirty: Dirty::new(&to_proxy, &to_app), worker: bell, _bell: ours }
    }

    fn put(&mut self, header: &Header, parts: &[&[u8]]) {
        self.end.put(header, parts).expect("room for all calls in flight");
    }

    fn publish(&mut self) {
        if self.end.publish() {
            self.dirty.mark(0, 0);
            doorbell::ring_worker(&self.worker).expect("an eventfd");
        }
    }
}
