//! One worker on the `sim` driver, and apps that are attached to it by hand; all of it on one thread. For tests, and for
//! `benches/instructions.rs`. None of them needs all of it.
#![allow(dead_code)]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use shmesh_engine::embed::{Embedded, LoneWorker, NewLane, NewLanes, Parts, WorkerPart, assemble};
use shmesh_io::sim::{SimDriver, World};
use shmesh_io::{Limits, Nanos};
use shmesh_policy::{
    Address, Bind, Cluster, ClusterId, HttpSpec, Listener, Protocol, Route, RouteMatch, Routes, Snapshot,
};
use shmesh_shm::{Dirty, Geometry, Header, LaneEnd, Mapping, Side, doorbell, segment};

/// Turns until a parked worker has looked at its bells.
const TURNS_MAX: u32 = 1_000;
/// Of virtual time, between turns.
const TURN: Nanos = 1_000;

pub fn turn(world: &World, worker: &mut LoneWorker<SimDriver>) {
    world.advance_to(world.now() + TURN);
    assert!(worker.turn().expect("the driver works"), "nobody told it to stop");
}

/// Turns until there is something for the app: one, once the worker is awake.
pub fn turn_until(world: &World, worker: &mut LoneWorker<SimDriver>, app: &App) {
    for _ in 0..TURNS_MAX {
        turn(world, worker);
        if app.end.has_work() {
            return;
        }
    }
    panic!("nothing came in {TURNS_MAX} turns");
}

/// An engine of one worker, whose calls go to the app `server` when their host is `local`.
pub fn engine(world: &World) -> Embedded<SimDriver> {
    engine_of(world, Arc::new(snapshot(1)))
}

/// An engine of one worker.
pub fn engine_of(world: &World, snapshot: Arc<Snapshot>) -> Embedded<SimDriver> {
    let driver = SimDriver::new(world, "sidecar", Limits::default()).expect("a pool and an eventfd");
    let parts = Parts {
        snapshot,
        workers: vec![WorkerPart { driver, listeners: vec![None] }],
        session_sockets: Vec::new(),
        geometry: Geometry::default(),
    };
    assemble(parts).expect("an engine")
}

/// Its configuration.
pub fn snapshot(version: u64) -> Snapshot {
    let to_host =
        Route { matching: RouteMatch { host: Some("local".into()), ..RouteMatch::default() }, cluster: ClusterId(0) };
    let apps = Listener {
        name: "apps".into(),
        bind: Bind::Shm("apps.sock".into()),
        protocol: Protocol::Raw,
        cluster: None,
        http: HttpSpec::default(),
        allow_uids: None,
    };
    Snapshot {
        version,
        listeners: vec![apps],
        routes: Routes::new(vec![to_host]),
        clusters: vec![Cluster::new("local", [Address::Shm("server".into())])],
        ..Snapshot::default()
    }
}

/// The app's side of a session of one lane.
pub struct App {
    pub end: LaneEnd,
    dirty: Dirty,
    worker: OwnedFd,
    _bell: OwnedFd,
}

impl App {
    pub fn attach(
        worker: &mut LoneWorker<SimDriver>,
        geometry: Geometry,
        session: u64,
        name: &str,
        serving: bool,
    ) -> App {
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

    pub fn put(&mut self, header: &Header, parts: &[&[u8]]) {
        self.end.put(header, parts).expect("room for all calls in flight");
    }

    pub fn publish(&mut self) {
        if self.end.publish() {
            self.dirty.mark(0, 0);
            doorbell::ring_worker(&self.worker).expect("an eventfd");
        }
    }
}
