//! One worker on the `sim` driver, and apps that are attached to it by hand; all of it on one thread. For tests, and for
//! `benches/instructions.rs`. None of them needs all of it.
#![allow(dead_code)]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use shmesh_engine::embed::{Embedded, LoneWorker, NewLane, NewLanes, Parts, WorkerPart, assemble};
use shmesh_io::sim::{SimDriver, World};
use shmesh_io::{Limits, Nanos};
use shmesh_policy::{
    Address, Bind, Cluster, ClusterId, HttpSpec, Listener, Priority, Protocol, Route, RouteMatch, Routes, Snapshot,
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
    let to_host = Route {
        matching: RouteMatch { host: Some("local".into()), ..RouteMatch::default() },
        cluster: ClusterId(0),
        idempotent: None,
        priority: Priority::Default,
    };
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
    /// What the sidecar has of it.
    to_proxy: Arc<Mapping>,
    to_app: Arc<Mapping>,
    session: u64,
    name: String,
    serving: bool,
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
        let (mine, not_mine) = (write(&to_proxy), read(&to_app));
        let app = App {
            end: LaneEnd::new(Side::App, &mine, &not_mine, &geometry, 0),
            dirty: Dirty::new(&mine, &not_mine),
            worker: bell,
            _bell: ours,
            to_proxy: read(&to_proxy),
            to_app: write(&to_app),
            session,
            name: name.into(),
            serving,
        };
        let lanes = app.lanes(worker, theirs);
        worker.attach(lanes);
        app
    }

    /// Its lane, for another worker that goes on with it.
    pub fn lanes_again(&self, worker: &LoneWorker<SimDriver>) -> NewLanes {
        self.lanes(worker, self.worker.try_clone().expect("a descriptor"))
    }

    fn lanes(&self, worker: &LoneWorker<SimDriver>, bell: OwnedFd) -> NewLanes {
        let geometry = *self.end.geometry();
        let bytes = 2 * geometry.segment_bytes(1) as u64;
        NewLanes {
            usage: worker.admit(0, 1, bytes).expect("within the quotas"),
            session: self.session,
            app: self.name.as_str().into(),
            listener: 0,
            worker: 0,
            to_proxy: self.to_proxy.clone(),
            to_app: self.to_app.clone(),
            geometry,
            bell: self.worker.try_clone().expect("a descriptor"),
            lanes: vec![NewLane { lane: 0, bit: 0, serving: self.serving, bell: Some(bell) }],
        }
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
